//! The checked inputs of `align rm`.

use std::path::PathBuf;

use align_core::error::{Problems, Result};
use align_data::{Unread, files_of};
use align_kernels::kind_of;
use align_model::{ModelOptions, ScalarModel};
use align_text::chatml::ChatFormat;
use align_train::stage::{
    Mixture, Source, check_device, check_format, check_source, check_trained_length, checked_device, misfits, set_names,
};

use crate::config::RmConfig;
use crate::data;
use crate::rows::{EvalSet, Rows};
use crate::survey::Survey;
use crate::train::Trainer;
use crate::trained_pairs::TrainedPairs;

/// `align rm`: preference model pretraining, or finetuning.
pub struct Rm {
    pub(crate) config: RmConfig,
    pub(crate) source: Source,
    pub(crate) format: ChatFormat,
    pub(crate) rows: Rows,
}

impl Rm {
    /// Reads and checks everything, without loading a tensor.
    pub(crate) fn read(config: &RmConfig) -> Result<Self> {
        let mut problems = Problems::new();
        let path = &config.model.path;
        check_device("run.device", config.run.device(), &mut problems);
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
        let ((source, format), rows) = problems.into_checked(source.zip(format).zip(rows))?;
        Ok(Self { config: config.clone(), source, format, rows })
    }

    /// Warnings about the config.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let Self { config, source, rows, .. } = self;
        let (data, train) = (&config.data, &config.train);
        let mut found = misfits::schedule(config.optimizer.lr, &config.schedule, rows.batches.steps());
        found.extend(rows.warnings(data.max_tokens));
        if train.steps.is_some() {
            let count = rows.train.rows.len();
            found.extend(misfits::repeated("train.batch_size", train.batch_size, "comparisons", count));
        }
        let longer_than = |limit| misfits::longer(rows.train.rows.iter().map(data::Row::longest), limit);
        let what = "comparisons have a dialogue";
        found.extend(misfits::beyond_positions(&source.header.config, "data.max_tokens", what, longer_than));
        found
    }

    /// The initial model. A resume loads the weights of the checkpoint into it.
    pub(crate) fn model(&self) -> Result<ScalarModel> {
        let Self { config, source, .. } = self;
        let path = &config.model.path;
        let options = ModelOptions {
            device: checked_device(config.run.device()),
            compute: kind_of(config.model.dtype),
            trainable: true,
            recompute_layers: config.model.recompute_layers,
        };
        // The language-model loss trains the language-model head, too.
        let mut model = if config.loss.lm_coef > 0.0 {
            ScalarModel::load_with_lm_head(path, &options, config.train.seed)?
        } else {
            ScalarModel::load(path, &options, config.train.seed)?
        };
        model.set_pad_token_id(source.tokenizer.special().endoftext);
        Ok(model)
    }

    /// A trainer of this model with zero moments.
    pub(crate) fn trainer(self, model: ScalarModel) -> Trainer {
        Trainer::new(self.config, self.rows, self.format, model)
    }
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
    let trained_before = problems.absorb(TrainedPairs::read(&config.model.path))?.flatten();
    Ok(train.map(|mut train| {
        skipped.splice(0..0, std::mem::take(&mut train.skipped));
        let batches = config.train.batches(sources.order(&train.file_rows, data.shuffle.then_some(config.train.seed)));
        let mut trained_pairs = trained_before.unwrap_or_default();
        trained_pairs.extend(&train.rows);
        unread.add(&train.unread);
        let uses = sources.metadata(&batches);
        Rows {
            survey: Survey::new(&train),
            key: sources.key(),
            uses,
            train,
            batches,
            eval,
            skipped,
            unread,
            trained_pairs,
        }
    }))
}
