//! Everything that a run of the reward model reads, and what is said of it.

use std::collections::BTreeMap;

use align_core::error::{Problem, cause};
use align_data::{Batches, Unread};
use align_train::stage::misfits;
use serde_json::{Value, json};

use crate::data::{Comparisons, Row};
use crate::seen::SeenPairs;
use crate::survey::{Survey, known};

/// A held-out file.
pub struct EvalSet {
    /// The file's stem.
    pub name: String,
    /// Its comparisons.
    pub rows: Vec<Row>,
    /// Those left out for their length.
    pub dropped: usize,
    /// Those left out because nothing in them is better than anything.
    pub tied: usize,
}

/// Everything a run reads.
pub struct Rows {
    /// Training comparisons of all sources.
    pub train: Comparisons,
    /// What is in them.
    pub survey: Survey,
    /// Which of them each step takes.
    pub batches: Batches,
    /// Under which key the config names the training files.
    pub key: &'static str,
    /// What is said of the batches.
    pub uses: Vec<(&'static str, Value)>,
    /// Held-out files.
    pub eval: Vec<EvalSet>,
    /// Bad rows of all files that were left out, by name.
    pub skipped: Vec<Problem>,
    /// Keys of rows that nothing reads.
    pub unread: Unread,
    /// The pairs of this training and of those that the model comes from.
    pub seen: SeenPairs,
}

/// So many pairs that contradict others say that labels are drawn, or that answers were swapped.
const MANY_CONTRADICTING: f64 = 0.05;

impl Rows {
    /// The comparisons of a step, in order.
    pub fn batch(&self, step: u64) -> impl Iterator<Item = &Row> {
        self.batches.rows(step).map(|row| &self.train.rows[row])
    }

    /// What became of the data: shown before the first step, and in run.json.
    pub fn facts(&self) -> Vec<(&'static str, Value)> {
        let (train, survey) = (&self.train, &self.survey);
        let of_sets = |count: fn(&EvalSet) -> usize| json!(self.eval.iter().map(count).sum::<usize>());
        let known: u64 = self.eval.iter().map(|set| known(&set.rows, &self.seen).0).sum();
        let mut facts = vec![("comparisons", json!(train.rows.len()))];
        facts.extend(self.uses.iter().cloned());
        facts.extend([
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
            ("held-out comparisons trained on", json!(known)),
            ("bad rows skipped", json!(self.skipped.len())),
        ]);
        let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
        self.skipped.iter().for_each(|problem| *reasons.entry(cause(&problem.what)).or_default() += 1);
        let led = train.rows.iter().filter(|row| row.begins_with_newline).count();
        if led > 0 {
            facts.push(("comparisons with a turn that begins with a line break", json!(led)));
        }
        if !self.unread.is_empty() {
            facts.push(("keys that are not read", json!(self.unread)));
        }
        if !reasons.is_empty() {
            facts.push(("bad rows by reason", json!(reasons)));
        }
        facts
    }

    /// What of the data does not fit a training on it.
    pub fn misfits(&self, max_tokens: usize) -> Vec<String> {
        let (train, Survey { pairs, identical, contradicting, duplicates, .. }) = (&self.train, self.survey.clone());
        let (kept, dropped) = (train.rows.len() as u64, train.dropped as u64);
        let (all, key) = (kept + dropped + train.tied as u64, self.key);
        let mut found = Vec::new();
        if identical > 0 {
            found.push(format!(
                "{key}: {identical} of {pairs} pairs are the same text twice: they stay, each adds log 2 to the loss whatever the model says, and \
                 none teaches what is better"
            ));
        }
        if contradicting as f64 > MANY_CONTRADICTING * pairs as f64 {
            let share = misfits::percent(contradicting as f64 / pairs as f64);
            found.push(format!(
                "{key}: {contradicting} of {pairs} pairs ({share}) are also there the other way round, and no model can be right on both"
            ));
        }
        found.extend(misfits::dropped("data.max_tokens", max_tokens, "comparisons", dropped, all));
        found.extend(misfits::duplicates(key, "comparisons", duplicates, kept));
        for set in &self.eval {
            let (known, all) = known(&set.rows, &self.seen);
            found.extend(misfits::known("data.eval", &set.name, "comparisons", known, all));
        }
        found
    }
}
