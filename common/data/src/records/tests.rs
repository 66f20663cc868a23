//! Keys of rows besides their texts. Expected values: the formats' own documentation (LLaMA-Factory's
//! data/README.md, TRL's dataset formats, axolotl's and ms-swift's pages on data, OpenAI's fine-tuning
//! guide).

use serde_json::json;

use super::*;
use align_text::chatml::Message;

fn read(kind: Kind, row: Value) -> ReadRow {
    parse(kind, &row).unwrap_or_else(|what| panic!("{row}: {what}"))
}

fn refused(kind: Kind, row: Value) -> String {
    let what = parse(kind, &row).map(|read| panic!("{row} is read: {read:?}")).unwrap_err();
    assert!(!what.contains('\n'), "{what}");
    what
}

fn dialogue(kind: Kind, row: Value) -> Dialogue {
    match read(kind, row).record {
        Record::Chat(dialogue) | Record::Prompt(dialogue) | Record::Response(dialogue) => dialogue,
        Record::Comparison(mut comparison) => comparison.dialogues.swap_remove(0),
        other => panic!("{other:?}"),
    }
}

/// The turns as `role: content`.
fn shown_turns(dialogue: &Dialogue) -> Vec<String> {
    dialogue.messages.iter().map(|message| format!("{}: {}", message.role.name(), message.content)).collect()
}

/// Which answers are trained on.
fn trained(dialogue: &Dialogue) -> Vec<bool> {
    let answers = dialogue.messages.iter().filter(|message| message.role == Role::Assistant);
    answers.map(|message| message.is_trained).collect()
}

