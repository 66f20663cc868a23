//! The training loop of sft and pretraining: batch → loss → update → metrics → maybe save.

use align_kernels::kind_of;
use align_model::Writing;
use std::ops::{ControlFlow, Range};
use std::time::Instant;

use align_core::error::{Result, finite};
use align_core::random::{self, Purpose};
use align_model::generate::{Sampling, generate};
use align_model::{CausalLm, Dropout, Face};
use align_run::checkpoint::{Snapshot, State};
use align_run::metrics::Metrics;
use align_run::metrics::markdown::prompt_and_response;
use align_run::run::Run;
use align_text::tokenizer::Tokenizer;
use align_tokens::LmRow;
use align_train::lm;
use align_train::optim::{AdamW, clip_scale};
use align_train::schedule::lr;
use align_train::stage;
use serde_json::{Map, json};
use tch::Kind;

use crate::config::Sections;
use crate::data::Rows;

/// Trains a language model on rows.
pub struct Trainer {
    pub(crate) sections: Sections,
    pub(crate) rows: Rows,
    tokenizer: Tokenizer,
    pub(crate) model: CausalLm,
    pub(crate) optimizer: AdamW,
    /// Metrics on held-out rows, if evaluated since the last step.
    held_out: Option<Metrics>,
}

/// Number of held-out rows that are continued at each evaluation.
const SAMPLES: usize = 4;
/// Maximum tokens of a continuation.
const SAMPLE_TOKENS: usize = 64;

impl Trainer {
    /// A trainer with zero moments.
    pub fn new(sections: Sections, rows: Rows, tokenizer: Tokenizer, model: CausalLm) -> Self {
        let named = model.parameters().iter().map(|parameter| (parameter.name.as_str(), &parameter.tensor));
        let optimizer = AdamW::new(named, &sections.optimizer);
        Self { sections, rows, tokenizer, optimizer, model, held_out: None }
    }

    /// The loss of a held-out set, if evaluated since the last step.
    pub(crate) fn held_out_loss(&self, set: &str) -> Option<f64> {
        self.held_out.as_ref()?.get(&format!("eval/{set}/loss"))
    }

    /// Loss, perplexity and token accuracy of every held-out file.
    fn evaluate_sets(&self) -> Metrics {
        let mut metrics = Metrics::new();
        for set in &self.rows.eval {
            let stats =
                lm::evaluate(&self.model, set.rows.iter(), self.sections.train.microbatch_tokens, &mut |_, _, _| {});
            metrics.set(format!("eval/{}/loss", set.name), stats.loss());
            metrics.set(format!("eval/{}/perplexity", set.name), stats.perplexity());
            metrics.set(format!("eval/{}/token_accuracy", set.name), stats.token_accuracy());
        }
        metrics
    }

    /// Greedy continuations of the first held-out rows, each cut before its last answer.
    fn sample(&self, run: &mut Run, done: u64) -> Result<()> {
        let special = self.tokenizer.special();
        let sampling = Sampling {
            temperature: 0.0,
            top_p: 1.0,
            max_tokens: SAMPLE_TOKENS,
            stop_ids: vec![special.im_end, special.endoftext],
            vocab: self.tokenizer.vocab_size(),
            record_nucleus: false,
        };
        for set in &self.rows.eval {
            let prompts: Vec<Vec<i64>> =
                set.rows.iter().take(SAMPLES).filter_map(|row| before_last_answer(&row)).collect();
            let responses = generate(&self.model, &prompts, 1, &sampling, SAMPLES, &|_, _, _| 0.0, &mut |_, _, _| {
                ControlFlow::Continue(())
            })?;
            for (index, (prompt, response)) in prompts.iter().zip(&responses).enumerate() {
                let (prompt, response) = (self.tokenizer.decode(prompt), self.tokenizer.decode(&response[0].tokens));
                run.text(done, &format!("samples/{}/{index}", set.name), &prompt_and_response(&prompt, &response))?;
                let mut sample = Map::new();
                sample.insert("set".to_owned(), json!(set.name));
                sample.insert("prompt".to_owned(), json!(prompt));
                sample.insert("response".to_owned(), json!(response));
                run.sample(done, &sample)?;
            }
        }
        Ok(())
    }

