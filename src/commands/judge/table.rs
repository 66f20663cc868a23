//! The result of `align judge`: what all judgments of a judge say of each model.

use std::collections::BTreeMap;

use align_judgments::judge::{JudgedFolder, pairs};
use align_judgments::judges::JudgeRecord;
use align_judgments::{Item, Judgment};
use serde::Serialize;

use super::{JudgeStats, not_independent};
use crate::cli::judge::JudgeArgs;
use crate::output::{align_right, print_line, table};

/// Below this share of the probability, a model hardly takes the letters for an answer. Our choice.
const FEW_LETTERS: f64 = 0.5;
/// Below this share of pairs with the same verdict in both orders, the order matters a lot. Our choice.
const FEW_SAME: f64 = 0.7;

/// A model's results over pairs with each other response of its items.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct OfModel {
    items: usize,
    wins: usize,
    ties: usize,
    losses: usize,
    #[serde(skip)]
    rewards: Vec<f64>,
    /// Of a reward model.
    mean_reward: Option<f64>,
}

/// Everything that is printed.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    annotator: String,
    items: usize,
    judged: usize,
    skipped: BTreeMap<String, usize>,
    identical: usize,
    models: BTreeMap<String, OfModel>,
    /// The share of pairs with the same verdict in both orders.
    same_in_both_orders: Option<f64>,
    /// How often the response shown first won, of answers that are no ties.
    first_shown: Option<f64>,
    /// The mean probability of A and B together.
    letters: Option<f64>,
    /// Of a service, in this run.
    requests: Option<usize>,
    cached: Option<usize>,
    /// Answers without a verdict.
    unparsed: Option<usize>,
    findings: Vec<String>,
}

impl Report {
    pub(super) fn new(annotator: &str, record: &JudgeRecord, folder: &JudgedFolder, said: &JudgeStats) -> Self {
        let mut report = Self {
            annotator: annotator.to_owned(),
            items: folder.items().len(),
            judged: 0,
            skipped: BTreeMap::new(),
            identical: folder.num_identical(),
            models: BTreeMap::new(),
            same_in_both_orders: None,
            first_shown: None,
            letters: said.letters,
            requests: said.requests,
            cached: said.cached,
            unparsed: said.unparsed,
            findings: Vec::new(),
        };
        let (mut same, mut pairs_asked, mut first, mut decided) = (0, 0, 0, 0);
        for (item, judgment) in folder.own() {
            if let Some(reason) = &judgment.skipped {
                *report.skipped.entry(reason.clone()).or_default() += 1;
                continue;
            }
            report.judged += 1;
            report.add(item, judgment);
            for (one, other) in pairs(item.responses.len()) {
                let Some([shown_first, shown_second]) = judgment.in_both_orders(one, other) else { continue };
                if item.responses[one] == item.responses[other] {
                    continue;
                }
                pairs_asked += 1;
                same += usize::from(side(shown_first) == side(shown_second));
                let won = [side(shown_first), -side(shown_second)].into_iter().filter(|side| *side != 0);
                first += won.clone().filter(|side| *side > 0).count();
                decided += won.count();
            }
        }
        let share = |part: usize, of: usize| (of > 0).then(|| part as f64 / of as f64);
        (report.same_in_both_orders, report.first_shown) = (share(same, pairs_asked), share(first, decided));
        for model in report.models.values_mut().filter(|model| !model.rewards.is_empty()) {
            model.mean_reward = Some(model.rewards.iter().sum::<f64>() / model.rewards.len() as f64);
        }
        report.findings = report.findings(record);
        report
    }

    fn add(&mut self, item: &Item, judgment: &Judgment) {
        let (Some(models), Some(ranks)) = (&item.models, judgment.ranks()) else { return };
        for (index, name) in models.iter().enumerate() {
            let model = self.models.entry(name.clone()).or_default();
            model.items += 1;
            model.rewards.extend(judgment.rewards.as_ref().map(|rewards| rewards[index]));
            for other in (0..ranks.len()).filter(|other| *other != index) {
                match ranks[index].cmp(&ranks[other]) {
                    std::cmp::Ordering::Less => model.wins += 1,
                    std::cmp::Ordering::Equal => model.ties += 1,
                    std::cmp::Ordering::Greater => model.losses += 1,
                }
            }
        }
    }

    fn findings(&self, record: &JudgeRecord) -> Vec<String> {
        let mut found = not_independent(&self.annotator, record);
        if let Some(share) = self.letters.filter(|share| *share < FEW_LETTERS) {
            found.push(format!(
                "A and B have {} of the probability at the beginning of an answer: the model hardly answers with a letter.",
                percent(share)
            ));
        }
        if let Some(share) = self.same_in_both_orders.filter(|share| *share < FEW_SAME) {
            found.push(format!(
                "Only {} of the pairs have the same verdict in both orders: the judge goes by the order.",
                percent(share)
            ));
        }
        found
    }

    pub(super) fn print(&self, args: &JudgeArgs) -> anyhow::Result<()> {
        if args.json {
            print_line(&serde_json::to_string(self)?);
            return Ok(());
        }
        if !self.models.is_empty() {
            print_line(&self.table());
        }
        let mut counts = vec![format!("{}: {} of {} items judged", self.annotator, self.judged, self.items)];
        counts.extend(self.skipped.iter().map(|(reason, count)| format!("{count} skipped ({reason})")));
        if self.identical > 0 {
            counts.push(format!("{} with identical responses left out", self.identical));
        }
        print_line(&counts.join(", "));
        if let Some(share) = self.same_in_both_orders {
            let first =
                self.first_shown.map_or(String::new(), |share| format!("; the first shown won {}", percent(share)));
            print_line(&format!("the same verdict in both orders: {}{first}", percent(share)));
        }
        if let (Some(requests), Some(cached), Some(unparsed)) = (self.requests, self.cached, self.unparsed) {
            print_line(&format!("{requests} requests, {cached} answers from the cache, {unparsed} without a verdict"));
        }
        self.findings.iter().for_each(|sentence| print_line(sentence));
        if let Some(baseline) = self.models.keys().next() {
            print_line(&format!("next: align compare {} --judges --baseline {baseline}", args.out.display()));
        }
        Ok(())
    }

    /// The models, by their share of wins, a tie being half of one.
    fn table(&self) -> String {
        let share = |part: usize, model: &OfModel| part as f64 / (model.wins + model.ties + model.losses).max(1) as f64;
        let worth = |model: &OfModel| share(2 * model.wins + model.ties, model);
        let mut models: Vec<(&String, &OfModel)> = self.models.iter().collect();
        models.sort_by(|(_, one), (_, other)| worth(other).total_cmp(&worth(one)));
        let has_rewards = models.iter().any(|(_, model)| model.mean_reward.is_some());
        let mut header = vec!["model", "items", "won", "tied", "lost"];
        header.extend(has_rewards.then_some("mean reward"));
        let mut shown = table(&header);
        for (name, model) in models {
            let mut row = vec![name.clone(), model.items.to_string()];
            row.extend([model.wins, model.ties, model.losses].map(|part| percent(share(part, model))));
            row.extend(model.mean_reward.map(|mean| format!("{mean:.3}")));
            shown.add_row(row);
        }
        align_right(shown, 1).to_string()
    }
}

/// 1 above ½, −1 below.
fn side(share: f64) -> i32 {
    i32::from(share > 0.5) - i32::from(share < 0.5)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
