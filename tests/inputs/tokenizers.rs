//! Vocabularies that lack bytes: the model is taken, and rows that need such a byte are not.

use super::*;

/// Bytes of Chinese are not there, which the dialogues hold that a chat template is compared on.
#[test]
fn a_vocabulary_of_one_script_is_enough_for_its_rows() {
    let folder = Folder::new();
    without_bytes(&folder, "base", "narrow", &[0xe4, 0xe5, 0xf0]);
    folder.write_rows("plain.jsonl", &[json!({ "instruction": "q", "output": "a" })]);
    let plain = ["model.path='narrow'", "data.train='plain.jsonl'", "data.eval=[]"];
    folder.succeed(&[&set(&SFT, &plain)[..], &["--dry-run"]].concat());
    folder.write_rows(
        "rows.jsonl",
        &[json!({ "instruction": "東", "output": "a" }), json!({ "instruction": "京", "output": "a" })],
    );
    let sets = ["model.path='narrow'", "data.train='rows.jsonl'", "data.eval=[]"];
    folder.refuse(&set(&SFT, &sets), &[&["rows.jsonl:2: ", "byte 0xe4"]]);
}

/// The character for a byte in byte-level vocabularies, for bytes below 0x21 and from 0xe0 on. Source:
/// `bytes_to_unicode` of GPT-2's encoder.
fn spelled(byte: u8) -> String {
    let char = if byte < 0x21 { char::from_u32(0x100 + u32::from(byte)) } else { char::from_u32(u32::from(byte)) };
    char.unwrap().to_string()
}

/// Copies a model whose tokenizer has no token for these bytes; others take their ids.
fn without_bytes(folder: &Folder, from: &str, to: &str, bytes: &[u8]) {
    let file = folder.copy(from, to).join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    for byte in bytes {
        let id = vocab.remove(&spelled(*byte)).unwrap();
        vocab.insert(format!("no byte {byte}"), id);
    }
    // Merges of what is not there any more are no part of such a file.
    let known = vocab.clone();
    let merges = tokenizer["model"]["merges"].as_array_mut().unwrap();
    merges.retain(|merge| match merge {
        Value::String(pair) => pair.split(' ').all(|half| known.contains_key(half)),
        pair => pair.as_array().unwrap().iter().all(|half| known.contains_key(half.as_str().unwrap())),
    });
    fs::write(&file, tokenizer.to_string()).unwrap();
    let _ = fs::remove_file(folder.join(to).join("align.json")); // it names the tokenizer that was
}

#[test]
fn bytes_that_no_text_has_are_not_missed() {
    let folder = Folder::new();
    without_bytes(&folder, "base", "lacking", &[0xf5, 0xff, 0x07, 0x1b, 0x00]);
    let weights = |model: &str| {
        let (path, out) = (format!("model.path='{model}'"), format!("run.out='runs/{model}'"));
        folder.succeed(&set(&SFT, &[&path, &out, "train.steps=2"]));
        folder.files(&format!("runs/{model}/model"))["model.safetensors"].clone()
    };
    assert!(weights("lacking") == weights("base"));
}

#[test]
fn rows_that_need_a_byte_that_is_not_there_are_bad_everywhere() {
    let folder = Folder::new();
    for (from, to) in [("policy", "lm"), ("reward", "scalar")] {
        without_bytes(&folder, from, to, &[0x07, 0xf0]);
    }
    folder.write_rows(
        "chat.jsonl",
        &[
            json!({ "instruction": "q", "output": "a" }),
            json!({ "instruction": "q\u{7}", "output": "a" }),
            json!({ "instruction": "q", "output": "😀" }),
        ],
    );
    folder.write_rows("pairs.jsonl", &[json!({ "prompt": "q", "chosen": "a", "rejected": "b\u{7}" })]);
    folder.write_rows("prompts.jsonl", &[json!({ "prompt": "q" }), json!({ "prompt": "q\u{7}" })]);
    folder.write_rows("text.jsonl", &[json!({ "text": "a" }), json!({ "text": "b\u{7}" })]);
    folder.write_rows("responses.jsonl", &[json!({ "prompt": "q", "responses": ["a", "b\u{7}"] })]);
    let said = "a text has byte 0x07, for which the tokenizer has no token";
    let refuse = |args: &[&str], place: &str| folder.refuse(args, &[&[&format!("{place}: "), said, "expected"]]);
    // Two bytes, one cause.
    let sft = set(&SFT, &["model.path='lm'", "data.train='chat.jsonl'", "data.eval=[]"]);
    folder.refuse(&sft, &[&["chat.jsonl:2: ", said, "; the same in 1 more row: chat.jsonl:3"]]);
    let output = folder.succeed(&[&sft[..], &["--set", "data.bad_rows='skip'", "--dry-run"]].concat());
    assert!(output.stderr.contains("bad rows skipped  2\n"), "{output}");
    let eval = |kind, model, data| ["eval", kind, "--model", model, "--data", data];
    refuse(&eval("lm", "lm", "text.jsonl"), "text.jsonl:2");
    refuse(&eval("rm", "scalar", "pairs.jsonl"), "pairs.jsonl:1");
    refuse(
        &[
            "rm",
            "--config",
            "rm.toml",
            "--set",
            "model.path='lm'",
            "--set",
            "data.train='pairs.jsonl'",
            "--set",
            "data.eval=[]",
        ],
        "pairs.jsonl:1",
    );
    refuse(
        &["pretrain", "--config", "pretrain.toml", "--set", "model.path='lm'", "--set", "data.train='text.jsonl'"],
        "text.jsonl:2",
    );
    let ppo = ["ppo", "--config", "ppo.toml", "--set", "models.policy='lm'", "--set", "models.reward='scalar'"];
    refuse(&[&ppo[..], &["--set", "data.prompts='prompts.jsonl'"]].concat(), "prompts.jsonl:2");
    refuse(&[&ppo[..], &["--set", "data.pretrain='text.jsonl'"]].concat(), "text.jsonl:2");
    refuse(&["generate", "--model", "lm", "--prompts", "prompts.jsonl", "--out", "out.jsonl"], "prompts.jsonl:2");
    refuse(&["score", "--model", "scalar", "--data", "responses.jsonl", "--out", "out.jsonl"], "responses.jsonl:1");
    let system = "data.system=\"Be \\u0007 brief.\"";
    refuse(&set(&SFT, &["model.path='lm'", system]), "data.system");
    let found = folder.succeed(&["inspect", "data", "text.jsonl", "--model", "lm", "--rows", "5", "--json"]).json();
    assert_eq!((&found["counts"]["bad rows"], found["rows"].as_array().unwrap().len()), (&json!(1), 1));
    // In a chat, the turn is refused and the dialogue continues.
    folder.write("said.txt", "bell \u{7}\nhello\n");
    let said_file = fs::File::open(folder.join("said.txt")).unwrap();
    let chat = folder.align_with_input(&["chat", "--model", "lm", "--max-tokens", "3"], said_file.into());
    assert_eq!((chat.code, chat.stdout.lines().count()), (Some(0), 1), "{chat}");
    assert!(chat.stderr.contains(said), "{chat}");
}
