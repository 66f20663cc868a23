//! Each pathology, planted alone in numbers made by hand, is named with its step; what is just within the
//! limits is not.

use super::*;

/// A line every ten steps with the given columns.
fn log(columns: &[(&str, &[f64])]) -> Vec<(u64, Metrics)> {
    let lines = columns.iter().map(|(_, values)| values.len()).max().unwrap_or(0);
    let line = |index: usize| columns.iter().filter_map(move |(name, values)| Some((*name, *values.get(index)?)));
    (0..lines).map(|index| (10 * (index as u64 + 1), line(index).collect())).collect()
}

/// The one finding, in which all `parts` occur.
#[track_caller]
fn assert_finds(columns: &[(&str, &[f64])], parts: &[&str]) {
    let found = findings(&log(columns), None);
    assert_eq!(found.len(), 1, "{found:?}");
    parts.iter().for_each(|part| assert!(found[0].contains(part), "`{part}` is not in `{}`", found[0]));
}

#[track_caller]
fn assert_finds_nothing(columns: &[(&str, &[f64])]) {
    assert_eq!(findings(&log(columns), None), Vec::<String>::new());
}

/// With 200 responses and a spread of 1, the noise of a difference of two means is 2 · √(2 / 200) = 0.2.
const SECOND: [(&str, &[f64]); 2] = [("eval/held/second_score_std", &[1.0; 4]), ("eval/held/responses", &[200.0; 4])];

#[test]
fn a_second_reward_model_that_falls_while_the_first_rises() {
    let score: (&str, &[f64]) = ("eval/held/score_mean", &[1.0, 2.0, 3.0, 4.0]);
    let second = |values: &'static [f64]| [&[score, ("eval/held/second_score_mean", values)], &SECOND[..]].concat();
    assert_finds(
        &second(&[0.5, 1.0, 0.75, 0.7]),
        &[
            "over-optimisation: on held",
            "from 2.000 to 4.000",
            "its best, 1.000 at step 20, to 0.700",
            "0.200",
            "since step 30",
        ],
    );
    assert_finds_nothing(&second(&[0.5, 1.0, 0.7, 0.85])); // back within the noise
    assert_finds_nothing(&second(&[0.5, 0.8, 0.9, 1.0]));
    assert_finds_nothing(&second(&[f64::NAN, f64::NAN, f64::NAN, f64::NAN]));

    let falling: (&str, &[f64]) = ("eval/held/score_mean", &[4.0, 3.0, 2.0, 1.0]);
    let columns = [&[falling, ("eval/held/second_score_mean", &[1.0, 0.7, 0.4, 0.1])], &SECOND[..]].concat();
    assert_finds_nothing(&columns); // both fall: bad, but no reward model is fooled
}

#[test]
fn the_reference_is_where_the_second_score_starts() {
    let columns = [
        &[
            ("eval/held/score_mean", &[2.0][..]),
            ("eval/held/second_score_mean", &[0.1]),
            ("eval/held/reference_score_mean", &[1.0]),
            ("eval/held/reference_second_score_mean", &[0.6]),
        ],
        &SECOND[..],
    ]
    .concat();
    let found = findings(&log(&columns)[..1], None);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("0.600 at step 0, to 0.100") && found[0].ends_with("since step 10"), "{found:?}");
}

#[test]
fn a_score_that_was_there_long_before_the_kl() {
    const START: (&str, &[f64]) = ("eval/held/reference_score_mean", &[0.0; 4]);
    let columns =
        |score: &'static [f64], kl: &'static [f64]| [START, ("eval/held/score_mean", score), ("eval/held/kl_ref", kl)];
    // Four fifths of the rise to 5.5 are 4.4; 2 nats were enough for 5.
    assert_finds(
        &columns(&[3.0, 5.0, 5.2, 5.5], &[1.0, 2.0, 5.0, 7.1]),
        &["over-optimisation: on held", "at step 20, 5.000 at 2.0 nats", "to 5.500 has cost 7.1 nats", "since step 40"],
    );
    assert_finds_nothing(&columns(&[3.0, 5.0, 5.2, 5.5], &[1.0, 2.0, 5.0, 6.9])); // less than five nats more
    assert_finds_nothing(&columns(&[3.0, 5.0, 5.2, 5.5], &[1.0, 7.0, 9.0, 13.9])); // less than twice as many
    assert_finds_nothing(&columns(&[1.0, 2.0, 3.0, 5.5], &[1.0, 4.0, 9.0, 16.0])); // it still rises
    assert_finds_nothing(&columns(&[-1.0, -2.0, -1.0, -2.0], &[1.0, 4.0, 9.0, 16.0])); // it never rose
}

#[test]
fn the_kl_speaks_for_itself() {
    let columns = |kl: &'static [f64]| [("eval/a/score_mean", &[1.0; 3][..]), ("eval/a/kl_ref", kl)];
    assert_finds(
        &columns(&[5.0, 21.0, 30.0]),
        &["over-optimisation: on a", "30.0 nats", "more than 20", "since step 20; no second"],
    );
    assert_finds_nothing(&columns(&[5.0, 25.0, 19.0]));
    assert_eq!(findings(&log(&columns(&[5.0, 25.0, 19.0])), Some(6.0)).len(), 1, "a limit of the run's own");
    // A second reward model that is content may be fooled as well.
    let content = [&columns(&[50.0; 3])[..], &[("eval/a/second_score_mean", &[1.0, 2.0, 3.0])]].concat();
    let spread = [("eval/a/second_score_std", &[1.0; 3][..]), ("eval/a/responses", &[200.0; 3])];
    assert_finds(
        &[&content[..], &spread].concat(),
        &["50.0 nats", "since step 10; the second reward model's score has not fallen"],
    );
}

