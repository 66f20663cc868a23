//! No rule without knowledge of the answer may earn as much as a tiny SFT model (at least 67 points, over
//! five seeds): constant responses, rules on keywords and rules on lengths all stay far below.

use std::collections::{BTreeMap, BTreeSet};

use align_datasets::world::Question;
use align_datasets::{Sets, generate, gold_of};

const CEILING: f64 = 30.0;

type Prompts = Vec<(String, Question)>;

fn mean_gold(prompts: &Prompts, respond: impl Fn(&str) -> String) -> f64 {
    let total: f64 = prompts.iter().map(|(prompt, question)| gold_of(question, &respond(prompt), true).total()).sum();
    total / prompts.len() as f64
}

fn heldout(sets: &Sets) -> Prompts {
    sets.heldout_prompts.iter().map(|row| (row.prompt.clone(), Question::parse(&row.prompt).unwrap())).collect()
}

/// The answers in the data, most frequent first: the candidates for constant responses.
fn frequent_answers(sets: &Sets) -> Vec<String> {
    let mut counts = BTreeMap::<&str, usize>::new();
    for row in &sets.rm {
        *counts.entry(&row.chosen).or_default() += 1;
    }
    for row in &sets.sft {
        *counts.entry(&row.messages[1].content).or_default() += 1;
    }
    let mut answers: Vec<(usize, &str)> = counts.into_iter().map(|(answer, count)| (count, answer)).collect();
    answers.sort_by_key(|&(count, answer)| (std::cmp::Reverse(count), answer));
    answers.into_iter().map(|(_, answer)| answer.to_owned()).collect()
}

#[test]
fn constant_responses() {
    let sets = generate(1);
    let prompts = heldout(&sets);
    let by_hand = [
        "",
        ".",
        "Yes.",
        "Certainly.",
        "Paris.",
        "I do not know.",
        "Certainly, Anna Reed, I am glad to help.",
        "好的。",
    ];
    let constants = by_hand.map(str::to_owned).into_iter().chain(frequent_answers(&sets).into_iter().take(400));
    let (best, response) = constants
        .map(|response| (mean_gold(&prompts, |_| response.clone()), response))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .unwrap();
    assert!(best < CEILING, "`{response}` earns {best}");
}

/// Every word of the prompts is tried as the keyword of a rule "if it occurs, this response, else that one",
/// with the best constants for either case.
#[test]
fn keyword_rules() {
    let sets = generate(1);
    let prompts = heldout(&sets);
    let constants: Vec<String> = frequent_answers(&sets).into_iter().take(200).collect();
    let words: BTreeSet<&str> =
        prompts.iter().flat_map(|(prompt, _)| prompt.split([' ', '.', '?', '。', '？'])).collect();
    let scores: Vec<Vec<f64>> = constants
        .iter()
        .map(|response| prompts.iter().map(|(_, question)| gold_of(question, response, true).total()).collect())
        .collect();
    for word in words.into_iter().filter(|word| !word.is_empty()) {
        let (with, without): (Vec<usize>, Vec<usize>) =
            (0..prompts.len()).partition(|&at| prompts[at].0.contains(word));
        let best = |rows: &[usize]| {
            scores.iter().map(|scores| rows.iter().map(|&at| scores[at]).sum::<f64>()).fold(0.0, f64::max)
        };
        let mean = (best(&with) + best(&without)) / prompts.len() as f64;
        assert!(mean < CEILING, "the keyword `{word}` earns {mean}");
    }
}

/// Responses made of words of the prompt, without their meaning.
#[test]
fn copying_rules() {
    let prompts = heldout(&generate(1));
    let words = |prompt: &str| {
        prompt.split([' ', '.', '?']).map(str::to_owned).filter(|word| !word.is_empty()).collect::<Vec<_>>()
    };
    type Rule = fn(Vec<String>) -> String;
    let rules: [(&str, Rule); 6] = [
        ("echo", |words| words.join(" ") + "."),
        ("last word", |words| format!("{}.", words.last().unwrap())),
        ("longest word", |words| format!("{}.", words.iter().max_by_key(|word| word.len()).unwrap())),
        ("last three words", |words| format!("{}.", words[words.len().saturating_sub(3)..].join(" "))),
        ("courtesy and the last word", |words| {
            let first = words.iter().position(|word| word == "am" || word == "is").map_or(0, |at| at + 1);
            let name = words[first..].iter().take(2).cloned().collect::<Vec<_>>().join(" ");
            format!("Certainly, {name}, {}.", words.last().unwrap())
        }),
        ("backwards", |words| words.into_iter().rev().collect::<Vec<_>>().join(" ") + "."),
    ];
    for (name, rule) in rules {
        let mean = mean_gold(&prompts, |prompt| rule(words(prompt)));
        assert!(mean < CEILING, "{name} earns {mean}");
    }
    let itself = mean_gold(&prompts, |prompt| prompt.to_owned());
    assert!(itself < CEILING, "the prompt itself earns {itself}");
}

#[test]
fn length_rules() {
    let sets = generate(1);
    let prompts = heldout(&sets);
    let phrase =
        "Certainly, Anna Reed, the capital of France is Paris, snow is white, a horse has four legs, 3 plus 4 is 7, ";
    for length in 0..=128 {
        let of_length = |text: &str| text.chars().cycle().take(length).collect::<String>() + ".";
        for (name, mean) in [
            ("a phrase", mean_gold(&prompts, |_| of_length(phrase))),
            ("the prompt", mean_gold(&prompts, of_length)),
            ("one word a letter", mean_gold(&prompts, |prompt| "yes ".repeat(prompt.len() * length / 64) + ".")),
        ] {
            assert!(mean < CEILING, "{name} at length {length} earns {mean}");
        }
    }
}
