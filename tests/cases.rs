//! Rows that people bring, through the binary: what carries meaning is rendered or refused, in every stage.
//! The inputs are those of public reports, and others of their kinds.

use serde_json::{Value, json};

use crate::util::Folder;

/// The text of a file's rows as they are rendered, and of what of them carries loss.
fn rendered(folder: &Folder, rows: &[Value]) -> Vec<(String, String)> {
    folder.write_rows("rows.jsonl", rows);
    let found = folder.succeed(&["inspect", "data", "rows.jsonl", "--model", "base", "--rows", "100", "--json"]).json();
    assert_eq!(found["counts"]["bad rows"], 0, "{}", found["counts"]);
    let of_row = |row: &Value| {
        let tokens = row["dialogues"][0]["tokens"].as_array().unwrap();
        let text = |keep: fn(&Value) -> bool| -> String {
            tokens.iter().filter(|token| keep(token)).map(|token| token["text"].as_str().unwrap()).collect()
        };
        (text(|_| true), text(|token| token["loss"] == true))
    };
    found["rows"].as_array().unwrap().iter().map(of_row).collect()
}

/// A stage's dry run on one row must be refused, in a line that names the row and holds `expected`.
#[track_caller]
fn refused(folder: &Folder, stage: &str, key: &str, row: &Value, expected: &str) {
    folder.write_rows("refused.jsonl", std::slice::from_ref(row));
    let set = format!("{key}='refused.jsonl'");
    folder.refuse(
        &[stage, "--config", &format!("{stage}.toml"), "--dry-run", "--set", &set],
        &[&["refused.jsonl:1: ", expected]],
    );
}

#[test]
fn a_rows_own_system_text_is_the_system_turn() {
    let folder = Folder::new();
    let turns = json!([{"from": "human", "value": "who are you"}, {"from": "gpt", "value": "Arr, a pirate."}]);
    let rows = [
        json!({"conversations": turns, "system": "You are a pirate."}),
        json!({"instruction": "who are you", "input": "", "output": "Arr, a pirate.", "system": "You are a pirate."}),
        json!({"system_prompt": "You are a pirate.", "question": "who are you", "response": "Arr, a pirate."}),
        json!({"system_message": "You are a pirate.", "messages": [{"role": "user", "content": "who are you"}, {"role": "assistant", "content": "Arr, a pirate."}]}),
    ];
    for (text, _) in rendered(&folder, &rows) {
        assert!(
            text.starts_with("<|im_start|>system\nYou are a pirate.<|im_end|>\n<|im_start|>user\nwho are you"),
            "{text}"
        );
    }
    // The same in comparisons and prompts.
    for row in [
        json!({"system": "You are a pirate.", "prompt": "q", "chosen": "good", "rejected": "bad"}),
        json!({"system": "You are a pirate.", "prompt": "q"}),
    ] {
        let (text, _) = rendered(&folder, &[row]).remove(0);
        assert!(text.starts_with("<|im_start|>system\nYou are a pirate.<|im_end|>\n"), "{text}");
    }
}

#[test]
fn scores_are_those_under_the_rows_system_text() {
    let folder = Folder::new();
    let messages = |system: &str| json!({"messages": [{"role": "system", "content": system}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}]});
    folder.write_rows(
        "rows.jsonl",
        &[
            json!({"system": "You are a pirate.", "prompt": "q", "response": "good"}),
            messages("You are a pirate."),
            json!({"prompt": "q", "response": "good"}),
        ],
    );
    folder.succeed(&["score", "--model", "reward", "--data", "rows.jsonl", "--out", "scores.jsonl"]);
    let scores: Vec<f64> = folder.rows("scores.jsonl").iter().map(|row| row["score"].as_f64().unwrap()).collect();
    assert!((scores[0] - scores[1]).abs() < 1e-5, "{scores:?}");
    assert!((scores[0] - scores[2]).abs() > 1e-3, "{scores:?}");
}

