//! The reward model: preference model pretraining, then finetuning, on comparisons; its evaluation, and its use.
//!
//! A run reads its config ([`config`]), turns comparisons into tokens whose shared prefix is computed once ([`data`], [`rows`]), and
//! trains step by step ([`train`]) on the Bradley-Terry loss of scores read at the end token ([`loss`]). [`eval`] scores
//! held-out comparisons, [`verdict`] says whether to trust the accuracy, [`seen`] which pairs are not new to the model, [`survey`] what a run's data holds;
//! [`responses`] are scored without being compared.
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

#![forbid(unsafe_code)]

pub mod config;
pub mod data;
pub mod doctor;
pub mod eval;
pub mod loss;
pub mod plan;
mod replay;
pub mod responses;
pub mod rows;
pub mod seen;
pub mod stats;
pub mod survey;
pub mod train;
pub mod verdict;
mod written;

use align_kernels::kind_of;
use std::path::PathBuf;

use align_core::config::to_toml;
use align_core::error::{Problems, Result};
use align_data::{Unread, files_of};
use align_model::{Face, ModelOptions, ScalarModel};
use align_run::run::{Input, Outcome, Recorded};
use align_text::chatml::ChatFormat;
use align_train::stage::{
    self, Job, Launched, Mixture, Outset, Plan, Replay, Source, check_format, check_source, check_trained_length,
    launch, misfits, model_input, passed_over, set_names,
};
use serde_json::json;

pub use doctor::doctor;
pub use plan::plan;

use config::{RmConfig, Stage};
use rows::{EvalSet, Rows};
use seen::SeenPairs;
use survey::Survey;
use train::Trainer;

/// Runs `align rm`. `None` after a dry run.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] with every mistake in config, data and checkpoint, before a model loads; what
/// [`stage::train`] returns.
pub fn rm(config: &RmConfig, job: Job<'_>) -> Result<Option<Outcome>> {
    let (source, format, rows) = check(config)?;
    let mut facts = vec![("parameters", json!(source.header.num_parameters))];
    facts.extend(rows.facts());
    facts.extend(format.system_note().map(|note| ("system text", json!(note))));
    let data = &config.data;
    let paths = std::iter::once(&data.train).chain(data.mix.iter().map(|source| &source.path)).chain([&data.eval]);
    facts.extend(passed_over(paths));
    let plan = Plan {
        stage: config.stage.map_or("", Stage::name),
        section: &config.run,
        config: &to_toml(config),
        seed: config.train.seed,
        steps: rows.batches.steps(),
        schedule: Some(&config.schedule),
        facts,
        outset: outset(config, &source, &rows),
        skipped: &rows.skipped,
        inputs: made_of(config)?,
    };
    let (run, progress) = match launch(plan, job)? {
        Launched::Over(outcome) => return Ok(outcome),
        Launched::Ready(run, progress) => (run, progress),
    };
    let model = load(config, &source)?;
    stage::train(Trainer::new(config, &rows, &format, model), run, progress).map(Some)
}

/// Repeats a step of `align rm` that the run recorded.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] as [`rm`], and when the data or the record is not what the run left.
pub fn replay(config: &RmConfig, recorded: &Recorded) -> Result<Replay> {
    let (source, format, rows) = check(config)?;
    recorded.check_inputs(&made_of(config)?)?;
    let model = load(config, &source)?;
    stage::replay(Trainer::new(config, &rows, &format, model), &config.run, recorded)
}

/// What a resume must find unchanged.
fn made_of(config: &RmConfig) -> Result<Vec<Input>> {
    let mut inputs = Mixture::new(&config.data.train, &config.data.mix).inputs();
    inputs.push(model_input("model.path", &config.model.path)?);
    Ok(inputs)
}

/// What is told before the first step.
fn outset(config: &RmConfig, source: &Source, rows: &Rows) -> Outset {
    let (data, train) = (&config.data, &config.train);
    let starts_from = match source.header.face {
        Face::CausalLm => "a language model: the reward head is new",
        Face::Scalar => "a reward model: its head is kept",
    };
    let mut found = misfits::schedule(config.optimizer.lr, &config.schedule, rows.batches.steps());
    found.extend(rows.misfits(data.max_tokens));
    if train.steps.is_some() {
        let count = rows.train.rows.len();
        found.extend(misfits::repeated("train.batch_size", train.batch_size, "comparisons", count));
    }
    let longer_than = |limit| misfits::longer(rows.train.rows.iter().map(data::Row::longest), limit);
    let what = "comparisons have a dialogue";
    found.extend(misfits::beyond_positions(&source.header.config, "data.max_tokens", what, longer_than));
    Outset { starts_from: starts_from.to_owned(), warnings: found }
}

/// The model as it starts; a checkpoint's state brings its weights, all else is the source's.
fn load(config: &RmConfig, source: &Source) -> Result<ScalarModel> {
    let path = &config.model.path;
    let options = ModelOptions {
        device: stage::checked_device(config.run.device()),
        compute: kind_of(config.model.dtype),
        trainable: true,
        recompute_layers: config.model.recompute_layers,
    };
    // With the language-model loss, the head is part of what is trained.
    let mut model = if config.loss.lm_coef > 0.0 {
        ScalarModel::load_with_lm_head(path, &options, config.train.seed)?
    } else {
        ScalarModel::load(path, &options, config.train.seed)?
    };
    model.set_pad_token_id(source.tokenizer.special().endoftext);
    Ok(model)
}

/// Reads and checks everything that a run needs, without loading a tensor.
fn check(config: &RmConfig) -> Result<(Source, ChatFormat, Rows)> {
    let mut problems = Problems::new();
    let path = &config.model.path;
    stage::check_device("run.device", config.run.device(), &mut problems);
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
    if let (Some(source), Some(rows)) = (&source, &rows) {
        let longest = rows.train.rows.iter().map(data::Row::longest).max().unwrap_or(0);
        check_trained_length(&source.header, longest, "data.max_tokens", "lets in a dialogue", &mut problems);
    }
    problems.into_result()?;
    let known = "no problem was found";
    Ok((source.expect(known), format.expect(known), rows.expect(known)))
}

fn read_rows(config: &RmConfig, format: &ChatFormat, problems: &mut Problems) -> Result<Option<Rows>> {
    let data = &config.data;
    let read = |files: &[PathBuf]| data::read(files, format, Some(data.max_tokens), data.bad_rows);
    let sources = Mixture::new(&data.train, &data.mix);
    let train = problems.absorb(read(&sources.files))?;
    let (mut eval, mut skipped, mut unread) = (Vec::new(), Vec::new(), Unread::default());
    for (name, set) in set_names(&data.eval).into_iter().zip(data.eval.iter()) {
        if let Some(set) = problems.absorb(read(&files_of(set)))? {
            unread.add(&set.unread);
            skipped.extend(set.skipped);
            eval.push(EvalSet { name, rows: set.rows, dropped: set.dropped, tied: set.tied });
        }
    }
    let before = problems.absorb(SeenPairs::read(&config.model.path))?.flatten();
    Ok(train.map(|mut train| {
        skipped.splice(0..0, std::mem::take(&mut train.skipped));
        let batches = config.train.batches(sources.order(&train.file_rows, config.train.seed, data.shuffle));
        let mut seen = before.unwrap_or_default();
        seen.extend(&train.rows);
        unread.add(&train.unread);
        let uses = sources.facts(&batches);
        Rows { survey: Survey::new(&train), key: sources.key(), uses, train, batches, eval, skipped, unread, seen }
    }))
}
