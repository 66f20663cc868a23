//! `align doctor` for PPO: checks the pieces of a step on the user's own checkpoints and prompts. Every
//! result that the code of a run computes for a batch is recomputed one sequence at a time, without batches,
//! prefixes, caches and samplers.

mod checks;
mod sampling;
mod setup;
mod subject;
#[cfg(test)]
mod tests;

use align_kernels::kind_of;

use align_core::error::Result;
use align_core::progress::Progress;
use align_core::random::{self, Purpose};
use align_model::generate::Response;
use align_text::chatml::Dialogue;
use align_train::stage::doctor::{Check, tolerance};

use crate::checked::Ppo;
use crate::config::Logprobs;
use crate::rewards::{MissingEnd, Normalize};
use crate::rollout::Rollout;
use crate::session::Session;

use checks::examine;
use setup::Setup;
use subject::{Pieces, Subject};

/// The number of prompts and response tokens to examine: enough to detect a fault, few enough to be fast.
const PROMPTS: usize = 6;
const MAX_TOKENS: usize = 48;

/// Examines the models and the data of `align ppo`.
pub(crate) fn doctor(mut stage: Ppo, progress: &mut dyn Progress) -> Result<Vec<Check>> {
    // A single optimizer step with a learning rate that has an effect.
    let config = &mut stage.config;
    config.ppo.value_warmup_steps = 0;
    config.ppo.epochs = 1;
    config.ppo.minibatch_size = None;
    (config.ppo.policy_lr, config.ppo.value_lr) = (1e-3, 1e-3);
    config.rollout.prompts_per_step = config.rollout.prompts_per_step.min(PROMPTS);
    config.rollout.max_response_tokens = config.rollout.max_response_tokens.min(MAX_TOKENS);
    let (config, assumed) = (config.clone(), stage.assumed.clone());
    let reward_tokenizer = stage.reward.tokenizer.fingerprint();
    let shares_value = config.models.value.is_none();
    let session = Session::load(stage)?;
    let (trainer, format) = (session.trainer, session.evaluation.format);
    let prompts: Vec<Vec<i64>> = trainer.prompts.iter().take(PROMPTS).cloned().collect();
    let special = format.tokenizer().special();
    let setup = Setup {
        prompts,
        max_tokens: config.rollout.max_response_tokens,
        seed: config.ppo.seed,
        temperature: config.rollout.temperature,
        nucleus: config.rollout.logprobs == Logprobs::Nucleus && config.rollout.top_p < 1.0,
        missing_end: (config.rollout.missing_end, config.rollout.missing_end_value),
        normalize: config.reward.normalize,
        shares_value,
        same_dtype: config.frozen_dtype() == config.models.dtype,
        tolerance: tolerance(kind_of(config.models.dtype)),
        end_id: special.im_end,
        reading: trainer.reading.clone(),
        assumed,
        pad_id: special.endoftext,
        format: format.clone(),
        folder: config.models.policy.clone(),
    };
    examine(&mut Pieces { trainer, format, reward_tokenizer }, &setup, progress)
}
