//! Results of a task: means with intervals, averages as the task defines them, and two models compared.

use std::collections::BTreeMap;

use align_statistics::proportions::{
    FEWEST_FOR_SPREAD, Mean, macro_mean, mcnemar_exact, normal_interval, pass_at_k, pooled_stderr, wilson,
};
use align_tasks::task::{Average, Task};
use serde::Serialize;

use crate::records::{Record, Records};
use crate::write::Ended;

/// A mean with its 95 % interval.
#[derive(Debug, Clone, Serialize)]
pub struct Value {
    /// The mean.
    pub value: f64,
    /// Its standard error; of a mean over all questions of several subjects pooled, as in
    /// lm-evaluation-harness.
    pub stderr: Option<f64>,
    /// Wilson's interval for shares of questions; normal, with a stratified variance, for a mean over
    /// subjects.
    pub ci95: [f64; 2],
}

/// The result of one model on one task.
#[derive(Debug, Clone, Serialize)]
pub struct TaskResult {
    /// The task's name.
    pub task: String,
    /// Worked examples before each question.
    pub shots: usize,
    /// Number of questions.
    pub rows: u64,
    /// The metric that tables show.
    pub metric: String,
    /// Its mean.
    #[serde(flatten)]
    pub value: Value,
    /// Every metric.
    pub metrics: BTreeMap<String, Value>,
    /// `micro`: over all questions; `macro`: over subjects.
    pub average: &'static str,
    /// Answers in which nothing was found.
    pub not_found: u64,
    /// Answers that were cut at their maximum length.
    pub cut: u64,
    /// Prompts that were cut at their beginning.
    pub cut_prompts: u64,
    /// The groups of the report's tables.
    pub categories: Vec<(String, Value)>,
    /// Each subject's number of questions and mean.
    pub subjects: Vec<(String, Mean)>,
}

/// Two models on the same questions.
#[derive(Debug, Clone, Serialize)]
pub struct Paired {
    /// The task's name.
    pub task: String,
    /// The second's mean minus the first's.
    pub difference: f64,
    /// Its 95 % interval, from the differences of every question.
    pub ci95: [f64; 2],
    /// Questions that only the first model answers right.
    pub only_first: u64,
    /// Questions that only the second model answers right.
    pub only_second: u64,
    /// Exact McNemar test: two-sided p.
    pub p: f64,
}

/// Summarizes the records of a task.
pub fn summarize(task: &Task, records: &Records) -> TaskResult {
    let flat = || records.0.iter().flatten();
    let mut metrics: BTreeMap<String, Value> =
        task.metrics.iter().map(|name| (name.clone(), average(task, records, name))).collect();
    let metric = task.metrics.first().cloned().unwrap_or_default();
    if let Some(k) = metric.strip_suffix("@1") {
        metrics.extend(more_samples(records, k, &metric));
    }
    let subjects = task.subjects.iter().zip(&records.0);
    TaskResult {
        task: task.name.clone(),
        shots: task.shots,
        rows: task.subjects.iter().map(|part| part.items.len() as u64).sum(),
        value: metrics.get(&metric).cloned().unwrap_or_else(|| average(task, records, &metric)),
        average: if task.average == Average::Micro { "micro" } else { "macro" },
        not_found: flat().filter(|record| record.answer.is_none()).count() as u64,
        cut: flat().filter(|record| record.ended == Some(Ended::Length)).count() as u64,
        cut_prompts: flat().filter(|record| record.sample == 0 && record.cut_tokens > 0).count() as u64,
        categories: task
            .categories
            .iter()
            .map(|category| (category.name.clone(), category_value(task, records, &category.subjects, &metric)))
            .collect(),
        subjects: subjects.map(|(part, rows)| (part.name.clone(), Mean::of(&values(rows, &metric)))).collect(),
        metric,
        metrics,
    }
}

