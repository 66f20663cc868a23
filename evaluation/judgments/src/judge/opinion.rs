//! What a program says of an item's responses, and the judgment that it becomes.

use crate::compare::pairs;
use crate::item::Item;
use crate::judgment::{Ask, Judgment, dense, sigmoid};

/// What a program says of the responses of an item that differ ([`Item::distinct`]), in that order. Pairs are
/// (0, 1), (0, 2), …, (1, 2), …
#[derive(Debug, Clone, PartialEq)]
pub enum Opinion {
    /// Rewards. Responses tie whose reward is less than `tie_margin` below the best one of their group.
    Rewards {
        /// One per response.
        rewards: Vec<f64>,
        /// The difference from which on a reward is lower.
        tie_margin: f64,
    },
    /// For each pair the probability that its first response is better: shown first, shown second. Their mean
    /// decides.
    Probabilities(Vec<[f64; 2]>),
    /// For each pair a verdict in either order: 1 if its first response is better, ½ for a tie, 0. A pair
    /// ties unless both verdicts are the same.
    Verdicts(Vec<[f64; 2]>),
    /// Why there is none.
    Skipped(String),
}

/// For whom a judgment is written, and in which form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// The annotator, with its prefix.
    pub annotator: String,
    /// What the folder asks for.
    pub ask: Ask,
    /// The highest score.
    pub scale: u32,
}

impl Opinion {
    /// For each pair how far its first response is better, from 0 to 1; ½ is a tie.
    fn worths(&self) -> Vec<f64> {
        match self {
            Self::Rewards { rewards, .. } => {
                pairs(rewards.len()).map(|(one, other)| sigmoid(rewards[one] - rewards[other])).collect()
            }
            Self::Probabilities(given) => given.iter().map(|[first, second]| (first + second) / 2.0).collect(),
            Self::Verdicts(given) => {
                given.iter().map(|[first, second]| if first == second { *first } else { 0.5 }).collect()
            }
            Self::Skipped(_) => Vec::new(),
        }
    }

    /// The rank of each of `count` responses, without gaps: by rewards, or by the number of pairs won, a tie
    /// being half of one.
    pub(crate) fn ranks(&self, count: usize) -> Vec<u32> {
        if let Self::Rewards { rewards, tie_margin } = self {
            return reward_ranks(rewards, *tie_margin);
        }
        let wins = |worth: &f64| match worth.total_cmp(&0.5) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        };
        crate::judgment::ranks_of_scores(&sums(count, &self.worths().iter().map(wins).collect::<Vec<_>>()))
    }

    /// The score of each of `count` responses, from 1 to `scale`: 1 + (scale − 1) × the mean of how far it is
    /// better than each other one. Responses that tie by a margin share their mean.
    fn scores(&self, count: usize, scale: u32) -> Vec<f64> {
        let means = sums(count, &self.worths());
        let scores: Vec<f64> = means.iter().map(|sum| 1.0 + f64::from(scale - 1) * sum / (count - 1) as f64).collect();
        let Self::Rewards { .. } = self else { return scores };
        let ranks = self.ranks(count);
        let mean_of_rank = |rank: u32| {
            let group = || scores.iter().zip(&ranks).filter(|(_, other)| **other == rank).map(|(score, _)| score);
            group().sum::<f64>() / group().count() as f64
        };
        ranks.iter().map(|&rank| mean_of_rank(rank)).collect()
    }

    /// The judgment of an item. Identical responses get what the first one of them got.
    pub fn into_judgment(self, item: &Item, form: &Form) -> Judgment {
        let shown = item.distinct();
        let places: Vec<usize> = item
            .first_of_same_text()
            .iter()
            .map(|first| shown.iter().position(|index| index == first).expect("the first of each text is shown"))
            .collect();
        let count = shown.len();
        let mut judgment = Judgment::empty(&item.id, &form.annotator, form.ask);
        if let Self::Skipped(reason) = self {
            judgment.skipped = Some(reason);
            return judgment;
        }
        if form.ask == Ask::Score {
            let scores = self.scores(count, form.scale);
            judgment.scores = Some(places.iter().map(|&place| scores[place]).collect());
        } else {
            let ranks = self.ranks(count);
            judgment.ranks = Some(dense(&places.iter().map(|&place| ranks[place]).collect::<Vec<_>>()));
        }
        match self {
            Self::Rewards { rewards, .. } => {
                judgment.rewards = Some(places.iter().map(|&place| rewards[place]).collect());
            }
            Self::Probabilities(given) | Self::Verdicts(given) => {
                let of_pair = |(one, other): (usize, usize)| of_places(&given, count, places[one], places[other]);
                judgment.both_orders = pairs(places.len()).map(of_pair).collect();
            }
            Self::Skipped(_) => {}
        }
        judgment
    }
}

