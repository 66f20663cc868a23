//! `align compare`: models by the judgments of people or programs, against a baseline and all at once.

use std::path::Path;
use std::process::ExitCode;

use align_core::error::{Error, Problems};
use align_judgments::compare::{DRAWS, Table};
use align_judgments::judgment::{ITEMS, JUDGMENTS};
use align_judgments::{Comparison, Counting, Labels, Options, compare, figure};
use align_statistics::bootstrap::Draws;
use align_statistics::comparison_models::OrderEffect;
use anyhow::Result;
use serde_json::json;

use super::html::environment;
use super::lines::{Lines, refuse_same_file};
use crate::cli::compare::CompareArgs;
use crate::output::{Column, align_right, narrow, print_columns, print_line, print_paragraph, say};

/// The format of the figure's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Picture {
    Svg,
    Png,
}

/// Compares the models of a labelling folder.
pub(crate) fn run(args: CompareArgs) -> Result<ExitCode> {
    let (labels, pictures) = check(&args)?;
    report_torn_line(&args.labels, &labels);
    let options = Options {
        baseline: args.baseline.clone(),
        annotators: args.annotators.get(),
        counting: if args.majority { Counting::Majority } else { Counting::Each },
        order_effect: if args.order_effect { OrderEffect::FirstShown } else { OrderEffect::None },
        draws: Draws { count: DRAWS, seed: args.seed },
    };
    let comparison = compare(&labels, &options)?;
    for (path, picture) in args.figure.iter().zip(pictures) {
        let bytes = match picture {
            Picture::Svg => figure::svg(&comparison)?.into_bytes(),
            Picture::Png => figure::png(&comparison)?,
        };
        let mut file = Lines::create(path)?;
        file.write_bytes(&bytes)?;
        file.finish()?;
    }
    if let Some(path) = &args.html {
        let mut page = Lines::create(path)?;
        page.write_text(&render(&args.labels, &comparison)?)?;
        page.finish()?;
    }
    if args.json {
        print_line(&serde_json::to_string(&comparison)?);
    } else {
        // The outcomes are the first of the tables.
        let count = if args.short { 1 } else { usize::MAX };
        comparison.tables().iter().take(count).for_each(print_table);
        print_findings(&comparison);
    }
    Ok(ExitCode::SUCCESS)
}

fn check(args: &CompareArgs) -> Result<(Labels, Vec<Picture>)> {
    let mut problems = Problems::new();
    let mut pictures = Vec::new();
    for path in &args.figure {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("svg") => pictures.push(Picture::Svg),
            Some("png") => pictures.push(Picture::Png),
            _ => {
                problems.push("--figure", format!("{} has another extension, expected .svg or .png", path.display()));
            }
        }
    }
    for out in args.html.iter().chain(&args.figure) {
        for name in [ITEMS, JUDGMENTS] {
            refuse_same_file(out, &args.labels.join(name), "the labelling folder", &mut problems);
        }
    }
    let labels = problems.absorb(Labels::read(&args.labels))?;
    Ok((problems.into_checked(labels)?, pictures))
}

/// Reports that the last line of the judgments was being written when its writer ended.
pub(super) fn report_torn_line(folder: &Path, labels: &Labels) {
    if labels.read.torn_bytes > 0 {
        let path = folder.join(JUDGMENTS);
        say(&format!("{}: the last line is incomplete, and left out", path.display()));
    }
}

fn print_table(found: &Table) {
    print_line(&found.title);
    let column =
        |(at, heading): (usize, &String)| (heading.clone(), found.rows.iter().map(|row| row[at].clone()).collect());
    let columns: Vec<Column> = found.header.iter().enumerate().map(column).collect();
    print_columns(&columns, |table| narrow(align_right(table, 1)));
    found.notes.iter().for_each(|note| print_paragraph(note, "  "));
    print_line("");
}

fn print_findings(comparison: &Comparison) {
    comparison.findings.iter().for_each(|sentence| print_paragraph(sentence, ""));
    if comparison.findings.is_empty() {
        print_line("no warning signs");
    }
}

/// The page of `--html`.
fn render(folder: &Path, comparison: &Comparison) -> Result<String> {
    let environment = environment(include_str!("compare.html"))?;
    let page = json!({
        "folder": folder, "comparison": comparison, "tables": comparison.tables(),
        "figure": figure::svg(comparison)?,
    });
    let page = environment.get_template("page.html")?.render(page);
    Ok(page.map_err(|error| Error::Failed(format!("the page cannot be rendered: {error}")))?)
}
