//! Supervised finetuning on dialogues in ChatML, and pretraining on plain text, which shares its loop.
//!
//! A run reads its config ([`config`]), turns files into rows ([`data`]) and trains on them step by step ([`train`]); the loss
//! is the mean −log p over all targets of a batch ([`align_train::lm`]).
//!
//! ```
//! use align_core::config::load_text;
//! use align_sft::config::SftConfig;
//!
//! // What a file leaves out is the report's; epochs take the place of its 4000 steps.
//! let file = "model.path = 'models/base'\ndata.train = 'sft.jsonl'\ntrain.epochs = 2\nrun.out = 'runs/sft'";
//! let config: SftConfig = load_text("sft.toml", file, &["optimizer.lr=1e-5".to_owned()], None).unwrap();
//! assert_eq!((config.train.batch_size, config.train.steps, config.train.epochs), (128, None, Some(2)));
//! assert_eq!((config.optimizer.lr, config.optimizer.betas), (1e-5, [0.9, 0.95]));
//!
//! let refused = load_text::<SftConfig>("sft.toml", "train.batchsize = 1", &[], None).unwrap_err();
//! assert!(refused.to_string().contains("did you mean train.batch_size?"));
//! ```

#![forbid(unsafe_code)]

pub mod config;
pub mod data;
pub mod doctor;
pub mod plan;
mod replay;
pub mod train;
mod written;

use align_core::config::{Config, to_toml};
use align_core::config::{Files, Mix};
use align_core::error::{Problems, Result};
use align_core::progress::Progress;
use align_kernels::kind_of;
use align_model::{CausalLm, Face, ModelOptions, SideFiles, untrained_chatml};
use align_run::run::{Input, Outcome, Recorded};
use align_text::chatml::ChatFormat;
use align_text::tokenizer::Special;
use align_train::stage::{
    self, Job, Launched, Mixture, Outset, Plan, Replay, Source, check_causal_lm, check_format, check_source, launch,
    model_input, passed_over,
};
use serde_json::{Value, json};

pub use doctor::{doctor, doctor_pretrain};
pub use plan::{plan, plan_pretrain};

use config::{PretrainConfig, SftConfig};
use data::{Rows, pretrain_rows, sft_rows};
use train::{Sections, Trainer};

/// Runs `align sft`. `None` after a dry run.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] with every mistake in config, data and checkpoint, before a model loads; what
/// [`stage::train`] returns.
pub fn sft(config: &SftConfig, job: Job<'_>) -> Result<Option<Outcome>> {
    let (inputs, _) = sft_inputs(config, job.progress)?;
    start(config, inputs, job)
}

fn sft_inputs<'a>(config: &'a SftConfig, progress: &mut dyn Progress) -> Result<(Inputs<'a>, ChatFormat)> {
    let (source, format, rows) = check(config, progress)?;
    let untrained = untrained_chatml(&config.model.path, &source.header.config, &source.tokenizer)?;
    let inputs = Inputs {
        stage: "sft",
        system_note: format.system_note(),
        untrained,
        sections: sections(config),
        source,
        rows,
        sources: Mixture::new(&config.data.train, &config.data.mix),
        passed_over: passed_over(data_paths(&config.data.train, &config.data.mix, &config.data.eval)),
        max_tokens: config.data.max_tokens,
        ends: |special| vec![special.im_end, special.endoftext],
    };
    Ok((inputs, format))
}

/// Reads and checks everything that sft needs, without loading a tensor.
fn check(config: &SftConfig, progress: &mut dyn Progress) -> Result<(Source, ChatFormat, Rows)> {
    let mut problems = Problems::new();
    let path = &config.model.path;
    stage::check_device("run.device", config.run.device(), &mut problems);
    let source = check_causal_lm(path, &mut problems)?;
    let format = check_format(path, source.as_ref(), &config.data.system, &mut problems)?;
    let rows = match &format {
        Some(format) => sft_rows(config, format, &mut problems, progress)?,
        None => None,
    };
    let (source, rows) = sound(source, rows, problems)?;
    Ok((source, format.expect("no problem was found"), rows))
}

fn sections(config: &SftConfig) -> Sections<'_> {
    Sections {
        model: &config.model,
        train: &config.train,
        optimizer: &config.optimizer,
        schedule: &config.schedule,
        run: &config.run,
    }
}

/// Runs `align pretrain`: from a checkpoint, or from nothing where the folder has a config.json and no weights. `None` after a
/// dry run.
///
/// # Errors
/// As [`sft`].
pub fn pretrain(config: &PretrainConfig, job: Job<'_>) -> Result<Option<Outcome>> {
    let inputs = pretrain_inputs(config, job.progress)?;
    start(config, inputs, job)
}

fn pretrain_inputs<'a>(config: &'a PretrainConfig, progress: &mut dyn Progress) -> Result<Inputs<'a>> {
    let mut problems = Problems::new();
    let path = &config.model.path;
    stage::check_device("run.device", config.run.device(), &mut problems);
    let source = check_source(path, &mut problems)?;
    if source.as_ref().is_some_and(|source| source.header.face != Face::CausalLm) {
        problems.push(path.display(), "holds a reward or value model, expected a language model");
    }
    let rows = match &source {
        Some(source) => pretrain_rows(config, &source.tokenizer, &mut problems, progress)?,
        None => None,
    };
    let (source, rows) = sound(source, rows, problems)?;
    Ok(Inputs {
        stage: "pretrain",
        system_note: None,
        untrained: Vec::new(),
        sections: Sections {
            model: &config.model,
            train: &config.train,
            optimizer: &config.optimizer,
            schedule: &config.schedule,
            run: &config.run,
        },
        source,
        rows,
        sources: Mixture::new(&config.data.train, &config.data.mix),
        passed_over: passed_over(data_paths(&config.data.train, &config.data.mix, &config.data.eval)),
        max_tokens: config.data.max_tokens,
        ends: |special| vec![special.endoftext],
    })
}

