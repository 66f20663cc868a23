//! The replay of a recorded step of ppo.

use align_core::error::Result;
use align_kernels::batch::FlatBatch;
use align_model::{CausalLm, Over, ScalarModel};
use align_run::run::{Failure, Recorded};
use align_train::stage::{NanReport, Replay, Section, TensorStats, Trainer as _, gradients, merge};
use tch::Tensor;

use crate::record::Record;
use crate::session::Session;
use crate::train::Trainer;

impl Replay for Session {
    /// Repeats the step. If it failed after an update, repeats the optimizer step that failed, on the
    /// recorded responses: the policy that sampled them is gone.
    fn replay(&mut self, recorded: &Recorded) -> Result<NanReport> {
        examine(self, recorded)
    }
}

fn examine(session: &mut Session, recorded: &Recorded) -> Result<NanReport> {
    let step = recorded.done - 1;
    let record = (!recorded.worked_on.is_null()).then(|| Record::from_json(&recorded.worked_on)).transpose()?;
    let later_update = record.filter(|record| record.minibatches.len() > 1);
    let models = &session.trainer.models;
    let mut found = NanReport::default();
    found.set_largest_weights([
        ("policy: ", models.policy.parameters()),
        ("reference: ", models.ref_policy.parameters()),
        ("reward model: ", models.reward_model.parameters()),
        ("value model: ", models.value_model.parameters()),
    ]);
    found.failure = Failure::of_step(match later_update {
        Some(record) => session.trainer.repeat_update(record),
        None => session.step(step).map(drop),
    })?;
    let trainer = &session.trainer;
    found.sections = sections(trainer, step);
    if found.failure.is_some() {
        found.sections[0].gradients = gradients(trainer.models.policy.parameters());
        found.sections[3].gradients = gradients(trainer.models.value_model.parameters());
    }
    if let Some(record) = &trainer.record {
        let trajectory = &*record.trajectory;
        let flat = |name: &str, table| TensorStats::of_slice(name, &trajectory.flat(table, &trajectory.rollout.rows()));
        found.tensors = vec![
            TensorStats::of_slice("scores", &trajectory.scores),
            TensorStats::of_slice("scores, shaped", &trajectory.normalized_scores),
            flat("old log-probabilities", &trajectory.stats.old_logprobs),
            flat("reference's log-probabilities", &trajectory.stats.ref_logprobs),
            flat("values", &trajectory.stats.values),
            flat("rewards", &trajectory.rewards),
            flat("advantages", &trajectory.advantages),
            flat("returns", &trajectory.returns),
        ];
    }
    Ok(found)
}

/// Traces every model on the responses of the step, or on its prompts if sampling failed.
fn sections(trainer: &Trainer, step: u64) -> Vec<Section> {
    let (models, tokens) = (&trainer.models, trainer.config.ppo.microbatch_tokens);
    let named = |name: &str| Section { name: name.to_owned(), ..Section::default() };
    let [mut policy, mut reference, mut reward, mut value] =
        ["policy", "reference", "reward model", "value model"].map(named);
    let Some(record) = &trainer.record else {
        for row in trainer.prompt_rows(step) {
            let mut flat = FlatBatch::new();
            flat.push(&trainer.prompts[row], None);
            let last = Tensor::from_slice(&[flat.len() as i64 - 1]);
            for (section, model) in [(&mut policy, &models.policy), (&mut reference, &models.ref_policy)] {
                trace_logits(section, model, &flat, &last);
            }
        }
        return vec![policy, reference, reward, value];
    };
    let rollout = &record.trajectory.rollout;
    for rows in rollout.split_into_microbatches(&rollout.rows(), tokens) {
        let layout = rollout.layout(&rows, models.policy.device());
        for (section, model) in [(&mut policy, &models.policy), (&mut reference, &models.ref_policy)] {
            trace_logits(section, model, &layout.flat, &layout.predict_indices);
        }
        let (flat, ends) =
            rollout.reward_model_batch(&rows, trainer.end_id, &trainer.reading, models.reward_model.device());
        trace_scalars(&mut reward, &models.reward_model, &flat, &ends);
        trace_scalars(&mut value, &models.value_model, &layout.flat, &layout.predict_indices);
    }
    vec![policy, reference, reward, value]
}

fn trace_logits(section: &mut Section, model: &CausalLm, flat: &FlatBatch, indices: &Tensor) {
    let mut traced = Vec::new();
    let mut record = |name, tensor: &Tensor| traced.push(TensorStats::of(name, tensor));
    let hidden = model.trace(flat, None, &mut record).index_select(0, &indices.to_device(model.device()));
    // Any token serves: one NaN logit makes every log-probability NaN.
    let targets = Tensor::zeros([hidden.size()[0]], (tch::Kind::Int64, model.device()));
    record("log-probability of token 0".to_owned(), &model.logprobs(&hidden, &targets, &Over::full()).logprobs);
    merge(&mut section.activations, traced);
    section.tokens += flat.len();
}

fn trace_scalars(section: &mut Section, model: &ScalarModel, flat: &FlatBatch, indices: &Tensor) {
    let mut traced = Vec::new();
    let mut record = |name, tensor: &Tensor| traced.push(TensorStats::of(name, tensor));
    let hidden = model.trace(flat, None, &mut record).index_select(0, &indices.to_device(model.device()));
    record("scalars".to_owned(), &tch::no_grad(|| model.scalars(&hidden)));
    merge(&mut section.activations, traced);
    section.tokens += flat.len();
}
