//! A chat model as a judge: asked for the letter of the better response, in both orders. Its verdict is the
//! probability of the letters at the first token of its answer.

use std::path::{Path, PathBuf};
use std::time::Instant;

use align_core::config::Dtype;
use align_core::error::{Error, Problem, Problems};
use align_core::progress::Progress;
use align_evaluation::choose::{batches, choose};
use align_evaluation::encode::{Encoded, EncodedContinuation};
use align_judgments::Item;
use align_judgments::judge::opinion::Opinion;
use align_judgments::judge::question::{AnswerForm, question, wording};
use align_judgments::judge::{JudgedFolder, pairs};
use align_model::{CausalLm, Family, require_finite};
use align_text::chatml::{ChatFormat, Dialogue, Message, Role};
use align_text::template::Template;
use align_train::stage::{check_causal_lm, check_format, evaluation_options};
use anyhow::Result;
use serde_json::Value;

use super::super::eval::{MICROBATCH_TOKENS, not_a_number};
use super::super::eval_tasks::trained_length;
use super::{CHUNK, JudgeStats, entry};
use crate::cli::judge::JudgeArgs;
use crate::terminal::Terminal;

/// Why an item is skipped.
const TOO_LONG: &str = "too long";

/// A chat model that passed every check.
pub(super) struct ChatJudge {
    dir: PathBuf,
    format: ChatFormat,
    context_length: usize,
    /// The number of items that are too long.
    too_long: usize,
}

/// The probabilities of the letters, as an answer to one question.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Letters {
    a: f64,
    b: f64,
}

