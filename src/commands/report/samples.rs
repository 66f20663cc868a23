//! The samples of a run's last evaluation: each prompt with its responses side by side.

use align_run::plot::short;
use serde_json::{Map, Value, json};

use crate::commands::html::printable;

/// A prompt and its responses.
struct Sample {
    set: String,
    prompt: String,
    /// The title and text of each response.
    texts: Vec<[String; 2]>,
}

/// The samples of the last evaluation by set, held-out sets first, for the template.
pub(super) fn samples(lines: &[Map<String, Value>]) -> Vec<Value> {
    let step = |line: &Map<String, Value>| line.get("step").and_then(Value::as_u64).unwrap_or(0);
    let last = lines.iter().map(step).max();
    let mut samples: Vec<Sample> = Vec::new();
    for line in lines.iter().filter(|line| Some(step(line)) == last) {
        let text = |key: &str| line.get(key).and_then(Value::as_str).map(printable).unwrap_or_default();
        let (set, prompt, texts) = (text("set"), text("prompt"), texts(line));
        match samples.last_mut() {
            Some(before) if before.set == set && before.prompt == prompt => before.texts.extend(texts),
            _ => samples.push(Sample { set, prompt, texts }),
        }
    }
    samples.sort_by_key(|sample| sample.set == "train");
    let row = |sample: &Sample| json!({ "prompt": sample.prompt, "texts": sample.texts });
    let of_set = |samples: &[Sample]| {
        let rows: Vec<Value> = samples.iter().map(row).collect();
        json!({ "name": samples[0].set, "step": last, "rows": rows })
    };
    samples.chunk_by(|one, next| one.set == next.set).map(of_set).collect()
}

/// A response and the reference's, or several responses with a score each.
fn texts(line: &Map<String, Value>) -> Vec<[String; 2]> {
    let of = |value: Option<&Value>| value.and_then(Value::as_str).map(printable);
    let number = |what: &str, value: Option<&Value>| {
        value.and_then(Value::as_f64).map_or_else(String::new, |number| format!(", {what} {}", short(number)))
    };
    let mut texts = Vec::new();
    texts.extend(of(line.get("response")).map(|text| {
        let (score, kl) = (number("score", line.get("score")), number("KL", line.get("kl")));
        [format!("response{score}{kl}"), text]
    }));
    texts.extend(of(line.get("reference_response")).map(|text| {
        let score = number("score", line.get("reference_score"));
        [format!("reference{score}"), text]
    }));
    let several = line.get("responses").and_then(Value::as_array).into_iter().flatten().enumerate();
    texts.extend(several.filter_map(|(index, response)| {
        let score = number("score", line.get("scores").and_then(|scores| scores.get(index)));
        Some([format!("response {}{score}", index + 1), of(Some(response))?])
    }));
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[Value]) -> Vec<Map<String, Value>> {
        lines.iter().map(|line| line.as_object().unwrap().clone()).collect()
    }

    #[test]
    fn responses_to_one_prompt_are_grouped_and_only_the_last_evaluation_is_shown() {
        let train =
            |response: &str| json!({ "step": 4, "set": "train", "prompt": "p", "response": response, "score": 1.5 });
        let held = json!({
            "step": 4, "set": "held", "prompt": "p", "response": "a\u{7}", "score": 1.0, "kl": 2.0,
            "reference_response": "b", "reference_score": null,
        });
        let early = json!({ "step": 2, "set": "held", "prompt": "p", "response": "early" });
        let found = samples(&lines(&[early, train("one"), train("two"), held]));
        let expected = json!([
            { "name": "held", "step": 4, "rows": [
                { "prompt": "p", "texts": [["response, score 1, KL 2", "a"], ["reference", "b"]] },
            ] },
            { "name": "train", "step": 4, "rows": [
                { "prompt": "p", "texts": [["response, score 1.5", "one"], ["response, score 1.5", "two"]] },
            ] },
        ]);
        assert_eq!(json!(found), expected);
    }

    #[test]
    fn a_pair_has_a_score_each_and_damage_is_left_out() {
        let pair = json!({ "step": 1, "set": "a", "prompt": "p", "responses": ["x", 3, "y"], "scores": [0.5] });
        let found = samples(&lines(&[pair]));
        assert_eq!(found[0]["rows"][0]["texts"], json!([["response 1, score 0.5", "x"], ["response 3", "y"]]));
        assert_eq!(samples(&[]), Vec::<Value>::new());
    }
}
