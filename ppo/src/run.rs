//! From config to result: everything checked before a model loads, then step after step.

use align_kernels::kind_of;
use align_model::Writing;
use std::path::Path;
use std::rc::Rc;

use align_core::config::to_toml;
use align_core::error::{Problems, Result};
use align_core::progress::Progress;
use align_model::contract::{self, ScoreContract};
use align_model::generate::Sampling;
use align_model::{CausalLm, Face, Family, ModelOptions, ScalarModel};
use align_run::checkpoint::{Snapshot, State};
use align_run::metrics::Metrics;
use align_run::run::{Input, Outcome, Recorded, Run};
use align_text::chatml::ChatFormat;
use align_train::optim::{AdamW, AdamWOptions};
use align_train::stage::{
    self, Action, Comparison, Examination, Job, Launched, Outset, Plan, Replay, ScoreWish, Scorer, Source, Watch,
    check_causal_lm, check_format, check_reward_model, check_scalar_model, check_trained_length, launch, model_input,
    passed_over, rounded, train,
};
use serde_json::{Value, json};

use crate::config::{KlControl, Logprobs, PpoConfig};
use crate::evaluation::{EvalSet, Evaluation};
use crate::guards::Guards;
use crate::inputs::{Data, Reader};
use crate::misfits::misfits;
use crate::models::Models;
use crate::ptx::PtxStream;
use crate::record;
use crate::replay;
use crate::rewards::{KlController, RunningMoments};
use crate::rollout::Reading;
use crate::train::Trainer;
use crate::trajectory::Trajectory;
use crate::written;

/// Documents of the pretrained gradient are cut to pieces of this many tokens, the report's context length; of fewer where a
/// first-generation policy was trained for fewer.
const PTX_TOKENS: usize = 2048;

/// A trainer, and what it is watched by.
pub(crate) struct Session {
    pub(crate) trainer: Trainer,
    pub(crate) evaluation: Evaluation,
    guards: Guards,
    /// The latest step: its responses are shown when an evaluation is due.
    last: Option<Rc<Trajectory>>,
}