#[test]
fn a_system_text_beside_the_turns_is_the_system_turn_of_every_kind_of_row() {
    let turns = json!([{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]);
    for key in ["system", "system_prompt", "system_message"] {
        for (kind, row) in [
            (Kind::Chat, json!({"conversations": turns, key: "pirate"})),
            (Kind::Chat, json!({"instruction": "q", "output": "a", key: "pirate"})),
            (Kind::Chat, json!({"prompt": "q", "completion": "a", key: "pirate"})),
            (Kind::Comparison, json!({"prompt": "q", "chosen": "a", "rejected": "b", key: "pirate"})),
            (Kind::Comparison, json!({"question": "q", "chosen": "a", "rejected": "b", key: "pirate"})),
            (Kind::Comparison, json!({"prompt": "q", "responses": ["a", "b"], "scores": [1, 2], key: "pirate"})),
            (Kind::Prompt, json!({"prompt": "q", key: "pirate"})),
            (Kind::Response, json!({"prompt": "q", "response": "a", key: "pirate"})),
            (Kind::Response, json!({"messages": turns, key: "pirate"})),
        ] {
            let dialogue = dialogue(kind, row.clone());
            assert_eq!(shown_turns(&dialogue)[..2], ["system: pirate", "user: q"], "{row}");
        }
    }
    let two = json!({"messages": [{"role": "system", "content": "knight"}, {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"}], "system": "pirate"});
    assert_eq!(
        refused(Kind::Chat, two.clone()),
        "`system` and the first turn are two system texts that differ, expected one of them"
    );
    let mut same = two;
    same["system"] = json!("knight");
    assert_eq!(shown_turns(&dialogue(Kind::Chat, same)), ["system: knight", "user: q", "assistant: a"]);
    // An empty column of a table is ignored; two columns that differ are a contradiction.
    let empty = json!({"instruction": "q", "output": "a", "system": "", "system_prompt": null});
    assert_eq!(shown_turns(&dialogue(Kind::Chat, empty)), ["user: q", "assistant: a"]);
    let both = json!({"instruction": "q", "output": "a", "system": "x", "system_prompt": "y"});
    assert!(refused(Kind::Chat, both).starts_with("both `system` and `system_prompt`, which mean the same"));
}

#[test]
fn history_comes_before_the_question() {
    let history = json!([["Tell me of a fox", "A fox..."], ["And then?", "It ran."]]);
    let expected =
        ["user: Tell me of a fox", "assistant: A fox...", "user: And then?", "assistant: It ran.", "user: q"];
    let row = json!({"instruction": "q", "input": "", "output": "a", "history": history});
    let read = dialogue(Kind::Chat, row);
    assert_eq!(shown_turns(&read)[..5], expected);
    assert_eq!(trained(&read), [true, true, true], "the default of LLaMA-Factory");
    for (kind, row) in [
        (Kind::Chat, json!({"query": "q", "response": "a", "history": history})),
        (Kind::Prompt, json!({"prompt": "q", "history": history})),
        (Kind::Comparison, json!({"prompt": "q", "chosen": "a", "rejected": "b", "history": history})),
        (Kind::Response, json!({"prompt": "q", "response": "a", "history": history})),
    ] {
        assert_eq!(shown_turns(&dialogue(kind, row.clone()))[..5], expected, "{row}");
    }
    let bad = json!({"instruction": "q", "output": "a", "history": [["only one"]]});
    assert!(refused(Kind::Chat, bad).starts_with("`history[0]` is not a pair of texts"));
    let turns = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        "history": history});
    assert!(refused(Kind::Chat, turns).starts_with("`history` beside turns"));
}

#[test]
fn marks_say_which_answers_are_trained_on() {
    for (off, on) in [
        (json!({"weight": 0}), json!({"weight": 1})),
        (json!({"weight": 0.0}), json!({"weight": 1.0})),
        (json!({"train": false}), json!({"train": true})),
        (json!({"training": false}), json!({})),
        (json!({"trainable": false}), json!({"trainable": true})),
        (json!({"loss": false}), json!({"loss": true})),
    ] {
        let turn = |role: &str, content: &str, mark: &Value| {
            let mut turn = json!({"role": role, "content": content});
            turn.as_object_mut().unwrap().extend(mark.as_object().unwrap().clone());
            turn
        };
        let none = json!({});
        let marked = [
            turn("user", "q", &off),
            turn("assistant", "bad", &off),
            turn("user", "r", &none),
            turn("assistant", "good", &on),
        ];
        let read = read(Kind::Chat, json!({"messages": marked}));
        let Record::Chat(dialogue) = read.record else { panic!() };
        assert_eq!(trained(&dialogue), [false, true], "{off}");
        assert!(read.unread.is_empty(), "{:?}", read.unread);
        let none_left = json!({"messages": [marked[0], marked[1]]});
        assert!(refused(Kind::Chat, none_left).starts_with("every answer is marked as not to be trained on"));
    }
    let with = |mark: Value| json!({"messages": [{"role": "user", "content": "q"}, mark]});
    let half = with(json!({"role": "assistant", "content": "a", "weight": 0.5}));
    assert_eq!(refused(Kind::Chat, half), "`messages[1].weight` is 0.5, expected 0 or 1 (or false or true)");
    let torn = with(json!({"role": "assistant", "content": "a", "weight": 0, "train": true}));
    assert!(
        refused(Kind::Chat, torn).starts_with("`messages[1]` has `weight` and `train`, which contradict each other")
    );
    let spans =
        with(json!({"role": "assistant", "content": "a", "train_detail": [{"begin_offset": 0, "end_offset": 3}]}));
    assert!(
        refused(Kind::Chat, spans).starts_with("`messages[1].train_detail`: a mask of parts of a turn is not read")
    );
    let asked =
        json!({"messages": [{"role": "user", "content": "q", "train": true}, {"role": "assistant", "content": "a"}]});
    assert!(refused(Kind::Chat, asked).starts_with("`messages[0].train` asks for loss on a turn of role `user`"));
    let compared =
        json!({"prompt": "q", "chosen": [{"role": "assistant", "content": "a", "weight": 0}], "rejected": "b"});
    assert!(refused(Kind::Comparison, compared).starts_with("an answer that is compared is marked"));
}

#[test]
fn reasoning_belongs_to_its_answer() {
    for key in ["reasoning_content", "reasoning", "thinking"] {
        let turn = json!({"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4", key: "two plus two"}]});
        let read = dialogue(Kind::Chat, turn);
        assert_eq!(read.messages[1].reasoning.as_deref(), Some("two plus two"));
        let row = dialogue(Kind::Chat, json!({"prompt": "2+2?", "completion": "4", key: "two plus two"}));
        assert_eq!(row.messages[1].reasoning.as_deref(), Some("two plus two"));
        let pair = json!({"prompt": "q", "chosen": "a", "rejected": "b", key: "because"});
        assert!(refused(Kind::Comparison, pair).contains("beside turns or several answers"), "{key}");
        let asked =
            json!({"messages": [{"role": "user", "content": "q", key: "hm"}, {"role": "assistant", "content": "a"}]});
        assert!(refused(Kind::Chat, asked).contains("belongs to a turn of role `user`"));
    }
}

#[test]
fn tools_and_calls_are_kept_as_the_row_writes_them() {
    let call = json!({"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris", "days": 2}}});
    let tools = json!([{"type": "function", "function": {"name": "weather", "parameters": {}}}]);
    let row = json!({"tools": tools, "messages": [{"role": "user", "content": "q"},
        {"role": "assistant", "content": null, "tool_calls": [call]}, {"role": "tool", "name": "weather", "tool_call_id": "1", "content": "sunny"},
        {"role": "assistant", "content": "It is sunny."}]});
    let read = read(Kind::Chat, row.clone());
    assert!(read.unread.is_empty(), "{:?}", read.unread);
    let Record::Chat(read) = read.record else { panic!() };
    assert_eq!(shown_turns(&read), ["user: q", "assistant: ", "tool: sunny", "assistant: It is sunny."]);
    assert_eq!((&read.messages[1].tool_calls[0], json!(read.tools)), (&call, tools.clone()));
    // LLaMA-Factory: tools as a text, calls and results as separate turns.
    let sharegpt = json!({"tools": tools.to_string(), "conversations": [{"from": "human", "value": "q"},
        {"from": "function_call", "value": "{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\", \"days\": 2}}"},
        {"from": "observation", "value": "sunny"}, {"from": "gpt", "value": "It is sunny."}]});
    let same = dialogue(Kind::Chat, sharegpt);
    assert_eq!((&same.messages[1], json!(same.tools)), (&read.messages[1], tools));
    assert_eq!(shown_turns(&same), shown_turns(&read));
    // ms-swift: consecutive calls belong to one answer.
    let two = json!({"messages": [{"role": "user", "content": "q"}, {"role": "tool_call", "content": "{\"name\": \"a\", \"arguments\": {}}"},
        {"role": "tool_call", "content": "{\"name\": \"b\", \"arguments\": {}}"}, {"role": "tool_response", "content": "1"},
        {"role": "assistant", "content": "done"}]});
    assert_eq!(dialogue(Kind::Chat, two).messages[1].tool_calls.len(), 2);
    for (row, expected) in [
        (
            json!({"messages": [{"role": "user", "content": "q", "tool_calls": [call]}]}),
            "`messages[0].tool_calls` belongs to a turn of role `user`",
        ),
        (
            json!({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}),
            "`messages[0].tool_calls[0]` has no `name`",
        ),
        (
            json!({"conversations": [{"from": "function_call", "value": "weather(Paris)"}]}),
            "`conversations[0].value` is not a call",
        ),
        (json!({"prompt": "q", "response": "a", "tools": "no json"}), "`tools` is a text that is not JSON"),
        (json!({"prompt": "q", "response": "a", "tools": {"name": "x"}}), "`tools` is an object, expected a list"),
        (
            json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "function_call": {"name": "x"}}]}),
            "`messages[1].function_call`: OpenAI's old form of tool calls is not read",
        ),
    ] {
        let what = refused(Kind::Chat, row);
        assert!(what.starts_with(expected), "{what}");
    }
}

