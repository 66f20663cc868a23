//! Decontamination: removes rows that share 13 consecutive words with an evaluation set.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use align_core::error::{Error, Result};
use align_core::progress::Progress;
use align_data::{BadRows, RawRow, RowLocation, Stream};
use hashbrown::HashTable;
use serde::Serialize;
use serde_json::{Value, json};
use twox_hash::XxHash64;

use crate::words::{normalized, strings, words};
use crate::{CountingSink, FileCounts, Inputs, Reason, Sink};

/// The number of consecutive common words that count as an overlap. Qwen report §2.1.
const GRAM_WORDS: usize = 13;

/// The settings, for reports.
pub fn settings() -> Value {
    json!({ "normalised": "NFKC, lower case, punctuation", "words": GRAM_WORDS })
}

/// Statistics of an evaluation file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AgainstCounts {
    /// The file.
    pub file: PathBuf,
    /// Its rows.
    pub rows: u64,
    /// Its 13-grams that no earlier file has.
    pub grams: u64,
    /// Rows whose texts all have fewer than 13 words: they cannot be detected.
    pub too_short: u64,
    /// Rows removed for one of its 13-grams.
    pub removed: u64,
}

/// Keeps every row that shares no 13 consecutive words with an evaluation set. All strings of a row are
/// compared, whatever their keys.
///
/// # Errors
/// [`Error::Invalid`] for bad files and rows (bad rows of an evaluation set are always errors), and errors of
/// the sink.
pub fn decontaminate(
    inputs: Inputs<'_>,
    against: &[PathBuf],
    sink: &mut dyn Sink,
    progress: &mut dyn Progress,
) -> Result<(Vec<FileCounts>, Vec<AgainstCounts>)> {
    let mut grams = Grams::read(against, progress)?;
    let mut counting = CountingSink::new(sink);
    let stream = Stream { files: inputs.files, kind: None, bad_rows: inputs.bad_rows };
    let mut counts = std::mem::take(&mut grams.files);
    stream.each(
        "decontaminate",
        progress,
        |row| Ok(strings(&row.value()?).into_iter().find_map(|text| grams.first_in(text))),
        |row, found| {
            let reason = match found {
                Ok(None) => return counting.keep(&row),
                Ok(Some(start)) => {
                    let (file, location) = grams.row(start);
                    counts[file].removed += 1;
                    Reason::Overlap { with: location.to_string(), words: grams.words(start) }
                }
                Err(what) => Reason::Bad { what },
            };
            counting.remove(&row.location, reason)
        },
    )?;
    Ok((counting.files, counts))
}

/// The 13-grams of an evaluation set. Words are numbered, so that a word of text takes four bytes, and a
/// 13-gram about six more.
#[derive(Default)]
struct Grams {
    numbers: HashMap<Arc<str>, u32>,
    vocabulary: Vec<Arc<str>>,
    /// The texts with at least 13 words, concatenated.
    text: Vec<u32>,
    /// The first offset in the text of each distinct 13-gram.
    starts: HashTable<u32>,
    /// The offset in the text of each row, the index of its file, and its location.
    rows: Vec<(u32, usize, RowLocation)>,
    files: Vec<AgainstCounts>,
}

impl Grams {
    fn read(files: &[PathBuf], progress: &mut dyn Progress) -> Result<Self> {
        let mut grams = Self::default();
        let stream = Stream { files, kind: None, bad_rows: BadRows::Error };
        let prepare = |row: &RawRow| Ok(strings(&row.value()?).into_iter().map(normalized).collect::<Vec<_>>());
        stream.each("evaluation", progress, prepare, |row, texts| {
            grams.add_row(row.location, &texts.expect("a bad row is refused"))
        })?;
        Ok(grams)
    }

    fn add_row(&mut self, location: RowLocation, texts: &[String]) -> Result<()> {
        if self.rows.last().is_none_or(|(_, _, last)| !Arc::ptr_eq(&last.file, &location.file)) {
            let file = location.file.to_path_buf();
            self.files.push(AgainstCounts { file, rows: 0, grams: 0, too_short: 0, removed: 0 });
        }
        let start = self.text.len();
        let num_grams = self.starts.len();
        for text in texts {
            self.add(text);
        }
        if u32::try_from(self.text.len()).is_err() {
            let what = "more than 4 billion words of evaluation, expected fewer; take the files in parts";
            return Err(Error::invalid(&location, what));
        }
        let counts = self.files.last_mut().expect("a file was just added");
        counts.rows += 1;
        counts.grams += (self.starts.len() - num_grams) as u64;
        counts.too_short += u64::from(self.text.len() == start);
        self.rows.push((start as u32, self.files.len() - 1, location));
        Ok(())
    }

