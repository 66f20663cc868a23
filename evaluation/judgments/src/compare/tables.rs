//! The comparison as tables of text, for a terminal or a page.

use serde::Serialize;

use super::{Annotators, Comparison, Counting, Measure, Outcome, Scale, Test};

/// A table. The first column holds names, the others numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// (C) The names of the columns.
    pub header: Vec<String>,
    /// (R, C) The cells.
    pub rows: Vec<Vec<String>>,
    /// How to read it, one sentence each.
    pub notes: Vec<String>,
}

impl Table {
    fn new(title: impl Into<String>, header: &[&str], rows: Vec<Vec<String>>, notes: &[&str]) -> Self {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Self { title: title.into(), header: owned(header), rows, notes: owned(notes) }
    }
}

/// What is shown where there is nothing.
const NONE: &str = "–";

impl Comparison {
    /// All tables that have rows.
    pub fn tables(&self) -> Vec<Table> {
        let tables = [
            self.outcomes(),
            self.categories(),
            self.rating_table(),
            self.lengths(),
            self.soft_table(),
            self.agreement_table(),
            self.group_table(),
            self.annotator_table(),
        ];
        tables.into_iter().filter(|table| !table.rows.is_empty()).collect()
    }

    fn outcomes(&self) -> Table {
        let rows = self.models.iter().filter_map(|model| {
            let outcome = model.outcome.as_ref()?;
            Some([vec![model.model.clone()], outcome_cells(outcome)].concat())
        });
        let rows = rows.collect();
        let whose = self.annotators.name();
        let counting = match self.counting {
            Counting::Each => "Each judgment counts.",
            Counting::Majority => "One verdict per item: the order of the median ranks.",
        };
        let interval = format!(
            "Net win = win − loss, with a 95 % interval from {} draws of items (seed {}).",
            self.draws, self.seed
        );
        let is_sign_test = |outcome: Outcome| outcome.test == Test::ExactSign;
        let test = if self.models.iter().any(|model| model.outcome.is_some_and(is_sign_test)) {
            "p: exact sign test where at most 25 items are no tie, otherwise a permutation of the signs of items; not \
             adjusted for several models."
        } else {
            "p: permutation of the signs of items; not adjusted for several models."
        };
        let title = format!("Against {}, by {whose}", self.baseline);
        Table::new(title, &OUTCOME_HEADER, rows, &[counting, &interval, test])
    }

    fn categories(&self) -> Table {
        let rows = self.models.iter().flat_map(|model| {
            model.categories.iter().map(|found| {
                let category = found.category.as_deref().unwrap_or("(none)");
                [vec![format!("{}: {category}", model.model)], outcome_cells(&found.outcome)].concat()
            })
        });
        let title = format!("Against {}, by category", self.baseline);
        Table::new(title, &OUTCOME_HEADER, rows.collect(), &[])
    }

    fn rating_table(&self) -> Table {
        let Some(ratings) = &self.ratings else { return Table::new("Ratings", &[], Vec::new(), &[]) };
        let rows = ratings.models.iter().map(|model| {
            let elo = |value: f64| format!("{value:.0}");
            let interval = model.ci95.filter(|_| model.model != self.baseline);
            let rating = model.elo.map_or(NONE.to_owned(), |value| with_interval(value, interval, elo));
            vec![model.model.clone(), rating, model.verdicts.to_string()]
        });
        let mut notes = vec![format!(
            "Davidson's Bradley-Terry model of all pairs, ties included; {} has 1000, and 400 points are odds of 10 to 1.",
            self.baseline
        )];
        notes.extend(ratings.first_shown.map(|found| {
            let gamma = with_interval(found.value, found.ci95, |value| format!("{value:+.3}"));
            format!("Being shown first adds γ = {gamma} to a log strength difference.")
        }));
        let notes: Vec<&str> = notes.iter().map(String::as_str).collect();
        Table::new("Ratings", &["model", "Elo [95 %]", "verdicts"], rows.collect(), &notes)
    }

    fn lengths(&self) -> Table {
        let rows = self.models.iter().filter_map(|model| {
            let length = model.length?;
            Some(vec![
                model.model.clone(),
                format!("{:.0}", length.mean),
                format!("{:.0}", length.baseline_mean),
                percent_of(length.longer_wins),
                percent(length.win_rate),
                percent_of(length.length_controlled),
            ])
        });
        let header = ["model", "characters", "baseline's", "longer wins [95 %]", "win rate", "at equal length [95 %]"];
        let note = "Win rate: a tie is half a win. At equal length: predicted by a logistic regression on \
                    tanh(Δ characters / standard deviation).";
        Table::new("Length", &header, rows.collect(), &[note])
    }