/// A metric of every item of a subject: the mean over its samples.
fn values(records: &[Record], metric: &str) -> Vec<f64> {
    records
        .chunk_by(|one, other| one.id == other.id)
        .map(|samples| {
            let values = samples.iter().map(|record| record.metrics.get(metric).copied().unwrap_or(0.0));
            values.sum::<f64>() / samples.len() as f64
        })
        .collect()
}

fn average(task: &Task, records: &Records, metric: &str) -> Value {
    let groups: Vec<Vec<f64>> = records.0.iter().map(|rows| values(rows, metric)).collect();
    averaged(task.average, &groups)
}

fn category_value(task: &Task, records: &Records, subjects: &[String], metric: &str) -> Value {
    let of_category = task.subjects.iter().zip(&records.0).filter(|(part, _)| subjects.contains(&part.name));
    averaged(task.average, &of_category.map(|(_, rows)| values(rows, metric)).collect::<Vec<_>>())
}

fn averaged(average: Average, groups: &[Vec<f64>]) -> Value {
    let means: Vec<Mean> = groups.iter().map(|values| Mean::of(values)).collect();
    let all: Vec<f64> = groups.concat();
    let is_share = all.iter().all(|value| *value == 0.0 || *value == 1.0);
    let within = if all.iter().all(|value| (0.0..=1.0).contains(value)) {
        [0.0, 1.0]
    } else {
        [f64::NEG_INFINITY, f64::INFINITY]
    };
    let mean = if average == Average::Micro { Mean::of(&all) } else { macro_mean(&means) };
    let stderr = match average {
        Average::Micro if means.len() > 1 => pooled_stderr(&means),
        _ => mean.stderr,
    };
    let ci95 = if average == Average::Micro && is_share {
        wilson(mean.mean, mean.count)
    } else {
        mean.stderr.map_or(within, |stderr| normal_interval(mean.mean, stderr, within))
    };
    Value { value: mean.mean, stderr, ci95 }
}

/// pass@k for more samples than one; `name` is the metric's without "@1".
fn more_samples(records: &Records, name: &str, metric: &str) -> Vec<(String, Value)> {
    let samples: Vec<(u64, u64)> = records
        .0
        .iter()
        .flat_map(|rows| rows.chunk_by(|one, other| one.id == other.id))
        .map(|rows| {
            let passed = rows.iter().filter(|record| record.metrics.get(metric) == Some(&1.0)).count();
            (rows.len() as u64, passed as u64)
        })
        .collect();
    let fewest = samples.iter().map(|(count, _)| *count).min().unwrap_or(0);
    [10, 100]
        .into_iter()
        .filter(|k| *k <= fewest)
        .map(|k| {
            let values: Vec<f64> = samples.iter().map(|(count, passed)| pass_at_k(*count, *passed, k)).collect();
            (format!("{name}@{k}"), averaged(Average::Micro, &[values]))
        })
        .collect()
}

/// Compares two models on a task; their records are of the same items.
pub fn compare(task: &Task, first: &Records, second: &Records) -> Paired {
    let metric = task.metrics.first().map_or("", String::as_str);
    let groups: Vec<Vec<f64>> = first
        .0
        .iter()
        .zip(&second.0)
        .map(|(first, second)| {
            values(second, metric).iter().zip(values(first, metric)).map(|(second, first)| second - first).collect()
        })
        .collect();
    let means: Vec<Mean> = groups.iter().map(|values| Mean::of(values)).collect();
    let all = groups.concat();
    let mean = if task.average == Average::Micro { Mean::of(&all) } else { macro_mean(&means) };
    let only = |wins: &dyn Fn(f64) -> bool| all.iter().filter(|difference| wins(**difference)).count() as u64;
    let (only_first, only_second) = (only(&|difference| difference < 0.0), only(&|difference| difference > 0.0));
    let stderr = mean.stderr.filter(|_| all.len() >= FEWEST_FOR_SPREAD).unwrap_or(f64::INFINITY);
    Paired {
        task: task.name.clone(),
        difference: mean.mean,
        ci95: normal_interval(mean.mean, stderr, [-1.0, 1.0]),
        only_first,
        only_second,
        p: mcnemar_exact(only_first, only_second),
    }
}
