//! Statistics over the counted entries of host tables.
//!
//! A table is (B, R): row b is a response, column t its token t. In each row of the mask, the tokens of the
//! response are true (its end token included), all later entries false, so that a wider table changes no
//! result. All sums run in f64, row by row, so that results do not depend on threads.

use ndarray::{Array2, Zip};

/// (B, R) values, one row per response.
pub type Table = Array2<f64>;

/// (B, R): true where the response has a token; every row is a run of true, then a run of false.
pub type Mask = Array2<bool>;

/// Added to a variance before its square root.
pub const EPSILON: f64 = 1e-8;

/// The mask of responses of these lengths.
///
/// # Shapes
/// `lengths` (B) → (B, R), R the longest length.
pub fn mask(lengths: &[usize]) -> Mask {
    let width = lengths.iter().copied().max().unwrap_or(0);
    Mask::from_shape_fn((lengths.len(), width), |(row, column)| column < lengths[row])
}

/// A table of per-token values, given response after response; zero outside the responses.
///
/// # Shapes
/// `flat` (N), `lengths` (B) summing to N → (B, R).
///
/// # Panics
/// When the lengths do not sum to N.
pub fn table<T: Copy + Into<f64>>(flat: &[T], lengths: &[usize]) -> Table {
    assert_eq!(flat.len(), lengths.iter().sum::<usize>(), "the lengths of a table's rows must sum to its entries");
    let width = lengths.iter().copied().max().unwrap_or(0);
    let mut table = Table::zeros((lengths.len(), width));
    let mut start = 0;
    for (mut row, &length) in table.rows_mut().into_iter().zip(lengths) {
        for (entry, &number) in row.iter_mut().zip(&flat[start..start + length]) {
            *entry = number.into();
        }
        start += length;
    }
    table
}

/// The counted entries, response after response: the inverse of [`table`].
///
/// # Shapes
/// (B, R) → (N).
pub fn flat(table: &Table, mask: &Mask) -> Vec<f64> {
    counted(table, mask).collect()
}

/// Number of counted entries.
pub fn count(mask: &Mask) -> usize {
    mask.iter().filter(|&&counts| counts).count()
}

/// The sum of the counted entries.
pub fn sum(table: &Table, mask: &Mask) -> f64 {
    counted(table, mask).sum()
}

/// The mean of the counted entries; 0 where none counts.
pub fn mean(table: &Table, mask: &Mask) -> f64 {
    sum(table, mask) / count(mask).max(1) as f64
}

/// The biased variance of the counted entries, the mean squared distance from [`mean`]; 0 where none counts.
pub fn variance(table: &Table, mask: &Mask) -> f64 {
    let mean = mean(table, mask);
    counted(table, mask).map(|number| (number - mean).powi(2)).sum::<f64>() / count(mask).max(1) as f64
}

/// The sum of each row's counted entries.
///
/// # Shapes
/// (B, R) → (B).
pub fn row_sums(table: &Table, mask: &Mask) -> Vec<f64> {
    same_shape(table, mask);
    let sum_of = |(row, counts): (ndarray::ArrayView1<'_, f64>, ndarray::ArrayView1<'_, bool>)| {
        row.iter().zip(counts).filter(|(_, counts)| **counts).map(|(number, _)| number).sum()
    };
    table.rows().into_iter().zip(mask.rows()).map(sum_of).collect()
}

/// Whitens the counted entries to mean 0 and variance 1: `(x − mean) / √(variance + `[`EPSILON`]`)`, with the
/// biased variance over the whole table, so that a table of one token gives 0 and the result does not depend
/// on the minibatches. Other entries become 0.
/// `[`EPSILON`]`)`, with the biased variance over the whole table, so that a table of one token gives 0 and
/// the result does not depend on how the rollout is cut into minibatches. Other entries become 0.
///
/// Source: `whiten` of arXiv 1909.08593's code, which also takes the biased variance.
pub fn whiten(table: &Table, mask: &Mask) -> Table {
    let (mean, scale) = (mean(table, mask), (variance(table, mask) + EPSILON).sqrt().recip());
    let mut whitened = Table::zeros(table.raw_dim());
    Zip::from(&mut whitened).and(table).and(mask).for_each(|out, &number, &counts| {
        if counts {
            *out = (number - mean) * scale;
        }
    });
    whitened
}

