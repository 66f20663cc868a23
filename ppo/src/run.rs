//! From config to result: everything checked before a model loads, then step after step.

use std::path::{Path, PathBuf};

use align_common::chatml::ChatFormat;
use align_common::checkpoint::State;
use align_common::config::to_toml;
use align_common::contract::ScoreContract;
use align_common::data::{self, Kind, Order, Record};
use align_common::error::{Problem, Problems, Result};
use align_common::generate::Sampling;
use align_common::lm;
use align_common::metrics::Metrics;
use align_common::metrics::markdown::prompt_and_response;
use align_common::model::{CausalLm, Face, ModelOptions, ScalarModel};
use align_common::optim::{AdamW, AdamWOptions};
use align_common::progress::Progress;
use align_common::random::{self, Purpose};
use align_common::run::{Outcome, Preflight, Run, Spec, Started, preflight};
use align_common::stage::{
    Job, Source, check_causal_lm, check_format, check_source, input_sizes, load_masters, save_masters, set_names,
};
use serde_json::{Map, json};

use crate::config::{KlControl, Logprobs, PpoConfig};
use crate::models::Models;
use crate::ptx::PtxStream;
use crate::rewards::{KlController, RunningMoments};
use crate::rollout::Rollout;
use crate::train::{StepReport, Trainer};

/// Documents of the pretrained gradient are cut to pieces of this many tokens, the report's context length.
const PTX_TOKENS: usize = 2048;
/// How many prompts of a rollout, and of each held-out set, are written to samples.jsonl.
const SAMPLES: usize = 4;

/// A held-out file of prompts.
struct EvalSet {
    name: String,
    prompts: Vec<Vec<i64>>,
}

/// Everything that was read and checked.
struct Inputs {
    policy: Source,
    reward: Source,
    format: ChatFormat,
    prompts: Vec<Vec<i64>>,
    dropped: usize,
    skipped: Vec<Problem>,
    eval: Vec<EvalSet>,
    documents: Vec<Vec<i64>>,
    /// The shift of a value model that brings its own.
    value_shift: Option<f64>,
}

/// Runs `align ppo`. `None` after a dry run.
///
/// # Errors
/// [`align_common::error::Error::Invalid`] with every mistake in config, data and checkpoints, before a model loads;
/// [`align_common::error::Error::NonFinite`] when a loss or gradient is no longer a number.
pub fn ppo(config: &PpoConfig, job: Job<'_>) -> Result<Option<Outcome>> {
    let inputs = check(config)?;
    let toml = to_toml(config);
    let steps = config.ppo.steps;
    let state = preflight(&config.run.out, job.resume, &toml, Some(steps))?;
    let progress = job.progress;
    let counts = [
        ("policy parameters", inputs.policy.header.num_parameters),
        ("reward parameters", inputs.reward.header.num_parameters),
        ("prompts", inputs.prompts.len() as u64),
        ("prompts dropped", inputs.dropped as u64),
        ("bad rows skipped", inputs.skipped.len() as u64),
        ("pretraining documents", inputs.documents.len() as u64),
        ("responses per step", config.rollout_rows() as u64),
        ("steps", steps),
    ];
    let show = |progress: &mut dyn Progress| {
        progress.note(toml.trim_end());
        progress.note("");
        for (what, count) in counts {
            progress.note(&format!("{what:>24}  {count}"));
        }
        for problem in &inputs.skipped {
            progress.note(&format!("skipped {problem}"));
        }
    };
    if job.dry_run {
        show(progress);
        return Ok(None);
    }
    if let Preflight::Finished { step } = state {
        return Ok(Some(Outcome::AlreadyFinished { step }));
    }

    let run = &config.run;
    tch::set_num_threads(run.num_threads() as i32);
    let mut facts = job.program;
    facts.insert("stage".to_owned(), json!("ppo"));
    facts.insert("device".to_owned(), json!(format!("{:?}", run.device())));
    facts.insert("threads".to_owned(), json!(run.num_threads()));
    facts.insert("seed".to_owned(), json!(config.ppo.seed));
    facts.extend(counts.map(|(what, count)| (what.replace(' ', "_"), json!(count))));
    facts.insert("inputs".to_owned(), input_sizes(config.data.prompts.iter().chain(config.data.pretrain.iter()))?);
    let spec = Spec { section: run, config: &toml, resume: job.resume, steps, facts, interrupt: job.interrupt };
    let started = match Run::start(spec)? {
        Started::Finished { step } => return Ok(Some(Outcome::AlreadyFinished { step })),
        Started::Ready(started) => started,
    };
    show(progress);
    let (format, eval) = (inputs.format.clone(), inputs.eval);
    let inputs = Inputs { eval: Vec::new(), ..inputs };
    let trainer = build(config, inputs, started.checkpoint())?;
    train(trainer, &format, &eval, started, progress).map(Some)
}

