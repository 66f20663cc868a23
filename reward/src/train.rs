//! The training loop of the reward model: batch → loss → update → metrics → maybe save.

use align_kernels::kind_of;
use align_model::Writing;
use std::ops::Range;

use align_core::error::{Result, finite};
use align_kernels::batch::microbatches;
use align_model::contract::{self, Reference, ScoreContract};
use align_model::{Face, Over, ScalarModel};
use align_run::checkpoint::{Snapshot, State};
use align_run::metrics::Metrics;
use align_run::run::Run;
use align_text::chatml::ChatFormat;
use align_train::optim::{AdamW, clip_scale};
use align_train::schedule::lr;
use align_train::stage;
use serde_json::{Map, json};
use tch::{Kind, Tensor};

use crate::config::RmConfig;
use crate::data::{Margin, RmBatch, Row, flatten, pairs};
use crate::eval::{score, score_pairs};
use crate::loss::{LossParams, RewardStats, reward_loss};
use crate::rows::{EvalSet, Rows};
use crate::stats::pair_accuracy;
use crate::trained_pairs;

/// Number of comparisons of each held-out set that are shown at each evaluation.
const SAMPLES: usize = 4;

/// Trains a reward model on comparisons.
pub struct Trainer {
    config: RmConfig,
    pub(crate) rows: Rows,
    format: ChatFormat,
    pub(crate) model: ScalarModel,
    pub(crate) optimizer: AdamW,
    /// Raw scores of every held-out set; empty if not evaluated since the last step.
    held_out: Vec<Vec<Vec<f64>>>,
}

impl Trainer {
    /// A trainer with zero moments.
    pub fn new(config: RmConfig, rows: Rows, format: ChatFormat, model: ScalarModel) -> Self {
        let named = model.parameters().iter().map(|parameter| (parameter.name.as_str(), &parameter.tensor));
        let optimizer = AdamW::new(named, &config.optimizer);
        Self { config, rows, format, optimizer, model, held_out: Vec::new() }
    }

    /// The token indices that predict the last answer of each row's best dialogue, and the target tokens, for
    /// the language-model loss. Empty without `loss.lm_coef`.
    fn lm_targets(&self, rows: &[&Row], flat: &RmBatch) -> (Vec<i64>, Vec<i64>) {
        let (mut before, mut targets) = (Vec::new(), Vec::new());
        if self.model.lm_head().is_none() {
            return (before, targets);
        }
        let mut segments = flat.flat.segments().iter();
        for row in rows {
            let prefix = (!row.prefix.is_empty()).then(|| segments.next().expect("a prefix").range.clone());
            let tails: Vec<_> = segments.by_ref().take(row.tails.len()).map(|segment| segment.range.clone()).collect();
            let (shared, tail) = (row.prefix.len(), &row.tails[row.best]);
            for index in row.answer_starts[row.best]..shared + tail.len() {
                // Each token is predicted at the index before it, in the shared prefix or in the tail.
                before.push(match &prefix {
                    Some(prefix) if index <= shared => prefix.start + index - 1,
                    _ => tails[row.best].start + index - shared - 1,
                } as i64);
                targets.push(if index < shared { row.prefix[index] } else { tail[index - shared] });
            }
        }
        (before, targets)
    }

    /// The language-model loss on the same forward pass: its contribution to the batch's token mean, and
    /// a scalar whose gradient is that of lm_coef · loss. `hidden` (N, D) predicts `targets` (N). `None`
    /// without `loss.lm_coef`.
    fn lm_gradient(&self, hidden: &Tensor, targets: &[i64], lm_tokens: usize) -> Option<(f64, Tensor)> {
        let head = self.model.lm_head()?;
        let targets = Tensor::from_slice(targets).to_device(hidden.device());
        let scale = -self.config.loss.lm_coef / lm_tokens as f64;
        let (stats, grad) =
            head.gradient(hidden, &targets, &Over::full(), &mut |_, logprobs| logprobs.full_like(scale));
        let share = -stats.logprobs.sum(Kind::Double).double_value(&[]) / lm_tokens as f64;
        Some((share, (hidden.to_kind(Kind::Float) * grad.to_kind(Kind::Float)).sum(Kind::Float)))
    }

