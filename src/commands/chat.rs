//! `align chat`: a dialogue in the terminal.

use std::ops::ControlFlow;
use std::process::ExitCode;

use align_core::config::Dtype;
use align_core::error::Problems;
use align_core::random::{self, Purpose};
use align_model::generate::generate;
use align_model::{CausalLm, require_finite};
use align_text::chatml::{Dialogue, Message, Role};
use align_train::stage::{check_causal_lm, check_format, evaluation_options};
use anyhow::Result;

use super::questions::{Entry, Questions};
use crate::cli::ChatArgs;
use crate::output::{print, print_line, say};

/// Reads lines and answers each, keeping the dialogue, until the input ends.
pub(crate) fn run(args: ChatArgs) -> Result<ExitCode> {
    let mut problems = Problems::new();
    args.sampling.check(&mut problems);
    let source = check_causal_lm(&args.model, &mut problems)?;
    let format = check_format(&args.model, source.as_ref(), &args.sampling.system, &mut problems)?;
    let (source, format) = problems.into_checked(source.zip(format))?;
    let mut model = CausalLm::load(&args.model, &evaluation_options(Dtype::Float32))?;
    require_finite(&args.model, model.parameters())?;
    model.extrapolate();
    let sampling = args.sampling.sampling(format.stop_ids(), source.tokenizer.vocab_size());

    let mut dialogue = Dialogue::default();
    let mut turn = 0;
    for entry in Questions::start(&args.model.display().to_string()) {
        let Entry::Question(line) = entry? else {
            dialogue.messages.clear();
            continue;
        };
        dialogue.messages.push(Message::new(Role::User, line));
        let prompt = match format.prompt(&dialogue) {
            Ok(prompt) => prompt,
            Err(what) => {
                say(&format!("align: {what}"));
                dialogue.messages.pop();
                continue;
            }
        };
        let mut shown = Shown::default();
        let draws =
            |_, _, position: usize| random::uniform(args.sampling.seed, Purpose::Generate, turn, 0, position as u64);
        let responses = generate(&model, &[prompt], 1, &sampling, 1, &draws, &mut |_, _, token| {
            print(&shown.next(token, |ids| source.tokenizer.decode_text(ids)));
            ControlFlow::Continue(())
        })?;
        print_line("");
        let answer = source.tokenizer.decode_text(&responses[0][0].tokens);
        dialogue.messages.push(Message::new(Role::Assistant, answer));
        turn += 1;
    }
    Ok(ExitCode::SUCCESS)
}

/// The part of an answer that is on the screen. An incomplete character waits for its next token.
#[derive(Default)]
struct Shown {
    tokens: Vec<i64>,
    bytes: usize,
}

impl Shown {
    fn next(&mut self, token: i64, decode: impl Fn(&[i64]) -> String) -> String {
        self.tokens.push(token);
        let text = decode(&self.tokens);
        let complete = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
        let new = complete.get(self.bytes..).unwrap_or_default();
        self.bytes = self.bytes.max(complete.len());
        new.chars().filter(|c| !c.is_control() || *c == '\n').collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incomplete_characters_wait_and_control_characters_are_removed() {
        let texts = ["a", "a\u{fffd}", "aé", "aé\u{1b}[2J"];
        let mut shown = Shown::default();
        let said: Vec<String> = (0..4).map(|token| shown.next(token, |ids| texts[ids.len() - 1].to_owned())).collect();
        assert_eq!(said, ["a", "", "é", "[2J"]);
    }
}
