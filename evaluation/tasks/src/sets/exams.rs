//! MMLU, C-Eval and CMMLU: questions with four choices in many subjects.

use std::path::Path;

use align_core::error::{Problems, Result};

use super::choices::{self, LETTERS, Question};
use super::{MAX_TOKENS, first_shots, selected};
use crate::equality::Equality;
use crate::extract::Extractor;
use crate::files::{self, Columns};
use crate::judge::{ChoiceMetric, Comparison, Judge};
use crate::prompt::{Parts, SYSTEM, Shot};
use crate::request::{Preset, Request, Style};
use crate::subjects::{CEVAL, CMMLU, MMLU, Name, Subjects};
use crate::task::{Ask, Average, Category, Item, Prompt, Subject, Task};

/// One of the three benchmarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exam {
    Mmlu,
    Ceval,
    Cmmlu,
}

impl Exam {
    fn subjects(self) -> Subjects {
        match self {
            Self::Mmlu => MMLU,
            Self::Ceval => CEVAL,
            Self::Cmmlu => CMMLU,
        }
    }

    fn columns(self) -> Columns {
        match self {
            Self::Mmlu => Columns::Unnamed(6),
            Self::Ceval => Columns::Named(&["question", "A", "B", "C", "D", "answer"]),
            Self::Cmmlu => Columns::Named(&["Question", "A", "B", "C", "D", "Answer"]),
        }
    }

    /// The file with a subject's worked examples.
    fn dev(self, subject: &str) -> String {
        match self {
            Self::Mmlu | Self::Ceval => format!("dev/{subject}_dev.csv"),
            Self::Cmmlu => format!("dev/{subject}.csv"),
        }
    }

    /// The file with a subject's questions. Those of C-Eval are its validation split: the answers to its test
    /// split are not published.
    fn questions(self, subject: &str) -> String {
        match self {
            Self::Mmlu => format!("test/{subject}_test.csv"),
            Self::Ceval => format!("val/{subject}_val.csv"),
            Self::Cmmlu => format!("test/{subject}.csv"),
        }
    }

    fn average(self, preset: Preset) -> Average {
        match (self, preset) {
            (Self::Mmlu, _) | (_, Preset::LmEval) => Average::Micro,
            (Self::Ceval | Self::Cmmlu, Preset::Qwen) => Average::Macro,
        }
    }
}

/// How a benchmark's questions are put.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// lm-evaluation-harness' tasks `mmlu`, `ceval-valid` and `cmmlu`.
    LmEval,
    /// Qwen's scripts for base models.
    QwenBase,
    /// Qwen's scripts for chat models, without worked examples.
    QwenChat,
    /// OpenCompass, with which Qwen measured chat models on worked examples.
    OpenCompass,
}

/// Loads one of the three.
pub(crate) fn load(benchmark: &str, parts: Option<&str>, request: &Request<'_>) -> Result<Task> {
    let exam = match benchmark {
        "ceval" => Exam::Ceval,
        "cmmlu" => Exam::Cmmlu,
        _ => Exam::Mmlu,
    };
    let default = if (request.preset, request.style) == (Preset::Qwen, Style::Base) { 5 } else { 0 };
    let shots = request.num_shots(default);
    let form = match (request.preset, request.style, shots) {
        (Preset::LmEval, ..) => Form::LmEval,
        (Preset::Qwen, Style::Base, _) => Form::QwenBase,
        (Preset::Qwen, Style::Chat, 0) => Form::QwenChat,
        (Preset::Qwen, Style::Chat, _) => Form::OpenCompass,
    };
    let all: Vec<&str> = exam.subjects().names.iter().map(|name| name.file).collect();
    let groups: Vec<(&str, &[&str])> =
        exam.subjects().categories.iter().map(|category| (category.name, category.subjects)).collect();
    let names = selected(request.name, parts, &all, &groups)?;
    let files: Vec<String> = all.iter().map(|name| exam.questions(name)).collect();
    let folder = files::folder(request.data()?, benchmark, &["data"], &files)?;

    let (mut subjects, mut problems) = (Vec::new(), Problems::new());
    for name in exam.subjects().names.iter().filter(|name| names.contains(&name.file)) {
        let items = subject(exam, form, name, &folder, shots, request.style);
        if let Some(items) = problems.absorb(items)? {
            subjects.push(Subject { name: name.file.to_owned(), items });
        }
    }
    problems.into_result()?;
    let categories = groups.into_iter().filter(|(_, members)| members.iter().all(|member| names.contains(member)));
    Ok(Task {
        name: request.name.to_owned(),
        shots,
        subjects,
        metrics: metrics(exam, form).iter().map(|metric| metric.name().to_owned()).collect(),
        average: exam.average(request.preset),
        categories: categories
            .map(|(name, members)| Category {
                name: name.to_owned(),
                subjects: members.iter().map(|member| (*member).to_owned()).collect(),
            })
            .collect(),
    })
}

fn metrics(exam: Exam, form: Form) -> &'static [ChoiceMetric] {
    match (exam, form) {
        (Exam::Ceval | Exam::Cmmlu, Form::LmEval) => &[ChoiceMetric::Acc, ChoiceMetric::AccNorm],
        _ => &[ChoiceMetric::Acc],
    }
}

