//! Diagnostics of a reward model on a set of pairs: accuracy by margin and by length, calibration, and the
//! baselines of other prompts and of the longer answer.

use serde::Serialize;

use crate::stats::{PairAccuracy, agreement, pair_accuracy};

/// A scored pair: first the better answer, then the worse.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoredPair {
    /// Raw scores.
    pub scores: [f64; 2],
    /// Raw scores of the same answers after another row's prompt, if there is one.
    pub blind_scores: Option<[f64; 2]>,
    /// Number of answer tokens.
    pub lengths: [usize; 2],
    /// Whether both dialogues are the same text.
    pub identical: bool,
    /// Whether the model was trained on the pair; `None` when unknown.
    pub trained_on: Option<bool>,
}

/// A group of pairs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bucket {
    /// What the pairs have in common.
    pub name: String,
    /// The accuracy on these pairs.
    #[serde(flatten)]
    pub accuracy: PairAccuracy,
}

/// Pairs of about the same confidence σ(|score difference|).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CalibrationBin {
    /// Lower bound of the confidence.
    pub low: f64,
    /// Upper bound of the confidence, exclusive.
    pub high: f64,
    /// Number of pairs.
    pub pairs: u64,
    /// Their mean confidence; 0 without pairs.
    pub confidence: f64,
    /// Fraction of pairs whose better answer has the higher score; a tie counts one half. 0 without pairs.
    pub accuracy: f64,
}

/// The agreement of confidence and accuracy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Calibration {
    /// Ten bins from ½ to 1.
    pub bins: Vec<CalibrationBin>,
    /// Expected calibration error: mean |accuracy − confidence| over bins, weighted by their pairs.
    ///
    /// Source: Naeini, Cooper, Hauskrecht, "Obtaining well calibrated probabilities using Bayesian
    /// binning", AAAI 2015.
    pub ece: f64,
}

/// The evaluation of a model on a set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Accuracy over all pairs.
    #[serde(flatten)]
    pub accuracy: PairAccuracy,
    /// Mean of chosen − rejected.
    pub margin: f64,
    /// The accuracy of the rule "the longer answer is better".
    pub longer_wins: PairAccuracy,
    /// Fraction of pairs of different length whose longer answer has the higher score.
    pub picks_longer: f64,
    /// The model's accuracy after other rows' prompts; absent when all rows have the same prompt.
    pub prompt_blind: Option<PairAccuracy>,
    /// Accuracy by |score difference|, in five groups of equal size.
    pub by_margin: Vec<Bucket>,
    /// Accuracy by the relative length of the better answer.
    pub by_length: Vec<Bucket>,
    /// Confidence against accuracy.
    pub calibration: Calibration,
    /// Number of pairs of two equal texts.
    pub identical: u64,
    /// Number of pairs that the model was trained on; absent when unknown.
    pub seen_in_training: Option<u64>,
    /// Warning signs about the accuracy, one sentence each.
    pub verdict: Vec<String>,
}

const MARGIN_GROUPS: usize = 5;
const CALIBRATION_BINS: usize = 10;
/// The groups of (L_better − L_worse) / max, each with its upper bound.
const LENGTH_GROUPS: [(f64, &str); 5] = [
    (-0.5, "less than half as long"),
    (-0.1, "shorter"),
    (0.1, "about as long (within 10 %)"),
    (0.5, "longer"),
    (1.0, "more than twice as long"),
];
/// Minimum number of pairs for a warning sign about a group. Our choice.
const FEW: u64 = 30;

impl Evaluation {
    /// Evaluates the pairs.
    pub fn new(pairs: &[ScoredPair]) -> Self {
        let accuracy = accuracy_of(pairs.iter());
        let lengths = |pair: &ScoredPair| (pair.lengths[0] as f64, pair.lengths[1] as f64);
        let unequal = || pairs.iter().filter(|pair| pair.lengths[0] != pair.lengths[1]);
        let agreements = unequal().map(|pair| match agreement(pair.scores[0], pair.scores[1]) {
            agreement if pair.lengths[0] > pair.lengths[1] => agreement,
            agreement => 1.0 - agreement,
        });
        let blind: Option<Vec<(f64, f64)>> =
            pairs.iter().map(|pair| pair.blind_scores.map(|[better, worse]| (better, worse))).collect();
        let trained_on = |pair: &ScoredPair| pair.trained_on.map(u64::from);
        let mut evaluation = Self {
            accuracy,
            margin: pairs.iter().map(|pair| pair.scores[0] - pair.scores[1]).sum::<f64>() / pairs.len().max(1) as f64,
            longer_wins: pair_accuracy(pairs.iter().map(lengths)),
            picks_longer: agreements.sum::<f64>() / unequal().count().max(1) as f64,
            prompt_blind: blind.filter(|blind| !blind.is_empty()).map(pair_accuracy),
            by_margin: by_margin(pairs),
            by_length: by_length(pairs),
            calibration: calibration(pairs),
            identical: pairs.iter().filter(|pair| pair.identical).count() as u64,
            seen_in_training: pairs.iter().map(trained_on).sum(),
            verdict: Vec::new(),
        };
        evaluation.verdict = evaluation.warning_signs(pairs);
        evaluation
    }

