//! Reads a run folder: its metadata, config, logs and samples, without its models.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::folder::{CONFIG, METRICS, RECORDS, RUN, SAMPLES};
use crate::checkpoint::numbered;
use crate::metrics::Metrics;
use align_core::error::{Error, Problems, Result};

/// The contents of a run folder, without models and checkpoints.
#[derive(Debug, Clone)]
pub struct Contents {
    /// run.json.
    pub facts: Map<String, Value>,
    /// config.toml, as text.
    pub config: String,
    /// metrics.jsonl: steps done, and the logged scalars. `null` is read as NaN.
    pub log: Vec<(u64, Metrics)>,
    /// samples.jsonl.
    pub samples: Vec<Map<String, Value>>,
    /// records/: the steps in which a guard raised alarms, with the alarms.
    pub alarms: Vec<(u64, Vec<String>)>,
    /// The files that were read.
    pub files: Vec<PathBuf>,
}

/// Reads the folder of a finished or running run.
///
/// # Errors
/// [`Error::Invalid`] when the folder has no run, no step is logged yet, or a file is damaged.
pub fn read(out: &Path) -> Result<Contents> {
    let files: Vec<PathBuf> = [RUN, CONFIG, METRICS, SAMPLES].iter().map(|name| out.join(name)).collect();
    if !files[0].is_file() {
        return Err(no_run(out));
    }
    let mut problems = Problems::new();
    let facts = problems.absorb(text(&files[0]).and_then(|text| object(&text, &files[0].display().to_string())))?;
    let config = problems.absorb(text(&files[1]).and_then(|text| match toml::from_str::<toml::Table>(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(Error::invalid(files[1].display(), format!("is damaged: {}", error.message()))),
    }))?;
    let log = problems.absorb(lines(&files[2], logged))?;
    if log.as_ref().is_some_and(Vec::is_empty) {
        problems.push(files[2].display(), "has no line yet, expected a run that has logged a step");
    }
    let samples = problems.absorb(lines(&files[3], |line, _| Ok(line)))?;
    let alarms = problems.absorb(alarms(&out.join(RECORDS)))?;
    let checked = facts.zip(config).zip(log).zip(samples).zip(alarms);
    let ((((facts, config), log), samples), alarms) = problems.into_checked(checked)?;
    Ok(Contents { facts, config, log, samples, alarms, files })
}

/// The error for a path that is not a run folder.
pub(super) fn no_run(out: &Path) -> Error {
    let what = match (out.exists(), out.is_dir(), out.join("config.json").is_file()) {
        (false, ..) => "no such folder".to_owned(),
        (_, false, _) => "a file".to_owned(),
        (.., true) => format!("a model folder, which has no {RUN}"),
        _ => format!("has no {RUN}"),
    };
    Error::invalid(out.display(), format!("{what}, expected the folder of a run"))
}

/// The alarms of the steps that have a record, in order.
fn alarms(folder: &Path) -> Result<Vec<(u64, Vec<String>)>> {
    let of_record = |(step, path): (u64, PathBuf)| {
        let record = object(&text(&path)?, &path.display().to_string())?;
        let alarms = record.get("alarms").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok((step, alarms.iter().filter_map(Value::as_str).map(str::to_owned).collect()))
    };
    numbered(folder, ".json")?.into_iter().map(of_record).collect()
}

/// Reads a file of a run folder.
fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::invalid(path.display(), format!("cannot be read: {error}, expected a file of a run")))
}

fn object(text: &str, location: &str) -> Result<Map<String, Value>> {
    serde_json::from_str(text).map_err(|error| Error::invalid(location, format!("is damaged: {error}")))
}

/// Parses the lines of a JSONL file, each with its location. A partial last line of a killed or running
/// process is ignored.
fn lines<T>(path: &Path, of_line: impl Fn(Map<String, Value>, &str) -> Result<T>) -> Result<Vec<T>> {
    let text = text(path)?;
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).enumerate();
    let parsed = whole.map(|(index, line)| {
        let location = format!("{}:{}", path.display(), index + 1);
        of_line(object(line.trim_end(), &location)?, &location)
    });
    parsed.collect()
}

/// A line of metrics.jsonl.
fn logged(line: Map<String, Value>, location: &str) -> Result<(u64, Metrics)> {
    let damaged = |what: String| Error::invalid(location, format!("is damaged: {what}"));
    let step = line.get("step").and_then(Value::as_u64).ok_or_else(|| damaged("no step".to_owned()))?;
    let mut metrics = Metrics::new();
    for (name, value) in line.iter().filter(|(name, _)| *name != "step") {
        let number = if value.is_null() { Some(f64::NAN) } else { value.as_f64() };
        metrics.set(name.as_str(), number.ok_or_else(|| damaged(format!("{name} is not a number")))?);
    }
    Ok((step, metrics))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(metrics: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in
            [(RUN, "{\"stage\": \"ppo\"}"), (CONFIG, "[run]\nout = 'x'\n"), (METRICS, metrics), (SAMPLES, "")]
        {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn null_is_read_as_nan_and_a_partial_line_is_ignored() {
        let folder = folder("{\"step\":1,\"a\":null,\"b\":2}\n{\"step\":2,\"b\":3.5}\n{\"step\":3,\"b");
        let record = read(folder.path()).unwrap();
        assert_eq!(record.facts["stage"], "ppo");
        assert_eq!(record.log.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [1, 2]);
        assert!(record.log[0].1.get("a").unwrap().is_nan());
        assert_eq!((record.log[0].1.get("b"), record.log[1].1.get("b")), (Some(2.0), Some(3.5)));
    }

    #[test]
    fn damage_is_reported_with_its_location() {
        let refused = |folder: &Path| read(folder).unwrap_err().to_string();
        let whole = "{\"step\":1,\"a\":1.0}\n";
        for (metrics, part) in [
            ("", "metrics.jsonl: has no line yet"),
            ("{\"step\":1}\n{\"step\n", "metrics.jsonl:2: is damaged"),
            ("[1]\n", "metrics.jsonl:1: is damaged"),
            ("{\"a\":1}\n", "metrics.jsonl:1: is damaged: no step"),
            ("{\"step\":1,\"a\":\"x\"}\n", "metrics.jsonl:1: is damaged: a is not a number"),
        ] {
            let said = refused(folder(metrics).path());
            assert!(said.contains(part), "`{part}` is not in `{said}`");
        }
        for (name, part) in [(RUN, "has no run.json"), (CONFIG, "config.toml: cannot be read")] {
            let folder = folder(whole);
            std::fs::remove_file(folder.path().join(name)).unwrap();
            assert!(refused(folder.path()).contains(part));
        }
        let folder = folder(whole);
        std::fs::write(folder.path().join(RUN), "{").unwrap();
        std::fs::write(folder.path().join(SAMPLES), [0xff, b'\n']).unwrap();
        let said = refused(folder.path());
        assert!(said.contains("run.json: is damaged") && said.contains("samples.jsonl: cannot be read"), "{said}");
    }
}
