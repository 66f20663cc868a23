//! The quickstart's table.

use std::path::Path;

use serde_json::Value;

use crate::output::{align_right, narrow, print_line, table};

/// Prints the gain of each stage.
pub(super) fn print(results: &Value) {
    let header = ["stage", "pair\naccuracy", "gold", "correct", "style", "distinct", "KL", "perplexity"];
    let mut table = table(&header);
    for (name, stage) in results["stages"].as_object().into_iter().flatten() {
        let shown = |key: &str, show: &dyn Fn(f64) -> String| stage[key].as_f64().map_or_else(String::new, show);
        let points = |points: f64| format!("{points:.1}");
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        table.add_row([
            name.clone(),
            shown("accuracy", &percent),
            shown("gold", &points),
            shown("gold_correct", &percent),
            shown("gold_style", &points),
            shown("distinct", &percent),
            shown("kl", &|nats| format!("{nats:.2}")),
            shown("perplexity", &|perplexity| format!("{perplexity:.3}")),
        ]);
    }
    print_line(&narrow(align_right(table, 1)).to_string());
    let (prompts, documents) = (&results["heldout_prompts"], &results["heldout_documents"]);
    print_line(&format!(
        "pair accuracy: of the reward model on held-out comparisons\n\
         gold: mean points of 100 on {prompts} held-out prompts: 50 for the right answer\n\
         (correct: how many gave it), up to 50 for how it is given (style)\n\
         distinct: share of responses that differ · KL: nats per response to sft\n\
         perplexity: of the text of {documents} held-out documents"
    ));
}

/// Prints what a user can do with the result.
pub(super) fn print_what_next(out: &Path) {
    let items = out.join("comparison").join("items.jsonl");
    print_line(&format!("\ncurves: tensorboard --logdir {}", out.display()));
    print_line(&format!("judge: align label --items {} --out labels", items.display()));
    print_line(&format!("try: align chat --model {}", out.join("ppo/model").display()));
}
