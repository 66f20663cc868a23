//! Rouge-L: how much of two sequences is in both, in order.
//!
//! Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries"; the package rouge-score.

/// F = 2·P·R / (P + R), with P = L / |response|, R = L / |reference| and L the length of the longest common
/// subsequence. 0 if either sequence is empty.
pub fn rouge_l(reference: &[&str], response: &[&str]) -> f64 {
    let length = common_subsequence(reference, response) as f64;
    if length == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (length / response.len() as f64, length / reference.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

/// The length of the longest common subsequence, in memory of one row.
fn common_subsequence(first: &[&str], second: &[&str]) -> usize {
    let mut row = vec![0; second.len() + 1];
    for a in first {
        let mut diagonal = 0;
        for (index, b) in second.iter().enumerate() {
            let above = row[index + 1];
            row[index + 1] = if a == b { diagonal + 1 } else { above.max(row[index]) };
            diagonal = above;
        }
    }
    row[second.len()]
}