    fn add(&mut self, text: &str) {
        let first = self.text.len();
        for word in words(text) {
            let number = self.numbers.get(word).copied().unwrap_or_else(|| {
                let (number, word) = (self.vocabulary.len() as u32, Arc::from(word));
                self.vocabulary.push(Arc::clone(&word));
                self.numbers.insert(word, number);
                number
            });
            self.text.push(number);
        }
        let num_words = self.text.len() - first;
        if num_words < GRAM_WORDS {
            self.text.truncate(first);
            return;
        }
        let text = &self.text;
        let gram = |start: u32| &text[start as usize..start as usize + GRAM_WORDS];
        for start in first..=text.len() - GRAM_WORDS {
            let start = start as u32;
            let same = |other: &u32| gram(*other) == gram(start);
            self.starts.entry(hash(gram(start)), same, |start| hash(gram(*start))).or_insert(start);
        }
    }

    /// The offset of the first 13-gram of a text that is in the evaluation set.
    fn first_in(&self, text: &str) -> Option<u32> {
        let text = normalized(text);
        let mut run = Vec::new();
        for word in words(&text) {
            // A word that is not in the evaluation set is in none of its 13-grams.
            let Some(number) = self.numbers.get(word) else {
                run.clear();
                continue;
            };
            run.push(*number);
            let Some(gram) = run.len().checked_sub(GRAM_WORDS).map(|start| &run[start..]) else { continue };
            let same = |start: &u32| self.gram(*start) == gram;
            if let Some(start) = self.starts.find(hash(gram), same) {
                return Some(*start);
            }
        }
        None
    }

    fn gram(&self, start: u32) -> &[u32] {
        &self.text[start as usize..start as usize + GRAM_WORDS]
    }

    /// The words of a 13-gram.
    fn words(&self, start: u32) -> String {
        let words: Vec<&str> = self.gram(start).iter().map(|number| &*self.vocabulary[*number as usize]).collect();
        words.join(" ")
    }

    /// The index of the file and the location of the row in which a 13-gram begins.
    fn row(&self, start: u32) -> (usize, &RowLocation) {
        let (_, file, location) = &self.rows[self.rows.partition_point(|(first, ..)| *first <= start) - 1];
        (*file, location)
    }
}

fn hash(gram: &[u32]) -> u64 {
    let mut bytes = [0; 4 * GRAM_WORDS];
    for (bytes, word) in bytes.chunks_exact_mut(4).zip(gram) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    XxHash64::oneshot(0, &bytes)
}

#[cfg(test)]
mod tests {
    use align_core::progress::Silent;

    use super::*;

    /// The overlap of a text with an evaluation set of one text.
    fn found(evaluation: &str, text: &str) -> Option<String> {
        let mut grams = Grams::default();
        let location = RowLocation { file: PathBuf::from("eval.jsonl").into(), index: 0, line: 1 };
        grams.add_row(location, &[normalized(evaluation)]).unwrap();
        grams.first_in(text).map(|start| grams.words(start))
    }

    const TWENTY: &str = "a b c d e f g h i j k l m n o p q r s t";

    #[test]
    fn thirteen_words_in_a_row_are_an_overlap_and_twelve_are_not() {
        assert_eq!(found(TWENTY, "x c d e f g h i j k l m n o y").as_deref(), Some("c d e f g h i j k l m n o"));
        assert_eq!(found(TWENTY, "x c d e f g h i j k l m n y o"), None);
        // Two sequences of twelve, separated by a known word.
        assert_eq!(found(TWENTY, "a b c d e f g h i j k l a i j k l m n o p q r s t"), None);
        assert_eq!(found("a b c", "a b c"), None);
    }

    #[test]
    fn case_punctuation_and_width_do_not_hide_an_overlap() {
        let text = "… (A, b) C; d. E!\nF g—h “i” ｊ k: L, m …";
        assert_eq!(found(TWENTY, text).as_deref(), Some("a b c d e f g h i j k l m"));
        let chinese = "小明有五个苹果，他又买了七个苹果。";
        assert_eq!(
            found(chinese, &format!("题目：{chinese}一共？")).as_deref(),
            Some("小 明 有 五 个 苹 果 他 又 买 了 七 个")
        );
    }

    #[test]
    fn overlaps_are_counted_for_the_row_that_has_them() {
        let folder = tempfile::TempDir::new().unwrap();
        let write = |name: &str, text: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, text).unwrap();
            file
        };
        let (first, rest) = (&TWENTY[..25], &TWENTY[14..]);
        // 13-grams do not span strings.
        let one = write("one.jsonl", &format!("{{\"q\": \"{TWENTY}\"}}\n{{\"q\": \"{first}\", \"a\": \"{rest}\"}}\n"));
        let two = write("two.jsonl", &format!("{{\"q\": \"short\"}}\n{{\"q\": [\"{TWENTY} u v w\"]}}\n"));
        let grams = Grams::read(&[one.clone(), two.clone()], &mut Silent).unwrap();
        let counts = |file, grams, too_short| AgainstCounts { file, rows: 2, grams, too_short, removed: 0 };
        assert_eq!(grams.files, [counts(one, 8, 0), counts(two, 3, 1)]);
        let location = |text| grams.first_in(text).map(|start| (grams.row(start).0, grams.row(start).1.line));
        assert_eq!(location("h i j k l m n o p q r s t"), Some((0, 1)));
        assert_eq!(location("i j k l m n o p q r s t u"), Some((1, 2)));
    }
}
