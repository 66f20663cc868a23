//! Comparisons of models: by hand, on PandaLM's test set, and simulated.

mod pandalm;
mod simulated;

use super::*;
use crate::fixtures::{item, labels, ranked, scored};
use crate::item::Item;

fn options(baseline: &str) -> Options {
    Options {
        baseline: baseline.to_owned(),
        annotators: Annotators::People,
        counting: Counting::Each,
        order_effect: OrderEffect::None,
        draws: Draws { count: 200, seed: 0 },
    }
}

#[track_caller]
fn assert_near(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found}, expected {expected}");
}

/// Two items of three models, judged by three people and a program.
fn three_models() -> Labels {
    let models = ["base", "sft", "ppo"];
    let mut items = vec![item("a", &models, &["x", "yy", "zzz"]), item("b", &models, &["xxxx", "y", "zz"])];
    items[0].category = Some("math".to_owned());
    labels(
        items,
        vec![
            ranked("a", "ann", &[3, 2, 1]),
            ranked("a", "bob", &[2, 2, 1]),
            ranked("a", "cyd", &[1, 2, 2]),
            ranked("b", "ann", &[2, 1, 1]),
            ranked("b", "bob", &[1, 1, 2]),
            ranked("a", "judge:rm", &[3, 1, 2]),
        ],
    )
}

#[test]
fn wins_ties_and_losses_by_hand() {
    let found = compare(&three_models(), &options("base")).unwrap();
    let names: Vec<&str> = found.models.iter().map(|model| model.model.as_str()).collect();
    assert_eq!(names, ["ppo", "sft"]);
    // ppo: wins of ann and bob and a loss to cyd on a; a win of ann and a loss to bob on b.
    let ppo = found.models[0].outcome.unwrap();
    assert_eq!((ppo.items, ppo.verdicts, ppo.win, ppo.tie, ppo.loss), (2, 5, 0.6, 0.0, 0.4));
    assert_near(ppo.net_win, 0.2, 1e-12);
    // sft: win, tie, loss on a; win, tie on b.
    let sft = found.models[1].outcome.unwrap();
    assert_eq!((sft.win, sft.tie, sft.loss), (0.4, 0.4, 0.2));
    assert_eq!((found.judged_items, found.judgments, found.skipped), (2, 5, 0));
    // By category: a alone, and b without one.
    let categories = &found.models[0].categories;
    assert_eq!(categories.len(), 2);
    assert_eq!((categories[0].category.as_deref(), categories[0].outcome.verdicts), (None, 2));
    assert_eq!((categories[1].category.as_deref(), categories[1].outcome.verdicts), (Some("math"), 3));
    assert!(found.findings[0].starts_with("Only 2 items"), "{:?}", found.findings);
}

#[test]
fn a_majority_is_the_order_of_median_ranks() {
    let options = Options { counting: Counting::Majority, ..options("base") };
    let found = compare(&three_models(), &options).unwrap();
    // a: medians 2, 2, 1. b: medians 1.5, 1, 1.5.
    let of = |name: &str| found.models.iter().find(|model| model.model == name).unwrap().outcome.unwrap();
    let (ppo, sft) = (of("ppo"), of("sft"));
    assert_eq!((ppo.verdicts, ppo.win, ppo.tie, ppo.loss), (2, 0.5, 0.5, 0.0));
    assert_eq!((sft.verdicts, sft.win, sft.tie, sft.loss), (2, 0.5, 0.5, 0.0));
    assert_eq!((ppo.test, ppo.p), (Test::ExactSign, 1.0));
}

#[test]
fn people_and_programs_are_kept_apart() {
    let programs = Options { annotators: Annotators::Programs, ..options("base") };
    let found = compare(&three_models(), &programs).unwrap();
    assert_eq!((found.judgments, found.by_annotator.len()), (1, 1));
    assert_eq!(found.models[0].outcome.unwrap().win, 1.0);
    // On a, of three pairs: ann differs from the program on one (sft against ppo), bob on two, cyd on all
    // three. The program orders sft, ppo, base; ann ppo, sft, base; bob has base = sft; cyd has base first,
    // then a tie.
    let [people, program] = found.groups.as_slice() else { panic!("two groups") };
    assert_eq!((people.group.as_str(), program.group.as_str()), ("people", "judge:rm"));
    let all = program.all.unwrap();
    assert_eq!(all.count, 9);
    assert_near(all.value, 3.0 / 9.0, 1e-12);
    // Without ties: ann 2 of 3, bob 1 of 2, cyd 0 of 2.
    let untied = program.untied.unwrap();
    assert_eq!(untied.count, 7);
    assert_near(untied.value, 3.0 / 7.0, 1e-12);
    // People on a: ann-bob 2 of 3, ann-cyd 0, bob-cyd 0; on b ann has sft = ppo > base, bob base = sft > ppo.
    assert_near(people.all.unwrap().value, 2.0 / 12.0, 1e-12);
}

#[test]
fn named_annotators_count_alone_people_or_programs() {
    let named = |names: &[&str]| Options {
        annotators: Annotators::Named(names.iter().map(|&name| name.to_owned()).collect()),
        ..options("base")
    };
    let found = compare(&three_models(), &named(&["ann", "judge:rm"])).unwrap();
    let names: Vec<&str> = found.by_annotator.iter().map(|own| own.annotator.as_str()).collect();
    assert_eq!((found.judgments, names), (3, vec!["ann", "judge:rm"]));
    assert_eq!(found.tables()[0].title, "Against base, by ann, judge:rm");
    let unknown = compare(&three_models(), &named(&["dan"])).unwrap_err().to_string();
    assert!(unknown.contains("dan has no judgment, expected one of: ann, bob, cyd, judge:rm"), "{unknown}");
    assert!(!unknown.contains("no judgments of"), "{unknown}");
}

