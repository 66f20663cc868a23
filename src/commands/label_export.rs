//! `align label export`: judgments as comparisons for `align rm`.

use std::process::ExitCode;

use align_core::error::Problems;
use align_judgments::judgment::{ITEMS, JUDGMENTS};
use align_judgments::{ExportCounts, ExportOptions, Exported, Labels, PairLimits, ScoreUnit, Shape, export};
use anyhow::Result;

use super::compare::report_torn_line;
use super::lines::{Lines, refuse_same_file};
use crate::cli::compare::{ExportShape, LabelExportArgs};
use crate::output::print_line;

/// Writes the judgments of a labelling folder as rows for training.
pub(crate) fn run(args: LabelExportArgs) -> Result<ExitCode> {
    let (labels, shape) = check(&args)?;
    report_torn_line(&args.labels, &labels);
    let unit = if args.z_score { ScoreUnit::ZScore } else { ScoreUnit::AsGiven };
    let Exported { rows, counts } = export(&labels, &ExportOptions { shape, unit, annotators: args.annotators.get() })?;
    let mut out = Lines::create(&args.out)?;
    rows.iter().try_for_each(|row| out.write(row))?;
    out.finish()?;
    if args.json {
        print_line(&serde_json::to_string(&counts)?);
    } else {
        print_counts(&counts, shape);
    }
    Ok(ExitCode::SUCCESS)
}

fn check(args: &LabelExportArgs) -> Result<(Labels, Shape)> {
    let mut problems = Problems::new();
    let shape = match args.shape {
        ExportShape::Lists => {
            for (flag, is_given) in [("--min-agree", args.min_agree.is_some()), ("--min-gap", args.min_gap.is_some())] {
                if is_given {
                    problems.push(flag, "is given for lists, expected --as pairs with it");
                }
            }
            Shape::Lists
        }
        ExportShape::Pairs => {
            let (min_agree, min_gap) = (args.min_agree.unwrap_or(1), args.min_gap.unwrap_or(0.0));
            if min_agree == 0 {
                problems.push("--min-agree", "is 0, expected at least 1");
            }
            if !min_gap.is_finite() || min_gap < 0.0 {
                problems.push("--min-gap", format!("is {min_gap}, expected a number from 0"));
            }
            Shape::Pairs(PairLimits { min_agree, min_gap })
        }
    };
    for name in [ITEMS, JUDGMENTS] {
        refuse_same_file(&args.out, &args.labels.join(name), "the labelling folder", &mut problems);
    }
    let labels = problems.absorb(Labels::read(&args.labels))?;
    Ok((problems.into_checked(labels)?, shape))
}

fn print_counts(counts: &ExportCounts, shape: Shape) {
    let (rows, ties) = match shape {
        Shape::Lists => ("lists", "lists whose mean scores are all equal"),
        Shape::Pairs(_) => ("pairs", "ties"),
    };
    print_line(&format!(
        "{} {rows} of {} judged items ({} in the folder); {} judgments of {} annotators, {} skipped",
        counts.rows, counts.judged_items, counts.items, counts.judgments, counts.annotators, counts.skipped
    ));
    let left_out = [
        (counts.ties, ties),
        (counts.disagreements, "pairs on which the mean scores and most annotators disagree"),
        (counts.below_min_agree, "pairs below --min-agree"),
        (counts.below_min_gap, "pairs below --min-gap"),
        (counts.flagged_responses, "flagged responses"),
        (counts.empty_responses, "responses without text"),
        (counts.too_few_responses, "items with fewer than two responses left"),
    ];
    let left_out: Vec<String> =
        left_out.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if !left_out.is_empty() {
        print_line(&format!("left out: {}", left_out.join(", ")));
    }
    match counts.alpha {
        Some(alpha) => print_line(&format!("Krippendorff's α (ordinal): {alpha:.3}")),
        None => print_line("Krippendorff's α: not known without two judgments of the same item"),
    }
}