#[test]
fn integers_of_more_than_64_bits_are_refused_in_rows_with_tools() {
    let row = |number: &str, key: &str| {
        format!(
            r#"{{"prompt": "q 99999999999999999999", "response": "a", "{key}": [{{"name": "x", "id": {number}}}]}}"#
        )
    };
    let read = |text: &str| parse_text(Kind::Chat, &serde_json::from_str(text).unwrap(), text.as_bytes());
    for number in ["18446744073709551615", "-9223372036854775808", "1e300", "123456789012345678901234567890.0", "0.5"] {
        assert!(read(&row(number, "tools")).is_ok(), "{number}");
    }
    for number in ["18446744073709551616", "-9223372036854775809"] {
        assert!(
            read(&row(number, "tools")).unwrap_err().starts_with("a whole number of more than 64 bits"),
            "{number}"
        );
        assert!(read(&row(number, "ids")).is_ok(), "nothing is written of it");
    }
}

#[test]
fn texts_in_parts_are_joined_and_other_parts_refused() {
    let row = |content: Value| json!({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}]});
    for parts in [
        json!([{"type": "text", "text": "What is "}, {"type": "text", "text": "2+2?"}]),
        json!([{"type": "input_text", "text": "What is 2+2?"}]),
        json!([{"text": "What is 2+2?"}]),
        json!(["What is ", "2+2?"]),
    ] {
        assert_eq!(shown_turns(&dialogue(Kind::Chat, row(parts)))[0], "user: What is 2+2?");
    }
    let image = json!([{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "x"}}]);
    assert_eq!(
        refused(Kind::Chat, row(image)),
        "`messages[0].content[1]` is a part of type `image_url`, expected parts of type `text`"
    );
    assert!(
        refused(Kind::Chat, row(json!([{"image": "x.png"}])))
            .starts_with("`messages[0].content[0]` is an object, expected a part")
    );
    assert_eq!(refused(Kind::Chat, row(json!([]))), "`messages[0].content` is empty, expected a text");
    assert_eq!(refused(Kind::Chat, row(json!({"a": 1}))), "`messages[0].content` is an object, expected a text");
}