/// Everything that was read and checked.
pub(crate) struct Inputs {
    pub(crate) policy: Source,
    pub(crate) reward: Source,
    reading: Reading,
    second_reading: Reading,
    /// What is taken for granted of reward models that say nothing of themselves, by their keys.
    pub(crate) assumed: Vec<(&'static str, String)>,
    format: ChatFormat,
    pub(crate) data: Data,
    /// The shift of a value model that brings its own.
    value_shift: Option<f64>,
}

/// Runs `align ppo`. `None` after a dry run.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] with every mistake in config, data and checkpoints, before a model loads;
/// [`align_core::error::Error::NonFinite`] when a loss or gradient is no longer a number.
pub fn ppo(config: &PpoConfig, job: Job<'_>) -> Result<Option<Outcome>> {
    let inputs = check(config)?;
    let mut facts = vec![
        ("policy parameters", json!(inputs.policy.header.num_parameters)),
        ("reward parameters", json!(inputs.reward.header.num_parameters)),
    ];
    facts.extend(inputs.data.facts());
    facts.extend([
        ("passes over the prompts", rounded(config.batches(inputs.data.prompts.tokens.len()).passes())),
        ("responses per step", json!(config.rollout_rows())),
    ]);
    facts.extend(inputs.assumed.iter().map(|(key, assumed)| (*key, json!(assumed))));
    facts.extend(inputs.format.system_note().map(|note| ("system text", json!(note))));
    facts.extend(passed_over([&config.data.prompts, &config.data.eval_prompts, &config.data.pretrain]));
    let plan = Plan {
        stage: "ppo",
        section: &config.run,
        config: &to_toml(config),
        seed: config.ppo.seed,
        steps: config.ppo.steps,
        schedule: None,
        facts,
        outset: outset(config, &inputs),
        skipped: &inputs.data.skipped,
        inputs: made_of(config)?,
    };
    let (run, progress) = match launch(plan, job)? {
        Launched::Over(outcome) => return Ok(outcome),
        Launched::Ready(run, progress) => (run, progress),
    };
    let session = build(config, inputs)?;
    train(session, run, progress).map(Some)
}

/// Repeats a step of `align ppo` that the run recorded: whole, or its last optimiser step where others went before.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] as [`ppo`], and when the data or the record is not what the run left.
pub fn replay(config: &PpoConfig, recorded: &Recorded) -> Result<Replay> {
    let inputs = check(config)?;
    recorded.check_inputs(&made_of(config)?)?;
    stage::replay(build(config, inputs)?, &config.run, recorded)
}

/// What a resume must find unchanged.
fn made_of(config: &PpoConfig) -> Result<Vec<Input>> {
    let (data, models) = (&config.data, &config.models);
    let mut inputs = vec![Input::new("data.prompts", data.prompts.iter().cloned())];
    if config.ptx.coef > 0.0 {
        inputs.push(Input::new("data.pretrain", data.pretrain.iter().cloned()));
    }
    inputs.push(model_input("models.policy", &models.policy)?);
    inputs.push(model_input("models.reward", &models.reward)?);
    inputs.extend(models.value.as_ref().map(|path| model_input("models.value", path)).transpose()?);
    Ok(inputs)
}

/// What is told before the first step.
pub(crate) fn outset(config: &PpoConfig, inputs: &Inputs) -> Outset {
    let models = &config.models;
    let (policy, reward) = (models.policy.display(), models.reward.display());
    let starts_from = match &models.value {
        Some(value) => {
            format!("the policy in {policy}, the reward model in {reward}, the value model in {}", value.display())
        }
        None => format!("the policy in {policy}, the reward model in {reward}, as which the value model starts, too"),
    };
    let readers = [("models.policy", &inputs.policy.header.config), ("models.reward", &inputs.reward.header.config)];
    Outset { starts_from, warnings: misfits(config, &inputs.data, &readers) }
}

/// Reads and checks everything that a run needs, without loading a tensor.
pub(crate) fn check(config: &PpoConfig) -> Result<Inputs> {
    let mut problems = Problems::new();
    let models = &config.models;
    stage::check_device("run.device", config.run.device(), &mut problems);
    for (key, named) in models.devices().into_iter().filter(|(_, named)| named.is_some()) {
        stage::check_device(&format!("models.{key}"), config.device(named), &mut problems);
    }
    let policy = check_causal_lm(&models.policy, &mut problems)?;
    let format = check_format(&models.policy, policy.as_ref(), &config.data.system, &mut problems)?;
    let wish = ScoreWish { place: config.reward.score_at, system: config.reward.system.clone() };
    let reward = check_reader(&models.reward, format.as_ref(), &wish, &mut problems)?;
    let mut value_shift = None;
    if let Some(path) = &models.value {
        let value = check_scalar_model(path, &ScoreWish::default(), &mut problems)?;
        if let (Some(value), Some(format)) = (&value, &format) {
            compare(path, value, format, false, &mut problems);
        }
        value_shift = value.and_then(|value| value.source.contract).and_then(|contract| contract.value_shift);
    }
    let second = match &config.reward.second {
        Some(path) => {
            let wish = ScoreWish { place: config.reward.second_score_at, system: config.reward.second_system.clone() };
            check_reader(path, format.as_ref(), &wish, &mut problems)?
        }
        None => None,
    };
    let mut readers = [Reader::new(reward.as_ref(), format.as_ref()), Reader::new(second.as_ref(), format.as_ref())];
    let data = match &format {
        Some(format) => Data::read(config, format, &mut readers, &mut problems)?,
        None => Data::default(),
    };
    // The value model has the reward model's length.
    let scorers = [&reward, &second].map(|scorer| scorer.as_ref().map(|scorer| &scorer.source));
    for source in std::iter::once(policy.as_ref()).chain(scorers).flatten() {
        let longest = data.prompts.tokens.iter().map(Vec::len).max().unwrap_or(0) + config.rollout.max_response_tokens;
        let what = "behind the longest prompt makes a dialogue";
        check_trained_length(&source.header, longest, "rollout.max_response_tokens", what, &mut problems);
    }
    problems.into_result()?;
    let known = "no problem was found";
    let mut assumed = Vec::new();
    for (key, scorer) in [("models.reward", &reward), ("reward.second", &second)] {
        assumed.extend(scorer.as_ref().and_then(|scorer| Some((key, scorer.assumed.clone()?))));
    }
    let [reading, second_reading] = readers.map(|reader| reader.reading);
    Ok(Inputs {
        policy: policy.expect(known),
        reward: reward.expect(known).source,
        reading,
        second_reading,
        assumed,
        format: format.expect(known),
        data,
        value_shift,
    })
}

/// Checks a reward model, and whether it fits what the policy writes.
fn check_reader(
    path: &Path,
    format: Option<&ChatFormat>,
    wish: &ScoreWish,
    problems: &mut Problems,
) -> Result<Option<Scorer>> {
    let scorer = check_reward_model(path, wish, problems)?;
    if let (Some(scorer), Some(format)) = (&scorer, format) {
        compare(path, scorer, format, wish.system.is_some(), problems);
    }
    Ok(scorer)
}

/// Adds every way in which a reward or value model would misread what the policy writes. With a system text of its own it is shown that one.
fn compare(path: &Path, scorer: &Scorer, format: &ChatFormat, own_system: bool, problems: &mut Problems) {
    match &scorer.source.contract {
        Some(contract) if own_system => {
            ScoreContract { system: format.system().to_owned(), ..contract.clone() }.compare(path, format, problems);
        }
        Some(contract) => contract.compare(path, format, problems),
        None if scorer.source.tokenizer.fingerprint() != format.tokenizer().fingerprint() => {
            problems.push(path.display(), "has another tokenizer than the policy, expected the same; train it from a checkpoint of the policy's family");
        }
        None => {}
    }
}

/// Loads the models as they were given. Where a run goes on, a checkpoint's state brings the weights of those that are trained.
pub(crate) fn build(config: &PpoConfig, inputs: Inputs) -> Result<Session> {
    let trained = |device: &Option<String>| ModelOptions {
        device: stage::checked_device(config.device(device)),
        compute: kind_of(config.models.dtype),
        trainable: true,
        recompute_layers: config.models.recompute_layers,
    };
    let frozen = |device: &Option<String>| ModelOptions {
        device: stage::checked_device(config.device(device)),
        compute: kind_of(config.frozen_dtype()),
        trainable: false,
        recompute_layers: false,
    };
    let (sources, seed) = (&config.models, config.ppo.seed);
    let mut models = Models {
        policy: CausalLm::load(&sources.policy, &trained(&sources.policy_device))?,
        ref_policy: CausalLm::load(&sources.policy, &frozen(&sources.reference_device))?,
        value_model: ScalarModel::load(config.value_path(), &trained(&sources.value_device), seed)?,
        reward_model: ScalarModel::load(&sources.reward, &frozen(&sources.reward_device), seed)?,
    };
    let second = config.reward.second.as_ref();
    let second_reward_model =
        second.map(|path| ScalarModel::load(path, &frozen(&sources.reward_device), seed)).transpose()?;
    let second_reward_model = second_reward_model.map(|model| (model, inputs.second_reading));
    let tokenizer = inputs.format.tokenizer();
    models.policy.add_ends(&inputs.format.stop_ids());
    models.value_model.set_pad_token_id(tokenizer.special().endoftext);
    if let Some(shift) = inputs.value_shift {
        models.value_model.set_shift(shift);
    }
    // AdamW as the report's sft has it, without weight decay.
    let options = AdamWOptions { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.0 };
    let optimizer = |parameters: &[align_model::Parameter]| {
        AdamW::new(parameters.iter().map(|parameter| (parameter.name.as_str(), &parameter.tensor)), options)
    };
    let (kl_coef, reward) = (config.reward.kl_coef, &config.reward);
    let kl_controller = match reward.kl_controller {
        KlControl::Fixed => KlController::Fixed { kl_coef },
        KlControl::Adaptive => KlController::Adaptive { kl_coef, target: reward.kl_target, horizon: reward.kl_horizon },
    };
    let end = tokenizer.special().endoftext;
    let policy = models.policy.config();
    let trained_length = if policy.family == Family::Qwen { policy.seq_length as usize } else { PTX_TOKENS };
    let ptx_tokens = PTX_TOKENS.min(trained_length);
    let Data { prompts, eval, documents, .. } = inputs.data;
    let ptx = (!documents.is_empty()).then(|| PtxStream::new(documents, end, ptx_tokens, seed));
    let trainer = Trainer {
        policy_optimizer: optimizer(models.policy.parameters()),
        value_optimizer: optimizer(models.value_model.parameters()),
        batches: config.batches(prompts.tokens.len()),
        prompts: prompts.tokens,
        ptx,
        moments: RunningMoments::new(),
        kl_controller,
        sampling: Sampling {
            temperature: config.rollout.temperature,
            top_p: config.rollout.top_p,
            max_tokens: config.rollout.max_response_tokens,
            stop_ids: inputs.format.stop_ids(),
            vocab: tokenizer.vocab_size(),
            // The nucleus of top-p 1 is the whole softmax: nothing to record.
            record_nucleus: config.rollout.logprobs == Logprobs::Nucleus && config.rollout.top_p < 1.0,
        },
        end_id: tokenizer.special().im_end,
        reading: inputs.reading,
        value_shift: inputs.value_shift,
        record: None,
        config: config.clone(),
        models,
    };
    let guards = Guards::new(config.guards.clone(), config.ppo.value_warmup_steps);
    let sets = eval
        .into_iter()
        .map(|(name, set)| EvalSet { name, prompts: set.tokens, latest: None, reference: None })
        .collect();
    let evaluation = Evaluation { sets, format: inputs.format, second_reward_model };
    Ok(Session { trainer, evaluation, guards, last: None })
}

impl stage::Trainer for Session {
    fn step(&mut self, step: u64) -> Result<Metrics> {
        self.evaluation.sets.iter_mut().for_each(|set| set.latest = None);
        let (moments, shift) = (self.trainer.moments, self.trainer.value_shift);
        let report = self.trainer.step(step);
        // A step that is not finite in its first update leaves everything as it was, so that it can be repeated from its beginning.
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

    fn watch(&mut self, done: u64, metrics: &Metrics) -> Watch {
        self.guards.watch(done, metrics)
    }

    fn action(&self) -> Action {
        self.guards.action()
    }

    fn record(&self) -> Value {
        self.trainer.record.as_ref().map_or(Value::Null, record::Record::to_json)
    }

    fn replay(&mut self, recorded: &Recorded) -> Result<Examination> {
        replay::examine(self, recorded)
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

    fn compare_written(&mut self, checkpoint: &Path, progress: &mut dyn Progress) -> Result<Comparison> {
        written::compare(self, checkpoint, progress)
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