#[test]
fn responses_that_grow() {
    let columns = |tokens: &'static [f64], correlation: &'static [f64]| {
        [
            ("eval/a/score_mean", &[1.0; 3][..]),
            ("eval/a/tokens", tokens),
            ("eval/a/score_length_correlation", correlation),
        ]
    };
    let even = &[0.0; 3];
    assert_finds(
        &columns(&[10.0, 16.0, 18.0], even),
        &["length hacking: on a", "80 %", "10.0 to 18.0", "since step 20"],
    );
    assert_finds_nothing(&columns(&[10.0, 16.0, 15.0], even));
    assert_finds(
        &columns(&[10.0, 11.5, 12.0], &[0.2, 0.55, 0.6]),
        &["length hacking: on a", "0.60, 0.20 at first", "10.0 to 12.0", "since step 20"],
    );
    assert_finds_nothing(&columns(&[10.0, 10.5, 10.9], &[0.2, 0.55, 0.6])); // the length stays
    assert_finds_nothing(&columns(&[10.0, 11.5, 12.0], &[0.7, 0.65, 0.6])); // the correlation does not grow
    // Against the reference, where its length is known.
    let reference = [&columns(&[17.0; 3], even)[..], &[("eval/a/reference_tokens", &[10.0; 3])]].concat();
    assert_finds(&reference, &["10.0 to 17.0", "since step 10"]);
}

#[test]
fn what_single_numbers_of_held_out_responses_say() {
    let with = |name: &'static str, values: &'static [f64]| [("eval/a/score_mean", &[1.0; 3][..]), (name, values)];
    assert_finds(&with("eval/a/distinct", &[0.9, 0.4, 0.25]), &["collapse: on a only 25 %", "since step 20"]);
    assert_finds_nothing(&with("eval/a/distinct", &[0.2, 0.4, 0.5]));
    assert_finds(
        &with("eval/a/repetition", &[0.1, 0.2, 0.4]),
        &["repetition: on a 40 %", "above 30 %", "since step 30"],
    );
    assert_finds_nothing(&with("eval/a/repetition", &[0.3; 3]));
    assert_finds(&with("eval/a/ended", &[0.4, 0.3, 0.1]), &["no end: on a only 10 %", "since step 10"]);
    assert_finds_nothing(&with("eval/a/ended", &[0.0, 0.3, 0.5]));
}

#[test]
fn training_steps_are_averaged_over_five() {
    // Means of up to five: 1, 0.52, 0.36, 0.28, 0.232, 0.04 (below a tenth), 0.04.
    let entropy: &[f64] = &[1.0, 0.04, 0.04, 0.04, 0.04, 0.04, 0.04];
    assert_finds(
        &[("policy/entropy", entropy)],
        &["collapse: the policy's entropy is 0.0400", "4 % of", "since step 60"],
    );
    assert_finds_nothing(&[("policy/entropy", &entropy[..5])]);
    assert_finds(&[("response/identical", &[0.2, 0.9, 0.9])], &["collapse: all responses", "67 %", "since step 20"]);
    assert_finds_nothing(&[("response/identical", &[0.2, 0.2, 0.2, 0.2, 0.9])]);
}

#[test]
fn the_value_warmup_does_not_count() {
    let phase: (&str, &[f64]) = ("phase", &[0.0, 0.0, 1.0, 1.0, 1.0]);
    let with = |name: &'static str, values: &'static [f64]| [phase, (name, values)];
    let explained = "value/explained_variance";
    assert_finds_nothing(&with(explained, &[-9.0, -9.0, 0.1, 0.1, 0.1]));
    assert_finds_nothing(&with(explained, &[-9.0, -9.0, 0.4, 0.4, -0.2])); // their mean is above 0
    assert_finds(&with(explained, &[0.5, 0.5, -0.1, -0.3, -0.2]), &["value model", "variance -0.20", "since step 30"]);
    assert_finds(&with("policy/clip_frac", &[0.0, 0.0, 0.2, 0.5, 0.8]), &["too large", "50 %", "since step 40"]);
    assert_finds_nothing(&with("policy/clip_frac", &[0.9, 0.9, 0.1, 0.1, 0.6]));
}

#[test]
fn what_was_not_measured_is_no_finding() {
    assert_finds_nothing(&[]);
    let names = [
        "eval/a/score_mean",
        "eval/a/kl_ref",
        "eval/a/distinct",
        "policy/entropy",
        "value/explained_variance",
        "phase",
    ];
    let columns: Vec<(&str, &[f64])> = names.iter().map(|name| (*name, &[f64::NAN; 3][..])).collect();
    assert_finds_nothing(&columns);
    assert_eq!(sets(&log(&columns)), ["a"]);
}
