//! Supervised finetuning on dialogues in ChatML, and pretraining on plain text, which shares its loop.
//!
//! A run reads its config ([`config`]), turns files into rows ([`data`]) and trains on them step by step ([`train`]); the loss
//! is the mean −log p over all targets of a batch ([`align_common::lm`]).
//!
//! ```
//! use align_common::config::load_text;
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

pub mod config;
pub mod data;
pub mod train;

use align_common::config::{Config, to_toml, total_steps};
use align_common::error::{Problems, Result};
use align_common::model::{CausalLm, Header, ModelOptions, SideFiles};
use align_common::progress::Progress;
use align_common::run::{Outcome, Preflight, Run, Spec, Started, preflight};
use align_common::stage::{Job, Mixture, check_causal_lm, check_format, check_source, input_sizes};
use align_common::tokenizer::Tokenizer;
use serde_json::json;

use config::{PretrainConfig, SftConfig};
use data::{Rows, pretrain_rows, sft_rows};
use train::{Sections, Trainer};

/// Runs `align sft`. `None` after a dry run.
///
/// # Errors
/// [`align_common::error::Error::Invalid`] with every mistake in config, data and checkpoint, before a model loads; what
/// [`Trainer::run`] returns.
pub fn sft(config: &SftConfig, job: Job<'_>) -> Result<Option<Outcome>> {
    let mut problems = Problems::new();
    let path = &config.model.path;
    let source = check_causal_lm(path, &mut problems)?;
    let format = check_format(path, source.as_ref(), &config.data.system, &mut problems)?;
    let rows = match &format {
        Some(format) => sft_rows(config, format, &mut problems)?,
        None => None,
    };
    problems.into_result()?;
    let (source, rows) = (source.expect("no problem was found"), rows.expect("no problem was found"));
    let sections = Sections {
        model: &config.model,
        train: &config.train,
        optimizer: &config.optimizer,
        schedule: &config.schedule,
        run: &config.run,
    };
    let files = Mixture::new(&config.data.train, &config.data.mix).files;
    launch("sft", config, sections, &source.header, &source.tokenizer, rows, files, job)
}

/// Runs `align pretrain`: from a checkpoint, or from nothing where the folder has a config.json and no weights. `None` after a
/// dry run.
///
/// # Errors
/// As [`sft`].
pub fn pretrain(config: &PretrainConfig, job: Job<'_>) -> Result<Option<Outcome>> {
    let mut problems = Problems::new();
    let path = &config.model.path;
    let source = check_source(path, &mut problems)?;
    if source.as_ref().is_some_and(|source| source.header.face != align_common::model::Face::CausalLm) {
        problems.push(path.display(), "holds a reward or value model, expected a language model");
    }
    let rows = match &source {
        Some(source) => pretrain_rows(config, &source.tokenizer, &mut problems)?,
        None => None,
    };
    problems.into_result()?;
    let (source, rows) = (source.expect("no problem was found"), rows.expect("no problem was found"));
    let sections = Sections {
        model: &config.model,
        train: &config.train,
        optimizer: &config.optimizer,
        schedule: &config.schedule,
        run: &config.run,
    };
    let files = Mixture::new(&config.data.train, &config.data.mix).files;
    launch("pretrain", config, sections, &source.header, &source.tokenizer, rows, files, job)
}

#[expect(clippy::too_many_arguments, reason = "what the two stages found, handed to their one loop")]
fn launch<C: Config>(
    stage: &str,
    config: &C,
    sections: Sections<'_>,
    header: &Header,
    tokenizer: &Tokenizer,
    rows: Rows,
    files: Vec<std::path::PathBuf>,
    job: Job<'_>,
) -> Result<Option<Outcome>> {
    let toml = to_toml(config);
    let steps = total_steps(
        sections.train.steps,
        sections.train.epochs,
        rows.order.epoch_len() as u64,
        sections.train.batch_size as u64,
    );
    let state = preflight(&sections.run.out, job.resume, &toml, Some(steps))?;
    let progress = job.progress;
    let train = &rows.train;
    let counts = [
        ("parameters", header.num_parameters),
        ("rows", train.rows.len() as u64),
        ("tokens", train.tokens() as u64),
        ("loss tokens", train.loss_tokens() as u64),
        ("rows dropped for length", train.dropped as u64),
        ("rows truncated", train.truncated as u64),
        ("bad rows skipped", train.skipped.len() as u64),
        ("steps", steps),
    ];
    let show = |progress: &mut dyn Progress| {
        progress.note(toml.trim_end());
        progress.note("");
        for (what, count) in counts {
            progress.note(&format!("{what:>24}  {count}"));
        }
        for problem in &train.skipped {
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

    let run = sections.run;
    tch::set_num_threads(run.num_threads() as i32);
    let mut facts = job.program;
    facts.insert("stage".to_owned(), json!(stage));
    facts.insert("device".to_owned(), json!(format!("{:?}", run.device())));
    facts.insert("threads".to_owned(), json!(run.num_threads()));
    facts.insert("seed".to_owned(), json!(sections.train.seed));
    facts.extend(counts.map(|(what, count)| (what.replace(' ', "_"), json!(count))));
    facts.insert("inputs".to_owned(), input_sizes(&files)?);
    let spec = Spec { section: run, config: &toml, resume: job.resume, steps, facts, interrupt: job.interrupt };
    let run = match Run::start(spec)? {
        Started::Finished { step } => return Ok(Some(Outcome::AlreadyFinished { step })),
        Started::Ready(run) => run,
    };
    show(progress);
    let options = ModelOptions {
        device: sections.run.device(),
        compute: sections.model.dtype.kind(),
        trainable: true,
        recompute_layers: sections.model.recompute_layers,
    };
    let model = match run.checkpoint() {
        Some(checkpoint) => CausalLm::load(&checkpoint.join("model"), &options)?,
        None if header.has_weights => CausalLm::load(&sections.model.path, &options)?,
        None => {
            let mut model = CausalLm::random(header.config.clone(), sections.train.seed, &options);
            model.set_side_files(SideFiles::capture(&sections.model.path)?);
            model
        }
    };
    Trainer::new(sections, &rows, tokenizer, model, steps).run(run, progress).map(Some)
}