    /// The mean loss of scored comparisons.
    fn eval_loss(&self, rows: &[Row], scores: &[Vec<f64>]) -> f64 {
        let _no_grad = tch::no_grad_guard();
        let rows: Vec<&Row> = rows.iter().collect();
        let pairs = pairs(&rows, self.margin());
        let scalars = Tensor::from_slice(&scores.concat());
        reward_loss(&scalars, &pairs, rows.len(), &self.loss_params()).stats.loss
    }

    /// Raw scores of a held-out set, if evaluated since the last step.
    pub(crate) fn held_out_scores(&self, set: usize) -> Option<&Vec<Vec<f64>>> {
        self.held_out.get(set)
    }

    pub(crate) fn microbatch_tokens(&self) -> usize {
        self.config.train.microbatch_tokens
    }

    /// Raw scores of every comparison of a set.
    fn score(&self, set: &EvalSet) -> Vec<Vec<f64>> {
        score(&self.model, &set.rows, self.config.train.microbatch_tokens, &mut |_| {})
    }

    fn loss_params(&self) -> LossParams {
        LossParams { center_coef: self.config.loss.center_coef, label_smoothing: self.config.loss.label_smoothing }
    }

    fn margin(&self) -> Margin {
        if self.config.loss.margin { Margin::OfScores } else { Margin::None }
    }

    pub(crate) fn microbatches(&self, batch: &[&Row]) -> Vec<Range<usize>> {
        let lengths: Vec<usize> = batch.iter().map(|row| row.len()).collect();
        microbatches(&lengths, self.config.train.microbatch_tokens)
    }

    /// The rows as a flat batch.
    pub(crate) fn flatten(&self, rows: &[&Row]) -> RmBatch {
        flatten(rows, self.model.device())
    }

    /// Accumulates the gradient of these rows' share of the loss over `num_rows`. Returns the share's
    /// statistics and the share of the language-model loss.
    pub(crate) fn backward(&self, rows: &[&Row], num_rows: usize, lm_tokens: usize) -> (RewardStats, f64) {
        let flat = self.flatten(rows);
        let (before, targets) = self.lm_targets(rows, &flat);
        let (num_ends, num_targets) = (flat.ends.size()[0], targets.len() as i64);
        let indices = Tensor::cat(&[&flat.ends, &Tensor::from_slice(&before).to_device(flat.ends.device())], 0);
        let forward = self.model.forward_train(&flat.flat, Some(&indices), None); // (S + N, D)
        let scalars = self.model.scalars(&forward.hidden.narrow(0, 0, num_ends)); // (S)
        let loss = reward_loss(&scalars, &pairs(rows, self.margin()), num_rows, &self.loss_params());
        let lm_hidden = forward.hidden.narrow(0, num_ends, num_targets);
        let (total, share) = match self.lm_gradient(&lm_hidden, &targets, lm_tokens) {
            Some((share, extra)) => (loss.loss + extra, share),
            None => (loss.loss, 0.0),
        };
        self.model.backward(forward, &total);
        (loss.stats, share)
    }
}

/// Number of targets of the language-model loss.
pub(crate) fn num_lm_tokens(batch: &[&Row]) -> usize {
    batch.iter().map(|row| row.num_answer_tokens(row.best)).sum()
}