    fn soft_table(&self) -> Table {
        let rows = self.models.iter().filter_map(|model| {
            let soft = model.soft?;
            let error = soft.standard_error.map_or(NONE.to_owned(), |error| format!("{:.2}", 100.0 * error));
            Some(vec![model.model.clone(), percent(soft.win_rate), error, soft.items.to_string()])
        });
        let note = "The mean probability that the model's response is better.";
        Table::new("Soft win rate", &["model", "win rate", "standard error", "items"], rows.collect(), &[note])
    }

    fn agreement_table(&self) -> Table {
        let Some(agreement) = &self.agreement else { return Table::new("Agreement", &[], Vec::new(), &[]) };
        let of = match agreement.scale {
            Scale::Scores => "Krippendorff's α of scores (ordinal)",
            Scale::Ranks => "Krippendorff's α of ranks (ordinal)",
        };
        let number = |found: Measure| with_interval(found.value, found.ci95, |value| format!("{value:.3}"));
        let row = |name: &str, found: Option<Measure>| {
            let (value, count) =
                found.map_or((NONE.to_owned(), NONE.to_owned()), |found| (number(found), found.count.to_string()));
            vec![name.to_owned(), value, count]
        };
        let share = agreement.pairwise.map_or(NONE.to_owned(), |found| percent_of(Some(found)));
        let pairs = agreement.pairwise.map_or(NONE.to_owned(), |found| found.count.to_string());
        let rows = vec![
            row(of, agreement.alpha_ordinal),
            row("Krippendorff's α of verdicts (nominal)", agreement.alpha_nominal),
            row("Fleiss' κ of verdicts", agreement.fleiss_kappa),
            vec!["same verdict, two annotators".to_owned(), share, pairs],
        ];
        let note = "1 is perfect agreement, 0 that of chance. κ needs the same number of annotators everywhere.";
        let title = format!("Agreement on {} items with several judgments", agreement.items);
        Table::new(title, &["measure", "value [95 %]", "of"], rows, &[note])
    }

    fn group_table(&self) -> Table {
        let rows = self.groups.iter().map(|group| {
            let count = |found: Option<Measure>| found.map_or(0, |found| found.count).to_string();
            vec![
                group.group.clone(),
                percent_of(group.all),
                count(group.all),
                percent_of(group.untied),
                count(group.untied),
            ]
        });
        let header = ["with people", "same verdict [95 %]", "of", "without ties [95 %]", "of"];
        Table::new("Agreement with people", &header, rows.collect(), &[])
    }

    fn annotator_table(&self) -> Table {
        let rows = self.by_annotator.iter().map(|annotator| {
            vec![
                annotator.annotator.clone(),
                annotator.judgments.to_string(),
                annotator.skipped.to_string(),
                percent_of(annotator.agreement),
                annotator.agreement_of_others.map_or(NONE.to_owned(), percent),
                percent_of(annotator.gold),
                percent_of(annotator.consistency),
                percent_of(annotator.first_shown),
                annotator.median_seconds.map_or(NONE.to_owned(), |seconds| format!("{seconds:.0}")),
            ]
        });
        let header = [
            "annotator",
            "judgments",
            "skipped",
            "agrees with others",
            "others agree",
            "gold",
            "when repeated",
            "earlier wins",
            "median seconds",
        ];
        let title = if self.annotators == Annotators::Programs { "Programs" } else { "Annotators" };
        let note = "Shares of verdicts on pairs; earlier wins: the response shown earlier, expected half of the time.";
        Table::new(title, &header, rows.collect(), &[note])
    }
}

const OUTCOME_HEADER: [&str; 8] = ["model", "win", "tie", "loss", "net win [95 %]", "p", "verdicts", "items"];

fn outcome_cells(outcome: &Outcome) -> Vec<String> {
    vec![
        percent(outcome.win),
        percent(outcome.tie),
        percent(outcome.loss),
        with_interval(100.0 * outcome.net_win, outcome.ci95.map(|ends| ends.map(|end| 100.0 * end)), |points| {
            format!("{points:+.1}")
        }),
        p_value(outcome.p),
        outcome.verdicts.to_string(),
        outcome.items.to_string(),
    ]
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn percent_of(found: Option<Measure>) -> String {
    let number = |share: f64| format!("{:.1}", 100.0 * share);
    let Some(Measure { value, ci95, .. }) = found else { return NONE.to_owned() };
    let interval = ci95.map(|[low, high]| format!(" [{}, {}]", number(low), number(high)));
    format!("{}{}", percent(value), interval.unwrap_or_default())
}

fn with_interval(value: f64, interval: Option<[f64; 2]>, number: impl Fn(f64) -> String) -> String {
    let interval = interval.map(|[low, high]| format!(" [{}, {}]", number(low), number(high)));
    format!("{}{}", number(value), interval.unwrap_or_default())
}

fn p_value(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") }
}
