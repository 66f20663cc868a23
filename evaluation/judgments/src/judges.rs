//! `judges.json` of a labelling folder: the programs that judged it, so that a name refers to one judge.

use std::collections::BTreeMap;
use std::path::Path;

use align_core::atomic_files::write_atomic;
use align_core::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The file of judges in a labelling folder.
pub const JUDGES: &str = "judges.json";

/// A program that judges.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeRecord {
    /// `rm`, `chat` or `endpoint`.
    pub kind: String,
    /// The folder, or the name at the endpoint.
    pub model: String,
    /// What its judgments depend on, such as the content of its weights.
    pub identity: BTreeMap<String, Value>,
    /// Models of the items of which it is not independent, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub not_independent: BTreeMap<String, String>,
}

/// The judges of a folder, by annotator.
pub type Judges = BTreeMap<String, JudgeRecord>;

/// Reads the judges of a folder. A file that does not exist has none.
///
/// # Errors
/// [`Error::Invalid`] when it is damaged; failures of the disk.
pub fn read_judges(folder: &Path) -> Result<Judges> {
    let path = folder.join(JUDGES);
    match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Judges::new()),
        text => serde_json::from_slice(&text.map_err(Error::io(&path))?).map_err(|error| {
            Error::invalid(path.display(), format!("is damaged ({error}), expected the file as it was written"))
        }),
    }
}

/// Keeps a judge, or compares it with what has been kept under its name. What it is not independent of is
/// added to what is known already.
pub(crate) fn keep(folder: &Path, annotator: &str, mut now: JudgeRecord) -> Result<()> {
    let mut judges = read_judges(folder)?;
    let then = judges.get(annotator);
    if let Some(then) = then {
        let differ: Vec<&str> = changes(then, &now);
        if !differ.is_empty() {
            let what = format!(
                "{annotator} has judged with other values of {}, expected the same, or another --name",
                differ.join(", ")
            );
            return Err(Error::invalid(folder.join(JUDGES).display(), what));
        }
        let known = then.not_independent.clone();
        now.not_independent.extend(known);
    }
    if then == Some(&now) {
        return Ok(());
    }
    judges.insert(annotator.to_owned(), now);
    let text = serde_json::to_string_pretty(&judges).expect("plain data") + "\n";
    write_atomic(&folder.join(JUDGES), text.as_bytes())
}

/// What differs. A folder may move.
fn changes<'a>(then: &'a JudgeRecord, now: &'a JudgeRecord) -> Vec<&'a str> {
    if then.kind != now.kind {
        return vec!["kind of judge"];
    }
    let keys = then.identity.keys().chain(now.identity.keys());
    let mut differ: Vec<&str> =
        keys.filter(|key| then.identity.get(*key) != now.identity.get(*key)).map(String::as_str).collect();
    differ.sort_unstable();
    differ.dedup();
    differ
}
