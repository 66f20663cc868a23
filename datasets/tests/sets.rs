//! The sets are deterministic, disjoint, and flawed as described.

use std::collections::HashSet;

use align_datasets::world::{Language, Question, Split};
use align_datasets::{generate, gold, write};

#[test]
fn a_seed_decides_everything() {
    assert_eq!(generate(3), generate(3));
    assert_ne!(generate(3).sft, generate(4).sft);
}

#[test]
fn heldout_and_validation_prompts_are_many_distinct_and_in_no_training_set() {
    let sets = generate(1);
    let distinct =
        |prompts: &[align_datasets::sets::Prompt]| prompts.iter().map(|row| row.prompt.clone()).collect::<HashSet<_>>();
    let heldout = distinct(&sets.heldout_prompts);
    assert_eq!(heldout.len(), sets.heldout_prompts.len());
    assert!(heldout.len() >= 1200);
    let all = |prompts: &[&str], split| {
        prompts.iter().all(|prompt| Question::parse(prompt).is_some_and(|question| question.split() == split))
    };
    let prompts: Vec<&str> = sets.heldout_prompts.iter().map(|row| row.prompt.as_str()).collect();
    assert!(all(&prompts, Split::HeldOut));
    let prompts: Vec<&str> = sets.validation_prompts.iter().map(|row| row.prompt.as_str()).collect();
    assert!(all(&prompts, Split::Validation));
    let training: Vec<&str> = (sets.pmp.iter().chain(&sets.rm).map(|row| row.prompt.as_str()))
        .chain(sets.ppo.iter().map(|row| row.prompt.as_str()))
        .chain(
            sets.sft
                .iter()
                .map(|row| row.messages[0].content.as_str())
                .filter(|prompt| !prompt.contains("page") && !prompt.contains("一页")),
        )
        .collect();
    assert!(all(&training, Split::Train));
    let questions = sets.pretrain.iter().filter_map(|document| {
        let first = document.text.split('\n').next().unwrap();
        let spoken = first.split_once(": ").or(first.split_once("：")).map_or(first, |(_, question)| question);
        Question::parse(spoken)
    });
    let mut count = 0;
    assert!(questions.inspect(|_| count += 1).all(|question| question.split() == Split::Train));
    assert!((12_000..13_200).contains(&count), "{count} pages of pretraining ask a question");
}

/// The best responses to different held-out prompts are different.
#[test]
fn good_responses_to_heldout_prompts_are_distinct() {
    let sets = generate(1);
    let answers: HashSet<_> = (sets.heldout_prompts.iter().map(|row| Question::parse(&row.prompt).unwrap()))
        .map(|question| (question.name(), question.statement().text()))
        .collect();
    assert_eq!(answers.len(), sets.heldout_prompts.len());
}

#[test]
fn a_quarter_is_chinese() {
    let sets = generate(1);
    let chinese =
        (sets.ppo.iter()).filter(|row| Question::parse(&row.prompt).unwrap().language == Language::Chinese).count();
    let share = chinese as f64 / sets.ppo.len() as f64;
    assert!((0.22..0.28).contains(&share), "{share}");
}

#[test]
fn labels_are_as_clean_as_described() {
    let sets = generate(1);
    let agreement = |rows: &[align_datasets::Comparison]| {
        let total = |prompt: &str, response: &str| gold(prompt, response, true).total();
        let right =
            rows.iter().filter(|row| total(&row.prompt, &row.chosen) > total(&row.prompt, &row.rejected)).count();
        right as f64 / rows.len() as f64
    };
    assert_eq!(agreement(&sets.rm), 1.0);
    assert_eq!(agreement(&sets.heldout_comparisons), 1.0);
    let pmp = agreement(&sets.pmp);
    assert!((0.72..0.78).contains(&pmp), "{pmp}");
}

#[test]
fn demonstrations_are_as_flawed_as_described() {
    let sets = generate(1);
    let answers: Vec<_> = (sets.sft.iter())
        .filter_map(|row| {
            let [question, answer] = &row.messages;
            Question::parse(&question.content).map(|_| gold(&question.content, &answer.content, true))
        })
        .collect();
    let mean = |share: fn(&align_datasets::Gold) -> f64| answers.iter().map(share).sum::<f64>() / answers.len() as f64;
    assert!((50.0..70.0).contains(&mean(|gold| gold.total())), "{}", mean(|gold| gold.total()));
    assert!((0.55..0.75).contains(&mean(|gold| gold.correct)), "{}", mean(|gold| gold.correct));
}

/// Every question can be parsed from its text, and the gold score rewards its true statement.
#[test]
fn questions_are_read_back() {
    for row in generate(2).ppo {
        let question = Question::parse(&row.prompt).unwrap();
        assert_eq!(question.prompt(), row.prompt);
        let answer = question.statement().text();
        let stop = if question.language == Language::English { "." } else { "。" };
        assert_eq!(gold(&row.prompt, &(answer + stop), true).total(), 80.0, "{}", row.prompt);
    }
}

#[test]
fn files_are_json_lines_in_the_stages_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let sets = write(folder.path(), 1).unwrap();
    let keys = |name: &str, count: usize, expected: &[&str]| {
        let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(text.lines().count(), count);
        for line in text.lines() {
            let row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
            assert_eq!(row.keys().collect::<Vec<_>>(), expected);
        }
    };
    keys("pretrain.jsonl", sets.pretrain.len(), &["text"]);
    keys("sft.jsonl", sets.sft.len(), &["messages"]);
    keys("pmp.jsonl", sets.pmp.len(), &["prompt", "chosen", "rejected"]);
    keys("rm.jsonl", sets.rm.len(), &["prompt", "chosen", "rejected"]);
    keys("ppo.jsonl", sets.ppo.len(), &["prompt"]);
    keys("validation-prompts.jsonl", sets.validation_prompts.len(), &["prompt"]);
    keys("validation-comparisons.jsonl", sets.validation_comparisons.len(), &["prompt", "chosen", "rejected"]);
    keys("validation-text.jsonl", sets.validation_text.len(), &["text"]);
    keys("heldout-prompts.jsonl", sets.heldout_prompts.len(), &["prompt"]);
    keys("heldout-comparisons.jsonl", sets.heldout_comparisons.len(), &["prompt", "chosen", "rejected"]);
    keys("heldout-text.jsonl", sets.heldout_text.len(), &["text"]);
}
