//! How far annotators agree: α, κ and the share of equal verdicts; and people with programs.

use std::collections::BTreeMap;

use align_statistics::agreement::{Coincidences, FleissSums, Metric, agreeing_pairs};
use align_statistics::bootstrap::{self, Draws};
use serde::Serialize;

use super::votes::{Judged, judged, verdicts};
use super::{Annotators, Measure, measure};
use crate::judgment::{Ask, Labels};

/// What the ordinal α is computed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// The scores of each response.
    Scores,
    /// The rank of each response within its item, ties sharing the mean of their places. Of two responses
    /// one is enough, since the other's is its mirror image.
    Ranks,
}

/// The agreement of the annotators on items with at least two of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Agreement {
    /// The number of those items.
    pub items: usize,
    /// What the ordinal α is of.
    pub scale: Scale,
    /// Krippendorff's α, ordinal, of ranks or scores; absent if all are equal. The count is of responses.
    pub alpha_ordinal: Option<Measure>,
    /// Krippendorff's α, nominal, of the verdicts on pairs. The count is of pairs of responses.
    pub alpha_nominal: Option<Measure>,
    /// Fleiss' κ of the verdicts on pairs; absent unless all items have the same number of annotators.
    pub fleiss_kappa: Option<Measure>,
    /// How often two annotators have the same verdict on a pair. The count is of pairs of verdicts.
    pub pairwise: Option<Measure>,
}

/// How often members of two groups agree on a pair of responses.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupAgreement {
    /// `people` or the name of a program.
    pub group: String,
    /// Over all verdicts, ties included.
    pub all: Option<Measure>,
    /// Over verdicts of which neither is a tie.
    pub untied: Option<Measure>,
}

/// The values from which an item contributes to each measure.
struct ItemSums {
    ordinal: Coincidences,
    nominal: Coincidences,
    fleiss: Option<FleissSums>,
    pairwise: (f64, f64),
}