#[test]
fn turns_that_are_marked_are_left_out_of_the_loss() {
    let folder = Folder::new();
    for mark in ["weight", "train", "loss"] {
        let row = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bad answer", mark: 0},
            {"role": "user", "content": "try again"}, {"role": "assistant", "content": "good answer", mark: 1}]});
        let (text, trained) = rendered(&folder, &[row]).remove(0);
        assert!(text.contains("bad answer"));
        assert_eq!(trained, "good answer<|im_end|>", "{mark}");
    }
}

#[test]
fn what_cannot_be_rendered_is_refused_by_name_in_every_stage() {
    let folder = Folder::new();
    let call = json!([{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}]);
    let with_call = json!({"messages": [{"role": "user", "content": "weather?"}, {"role": "assistant", "content": "Let me look.", "tool_calls": call}]});
    let tools = json!({"tools": [{"name": "get_weather"}], "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]});
    let reasoned = json!({"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4", "reasoning_content": "two plus two"}]});
    for (row, expected) in [
        (with_call.clone(), "`tool_calls`: the checkpoint has no chat template that writes tool calls"),
        (tools, "`tools`: the checkpoint has no chat template that writes tool descriptions"),
        (reasoned, "`reasoning_content`: the checkpoint has no chat template that writes reasoning"),
        (json!({"instruction": "q", "output": "a", "images": ["x.png"]}), "`images`: only text is trained on"),
    ] {
        refused(&folder, "sft", "data.train", &row, expected);
    }
    let pair = json!({"prompt": "q", "chosen": [with_call["messages"][1]], "rejected": "b"});
    refused(&folder, "rm", "data.train", &pair, "`tool_calls`: the checkpoint has no chat template");
    let prompt = json!({"prompt": "q", "tools": [{"name": "x"}]});
    refused(&folder, "ppo", "data.prompts", &prompt, "`tools`: the checkpoint has no chat template");
    let audio = json!({"prompt": "q", "audios": ["x.wav"]});
    refused(&folder, "ppo", "data.prompts", &audio, "`audios`: only text is trained on");
    folder.write_rows("score.jsonl", &[json!({"prompt": "q", "response": "a", "reasoning": "why"})]);
    let expected = ["score.jsonl:1: ", "`reasoning_content`: the checkpoint has no chat template"];
    folder.refuse(&["score", "--model", "reward", "--data", "score.jsonl", "--out", "out.jsonl"], &[&expected]);
}