    /// The warning signs about the accuracy, in a fixed order.
    fn warning_signs(&self, pairs: &[ScoredPair]) -> Vec<String> {
        let signs = [
            self.training_overlap(),
            self.identical_pairs(),
            self.coin(),
            self.length_bias(pairs),
            self.ignored_prompt(),
            self.miscalibration(pairs),
        ];
        signs.into_iter().flatten().collect()
    }

    /// Pairs that the model was trained on.
    fn training_overlap(&self) -> Option<String> {
        let trained_on = self.seen_in_training.filter(|pairs| *pairs > 0)?;
        let count = self.accuracy.pairs;
        Some(format!(
            "training overlap: {trained_on} of {count} pairs were trained on; the accuracy is not that on new pairs"
        ))
    }

    /// Pairs of two equal texts.
    fn identical_pairs(&self) -> Option<String> {
        let (identical, count) = (self.identical, self.accuracy.pairs);
        (identical > 0)
            .then(|| format!("identical pairs: {identical} of {count} hold the same text twice and can only tie"))
    }

    /// An accuracy that may be that of random guesses.
    fn coin(&self) -> Option<String> {
        let [low, high] = self.accuracy.ci95;
        (low <= 0.5 && high >= 0.5)
            .then(|| format!("no better than a coin: the interval {} to {} contains 50 %", percent(low), percent(high)))
    }

    /// A rule about length that is as accurate as the model, or an accuracy that depends on which answer is
    /// longer.
    fn length_bias(&self, pairs: &[ScoredPair]) -> Option<String> {
        let rule_accuracy = self.longer_wins.accuracy.max(1.0 - self.longer_wins.accuracy);
        let [rule_low, rule_high] = self.longer_wins.ci95;
        if rule_accuracy >= self.accuracy.ci95[0] && (rule_low > 0.5 || rule_high < 0.5) {
            let rule = if self.longer_wins.accuracy >= 0.5 { "longer" } else { "shorter" };
            return Some(format!(
                "length bias: the rule \"the {rule} answer is better\" is right in {}, the model in {}; this set does not show that the \
                 model reads more than the length",
                percent(rule_accuracy),
                percent(self.accuracy.accuracy)
            ));
        }
        let (longer, shorter): (Vec<_>, Vec<_>) = pairs
            .iter()
            .filter(|pair| pair.lengths[0] != pair.lengths[1])
            .partition(|pair| pair.lengths[0] > pair.lengths[1]);
        let [longer, shorter] = [longer, shorter].map(|pairs| accuracy_of(pairs.into_iter()));
        let are_enough = longer.pairs >= FEW && shorter.pairs >= FEW;
        let are_apart = longer.ci95[0] > shorter.ci95[1] || shorter.ci95[0] > longer.ci95[1];
        (are_enough && are_apart).then(|| {
            format!(
                "length bias: right in {} of the pairs whose better answer is longer, in {} of those whose better answer is shorter; the \
                 longer answer has the higher score in {}",
                percent(longer.accuracy),
                percent(shorter.accuracy),
                percent(self.picks_longer)
            )
        })
    }

    /// An accuracy that other rows' prompts do not lower.
    fn ignored_prompt(&self) -> Option<String> {
        let low = self.accuracy.ci95[0];
        let blind = self.prompt_blind.filter(|blind| blind.accuracy >= low && low > 0.5)?;
        Some(format!(
            "ignores the prompt: right in {} after other rows' prompts, in {} after the own ones; the model hardly reads the prompt, or this \
             set does not need it",
            percent(blind.accuracy),
            percent(self.accuracy.accuracy)
        ))
    }