/// Applies `f` to the counted entries of two tables; 0 elsewhere.
///
/// # Shapes
/// (B, R), (B, R), (B, R) → (B, R).
pub fn zip_with(left: &Table, right: &Table, mask: &Mask, f: impl Fn(f64, f64) -> f64) -> Table {
    same_shape(left, mask);
    same_shape(right, mask);
    Zip::from(left).and(right).and(mask).map_collect(|&left, &right, &counts| if counts { f(left, right) } else { 0.0 })
}

/// Each row's number of tokens.
///
/// # Panics
/// When a row's counted entries are not a prefix: such a mask would shift tokens.
pub fn lengths(mask: &Mask) -> Vec<usize> {
    let length = |row: ndarray::ArrayView1<'_, bool>| {
        let length = row.iter().take_while(|&&counts| counts).count();
        assert!(!row.iter().skip(length).any(|&counts| counts), "a response mask's rows must be prefixes, found {row}");
        length
    };
    mask.rows().into_iter().map(length).collect()
}

fn counted<'a>(table: &'a Table, mask: &'a Mask) -> impl Iterator<Item = f64> + 'a {
    same_shape(table, mask);
    table.iter().zip(mask).filter(|(_, counts)| **counts).map(|(number, _)| *number)
}

fn same_shape(table: &Table, mask: &Mask) {
    assert_eq!(table.dim(), mask.dim(), "a table and its mask must have one shape");
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whitening_ignores_what_does_not_count() {
        let whitened = whiten(&array![[1.0, 2.0, 3.0, 99.0]], &array![[true, true, true, false]]);
        for (found, expected) in whitened.iter().zip([-1.224_744_871_391_589, 0.0, 1.224_744_871_391_589, 0.0]) {
            assert!((found - expected).abs() < 1e-7, "{whitened}");
        }
        let padded = whiten(&array![[1.0, 2.0], [3.0, f64::NAN]], &array![[true, true], [true, false]]);
        assert!((padded[(1, 0)] - 1.224_744_871_391_589).abs() < 1e-7 && padded[(1, 1)] == 0.0, "{padded}");
    }

    #[test]
    fn one_token_or_none_stays_finite() {
        assert_eq!(whiten(&array![[5.0]], &array![[true]]), array![[0.0]]);
        assert_eq!(whiten(&array![[5.0]], &array![[false]]), array![[0.0]]);
        assert_eq!(mean(&Table::zeros((0, 0)), &mask(&[])), 0.0);
        assert_eq!(variance(&array![[5.0]], &array![[true]]), 0.0);
    }

    #[test]
    fn sums_skip_uncounted_nans() {
        let table = array![[1.0, 2.0, f64::NAN], [4.0, f64::NAN, f64::NAN]];
        let mask = mask(&[2, 1]);
        assert_eq!(mask.ncols(), 2);
        let table = table.slice_axis(ndarray::Axis(1), ndarray::Slice::from(..2)).to_owned();
        assert_eq!(row_sums(&table, &mask), [3.0, 4.0]);
        assert_eq!(mean(&table, &mask), 7.0 / 3.0);
    }

    #[test]
    #[should_panic(expected = "must be prefixes")]
    fn a_hole_in_a_response_is_refused() {
        lengths(&array![[true, false, true]]);
    }

    fn rows() -> impl Strategy<Value = Vec<Vec<f64>>> {
        prop::collection::vec(prop::collection::vec(-10.0..10.0f64, 0..6), 1..5)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn tables_and_flat_lists_are_two_views_of_one_thing(rows in rows()) {
            let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
            let list = rows.concat();
            let mask = mask(&lengths);
            prop_assert_eq!(flat(&table(&list, &lengths), &mask), list);
            prop_assert_eq!(super::lengths(&mask), lengths);
        }

        #[test]
        fn whitened_numbers_have_mean_0_and_variance_1(rows in rows()) {
            let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
            let (table, mask) = (table(&rows.concat(), &lengths), mask(&lengths));
            let whitened = whiten(&table, &mask);
            prop_assert!(mean(&whitened, &mask).abs() < 1e-9);
            let spread = variance(&table, &mask);
            prop_assert!((variance(&whitened, &mask) - spread / (spread + EPSILON)).abs() < 1e-9);
        }
    }
}