/// The agreement of the annotators; `None` if no item has two judgments.
pub(super) fn agreement(judged: &[Judged<'_>], draws: Draws) -> Option<Agreement> {
    let several: Vec<&Judged<'_>> = judged.iter().filter(|judged| judged.votes.len() > 1).collect();
    let first = several.first()?;
    let scale = scale(&several);
    let units: Vec<Vec<Vec<f64>>> = several.iter().map(|judged| ordinal_units(judged, scale)).collect();
    let verdict_units: Vec<Vec<Vec<f64>>> = several.iter().map(|judged| verdict_units(judged)).collect();
    let no_ordinal = Coincidences::new(units.iter().flatten().flatten().copied());
    let no_nominal = Coincidences::new([-1.0, 0.0, 1.0]);
    let same_number = several.iter().all(|judged| judged.votes.len() == first.votes.len());
    let sums = units.iter().zip(&verdict_units).map(|(units, verdicts)| {
        let (mut ordinal, mut nominal) = (no_ordinal.clone(), no_nominal.clone());
        units.iter().for_each(|unit| ordinal.add_unit(unit));
        verdicts.iter().for_each(|unit| nominal.add_unit(unit));
        let table: Vec<[u32; 3]> = verdicts.iter().map(|unit| categories(unit)).collect();
        let fleiss = FleissSums::of_table(&table).filter(|_| same_number);
        let counts = verdicts.iter().map(|unit| agreeing_pairs(unit));
        let pairwise = counts.fold((0.0, 0.0), |sum, (equal, all)| (sum.0 + equal as f64, sum.1 + all as f64));
        ItemSums { ordinal, nominal, fleiss, pairwise }
    });
    let sums: Vec<ItemSums> = sums.collect();
    let measures = |times: &[u32]| -> Vec<Option<f64>> {
        let (mut ordinal, mut nominal) = (no_ordinal.clone(), no_nominal.clone());
        let (mut fleiss, mut pairwise) = (FleissSums::default(), (0.0, 0.0));
        for (item, &times) in sums.iter().zip(times).filter(|(_, times)| **times > 0) {
            let times = f64::from(times);
            ordinal.add(&item.ordinal, times);
            nominal.add(&item.nominal, times);
            item.fleiss.iter().for_each(|item| fleiss.add(item, times));
            pairwise = (pairwise.0 + times * item.pairwise.0, pairwise.1 + times * item.pairwise.1);
        }
        let kappa = same_number.then(|| fleiss.kappa()).flatten();
        let share = (pairwise.1 > 0.0).then(|| pairwise.0 / pairwise.1);
        vec![ordinal.alpha(Metric::Ordinal), nominal.alpha(Metric::Nominal), kappa, share]
    };
    let values = measures(&vec![1; sums.len()]);
    let intervals = bootstrap::intervals(sums.len(), draws, values.len(), measures);
    let pairs = verdict_units.iter().map(Vec::len).sum::<usize>() as u64;
    let comparisons = sums.iter().map(|item| item.pairwise.1).sum::<f64>() as u64;
    let counts = [units.iter().map(Vec::len).sum::<usize>() as u64, pairs, pairs, comparisons];
    let of = |index: usize| values[index].map(|value| Measure { value, ci95: intervals[index], count: counts[index] });
    Some(Agreement {
        items: several.len(),
        scale,
        alpha_ordinal: of(0),
        alpha_nominal: of(1),
        fleiss_kappa: of(2),
        pairwise: of(3),
    })
}

/// Scores if people gave nothing else; a program's may be any numbers, of which only the order is compared.
fn scale(several: &[&Judged<'_>]) -> Scale {
    let mut judgments = several.iter().flat_map(|judged| &judged.votes).map(|vote| vote.judgment);
    let all_scores = judgments.all(|judgment| judgment.ask == Ask::Score && !judgment.is_of_program());
    if all_scores { Scale::Scores } else { Scale::Ranks }
}

/// For each response the value that each annotator gave it.
fn ordinal_units(judged: &Judged<'_>, scale: Scale) -> Vec<Vec<f64>> {
    let given: Vec<Vec<f64>> = match scale {
        Scale::Scores => judged.votes.iter().map(|vote| vote.judgment.scores.clone().unwrap_or_default()).collect(),
        Scale::Ranks => judged.votes.iter().map(|vote| shared_ranks(&vote.ranks)).collect(),
    };
    let responses = judged.item.responses.len();
    let units = if scale == Scale::Ranks && responses == 2 { 1 } else { responses };
    (0..units).map(|response| given.iter().map(|values| values[response]).collect()).collect()
}

/// Ranks of which equal ones share the mean of their places: 1, 2, 2, 3 becomes 1, 2.5, 2.5, 4.
fn shared_ranks(ranks: &[f64]) -> Vec<f64> {
    let place = |rank: &f64| {
        let better = ranks.iter().filter(|other| *other < rank).count() as f64;
        let equal = ranks.iter().filter(|other| *other == rank).count() as f64;
        better + (equal + 1.0) / 2.0
    };
    ranks.iter().map(place).collect()
}

/// For each pair of responses the verdict of each annotator.
fn verdict_units(judged: &Judged<'_>) -> Vec<Vec<f64>> {
    let given: Vec<Vec<f64>> = judged.votes.iter().map(|vote| verdicts(&vote.ranks)).collect();
    (0..given[0].len()).map(|pair| given.iter().map(|values| values[pair]).collect()).collect()
}

fn categories(unit: &[f64]) -> [u32; 3] {
    [-1.0, 0.0, 1.0].map(|category| unit.iter().filter(|&&verdict| verdict == category).count() as u32)
}

/// Agreement of people with each other and of each program with people, on items that both judged; empty
/// unless there are people and programs.
pub(super) fn groups(labels: &Labels, draws: Draws) -> Vec<GroupAgreement> {
    let people = judged(labels, &Annotators::People);
    let programs = judged(labels, &Annotators::Programs);
    if people.is_empty() || programs.is_empty() {
        return Vec::new();
    }
    let each: Vec<Vec<Verdicts>> = people.iter().map(all_verdicts).collect();
    let among = each.iter().map(|given| {
        let pairs = super::votes::pairs(given.len());
        pairs.map(|(one, other)| (&given[one], &given[other])).collect::<Vec<_>>()
    });
    let mut groups = vec![group("people", &among.collect::<Vec<_>>(), draws)];
    let of_people: BTreeMap<&str, &Vec<Verdicts>> =
        people.iter().map(|judged| judged.item.id.as_str()).zip(&each).collect();
    // For each program and item, its verdicts and those of each person.
    let mut of_program: BTreeMap<&str, Vec<(Verdicts, &Vec<Verdicts>)>> = BTreeMap::new();
    for judged in &programs {
        let Some(people) = of_people.get(judged.item.id.as_str()).copied() else { continue };
        for vote in &judged.votes {
            of_program.entry(&vote.judgment.annotator).or_default().push((verdicts(&vote.ranks), people));
        }
    }
    for (program, items) in &of_program {
        let met: Vec<Met<'_>> =
            items.iter().map(|(own, people)| people.iter().map(|person| (own, person)).collect()).collect();
        groups.push(group(program, &met, draws));
    }
    groups
}

fn all_verdicts(judged: &Judged<'_>) -> Vec<Verdicts> {
    judged.votes.iter().map(|vote| verdicts(&vote.ranks)).collect()
}

/// The verdicts of an annotator on all pairs of an item's responses.
type Verdicts = Vec<f64>;
/// For each item the verdicts of two annotators to compare.
type Met<'a> = Vec<(&'a Verdicts, &'a Verdicts)>;

fn group(name: &str, items: &[Met<'_>], draws: Draws) -> GroupAgreement {
    let share = |is_compared: fn(f64, f64) -> bool| {
        let of_item = |met: &Met<'_>| {
            let each = met.iter().flat_map(|(one, other)| one.iter().copied().zip(other.iter().copied()));
            let compared: Vec<(f64, f64)> = each.filter(|&(one, other)| is_compared(one, other)).collect();
            (compared.iter().filter(|(one, other)| one == other).count() as f64, compared.len() as f64)
        };
        measure(&items.iter().map(of_item).collect::<Vec<_>>(), draws)
    };
    GroupAgreement {
        group: name.to_owned(),
        all: share(|_, _| true),
        untied: share(|one, other| one != 0.0 && other != 0.0),
    }
}
