//! The page of `align eval rm --html`: one file with tables, plots and the worst pairs.

use std::path::Path;

use align_reward::diagnostics::{Bucket, Evaluation};
use align_reward::eval::score_pairs;
use align_reward::stats::PairAccuracy;
use align_run::plot::{GREY, INK, failed, svg};
use align_train::stage::set_names;
use anyhow::Result;
use plotters::prelude::*;
use serde_json::{Value, json};

use super::eval_rm::Evaluated;
use super::html::{environment, printable};

/// The number of pairs shown in full: those with the largest margin in the wrong direction.
const WORST: usize = 8;

/// Renders the page.
pub(super) fn render(models: &[(&Path, Vec<Evaluated<'_>>)]) -> Result<String> {
    let environment = environment(include_str!("page.html"))?;
    // All models were evaluated on the same files.
    let files: Vec<_> = models.iter().take(1).flat_map(|(_, sets)| sets).map(|set| set.file.to_owned()).collect();
    let names = set_names(&files);
    let of_model = |(dir, sets): &(&Path, Vec<Evaluated<'_>>)| -> Result<Value> {
        Ok(json!({ "model": dir, "sets": sets.iter().map(of_set).collect::<Result<Vec<_>>>()? }))
    };
    let models = models.iter().map(of_model).collect::<Result<Vec<_>>>()?;
    Ok(environment.get_template("page.html")?.render(json!({ "names": names, "models": models }))?)
}

fn of_set(evaluated: &Evaluated<'_>) -> Result<Value> {
    let mut set = serde_json::to_value(&evaluated.evaluation)?;
    set["file"] = json!(evaluated.file);
    set["worst"] = json!(worst(evaluated));
    set["plots"] = json!([
        margins(evaluated)?,
        calibration(&evaluated.evaluation)?,
        accuracies(
            "accuracy by length of the better answer",
            &evaluated.evaluation.by_length,
            &["≪", "<", "≈", ">", "≫"]
        )?,
        accuracies("accuracy by margin, smallest first", &evaluated.evaluation.by_margin, &["1", "2", "3", "4", "5"])?,
    ]);
    Ok(set)
}

fn worst(evaluated: &Evaluated<'_>) -> Vec<Value> {
    let margin = |row: usize, better: usize, worse: usize| evaluated.scores[row][better] - evaluated.scores[row][worse];
    let pairs = evaluated.rows.iter().enumerate();
    let pairs =
        pairs.flat_map(|(index, row)| row.pairs().into_iter().map(move |(better, worse)| (index, better, worse)));
    let mut wrong: Vec<_> = pairs.filter(|&(row, better, worse)| margin(row, better, worse) < 0.0).collect();
    wrong.sort_by(|&(a, b, c), &(d, e, f)| margin(a, b, c).total_cmp(&margin(d, e, f)));
    let tokenizer = evaluated.format.tokenizer();
    let text = |ids: &[i64]| printable(&tokenizer.decode(ids));
    let shown = |&(index, better, worse): &(usize, usize, usize)| {
        let row = &evaluated.rows[index];
        let answer = |dialogue: usize| text(&row.dialogue(dialogue)[row.answer_starts[dialogue]..]);
        json!({
            "index": row.location.index, "prompt": text(&row.dialogue(better)[..row.answer_starts[better]]),
            "chosen": answer(better), "rejected": answer(worse),
            "chosen_score": evaluated.scores[index][better], "rejected_score": evaluated.scores[index][worse],
        })
    };
    wrong.iter().take(WORST).map(shown).collect()
}

/// A histogram of chosen − rejected; left of the line the model is wrong.
fn margins(evaluated: &Evaluated<'_>) -> Result<String> {
    const BINS: usize = 30;
    let pairs = score_pairs(evaluated.rows, &evaluated.scores);
    let margins: Vec<f64> = pairs.into_iter().map(|(chosen, rejected)| chosen - rejected).collect();
    let reach = margins.iter().fold(1e-6f64, |reach, margin| reach.max(margin.abs()));
    let width = 2.0 * reach / BINS as f64;
    let mut counts = [0u32; BINS];
    for margin in &margins {
        counts[(((margin + reach) / width) as usize).min(BINS - 1)] += 1;
    }
    let top = f64::from(counts.iter().copied().max().unwrap_or(1)) * 1.1;
    let picture = svg(|canvas| {
        let mut chart =
            canvas.frame("chosen − rejected").build_cartesian_2d(-reach..reach, 0.0..top).map_err(failed)?;
        let count = |count: &f64| format!("{count:.0}");
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .y_desc("pairs")
            .y_label_formatter(&count)
            .draw()
            .map_err(failed)?;
        let bars = counts.iter().enumerate().map(|(bin, count)| {
            let left = -reach + width * bin as f64;
            let colour = if left + width / 2.0 < 0.0 { GREY } else { INK };
            Rectangle::new([(left, 0.0), (left + width * 0.92, f64::from(*count))], colour.filled())
        });
        chart.draw_series(bars).map_err(failed)?;
        chart.draw_series([PathElement::new([(0.0, 0.0), (0.0, top)], BLACK)]).map_err(failed)?;
        Ok(())
    })?;
    Ok(picture)
}

/// Accuracy over confidence; on the line the two are equal. Larger dots stand for more pairs.
fn calibration(evaluation: &Evaluation) -> Result<String> {
    let most = evaluation.calibration.bins.iter().map(|bin| bin.pairs).max().unwrap_or(1).max(1) as f64;
    let picture = svg(|canvas| {
        let mut chart = canvas.frame("calibration").build_cartesian_2d(0.5..1.0, 0.0..1.0).map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc("confidence")
            .y_desc("accuracy")
            .draw()
            .map_err(failed)?;
        chart.draw_series([PathElement::new([(0.5, 0.5), (1.0, 1.0)], GREY)]).map_err(failed)?;
        let dots = evaluation.calibration.bins.iter().filter(|bin| bin.pairs > 0).map(|bin| {
            let size = 3.0 + 7.0 * (bin.pairs as f64 / most).sqrt();
            Circle::new((bin.confidence, bin.accuracy), size as i32, INK.mix(0.8).filled())
        });
        chart.draw_series(dots).map_err(failed)?;
        Ok(())
    })?;
    Ok(picture)
}

/// One bar per group with its confidence interval; the line is chance level.
fn accuracies(caption: &str, buckets: &[Bucket], labels: &[&str]) -> Result<String> {
    let picture = svg(|canvas| {
        let mut chart = canvas
            .frame(caption)
            .build_cartesian_2d((0..buckets.len().max(1) as i32 - 1).into_segmented(), 0.0..1.0)
            .map_err(failed)?;
        let label = |value: &SegmentValue<i32>| match value {
            SegmentValue::CenterOf(at) | SegmentValue::Exact(at) => {
                labels.get(*at as usize).copied().unwrap_or_default().to_owned()
            }
            SegmentValue::Last => String::new(),
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .x_label_formatter(&label)
            .draw()
            .map_err(failed)?;
        let measured = || buckets.iter().map(|bucket| bucket.accuracy).enumerate().filter(|(_, found)| found.pairs > 0);
        let bars = measured().map(|(at, found): (usize, PairAccuracy)| {
            let left = SegmentValue::Exact(at as i32);
            let right = if at + 1 < buckets.len() { SegmentValue::Exact(at as i32 + 1) } else { SegmentValue::Last };
            let mut bar = Rectangle::new([(left, 0.0), (right, found.accuracy)], INK.mix(0.75).filled());
            bar.set_margin(0, 0, 12, 12);
            bar
        });
        chart.draw_series(bars).map_err(failed)?;
        let whiskers = measured().map(|(at, found)| {
            let [low, high] = found.ci95;
            ErrorBar::new_vertical(SegmentValue::CenterOf(at as i32), low, found.accuracy, high, BLACK.filled(), 8)
        });
        chart.draw_series(whiskers).map_err(failed)?;
        let coin = [(SegmentValue::Exact(0), 0.5), (SegmentValue::Last, 0.5)];
        chart.draw_series([PathElement::new(coin, GREY)]).map_err(failed)?;
        Ok(())
    })?;
    Ok(picture)
}
