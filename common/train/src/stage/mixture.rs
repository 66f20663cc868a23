//! The data files of a run: names of sets, the order in which sources are drawn, and their run metadata.

use std::path::PathBuf;

use serde_json::{Value, json};

use align_core::config::{Files, Mix};
use align_data::{self as data, Batches, Order};
use align_run::run::{Input, SHORT_BATCH};

/// The names under which sets are reported: file stems or folder names, numbered when they are equal.
pub fn set_names(files: &[PathBuf]) -> Vec<String> {
    let stem = |file: &PathBuf| {
        if file.is_dir() {
            let folder = file.canonicalize().unwrap_or_else(|_| file.clone());
            return folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        }
        let packed = file.extension().is_some_and(|extension| extension == "gz" || extension == "zst");
        let file = if packed { file.with_extension("") } else { file.clone() };
        file.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
    };
    let stems: Vec<String> = files.iter().map(stem).collect();
    let mut names: Vec<String> = Vec::new();
    for name in &stems {
        let alike = stems.iter().filter(|other| *other == name).count() > 1;
        let mut candidates = (1..).map(|number| format!("{name}-{number}"));
        let free = |candidate: &String| !names.contains(candidate) && !stems.contains(candidate);
        names.push(if alike { candidates.find(free).unwrap_or_default() } else { name.clone() });
    }
    names
}

/// Run metadata: files in data folders that are not read because of their names; `None` if there are none.
pub fn ignored_files<'a>(data: impl IntoIterator<Item = &'a Files>) -> Option<(&'static str, Value)> {
    let paths: Vec<&PathBuf> = data.into_iter().flat_map(|files| files.ignored()).collect();
    (!paths.is_empty()).then(|| ("not read, no data by name", json!(data::files::first_few(paths))))
}

/// All data paths of a config.
pub fn source_paths<'a>(train: &'a Files, mix: &'a [Mix], eval: &'a Files) -> impl Iterator<Item = &'a Files> {
    std::iter::once(train).chain(mix.iter().map(|source| &source.path)).chain([eval])
}

/// Resolves the data paths of a config to files.
pub fn find_sources(train: &mut Files, mix: &mut [Mix], eval: &mut Files) {
    data::find_files(train);
    mix.iter_mut().for_each(|source| data::find_files(&mut source.path));
    data::find_sets(eval);
}

/// All training files, and the weights of a mix.
pub struct Mixture {
    /// In the order of the config.
    pub files: Vec<PathBuf>,
    /// Per mix entry: number of files and weight; empty without a mix.
    mix: Vec<(usize, f64)>,
}

impl Mixture {
    /// From `[[data.mix]]` if given, otherwise from `data.train`.
    pub fn new(train: &Files, mix: &[Mix]) -> Self {
        if mix.is_empty() {
            return Self { files: train.to_vec(), mix: Vec::new() };
        }
        Self {
            files: mix.iter().flat_map(|source| source.path.iter().cloned()).collect(),
            mix: mix.iter().map(|source| (source.path.len(), source.weight)).collect(),
        }
    }

    /// The order over the rows of files with `file_rows` rows each. Without a seed rows keep the order of the
    /// files.
    pub fn order(&self, file_rows: &[usize], shuffle_seed: Option<u64>) -> Order {
        let (seed, shuffle) = (shuffle_seed.unwrap_or(0), shuffle_seed.is_some());
        if self.mix.is_empty() {
            return Order::new(&[file_rows.iter().sum()], None, shuffle.then_some(seed));
        }
        let mut rest = file_rows;
        let lengths: Vec<usize> = self
            .mix
            .iter()
            .map(|(count, _)| {
                let (own, others) = rest.split_at(*count);
                rest = others;
                own.iter().sum()
            })
            .collect();
        let weights: Vec<f64> = self.mix.iter().map(|(_, weight)| *weight).collect();
        Order::new(&lengths, Some(&weights), shuffle.then_some(seed))
    }

    /// The key under which the config names the files.
    pub fn key(&self) -> &'static str {
        if self.mix.is_empty() { "data.train" } else { "data.mix" }
    }

    /// The files that must be unchanged on resume.
    pub fn inputs(&self) -> Vec<Input> {
        if self.mix.is_empty() {
            return vec![Input::new("data.train", self.files.iter().cloned())];
        }
        let entries = self.sources().enumerate();
        entries.map(|(index, files)| Input::new(format!("data.mix[{index}]"), files.iter().cloned())).collect()
    }

    /// Run metadata of the batches: passes over the data (for a mix, over each source), and the size of an
    /// epoch's last batch if it is smaller.
    pub fn metadata(&self, batches: &Batches) -> Vec<(&'static str, Value)> {
        let passes = match self.mix.is_empty() {
            true => rounded(batches.passes()),
            false => {
                let name = |files: &[PathBuf]| files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>();
                let of_source = |(files, passes)| (name(files).join(" + "), rounded(passes));
                Value::Object(self.sources().zip(batches.passes_by_source()).map(of_source).collect())
            }
        };
        let short = batches.short_batch().map(|rows| (SHORT_BATCH, json!(rows)));
        std::iter::once(("passes over the data", passes)).chain(short).collect()
    }

    /// The files of each mix entry.
    fn sources(&self) -> impl Iterator<Item = &[PathBuf]> {
        let mut rest = self.files.as_slice();
        self.mix.iter().map(move |(count, _)| {
            let (own, others) = rest.split_at(*count);
            rest = others;
            own
        })
    }
}

/// Rounds a number of passes to three significant digits and at least one decimal.
pub fn rounded(number: f64) -> Value {
    if number.fract() == 0.0 && number < 1e15 {
        return json!(number as u64);
    }
    let digits = (2 - number.log10().floor() as i32).max(1);
    let scale = 10f64.powi(digits);
    json!((number * scale).round() / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_named_by_stem_and_numbered_where_alike() {
        let names = |files: &[&str]| set_names(&files.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["a/held.jsonl.gz", "b/held.json", "other.txt"]), ["held-1", "held-2", "other"]);
        assert_eq!(names(&["eval.v1.jsonl", "eval.v2.jsonl.zst"]), ["eval.v1", "eval.v2"]);
        assert_eq!(names(&["x/a.txt", "y/a.txt", "z/a-1.txt"]), ["a-2", "a-3", "a-1"]);
    }
}