impl ChatJudge {
    /// Checks the model's folder, and that it can read every item.
    pub(super) fn check(dir: &Path, args: &JudgeArgs, items: &[Item], problems: &mut Problems) -> Result<Option<Self>> {
        let source = check_causal_lm(dir, problems)?;
        let family = source.as_ref().map(|source| source.header.config.family);
        // The first generation of chat models was published without a template.
        if family.is_some_and(|family| family != Family::Qwen) && matches!(Template::open(dir), Ok(None)) {
            let what = "has no chat template, expected a chat model's folder, with chat_template.jinja or \
                        chat_template in tokenizer_config.json";
            problems.push(dir.display(), what);
            return Ok(None);
        }
        let format = check_format(dir, source.as_ref(), &args.system("template"), problems)?;
        let Some((source, format)) = source.zip(format) else { return Ok(None) };
        let context_length = args.context.unwrap_or_else(|| trained_length(&source.header.config));
        let mut judge = Self { dir: dir.to_owned(), format, context_length, too_long: 0 };
        for item in items {
            match judge.encode(item) {
                Ok(questions) => judge.too_long += usize::from(!judge.fits(&questions)),
                Err(what) => problems.push_problem(Problem::of_row(format!("item {}", item.id), what)),
            }
        }
        Ok(Some(judge))
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn identity(&self) -> Vec<(&'static str, Value)> {
        vec![
            entry("system", self.format.system()),
            entry("wording", wording(AnswerForm::Letter)),
            entry("context", self.context_length),
        ]
    }

    pub(super) fn judge(&self, folder: &mut JudgedFolder, dtype: Dtype, terminal: &mut Terminal) -> Result<JudgeStats> {
        if self.too_long > 0 {
            let Self { too_long, context_length, .. } = self;
            let dir = self.dir.display();
            terminal.note(&format!(
                "warning: {dir}: {too_long} items are longer than the {context_length} tokens that the model reads; they are skipped"
            ));
        }
        let model = CausalLm::load(&self.dir, &evaluation_options(dtype))?;
        require_finite(&self.dir, model.parameters())?;
        let waiting = folder.waiting().to_vec();
        terminal.begin("items", waiting.len() as u64);
        let (mut mass, mut asked) = (0.0, 0);
        for chunk in waiting.chunks(CHUNK) {
            let started = Instant::now();
            let questions: Vec<Vec<Encoded>> = chunk
                .iter()
                .map(|&index| self.encode(&folder.items()[index]).map_err(Error::Failed))
                .collect::<align_core::error::Result<_>>()?;
            let fitting: Vec<Encoded> =
                questions.iter().filter(|questions| self.fits(questions)).flatten().cloned().collect();
            let mut answers = self.answers(&model, &fitting)?.into_iter();
            let seconds = started.elapsed().as_secs_f64() / chunk.len() as f64;
            for (&index, questions) in chunk.iter().zip(&questions) {
                let opinion = if self.fits(questions) {
                    let own: Vec<Letters> = answers.by_ref().take(questions.len()).collect();
                    mass += own.iter().map(|letters| letters.a + letters.b).sum::<f64>();
                    asked += own.len();
                    opinion(&own)
                } else {
                    Opinion::Skipped(TOO_LONG.to_owned())
                };
                folder.append(index, opinion, seconds)?;
            }
            terminal.advance(chunk.len() as u64, "");
        }
        terminal.end();
        Ok(JudgeStats { letters: (asked > 0).then(|| mass / asked as f64), ..JudgeStats::default() })
    }

    /// For each pair of an item its question, in both orders.
    fn encode(&self, item: &Item) -> Result<Vec<Encoded>, String> {
        let shown = item.distinct();
        let orders = pairs(shown.len()).flat_map(|(one, other)| [(one, other), (other, one)]);
        let tokenizer = self.format.tokenizer();
        let letter = |letter: &str| EncodedContinuation { tokens: tokenizer.encode(letter), first_counted: 0 };
        let encoded = orders.map(|(first, second)| {
            let text = question(item, shown[first], shown[second], AnswerForm::Letter);
            let dialogue = Dialogue { messages: vec![Message::new(Role::User, &text)], ..Dialogue::default() };
            let prompt = self.format.prompt(&dialogue)?;
            Ok(Encoded { prompt, continuations: vec![letter("A"), letter("B")], cut_tokens: 0 })
        });
        encoded.collect()
    }

    /// Whether all questions of an item are short enough. The last token is predicted, and not read.
    fn fits(&self, questions: &[Encoded]) -> bool {
        let length = |question: &Encoded| {
            let answer = question.continuations.iter().map(|letter| letter.tokens.len() - 1).max().unwrap_or(0);
            question.prompt.len() + answer
        };
        questions.iter().all(|question| length(question) <= self.context_length)
    }

    fn answers(&self, model: &CausalLm, questions: &[Encoded]) -> Result<Vec<Letters>> {
        let mut answers = Vec::with_capacity(questions.len());
        for range in batches(questions, MICROBATCH_TOKENS) {
            for continuations in choose(model, &questions[range]) {
                let [a, b] = &continuations[..] else { unreachable!("two letters") };
                if !(a.logprob + b.logprob).is_finite() {
                    return Err(not_a_number("a question", "the log-probability", &self.dir));
                }
                answers.push(Letters { a: a.logprob.exp(), b: b.logprob.exp() });
            }
        }
        Ok(answers)
    }
}

/// What the answers to an item's questions say of its pairs.
fn opinion(answers: &[Letters]) -> Opinion {
    let shown_first = |letters: &Letters| {
        let sum = letters.a + letters.b;
        if sum > 0.0 { letters.a / sum } else { 0.5 }
    };
    let of_pair = |both: &[Letters]| [shown_first(&both[0]), 1.0 - shown_first(&both[1])];
    Opinion::Probabilities(answers.chunks_exact(2).map(of_pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_letters_share_what_they_have_together() {
        // First order: A, the first response, has 0.3 of 0.4; second: A, the second response, 0.1 of 0.5.
        let answers = [Letters { a: 0.3, b: 0.1 }, Letters { a: 0.1, b: 0.4 }];
        let Opinion::Probabilities(pairs) = opinion(&answers) else { panic!("probabilities") };
        let [[first, second]] = pairs[..] else { panic!("one pair") };
        assert!((first - 0.75).abs() < 1e-12 && (second - 0.8).abs() < 1e-12, "{pairs:?}");
    }
}
