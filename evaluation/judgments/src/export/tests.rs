//! Exported rows, by hand and read back.

use align_data::{Comparison, parse_row};

use super::*;
use crate::fixtures::{item, labels, ranked, scored};
use crate::item::Prompt;

const PAIRS: Shape = Shape::Pairs(PairLimits { min_agree: 1, min_gap: 0.0 });

fn exported(labels: &Labels, shape: Shape, unit: ScoreUnit) -> Exported {
    export(labels, &ExportOptions { shape, unit, annotators: Annotators::People }).unwrap()
}

/// a: three people rank three responses. b: a tie. c: a flag leaves one response.
fn ranks() -> Labels {
    let models = ["m", "n", "o"];
    let items = ["a", "b", "c"].map(|id| item(id, &models, &["x", "y", "z"]));
    let mut judgments = vec![
        ranked("a", "ann", &[1, 2, 3]),
        ranked("a", "bob", &[1, 2, 2]),
        ranked("a", "cyd", &[2, 1, 2]),
        ranked("b", "ann", &[1, 1, 1]),
        ranked("c", "ann", &[1, 2, 3]),
        ranked("a", "judge:rm", &[3, 2, 1]),
    ];
    judgments[4].flags = vec![vec!["unsafe".to_owned()], vec![], vec!["spam".to_owned()]];
    labels(items.into(), judgments)
}

#[test]
fn lists_hold_the_scores_of_everyone() {
    let Exported { rows, counts } = exported(&ranks(), Shape::Lists, ScoreUnit::AsGiven);
    // K + 1 − rank: of x 3, 3, 2; of y 2, 2, 3; of z 1, 2, 2.
    let expected =
        json!({ "prompt": "prompt of a", "responses": ["x", "y", "z"], "scores": [[3, 3, 2], [2, 2, 3], [1, 2, 2]] });
    assert_eq!(rows, [expected]);
    assert_eq!((counts.rows, counts.ties, counts.flagged_responses, counts.too_few_responses), (1, 1, 2, 1));
    assert_eq!((counts.items, counts.judged_items, counts.annotators, counts.judgments), (3, 3, 3, 5));
    let (read, unread) = parse_row::<Comparison>(&rows[0]).unwrap();
    assert!(unread.is_empty());
    assert_eq!(read.scores.unwrap(), [8.0 / 3.0, 7.0 / 3.0, 5.0 / 3.0]);
}

#[test]
fn pairs_have_a_majority() {
    let Exported { rows, counts } = exported(&ranks(), PAIRS, ScoreUnit::AsGiven);
    // x over y: two to one. x over z: two to none. y over z: two to none. b has three ties.
    let pairs: Vec<(&str, &str)> =
        rows.iter().map(|row| (row["chosen"].as_str().unwrap(), row["rejected"].as_str().unwrap())).collect();
    assert_eq!(pairs, [("x", "y"), ("x", "z"), ("y", "z")]);
    assert_eq!((counts.ties, counts.disagreements), (3, 0));
    assert_eq!(rows[0]["scores"], json!([8.0 / 3.0, 7.0 / 3.0]));
    let (read, _) = parse_row::<Comparison>(&rows[0]).unwrap();
    assert_eq!(read.dialogues[0].messages.last().unwrap().content, "x");
    assert_eq!(read.dialogues[0].messages[0].content, "prompt of a");
}

#[test]
fn limits_leave_pairs_out() {
    let with = |min_agree, min_gap| {
        exported(&ranks(), Shape::Pairs(PairLimits { min_agree, min_gap }), ScoreUnit::AsGiven).counts
    };
    assert_eq!((with(3, 0.0).rows, with(3, 0.0).below_min_agree), (0, 3));
    // Gaps: 1/3, 1, 2/3.
    assert_eq!((with(1, 1.0).rows, with(1, 1.0).below_min_gap), (1, 2));
}

#[test]
fn a_mean_against_the_majority_is_a_disagreement() {
    let items = vec![item("a", &["m", "n"], &["x", "y"])];
    let judgments =
        vec![scored("a", "ann", &[4.0, 3.0]), scored("a", "bob", &[4.0, 3.0]), scored("a", "cyd", &[1.0, 7.0])];
    let Exported { rows, counts } = exported(&labels(items, judgments), PAIRS, ScoreUnit::AsGiven);
    assert_eq!((rows.len(), counts.disagreements), (0, 1));
}

#[test]
fn standardised_scores_undo_strictness() {
    let items = ["a", "b"].map(|id| item(id, &["m", "n"], &["x", "y"])).to_vec();
    let judgments = vec![
        scored("a", "strict", &[2.0, 1.0]),
        scored("a", "lenient", &[7.0, 5.0]),
        scored("b", "strict", &[1.0, 2.0]),
        scored("b", "lenient", &[5.0, 7.0]),
    ];
    let Exported { rows, .. } = exported(&labels(items, judgments), Shape::Lists, ScoreUnit::ZScore);
    // Mean 1.5 and deviation 0.5; mean 6 and deviation 1.
    assert_eq!(rows[0]["scores"], json!([[1, 1], [-1, -1]]));
}

#[test]
fn dialogues_and_identical_responses() {
    let mut one = item("a", &["m", "n", "o"], &["x", "y", "x"]);
    let turns = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Go."}]);
    one.prompt = Prompt::Turns(turns.as_array().unwrap().clone());
    let Exported { rows, .. } =
        exported(&labels(vec![one], vec![ranked("a", "ann", &[1, 2, 1])]), PAIRS, ScoreUnit::AsGiven);
    assert_eq!(rows.len(), 1);
    let (read, _) = parse_row::<Comparison>(&rows[0]).unwrap();
    assert_eq!(read.dialogues[1].messages.len(), 4);
    assert_eq!(read.dialogues[1].messages[3].content, "y");
}

/// `align rm` refuses empty answers.
#[test]
fn responses_without_text_are_dropped() {
    let items = vec![item("a", &["m", "n", "o"], &["x", " \n", "y"]), item("b", &["m", "n"], &["x", ""])];
    let judgments = vec![ranked("a", "ann", &[1, 3, 2]), ranked("b", "ann", &[1, 2])];
    let Exported { rows, counts } = exported(&labels(items, judgments), Shape::Lists, ScoreUnit::AsGiven);
    assert_eq!(rows[0]["responses"], json!(["x", "y"]));
    assert_eq!((rows.len(), counts.empty_responses, counts.too_few_responses), (1, 2, 1));
}

#[test]
fn nothing_to_export_is_a_mistake() {
    let only = labels(vec![item("a", &["m", "n"], &["x", "y"])], vec![ranked("a", "judge:rm", &[1, 2])]);
    let options = ExportOptions { shape: PAIRS, unit: ScoreUnit::AsGiven, annotators: Annotators::People };
    assert_eq!(export(&only, &options).unwrap_err().exit_code(), 2);
}
