//! The measurements: rows, as JSON and as a table.

use align_core::config::Dtype;
use comfy_table::TableComponent;
use serde_json::{Map, Value, json};

use super::ceilings::{Ceilings, Probe};
use super::jobs::name;
use crate::output::{align_right, print_line, table};

/// The measurements of a job, by name.
pub(super) struct Measured {
    model: String,
    parameters: u64,
    job: &'static str,
    dtype: Dtype,
    batch: usize,
    seconds: Vec<f64>,
    /// Useful operations per second.
    rate: Vec<f64>,
    /// Other numbers of each step, by name.
    others: Vec<(String, Vec<f64>)>,
    peak_gib: f64,
    /// The machine's peak before and after the job.
    around: [Ceilings; 2],
    /// The loss of the first step, before any update: comparable with other programs on the same rows.
    pub(super) first_loss: Option<f64>,
}

impl Measured {
    pub(super) fn new(
        model: &str,
        parameters: u64,
        job: &'static str,
        dtype: Dtype,
        batch: usize,
        before: &Ceilings,
    ) -> Self {
        Self {
            around: [before.clone(), before.clone()],
            model: model.to_owned(),
            parameters,
            job,
            dtype,
            batch,
            seconds: Vec::new(),
            rate: Vec::new(),
            others: Vec::new(),
            peak_gib: 0.0,
            first_loss: None,
        }
    }

    /// Adds a step's time and useful operations.
    pub(super) fn step(&mut self, seconds: f64, operations: f64) {
        self.seconds.push(seconds);
        self.rate.push(operations / seconds);
    }

    /// Adds another number of the step.
    pub(super) fn rate(&mut self, name: &str, number: f64) {
        match self.others.iter_mut().find(|(other, _)| other == name) {
            Some((_, numbers)) => numbers.push(number),
            None => self.others.push((name.to_owned(), vec![number])),
        }
    }

    /// Records the peak memory, in GiB.
    pub(super) fn peak(&mut self, gib: Option<f64>) {
        self.peak_gib = self.peak_gib.max(gib.unwrap_or(0.0));
    }

    /// Records the machine's peak right after the job.
    pub(super) fn after(&mut self, ceilings: &Ceilings) {
        self.around[1] = ceilings.clone();
    }

    fn other(&self, name: &str) -> Option<Spread> {
        self.others.iter().find(|(other, _)| other == name).map(|(_, numbers)| Spread::of(numbers))
    }

    /// The fraction of the peak rate (the mean of before and after).
    fn of_peak(&self) -> f64 {
        2.0 * Spread::of(&self.rate).median / self.around.iter().map(|around| around.rate(self.dtype)).sum::<f64>()
    }

    fn of_bandwidth(&self) -> Option<f64> {
        let read = self.other("bytes_per_second")?.median;
        Some(2.0 * read / self.around.iter().map(|around| around.bandwidth).sum::<f64>())
    }

    pub(super) fn to_json(&self) -> Value {
        let gflops: Vec<f64> = self.rate.iter().map(|rate| rate / 1e9).collect();
        let mut row = Map::new();
        let facts = json!({
            "model": self.model, "parameters": self.parameters, "job": self.job, "dtype": name(self.dtype),
            "batch": self.batch, "steps": self.seconds.len(), "step_seconds": Spread::of(&self.seconds).to_json(),
        });
        row.extend(facts.as_object().expect("an object").clone());
        for (name, numbers) in &self.others {
            row.insert(name.clone(), Spread::of(numbers).to_json());
        }
        row.insert("gflops".to_owned(), Spread::of(&gflops).to_json());
        let around = self.around.each_ref().map(|around| around.rate(self.dtype) / 1e9);
        row.insert("peak_gflops".to_owned(), json!({ "before": around[0], "after": around[1] }));
        row.insert("of_peak".to_owned(), json!(self.of_peak()));
        if let Some(part) = self.of_bandwidth() {
            row.insert("of_bandwidth".to_owned(), json!(part));
        }
        row.insert("peak_gib".to_owned(), json!(self.peak_gib));
        if let Some(loss) = self.first_loss {
            row.insert("first_loss".to_owned(), json!(loss));
        }
        Value::Object(row)
    }
}

/// Median, minimum and maximum.
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    pub(super) fn of(numbers: &[f64]) -> Self {
        let mut sorted = numbers.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Self { median, min: sorted[0], max: sorted[sorted.len() - 1] }
    }

    fn to_json(&self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}

/// Prints one line per job, and the ceilings that the fractions refer to.
pub(super) fn print(rows: &[Measured], probe: &Probe, measured: &[Ceilings]) {
    let header = [
        "model",
        "job",
        "dtype",
        "batch",
        "s/step",
        "tokens/s",
        "min–max",
        "items/s",
        "GFLOP/s",
        "of peak",
        "of memory",
        "peak GiB",
    ];
    let mut lines = table(&header);
    let percent = |part: f64| format!("{:.0} %", 100.0 * part);
    for row in rows {
        let tokens = row.other("tokens_per_second");
        let items = row.other("pairs_per_second").or(row.other("episodes_per_second"));
        let spread = tokens
            .as_ref()
            .or(items.as_ref())
            .map_or_else(String::new, |rate| format!("{}–{}", rounded(rate.min), rounded(rate.max)));
        let median = |rate: Option<Spread>| rate.map_or_else(String::new, |rate| rounded(rate.median));
        lines.add_row([
            row.model.clone(),
            row.job.to_owned(),
            name(row.dtype).to_owned(),
            row.batch.to_string(),
            format!("{:.2}", Spread::of(&row.seconds).median),
            median(tokens),
            spread,
            median(items),
            rounded(Spread::of(&row.rate).median / 1e9),
            percent(row.of_peak()),
            row.of_bandwidth().map_or_else(String::new, percent),
            format!("{:.2}", row.peak_gib),
        ]);
    }
    lines.remove_style(TableComponent::HorizontalLines).remove_style(TableComponent::MiddleIntersections);
    print_line(&align_right(lines, 3).to_string());
    probe.describe(measured).iter().for_each(|line| print_line(line));
    print_line("medians of steps; items: pairs (rm; tokens of both dialogues), episodes (ppo)");
}

/// A number with at least three significant digits.
fn rounded(number: f64) -> String {
    let decimals = if number < 10.0 {
        2
    } else if number < 100.0 {
        1
    } else {
        0
    };
    format!("{number:.decimals$}")
}
