//! The data of a reward-model run, its metadata and warnings.

use std::collections::BTreeMap;

use align_core::error::{Problem, cause};
use align_data::{Batches, Unread};
use align_train::stage::misfits;
use serde_json::{Value, json};

use crate::data::{Comparisons, Row};
use crate::survey::{Survey, overlap};
use crate::trained_pairs::TrainedPairs;

/// A held-out file.
pub struct EvalSet {
    /// The file's stem.
    pub name: String,
    /// The comparisons.
    pub rows: Vec<Row>,
    /// Number of comparisons left out because of their length.
    pub dropped: usize,
    /// Number of comparisons left out because no answer is better than another.
    pub tied: usize,
}

/// The data of a run.
pub struct Rows {
    /// Training comparisons of all sources.
    pub train: Comparisons,
    /// Counts over the training comparisons.
    pub survey: Survey,
    /// The training comparisons of each step.
    pub batches: Batches,
    /// The config key of the training files.
    pub key: &'static str,
    /// Metadata of the batches.
    pub uses: Vec<(&'static str, Value)>,
    /// Held-out files.
    pub eval: Vec<EvalSet>,
    /// Bad rows that were skipped, with location and reason.
    pub skipped: Vec<Problem>,
    /// Keys of rows that are not read.
    pub unread: Unread,
    /// The pairs of this run and of the runs that trained the initial model.
    pub trained_pairs: TrainedPairs,
}

/// Fraction of contradicting pairs above which labels may be random, or answers swapped.
const MANY_CONTRADICTING: f64 = 0.05;

impl Rows {
    /// The comparisons of a step, in order.
    pub fn batch(&self, step: u64) -> impl Iterator<Item = &Row> {
        self.batches.rows(step).map(|row| &self.train.rows[row])
    }

    /// Counts of the data: shown before the first step, and in run.json.
    pub fn metadata(&self) -> Vec<(&'static str, Value)> {
        let (train, survey) = (&self.train, &self.survey);
        let of_sets = |count: fn(&EvalSet) -> usize| json!(self.eval.iter().map(count).sum::<usize>());
        let trained_on: u64 = self.eval.iter().map(|set| overlap(&set.rows, &self.trained_pairs).0).sum();
        let mut metadata = vec![("comparisons", json!(train.rows.len()))];
        metadata.extend(self.uses.iter().cloned());
        metadata.extend([
            ("turns", json!(survey.turns)),
            ("tokens", json!(survey.tokens)),
            ("tokens computed", json!(survey.computed)),
            ("pairs", json!(survey.pairs)),
            ("identical pairs", json!(survey.identical)),
            ("contradicting pairs", json!(survey.contradicting)),
            ("duplicate comparisons", json!(survey.duplicates)),
            ("comparisons with special-token text", json!(survey.special_text)),
            ("dropped for length", json!(train.dropped)),
            ("without a better answer", json!(train.tied)),
            ("held-out dropped", of_sets(|set| set.dropped + set.tied)),
            ("held-out comparisons trained on", json!(trained_on)),
            ("bad rows skipped", json!(self.skipped.len())),
        ]);
        let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
        self.skipped.iter().for_each(|problem| *reasons.entry(cause(&problem.what)).or_default() += 1);
        let with_newline = train.rows.iter().filter(|row| row.begins_with_newline).count();
        if with_newline > 0 {
            metadata.push(("comparisons with a turn that begins with a line break", json!(with_newline)));
        }
        if !self.unread.is_empty() {
            metadata.push(("keys that are not read", json!(self.unread)));
        }
        if !reasons.is_empty() {
            metadata.push(("bad rows by reason", json!(reasons)));
        }
        metadata
    }

    /// Warnings about settings that do not fit the data.
    pub fn warnings(&self, max_tokens: usize) -> Vec<String> {
        let (train, Survey { pairs, identical, contradicting, duplicates, .. }) = (&self.train, self.survey.clone());
        let (kept, dropped) = (train.rows.len() as u64, train.dropped as u64);
        let (all, key) = (kept + dropped + train.tied as u64, self.key);
        let mut found = Vec::new();
        if identical > 0 {
            found.push(format!(
                "{key}: {identical} of {pairs} pairs are the same text twice: they are kept, each adds a constant to the loss, and none has \
                 a gradient"
            ));
        }
        if contradicting as f64 > MANY_CONTRADICTING * pairs as f64 {
            let share = misfits::percent(contradicting as f64 / pairs as f64);
            found.push(format!(
                "{key}: {contradicting} of {pairs} pairs ({share}) also occur in the opposite order, and no model can be right on both"
            ));
        }
        found.extend(misfits::dropped("data.max_tokens", max_tokens, "comparisons", dropped, all));
        found.extend(misfits::duplicates(key, "comparisons", duplicates, kept));
        for set in &self.eval {
            let (trained_on, all) = overlap(&set.rows, &self.trained_pairs);
            found.extend(misfits::known("data.eval", &set.name, "comparisons", trained_on, all));
        }
        found
    }
}