#[test]
fn media_are_refused_by_name_and_empty_columns_are_not() {
    for key in ["image", "images", "video", "videos", "audio", "audios"] {
        let row = |value: Value| json!({"instruction": "q", "output": "a", key: value});
        let expected = format!("`{key}`: only text is trained on");
        assert!(refused(Kind::Chat, row(json!(["x.png"]))).starts_with(&expected));
        assert!(refused(Kind::Prompt, json!({"prompt": "q", key: "x.png"})).starts_with(&expected));
        assert!(
            refused(Kind::Comparison, json!({"prompt": "q", "chosen": "a", "rejected": "b", key: ["x"]}))
                .starts_with(&expected)
        );
        assert_eq!(shown_turns(&dialogue(Kind::Chat, row(json!([])))), ["user: q", "assistant: a"]);
    }
}

#[test]
fn one_question_and_one_answer_have_many_names() {
    for (question, answer) in [
        ("prompt", "completion"),
        ("prompt", "response"),
        ("question", "answer"),
        ("query", "response"),
        ("instruction", "output"),
        ("question", "response"),
        ("input", "output"),
    ] {
        let row = json!({question: "What is 2+2?", answer: "4."});
        assert_eq!(shown_turns(&dialogue(Kind::Chat, row)), ["user: What is 2+2?", "assistant: 4."]);
    }
    let turns = json!({"prompt": [{"role": "user", "content": "What is 2+2?"}], "completion": [{"role": "assistant", "content": "4."}]});
    assert_eq!(shown_turns(&dialogue(Kind::Chat, turns)), ["user: What is 2+2?", "assistant: 4."]);
    // Loss on the completion only: answers in the prompt are context.
    let longer = json!({"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}], "completion": "d"});
    assert_eq!(trained(&dialogue(Kind::Chat, longer)), [false, true]);
    let input = json!({"instruction": "", "input": "some input", "output": "a"});
    assert_eq!(shown_turns(&dialogue(Kind::Chat, input)), ["user: some input", "assistant: a"]);
    let context = json!({"instruction": "Sum up.", "context": "A text.", "response": "a"});
    assert_eq!(shown_turns(&dialogue(Kind::Chat, context)), ["user: Sum up.\nA text.", "assistant: a"]);
    let beside = json!({"question": "Who?", "context": "A text.", "answer": "a"});
    assert!(refused(Kind::Chat, beside).starts_with("`context` beside `question`"));
    assert!(
        refused(Kind::Chat, json!({"prompt": "q", "completion": "a", "label": false}))
            .starts_with("`label`: says whether the answer is a good one")
    );
    let alpaca = json!({"instruction": "q", "input": "ctx", "chosen": "good", "rejected": "bad"});
    assert_eq!(shown_turns(&dialogue(Kind::Comparison, alpaca)), ["user: q\nctx", "assistant: good"]);
    let swift = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}], "rejected_response": "bad"});
    let Record::Comparison(pair) = read(Kind::Comparison, swift.clone()).record else { panic!() };
    assert_eq!(
        pair.dialogues.iter().map(shown_turns).collect::<Vec<_>>(),
        [["user: q", "assistant: good"], ["user: q", "assistant: bad"]]
    );
    assert!(refused(Kind::Chat, swift).starts_with("`rejected_response`: makes the row a comparison"));
}

