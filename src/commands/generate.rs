//! `align generate`: samples responses to prompts.

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Instant;

use align_core::config::Dtype;
use align_core::error::Problems;
use align_core::process_memory;
use align_core::progress::Progress;
use align_core::random::{self, Purpose};
use align_data::{self as data, BadRows, Prompt, RowLocation};
use align_model::generate::{Response, Sampling, generate};
use align_model::{CausalLm, require_finite};
use align_text::chatml::{ChatFormat, Dialogue, Message};
use align_train::stage::{Source, check_causal_lm, check_format, evaluation_options, misfits};
use anyhow::Result;
use serde_json::{Value, json};

use super::eval::{report_unread, warn_of_long};
use super::inputs::{self, report_ignored};
use super::lines::{Lines, refuse_same_file};
use crate::cli::{GenerateArgs, SamplingArgs};
use crate::output::print_line;
use crate::terminal::Terminal;

/// The number of responses decoded at once.
const ROWS: usize = 64;

impl SamplingArgs {
    /// Adds the mistakes in the values.
    pub(super) fn check(&self, problems: &mut Problems) {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            problems.push("--temperature", format!("is {}, expected at least 0", self.temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            problems.push("--top-p", format!("is {}, expected above 0 and at most 1", self.top_p));
        }
        if self.max_tokens == 0 {
            problems.push("--max-tokens", "is 0, expected at least 1");
        }
    }

    pub(super) fn sampling(&self, stop_ids: Vec<i64>, vocab: i64) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            max_tokens: self.max_tokens,
            stop_ids,
            vocab,
            record_nucleus: false,
        }
    }
}

/// What a run of the command samples from: checked model, prompts, and the dialogues that the prompts encode.
struct Checked {
    source: Source,
    format: ChatFormat,
    /// Whether the prompts are in several files.
    has_several_files: bool,
    dialogues: Vec<(RowLocation, Dialogue)>,
    prompts: Vec<Vec<i64>>,
}

/// Samples responses to a file of prompts; writes one JSON object per response.
pub(crate) fn run(args: GenerateArgs) -> Result<ExitCode> {
    let checked = check(&args)?;
    let prompts = &checked.prompts;
    let out = Lines::create(&args.out)?;
    let mut model = CausalLm::load(&args.model, &evaluation_options(Dtype::Float32))?;
    require_finite(&args.model, model.parameters())?;
    model.extrapolate();
    let sampling = args.sampling.sampling(checked.format.stop_ids(), checked.source.tokenizer.vocab_size());

    let mut terminal = Terminal::new();
    if args.n > 1 && args.sampling.temperature == 0.0 {
        let n = args.n;
        terminal.note(&format!("warning: --n = {n}: at --temperature 0 all {n} responses to a prompt are the same"));
    }
    let longest = |prompt: &Vec<i64>| prompt.len() + args.sampling.max_tokens;
    let what = format!("prompts, with --max-tokens = {}, are", args.sampling.max_tokens);
    let longer_than = |limit| misfits::longer(prompts.iter().map(longest), limit);
    warn_of_long(&checked.source.header.config, &args.prompts, &what, &mut terminal, longer_than);
    terminal.begin("tokens", (prompts.len() * args.n * args.sampling.max_tokens) as u64);
    let draws = |prompt: usize, sample: usize, position: usize| {
        let row = (prompt * args.n + sample) as u64;
        random::uniform(args.sampling.seed, Purpose::Generate, 0, row, position as u64)
    };
    let started = Instant::now();
    let mut first = None;
    let responses = generate(&model, prompts, args.n, &sampling, ROWS.max(args.n), &draws, &mut |_, _, _| {
        first.get_or_insert_with(Instant::now);
        terminal.advance(1, "");
        ControlFlow::Continue(())
    })?;
    let seconds = started.elapsed().as_secs_f64();
    terminal.end();
    write(out, &checked, &responses)?;
    if args.json {
        let tokens: usize = responses.iter().flatten().map(|response| response.tokens.len()).sum();
        let report = json!({
            "responses": prompts.len() * args.n, "tokens": tokens, "seconds": seconds,
            // Prefill (of the first batch) ends with the first token.
            "first_token_seconds": first.map(|first| (first - started).as_secs_f64()),
            "peak_gib": process_memory::peak_rss() as f64 / f64::from(1 << 30),
        });
        print_line(&report.to_string());
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks model, prompts and arguments; problems of all kinds are reported together.
fn check(args: &GenerateArgs) -> Result<Checked> {
    let mut problems = Problems::new();
    args.sampling.check(&mut problems);
    if args.n == 0 {
        problems.push("--n", "is 0, expected at least 1");
    }
    let source = check_causal_lm(&args.model, &mut problems)?;
    let format = check_format(&args.model, source.as_ref(), &args.sampling.system, &mut problems)?;
    let prepare = |_: &RowLocation, Prompt(dialogue): Prompt| {
        // Without a format there is a problem already: then rows are only parsed.
        let prompt = format.as_ref().map(|format| format.prompt(&dialogue)).transpose()?;
        Ok((dialogue, prompt.unwrap_or_default()))
    };
    let given = data::find(&args.prompts);
    let files = inputs::files(&given);
    let rows = problems.absorb(data::read_rows(&files, BadRows::Error, &prepare))?;
    files.iter().for_each(|file| refuse_same_file(&args.out, file, "--prompts", &mut problems));
    let ((source, format), rows) = problems.into_checked(source.zip(format).zip(rows))?;
    report_ignored(&given);

    report_unread(&rows.unread);
    let (mut dialogues, mut prompts): (Vec<_>, Vec<_>) = Default::default();
    for (location, (dialogue, prompt)) in rows.records {
        dialogues.push((location, dialogue));
        prompts.push(prompt);
    }
    Ok(Checked { source, format, has_several_files: files.len() > 1, dialogues, prompts })
}

/// Writes one JSON object per response.
fn write(mut out: Lines, checked: &Checked, responses: &[Vec<Response>]) -> Result<()> {
    for ((location, dialogue), responses) in checked.dialogues.iter().zip(responses) {
        let prompt: Vec<Value> = dialogue.messages.iter().map(Message::to_json).collect();
        for (sample, response) in responses.iter().enumerate() {
            let mut line = json!({
                "index": location.index, "sample": sample, "prompt": prompt,
                "response": checked.source.tokenizer.decode_text(&response.tokens),
                "tokens": response.tokens, "ended": response.ended,
            });
            if !dialogue.tools.is_empty() {
                line["tools"] = json!(dialogue.tools);
            }
            if checked.has_several_files {
                line["file"] = json!(&*location.file);
            }
            out.write(&line)?;
        }
    }
    out.finish()
}
