//! Results that Python packages and the published functions give.

use align_tools::agent::{Ended, Written};
use align_tools::arguments::Json5;
use align_tools::functions::choice;
use align_tools::interpreter::code_of;
use align_tools::numbers::last_number;
use align_tools::react::last_call;
use align_tools::rouge_l;
use align_tools::selection::Fields;
use serde_json::{Value, json};

fn cases(file: &str, name: &str) -> Vec<Value> {
    crate::json(&format!("tests/golden/evaluation/{file}"))[name].as_array().unwrap().clone()
}

#[test]
fn json5_is_read_and_written_as_python_does() {
    let cases = cases("tools_python.json", "json5");
    assert_eq!(cases.len(), 63);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let written = Json5::parse(text).ok().map(|value| value.sorted());
        assert_eq!(written.as_deref(), case["written"].as_str(), "{text:?}");
    }
}

#[test]
fn rouge_l_is_that_of_rouge_score() {
    let cases = cases("tools_python.json", "rouge_l");
    assert_eq!(cases.len(), 24);
    for case in cases {
        let words = |key: &str| -> Vec<String> { serde_json::from_value(case[key].clone()).unwrap() };
        let (reference, response) = (words("reference"), words("response"));
        let slices = [&reference, &response].map(|words| words.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(rouge_l(&slices[0], &slices[1]), case["fmeasure"].as_f64().unwrap(), "{case}");
    }
}

#[test]
fn calls_are_found_as_published() {
    let cases = cases("tools_published.json", "react");
    assert_eq!(cases.len(), 171);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let published: Vec<&str> =
            case["latest_call"].as_array().unwrap().iter().map(|x| x.as_str().unwrap()).collect();
        match last_call(text) {
            Some(call) => assert_eq!([&call.name, &call.input, &call.text], published[..], "{text:?}"),
            // Without a name there is no call, whatever else was found.
            None => assert_eq!(published[0], "", "{text:?}"),
        }
        // The fields that scores are made of; whether a response has a call is seen by `\nAction: `.
        assert_eq!(text.contains("\nAction: "), case["invokes"].as_bool().unwrap(), "{text:?}");
        let (fields, expected) = (Fields::of(text), &case["plugin_eval"]);
        assert_eq!(fields.action, expected["action"].as_str().unwrap(), "{text:?}");
        assert_eq!(fields.input.unwrap_or_default(), expected["action_input"].as_str().unwrap(), "{text:?}");
    }
}

#[test]
fn responses_to_functions_are_read_as_published() {
    let mut left_out = 0;
    for case in cases("tools_published.json", "react") {
        let text = case["text"].as_str().unwrap();
        // Left out: with a result before the call the published function loses the arguments, and with an
        // empty name it appends `Observation:` to the content.
        let (action, input, result) =
            (text.find("\nAction:"), text.find("\nAction Input:"), text.find("\nObservation:"));
        if let (Some(action), Some(input)) = (action, input)
            && action < input
            && (text[action + 8..input].trim().is_empty() || result.is_some_and(|result| result < input))
        {
            left_out += 1;
            continue;
        }
        let written = Written { text: text.to_owned(), ended: Ended::EndToken };
        let (message, expected) = (&choice(&written, &[json!({})])["message"], &case["response"]);
        assert_eq!(message["content"], expected["content"], "{text:?}");
        assert_eq!(message["function_call"]["name"], expected["name"], "{text:?}");
        assert_eq!(message["function_call"]["arguments"], expected["arguments"], "{text:?}");
    }
    assert_eq!(left_out, 8);
}

#[test]
fn code_is_taken_from_inputs_as_published() {
    let cases = cases("tools_published.json", "code_input");
    assert_eq!(cases.len(), 67);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        assert_eq!(code_of(text), case["code"].as_str().unwrap(), "{text:?}");
    }
}

#[test]
fn numbers_are_found_as_published() {
    let cases = cases("tools_published.json", "numbers");
    assert_eq!(cases.len(), 228);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        assert_eq!(last_number(text), case["number"].as_f64(), "{text:?}");
    }
}