#[test]
fn the_end_token_of_a_truncated_response_carries_no_loss() {
    let row = |ended: bool| json!({"index": 0, "prompt": [{"role": "user", "content": "q"}], "response": "a", "tokens": [1], "ended": ended});
    assert!(dialogue(Kind::Chat, row(true)).messages[1].is_whole);
    assert!(!dialogue(Kind::Chat, row(false)).messages[1].is_whole);
}

#[test]
fn a_prompt_may_be_a_transcript() {
    let prompt = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: q\n\nAssistant:";
    let expected = ["user: hi", "assistant: hello", "user: q", "assistant: good"];
    let pair = json!({"prompt": prompt, "chosen": " good", "rejected": " bad"});
    assert_eq!(shown_turns(&dialogue(Kind::Comparison, pair)), expected);
    assert_eq!(shown_turns(&dialogue(Kind::Prompt, json!({"prompt": prompt}))), expected[..3]);
    assert_eq!(shown_turns(&dialogue(Kind::Response, json!({"prompt": prompt, "response": " good"}))), expected);
    let read = dialogue(Kind::Chat, json!({"prompt": prompt, "completion": " good"}));
    assert_eq!((shown_turns(&read), trained(&read)), (expected.map(str::to_owned).to_vec(), vec![false, true]));
    // A user's text may contain the word.
    let plain = "Human: is that a word?";
    assert_eq!(shown_turns(&dialogue(Kind::Prompt, json!({"prompt": plain}))), [format!("user: {plain}")]);
}

#[test]
fn a_margin_is_the_difference_of_two_scores() {
    let row = |margin: Value| json!({"prompt": "q", "chosen": "a", "rejected": "b", "margin": margin});
    let Record::Comparison(pair) = read(Kind::Comparison, row(json!(0.5))).record else { panic!() };
    assert_eq!(pair.scores, Some(vec![0.5, 0.0]));
    assert!(refused(Kind::Comparison, row(json!(-1))).starts_with("`margin` is -1, expected above 0"));
}

#[test]
fn unread_keys_are_reported() {
    let row = json!({"id": 7, "source": "web", "tags": null, "messages": [
        {"role": "user", "content": "q", "timestamp": 1}, {"role": "assistant", "content": "a", "model": "m"}]});
    assert_eq!(read(Kind::Chat, row).unread, ["id", "messages.model", "messages.timestamp", "source"]);
    let verl = json!({"data_source": "gsm8k", "prompt": [{"role": "user", "content": "q"}], "reward_model": {"ground_truth": "4"}});
    assert_eq!(read(Kind::Prompt, verl).unread, ["data_source", "reward_model"]);
    assert_eq!(read(Kind::Prompt, json!({"instruction": "q", "output": "a"})).unread, ["output"]);
    assert_eq!(read(Kind::Text, json!({"text": "t", "url": "u"})).unread, ["url"]);
}

#[test]
fn the_kind_of_a_row_follows_from_its_keys_even_if_it_is_bad() {
    let image = json!([{"type": "image"}]);
    for (row, kind) in [
        (json!({"text": "t"}), Some(Kind::Text)),
        (
            json!({"messages": [{"role": "user", "content": image}, {"role": "assistant", "content": "a"}]}),
            Some(Kind::Chat),
        ),
        (json!({"messages": [{"role": "user", "content": "q"}]}), Some(Kind::Prompt)),
        (json!({"prompt": "q", "chosen": 1, "rejected": 2}), Some(Kind::Comparison)),
        (json!({"prompt": "q", "responses": [], "scores": []}), Some(Kind::Comparison)),
        (json!({"prompt": "q", "response": "a"}), Some(Kind::Chat)),
        (json!({"prompt": "q"}), Some(Kind::Prompt)),
        (json!({"instruction": "q", "input": "x", "output": "a", "text": "all of it"}), Some(Kind::Chat)),
        (json!({"id": 1}), None),
    ] {
        assert_eq!(Kind::of(&row), kind, "{row}");
    }
}

#[test]
fn equality_of_turns_does_not_depend_on_training_marks() {
    let (one, other) =
        (Message::new(Role::Assistant, "a"), Message { is_trained: false, ..Message::new(Role::Assistant, "a") });
    assert!(one.is_same_turn(&other) && !one.is_same_turn(&Message::new(Role::User, "a")));
}

