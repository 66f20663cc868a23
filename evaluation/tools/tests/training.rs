//! Rows for sft. `datasets/react/sft.jsonl` was written by a Python program from the published templates.

use std::io::Read;

use align_data::{Chat, parse_row};
use align_text::chatml::{ChatFormat, LossOn, Role};
use align_text::tokenizer::Tokenizer;
use align_tools::react::{self, Wording};
use align_tools::tool::ToolDescription;
use align_tools::training::{TrainedPart, Worked, read_tools};
use serde_json::{Value, json};

use crate::repository;

fn dialogues() -> (Vec<ToolDescription>, Vec<Worked>) {
    let tools = read_tools(&repository("datasets/react/tools.json")).unwrap();
    let worked = Worked::read(&repository("datasets/react/dialogues.jsonl"), &tools).unwrap();
    (tools, worked)
}

#[test]
fn the_example_rows_are_those_of_the_dialogues() {
    let (tools, worked) = dialogues();
    let rows: Vec<Value> = std::fs::read_to_string(repository("datasets/react/sft.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!((worked.len(), rows.len()), (20, 20));
    for (worked, row) in worked.iter().zip(&rows) {
        assert_eq!(worked.row(&tools, Wording::Guide, TrainedPart::Whole), *row);
    }
}

/// The published tokenizer of Qwen2.5, cut down.
fn tokenizer(folder: &std::path::Path) -> Tokenizer {
    let from = repository("tests/golden/tokenizer/qwen2_5");
    let mut text = Vec::new();
    let compressed = std::fs::File::open(from.join("tokenizer.json.gz")).unwrap();
    flate2::read::GzDecoder::new(compressed).read_to_end(&mut text).unwrap();
    std::fs::write(folder.join("tokenizer.json"), text).unwrap();
    std::fs::copy(from.join("tokenizer_config.json"), folder.join("tokenizer_config.json")).unwrap();
    Tokenizer::open(folder).unwrap()
}

/// The texts of the runs of tokens with loss.
fn trained_texts(row: &Value, format: &ChatFormat, tokenizer: &Tokenizer) -> Vec<String> {
    let (Chat(dialogue), unread) = parse_row::<Chat>(row).unwrap();
    assert!(unread.is_empty(), "{unread:?}");
    let encoded = format.dialogue(&dialogue, LossOn::Assistant).unwrap();
    let runs = encoded.tokens.iter().zip(&encoded.loss_mask).collect::<Vec<_>>();
    let runs = runs.chunk_by(|(_, one), (_, other)| one == other).filter(|run| *run[0].1);
    runs.map(|run| tokenizer.decode(&run.iter().map(|(token, _)| **token).collect::<Vec<_>>())).collect()
}

#[test]
fn the_tokens_with_loss_are_the_answers() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer(folder.path());
    let format = ChatFormat::open(folder.path(), &tokenizer, "You are a helpful assistant.").unwrap();
    let (tools, worked) = dialogues();
    for worked in &worked {
        let row = worked.row(&tools, Wording::Guide, TrainedPart::Whole);
        let (Chat(dialogue), _) = parse_row::<Chat>(&row).unwrap();
        let answers = dialogue.messages.iter().filter(|message| message.role == Role::Assistant);
        let expected: Vec<String> = answers.map(|answer| format!("{}<|im_end|>", answer.content)).collect();
        assert_eq!(trained_texts(&row, &format, &tokenizer), expected);
        // Without results: what the model writes until its first call, and the text at which it stops.
        let first = worked.row(&tools, Wording::Guide, TrainedPart::FirstCall);
        let trained = trained_texts(&first, &format, &tokenizer);
        match worked.steps.first() {
            None => assert_eq!(trained, expected),
            Some(step) => {
                let text = trained.last().unwrap();
                let call = react::last_call(&format!("\n{text}")).unwrap();
                assert_eq!((&call.name, call.input.as_str()), (&step.action, step.input.as_str()));
                assert!(text.ends_with("\nObservation:") && !text.contains(&step.observation), "{text}");
            }
        }
    }
}

#[test]
fn bad_dialogues_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dialogues.jsonl");
    let step =
        |action: &str, input: &str| json!({"thought": "t", "action": action, "input": input, "observation": "o"});
    let row = |tool: &str, step: Value, answer: &str| {
        json!({"tools": [tool], "question": "q", "steps": [step], "thought": "t", "answer": answer}).to_string()
    };
    let lines = [
        row("none", step("none", "{}"), "a"),
        row("search", step("weather", "{}"), "a"),
        row("search", step("search", "{}\nAction: weather\nAction Input: {}"), "a"),
        row("search", step("search", "{}"), " "),
        "{\"tools\": []}".to_owned(),
    ];
    std::fs::write(&file, lines.join("\n")).unwrap();
    let (tools, _) = dialogues();
    let what = Worked::read(&file, &tools).unwrap_err().to_string();
    for part in [
        "1: no tool `none`",
        "2: `steps[0].action` is `weather`",
        "3: `steps[0]` has lines",
        "4: `answer` is empty",
        "5: missing field",
    ] {
        assert!(what.contains(&format!("dialogues.jsonl:{part}")), "{part}: {what}");
    }
}
