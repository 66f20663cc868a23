//! How tokens are sampled.

/// How tokens are drawn.
#[derive(Debug, Clone)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the most probable token.
    pub temperature: f64,
    /// The smallest set of most probable tokens whose mass reaches it is kept.
    pub top_p: f64,
    /// The longest response, in tokens.
    pub max_tokens: usize,
    /// Tokens that end a response.
    pub stop_ids: Vec<i64>,
    /// Ids from here on are never sampled: rows of the embedding that no token uses.
    pub vocab: i64,
    /// Whether the kept tokens of every draw are returned.
    pub record_nucleus: bool,
}

/// A sampled token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The id that was drawn.
    pub token: i64,
    /// The kept ids in ascending order, when they were asked for.
    pub nucleus: Option<Vec<i64>>,
}
