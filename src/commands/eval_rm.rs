//! `align eval rm`: the pairwise accuracy of one or two reward models, and how far to trust it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use align_core::error::Problems;
use align_core::progress::Progress;
use align_data::{BadRows, Found, Unread};
use align_model::{ScalarModel, require_finite};
use align_reward::data::{Comparisons, Row};
use align_reward::diagnostics::Evaluation;
use align_reward::eval::{score, scored_pairs, with_other_prompts};
use align_reward::trained_pairs::TrainedPairs;
use align_text::chatml::ChatFormat;
use align_train::stage::{Scorer, check_reward_model, evaluation_options, misfits, set_names};
use anyhow::Result;
use comfy_table::Cell;
use serde_json::{Value, json};

use super::eval::{MICROBATCH_TOKENS, not_a_number, report_unread, warn_of_long};
use super::inputs::{self, report_ignored};
use super::lines::{Lines, refuse_same_file};
use super::page;
use crate::cli::EvalRmArgs;
use crate::output::{align_right, print_line, table};
use crate::terminal::{Terminal, report_assumed};

/// A model folder that passed every check, with the data files encoded for it.
struct Checked {
    dir: PathBuf,
    format: ChatFormat,
    /// The assumptions about a model of another program.
    assumed: Option<String>,
    sets: Vec<Comparisons>,
    seen: Option<TrainedPairs>,
}

/// The evaluation of one model on one set.
pub(super) struct Evaluated<'a> {
    pub(super) file: &'a Path,
    pub(super) format: &'a ChatFormat,
    pub(super) rows: &'a [Row],
    /// Rows that were left out because all their answers have equal labels.
    pub(super) tied: usize,
    /// The raw scores of every row's dialogues.
    pub(super) scores: Vec<Vec<f64>>,
    pub(super) evaluation: Evaluation,
}

/// Pairwise accuracy of one or two reward models.
pub(crate) fn rm(mut args: EvalRmArgs) -> Result<ExitCode> {
    let given = inputs::sets(&args.data.data);
    args.data.data = inputs::paths(&given);
    let checked = check(&args, &given)?;
    report_ignored(&given);
    let mut per_row = args.data.per_row.as_deref().map(Lines::create).transpose()?;
    let mut html = args.html.as_deref().map(Lines::create).transpose()?;
    let mut terminal = Terminal::new();
    let mut models: Vec<(&Path, Vec<Evaluated<'_>>)> = Vec::new();
    for model in &checked {
        let mut loaded = ScalarModel::load(&model.dir, &evaluation_options(args.data.dtype.into()), 0)?;
        require_finite(&model.dir, loaded.parameters())?;
        loaded.extrapolate();
        let sets = args.data.data.iter().zip(&model.sets);
        let evaluated = sets.map(|(file, set)| evaluate(&loaded, model, file, set, &mut terminal));
        let evaluated: Vec<Evaluated<'_>> = evaluated.collect::<Result<_>>()?;
        if let Some(per_row) = &mut per_row {
            for set in &evaluated {
                write_rows(per_row, set, (args.model.len() > 1).then_some(&model.dir))?;
            }
        }
        models.push((&model.dir, evaluated));
    }
    if let Some(html) = &mut html {
        html.write_text(&page::render(&models)?)?;
    }
    per_row.map_or(Ok(()), Lines::finish)?;
    html.map_or(Ok(()), Lines::finish)?;
    if args.data.json {
        let sets = |evaluated: &[Evaluated<'_>]| evaluated.iter().map(json_of).collect::<Vec<_>>();
        let models: Vec<Value> =
            models.iter().map(|(dir, evaluated)| json!({ "model": dir, "sets": sets(evaluated) })).collect();
        print_line(&json!({ "models": models }).to_string());
    } else {
        print_line(&accuracy_table(&args.data.data, &models));
        print_verdicts(&models);
    }
    Ok(ExitCode::SUCCESS)
}

fn check(args: &EvalRmArgs, given: &[Found]) -> Result<Vec<Checked>> {
    let mut problems = Problems::new();
    if args.model.len() > 2 {
        problems.push("--model", format!("{} folders are given, expected one or two", args.model.len()));
    }
    let mut checked = Vec::new();
    for dir in &args.model {
        let scorer = check_reward_model(dir, &args.reading.score_options(), &mut problems)?;
        let seen = problems.absorb(TrainedPairs::read(dir))?.flatten();
        let Some(Scorer { format, assumed, .. }) = scorer else { continue };
        let mut sets = Vec::new();
        for set in given {
            let read = align_reward::data::read(&set.files, &format, None, BadRows::Error);
            sets.extend(problems.absorb(read)?);
        }
        checked.push(Checked { dir: dir.clone(), format, assumed, sets, seen });
    }
    let files = inputs::files(given);
    args.data.check(&files, &mut problems);
    if let Some(html) = &args.html {
        files.iter().for_each(|file| refuse_same_file(html, file, "--data", &mut problems));
    }
    problems.into_result()?;
    let mut unread = Unread::default();
    checked.iter().take(1).flat_map(|model| &model.sets).for_each(|set| unread.add(&set.unread));
    report_unread(&unread);
    checked.iter().for_each(|model| report_assumed(&model.dir, model.assumed.as_deref()));
    Ok(checked)
}

fn evaluate<'a>(
    loaded: &ScalarModel,
    model: &'a Checked,
    file: &'a Path,
    set: &'a Comparisons,
    terminal: &mut Terminal,
) -> Result<Evaluated<'a>> {
    let rows = set.rows.as_slice();
    let longer_than = |limit| misfits::longer(rows.iter().map(Row::longest), limit);
    warn_of_long(loaded.config(), file, "rows have a dialogue", terminal, longer_than);
    let blind_rows = with_other_prompts(rows);
    let passes = 1 + u64::from(blind_rows.is_some());
    terminal.begin(&file.display().to_string(), passes * rows.len() as u64);
    let mut scored = |rows: &[Row]| {
        let scores = score(loaded, rows, MICROBATCH_TOKENS, &mut |done| terminal.advance(done as u64, ""));
        let is_wrong = |scores: &Vec<f64>| scores.iter().any(|score| !score.is_finite());
        let wrong = rows.iter().zip(&scores).find(|(_, scores)| is_wrong(scores));
        wrong.map_or(Ok(()), |(row, _)| Err(not_a_number(&row.location, "the score", &model.dir)))?;
        Ok::<_, anyhow::Error>(scores)
    };
    let scores = scored(rows)?;
    let blind_scores = blind_rows.map(|rows| scored(&rows)).transpose()?;
    terminal.end();
    let pairs = scored_pairs(rows, &scores, blind_scores.as_deref(), model.seen.as_ref());
    Ok(Evaluated { file, format: &model.format, rows, tied: set.tied, scores, evaluation: Evaluation::new(&pairs) })
}