    /// A confidence that differs from the accuracy.
    fn miscalibration(&self, pairs: &[ScoredPair]) -> Option<String> {
        if self.calibration.ece <= 0.1 || self.accuracy.pairs < FEW {
            return None;
        }
        let confidence = mean_confidence(pairs);
        let sign = if confidence > self.accuracy.accuracy { "overconfident" } else { "underconfident" };
        Some(format!(
            "{sign}: the mean confidence is {}, the accuracy {} (expected calibration error {:.3})",
            percent(confidence),
            percent(self.accuracy.accuracy),
            self.calibration.ece
        ))
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn accuracy_of<'a>(pairs: impl Iterator<Item = &'a ScoredPair>) -> PairAccuracy {
    pair_accuracy(pairs.map(|pair| (pair.scores[0], pair.scores[1])))
}

fn gap(pair: &ScoredPair) -> f64 {
    (pair.scores[0] - pair.scores[1]).abs()
}

/// σ(|score difference|): the probability that the model gives its choice, at least ½.
fn confidence(pair: &ScoredPair) -> f64 {
    1.0 / (1.0 + (-gap(pair)).exp())
}

fn mean_confidence(pairs: &[ScoredPair]) -> f64 {
    pairs.iter().map(confidence).sum::<f64>() / pairs.len().max(1) as f64
}

fn by_margin(pairs: &[ScoredPair]) -> Vec<Bucket> {
    let mut sorted: Vec<&ScoredPair> = pairs.iter().collect();
    sorted.sort_by(|one, other| gap(one).total_cmp(&gap(other)));
    let ends = (1..=MARGIN_GROUPS).map(|group| group * sorted.len() / MARGIN_GROUPS);
    let mut start = 0;
    let mut buckets = Vec::new();
    for end in ends {
        let group = &sorted[start..end];
        if let (Some(first), Some(last)) = (group.first(), group.last()) {
            let name = format!("{:.2} to {:.2}", gap(first), gap(last));
            buckets.push(Bucket { name, accuracy: accuracy_of(group.iter().copied()) });
        }
        start = end;
    }
    buckets
}

fn by_length(pairs: &[ScoredPair]) -> Vec<Bucket> {
    let difference = |pair: &ScoredPair| {
        let [better, worse] = pair.lengths.map(|length| length as f64);
        (better - worse) / better.max(worse).max(1.0)
    };
    let group_of = |pair: &ScoredPair| {
        let difference = difference(pair);
        LENGTH_GROUPS.iter().position(|(up_to, _)| difference <= *up_to).unwrap_or(LENGTH_GROUPS.len() - 1)
    };
    let bucket = |(group, (_, name)): (usize, &(f64, &str))| Bucket {
        name: (*name).to_owned(),
        accuracy: accuracy_of(pairs.iter().filter(|pair| group_of(pair) == group)),
    };
    LENGTH_GROUPS.iter().enumerate().map(bucket).collect()
}

fn calibration(pairs: &[ScoredPair]) -> Calibration {
    let width = 0.5 / CALIBRATION_BINS as f64;
    let bin_of = |pair: &ScoredPair| (((confidence(pair) - 0.5) / width) as usize).min(CALIBRATION_BINS - 1);
    let mut ece = 0.0;
    let bins = (0..CALIBRATION_BINS).map(|bin| {
        let own: Vec<ScoredPair> = pairs.iter().filter(|pair| bin_of(pair) == bin).copied().collect();
        let (confidence, accuracy) = (mean_confidence(&own), accuracy_of(own.iter()).accuracy);
        ece += (accuracy - confidence).abs() * own.len() as f64 / pairs.len().max(1) as f64;
        let low = 0.5 + width * bin as f64;
        CalibrationBin { low, high: low + width, pairs: own.len() as u64, confidence, accuracy }
    });
    let bins = bins.collect();
    Calibration { bins, ece }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(scores: [f64; 2], lengths: [usize; 2]) -> ScoredPair {
        ScoredPair { scores, blind_scores: Some([0.0, 0.0]), lengths, identical: false, trained_on: Some(false) }
    }

    fn named(evaluation: &Evaluation, name: &str) -> bool {
        evaluation.verdict.iter().any(|sentence| sentence.starts_with(name))
    }

    #[test]
    fn an_unbiased_model_has_no_warning_signs() {
        let pairs: Vec<ScoredPair> = (0..200)
            .map(|index| {
                pair(
                    if index % 20 == 0 || index % 20 == 9 { [0.0, 2.0] } else { [2.0, 0.0] },
                    [10 + index % 2, 11 - index % 2],
                )
            })
            .collect();
        let evaluation = Evaluation::new(&pairs);
        assert_eq!(evaluation.accuracy.accuracy, 0.9);
        assert_eq!(evaluation.verdict, Vec::<String>::new());
        assert_eq!((evaluation.longer_wins.accuracy, evaluation.prompt_blind.unwrap().accuracy), (0.5, 0.5));
    }

    #[test]
    fn a_set_whose_longer_answer_is_always_better_has_length_bias() {
        let pairs: Vec<ScoredPair> = (0..100).map(|index| pair([1.0, 0.0], [20 + index, 10])).collect();
        let evaluation = Evaluation::new(&pairs);
        assert_eq!((evaluation.longer_wins.accuracy, evaluation.picks_longer), (1.0, 1.0));
        assert!(named(&evaluation, "length bias"), "{:?}", evaluation.verdict);
    }

    #[test]
    fn a_model_that_prefers_long_answers_has_length_bias_on_a_balanced_set() {
        // Half of the better answers are longer; the model is right there alone.
        let pairs: Vec<ScoredPair> = (0..200)
            .map(|index| if index % 2 == 0 { pair([1.0, 0.0], [20, 10]) } else { pair([0.0, 1.0], [10, 20]) })
            .collect();
        let evaluation = Evaluation::new(&pairs);
        assert_eq!((evaluation.accuracy.accuracy, evaluation.picks_longer), (0.5, 1.0));
        assert!(
            named(&evaluation, "length bias") && named(&evaluation, "no better than a coin"),
            "{:?}",
            evaluation.verdict
        );
    }

    #[test]
    fn other_warning_signs() {
        let mut pairs: Vec<ScoredPair> = (0..100).map(|_| pair([5.0, 0.0], [10, 10])).collect();
        pairs.extend((0..50).map(|_| pair([0.0, 5.0], [10, 10])));
        pairs[0].identical = true;
        pairs[1].trained_on = Some(true);
        pairs.iter_mut().for_each(|pair| pair.blind_scores = Some(pair.scores));
        let evaluation = Evaluation::new(&pairs);
        for name in ["training overlap: 1 of 150", "identical pairs: 1 of 150", "ignores the prompt", "overconfident"] {
            assert!(named(&evaluation, name), "{name}: {:?}", evaluation.verdict);
        }
        pairs[7].trained_on = None;
        assert_eq!(Evaluation::new(&pairs).seen_in_training, None);
    }

    /// By hand: σ(ln 3) = ¾ for three pairs of which two are right, σ(0) = ½ for one tie.
    #[test]
    fn calibration_by_hand() {
        let margin = 3f64.ln();
        let right = pair([margin, 0.0], [1, 1]);
        let wrong = pair([0.0, margin], [1, 1]);
        let tie = pair([1.0, 1.0], [1, 1]);
        let found = calibration(&[right, wrong, right, tie]);
        assert_eq!(found.bins.iter().map(|bin| bin.pairs).sum::<u64>(), 4);
        assert_eq!((found.bins[0].pairs, found.bins[0].accuracy, found.bins[0].confidence), (1, 0.5, 0.5));
        assert!((found.ece - 0.75 * (0.75 - 2.0 / 3.0)).abs() < 1e-12);
    }

    #[test]
    fn groups_by_length_and_margin() {
        let pairs = [
            pair([1.0, 0.0], [10, 30]),
            pair([2.0, 0.0], [10, 12]),
            pair([3.0, 0.0], [10, 10]),
            pair([0.0, 4.0], [12, 10]),
            pair([5.0, 0.0], [30, 10]),
        ];
        let evaluation = Evaluation::new(&pairs);
        assert_eq!(evaluation.by_length.iter().map(|bucket| bucket.accuracy.pairs).collect::<Vec<_>>(), [1; 5]);
        assert_eq!(evaluation.by_length[3].accuracy.accuracy, 0.0);
        assert_eq!(
            evaluation.by_margin.iter().map(|bucket| bucket.accuracy.accuracy).collect::<Vec<_>>(),
            [1.0, 1.0, 1.0, 0.0, 1.0]
        );
        assert_eq!(evaluation.by_margin[0].name, "1.00 to 1.00");
    }
}
