//! `align data`: selects rows to train on.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use align_core::error::{Error, Problems};
use align_curation::decontaminate::{self, AgainstCounts};
use align_curation::sample::SampleCounts;
use align_curation::{FileCounts, Inputs, Removed, Sink, dedup as copies};
use align_data::{BadRows, Found};
use anyhow::Result;
use serde_json::{Value, json};

use super::inputs::{self, report_ignored};
use super::lines::{Lines, refuse_same_file};
use crate::cli::{DataArgs, DecontaminateArgs, SampleArgs};
use crate::output::{align_right, print_line, table};
use crate::terminal::Terminal;

/// Drops duplicates.
pub(crate) fn dedup(mut args: DataArgs) -> Result<ExitCode> {
    let given = args.find();
    let mut results = Results::create(&args, &[], "dedup", copies::settings())?;
    let files = align_curation::dedup(args.inputs(), scratch(&args.out)?, &mut results, &mut Terminal::new())?;
    report_ignored(&given);
    results.finish(json!({ "files": files }))?;
    print_files(&files, &["exact copy", "near copy", "bad row"]);
    Ok(ExitCode::SUCCESS)
}

/// Drops rows that overlap an evaluation set.
pub(crate) fn decontaminate(mut args: DecontaminateArgs) -> Result<ExitCode> {
    let mut given = args.data.find();
    let evaluation = inputs::sets(&args.against);
    let against = inputs::files(&evaluation);
    given.extend(evaluation);
    let mut results = Results::create(&args.data, &against, "decontaminate", decontaminate::settings())?;
    let (files, against) =
        align_curation::decontaminate(args.data.inputs(), &against, &mut results, &mut Terminal::new())?;
    report_ignored(&given);
    results.finish(json!({ "files": files, "against": against }))?;
    print_files(&files, &["overlap", "bad row"]);
    print_against(&against);
    Ok(ExitCode::SUCCESS)
}

/// Draws a balanced sample.
pub(crate) fn sample(mut args: SampleArgs) -> Result<ExitCode> {
    let given = args.data.find();
    let mut results = Results::create(&args.data, &[], "sample", json!({ "rows": args.rows }))?;
    let (files, counts) = align_curation::sample(args.data.inputs(), args.rows, &mut results, &mut Terminal::new())?;
    report_ignored(&given);
    results.finish(json!({ "files": files, "tags": counts }))?;
    print_files(&files, &["bad row"]);
    print_sample(&counts);
    Ok(ExitCode::SUCCESS)
}

impl DataArgs {
    /// Replaces each path by the files that it refers to.
    fn find(&mut self) -> Vec<Found> {
        let given = inputs::sets(&self.files);
        self.files = inputs::files(&given);
        given
    }

    fn inputs(&self) -> Inputs<'_> {
        let bad_rows = if self.bad_rows == "skip" { BadRows::Skip } else { BadRows::Error };
        Inputs { files: &self.files, bad_rows }
    }
}

/// An unnamed temporary file on the disk of the result, where there is enough space. It is removed when the
/// process ends.
fn scratch(out: &Path) -> Result<File> {
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(tempfile::tempfile_in(folder).map_err(Error::io(folder))?)
}

/// Writes the kept rows and the report; both are renamed into place at the end.
struct Results {
    kept: Lines,
    report: Lines,
    /// Whether the report lists a row already.
    any: bool,
}

impl Results {
    fn create(args: &DataArgs, against: &[PathBuf], command: &str, settings: Value) -> Result<Self> {
        let path = args.report.clone().unwrap_or_else(|| args.out.with_extension("report.json"));
        let mut problems = Problems::new();
        for (file, flag) in
            args.files.iter().map(|file| (file, "FILE")).chain(against.iter().map(|file| (file, "--against")))
        {
            refuse_same_file(&args.out, file, flag, &mut problems);
            refuse_same_file(&path, file, flag, &mut problems);
        }
        if path == args.out {
            problems.push(path.display(), "is given to --out and --report, expected two files");
        }
        let name = args.out.to_string_lossy().to_lowercase();
        if [".gz", ".zst", ".parquet", ".txt"].iter().any(|ending| name.ends_with(ending)) {
            problems.push(args.out.display(), "the output is JSON Lines, expected a name that ends with .jsonl");
        }
        problems.into_result()?;
        let (kept, mut report) = (Lines::create(&args.out)?, Lines::create(&path)?);
        report.write_text(&format!("{{\"command\":{},\"settings\":{settings},\n\"removed\":[", json!(command)))?;
        Ok(Self { kept, report, any: false })
    }

    fn finish(mut self, counts: Value) -> Result<()> {
        let Value::Object(counts) = counts else { unreachable!("counts are an object") };
        self.report.write_text("\n]")?;
        for (key, value) in counts {
            self.report.write_text(&format!(",\n{}:{value}", json!(key)))?;
        }
        self.report.write_text("}\n")?;
        self.kept.finish()?;
        self.report.finish()
    }
}

impl Sink for Results {
    fn keep(&mut self, line: &[u8]) -> align_core::error::Result<()> {
        self.kept.write_line(line)
    }

    fn remove(&mut self, removed: &Removed) -> align_core::error::Result<()> {
        let separator = if std::mem::replace(&mut self.any, true) { "," } else { "" };
        self.report.write_text(&format!("{separator}\n{}", json!(removed)))
    }
}

/// Prints one row per file and a total, with the reasons as columns.
fn print_files(files: &[FileCounts], reasons: &[&'static str]) {
    let header: Vec<&str> = ["file", "rows", "kept"].into_iter().chain(reasons.iter().copied()).collect();
    let mut shown = table(&header);
    let mut row = |name: String, files: &[&FileCounts]| {
        let sum = |count: &dyn Fn(&FileCounts) -> u64| files.iter().map(|file| count(file)).sum::<u64>().to_string();
        let of = |reason| sum(&|file: &FileCounts| file.removed.get(reason).copied().unwrap_or(0));
        let counts = [sum(&|file| file.rows), sum(&|file| file.kept)].into_iter().chain(reasons.iter().map(of));
        shown.add_row(std::iter::once(name).chain(counts));
    };
    files.iter().for_each(|file| row(file.file.display().to_string(), &[file]));
    if files.len() > 1 {
        row("together".to_owned(), &files.iter().collect::<Vec<_>>());
    }
    print_line(&align_right(shown, 1).to_string());
}

fn print_against(files: &[AgainstCounts]) {
    let mut shown = table(&["against", "rows", "13-grams", "rows too short for one", "rows removed"]);
    for file in files {
        let counts = [file.rows, file.grams, file.too_short, file.removed].map(|count| count.to_string());
        shown.add_row(std::iter::once(file.file.display().to_string()).chain(counts));
    }
    print_line(&align_right(shown, 1).to_string());
}

fn print_sample(counts: &SampleCounts) {
    let mut shown = table(&["tags", "covered", "rounds", "rows without tags", "tags per row", "tags per kept row"]);
    let means = [counts.tags_a_row, counts.tags_a_chosen_row].map(|mean| format!("{mean:.2}"));
    let numbers = [counts.tags, counts.covered, counts.rounds, counts.untagged].map(|count| count.to_string());
    shown.add_row(numbers.into_iter().chain(means));
    print_line(&align_right(shown, 0).to_string());
}