/// What was said of two responses in both orders, whichever of them is the first of its pair.
fn of_places(given: &[[f64; 2]], count: usize, one: usize, other: usize) -> [f64; 2] {
    let of = |lower: usize, higher: usize| {
        given[pairs(count).position(|pair| pair == (lower, higher)).expect("all pairs were asked about")]
    };
    match one.cmp(&other) {
        std::cmp::Ordering::Less => of(one, other),
        std::cmp::Ordering::Equal => [0.5, 0.5],
        std::cmp::Ordering::Greater => {
            let [first, second] = of(other, one);
            [1.0 - second, 1.0 - first]
        }
    }
}

/// For each response the sum of its pairs' worths.
fn sums(count: usize, worths: &[f64]) -> Vec<f64> {
    let mut sums = vec![0.0; count];
    for ((one, other), worth) in pairs(count).zip(worths) {
        sums[one] += worth;
        sums[other] += 1.0 - worth;
    }
    sums
}

/// Ranks by reward. A group of ties begins with its best response, and has those less than the margin below.
fn reward_ranks(rewards: &[f64], tie_margin: f64) -> Vec<u32> {
    let mut order: Vec<usize> = (0..rewards.len()).collect();
    order.sort_by(|&one, &other| rewards[other].total_cmp(&rewards[one]));
    let (mut ranks, mut rank, mut best) = (vec![0; rewards.len()], 0, f64::INFINITY);
    for index in order {
        let below = best - rewards[index];
        if below > 0.0 && below >= tie_margin {
            (rank, best) = (rank + 1, rewards[index]);
        }
        ranks[index] = rank;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::item;

    fn form(ask: Ask) -> Form {
        Form { annotator: "judge:x".to_owned(), ask, scale: 7 }
    }

    fn judged(opinion: &Opinion, responses: &[&str], ask: Ask) -> Judgment {
        let models = &["m", "n", "o", "p"][..responses.len()];
        let item = item("a", models, responses);
        let judgment = opinion.clone().into_judgment(&item, &form(ask));
        assert_eq!(judgment.problems(&item), Vec::<String>::new());
        judgment
    }

    fn rewards(rewards: &[f64], tie_margin: f64) -> Opinion {
        Opinion::Rewards { rewards: rewards.to_vec(), tie_margin }
    }

    #[test]
    fn rewards_rank_and_those_within_the_margin_of_the_best_tie() {
        let of = |given: &[f64], margin: f64| rewards(given, margin).ranks(given.len());
        assert_eq!(of(&[0.5, -1.0, 2.0], 0.0), [2, 3, 1]);
        assert_eq!(of(&[1.0, 1.0, 2.0], 0.0), [2, 2, 1]);
        // 2.0 and 1.5 tie; 1.0 is a whole margin below 2.0, although only half of one below 1.5.
        assert_eq!(of(&[1.5, 1.0, 2.0], 1.0), [1, 2, 1]);
        assert_eq!(of(&[0.0, 0.5], 0.5), [2, 1]);
        assert_eq!(of(&[0.0, 0.499], 0.5), [1, 1]);
    }

    #[test]
    fn soft_wins_are_the_logistic_function_of_reward_differences() {
        let judgment = judged(&rewards(&[1.0, -1.0, 1.5], 0.0), &["x", "y", "z"], Ask::Rank);
        // 1/(1 + e^-2), and 1/(1 + e^0.5).
        let near = |found: Option<f64>, expected: f64| assert!((found.unwrap() - expected).abs() < 1e-12, "{found:?}");
        near(judgment.preference_between(0, 1), 0.880_797_077_977_882_3);
        near(judgment.preference_between(1, 0), 0.119_202_922_022_117_7);
        near(judgment.preference_between(0, 2), 0.377_540_668_798_145_4);
    }

    #[test]
    fn pairs_become_ranks_by_the_number_of_wins() {
        // 0 beats 1 and 2; 1 and 2 tie: the two orders contradict each other.
        let verdicts = Opinion::Verdicts(vec![[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]]);
        assert_eq!(judged(&verdicts, &["x", "y", "z"], Ask::Rank).ranks, Some(vec![1, 2, 2]));
        // A circle ties.
        let circle = Opinion::Verdicts(vec![[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]);
        assert_eq!(judged(&circle, &["x", "y", "z"], Ask::Rank).ranks, Some(vec![1, 1, 1]));
        // A verdict and a tie are no agreement.
        let half = Opinion::Verdicts(vec![[1.0, 0.5]]);
        assert_eq!(judged(&half, &["x", "y"], Ask::Pair).ranks, Some(vec![1, 1]));
        // Of probabilities the mean decides: (0.9 + 0.2) / 2 = 0.55.
        let mean = Opinion::Probabilities(vec![[0.9, 0.2]]);
        let judgment = judged(&mean, &["x", "y"], Ask::Pair);
        assert_eq!(judgment.ranks, Some(vec![1, 2]));
        assert!((judgment.preference_between(1, 0).unwrap() - 0.45).abs() < 1e-12);
    }

    #[test]
    fn scores_are_on_the_folders_scale() {
        // 1 + 6 · 0.55, 1 + 6 · 0.45.
        let scores = judged(&Opinion::Probabilities(vec![[0.9, 0.2]]), &["x", "y"], Ask::Score).scores.unwrap();
        assert!((scores[0] - 4.3).abs() < 1e-12 && (scores[1] - 3.7).abs() < 1e-12, "{scores:?}");
        // Wins of 2, 1 and 0 of two pairs.
        let verdicts = Opinion::Verdicts(vec![[1.0, 1.0]; 3]);
        assert_eq!(judged(&verdicts, &["x", "y", "z"], Ask::Score).scores, Some(vec![7.0, 4.0, 1.0]));
        // Ties by the margin share their mean.
        let tied = judged(&rewards(&[0.1, 0.0], 0.5), &["x", "y"], Ask::Score);
        assert_eq!((tied.scores, tied.rewards), (Some(vec![4.0, 4.0]), Some(vec![0.1, 0.0])));
    }

    #[test]
    fn identical_responses_tie_and_pairs_keep_their_sides() {
        // Shown are x, y and z; the last response is x again.
        let given = Opinion::Probabilities(vec![[0.9, 0.8], [0.7, 0.6], [0.4, 0.3]]);
        let judgment = judged(&given, &["x", "y", "z", "x"], Ask::Rank);
        assert_eq!(judgment.ranks, Some(vec![1, 3, 2, 1]));
        assert_eq!(judgment.in_both_orders(0, 3), Some([0.5, 0.5]));
        // y against the second x: x against y, with the sides changed.
        let [first, second] = judgment.in_both_orders(1, 3).unwrap();
        assert!((first - 0.2).abs() < 1e-12 && (second - 0.1).abs() < 1e-12);
        assert_eq!(judgment.in_both_orders(1, 2), Some([0.4, 0.3]));
    }

    #[test]
    fn what_is_skipped_has_no_ranks() {
        let judgment = judged(&Opinion::Skipped("too long".to_owned()), &["x", "y"], Ask::Score);
        assert_eq!((judgment.skipped.as_deref(), judgment.ranks(), judgment.scores), (Some("too long"), None, None));
    }
}
