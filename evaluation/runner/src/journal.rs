//! The answers of an evaluation as they come, so that it can resume: a file of JSON lines, and what an
//! earlier run left in it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use align_core::error::{Error, Result};
use align_tasks::task::{Answer, Continuation};
use serde::{Deserialize, Serialize};

use crate::write::{Ended, Written};

/// One answer, with how it came about.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// What the model answered.
    pub answer: Answer,
    /// Number of tokens drawn; 0 for choices.
    pub tokens: usize,
    /// Why a text ended.
    pub ended: Option<Ended>,
}

impl From<Written> for Given {
    fn from(written: Written) -> Self {
        Self { answer: Answer::Text(written.text), tokens: written.tokens, ended: Some(written.ended) }
    }
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    id: String,
    sample: usize,
    /// ln p, and whether each token is the most probable one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    choices: Option<Vec<(f64, bool)>>,
    #[serde(flatten)]
    written: Option<Written>,
}

/// The answers that are known, and the file that new ones are appended to.
#[derive(Debug, Default)]
pub struct Journal {
    known: HashMap<(String, usize), Given>,
    file: Option<(PathBuf, File)>,
}

impl Journal {
    /// Keeps answers in memory alone.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// Opens a file, which is made when missing. A torn last line is dropped.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Invalid`] when a complete line is not one of such a file.
    pub fn open(path: &Path) -> Result<Self> {
        let mut known = HashMap::new();
        let mut complete = 0;
        if path.exists() {
            let mut reader = BufReader::new(File::open(path).map_err(Error::io(path))?);
            let mut line = String::new();
            for number in 1.. {
                line.clear();
                let length = reader.read_line(&mut line).map_err(Error::io(path))?;
                if length == 0 || !line.ends_with('\n') {
                    break;
                }
                let read: Line = serde_json::from_str(&line).map_err(|error| {
                    let location = format!("{}:{number}", path.display());
                    Error::invalid(location, format!("is not an answer ({error}), expected the file as it was written"))
                })?;
                if let Some(given) = read.choices.map(choices).or(read.written.map(Given::from)) {
                    known.insert((read.id, read.sample), given);
                }
                complete += length as u64;
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(Error::io(path))?;
        file.set_len(complete).map_err(Error::io(path))?;
        Ok(Self { known, file: Some((path.to_owned(), file)) })
    }

    /// The answer to an item, if it is known.
    pub fn get(&self, id: &str, sample: usize) -> Option<&Given> {
        self.known.get(&(id.to_owned(), sample))
    }

    /// Adds answers, all in one write.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn add(&mut self, answers: Vec<(String, usize, Given)>) -> Result<()> {
        let mut lines = String::new();
        for (id, sample, given) in answers {
            let (choices, written) = match &given.answer {
                Answer::Choice(continuations) => {
                    (Some(continuations.iter().map(|choice| (choice.logprob, choice.is_greedy)).collect()), None)
                }
                Answer::Text(text) => {
                    let ended = given.ended.unwrap_or(Ended::Length);
                    (None, Some(Written { text: text.clone(), tokens: given.tokens, ended }))
                }
            };
            let line = Line { id: id.clone(), sample, choices, written };
            lines.push_str(&serde_json::to_string(&line).expect("plain data"));
            lines.push('\n');
            self.known.insert((id, sample), given);
        }
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        file.write_all(lines.as_bytes()).map_err(Error::io(path))
    }
}

fn choices(pairs: Vec<(f64, bool)>) -> Given {
    let continuation = |(logprob, is_greedy)| Continuation { logprob, is_greedy };
    Given { answer: Answer::Choice(pairs.into_iter().map(continuation).collect()), tokens: 0, ended: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Given {
        Written { text: text.to_owned(), tokens: 3, ended: Ended::Stop }.into()
    }

    #[test]
    fn answers_are_found_again_and_a_torn_line_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.jsonl");
        let logprob = -0.1 - 0.2; // Not exact in decimal: read back to the bit.
        let chosen = choices(vec![(logprob, true), (-7.25, false)]);
        let mut journal = Journal::open(&path).unwrap();
        journal.add(vec![("a/0".into(), 0, text("one\ntwo")), ("a/1".into(), 1, chosen.clone())]).unwrap();
        drop(journal);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(br#"{"id":"a/2","sample":0,"te"#).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.get("a/0", 0), Some(&text("one\ntwo")));
        assert_eq!(journal.get("a/1", 1), Some(&chosen));
        assert_eq!((journal.get("a/1", 0), journal.get("a/2", 0)), (None, None));
        journal.add(vec![("a/2".into(), 0, text(""))]).unwrap();
        assert_eq!(Journal::open(&path).unwrap().get("a/2", 0), Some(&text("")));
    }

    #[test]
    fn a_foreign_line_is_refused_with_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.jsonl");
        std::fs::write(&path, "{\"id\":\"a\",\"sample\":0,\"choices\":[]}\nhello\n").unwrap();
        let error = Journal::open(&path).unwrap_err().to_string();
        assert!(error.contains("answers.jsonl:2"), "{error}");
    }
}