    pub(crate) fn batch(&self, step: u64) -> Vec<LmRow> {
        self.rows.batch(step).collect()
    }

    /// The microbatches of a batch, each with its dropout.
    pub(crate) fn microbatches(&self, step: u64, batch: &[LmRow]) -> Vec<(Range<usize>, Option<Dropout>)> {
        let train = &self.sections.train;
        let lengths: Vec<usize> = batch.iter().map(LmRow::len).collect();
        let with_dropout = |(index, range): (usize, Range<usize>)| {
            let key = random::key(train.seed, Purpose::Dropout, step, index as u64);
            (range, (train.dropout > 0.0).then_some(Dropout { p: train.dropout, key }))
        };
        align_kernels::batch::microbatches(&lengths, train.microbatch_tokens)
            .into_iter()
            .enumerate()
            .map(with_dropout)
            .collect()
    }
}

impl stage::Trainer for Trainer {
    /// One optimizer step on the step's rows.
    fn step(&mut self, step: u64) -> Result<Metrics> {
        let started = Instant::now();
        self.held_out = None;
        let train = &self.sections.train;
        let batch: Vec<LmRow> = self.batch(step);
        let loss_tokens: usize = batch.iter().map(LmRow::num_loss_tokens).sum();

        // Σ over all loss tokens of the batch / their number, independent of the microbatches.
        let mut loss = 0.0;
        for (range, dropout) in self.microbatches(step, &batch) {
            loss += lm::backward(&self.model, &batch[range], dropout, 1.0 / loss_tokens as f64) / loss_tokens as f64;
        }
        let grad_norm = self.optimizer.grad_norm();
        finite("train/loss", loss)?;
        finite("train/grad_norm", grad_norm)?;
        let lr = lr(self.sections.optimizer.lr, &self.sections.schedule, step, self.rows.batches.steps());
        self.optimizer.step(lr, clip_scale(grad_norm, train.grad_clip));

        let tokens = batch.iter().map(LmRow::len).sum::<usize>() as f64;
        let mut metrics = Metrics::new();
        metrics.set("train/loss", loss);
        metrics.set("train/grad_norm", grad_norm);
        metrics.set("train/lr", lr);
        metrics.set("train/loss_tokens", loss_tokens as f64);
        metrics.set("train/tokens", tokens);
        metrics.set("train/loss_token_share", loss_tokens as f64 / tokens);
        metrics.set("train/tokens_per_second", tokens / started.elapsed().as_secs_f64());
        Ok(metrics)
    }

    fn evaluate(&mut self, run: &mut Run, done: u64) -> Result<Metrics> {
        self.sample(run, done)?;
        let metrics = self.evaluate_sets();
        self.held_out = Some(metrics.clone());
        Ok(metrics)
    }

    fn note(&self, metrics: &Metrics) -> String {
        format!("loss {:.4}", metrics.get("train/loss").unwrap_or(f64::NAN))
    }

    fn snapshot(&self) -> Snapshot {
        let mut state = State::new();
        self.optimizer.save("model", &mut state);
        Snapshot {
            models: Box::new(vec![(
                "model",
                self.model.saved(Writing::of(self.sections.run.result_dtype, Face::CausalLm, self.sections.train.seed)),
            )]),
            state,
        }
    }

    fn compute(&self) -> Kind {
        kind_of(self.sections.model.dtype)
    }

    fn load(&mut self, state: &State) -> Result<()> {
        self.optimizer.load("model", state)
    }
}

/// The tokens of a row before its last run of targets: for a dialogue, everything before the last answer.
fn before_last_answer(row: &LmRow) -> Option<Vec<i64>> {
    let piece = row.pieces.last()?;
    let last = piece.loss_mask.iter().rposition(|counts| *counts)?;
    let start = piece.loss_mask[..last].iter().rposition(|counts| !*counts)? + 1;
    Some(piece.tokens[..start.min(piece.tokens.len())].to_vec()).filter(|prompt| !prompt.is_empty())
}
