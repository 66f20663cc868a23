//! PandaLM's test set: 999 pairs judged by three people. The expected values are those of krippendorff,
//! statsmodels, scipy and FastChat.

use std::path::Path;

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct PandaLm {
    models: Vec<String>,
    rows: Vec<(usize, usize, u8, u8, u8)>,
}

fn read() -> PandaLm {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/evaluation/pandalm.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn as_labels(set: &PandaLm) -> Labels {
    let (mut items, mut judgments) = (Vec::new(), Vec::new());
    for (index, &(one, other, a, b, c)) in set.rows.iter().enumerate() {
        let id = format!("{index}");
        items.push(item(&id, &[&set.models[one], &set.models[other]], &["first", "second"]));
        for (annotator, label) in [("1", a), ("2", b), ("3", c)] {
            judgments.push(ranked(&id, annotator, &[[1, 1], [1, 2], [2, 1]][usize::from(label)]));
        }
    }
    labels(items, judgments)
}

#[test]
fn compares_as_other_programs_do() {
    let set = read();
    let quick = Options { draws: Draws { count: 20, seed: 0 }, ..options("llama-7b") };
    let found = compare(&as_labels(&set), &quick).unwrap();
    let agreement = found.agreement.as_ref().unwrap();
    let value = |measure: Option<Measure>| measure.unwrap().value;
    assert_near(value(agreement.alpha_nominal), 0.864221, 5e-7);
    assert_near(value(agreement.alpha_ordinal), 0.877464, 5e-7);
    assert_near(value(agreement.fleiss_kappa), 0.864175, 5e-7);
    assert_near(value(agreement.pairwise), 0.919920, 5e-7);
    assert_eq!((agreement.items, agreement.scale), (999, Scale::Ranks));

    let ratings = found.ratings.as_ref().unwrap();
    let expected = [
        ("llama-7b", 0.78948),
        ("pythia-6.9b", 0.09771),
        ("bloom-7b", -0.01469),
        ("opt-7b", -0.24306),
        ("cerebras-gpt-6.7B", -0.62944),
    ];
    for (rating, (model, theta)) in ratings.models.iter().zip(expected) {
        assert_eq!(rating.model, model);
        assert_near(rating.theta, theta, 1e-5);
        let elo = 1000.0 + 400.0 / std::f64::consts::LN_10 * (theta - expected[0].1);
        assert_near(rating.elo.unwrap(), elo, 5e-3);
    }
    assert_near(ratings.ln_nu.unwrap(), -1.34408, 1e-5);
    assert_near(ratings.negative_log_likelihood, 2714.5372, 5e-5);

    // Counts against the baseline, from the rows.
    for model in &found.models {
        let index = |name: &str| set.models.iter().position(|other| other == name).unwrap();
        let (own, baseline) = (index(&model.model), index("llama-7b"));
        let mut counts = [0usize; 3]; // ties, wins, losses
        for &(one, other, a, b, c) in &set.rows {
            for label in [a, b, c] {
                match (one == own && other == baseline, other == own && one == baseline) {
                    (true, _) => counts[usize::from(label)] += 1,
                    (_, true) => counts[[0, 2, 1][usize::from(label)]] += 1,
                    _ => {}
                }
            }
        }
        let outcome = model.outcome.unwrap();
        let all = counts.iter().sum::<usize>();
        assert_eq!(outcome.verdicts, all);
        assert_near(outcome.tie, counts[0] as f64 / all as f64, 1e-12);
        assert_near(outcome.win, counts[1] as f64 / all as f64, 1e-12);
        assert_near(outcome.net_win, (counts[1] as f64 - counts[2] as f64) / all as f64, 1e-12);
    }
}
