//! The pieces of a PPO step that the doctor examines, and the models to compare them with.

use align_core::error::Result;
use align_model::generate::{Response, Sampling};
use align_run::metrics::Metrics;
use align_text::chatml::{ChatFormat, Dialogue};
use align_train::stage::doctor::to_host;

use crate::models::Models;
use crate::rollout::Rollout;
use crate::train::Trainer;
use crate::trajectory::RolloutStats;

/// The pieces of a step, as a run uses them.
pub(super) trait Subject {
    /// Token ids of the prompt of a dialogue.
    fn prompt(&self, dialogue: &Dialogue) -> Vec<i64>;

    /// Hashes of the policy's and of the reward model's tokenizer.
    fn tokenizers(&self) -> [String; 2];

    /// Responses of at most `max_tokens` to prompts, prompt by prompt; `draws(prompt, sample, position)` is
    /// uniform in [0, 1).
    ///
    /// # Errors
    /// When the policy's logits are non-finite.
    fn respond(
        &self,
        prompts: &[Vec<i64>],
        samples: usize,
        max_tokens: usize,
        draws: &dyn Fn(usize, usize, usize) -> f64,
    ) -> Result<Vec<Response>>;

    /// (B) raw scores.
    fn score(&self, rollout: &Rollout) -> Vec<f64>;

    /// The evaluation of every response token by policy, reference and value model.
    fn evaluate(&self, rollout: &Rollout) -> RolloutStats;

    /// Normalises the first rollout's scores, and shifts a new value model accordingly.
    fn shift_value_model(&mut self, scores: &[f64], ended: &[bool]);

    /// (B) values at the responses' end tokens.
    fn end_values(&self, rollout: &Rollout) -> Vec<f64>;

    /// A whole step that trains policy and value model, with its metrics.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    fn step(&mut self, step: u64) -> Result<Metrics>;

    /// The models, for evaluations of one sequence at a time.
    fn models(&self) -> &Models;

    /// The options of sampling.
    fn sampling(&self) -> &Sampling;
}

/// The pieces of a run.
pub(super) struct Pieces {
    pub(crate) trainer: Trainer,
    pub(crate) format: ChatFormat,
    /// Hash of the reward model's tokenizer.
    pub(crate) reward_tokenizer: String,
}

impl Subject for Pieces {
    fn prompt(&self, dialogue: &Dialogue) -> Vec<i64> {
        self.format.prompt(dialogue).expect("a dialogue of texts")
    }

    fn tokenizers(&self) -> [String; 2] {
        [self.format.tokenizer().fingerprint(), self.reward_tokenizer.clone()]
    }

    fn respond(
        &self,
        prompts: &[Vec<i64>],
        samples: usize,
        max_tokens: usize,
        draws: &dyn Fn(usize, usize, usize) -> f64,
    ) -> Result<Vec<Response>> {
        let sampling = Sampling { max_tokens, ..self.trainer.sampling.clone() };
        self.trainer.respond(&self.trainer.models.policy, &sampling, prompts, samples, draws)
    }

    fn score(&self, rollout: &Rollout) -> Vec<f64> {
        self.trainer.score(rollout)
    }

    fn evaluate(&self, rollout: &Rollout) -> RolloutStats {
        self.trainer.evaluate_only(rollout)
    }

    fn shift_value_model(&mut self, scores: &[f64], ended: &[bool]) {
        self.trainer.normalize_scores(scores, ended);
        self.trainer.shift_new_value_model();
    }

    fn end_values(&self, rollout: &Rollout) -> Vec<f64> {
        let _no_grad = tch::no_grad_guard();
        let model = &self.trainer.models.value_model;
        let (end_id, reading) = (self.trainer.end_id, &self.trainer.reading);
        let (flat, ends) = rollout.reward_model_batch(&rollout.rows(), end_id, reading, model.device());
        to_host(&model.scalars(&model.hidden(&flat, None).index_select(0, &ends)))
    }

    fn step(&mut self, step: u64) -> Result<Metrics> {
        Ok(self.trainer.step(step)?.metrics())
    }

    fn models(&self) -> &Models {
        &self.trainer.models
    }

    fn sampling(&self) -> &Sampling {
        &self.trainer.sampling
    }
}