/// Reads and checks everything that a run needs, without loading a tensor.
fn check(config: &PpoConfig) -> Result<Inputs> {
    let mut problems = Problems::new();
    let (models, data) = (&config.models, &config.data);
    let policy = check_causal_lm(&models.policy, &mut problems)?;
    let format = check_format(&models.policy, policy.as_ref(), &data.system, &mut problems)?;
    let reward = check_scalar(&models.reward, format.as_ref(), &mut problems)?;
    let mut value_shift = None;
    if let Some(path) = &models.value {
        let value = check_scalar(path, format.as_ref(), &mut problems)?;
        value_shift = value.and_then(|value| value.contract).and_then(|contract| contract.value_shift);
    }
    let (mut prompts, mut dropped, mut skipped, mut eval) = (Vec::new(), 0, Vec::new(), Vec::new());
    let mut documents = Vec::new();
    if let Some(format) = &format {
        let mut read = |files: &[PathBuf], problems: &mut Problems| -> Result<Vec<Vec<i64>>> {
            let Some(rows) = problems.absorb(data::read(files, Kind::Prompt, data.bad_rows))? else {
                return Ok(Vec::new());
            };
            skipped.extend(rows.skipped);
            let all = rows.records.len();
            let encoded = rows.records.into_iter().map(|(_, record)| match record {
                Record::Prompt(messages) => format.prompt(&messages),
                _ => unreachable!("a prompt file gives prompts"),
            });
            let kept: Vec<Vec<i64>> = encoded.filter(|prompt| prompt.len() <= data.max_prompt_tokens).collect();
            dropped += all - kept.len();
            if kept.is_empty() {
                let what = "no prompt is left, expected at least one within data.max_prompt_tokens";
                problems.push(files[0].display(), what);
            }
            Ok(kept)
        };
        if !data.prompts.is_empty() {
            prompts = read(&data.prompts, &mut problems)?;
        }
        for (name, file) in set_names(&data.eval_prompts).into_iter().zip(data.eval_prompts.iter()) {
            eval.push(EvalSet { name, prompts: read(std::slice::from_ref(file), &mut problems)? });
        }
        if config.ptx.coef > 0.0 {
            let read = lm::documents(&data.pretrain, format.tokenizer(), data.bad_rows);
            if let Some((read, bad)) = problems.absorb(read)? {
                documents = read;
                skipped.extend(bad);
            }
        }
    }
    problems.into_result()?;
    let known = "no problem was found";
    Ok(Inputs {
        policy: policy.expect(known),
        reward: reward.expect(known),
        format: format.expect(known),
        prompts,
        dropped,
        skipped,
        eval,
        documents,
        value_shift,
    })
}

/// Checks a reward or value model: it must end in a scalar, and its contract and tokenizer must fit the policy's.
fn check_scalar(path: &Path, format: Option<&ChatFormat>, problems: &mut Problems) -> Result<Option<Source>> {
    let source = check_source(path, problems)?;
    let Some(source) = source else { return Ok(None) };
    if source.header.face != Face::Scalar {
        problems.push(path.display(), "holds a language model, expected a reward model: train one with `align rm`");
    }
    if let Some(format) = format {
        match &source.contract {
            Some(contract) => contract.compare(path, format, problems),
            None if source.tokenizer.fingerprint() != format.tokenizer().fingerprint() => {
                problems.push(path.display(), "has another tokenizer than the policy, expected the same; train it from a checkpoint of the policy's family");
            }
            None => {}
        }
    }
    Ok(Some(source))
}

