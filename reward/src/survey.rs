//! What is in the comparisons of a run: what a person would want to know of the data before training on it.

use std::collections::{HashMap, HashSet};

use crate::data::{Comparisons, Row};
use crate::seen::{Print, SeenPairs, print, row_print};

/// Counts over comparisons.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Turns of all dialogues, what they share counted once a dialogue.
    pub turns: u64,
    /// Tokens of all dialogues, each counted whole.
    pub tokens: u64,
    /// Tokens that are computed: what the dialogues of a comparison share counts once.
    pub computed: u64,
    /// Comparisons with a text that spells a special token, which it does not become.
    pub special_text: u64,
    /// Comparisons that equal an earlier one: the same dialogues, worth the same.
    pub duplicates: u64,
    /// Pairs.
    pub pairs: u64,
    /// Pairs of twice the same text.
    pub identical: u64,
    /// Pairs whose two dialogues are also compared the other way round.
    pub contradicting: u64,
}

/// The pairs of two dialogues: in which order they were compared.
#[derive(Default)]
struct Both {
    one: u64,
    other: u64,
}

impl Survey {
    /// Looks at comparisons.
    pub fn new(comparisons: &Comparisons) -> Self {
        let (mut found, mut seen) = (Self::default(), HashSet::new());
        let mut orders: HashMap<Print, Both> = HashMap::new();
        for row in &comparisons.rows {
            found.turns += row.turns;
            found.tokens += row.len_unshared() as u64;
            found.computed += row.len() as u64;
            found.special_text += u64::from(row.has_special_text);
            found.duplicates += u64::from(!seen.insert(row_print(row)));
            for (better, worse) in row.pairs() {
                found.pairs += 1;
                if row.tails[better] == row.tails[worse] {
                    found.identical += 1;
                    continue;
                }
                let both = orders.entry(print(row, better, worse)).or_default();
                *(if row.tails[better] < row.tails[worse] { &mut both.one } else { &mut both.other }) += 1;
            }
        }
        let contradicting = orders.values().filter(|both| both.one > 0 && both.other > 0);
        found.contradicting = contradicting.map(|both| both.one + both.other).sum();
        found
    }
}

/// Comparisons of a held-out set of which a pair was trained on, whichever way round; and all of them.
pub fn known(rows: &[Row], seen: &SeenPairs) -> (u64, u64) {
    let is_known = |row: &&Row| row.pairs().into_iter().any(|(better, worse)| seen.contains(row, better, worse));
    (rows.iter().filter(is_known).count() as u64, rows.len() as u64)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use align_data::RowLocation;

    use super::*;

    /// A comparison of answers to one prompt; each is one token and its end.
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
    fn every_flaw_is_counted_for_itself() {
        let found = survey(vec![
            row(5, &[10, 11], None),
            row(5, &[10, 11], None),                       // the same again
            row(5, &[11, 10], None),                       // and the other way round
            row(6, &[10, 11], None),                       // another prompt: another pair
            row(7, &[12, 12], None),                       // twice the same text
            row(9, &[20, 21, 20], Some(&[1.0, 3.0, 2.0])), // 21 over both 20s, and a 20 over a 20
        ]);
        assert_eq!((found.pairs, found.identical), (5 + 3, 1 + 1));
        assert_eq!(found.duplicates, 1);
        assert_eq!(found.contradicting, 3, "two that say it, one that denies it");
        assert_eq!((found.turns, found.special_text), (5 * 4 + 6, 1));
        assert_eq!((found.tokens, found.computed), (5 * 6 + 9, 5 * 5 + 7));
    }

    /// Lists hold pairs, which may be denied by a pair elsewhere or by other scores of the same list.
    #[test]
    fn lists_and_pairs_meet() {
        let list = |scores: &[f64]| row(5, &[10, 11, 12], Some(scores));
        let found = survey(vec![list(&[3.0, 2.0, 1.0]), row(5, &[12, 10], None)]);
        assert_eq!((found.pairs, found.contradicting, found.duplicates), (4, 2, 0));
        let found = survey(vec![list(&[3.0, 2.0, 1.0]), list(&[1.0, 2.0, 3.0])]);
        assert_eq!((found.contradicting, found.duplicates), (6, 0));
        // The same answers with other scores and the same order are no copy, but no contradiction either.
        let found = survey(vec![list(&[3.0, 2.0, 1.0]), list(&[9.0, 2.0, 1.0]), list(&[3.0, 2.0, 1.0])]);
        assert_eq!((found.contradicting, found.duplicates), (0, 1));
    }

    #[test]
    fn held_out_pairs_are_known_whichever_way_round() {
        let mut seen = SeenPairs::default();
        seen.extend(&[row(5, &[10, 11], None), row(6, &[10, 11, 12], None)]);
        let held_out =
            [row(5, &[11, 10], None), row(6, &[12, 13], None), row(6, &[12, 11], None), row(7, &[10, 11], None)];
        assert_eq!(known(&held_out, &seen), (2, 4));
    }
}
