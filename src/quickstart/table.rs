//! The quickstart's table.

use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use crate::output::print_line;

/// Prints the cost and gain of each stage.
pub(super) fn print(results: &Value, out: &Path) {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header([
        "stage",
        "time",
        "loss",
        "pair accuracy",
        "gold",
        "correct",
        "style",
        "distinct",
        "KL",
        "perplexity",
    ]);
    for (name, stage) in results["stages"].as_object().into_iter().flatten() {
        let shown = |key: &str, show: &dyn Fn(f64) -> String| stage[key].as_f64().map_or_else(String::new, show);
        let points = |points: f64| format!("{points:.1}");
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        table.add_row([
            name.clone(),
            shown("seconds", &|seconds| format!("{seconds:.0} s")),
            shown("loss", &|loss| format!("{loss:.3}")),
            shown("accuracy", &percent),
            shown("gold", &points),
            shown("gold_correct", &percent),
            shown("gold_style", &points),
            shown("distinct", &percent),
            shown("kl", &|nats| format!("{nats:.2}")),
            shown("perplexity", &|perplexity| format!("{perplexity:.3}")),
        ]);
    }
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    print_line(&table.to_string());
    let (prompts, documents) = (&results["heldout_prompts"], &results["heldout_documents"]);
    print_line(&format!(
        "gold: mean points of 100 on {prompts} held-out prompts: 50 for the right answer (correct: how many gave it), up to 50 for how\n\
         it is given (style) · distinct: share of responses that differ · KL: nats per response to the sft model · perplexity: of the text\n\
         of {documents} held-out documents · ppo's loss is the value model's."
    ));
    print_line(&format!("curves: tensorboard --logdir {}", out.display()));
    print_line(&format!("try it: align chat --model {}", out.join("ppo/model").display()));
}
