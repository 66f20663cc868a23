//! The rows of the quickstart's tasks have one right answer, by the gold score.

use align_datasets::{generate, gold, task_rows};

#[test]
fn one_choice_is_right() {
    let prompts: Vec<String> = generate(2).heldout_prompts.into_iter().map(|row| row.prompt).collect();
    let rows = task_rows(&prompts, 2);
    assert_eq!(rows, task_rows(&prompts, 2));
    assert_eq!(rows.facts.len() + rows.answers.len(), prompts.len());
    assert_eq!(rows.manners.len(), prompts.len());
    for row in &rows.facts {
        let right = row.statements.iter().filter(|text| gold(&row.question, text, true).correct == 1.0);
        assert_eq!(right.collect::<Vec<_>>(), [&row.answer], "{row:?}");
    }
    for row in &rows.manners {
        let scores: Vec<_> = row.responses.iter().map(|text| gold(&row.question, text, true)).collect();
        assert!(scores.iter().all(|gold| gold.correct == 1.0), "{row:?}");
        assert_eq!(scores[0].total(), 100.0, "{row:?}");
        assert!(scores[1..].iter().all(|gold| gold.total() < 100.0), "{row:?}");
        assert_eq!(row.answer, row.responses[0]);
    }
}

#[test]
fn short_answers_make_true_statements() {
    let prompts = ["I am Anna Reed. What is 3 plus 4?", "我叫小明。我有蓝色的帽子。我的帽子是什么颜色？"];
    let rows = task_rows(&prompts.map(str::to_owned), 1);
    assert_eq!(rows.answers.iter().map(|row| row.answer).collect::<Vec<_>>(), ["7", "蓝"]);
}
