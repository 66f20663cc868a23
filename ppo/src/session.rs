//! The running trainer with its evaluation and guards, and how its models are loaded.

use std::rc::Rc;

use align_core::error::Result;
use align_kernels::kind_of;
use align_model::Writing;
use align_model::contract::{self, ScoreContract};
use align_model::generate::Sampling;
use align_model::{CausalLm, Face, Family, ModelOptions, Parameter, ScalarModel};
use align_run::checkpoint::{Snapshot, State};
use align_run::metrics::Metrics;
use align_run::run::Run;
use align_train::optim::{AdamW, AdamWOptions};
use align_train::stage::{self, Action, StepCheck, checked_device};
use serde_json::Value;
use tch::Device;

use crate::checked::Ppo;
use crate::config::{KlControl, Logprobs, PpoConfig};
use crate::evaluation::{EvalSet, Evaluation};
use crate::guards::Guards;
use crate::inputs::Data;
use crate::models::Models;
use crate::ptx::PtxStream;
use crate::record::Record;
use crate::rewards::{KlController, RunningMoments};
use crate::train::Trainer;
use crate::trajectory::Trajectory;

/// Documents of the pretraining text are split into pieces of this many tokens, the report's context length;
/// of fewer if a first-generation policy was trained with a shorter context.
const PTX_TOKENS: usize = 2048;

/// The trainer with its evaluation and guards.
pub struct Session {
    pub(crate) trainer: Trainer,
    pub(crate) evaluation: Evaluation,
    guards: Guards,
    /// The trajectory of the latest step, whose responses an evaluation shows.
    last: Option<Rc<Trajectory>>,
}

impl Session {
    /// Loads the models of a checked stage.
    pub(crate) fn load(stage: Ppo) -> Result<Self> {
        let Ppo { config, reading, second_reading, format, data, value_shift, .. } = stage;
        let mut models = load_models(&config)?;
        let second = config.reward.second.as_ref();
        let second_reward_model = second.map(|path| {
            let options = frozen(&config, checked_device(config.device(&config.models.reward_device)));
            Ok((ScalarModel::load(path, &options, config.ppo.seed)?, second_reading))
        });
        let tokenizer = format.tokenizer();
        models.policy.add_eos_token_ids(&format.stop_ids());
        models.value_model.set_pad_token_id(tokenizer.special().endoftext);
        if let Some(shift) = value_shift {
            models.value_model.set_shift(shift);
        }
        let Data { prompts, eval, documents, .. } = data;
        let trainer = Trainer {
            policy_optimizer: optimizer(models.policy.parameters()),
            value_optimizer: optimizer(models.value_model.parameters()),
            batches: config.batches(prompts.tokens.len()),
            prompts: prompts.tokens,
            ptx: ptx_stream(documents, &models.policy, tokenizer.special().endoftext, config.ppo.seed),
            moments: RunningMoments::new(),
            kl_controller: kl_controller(&config),
            sampling: Sampling {
                temperature: config.rollout.temperature,
                top_p: config.rollout.top_p,
                max_tokens: config.rollout.max_response_tokens,
                stop_ids: format.stop_ids(),
                vocab: tokenizer.vocab_size(),
                // With top-p 1 the nucleus is the whole softmax: nothing to record.
                record_nucleus: config.rollout.logprobs == Logprobs::Nucleus && config.rollout.top_p < 1.0,
            },
            end_id: tokenizer.special().im_end,
            reading,
            value_shift,
            record: None,
            config,
            models,
        };
        let guards = Guards::new(trainer.config.guards.clone(), trainer.config.ppo.value_warmup_steps);
        let set = |(name, set): (String, crate::inputs::Prompts)| EvalSet {
            name,
            prompts: set.tokens,
            latest: None,
            reference: None,
        };
        let sets = eval.into_iter().map(set).collect();
        let second_reward_model = second_reward_model.transpose()?;
        Ok(Self { trainer, evaluation: Evaluation { sets, format, second_reward_model }, guards, last: None })
    }
}

/// Options of the trained models.
pub(crate) fn trained(config: &PpoConfig, device: Device) -> ModelOptions {
    ModelOptions {
        device,
        compute: kind_of(config.models.dtype),
        trainable: true,
        recompute_layers: config.models.recompute_layers,
    }
}

/// Options of reference and reward model.
pub(crate) fn frozen(config: &PpoConfig, device: Device) -> ModelOptions {
    ModelOptions { device, compute: kind_of(config.frozen_dtype()), trainable: false, recompute_layers: false }
}

fn load_models(config: &PpoConfig) -> Result<Models> {
    let (sources, seed) = (&config.models, config.ppo.seed);
    let trained = |named: &Option<String>| trained(config, checked_device(config.device(named)));
    let frozen = |named: &Option<String>| frozen(config, checked_device(config.device(named)));
    Ok(Models {
        policy: CausalLm::load(&sources.policy, &trained(&sources.policy_device))?,
        ref_policy: CausalLm::load(&sources.policy, &frozen(&sources.reference_device))?,
        value_model: ScalarModel::load(config.value_path(), &trained(&sources.value_device), seed)?,
        reward_model: ScalarModel::load(&sources.reward, &frozen(&sources.reward_device), seed)?,
    })
}

