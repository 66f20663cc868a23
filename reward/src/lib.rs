//! The reward model: preference model pretraining, then finetuning, on comparisons; and its evaluation.
//!
//! A run reads its config ([`config`]), turns comparisons into tokens whose shared prefix is computed once ([`data`]), and
//! trains step by step ([`train`]) on the Bradley-Terry loss of scores read at the end token ([`loss`]). [`eval`] scores
//! held-out comparisons, [`stats`] says how far to trust the accuracy.
//!
//! ```
//! use align_reward::loss::{LossParams, Pairs, reward_loss};
//! use tch::Tensor;
//!
//! // A pair whose chosen dialogue scores 1 more: −log σ(1).
//! let mut pairs = Pairs::new();
//! pairs.push_ranked(0..2);
//! let loss = reward_loss(&Tensor::from_slice(&[1.5f32, 0.5]), &pairs, 1, &LossParams::default());
//! assert!((loss.stats.loss - (1.0 + (-1f64).exp()).ln()).abs() < 1e-6);
//! assert_eq!((loss.stats.accuracy, loss.stats.margin), (1.0, 1.0));
//! ```

pub mod config;
pub mod data;
pub mod eval;
pub mod loss;
pub mod stats;
pub mod train;

use std::path::PathBuf;

use align_common::chatml::ChatFormat;
use align_common::config::{to_toml, total_steps};
use align_common::error::{Problems, Result};
use align_common::model::{Face, ModelOptions, ScalarModel};
use align_common::progress::Progress;
use align_common::run::{Outcome, Preflight, Run, Spec, Started, preflight};
use align_common::stage::{Job, Mixture, check_format, check_source, input_sizes, set_names};
use serde_json::json;

use config::RmConfig;
use train::{EvalSet, Rows, Trainer};

/// Runs `align rm`. `None` after a dry run.
///
/// # Errors
/// [`align_common::error::Error::Invalid`] with every mistake in config, data and checkpoint, before a model loads; what
/// [`Trainer::run`] returns.
pub fn rm(config: &RmConfig, job: Job<'_>) -> Result<Option<Outcome>> {
    let mut problems = Problems::new();
    let path = &config.model.path;
    let source = check_source(path, &mut problems)?;
    if let Some(source) = &source {
        if !source.header.has_weights {
            problems.push(path.display(), "holds no weights, expected a language model or a reward model");
        }
        if config.loss.lm_coef > 0.0 && !source.header.has_lm_head {
            problems.push(
                path.display(),
                "has no language-model head, which loss.lm_coef above 0 needs; start from a language model or set it to 0",
            );
        }
    }
    let format = check_format(path, source.as_ref(), &config.data.system, &mut problems)?;
    let rows = match &format {
        Some(format) => read_rows(config, format, &mut problems)?,
        None => None,
    };
    if let Some(rows) = &rows
        && config.loss.margin
        && rows.train.rows.iter().all(|row| row.scores.is_none())
    {
        problems.push(
            "loss.margin",
            "takes margins from the scores of the data, and no training row has any; expected `scores`",
        );
    }
    problems.into_result()?;
    let known = "no problem was found";
    let (source, format, rows) = (source.expect(known), format.expect(known), rows.expect(known));

    let toml = to_toml(config);
    let train = &config.train;
    let steps = total_steps(train.steps, train.epochs, rows.order.epoch_len() as u64, train.batch_size as u64);
    let state = preflight(&config.run.out, job.resume, &toml, Some(steps))?;
    let progress = job.progress;
    let starts_from = match source.header.face {
        Face::CausalLm => "a language model: the reward head is new",
        Face::Scalar => "a reward model: its head is kept",
    };
    let computed: usize = rows.train.rows.iter().map(data::Row::len).sum();
    let whole: usize = rows.train.rows.iter().map(data::Row::len_unshared).sum();
    let counts = [
        ("parameters", source.header.num_parameters),
        ("comparisons", rows.train.rows.len() as u64),
        ("tokens", whole as u64),
        ("tokens computed", computed as u64),
        ("dropped for length", rows.train.dropped as u64),
        ("without a better answer", rows.train.tied as u64),
        ("bad rows skipped", rows.train.skipped.len() as u64),
        ("steps", steps),
    ];
    let show = |progress: &mut dyn Progress| {
        progress.note(toml.trim_end());
        progress.note("");
        progress.note(&format!("{:>24}  {starts_from}", "starts from"));
        for (what, count) in counts {
            progress.note(&format!("{what:>24}  {count}"));
        }
        for problem in &rows.train.skipped {
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
    facts.insert("stage".to_owned(), json!(config.stage));
    facts.insert("device".to_owned(), json!(format!("{:?}", run.device())));
    facts.insert("threads".to_owned(), json!(run.num_threads()));
    facts.insert("seed".to_owned(), json!(train.seed));
    facts.extend(counts.map(|(what, count)| (what.replace(' ', "_"), json!(count))));
    facts.insert("inputs".to_owned(), input_sizes(&Mixture::new(&config.data.train, &config.data.mix).files)?);
    let spec = Spec { section: run, config: &toml, resume: job.resume, steps, facts, interrupt: job.interrupt };
    let started = match Run::start(spec)? {
        Started::Finished { step } => return Ok(Some(Outcome::AlreadyFinished { step })),
        Started::Ready(started) => started,
    };
    show(progress);
    let options = ModelOptions {
        device: run.device(),
        compute: config.model.dtype.kind(),
        trainable: true,
        recompute_layers: config.model.recompute_layers,
    };
    // With the language-model loss, the head is part of what is trained; a checkpoint keeps it in its state.
    let folder = started.checkpoint().map_or_else(|| path.clone(), |checkpoint| checkpoint.join("model"));
    let mut model = if config.loss.lm_coef > 0.0 {
        ScalarModel::load_with_lm_head(path, &options, train.seed)?
    } else {
        ScalarModel::load(&folder, &options, train.seed)?
    };
    model.set_pad_token_id(source.tokenizer.special().endoftext);
    Trainer::new(config, &rows, &format, model, steps).run(started, progress).map(Some)
}

fn read_rows(config: &RmConfig, format: &ChatFormat, problems: &mut Problems) -> Result<Option<Rows>> {
    let data = &config.data;
    let read = |files: &[PathBuf]| data::read(files, format, Some(data.max_tokens), data.bad_rows);
    let sources = Mixture::new(&data.train, &data.mix);
    let train = problems.absorb(read(&sources.files))?;
    let mut eval = Vec::new();
    for (name, file) in set_names(&data.eval).into_iter().zip(data.eval.iter()) {
        let set = problems.absorb(read(std::slice::from_ref(file)))?;
        eval.extend(set.map(|set| EvalSet { name, rows: set.rows }));
    }
    Ok(train.map(|train| Rows { order: sources.order(&train.file_rows, config.train.seed, data.shuffle), train, eval }))
}