/// All paths that a config gives as data.
fn data_paths<'a>(train: &'a Files, mix: &'a [Mix], eval: &'a Files) -> impl Iterator<Item = &'a Files> {
    std::iter::once(train).chain(mix.iter().map(|source| &source.path)).chain([eval])
}

/// What a stage read, for the loop that both share.
struct Inputs<'a> {
    stage: &'static str,
    /// ChatML tokens that dialogues need and the checkpoint does not know.
    untrained: Vec<String>,
    /// That the system text is not the template's.
    system_note: Option<String>,
    sections: Sections<'a>,
    source: Source,
    rows: Rows,
    sources: Mixture,
    /// What lies beside the files and is not read.
    passed_over: Option<(&'static str, Value)>,
    /// `data.max_tokens`.
    max_tokens: usize,
    /// Tokens at which the result stops generating.
    ends: fn(&Special) -> Vec<i64>,
}

impl Inputs<'_> {
    /// What a resume must find unchanged.
    fn made_of(&self) -> Result<Vec<Input>> {
        let mut inputs = self.sources.inputs();
        inputs.push(model_input("model.path", &self.sections.model.path)?);
        Ok(inputs)
    }

    /// What is told before the first step.
    fn outset(&self) -> Outset {
        let starts_from = match self.source.header.has_weights {
            true => format!("the weights in {}", self.sections.model.path.display()),
            false => format!("new random weights, seed {}", self.sections.train.seed),
        };
        let warnings = self.rows.misfits(self.sections, self.max_tokens, &self.source.header.config);
        Outset { starts_from, warnings }
    }
}

/// Nothing is missing when there are no problems.
fn sound(source: Option<Source>, rows: Option<Rows>, mut problems: Problems) -> Result<(Source, Rows)> {
    if let (Some(source), Some(rows)) = (&source, &rows) {
        rows.check_length(&source.header, &mut problems);
    }
    problems.into_result()?;
    let known = "no problem was found";
    Ok((source.expect(known), rows.expect(known)))
}

/// Repeats a step of `align sft` that the run recorded.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] as [`sft`], and when the data or the record is not what the run left.
pub fn replay_sft(config: &SftConfig, recorded: &Recorded, progress: &mut dyn Progress) -> Result<Replay> {
    repeat(&sft_inputs(config, progress)?.0, recorded)
}

/// Repeats a step of `align pretrain` that the run recorded.
///
/// # Errors
/// As [`replay_sft`].
pub fn replay_pretrain(config: &PretrainConfig, recorded: &Recorded, progress: &mut dyn Progress) -> Result<Replay> {
    repeat(&pretrain_inputs(config, progress)?, recorded)
}

fn repeat(inputs: &Inputs<'_>, recorded: &Recorded) -> Result<Replay> {
    recorded.check_inputs(&inputs.made_of()?)?;
    let model = load(inputs, true)?;
    stage::replay(trainer(inputs, model), inputs.sections.run, recorded)
}

/// The model as it starts. Where a checkpoint's state brings its weights, that says all else: names, shapes and the source's dtypes.
fn load(inputs: &Inputs<'_>, state_follows: bool) -> Result<CausalLm> {
    let Sections { model: base, train, run, .. } = inputs.sections;
    let Source { header, tokenizer, .. } = &inputs.source;
    let options = ModelOptions {
        device: stage::checked_device(run.device()),
        compute: kind_of(base.dtype),
        trainable: true,
        recompute_layers: base.recompute_layers,
    };
    let mut model = if header.has_weights {
        CausalLm::load(&base.path, &options)?
    } else {
        let config = header.config.clone();
        let mut model = match state_follows {
            true => CausalLm::blank(config, &options),
            false => CausalLm::random(config, train.seed, &options),
        };
        model.set_side_files(SideFiles::capture(&base.path)?);
        model
    };
    model.add_ends(&(inputs.ends)(tokenizer.special()));
    Ok(model)
}

fn trainer<'a>(inputs: &'a Inputs<'_>, model: CausalLm) -> Trainer<'a> {
    Trainer::new(inputs.sections, &inputs.rows, &inputs.source.tokenizer, model)
}

fn start<C: Config>(config: &C, inputs: Inputs<'_>, job: Job<'_>) -> Result<Option<Outcome>> {
    let (sections, rows, untrained) = (inputs.sections, &inputs.rows, &inputs.untrained);
    let mut facts = vec![("parameters", json!(inputs.source.header.num_parameters))];
    facts.extend(rows.facts());
    facts.extend(inputs.system_note.iter().map(|note| ("system text", json!(note))));
    facts.extend(inputs.passed_over.clone());
    if !untrained.is_empty() {
        let what = "their rows look as if they were never trained (a base checkpoint): the model has to learn here where answers end";
        facts.push(("untrained tokens", json!(format!("{}: {what}", untrained.join(", ")))));
    }
    let plan = Plan {
        stage: inputs.stage,
        section: sections.run,
        config: &to_toml(config),
        seed: sections.train.seed,
        steps: rows.batches.steps(),
        schedule: Some(sections.schedule),
        facts,
        outset: inputs.outset(),
        skipped: &rows.skipped,
        inputs: inputs.made_of()?,
    };
    let (run, progress) = match launch(plan, job)? {
        Launched::Over(outcome) => return Ok(outcome),
        Launched::Ready(run, progress) => (run, progress),
    };
    let model = load(&inputs, run.checkpoint().is_some())?;
    stage::train(trainer(&inputs, model), run, progress).map(Some)
}
