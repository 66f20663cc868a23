//! Flat, prefix-shared batches: every token of every sequence in one row, and which run of tokens continues
//! which.
//!
//! Nothing here is ever padded. A prompt that several responses continue is one segment with several
//! children, stored and computed once.

use std::ops::Range;

/// A run of tokens that sees itself causally, and all of its parent chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where its tokens lie in the batch.
    pub range: Range<usize>,
    /// The segment it continues, by index, always an earlier one.
    pub parent: Option<usize>,
}

/// Tokens (T), their positions (T), and the segments they form.
///
/// ```
/// use align_kernels::batch::FlatBatch;
///
/// let mut batch = FlatBatch::new();
/// let prompt = batch.push(&[1, 2, 3], None);
/// batch.push(&[4, 5], Some(prompt));
/// batch.push(&[6], Some(prompt));
/// assert_eq!(batch.tokens(), [1, 2, 3, 4, 5, 6]);
/// assert_eq!(batch.positions(), [0, 1, 2, 3, 4, 3]);
/// ```
#[derive(Debug, Default, Clone)]
pub struct FlatBatch {
    tokens: Vec<i64>,
    positions: Vec<i64>,
    segments: Vec<Segment>,
}

impl FlatBatch {
    /// No tokens yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a segment; its positions continue those of `parent`, or start at 0. Returns its index.
    ///
    /// # Panics
    /// When `parent` is not an earlier segment.
    pub fn push(&mut self, tokens: &[i64], parent: Option<usize>) -> usize {
        let first = parent.map_or(0, |parent| self.end_position(parent));
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.positions.extend((first..).take(tokens.len()));
        self.segments.push(Segment { range: start..self.tokens.len(), parent });
        self.segments.len() - 1
    }

    /// The number of tokens, T.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Token ids (T).
    pub fn tokens(&self) -> &[i64] {
        &self.tokens
    }

    /// Positions (T), from 0 in every segment without a parent.
    pub fn positions(&self) -> &[i64] {
        &self.positions
    }

    /// The segments, in the order in which they were pushed.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The segment's ancestors, from its parent up to its root.
    pub fn ancestors(&self, segment: usize) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(self.segments[segment].parent, |&at| self.segments[at].parent)
    }

    /// The position of the token that would follow the segment.
    fn end_position(&self, segment: usize) -> i64 {
        let own = self.segments[segment].range.len();
        (own + self.ancestors(segment).map(|at| self.segments[at].range.len()).sum::<usize>()) as i64
    }
}

/// Cuts a batch into microbatches: consecutive rows until `target` tokens are reached; a longer row goes
/// alone.
pub fn microbatches(lengths: &[usize], target: usize) -> Vec<Range<usize>> {
    let (mut cuts, mut start, mut filled) = (Vec::new(), 0, 0);
    for (row, length) in lengths.iter().enumerate() {
        if row > start && filled + length > target {
            cuts.push(start..row);
            (start, filled) = (row, 0);
        }
        filled += length;
    }
    if start < lengths.len() {
        cuts.push(start..lengths.len());
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_continue_the_parent_chain() {
        let mut batch = FlatBatch::new();
        let root = batch.push(&[5, 6], None);
        let child = batch.push(&[7], Some(root));
        let other = batch.push(&[1, 2, 3], None);
        let grandchild = batch.push(&[8, 9], Some(child));
        assert_eq!(batch.positions(), [0, 1, 2, 0, 1, 2, 3, 4]);
        assert_eq!(batch.ancestors(grandchild).collect::<Vec<_>>(), [child, root]);
        assert_eq!(batch.segments()[other], Segment { range: 3..6, parent: None });
        assert_eq!(batch.len(), 8);
    }

    #[test]
    fn an_empty_segment_passes_its_position_on() {
        let mut batch = FlatBatch::new();
        let root = batch.push(&[5, 6], None);
        let empty = batch.push(&[], Some(root));
        batch.push(&[7], Some(empty));
        assert_eq!(batch.positions(), [0, 1, 2]);
    }

    #[test]
    fn rows_fill_microbatches_and_a_long_one_goes_alone() {
        assert_eq!(microbatches(&[3, 4, 9, 2, 2], 8), vec![0..2, 2..3, 3..5]);
        assert_eq!(microbatches(&[], 8), Vec::<Range<usize>>::new());
    }
}
