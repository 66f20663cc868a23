//! Computes gold scores: reads the output of `align generate` from stdin, and writes one line of shares for
//! each response: `cargo run --release -p align-datasets --example score_responses < FILE`.

use std::io::{BufRead, Write};

fn main() -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in std::io::stdin().lock().lines() {
        let row: serde_json::Value = serde_json::from_str(&line?)?;
        let prompt = row["prompt"].as_array().and_then(|messages| messages.last()?["content"].as_str());
        let (prompt, response) = (prompt.unwrap_or_default(), row["response"].as_str().unwrap_or_default());
        let gold = align_datasets::gold(prompt, response, row["ended"].as_bool().unwrap_or(true));
        let (total, correct, courteous) = (gold.total(), gold.correct, gold.courteous);
        let shares = serde_json::json!({
            "total": total, "correct": correct, "courteous": courteous,
            "one_sentence": gold.one_sentence, "ended": gold.ended,
        });
        writeln!(out, "{shares}")?;
    }
    out.flush()
}