#[test]
fn every_key_of_a_call_is_read_or_reported() {
    let with = |call: Value| json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [call]}]});
    let row = read(
        Kind::Chat,
        with(json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": {}, "strict": true}})),
    );
    assert_eq!(row.unread, ["messages.tool_calls.strict"]);
    for (call, expected) in [
        (json!({"function": {"name": "f", "parameters": {"x": 1}}}), "`messages[1].tool_calls[0]` has no `arguments`"),
        (json!({"name": "f", "arguments": null}), "`messages[1].tool_calls[0].arguments` is null"),
        (
            json!({"name": "f", "arguments": "not json"}),
            "`messages[1].tool_calls[0].arguments` is a text that is not a JSON object",
        ),
    ] {
        let what = refused(Kind::Chat, with(call));
        assert!(what.starts_with(expected), "{what}");
    }
    let bare = json!({"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "{\"name\": \"f\", \"parameters\": {}}"}]});
    assert!(refused(Kind::Chat, bare).contains("has no `arguments`"));
    let call = |name: &str, mark: u64| json!({"role": "tool_call", "content": format!("{{\"name\": \"{name}\", \"arguments\": {{}}}}"), "loss": mark});
    let torn = json!({"messages": [{"role": "user", "content": "q"}, call("f", 1), call("g", 0)]});
    assert!(refused(Kind::Chat, torn).contains("of which only one is marked as trained on"));
}

#[test]
fn marks_of_a_row_are_those_of_its_only_answer_and_may_be_texts() {
    for ended in [json!(false), json!("false"), json!("False"), json!(0), json!("0")] {
        assert!(!dialogue(Kind::Chat, json!({"prompt": "q", "completion": "a", "ended": ended})).messages[1].is_whole);
    }
    assert_eq!(
        refused(Kind::Chat, json!({"prompt": "q", "completion": "a", "ended": "maybe"})),
        "`ended` is a string, expected true or false"
    );
    for mark in [json!(false), json!(0), json!("false")] {
        for key in ["train", "loss", "weight"] {
            let what = refused(Kind::Chat, json!({"prompt": "q", "completion": "a", key: mark}));
            assert!(what.starts_with("every answer is marked as not to be trained on"), "{what}");
        }
    }
    assert!(read(Kind::Chat, json!({"prompt": "q", "completion": "a", "weight": "1"})).unread.is_empty());
    assert!(
        refused(Kind::Chat, json!({"prompt": "q", "completion": "a", "weight": "0.5"})).contains("expected 0 or 1")
    );
    assert!(
        refused(Kind::Comparison, json!({"prompt": "q", "chosen": "a", "rejected": "b", "weight": "0"}))
            .starts_with("`weight`: rows have no weights")
    );
}

#[test]
fn whole_transcripts_after_a_prompt_must_repeat_it() {
    let (a, b) = ("\n\nHuman: q\n\nAssistant: a", "\n\nHuman: q\n\nAssistant: b");
    for prompt in [json!("\n\nHuman: q\n\nAssistant:"), json!("q"), json!([{"role": "user", "content": "q"}])] {
        let pair = dialogue(Kind::Comparison, json!({"prompt": prompt, "chosen": a, "rejected": b}));
        assert_eq!(shown_turns(&pair), ["user: q", "assistant: a"]);
    }
    let other = json!({"prompt": "another", "chosen": a, "rejected": b});
    assert!(refused(Kind::Comparison, other).starts_with("`chosen` begins with another turn than the prompt"));
}

#[test]
fn an_empty_response_of_generate_is_scored() {
    let row = json!({"index": 0, "sample": 0, "prompt": [{"role": "user", "content": "q"}], "response": "", "tokens": [1], "ended": true});
    assert_eq!(shown_turns(&dialogue(Kind::Response, row.clone())), ["user: q", "assistant: "]);
    assert_eq!(refused(Kind::Chat, row), "`response` is empty, expected an answer");
}

#[test]
fn reasoning_without_an_answer_is_an_answer_and_an_empty_system_turn_is_none() {
    let row = json!({"system": "S", "messages": [{"role": "system", "content": ""}, {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "reasoning_content": "r"}]});
    assert_eq!(shown_turns(&dialogue(Kind::Chat, row)), ["system: S", "user: q", "assistant: "]);
}