#[test]
fn a_judge_that_is_related_to_a_model_is_a_finding() {
    let mut labels = three_models();
    let record = serde_json::json!({
        "kind": "rm", "model": "reward", "identity": {},
        "not_independent": { "ppo": "ppo was trained against this reward model", "elsewhere": "x" },
    });
    labels.judges.insert("judge:rm".to_owned(), serde_json::from_value(record).unwrap());
    let finding = "judge:rm is not independent of ppo: ppo was trained against this reward model.";
    let findings = |annotators| compare(&labels, &Options { annotators, ..options("base") }).unwrap().findings;
    let related =
        |findings: Vec<String>| findings.into_iter().filter(|text| text.contains("independent")).collect::<Vec<_>>();
    assert_eq!(related(findings(Annotators::Programs)), [finding]);
    assert_eq!(related(findings(Annotators::People)), Vec::<String>::new());
}

#[test]
fn quality_of_annotators() {
    let mut items: Vec<Item> = ["a", "b", "c"].map(|id| item(id, &["m", "n"], &["one", "two"])).into();
    items[0].gold = Some(vec![1, 2]);
    items[1].gold = Some(vec![2, 1]);
    let mut judgments = vec![
        ranked("a", "ann", &[1, 2]),
        ranked("b", "ann", &[1, 2]),
        ranked("c", "ann", &[1, 1]),
        ranked("a", "bob", &[1, 2]),
        ranked("b", "bob", &[2, 1]),
    ];
    judgments[1].order = vec![1, 0];
    let again = |ranks: &[u32]| crate::judgment::Judgment { repeat: 1, ..ranked("a", "ann", ranks) };
    judgments.push(again(&[2, 1]));
    let mut skipped = ranked("c", "bob", &[1, 1]);
    (skipped.ranks, skipped.skipped) = (None, Some("unclear".to_owned()));
    judgments.push(skipped);
    let found = compare(&labels(items, judgments), &options("m")).unwrap();
    let [ann, bob] = found.by_annotator.as_slice() else { panic!("two annotators") };
    assert_eq!((ann.judgments, ann.skipped, bob.judgments, bob.skipped), (3, 0, 2, 1));
    assert_eq!((ann.gold.unwrap().value, bob.gold.unwrap().value), (0.5, 1.0));
    assert_eq!((ann.consistency.unwrap().value, bob.consistency), (0.0, None));
    assert_eq!((ann.agreement.unwrap().value, ann.agreement_of_others), (0.5, None));
    // ann preferred the response shown first on a, and the one shown second on b; so did bob.
    assert_eq!((ann.first_shown.unwrap().value, bob.first_shown.unwrap().value), (0.5, 0.5));
    assert_eq!(ann.median_seconds, Some(10.0));
    assert_eq!((found.judgments, found.skipped), (5, 1));
}

#[test]
fn scores_have_their_own_alpha() {
    let items = ["a", "b"].map(|id| item(id, &["m", "n"], &["one", "two"])).to_vec();
    let judgments = vec![
        scored("a", "ann", &[7.0, 1.0]),
        scored("a", "bob", &[6.0, 2.0]),
        scored("b", "ann", &[3.0, 3.0]),
        scored("b", "bob", &[4.0, 3.0]),
    ];
    let found = compare(&labels(items, judgments), &options("m")).unwrap();
    let agreement = found.agreement.unwrap();
    assert_eq!((agreement.scale, agreement.items), (Scale::Scores, 2));
    let units = [vec![7.0, 6.0], vec![1.0, 2.0], vec![3.0, 4.0], vec![3.0, 3.0]];
    let expected =
        align_statistics::agreement::krippendorff_alpha(&units, align_statistics::agreement::Metric::Ordinal);
    assert_eq!(agreement.alpha_ordinal.map(|alpha| alpha.value), expected);
    assert_eq!(agreement.pairwise.unwrap().value, 0.5);
}

#[test]
fn mistakes_are_named() {
    let text = |labels: &Labels, options: &Options| compare(labels, options).unwrap_err().to_string();
    let found = text(&three_models(), &options("gpt"));
    assert!(found.contains("gpt is not a model of the items, expected one of: base, ppo, sft"), "{found}");
    let mut only_people = three_models();
    only_people.read.judgments.pop();
    let programs = Options { annotators: Annotators::Programs, ..options("base") };
    assert!(text(&only_people, &programs).contains("no judgments of programs"), "{}", text(&only_people, &programs));
    let order = Options { order_effect: OrderEffect::FirstShown, counting: Counting::Majority, ..options("base") };
    assert!(text(&three_models(), &order).contains("--majority"));
}

#[test]
fn the_result_is_json_and_tables() {
    let found = compare(&three_models(), &options("base")).unwrap();
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json["models"][0]["outcome"]["win"], 0.6);
    let tables = found.tables();
    let titles: Vec<&str> = tables.iter().map(|table| table.title.as_str()).collect();
    assert_eq!(titles[0], "Against base, by people");
    assert!(tables.iter().all(|table| table.rows.iter().all(|row| row.len() == table.header.len())));
    assert_eq!(tables[0].rows[0][..4], ["ppo", "60.0 %", "0.0 %", "40.0 %"]);
}