/// A subject's questions, after its worked examples.
fn subject(exam: Exam, form: Form, name: &Name, folder: &Path, shots: usize, style: Style) -> Result<Vec<Item>> {
    let mut problems = Problems::new();
    let questions = problems.absorb(choices::read(&folder.join(exam.questions(name.file)), exam.columns()))?;
    let dev = folder.join(exam.dev(name.file));
    let examples = match shots {
        0 => Some(Vec::new()),
        _ => problems.absorb(choices::read(&dev, exam.columns()).and_then(|rows| first_shots(&dev, rows, shots)))?,
    };
    let (questions, examples) = problems.into_checked(questions.zip(examples))?;
    let shots: Vec<Shot> = examples
        .iter()
        .map(|example| Shot { question: asked(exam, form, name, example), answer: answered(exam, form, example) })
        .collect();
    let item = |question: &Question| Item {
        id: format!("{}/{}", name.file, question.index),
        prompt: prompt(exam, form, name, &shots, question, style),
        ask: ask(exam, form, style),
        judge: judge(exam, form, question),
    };
    Ok(questions.iter().map(item).collect())
}

/// A question, up to where its answer begins.
fn asked(exam: Exam, form: Form, name: &Name, question: &Question) -> String {
    let title = name.title;
    let text = &question.text;
    match (form, exam) {
        (Form::LmEval, Exam::Mmlu) => format!("{}\n{}Answer:", text.trim(), question.listed("", "\n")),
        (Form::LmEval, _) => format!("{}\n{}答案：", text.trim(), question.listed("", "\n")),
        (Form::QwenBase, Exam::Mmlu) => format!("Question: {text}{}\nAnswer:", question.listed("\n", "")),
        (Form::QwenBase, _) => format!("问题：{text}{}\n答案：", question.listed("\n", "")),
        (Form::QwenChat, Exam::Mmlu) => format!(
            "The following is a multiple-choice question. Please choose the most suitable one among A, B, C and D as the answer to this question.\n\n{text}\n{}",
            question.listed("", "\n")
        ),
        (Form::QwenChat, _) => format!("{text}\n\n{}", question.listed("", "\n")),
        (Form::OpenCompass, Exam::Mmlu) => format!(
            "There is a single choice question about {title}. Answer the question by replying A, B, C or D.\nQuestion: {text}\n{}Answer: ",
            question.listed("", "\n")
        ),
        (Form::OpenCompass, Exam::Ceval) => format!(
            "以下是中国关于{title}考试的单项选择题，请选出其中的正确答案。\n{text}\n{}答案: ",
            question.listed("", "\n")
        ),
        (Form::OpenCompass, Exam::Cmmlu) => {
            format!(
                "以下是关于{title}的单项选择题，请直接给出正确答案的选项。\n题目：{text}{}",
                question.listed("\n", "")
            )
        }
    }
}

/// A worked example's answer.
fn answered(exam: Exam, form: Form, question: &Question) -> String {
    let letter = question.letter();
    match (form, exam) {
        (Form::OpenCompass, Exam::Mmlu) => format!("{letter}\n"),
        (Form::OpenCompass, Exam::Cmmlu) => format!("答案是: {letter}"),
        _ => letter.to_owned(),
    }
}

/// What comes before the worked examples.
fn heading(exam: Exam, form: Form, name: &Name) -> String {
    let title = name.title;
    match (form, exam) {
        (Form::LmEval | Form::QwenBase, Exam::Mmlu) => {
            format!("The following are multiple choice questions (with answers) about {title}.\n\n")
        }
        (Form::LmEval, Exam::Ceval) => format!("以下是中国关于{title}的单项选择题，请选出其中的正确答案。\n\n"),
        (Form::LmEval, Exam::Cmmlu) => format!("以下是关于{title}的单项选择题，请直接给出正确答案的选项。\n\n"),
        (Form::QwenBase, _) => String::new(),
        (Form::QwenChat | Form::OpenCompass, _) => SYSTEM.to_owned(),
    }
}

fn prompt(exam: Exam, form: Form, name: &Name, shots: &[Shot], question: &Question, style: Style) -> Prompt {
    let (heading, question) = (heading(exam, form, name), asked(exam, form, name, question));
    let parts = Parts { heading: &heading, shots, question: &question };
    match style {
        Style::Base => parts.text(delimiter(exam, form), "\n\n"),
        Style::Chat => parts.turns(""),
    }
}

/// What is between a question and its answer in a text.
fn delimiter(exam: Exam, form: Form) -> &'static str {
    match (form, exam) {
        (Form::QwenBase, Exam::Ceval | Exam::Cmmlu) => "",
        _ => " ",
    }
}

fn ask(exam: Exam, form: Form, style: Style) -> Ask {
    match (form, style) {
        (Form::QwenChat | Form::OpenCompass, _) => Ask::Generate { stops: Vec::new(), max_tokens: MAX_TOKENS },
        (_, Style::Chat) => Ask::Choose(LETTERS.map(str::to_owned).to_vec()),
        (_, Style::Base) => {
            let delimiter = delimiter(exam, form);
            Ask::Choose(LETTERS.iter().map(|letter| format!("{delimiter}{letter}")).collect())
        }
    }
}

fn judge(exam: Exam, form: Form, question: &Question) -> Judge {
    let choices = question.choices.clone();
    let extractor = match (form, exam) {
        (Form::LmEval | Form::QwenBase, _) => {
            return Judge::Choice {
                labels: LETTERS.map(str::to_owned).to_vec(),
                gold: question.gold,
                metrics: metrics(exam, form).to_vec(),
            };
        }
        (Form::QwenChat, Exam::Mmlu) => Extractor::QwenMmlu { choices },
        (Form::QwenChat, _) => Extractor::QwenCeval { question: question.text.clone(), choices },
        (Form::OpenCompass, Exam::Mmlu) => Extractor::FirstOption,
        (Form::OpenCompass, _) => Extractor::FirstCapital,
    };
    Judge::Text(vec![Comparison {
        metric: ChoiceMetric::Acc.name().to_owned(),
        extractor,
        gold: question.letter().to_owned(),
        equality: Equality::Text,
    }])
}
