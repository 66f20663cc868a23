//! Compares the written policy and value model with the trained ones, on responses.

use align_kernels::HOST;
use std::borrow::Cow;
use std::path::Path;

use align_core::error::Result;
use align_core::progress::Progress;
use align_model::{ScalarReader, WrittenLm, WrittenScalar, divergence, dtype_name};
use align_train::stage::{CompareWritten, Comparison, Trainer as _, written};
use serde_json::json;
use tch::{Kind, Tensor};

use crate::evaluation::respond;
use crate::rollout::{Layout, Rollout};
use crate::session::Session;
use crate::train::Trainer;

/// Number of response tokens on which the models are compared, in each set.
const COMPARED_TOKENS: usize = 2048;
/// Without a held-out set: the number of training prompts to compare on.
const PROMPTS: usize = 16;

impl CompareWritten for Session {
    /// The KL over the whole vocabulary and the difference of the values, on the responses of the policy to
    /// the first prompts of every held-out set, or to the first training prompts if there is none.
    fn compare_written(&mut self, checkpoint: &Path, progress: &mut dyn Progress) -> Result<Comparison> {
        compare(self, checkpoint, progress)
    }
}

fn compare(session: &Session, checkpoint: &Path, progress: &mut dyn Progress) -> Result<Comparison> {
    let (trainer, compute) = (&session.trainer, session.compute());
    let folders = ["model", "value"].map(|name| checkpoint.join(name));
    let policy = match written::differs(&folders[0], compute)? {
        true => Some(WrittenLm::open(&folders[0], trainer.models.policy.device())?),
        false => None,
    };
    let value_model = match written::differs(&folders[1], compute)? {
        true => Some(WrittenScalar::open(&folders[1], trainer.models.value_model.device())?),
        false => None,
    };
    let mut found = Comparison::default();
    for (name, rollout) in responses(session)? {
        let rows = first_rows(&rollout);
        let microbatches = rollout.split_into_microbatches(&rows, trainer.config.ppo.microbatch_tokens);
        progress.begin("comparing", rows.len() as u64);
        let (mut kl, mut differences) = (0.0, Vec::new());
        for rows in &microbatches {
            let layout = rollout.layout(rows, trainer.models.policy.device());
            if let Some(policy) = &policy {
                kl += divergence(&trainer.models.policy, policy, &layout.flat, &layout.predict_indices);
            }
            if let Some(value_model) = &value_model {
                differences.extend(value_differences(trainer, value_model, &layout));
            }
            progress.advance(rows.len() as u64, "");
        }
        progress.end();
        let tokens = rollout.num_tokens(&rows);
        let (mut parts, mut set) = (Vec::new(), json!({ "set": name, "responses": rows.len(), "tokens": tokens }));
        if policy.is_some() {
            let kl = kl / tokens as f64;
            parts.push(format!("KL(trained ‖ written) of the policy {kl:.1e} nats per token"));
            set["kl"] = json!(kl);
        }
        if value_model.is_some() {
            let mean = |of: &dyn Fn(f64) -> f64| differences.iter().map(|x| of(*x)).sum::<f64>() / tokens as f64;
            let (rms, mean) = (mean(&|x| x * x).sqrt(), mean(&|x| x));
            parts.push(format!("values differ by {rms:.1e} rms (mean {mean:+.1e})"));
            set["value_difference_rms"] = json!(rms);
            set["value_difference_mean"] = json!(mean);
        }
        found.lines.push(format!(
            "{name}: {}, over {tokens} tokens of {} responses (trained model in {}, written model in float32)",
            parts.join("; "),
            rows.len(),
            dtype_name(compute),
        ));
        found.sets.push(set);
    }
    Ok(found)
}

/// The responses of the current policy to each set.
fn responses(session: &Session) -> Result<Vec<(String, Cow<'_, Rollout>)>> {
    let trainer = &session.trainer;
    let mut found = Vec::new();
    for set in &session.evaluation.sets {
        let rollout = match &set.latest {
            Some(rollout) => Cow::Borrowed(rollout),
            None => Cow::Owned(respond(trainer, &trainer.models.policy, &set.prompts)?),
        };
        found.push((set.name.clone(), rollout));
    }
    if found.is_empty() {
        let prompts: Vec<Vec<i64>> = trainer.prompts.iter().take(PROMPTS).cloned().collect();
        let name = format!("the first {} training prompts", prompts.len());
        found.push((name, Cow::Owned(respond(trainer, &trainer.models.policy, &prompts)?)));
    }
    Ok(found)
}

/// The first rows with at least [`COMPARED_TOKENS`] tokens in total, or all rows.
fn first_rows(rollout: &Rollout) -> Vec<usize> {
    let mut tokens = 0;
    let within = |row: &usize| {
        let is_within = tokens < COMPARED_TOKENS;
        tokens += rollout.responses[*row].tokens.len();
        is_within
    };
    (0..rollout.responses.len()).take_while(within).collect()
}

/// The differences written − trained of the values before every response token.
fn value_differences(trainer: &Trainer, written: &WrittenScalar, layout: &Layout) -> Vec<f64> {
    let value_model = &trainer.models.value_model;
    let values = |values: Tensor| values.to_device(HOST).to_kind(Kind::Double);
    let trained = values(value_model.scalars_at(&layout.flat, &layout.predict_indices.to_device(value_model.device())));
    let read = values(written.scalars_at(&layout.flat, &layout.predict_indices.to_device(written.device())));
    Vec::try_from(read - trained).expect("a flat f64 tensor")
}
