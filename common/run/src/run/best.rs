//! Finds the best checkpoint, from the logged losses and the existing folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::checkpoint::folder_name;

/// The checkpoint with the lowest loss on the held-out sets. Only checkpoints that were evaluated at their
/// own step are considered.
#[derive(Debug, Clone, PartialEq)]
pub struct Best {
    /// Steps done.
    pub step: u64,
    /// The mean over the sets.
    pub loss: f64,
    /// Its folder.
    pub path: PathBuf,
}

/// The mean loss on the held-out sets, by steps done.
#[derive(Debug, Default)]
pub(super) struct EvalLosses(BTreeMap<u64, f64>);

impl EvalLosses {
    /// Records the line that was logged when `done` steps were done.
    pub(super) fn record<'a>(&mut self, done: u64, line: impl Iterator<Item = (&'a str, Option<f64>)>) {
        self.0.extend(eval_loss(line).map(|loss| (done, loss)));
    }

    /// The best of the checkpoints of these steps (oldest first) in `folder`; the first of equal ones.
    pub(super) fn best(&self, steps: impl Iterator<Item = u64>, folder: &Path) -> Option<Best> {
        let evaluated = steps.filter_map(|step| Some((step, *self.0.get(&step)?)));
        let (step, loss) = evaluated.min_by(|(_, one), (_, other)| one.total_cmp(other))?;
        Some(Best { step, loss, path: folder.join(folder_name(step)) })
    }
}

/// The mean of the losses on the held-out sets, `eval/<set>/loss`; `None` without such a set, or if one is
/// non-finite.
pub(super) fn eval_loss<'a>(line: impl Iterator<Item = (&'a str, Option<f64>)>) -> Option<f64> {
    let of_set = |name: &str| name.strip_prefix("eval/").and_then(|rest| rest.strip_suffix("/loss")).is_some();
    let losses: Option<Vec<f64>> = line.filter(|(name, _)| of_set(name)).map(|(_, loss)| loss).collect();
    let losses = losses.filter(|losses| !losses.is_empty())?;
    let mean = losses.iter().sum::<f64>() / losses.len() as f64;
    mean.is_finite().then_some(mean)
}
