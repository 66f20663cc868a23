//! Texts that a model may write, at random: nothing panics, and every turn ends.

use align_tools::agent::{Ended, Limits, Written};
use align_tools::arguments::Json5;
use align_tools::functions::choice;
use align_tools::interpreter::code_of;
use align_tools::numbers::{last_number, plain_number};
use align_tools::react::{final_answer, last_call};
use align_tools::selection::score;
use proptest::prelude::*;
use serde_json::json;

use crate::scripted::{Scripted, answering, turn};

const PARTS: [&str; 22] = [
    "\nAction:",
    "\nAction Input:",
    "\nObservation:",
    "\nThought:",
    "\nFinal Answer:",
    "Action: find",
    "Action Input: {}",
    "Observation:",
    "Final Answer: 1",
    "<|im_end|>",
    "<|im_start|>user\n",
    "```",
    "`",
    "{",
    "}",
    "[",
    "\"",
    "'",
    "\r\n",
    "é🎉",
    " ",
    "1,234.5",
];

fn texts() -> impl Strategy<Value = String> {
    let parts = prop::collection::vec(
        prop_oneof![4 => prop::sample::select(&PARTS[..]).prop_map(str::to_owned), 1 => ".{0,3}"],
        0..12,
    );
    parts.prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read(text in texts(), golden in texts()) {
        if let Some(call) = last_call(&text) {
            prop_assert!(!call.name.is_empty() && text.starts_with(&call.text));
        }
        let scored = score(&golden, &text, &|text| text.chars().map(String::from).collect());
        prop_assert!((0.0..=1.0).contains(&scored.input_rouge_l));
        prop_assert!(scored.calls || !scored.is_selected);
        // What is written is read again as the same value.
        if let Ok(value) = Json5::parse(&text) {
            let again = Json5::parse(&value.sorted()).map(|value| value.sorted());
            prop_assert_eq!(again, Ok(value.sorted()));
        }
        let (_, _, _, _) = (code_of(&text), final_answer(&text), last_number(&text), plain_number(&text));
        choice(&Written { text, ended: Ended::StopText }, &[json!({})]);
    }

    #[test]
    fn any_turn_ends_within_its_limits(written in texts(), result in texts()) {
        // The test's model holds texts of static lifetime; these few are leaked.
        let (written, result): (&'static str, &'static str) = (written.leak(), result.leak());
        let limits = Limits { max_calls: 4, ..Limits::default() };
        let turn = turn(&mut Scripted::new(&[written]), &mut answering(result), &limits);
        prop_assert!(turn.steps.len() <= 4);
        // The answer is from what the model wrote.
        prop_assert!(turn.answer.is_none_or(|answer| written.contains(&answer)));
    }
}
