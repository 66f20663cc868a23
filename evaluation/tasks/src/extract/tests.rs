//! Every recorded answer: `tests/golden/evaluation/README.md`.

use serde::Deserialize;
use serde_json::Value;

use super::*;
use crate::equality::Equality;

#[derive(Deserialize)]
struct Golden {
    qwen_chat_mmlu: Vec<Letter>,
    qwen_chat_ceval: Vec<Letter>,
    numbers: Vec<Number>,
    gsm8k_correct: Vec<Correct>,
    humaneval_extract: Vec<Function>,
    bbh: Vec<Bbh>,
    opencompass_first_option: Vec<Letter>,
}

#[derive(Deserialize)]
struct Letter {
    #[serde(default)]
    question: String,
    #[serde(default)]
    choices: Vec<String>,
    response: String,
    answer: Option<String>,
}

#[derive(Deserialize)]
struct Number {
    response: String,
    qwen_base: Value,
    qwen_chat: Option<String>,
    qwen_code_interpreter: Value,
    opencompass: String,
    lm_eval_strict: String,
    lm_eval_flexible: String,
}

#[derive(Deserialize)]
struct Correct {
    answer: String,
    response: String,
    qwen_base: bool,
    qwen_chat: bool,
}

#[derive(Deserialize)]
struct Function {
    response: String,
    entry_point: String,
    completion: String,
}

#[derive(Deserialize)]
struct Bbh {
    response: String,
    opencompass_mcq: String,
    opencompass_freeform: String,
    lm_eval_cot: String,
}

fn golden() -> Golden {
    let text = include_str!("../../../../tests/golden/evaluation/extract.json");
    serde_json::from_str(text).unwrap()
}

/// What another program writes for an answer without one.
fn found(recorded: &str) -> Option<String> {
    Some(recorded.to_owned()).filter(|recorded| !["[invalid]", "NULL", ""].contains(&recorded.as_str()))
}

/// A number that was recorded as a value, as a number.
fn value(recorded: &Value) -> Option<f64> {
    recorded.as_f64()
}

fn pattern(pattern: &str, which: Which) -> Extractor {
    Extractor::Pattern(Pattern::new(pattern, which).unwrap())
}

#[test]
fn letters() {
    let golden = golden();
    assert_eq!((golden.qwen_chat_mmlu.len(), golden.qwen_chat_ceval.len()), (35, 30));
    for case in &golden.qwen_chat_mmlu {
        let extractor = Extractor::QwenMmlu { choices: case.choices.clone() };
        assert_eq!(extractor.extract(&case.response), case.answer, "{}", case.response);
    }
    for case in &golden.qwen_chat_ceval {
        let extractor = Extractor::QwenCeval { question: case.question.clone(), choices: case.choices.clone() };
        assert_eq!(extractor.extract(&case.response), case.answer, "{}", case.response);
    }
    assert_eq!(golden.opencompass_first_option.len(), 65);
    for case in &golden.opencompass_first_option {
        let expected = case.answer.as_deref().and_then(found);
        assert_eq!(Extractor::FirstOption.extract(&case.response), expected, "{}", case.response);
    }
}

#[test]
fn numbers() {
    let golden = golden();
    assert_eq!(golden.numbers.len(), 28);
    let strict = pattern(r"#### (\-?[0-9\.\,]+)", Which::First);
    let flexible = pattern(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", Which::Last);
    for case in &golden.numbers {
        let text = &case.response;
        let parsed = |extractor: Extractor| extractor.extract(text).and_then(|number| number.parse::<f64>().ok());
        assert_eq!(parsed(Extractor::LastDigits), value(&case.qwen_base), "{text}");
        assert_eq!(Extractor::LastNumber.extract(text), case.qwen_chat, "{text}");
        assert_eq!(parsed(Extractor::SpacedNumber), value(&case.qwen_code_interpreter), "{text}");
        assert_eq!(Extractor::NumberBeforeQuestion.extract(text), found(&case.opencompass), "{text}");
        assert_eq!(strict.extract(text), found(&case.lm_eval_strict), "{text}");
        assert_eq!(flexible.extract(text), found(&case.lm_eval_flexible), "{text}");
    }
}

#[test]
fn right_numbers() {
    let golden = golden();
    assert_eq!(golden.gsm8k_correct.len(), 30);
    let gold = pattern(r"#### (\-?[0-9\.\,]+)", Which::First);
    for case in &golden.gsm8k_correct {
        let gold = gold.extract(&case.answer).unwrap();
        let is_right = |extractor: Extractor, tolerance| {
            let answer = extractor.extract(&case.response);
            answer.is_some_and(|answer| Equality::Number { tolerance }.holds(&answer, &gold))
        };
        let context = format!("{} {}", case.answer, case.response);
        assert_eq!(is_right(Extractor::LastDigits, 0.0), case.qwen_base, "{context}");
        assert_eq!(is_right(Extractor::LastNumber, 1e-4), case.qwen_chat, "{context}");
    }
}

#[test]
fn bodies_of_functions() {
    let golden = golden();
    assert_eq!(golden.humaneval_extract.len(), 9);
    for case in golden.humaneval_extract {
        let extractor = Code::Body { entry_point: case.entry_point };
        assert_eq!(extractor.extract(&case.response), Some(case.completion), "{}", case.response);
    }
}

#[test]
fn answers_of_bbh() {
    let golden = golden();
    assert_eq!(golden.bbh.len(), 9);
    let lm_eval = pattern("(?<=the answer is )(.*)(?=.)", Which::First);
    for case in &golden.bbh {
        let text = &case.response;
        assert_eq!(Extractor::BbhOption.extract(text).as_ref(), Some(&case.opencompass_mcq), "{text}");
        assert_eq!(Extractor::AnswerIs.extract(text).as_ref(), Some(&case.opencompass_freeform), "{text}");
        assert_eq!(lm_eval.extract(text), found(&case.lm_eval_cot), "{text}");
    }
}

/// By hand, from the definitions of lm-evaluation-harness' tasks and ours.
#[test]
fn blocks_of_code() {
    let text = "Sure:\n```python\nimport os\nx = 1\n```\nand\n```\ny\n```";
    assert_eq!(Code::Block.extract(text).as_deref(), Some("import os\nx = 1\n"));
    assert_eq!(Code::Block.extract("[BEGIN]\nx = 1\n[DONE]\nmore").as_deref(), Some("\nx = 1\n"));
    assert_eq!(Code::Block.extract("```python\nx = 1").as_deref(), Some("x = 1"));
    assert_eq!(Code::Block.extract(" \n"), None);
    assert_eq!(Code::BeforeFence.extract("    return 1\n```\ntext").as_deref(), Some("    return 1\n"));
    assert_eq!(Code::OpenFence.extract("\nx = 1\n```\ntext").as_deref(), Some("x = 1"));
    assert_eq!(Code::OpenFence.extract("\nx = 1\n"), None);
}

#[test]
fn a_match_is_its_first_group_that_is_not_empty() {
    let number = pattern(r"(?<=is )(\d+)|(none)", Which::Last);
    assert_eq!(number.extract("it is 1, is 2").as_deref(), Some("2"));
    assert_eq!(number.extract("it is 1, none").as_deref(), Some("none"));
    assert_eq!(pattern(r"\d+", Which::First).extract("a 12 34").as_deref(), Some("12"));
    assert_eq!(number.extract("it is one"), None);
    assert!(Pattern::new("(", Which::First).is_err());
}
