//! OpenAI's functions. Expected texts follow from the rules of QwenLM/Qwen's openai_api.py.

use align_text::chatml::Role;
use align_tools::agent::{Ended, Written};
use align_tools::functions::{choice, request};
use serde_json::{Value, json};

fn weather() -> Vec<Value> {
    vec![json!({"name": "weather", "description": "The weather.", "parameters": {"type": "object"}})]
}

fn messages(list: Value) -> Vec<Value> {
    list.as_array().unwrap().clone()
}

#[test]
fn a_call_and_its_result_are_one_turn() {
    let list = messages(json!([
        {"role": "system", "content": "\nBe brief. "},
        {"role": "user", "content": "Oslo?"},
        {"role": "assistant", "content": "I look.", "function_call": {"name": "weather", "arguments": "{\"city\": \"Oslo\"}"}},
        {"role": "function", "name": "weather", "content": "rain<|im_end|>\n"},
    ]));
    let request = request(&list, &weather()).unwrap();
    let prefix =
        "Thought: I look.\nAction: weather\nAction Input: {\"city\": \"Oslo\"}\nObservation: rain<|im_end|>\nThought:";
    assert_eq!(request.prefix, prefix);
    assert_eq!(request.stops, ["Observation:"]);
    assert_eq!((request.messages[0].role, request.messages[0].content.as_str()), (Role::System, "Be brief."));
    let user = &request.messages[1].content;
    let tool = "\n\nweather: Call this tool to interact with the weather API. What is the weather API useful for? The weather. Parameters: {\"type\": \"object\"}\n\n";
    assert!(user.contains("access to the following APIs:") && user.contains(tool), "{user}");
    assert!(user.ends_with("should be one of [weather]\nAction Input: the input to the action\nObservation: the result of the action\n... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\nThought: I now know the final answer\nFinal Answer: the final answer to the original input question\n\nBegin!\n\nQuestion: Oslo?"), "{user}");
    assert_eq!(request.messages.len(), 2);
}

#[test]
fn a_question_after_an_answer() {
    let list = messages(json!([
        {"role": "user", "content": "Oslo?"},
        {"role": "assistant", "content": null, "function_call": {"name": "weather", "arguments": "{}"}},
        {"role": "function", "content": "rain"},
        {"role": "assistant", "content": "It rains."},
        {"role": "user", "content": "And Rome?"},
    ]));
    let request_with = request(&list, &weather()).unwrap();
    let texts: Vec<&str> = request_with.messages.iter().map(|message| message.content.as_str()).collect();
    assert!(texts[1].ends_with("Question: Oslo?") && texts[1].starts_with("Answer the following"), "{texts:?}");
    assert_eq!(
        texts[2],
        "Thought: \nAction: weather\nAction Input: {}\nObservation: rain\nThought: I now know the final answer.\nFinal Answer: It rains."
    );
    assert_eq!((texts[0], texts[3], request_with.prefix.as_str()), ("You are a helpful assistant.", "And Rome?", ""));
    // Without functions nothing is added.
    let plain = request(&list[3..4], &[]).unwrap_err();
    assert!(plain.starts_with("`messages[0]`: an answer, expected a user message before it"), "{plain}");
    let plain = request(&[list[0].clone(), list[3].clone(), list[4].clone()], &[]).unwrap();
    assert_eq!(plain.messages[2].content, "It rains.");
    assert!(plain.stops.is_empty());
}

#[test]
fn bad_requests_are_refused() {
    for (list, expected) in [
        (json!([]), "no user message"),
        (json!([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]), "`messages[1]`: a second user"),
        (json!([{"role": "function", "content": "a"}]), "`messages[0]`: a function's result"),
        (
            json!([{"role": "user", "content": "a"}, {"role": "function", "content": "a"}]),
            "`messages[1]`: a function's",
        ),
        (json!([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]), "`messages[1]`: a system"),
        (json!([{"role": "tool", "content": "a"}]), "role `tool`"),
        (json!([{"role": "user", "content": ["a"]}]), "`content` is not a text"),
        (json!([{"role": "user", "content": "a", "function_call": {}}]), "expected it of the assistant"),
        (json!([{"role": "user", "content": "a"}, {"role": "assistant", "function_call": {"name": "x"}}]), "arguments"),
        (json!([{"role": "assistant", "tool_calls": []}]), "expected `function_call`"),
    ] {
        let what = request(&messages(list), &weather()).unwrap_err();
        assert!(what.contains(expected), "{what}");
    }
    let what = request(&messages(json!([{"role": "user", "content": "a"}])), &[json!({})]).unwrap_err();
    assert!(what.starts_with("`functions[0]: no `name_for_model`"), "{what}");
}

#[test]
fn texts_become_choices() {
    let written = |text: &str, ended| Written { text: text.to_owned(), ended };
    let call =
        choice(&written("Thought: I look.\nAction: weather\nAction Input: {\"a\": 1}\n", Ended::StopText), &weather());
    let message = json!({"role": "assistant", "content": "I look.", "function_call": {"name": "weather", "arguments": "{\"a\": 1}"}});
    assert_eq!(call, json!({"index": 0, "message": message, "finish_reason": "function_call"}));
    let answer = choice(&written("Thought: ok\nFinal Answer: rain", Ended::EndToken), &weather());
    assert_eq!((&answer["message"]["content"], &answer["finish_reason"]), (&json!("rain"), &json!("stop")));
    // The first call counts; a text that was cut off has none; without functions a text is a text.
    let two = "x\nAction: a\nAction Input: 1\nObservation: o\nThought: y\nAction: b\nAction Input: 2";
    let first = choice(&written(two, Ended::EndToken), &weather());
    assert_eq!(first["message"]["function_call"], json!({"name": "a", "arguments": "1"}));
    let cut = choice(&written(two, Ended::Length), &weather());
    assert_eq!((&cut["message"]["content"], &cut["finish_reason"]), (&json!(two), &json!("length")));
    assert_eq!(choice(&written(two, Ended::EndToken), &[])["message"]["content"], json!(two));
}