/// AdamW with the report's options for sft, but no weight decay.
fn optimizer(parameters: &[Parameter]) -> AdamW {
    let options = AdamWOptions { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.0 };
    AdamW::new(parameters.iter().map(|parameter| (parameter.name.as_str(), &parameter.tensor)), options)
}

fn kl_controller(config: &PpoConfig) -> KlController {
    let reward = &config.reward;
    let kl_coef = reward.kl_coef;
    match reward.kl_controller {
        KlControl::Fixed => KlController::Fixed { kl_coef },
        KlControl::Adaptive => KlController::Adaptive { kl_coef, target: reward.kl_target, horizon: reward.kl_horizon },
    }
}

fn ptx_stream(documents: Vec<Vec<i64>>, policy: &CausalLm, end: i64, seed: u64) -> Option<PtxStream> {
    let policy = policy.config();
    let trained_length = if policy.family == Family::Qwen { policy.seq_length as usize } else { PTX_TOKENS };
    (!documents.is_empty()).then(|| PtxStream::new(documents, end, PTX_TOKENS.min(trained_length), seed))
}

impl stage::Trainer for Session {
    fn step(&mut self, step: u64) -> Result<Metrics> {
        self.evaluation.sets.iter_mut().for_each(|set| set.latest = None);
        let (moments, shift) = (self.trainer.moments, self.trainer.value_shift);
        let report = self.trainer.step(step);
        // If the first update of a step is non-finite, no weight has changed. The remaining state is
        // restored, so that a replay can repeat the step from its beginning.
        let updates = self.trainer.record.as_ref().map_or(0, |record| record.minibatches.len());
        if report.is_err() && updates <= 1 {
            self.trainer.moments = moments;
            self.trainer.value_shift = shift;
            self.trainer.models.value_model.set_shift(shift.unwrap_or(0.0));
        }
        let report = report?;
        let metrics = report.metrics();
        self.last = Some(report.trajectory);
        Ok(metrics)
    }

    fn evaluate(&mut self, run: &mut Run, done: u64) -> Result<Metrics> {
        if !run.eval_recurs(done) {
            self.guards.expect_extra_evaluation();
        }
        let metrics = self.evaluation.measure(&self.trainer, self.last.as_deref(), run, done)?;
        let log = [self.guards.evaluations(), &[(done, metrics.clone())]].concat();
        self.evaluation.draw(run, done, &log)?;
        Ok(metrics)
    }

    fn note(&self, metrics: &Metrics) -> String {
        let number = |name| metrics.get(name).unwrap_or(f64::NAN);
        format!("score {:.3} kl {:.3}", number("score/mean"), number("kl/ref"))
    }

    fn check_step(&mut self, done: u64, metrics: &Metrics) -> StepCheck {
        self.guards.watch(done, metrics)
    }

    fn action(&self) -> Action {
        self.guards.action()
    }

    fn record(&self) -> Value {
        self.trainer.record.as_ref().map_or(Value::Null, Record::to_json)
    }

    fn snapshot(&self) -> Snapshot {
        let (trainer, mut state) = (&self.trainer, State::new());
        trainer.policy_optimizer.save("policy", &mut state);
        trainer.value_optimizer.save("value", &mut state);
        state.set("moments", trainer.moments);
        state.set("kl_controller", trainer.kl_controller);
        state.set("value_shift", trainer.value_shift);
        state.set("guards", self.guards.state());
        state.set("ptx_taken", trainer.ptx.as_ref().map(|stream| stream.taken));
        let contract =
            ScoreContract { value_shift: trainer.value_shift, ..ScoreContract::new(&self.evaluation.format) };
        let writing = |face| Writing::of(trainer.config.run.result_dtype, face, trainer.config.ppo.seed);
        let policy = trainer.models.policy.saved(writing(Face::CausalLm));
        let mut value = trainer.models.value_model.saved(writing(Face::Scalar));
        value.add_file(contract::FILE, contract.to_bytes());
        Snapshot { models: Box::new(vec![("model", policy), ("value", value)]), state }
    }

    fn compute(&self) -> tch::Kind {
        kind_of(self.trainer.config.models.dtype)
    }

    fn load(&mut self, state: &State) -> Result<()> {
        let trainer = &mut self.trainer;
        trainer.policy_optimizer.load("policy", state)?;
        trainer.value_optimizer.load("value", state)?;
        trainer.moments = state.get("moments")?;
        trainer.kl_controller = state.get("kl_controller")?;
        trainer.value_shift = state.get("value_shift")?;
        trainer.models.value_model.set_shift(trainer.value_shift.unwrap_or(0.0));
        self.guards.load(state.get("guards")?);
        let taken: Option<u64> = state.get("ptx_taken")?;
        if let (Some(stream), Some(taken)) = (&mut trainer.ptx, taken) {
            stream.taken = taken;
        }
        Ok(())
    }
}
