//! The section on held-out sets of a PPO run: scores against KL and response length.

use align_ppo::charts::{SCORE_SOURCES, by_length, frontier};
use align_ppo::findings::{Log, series, sets};
use align_ppo::held_out::{Decile, measured_deciles};
use align_run::metrics::Metrics;
use align_run::plot::{Line, Plot, Steps, short};
use anyhow::Result;
use serde_json::{Value, json};

use super::figure;

/// The columns of the table: heading, metric, and the reference's metric if there is one.
const COLUMNS: [(&str, &str, &str); 11] = [
    ("score", "score_mean", "reference_score_mean"),
    ("±", "score_std", ""),
    ("second score", "second_score_mean", "reference_second_score_mean"),
    ("KL", "kl_ref", ""),
    ("tokens", "tokens", "reference_tokens"),
    ("ended", "ended", ""),
    ("distinct", "distinct", ""),
    ("distinct-1", "distinct_1", ""),
    ("distinct-2", "distinct_2", ""),
    ("repetition", "repetition", ""),
    ("length corr.", "score_length_correlation", ""),
];

/// The plots and tables of every set, for the template.
pub(super) fn held_out(log: &Log, steps: &Steps) -> Result<Vec<Value>> {
    sets(log).into_iter().map(|set| of_set(log, set, steps)).collect()
}

fn of_set(log: &Log, set: &str, steps: &Steps) -> Result<Value> {
    let evaluated: Vec<&(u64, Metrics)> =
        log.iter().filter(|(_, metrics)| metrics.get(&format!("eval/{set}/score_mean")).is_some()).collect();
    let ends = evaluated.iter().enumerate().filter(|(index, _)| *index == 0 || *index + 1 == evaluated.len());
    let deciles: Vec<(u64, Vec<Decile>)> =
        ends.map(|(_, (step, metrics))| (*step, measured_deciles(metrics, set))).collect();
    let over_steps = |caption, metrics: &[(&str, &str)]| {
        let lines = metrics.iter().map(|(name, metric)| line(log, set, name, metric)).collect();
        Plot::over_steps(caption, lines, steps)
    };
    let plots = [
        // One plot per score: scores of two models may have different scales.
        frontier(log, set, "score over KL", &SCORE_SOURCES[..1]),
        frontier(log, set, "second score over KL", &SCORE_SOURCES[1..]),
        over_steps("score", &[("policy", "score_mean"), ("reference", "reference_score_mean")]),
        over_steps("second score", &[("policy", "second_score_mean"), ("reference", "reference_second_score_mean")]),
        over_steps("length, tokens", &[("policy", "tokens"), ("reference", "reference_tokens")]),
        over_steps(
            "shares",
            &[
                ("ended", "ended"),
                ("distinct", "distinct"),
                ("distinct-1", "distinct_1"),
                ("distinct-2", "distinct_2"),
                ("repetition", "repetition"),
            ],
        ),
        over_steps("correlation of score and length", &[("policy", "score_length_correlation")]),
        by_length(&deciles),
    ];
    let worth_showing = plots.iter().filter(|plot| plot.has_curve());
    let plots: Vec<Value> = worth_showing.map(figure).filter_map(Result::transpose).collect::<Result<_>>()?;
    let (header, rows) = table(set, &evaluated);
    Ok(json!({ "name": set, "plots": plots, "header": header, "rows": rows, "deciles": decile_rows(&deciles) }))
}

fn line(log: &Log, set: &str, name: &str, metric: &str) -> Line {
    let points = series(log, &format!("eval/{set}/{metric}"));
    Line { name: name.to_owned(), points: points.into_iter().map(|(step, value)| (step as f64, value)).collect() }
}

/// One row per group: its number, then length and score at the first and at the last evaluation.
fn decile_rows(evaluations: &[(u64, Vec<Decile>)]) -> Value {
    let [(first_step, first), (last_step, last)] = evaluations else { return Value::Null };
    let row = |(index, (first, last)): (usize, (&Decile, &Decile))| {
        let numbers = [first.tokens, first.score, last.tokens, last.score].map(cell);
        [vec![(index + 1).to_string()], numbers.to_vec()].concat()
    };
    let rows: Vec<Vec<String>> = first.iter().zip(last).enumerate().map(row).collect();
    if rows.is_empty() { Value::Null } else { json!({ "first": first_step, "last": last_step, "rows": rows }) }
}

/// Headings and rows: the reference, then each evaluation. A metric that was never measured has no column.
fn table(set: &str, evaluated: &[&(u64, Metrics)]) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let of = |metrics: &Metrics, metric: &str| metrics.get(&format!("eval/{set}/{metric}"));
    let measured = COLUMNS.iter().filter(|(_, metric, _)| evaluated.iter().any(|(_, line)| of(line, metric).is_some()));
    let columns: Vec<_> = measured.collect();
    let header = std::iter::once("step").chain(columns.iter().map(|(heading, _, _)| *heading)).collect();
    let mut rows = Vec::new();
    if let Some((_, line)) = evaluated.iter().find(|(_, line)| of(line, "reference_score_mean").is_some()) {
        let cells = columns.iter().map(|(_, metric, reference)| match *metric {
            "kl_ref" => cell(0.0),
            _ => of(line, reference).map_or_else(String::new, cell),
        });
        rows.push(std::iter::once("reference".to_owned()).chain(cells).collect());
    }
    for (step, line) in evaluated {
        let cells = columns.iter().map(|(_, metric, _)| of(line, metric).map_or_else(String::new, cell));
        rows.push(std::iter::once(step.to_string()).chain(cells).collect());
    }
    (header, rows)
}

fn cell(number: f64) -> String {
    match number.is_finite() {
        true if number.abs() < 1e6 => format!("{number:.3}"),
        true => short(number),
        false => "–".to_owned(),
    }
}