impl stage::Trainer for Trainer {
    /// One optimizer step on the step's comparisons.
    fn step(&mut self, step: u64) -> Result<Metrics> {
        self.held_out.clear();
        let train = &self.config.train;
        let batch: Vec<&Row> = self.rows.batch(step).collect();
        let lm_tokens = num_lm_tokens(&batch);

        // The mean over the batch's comparisons, independent of the microbatches.
        let (mut stats, mut lm_loss) = (RewardStats::default(), 0.0);
        for range in self.microbatches(&batch) {
            let (microbatch_stats, share) = self.backward(&batch[range], batch.len(), lm_tokens);
            stats.add(&microbatch_stats);
            lm_loss += share;
        }
        let grad_norm = self.optimizer.grad_norm();
        finite("train/loss", stats.loss)?;
        finite("train/grad_norm", grad_norm)?;
        let lr = lr(self.config.optimizer.lr, &self.config.schedule, step, self.rows.batches.steps());
        self.optimizer.step(lr, clip_scale(grad_norm, train.grad_clip));

        let mut metrics = Metrics::new();
        metrics.set("train/loss", stats.loss + self.config.loss.lm_coef * lm_loss);
        metrics.set("train/accuracy", stats.accuracy);
        metrics.set("train/margin", stats.margin);
        if self.config.loss.lm_coef > 0.0 {
            metrics.set("train/lm_loss", lm_loss);
        }
        metrics.set("train/grad_norm", grad_norm);
        metrics.set("train/lr", lr);
        Ok(metrics)
    }

    /// Accuracy and loss of every held-out file, with histograms and a few samples.
    fn evaluate(&mut self, run: &mut Run, done: u64) -> Result<Metrics> {
        let mut metrics = Metrics::new();
        let tokenizer = self.format.tokenizer();
        self.held_out = self.rows.eval.iter().map(|set| self.score(set)).collect();
        for (set, scores) in self.rows.eval.iter().zip(&self.held_out) {
            let pairs = score_pairs(&set.rows, scores);
            let name = &set.name;
            metrics.set(format!("eval/{name}/accuracy"), pair_accuracy(pairs.iter().copied()).accuracy);
            metrics.set(format!("eval/{name}/loss"), self.eval_loss(&set.rows, scores));
            let margins: f64 = pairs.iter().map(|(chosen, rejected)| chosen - rejected).sum();
            metrics.set(format!("eval/{name}/margin"), margins / pairs.len() as f64);
            let spread = Reference::new(name.as_str(), &scores.concat());
            metrics.set(format!("eval/{name}/score_mean"), spread.mean);
            metrics.set(format!("eval/{name}/score_std"), spread.std);
            let (chosen, rejected): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            run.histogram(done, &format!("scores/{name}/chosen"), &chosen)?;
            run.histogram(done, &format!("scores/{name}/rejected"), &rejected)?;
            for (row, scores) in set.rows.iter().zip(scores).take(SAMPLES) {
                let mut sample = Map::new();
                sample.insert("set".to_owned(), json!(name));
                sample.insert("prompt".to_owned(), json!(tokenizer.decode(&row.prefix)));
                let responses: Vec<String> = row.tails.iter().map(|tail| tokenizer.decode(tail)).collect();
                sample.insert("responses".to_owned(), json!(responses));
                sample.insert("scores".to_owned(), json!(scores));
                run.sample(done, &sample)?;
            }
        }
        Ok(metrics)
    }

    fn note(&self, metrics: &Metrics) -> String {
        let number = |name| metrics.get(name).unwrap_or(f64::NAN);
        format!("loss {:.4} accuracy {:.2}", number("train/loss"), number("train/accuracy"))
    }

    /// The model with its score contract, whose mean and standard deviation are those of the first held-out
    /// set.
    fn snapshot(&self) -> Snapshot {
        let mut contract = ScoreContract::new(&self.format);
        if let (Some(set), Some(file)) = (self.rows.eval.first(), self.config.data.eval.first()) {
            let name = file.display().to_string();
            let scores = self.held_out_scores(0).cloned().unwrap_or_else(|| self.score(set));
            contract.reference = Some(Reference::new(name, &scores.concat()));
        }
        let mut model =
            self.model.saved(Writing::of(self.config.run.result_dtype, Face::Scalar, self.config.train.seed));
        model.add_file(contract::FILE, contract.to_bytes());
        model.add_file(trained_pairs::FILE, self.rows.trained_pairs.to_bytes());
        model.add_scoring_files(&self.format);
        let mut state = State::new();
        self.optimizer.save("model", &mut state);
        Snapshot { models: Box::new(vec![("model", model)]), state }
    }

    fn compute(&self) -> Kind {
        kind_of(self.config.model.dtype)
    }

    fn load(&mut self, state: &State) -> Result<()> {
        self.optimizer.load("model", state)
    }
}
