//! Counts over a run's comparisons, for the user to check before training on them.

use std::collections::{HashMap, HashSet};

use crate::data::{Comparisons, Row};
use crate::trained_pairs::{Fingerprint, TrainedPairs, comparison_fingerprint, pair_fingerprint};

/// Counts over comparisons.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Turns of all dialogues; shared turns count once per dialogue.
    pub turns: u64,
    /// Tokens of all dialogues; the shared prefix counts once per dialogue.
    pub tokens: u64,
    /// Tokens that are computed; the shared prefix counts once per comparison.
    pub computed: u64,
    /// Comparisons with a text that spells a special token; it is tokenized as ordinary text.
    pub special_text: u64,
    /// Comparisons that equal an earlier one: the same dialogues with the same scores.
    pub duplicates: u64,
    /// Number of pairs.
    pub pairs: u64,
    /// Pairs of two equal texts.
    pub identical: u64,
    /// Pairs whose two dialogues also occur in the opposite order.
    pub contradicting: u64,
}

/// The number of pairs of the same two dialogues, by their order.
#[derive(Default)]
struct Orders {
    ascending: u64,
    descending: u64,
}

impl Survey {
    /// Counts over comparisons.
    pub fn new(comparisons: &Comparisons) -> Self {
        let (mut found, mut fingerprints) = (Self::default(), HashSet::new());
        let mut orders: HashMap<Fingerprint, Orders> = HashMap::new();
        for row in &comparisons.rows {
            found.turns += row.turns;
            found.tokens += row.len_unshared() as u64;
            found.computed += row.len() as u64;
            found.special_text += u64::from(row.has_special_text);
            found.duplicates += u64::from(!fingerprints.insert(comparison_fingerprint(row)));
            for (better, worse) in row.pairs() {
                found.pairs += 1;
                if row.tails[better] == row.tails[worse] {
                    found.identical += 1;
                    continue;
                }
                let pair = orders.entry(pair_fingerprint(row, better, worse)).or_default();
                let is_ascending = row.tails[better] < row.tails[worse];
                *(if is_ascending { &mut pair.ascending } else { &mut pair.descending }) += 1;
            }
        }
        let contradicting = orders.values().filter(|pair| pair.ascending > 0 && pair.descending > 0);
        found.contradicting = contradicting.map(|pair| pair.ascending + pair.descending).sum();
        found
    }
}

/// The number of held-out comparisons with a pair that was trained on, in either order, and of all held-out
/// comparisons.
pub fn overlap(rows: &[Row], trained: &TrainedPairs) -> (u64, u64) {
    let overlaps = |row: &&Row| row.pairs().into_iter().any(|(better, worse)| trained.contains(row, better, worse));
    (rows.iter().filter(overlaps).count() as u64, rows.len() as u64)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use align_data::RowLocation;

    use super::*;

    /// A comparison of answers to one prompt; each answer is one token and its end token.
    fn row(prompt: i64, answers: &[i64], scores: Option<&[f64]>) -> Row {
        Row {
            prefix: vec![prompt],
            tails: answers.iter().map(|answer| vec![*answer, 1]).collect(),
            best: 0,
            answer_starts: vec![1; answers.len()],
            scores: scores.map(<[f64]>::to_vec),
            turns: 2 * answers.len() as u64,
            has_special_text: prompt == 9,
            begins_with_newline: false,
            location: RowLocation { file: Path::new("rows.jsonl").into(), line: 1, index: 0 },
        }
    }

    fn survey(rows: Vec<Row>) -> Survey {
        Survey::new(&Comparisons { rows, ..Comparisons::default() })
    }

    #[test]
    fn every_flaw_is_counted_separately() {
        let found = survey(vec![
            row(5, &[10, 11], None),
            row(5, &[10, 11], None),                       // a duplicate
            row(5, &[11, 10], None),                       // the opposite order
            row(6, &[10, 11], None),                       // another prompt, so another pair
            row(7, &[12, 12], None),                       // equal texts
            row(9, &[20, 21, 20], Some(&[1.0, 3.0, 2.0])), // 21 over both 20s, and a 20 over a 20
        ]);
        assert_eq!((found.pairs, found.identical), (5 + 3, 1 + 1));
        assert_eq!(found.duplicates, 1);
        assert_eq!(found.contradicting, 3, "two pairs in one order, one in the other");
        assert_eq!((found.turns, found.special_text), (5 * 4 + 6, 1));
        assert_eq!((found.tokens, found.computed), (5 * 6 + 9, 5 * 5 + 7));
    }

    /// A pair of a list may contradict a pair elsewhere, or the same list with other scores.
    #[test]
    fn pairs_of_lists_count() {
        let list = |scores: &[f64]| row(5, &[10, 11, 12], Some(scores));
        let found = survey(vec![list(&[3.0, 2.0, 1.0]), row(5, &[12, 10], None)]);
        assert_eq!((found.pairs, found.contradicting, found.duplicates), (4, 2, 0));
        let found = survey(vec![list(&[3.0, 2.0, 1.0]), list(&[1.0, 2.0, 3.0])]);
        assert_eq!((found.contradicting, found.duplicates), (6, 0));
        // The same answers with other scores in the same order: neither a duplicate nor a contradiction.
        let found = survey(vec![list(&[3.0, 2.0, 1.0]), list(&[9.0, 2.0, 1.0]), list(&[3.0, 2.0, 1.0])]);
        assert_eq!((found.contradicting, found.duplicates), (0, 1));
    }

    #[test]
    fn held_out_pairs_overlap_in_either_order() {
        let mut trained = TrainedPairs::default();
        trained.extend(&[row(5, &[10, 11], None), row(6, &[10, 11, 12], None)]);
        let held_out =
            [row(5, &[11, 10], None), row(6, &[12, 13], None), row(6, &[12, 11], None), row(7, &[10, 11], None)];
        assert_eq!(overlap(&held_out, &trained), (2, 4));
    }
}
