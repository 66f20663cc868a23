//! `align score`: scores responses with a reward model.

use std::path::Path;
use std::process::ExitCode;

use align_core::config::Dtype;
use align_core::error::Problems;
use align_core::progress::Progress;
use align_data::{self as data, BadRows, Response, RowLocation, STDIN};
use align_model::{ScalarModel, require_finite};
use align_reward::responses::{Responses, score};
use align_reward::stats::best;
use align_text::chatml::Dialogue;
use align_train::stage::{check_reward_model, evaluation_options, misfits};
use anyhow::Result;
use serde_json::{Map, Value, json};

use super::eval::{MICROBATCH_TOKENS, not_a_number, report_unread, warn_of_long};
use super::inputs::{self, report_ignored};
use super::lines::{Lines, refuse_same_file};
use crate::cli::ScoreArgs;
use crate::terminal::{Terminal, report_assumed};

/// Scores a file of responses; writes one JSON object per row.
pub(crate) fn run(args: ScoreArgs) -> Result<ExitCode> {
    let standard = Path::new("-");
    let source = if args.data == standard { Path::new(STDIN) } else { &args.data };
    let mut problems = Problems::new();
    let scorer = check_reward_model(&args.model, &args.reading.score_options(), &mut problems)?;
    let format = scorer.as_ref().map(|scorer| &scorer.format);
    let prepare = |_: &RowLocation, row: Response| {
        // Without a format there is a problem already: then rows are only parsed.
        let responses = format.map(|format| Responses::new(&row, format)).transpose()?;
        let answers = match row {
            Response::Several(dialogues) => dialogues.into_iter().filter_map(last_text).collect(),
            Response::One(_) => Vec::new(),
        };
        Ok((responses, answers))
    };
    let given = data::find(source);
    let files = inputs::files(&given);
    let read = problems.absorb(data::read_rows(&files, BadRows::Error, &prepare))?;
    if args.out != standard {
        files.iter().for_each(|file| refuse_same_file(&args.out, file, "--data", &mut problems));
    }
    let (read, scorer) = problems.into_checked(read.zip(scorer))?;
    report_ignored(&given);
    report_unread(&read.unread);
    report_assumed(&args.model, scorer.assumed.as_deref());
    let (mut locations, mut rows, mut answers): (Vec<RowLocation>, Vec<Responses>, Vec<Vec<String>>) =
        Default::default();
    for (location, (responses, texts)) in read.records {
        locations.push(location);
        rows.push(responses.expect("a checked reward model has a format"));
        answers.push(texts);
    }
    let mut out = if args.out == standard { Lines::stdout() } else { Lines::create(&args.out)? };
    let mut model = ScalarModel::load(&args.model, &evaluation_options(Dtype::Float32), 0)?;
    require_finite(&args.model, model.parameters())?;
    model.extrapolate();
    let mut terminal = Terminal::new();
    let longer_than = |limit| misfits::longer(rows.iter().map(Responses::longest), limit);
    warn_of_long(model.config(), source, "rows have a dialogue", &mut terminal, longer_than);
    terminal.begin("responses", rows.iter().map(|row| row.tails.len() as u64).sum());
    let scores = score(&model, &rows, MICROBATCH_TOKENS, &mut |done| terminal.advance(done as u64, ""));
    terminal.end();
    for (((location, row), answers), scores) in locations.iter().zip(&rows).zip(&answers).zip(&scores) {
        if scores.iter().any(|score| !score.is_finite()) {
            return Err(not_a_number(location, "the score", &args.model));
        }
        let mut line = Map::from_iter([("index".to_owned(), json!(location.index))]);
        if files.len() > 1 {
            line.insert("file".to_owned(), json!(&*location.file));
        }
        line.extend(row.to_json(scores));
        if row.is_list {
            line.insert("best_response".to_owned(), json!(answers[best(scores)]));
        }
        out.write(&Value::Object(line))?;
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

fn last_text(dialogue: Dialogue) -> Option<String> {
    dialogue.messages.into_iter().next_back().map(|message| message.content)
}