/// Loads the four models, as they were given or as a checkpoint has them, and the trainer's state.
fn build(config: &PpoConfig, inputs: Inputs, checkpoint: Option<&Path>) -> Result<Trainer> {
    let device = config.run.device();
    let trained = ModelOptions {
        device,
        compute: config.models.dtype.kind(),
        trainable: true,
        recompute_layers: config.models.recompute_layers,
    };
    let frozen =
        ModelOptions { device, compute: config.frozen_dtype().kind(), trainable: false, recompute_layers: false };
    let from = |name: &str, path: &PathBuf| checkpoint.map_or_else(|| path.clone(), |checkpoint| checkpoint.join(name));
    let mut models = Models {
        policy: CausalLm::load(&from("model", &config.models.policy), &trained)?,
        ref_policy: CausalLm::load(&config.models.policy, &frozen)?,
        value_model: ScalarModel::load(&from("value", config.value_path()), &trained, config.ppo.seed)?,
        reward_model: ScalarModel::load(&config.models.reward, &frozen, config.ppo.seed)?,
    };
    let tokenizer = inputs.format.tokenizer();
    models.value_model.set_pad_token_id(tokenizer.special().endoftext);
    if let Some(shift) = inputs.value_shift {
        models.value_model.set_shift(shift);
    }
    // AdamW as the report's sft has it, without weight decay.
    let options = AdamWOptions { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.0 };
    let optimizer = |parameters: &[align_common::model::Parameter]| {
        AdamW::new(parameters.iter().map(|parameter| (parameter.name.as_str(), &parameter.tensor)), options)
    };
    let (kl_coef, reward) = (config.reward.kl_coef, &config.reward);
    let kl_controller = match reward.kl_controller {
        KlControl::Fixed => KlController::Fixed { kl_coef },
        KlControl::Adaptive => KlController::Adaptive { kl_coef, target: reward.kl_target, horizon: reward.kl_horizon },
    };
    let end = tokenizer.special().endoftext;
    let ptx =
        (!inputs.documents.is_empty()).then(|| PtxStream::new(inputs.documents, end, PTX_TOKENS, config.ppo.seed));
    Ok(Trainer {
        policy_optimizer: optimizer(models.policy.parameters()),
        value_optimizer: optimizer(models.value_model.parameters()),
        order: Order::new(&[inputs.prompts.len()], None, config.ppo.seed, config.data.shuffle),
        prompts: inputs.prompts,
        ptx,
        moments: RunningMoments::new(),
        kl_controller,
        sampling: Sampling {
            temperature: config.rollout.temperature,
            top_p: config.rollout.top_p,
            max_tokens: config.rollout.max_response_tokens,
            stop_ids: inputs.format.stop_ids(),
            vocab: tokenizer.vocab_size(),
            record_nucleus: config.rollout.logprobs == Logprobs::Nucleus,
        },
        end_id: tokenizer.special().im_end,
        value_shift: inputs.value_shift,
        config: config.clone(),
        models,
    })
}

/// Steps until the end, or until the run is asked to stop.
fn train(
    mut trainer: Trainer,
    format: &ChatFormat,
    eval: &[EvalSet],
    mut run: Box<Run>,
    progress: &mut dyn Progress,
) -> Result<Outcome> {
    if let Some(state) = run.state()? {
        trainer.load(&state)?;
    }
    progress.begin("ppo", run.steps() - run.next_step());
    for step in run.next_step()..run.steps() {
        let mut report = trainer.step(step, &mut |_| {})?;
        let done = step + 1;
        if run.eval_due(done) {
            write_samples(&mut run, done, "train", format, &report)?;
            for set in eval {
                report.metrics.merge(evaluate(&trainer, set, format, &mut run, done)?);
            }
        }
        run.log(done, &report.metrics)?;
        let number = |name| report.metrics.get(name).unwrap_or(f64::NAN);
        progress.advance(1, &format!("score {:.3} kl {:.3}", number("score/mean"), number("kl/ref")));
        if run.save_due(done) {
            let state = trainer.state();
            run.save(done, &state, |folder| trainer.save(folder, format))?;
        }
        if run.interrupted() {
            progress.end();
            return Ok(Outcome::Interrupted { step: done });
        }
    }
    progress.end();
    run.finish(|folder| trainer.save(folder, format))
}

