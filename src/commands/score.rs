//! `align score`.

use std::path::Path;
use std::process::ExitCode;

use align_common::data::{self, BadRows, Kind, Record, STDIN};
use align_common::error::Problems;
use align_common::model::{ScalarModel, require_finite};
use align_common::progress::Progress;
use align_common::stage::{check_reward_model, evaluation_options, misfits};
use align_reward::responses::{Responses, score};
use align_reward::stats::best;
use anyhow::Result;
use serde_json::{Map, Value, json};

use super::eval::{MICROBATCH_TOKENS, not_a_number, warn_of_long};
use super::lines::{Lines, refuse_same_file};
use crate::cli::ScoreArgs;
use crate::terminal::Terminal;

/// Scores a file of responses; one JSON object a row.
pub(crate) fn run(args: ScoreArgs) -> Result<ExitCode> {
    let standard = Path::new("-");
    let source = if args.data == standard { Path::new(STDIN) } else { &args.data };
    let mut problems = Problems::new();
    let format = check_reward_model(&args.model, args.system.as_deref(), &mut problems)?;
    let read = problems.absorb(data::read(&[source.to_owned()], Kind::Response, BadRows::Error))?;
    if args.out != standard {
        refuse_same_file(&args.out, source, "--data", &mut problems);
    }
    problems.into_result()?;
    let known = "no problem was found";
    let (format, records) = (format.expect(known), read.expect(known).records);

    let rows: Vec<Responses> = records.iter().map(|(_, record)| Responses::new(record, &format)).collect();
    let mut out = if args.out == standard { Lines::stdout() } else { Lines::create(&args.out)? };
    let mut model = ScalarModel::load(&args.model, &evaluation_options(), 0)?;
    require_finite(&args.model, model.parameters())?;
    model.set_extrapolate(true);
    let mut terminal = Terminal::new();
    let longer_than = |limit| misfits::longer(rows.iter().map(Responses::longest), limit);
    warn_of_long(model.config(), source, "rows have a dialogue", &mut terminal, longer_than);
    terminal.begin("responses", rows.iter().map(|row| row.tails.len() as u64).sum());
    let scores = score(&model, &rows, MICROBATCH_TOKENS, &mut |done| terminal.advance(done as u64, ""));
    terminal.end();
    for (((place, record), row), scores) in records.iter().zip(&rows).zip(&scores) {
        if scores.iter().any(|score| !score.is_finite()) {
            return Err(not_a_number(place, "the score", &args.model));
        }
        let mut line = Map::from_iter([("index".to_owned(), json!(place.index))]);
        line.extend(row.verdict(scores));
        if let Record::Responses(dialogues) = record {
            let answer = dialogues[best(scores)].last().expect("a dialogue ends with an answer");
            line.insert("best_response".to_owned(), json!(answer.content));
        }
        out.write(&Value::Object(line))?;
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}
