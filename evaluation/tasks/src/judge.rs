//! How an answer is scored: what is taken from it, and when it is right.

use std::collections::BTreeMap;

use crate::answer::{Answer, Continuation, Scored, Verdict};
use crate::equality::Equality;
use crate::extract::{Code, Extractor};

/// How an answer is scored: a function of the answer alone, so that answers can be scored again later.
#[derive(Debug, Clone, PartialEq)]
pub enum Judge {
    /// The most probable continuation is the answer; the first of equally probable ones.
    Choice {
        /// What the continuations mean; lengths for [`ChoiceMetric::AccNorm`] are theirs.
        labels: Vec<String>,
        /// The index of the right one.
        gold: usize,
        /// What is reported.
        metrics: Vec<ChoiceMetric>,
    },
    /// Something is taken from the text and compared with the right answer: a comparison for each metric. The
    /// answer that is shown is the first one's.
    Text(Vec<Comparison>),
    /// The text holds code, and a program decides.
    Program(Program),
}

/// A metric of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChoiceMetric {
    /// `acc`: whether the largest ln p is the right one's.
    Acc,
    /// `acc_norm`: the same for ln p divided by the label's number of characters.
    AccNorm,
}

impl ChoiceMetric {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
        }
    }
}

/// A comparison of what is taken from a text with the right answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The metric's name.
    pub metric: String,
    /// What is taken from the text.
    pub extractor: Extractor,
    /// The right answer.
    pub gold: String,
    /// When the two are equal.
    pub equality: Equality,
}

/// A program that decides about an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    /// What is taken from the text.
    pub extractor: Code,
    /// The program before the code.
    pub before: String,
    /// The program after the code: its tests.
    pub after: String,
    /// Wall-clock limit in seconds.
    pub seconds: f64,
}

impl Judge {
    /// The right answer, as records show it; of a program, its tests.
    pub fn expected(&self) -> &str {
        match self {
            Self::Choice { labels, gold, .. } => &labels[*gold],
            Self::Text(comparisons) => comparisons.first().map_or("", |comparison| &comparison.gold),
            Self::Program(program) => &program.after,
        }
    }

    /// Scores an answer, or returns the program that does.
    ///
    /// # Panics
    /// When the answer is not one to the question that the item asks: a text for choices or the reverse.
    pub fn verdict(&self, answer: &Answer) -> Verdict {
        match (self, answer) {
            (Self::Choice { labels, gold, metrics }, Answer::Choice(continuations)) => {
                assert_eq!(labels.len(), continuations.len(), "one continuation for each label");
                Verdict::Scored(choice(labels, *gold, metrics, continuations))
            }
            (Self::Text(comparisons), Answer::Text(text)) => Verdict::Scored(compare(comparisons, text)),
            (Self::Program(program), Answer::Text(text)) => {
                let code = program.extractor.extract(text);
                let source = [&program.before, code.as_deref().unwrap_or_default(), &program.after].concat();
                Verdict::Program { answer: code, program: source, seconds: program.seconds }
            }
            _ => panic!("the answer is of the kind that the item asks for"),
        }
    }
}

fn choice(labels: &[String], gold: usize, metrics: &[ChoiceMetric], continuations: &[Continuation]) -> Scored {
    let best = |score: &dyn Fn(usize) -> f64| {
        (0..labels.len()).fold(0, |best, index| if score(index) > score(best) { index } else { best })
    };
    let logprob = |index: usize| continuations[index].logprob;
    let chosen = best(&logprob);
    let value = |metric: &ChoiceMetric| match metric {
        ChoiceMetric::Acc => chosen,
        ChoiceMetric::AccNorm => best(&|index| logprob(index) / labels[index].chars().count() as f64),
    };
    let metrics =
        metrics.iter().map(|metric| (metric.name().to_owned(), f64::from(u8::from(value(metric) == gold)))).collect();
    Scored { answer: labels.get(chosen).cloned(), metrics }
}

fn compare(comparisons: &[Comparison], text: &str) -> Scored {
    let mut answers = comparisons.iter().map(|comparison| comparison.extractor.extract(text));
    let mut metrics = BTreeMap::new();
    let mut shown = None;
    for (index, comparison) in comparisons.iter().enumerate() {
        let answer = answers.next().flatten();
        let equal = answer.as_ref().is_some_and(|answer| comparison.equality.holds(answer, &comparison.gold));
        metrics.insert(comparison.metric.clone(), f64::from(u8::from(equal)));
        if index == 0 {
            shown = answer;
        }
    }
    Scored { answer: shown, metrics }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn continuations(logprobs: &[f64]) -> Answer {
        Answer::Choice(logprobs.iter().map(|logprob| Continuation { logprob: *logprob, is_greedy: false }).collect())
    }

    #[test]
    fn the_first_of_equally_probable_choices_is_the_answer() {
        let judge = Judge::Choice {
            labels: ["A", "B", "C"].map(str::to_owned).to_vec(),
            gold: 1,
            metrics: vec![ChoiceMetric::Acc],
        };
        let Verdict::Scored(scored) = judge.verdict(&continuations(&[-3.0, -1.0, -1.0])) else { panic!("scored") };
        assert_eq!((scored.answer.as_deref(), scored.metrics["acc"]), (Some("B"), 1.0));
    }

    /// By hand: −4/8 = −0.5 is above −2/2 = −1.
    #[test]
    fn acc_norm_divides_by_characters() {
        let judge = Judge::Choice {
            labels: vec!["ja".to_owned(), "新年快乐新年快乐".to_owned()],
            gold: 1,
            metrics: vec![ChoiceMetric::Acc, ChoiceMetric::AccNorm],
        };
        let Verdict::Scored(scored) = judge.verdict(&continuations(&[-2.0, -4.0])) else { panic!("scored") };
        assert_eq!((scored.metrics["acc"], scored.metrics["acc_norm"]), (0.0, 1.0));
        assert_eq!(scored.answer.as_deref(), Some("ja"));
    }

    #[test]
    fn a_program_is_made_of_the_prompt_the_code_and_the_tests() {
        let judge = Judge::Program(Program {
            extractor: Code::Whole,
            before: "def f():\n".to_owned(),
            after: "\nassert f() == 1".to_owned(),
            seconds: 3.0,
        });
        let Verdict::Program { answer, program, .. } = judge.verdict(&Answer::Text("    return 1\n".to_owned())) else {
            panic!("a program")
        };
        assert_eq!(answer.as_deref(), Some("    return 1\n"));
        assert_eq!(program, "def f():\n    return 1\n\nassert f() == 1");
    }
}
