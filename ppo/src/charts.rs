//! Plots of an evaluation: score against KL, and score by response length.

use align_run::plot::{Line, Plot, Shape};

use crate::findings::{Log, series};
use crate::held_out::Decile;

/// A reward model that scores held-out responses, and its metrics.
pub struct ScoreSource {
    name: &'static str,
    score: &'static str,
    reference_score: &'static str,
}

/// The reward model that is trained on, and the second one.
pub const SCORE_SOURCES: [ScoreSource; 2] = [
    ScoreSource { name: "reward model", score: "score_mean", reference_score: "reference_score_mean" },
    ScoreSource {
        name: "second reward model",
        score: "second_score_mean",
        reference_score: "reference_second_score_mean",
    },
];

/// Mean score against KL: a path of one point per evaluation, from the reference, whose KL is 0.
pub fn frontier(log: &Log, set: &str, caption: &str, sources: &[ScoreSource]) -> Plot {
    let of = |metric: &str| series(log, &format!("eval/{set}/{metric}"));
    let kl = of("kl_ref");
    let at = |step: u64| kl.iter().find(|(other, _)| *other == step).map(|(_, kl)| *kl);
    let path = |source: &ScoreSource| {
        let start = of(source.reference_score).first().map(|(_, score)| (0.0, *score));
        let measured = of(source.score).into_iter().filter_map(|(step, score)| Some((at(step)?, score)));
        Line { name: source.name.to_owned(), points: start.into_iter().chain(measured).collect() }
    };
    let note = kl
        .last()
        .map_or_else(String::new, |(step, _)| format!("Evaluations from the reference to step {step} (large dot)."));
    Plot {
        caption: caption.to_owned(),
        x: "KL to the reference, nats a response",
        y: "mean score",
        range: Some(kl_range(&kl)),
        lines: sources.iter().map(path).collect(),
        ends: true,
        note,
        ..Plot::default()
    }
}

/// The range of the axis: from 0 to the maximum KL, with a margin for the dots, and at least 0.1 wide: in the
/// value warm-up the KL is 0.
fn kl_range(kl: &[(u64, f64)]) -> (f64, f64) {
    let (low, high) = kl.iter().fold((0.0f64, 0.1f64), |(low, high), (_, kl)| (low.min(*kl), high.max(*kl)));
    let room = 0.04 * (high - low);
    (low - room, high + room)
}

/// Mean score by length: a group of bars for each tenth of the responses, with a bar per evaluation.
pub fn by_length(evaluations: &[(u64, Vec<Decile>)]) -> Plot {
    let line = |(step, deciles): &(u64, Vec<Decile>)| {
        let points = deciles.iter().zip(1..).map(|(decile, group)| (f64::from(group), decile.score)).collect();
        Line { name: format!("step {step}"), points }
    };
    let (step, last) = evaluations.last().map_or((0, [].as_slice()), |(step, deciles)| (*step, deciles.as_slice()));
    let note = if evaluations.len() > 1 { format!("The tokens are those of step {step}.") } else { String::new() };
    Plot {
        caption: "score by length".to_owned(),
        x: "mean tokens of each tenth of the responses",
        y: "mean score",
        shape: Shape::Bars(last.iter().map(length).collect()),
        lines: evaluations.iter().map(line).collect(),
        note,
        ..Plot::default()
    }
}

/// A label short enough for a bar.
fn length(decile: &Decile) -> String {
    if decile.tokens < 100.0 { format!("{:.1}", decile.tokens) } else { format!("{:.0}", decile.tokens) }
}

#[cfg(test)]
mod tests {
    use align_run::metrics::Metrics;

    use super::*;

    fn line(columns: &[(&str, f64)]) -> Metrics {
        columns.iter().map(|(name, value)| (format!("eval/held/{name}"), *value)).collect()
    }

    #[test]
    fn the_frontier_starts_at_the_reference_and_skips_what_is_no_number() {
        let first = [("score_mean", 1.5), ("kl_ref", 0.5), ("reference_score_mean", 1.0), ("second_score_mean", 7.0)];
        let log = [
            (10, line(&first)),
            (20, line(&[("score_mean", 9.0), ("kl_ref", f64::NAN)])),
            (30, line(&[("score_mean", 2.0), ("kl_ref", 4.5), ("second_score_mean", 6.0)])),
        ];
        let plot = frontier(&log, "held", "score over KL", &SCORE_SOURCES);
        assert_eq!(plot.lines[0].points, [(0.0, 1.0), (0.5, 1.5), (4.5, 2.0)]);
        assert_eq!(plot.lines[1].points, [(0.5, 7.0), (4.5, 6.0)]);
        assert!(plot.note.contains("to step 30") && plot.range.is_some_and(|(low, high)| low < 0.0 && high > 4.5));
    }

    #[test]
    fn bars_are_labelled_with_the_latest_lengths() {
        let deciles = |score: f64| [12.0, 345.6].map(|tokens| Decile { score, tokens }).to_vec();
        let plot = by_length(&[(5, deciles(1.0)), (10, deciles(2.0))]);
        assert!(matches!(&plot.shape, Shape::Bars(labels) if *labels == ["12.0", "346"]));
        assert_eq!(
            (plot.lines[1].name.as_str(), &plot.lines[1].points[..]),
            ("step 10", &[(1.0, 2.0), (2.0, 2.0)][..])
        );
        assert!(by_length(&[(5, Vec::new())]).png().unwrap().is_none());
    }
}