/// One sampled response to every held-out prompt: raw score, KL, length and ended share. The draws depend on the prompt
/// alone, so that evaluations differ by the policy only.
fn evaluate(trainer: &Trainer, set: &EvalSet, format: &ChatFormat, run: &mut Run, done: u64) -> Result<Metrics> {
    let seed = trainer.config.ppo.seed;
    let responses = trainer.respond(
        &set.prompts,
        1,
        &mut |prompt, _, position| random::uniform(seed, Purpose::Generate, 0, prompt as u64, position as u64),
        &mut |_| {},
    );
    let rollout =
        Rollout { prompt_rows: (0..set.prompts.len()).collect(), prompts: set.prompts.clone(), samples: 1, responses };
    let report = trainer.judge_only(rollout);
    let mut metrics = Metrics::new();
    metrics.extend(report.metrics.iter().map(|(name, value)| (format!("eval/{}/{name}", set.name), value)));
    write_samples(run, done, &set.name, format, &report)?;
    Ok(metrics)
}

/// Writes the first prompts' responses to samples.jsonl and TensorBoard, and how scores, KL and lengths of all are spread.
fn write_samples(run: &mut Run, done: u64, set: &str, format: &ChatFormat, report: &StepReport) -> Result<()> {
    let (rollout, tokenizer) = (&report.rollout, format.tokenizer());
    let lengths: Vec<f64> = rollout.lengths().into_iter().map(|tokens| tokens as f64).collect();
    for (what, values) in [("score", &report.scores), ("kl", &report.kl), ("tokens", &lengths)] {
        run.histogram(done, &format!("responses/{set}/{what}"), values)?;
    }
    for (row, response) in rollout.responses.iter().enumerate().take(SAMPLES * rollout.samples) {
        let prompt = tokenizer.decode(&rollout.prompts[row / rollout.samples]);
        let text = tokenizer.decode(&response.tokens);
        if row % rollout.samples == 0 {
            let shown = format!(
                "{}\n\n**score** {:.3}, **kl** {:.3}",
                prompt_and_response(&prompt, &text),
                report.scores[row],
                report.kl[row]
            );
            run.text(done, &format!("samples/{set}/{}", row / rollout.samples), &shown)?;
        }
        let mut sample = Map::new();
        sample.insert("set".to_owned(), json!(set));
        sample.insert("prompt_row".to_owned(), json!(rollout.prompt_rows[row / rollout.samples]));
        sample.insert("prompt".to_owned(), json!(prompt));
        sample.insert("response".to_owned(), json!(text));
        sample.insert("tokens".to_owned(), json!(response.tokens.len()));
        sample.insert("score".to_owned(), json!(report.scores[row]));
        sample.insert("kl".to_owned(), json!(report.kl[row]));
        run.sample(done, &sample)?;
    }
    Ok(())
}

impl Trainer {
    /// Writes `model` and `value` into a folder.
    fn save(&self, folder: &Path, format: &ChatFormat) -> Result<()> {
        self.models.policy.save(&folder.join("model"))?;
        let value = folder.join("value");
        self.models.value_model.save(&value)?;
        ScoreContract { value_shift: self.value_shift, ..ScoreContract::new(format) }.write(&value)
    }

    fn state(&self) -> State {
        let mut state = State::new();
        self.policy_optimizer.save("policy", &mut state);
        self.value_optimizer.save("value", &mut state);
        let (policy, value) = (&self.models.policy, &self.models.value_model);
        save_masters(policy.parameters(), policy.config().dtype, "policy_master", &mut state);
        save_masters(value.parameters(), value.config().dtype, "value_master", &mut state);
        state.set("moments", self.moments);
        state.set("kl_controller", self.kl_controller);
        state.set("value_shift", self.value_shift);
        state.set("ptx_taken", self.ptx.as_ref().map(|stream| stream.taken));
        state
    }

    fn load(&mut self, state: &State) -> Result<()> {
        self.policy_optimizer.load("policy", state)?;
        self.value_optimizer.load("value", state)?;
        let (policy, value) = (&self.models.policy, &self.models.value_model);
        load_masters(policy.parameters(), policy.config().dtype, "policy_master", state)?;
        load_masters(value.parameters(), value.config().dtype, "value_master", state)?;
        self.moments = state.get("moments")?;
        self.kl_controller = state.get("kl_controller")?;
        self.value_shift = state.get("value_shift")?;
        self.models.value_model.set_shift(self.value_shift.unwrap_or(0.0));
        let taken: Option<u64> = state.get("ptx_taken")?;
        if let (Some(stream), Some(taken)) = (&mut self.ptx, taken) {
            stream.taken = taken;
        }
        Ok(())
    }
}