fn json_of(evaluated: &Evaluated<'_>) -> Value {
    let mut set = json!({ "file": evaluated.file, "tied_rows": evaluated.tied });
    let found = serde_json::to_value(&evaluated.evaluation).expect("an evaluation is plain data");
    if let (Some(set), Value::Object(found)) = (set.as_object_mut(), found) {
        set.extend(found);
    }
    set
}

fn write_rows(out: &mut Lines, evaluated: &Evaluated<'_>, model: Option<&PathBuf>) -> Result<()> {
    for (row, scores) in evaluated.rows.iter().zip(&evaluated.scores) {
        for (better, worse) in row.pairs() {
            let mut line = json!({
                "file": &*row.location.file, "index": row.location.index,
                "chosen_score": scores[better], "rejected_score": scores[worse],
            });
            if row.scores.is_some() || row.tails.len() > 2 {
                line["pair"] = json!([better, worse]);
            }
            if let Some(model) = model {
                line["model"] = json!(model);
            }
            out.write(&line)?;
        }
    }
    Ok(())
}

/// The layout of the report's Table 4: a column per set, a row per model. Below are two baselines: with the
/// prompts of other rows, and the longer answer.
fn accuracy_table(files: &[PathBuf], models: &[(&Path, Vec<Evaluated<'_>>)]) -> String {
    let names = set_names(files);
    let mut header = vec!["model"];
    header.extend(names.iter().map(String::as_str));
    let mut table = table(&header);
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    for (dir, sets) in models {
        let mut row = vec![Cell::new(dir.display())];
        row.extend(sets.iter().map(|set| {
            let accuracy = &set.evaluation.accuracy;
            let [low, high] = accuracy.ci95.map(|share| format!("{:.1}", 100.0 * share));
            Cell::new(format!(
                "{} [{low}, {high}]\n{} pairs, {} ties",
                percent(accuracy.accuracy),
                accuracy.pairs,
                accuracy.ties
            ))
        }));
        table.add_row(row);
        let blind = sets
            .iter()
            .map(|set| set.evaluation.prompt_blind.map_or("–".to_owned(), |blind| percent(blind.accuracy)));
        table.add_row([Cell::new("  with other rows' prompts")].into_iter().chain(blind.map(Cell::new)));
    }
    if let Some((_, sets)) = models.first() {
        let longer = sets.iter().map(|set| Cell::new(percent(set.evaluation.longer_wins.accuracy)));
        table.add_row([Cell::new("the longer answer wins")].into_iter().chain(longer));
    }
    align_right(table, 1).to_string()
}

fn print_verdicts(models: &[(&Path, Vec<Evaluated<'_>>)]) {
    for (dir, sets) in models {
        for set in sets {
            let label = format!("{} on {}", dir.display(), set.file.display());
            let calibration = set.evaluation.calibration.ece;
            print_line(&format!("{label}: expected calibration error {calibration:.3}"));
            if set.tied > 0 {
                print_line(&format!("  {} rows left out: all their answers have equal scores", set.tied));
            }
            set.evaluation.verdict.iter().for_each(|sentence| print_line(&format!("  {sentence}")));
            if set.evaluation.verdict.is_empty() {
                print_line("  no warning signs");
            }
        }
    }
}
