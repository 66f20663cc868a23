//! What to be careful about, in words.

use crate::judges::Judges;

use super::{Annotators, Comparison, Measure, ModelOutcome};

/// Below this α, annotators agree too little to draw conclusions about single items. Krippendorff's own
/// limit for tentative conclusions is 0.667; preferences between responses seldom reach it.
const LOW_ALPHA: f64 = 0.4;
/// Below this number of judged items, intervals are wide and the choice of items matters. Our choice.
const FEW_ITEMS: usize = 100;

/// The findings, in a fixed order.
pub(super) fn findings(comparison: &Comparison, judges: &Judges) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(few_items(comparison));
    found.extend(not_independent(comparison, judges));
    for model in &comparison.models {
        found.extend(undecided(model, comparison));
        found.extend(length_explains(model, comparison));
    }
    found.extend(low_alpha(comparison));
    found.extend(no_overlap(comparison));
    found.extend(position_bias(comparison.first_shown, "the annotators"));
    found.extend(comparison.by_annotator.iter().filter_map(|annotator| {
        let is_only_one = comparison.by_annotator.len() == 1;
        position_bias(annotator.first_shown, &annotator.annotator).filter(|_| !is_only_one)
    }));
    found.extend(disagreeing_annotators(comparison));
    found.extend(extreme_ratings(comparison));
    found
}

/// Programs that count, and models of the comparison that they are related to.
fn not_independent(comparison: &Comparison, judges: &Judges) -> Vec<String> {
    let counted = comparison.by_annotator.iter().filter_map(|own| Some((own, judges.get(&own.annotator)?)));
    let is_compared =
        |model: &str| model == comparison.baseline || comparison.models.iter().any(|outcome| outcome.model == model);
    let sentences = counted.flat_map(|(own, judge)| {
        let related = judge.not_independent.iter().filter(|(model, _)| is_compared(model));
        related.map(|(model, why)| format!("{} is not independent of {model}: {why}.", own.annotator))
    });
    sentences.collect()
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn few_items(comparison: &Comparison) -> Option<String> {
    let items = comparison.judged_items;
    let what = "the result depends on which items were chosen";
    (items < FEW_ITEMS).then(|| format!("Only {items} items are judged; below {FEW_ITEMS}, {what}."))
}

fn undecided(model: &ModelOutcome, comparison: &Comparison) -> Option<String> {
    let (name, baseline) = (&model.model, &comparison.baseline);
    let Some(outcome) = model.outcome else {
        return Some(format!("No judged item has responses of both {name} and {baseline}: they are not compared."));
    };
    let [low, high] = outcome.ci95?;
    (low <= 0.0 && 0.0 <= high).then(|| {
        let points = |share: f64| format!("{:+.1}", 100.0 * share);
        let interval = format!("[{}, {}]", points(low), points(high));
        format!("{name} and {baseline} are not distinguished: the interval of the net win, {interval} points, holds 0.")
    })
}

fn length_explains(model: &ModelOutcome, comparison: &Comparison) -> Option<String> {
    let outcome = model.outcome?;
    let length = model.length?;
    let controlled = length.length_controlled?;
    let ([low, high], [rate_low, rate_high]) = (outcome.ci95?, controlled.ci95?);
    let is_decided = low > 0.0 || high < 0.0;
    let is_explained = if outcome.net_win > 0.0 { rate_low <= 0.5 } else { rate_high >= 0.5 };
    (is_decided && is_explained).then(|| {
        format!(
            "Length may explain the result of {} against {}: its responses have {:.0} characters on average, those \
             of {} {:.0}; at equal length the predicted win rate is {} [{}, {}] instead of {}.",
            model.model,
            comparison.baseline,
            length.mean,
            comparison.baseline,
            length.baseline_mean,
            percent(controlled.value),
            percent(rate_low),
            percent(rate_high),
            percent(length.win_rate)
        )
    })
}

fn low_alpha(comparison: &Comparison) -> Option<String> {
    let alpha = comparison.agreement.as_ref()?.alpha_ordinal?;
    (alpha.value < LOW_ALPHA).then(|| {
        format!(
            "The annotators agree little: Krippendorff's α is {:.2}, below {LOW_ALPHA}. Single judgments are noisy; \
             a clearer guideline or more annotators per item would help.",
            alpha.value
        )
    })
}

fn no_overlap(comparison: &Comparison) -> Option<String> {
    let several = comparison.by_annotator.len() > 1;
    (several && comparison.agreement.is_none())
        .then(|| "No item has judgments of two annotators: their agreement is not known.".to_owned())
}

fn position_bias(first_shown: Option<Measure>, of: &str) -> Option<String> {
    let Measure { value, ci95, .. } = first_shown?;
    let [low, high] = ci95?;
    (high < 0.5 || low > 0.5).then(|| {
        format!(
            "Position matters to {of}: the response shown earlier won {} [{}, {}] of the verdicts, expected 50 %.",
            percent(value),
            percent(low),
            percent(high)
        )
    })
}

fn disagreeing_annotators(comparison: &Comparison) -> Vec<String> {
    let disagrees = comparison.by_annotator.iter().filter_map(|annotator| {
        let (own, others) = (annotator.agreement?, annotator.agreement_of_others?);
        let [_, high] = own.ci95?;
        (high < others).then(|| {
            format!(
                "{} disagrees with the others: the same verdict in {} of cases, while the others of the same items \
                 agree in {}.",
                annotator.annotator,
                percent(own.value),
                percent(others)
            )
        })
    });
    disagrees.collect()
}

fn extreme_ratings(comparison: &Comparison) -> Vec<String> {
    let Some(ratings) = &comparison.ratings else {
        return vec!["No ratings: the fit of all pairs did not converge.".to_owned()];
    };
    let whose = if comparison.annotators == Annotators::Programs { " of programs" } else { "" };
    let extreme = ratings.models.iter().filter(|model| model.is_bounded_by_ridge && model.verdicts > 0).map(|model| {
        format!(
            "All {} verdicts{whose} on {} are the same; its rating has no finite maximum and depends on the small \
             ridge of the fit.",
            model.verdicts, model.model
        )
    });
    let apart = ratings.models.iter().filter(|model| model.elo.is_none()).map(|model| {
        format!("{} is not connected with {} by any comparison: it has no rating.", model.model, comparison.baseline)
    });
    extreme.chain(apart).collect()
}