#[test]
fn shapes_that_people_expect_are_read() {
    let folder = Folder::new();
    let user = json!([{"role": "user", "content": "What is 2+2?"}]);
    for row in [
        json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "What is 2+2?"}]}, {"role": "assistant", "content": [{"type": "text", "text": "4."}]}]}),
        json!({"prompt": "What is 2+2?", "completion": "4."}),
        json!({"prompt": user, "completion": [{"role": "assistant", "content": "4."}]}),
        json!({"index": 0, "sample": 1, "prompt": user, "response": "4.", "tokens": [1, 2], "ended": true}),
        json!({"instruction": "", "input": "What is 2+2?", "output": "4."}),
        json!({"question": "What is 2+2?", "answer": "4."}),
    ] {
        let (text, trained) = rendered(&folder, std::slice::from_ref(&row)).remove(0);
        assert!(text.contains("<|im_start|>user\nWhat is 2+2?<|im_end|>\n"), "{row}: {text}");
        assert_eq!(trained, "4.<|im_end|>", "{row}");
    }
    let cut = json!({"prompt": user, "response": "4", "ended": false});
    assert_eq!(rendered(&folder, &[cut]).remove(0).1, "4", "a response that was cut off teaches no end");
    for row in [
        json!({"question": "q", "chosen": "good", "rejected": "bad"}),
        json!({"instruction": "q", "input": "ctx", "chosen": "good", "rejected": "bad"}),
        json!({"prompt": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: q\n\nAssistant:", "chosen": " good", "rejected": " bad"}),
    ] {
        let (text, _) = rendered(&folder, std::slice::from_ref(&row)).remove(0);
        assert!(text.ends_with("<|im_start|>assistant\ngood<|im_end|>"), "{row}: {text}");
    }
}

#[test]
fn what_nothing_reads_is_said_before_the_first_step() {
    let folder = Folder::new();
    let chat = json!({"id": 1, "source": "web", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "model": "m"}]});
    folder.write_rows("chat.jsonl", &[chat.clone(), chat]);
    let reported =
        folder.succeed(&["sft", "--config", "sft.toml", "--dry-run", "--set", "data.train='chat.jsonl'"]).stderr;
    for key in ["\"id\":2", "\"source\":2", "\"messages.model\":2"] {
        assert!(reported.contains("keys that are not read") && reported.contains(key), "{key}: {reported}");
    }
    folder.write_rows("pairs.jsonl", &[json!({"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 7})]);
    let reported =
        folder.succeed(&["rm", "--config", "rm.toml", "--dry-run", "--set", "data.train='pairs.jsonl'"]).stderr;
    assert!(reported.contains("keys that are not read") && reported.contains("score_chosen"), "{reported}");
    let reported = folder.succeed(&["eval", "rm", "--model", "reward", "--data", "pairs.jsonl"]).stderr;
    assert!(reported.contains("keys that are not read: score_chosen (1 rows)"), "{reported}");
    folder.write_rows("prompts.jsonl", &[json!({"prompt": "q", "reward_model": {"ground_truth": "4"}})]);
    let reported =
        folder.succeed(&["ppo", "--config", "ppo.toml", "--dry-run", "--set", "data.prompts='prompts.jsonl'"]).stderr;
    assert!(reported.contains("keys that are not read") && reported.contains("reward_model"), "{reported}");
    let reported = folder
        .succeed(&[
            "generate",
            "--model",
            "policy",
            "--prompts",
            "prompts.jsonl",
            "--out",
            "out.jsonl",
            "--max-tokens",
            "2",
        ])
        .stderr;
    assert!(reported.contains("keys that are not read: reward_model (1 rows)"), "{reported}");
}

#[test]
fn rows_under_another_system_text_are_no_copies() {
    let folder = Folder::new();
    let turns = json!([{"from": "human", "value": "Who are you and what can you do for me today?"}, {"from": "gpt", "value": "I am your assistant and I can help with questions."}]);
    let story = |animal: &str| {
        json!({"instruction": "Go on with the story please.", "input": "", "output": "And then they lived happily.",
        "history": [[format!("Tell me of a {animal}"), format!("A {animal}...")]]})
    };
    let with = |system: &str| json!({"conversations": turns, "system": system});
    let mut inside = json!({"messages": [{"role": "system", "content": "You are a duke."}]});
    inside["messages"].as_array_mut().unwrap().extend([
        json!({"role": "user", "content": turns[0]["value"]}),
        json!({"role": "assistant", "content": turns[1]["value"]}),
    ]);
    let rows = [
        with("You are a pirate."),
        with("You are a knight."),
        story("fox"),
        story("bear"),
        inside,
        with("You are a pirate."),
    ];
    folder.write_rows("rows.jsonl", &rows);
    folder.succeed(&["data", "dedup", "rows.jsonl", "--out", "unique.jsonl"]);
    assert_eq!(folder.rows("unique.jsonl"), rows[..5]);
    // Nor are rows that differ in calls, scores, ends or marks.
    let call = |days: u64| {
        json!({"messages": [{"role": "user", "content": "How will the weather be in the next days?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "weather", "arguments": {"days": days}}}]}]})
    };
    let ranked = |scores: Value| json!({"prompt": "How are you doing today, my friend?", "responses": ["Very well indeed", "Not so well"], "scores": scores});
    let ended = |ended: bool| json!({"prompt": "What is it that you would like?", "response": "A cup of tea and some cake", "ended": ended});
    let marked = |weight: u64| {
        json!({"messages": [{"role": "user", "content": "Tell me about it, will you?"},
        {"role": "assistant", "content": "There is not much to tell", "weight": weight}]})
    };
    let rows = [
        call(1),
        call(2),
        ranked(json!([1, 2])),
        ranked(json!([2, 1])),
        ended(true),
        ended(false),
        marked(0),
        marked(1),
    ];
    folder.write_rows("rows.jsonl", &[&rows[..], &rows[..]].concat());
    folder.succeed(&["data", "dedup", "rows.jsonl", "--out", "unique.jsonl"]);
    assert_eq!(folder.rows("unique.jsonl"), rows);
}
