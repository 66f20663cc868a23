//! A dialogue as tokens, and how it is written.

/// A dialogue as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// (T) token ids.
    pub tokens: Vec<i64>,
    /// (T) whether token t is a target. The first token never is: nothing predicts it.
    pub loss_mask: Vec<bool>,
    /// Index of the last assistant turn's `<|im_end|>`; without an assistant turn, of the last `<|im_end|>`.
    pub end: usize,
    /// Index of the last answer's first token, after an empty think block; without an assistant turn, the
    /// same as `end`.
    pub answer: usize,
    /// Whether a turn's text begins with a line break. Programs that tokenize the template's whole text merge
    /// it with the line break after the role, and get different ids.
    pub begins_with_newline: bool,
}

/// Tokens that are being written, each with whether it is a target.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) tokens: Vec<i64>,
    pub(super) loss_mask: Vec<bool>,
}

impl Writer {
    pub(super) fn push(&mut self, tokens: &[i64], loss: bool) {
        self.tokens.extend_from_slice(tokens);
        self.loss_mask.resize(self.tokens.len(), loss);
    }
}
