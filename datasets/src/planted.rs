//! A corpus of any size with planted copies and overlaps with an evaluation set, to test what `align data`
//! must and must not find. Texts are random words, or random Chinese characters in one text of eight. A fifth
//! of them begin with one of fifty notices.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The number of words in a shingle, for the similarity.
const SHINGLE: usize = 5;
/// A word that occurs only where it was planted.
const FENCE: &str = "zzz";
const VOCABULARY: f64 = 20_000.0;

/// The planted copies and overlaps, by row index from 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Planted {
    /// Rows that differ from an earlier one only in case, white space or the width of letters: (row, earlier
    /// row).
    pub exact: Vec<(usize, usize)>,
    /// Rows with changed words and a Jaccard similarity to the earlier row of at least 0.8: (row, earlier
    /// row, similarity).
    pub near: Vec<(usize, usize, f64)>,
    /// The same with a similarity below 0.8.
    pub unlike: Vec<(usize, usize, f64)>,
    /// Rows with 13 to 25 consecutive words of an evaluation row: (row, evaluation row).
    pub overlaps: Vec<(usize, usize)>,
    /// Rows with 12 consecutive words of an evaluation row, once or twice.
    pub short_overlaps: Vec<usize>,
}

/// Writes `corpus.jsonl` with `num` documents, `evaluation.jsonl`, and `planted.json` with what was planted.
///
/// # Errors
/// When a file cannot be written.
pub fn write_planted(folder: &Path, num: usize, seed: u64) -> io::Result<Planted> {
    fs::create_dir_all(folder)?;
    let evaluation: Vec<Vec<String>> = (0..num / 100 + 50).map(|row| question(seed, row)).collect();
    let mut out = BufWriter::new(File::create(folder.join("evaluation.jsonl"))?);
    for words in &evaluation {
        writeln!(out, "{}", json!({ "question": text(words), "choices": ["yes", "no"], "answer": 0 }))?;
    }
    out.flush()?;

    let mut planted = Planted::default();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // Rows without a copy so far, with the number of their document.
    let mut originals: Vec<(usize, usize)> = Vec::new();
    let mut documents = 0..;
    let mut out = BufWriter::new(File::create(folder.join("corpus.jsonl"))?);
    for row in 0..num {
        let what = if originals.is_empty() { 99 } else { random.random_range(0..100) };
        let text = match what {
            0..12 => {
                let (of, number) = originals.swap_remove(random.random_range(0..originals.len()));
                let words = document(seed, number);
                if what < 6 {
                    planted.exact.push((row, of));
                    disguised(&text(&words), &mut random)
                } else {
                    // A word may be replaced by itself.
                    let mut changed = changed(&words, &mut random);
                    if changed == words {
                        changed[0] = FENCE.to_owned();
                    }
                    let (both, either) = shared(&words, &changed);
                    let rows = if both * 5 >= either * 4 { &mut planted.near } else { &mut planted.unlike };
                    rows.push((row, of, both as f64 / either as f64));
                    text(&changed)
                }
            }
            _ => {
                let number = documents.next().expect("the range is infinite");
                let mut words = document(seed, number);
                let asked = random.random_range(0..evaluation.len());
                let question = &evaluation[asked];
                let at = random.random_range(0..=words.len());
                match what {
                    12 | 13 => {
                        let len = random.random_range(13..=25);
                        let start = random.random_range(0..=question.len() - len);
                        words.splice(at..at, question[start..start + len].iter().cloned());
                        planted.overlaps.push((row, asked));
                    }
                    14 => {
                        let start = random.random_range(0..=question.len() - 25);
                        let mut run = question[start..start + 25].to_vec();
                        FENCE.clone_into(&mut run[12]);
                        run.truncate(if random.random() { 12 } else { 25 });
                        let fence = [FENCE.to_owned()];
                        words.splice(at..at, fence.iter().chain(&run).chain(&fence).cloned());
                        planted.short_overlaps.push(row);
                    }
                    _ => originals.push((row, number)),
                }
                text(&words)
            }
        };
        writeln!(out, "{}", json!({ "id": format!("row-{row}"), "text": text }))?;
    }
    out.flush()?;
    fs::write(folder.join("planted.json"), serde_json::to_string(&planted)?)?;
    Ok(planted)
}

/// The 80 to 500 words of a document, as a function of its number.
fn document(seed: u64, number: usize) -> Vec<String> {
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ ((number as u64 + 1) << 20));
    let len = random.random_range(80..=500);
    let mut words = if random.random_range(0..5) == 0 {
        let notice = random.random_range(0..50);
        drawn(&mut ChaCha8Rng::seed_from_u64(notice), 30, word)
    } else {
        Vec::new()
    };
    let new_word = if random.random_range(0..8) == 0 { ideograph } else { word };
    words.extend(drawn(&mut random, len, new_word));
    words
}

/// The words of a question of the evaluation set.
fn question(seed: u64, row: usize) -> Vec<String> {
    let mut random = ChaCha8Rng::seed_from_u64(!seed ^ ((row as u64 + 1) << 20));
    let len = random.random_range(25..=60);
    let new_word = if random.random_range(0..8) == 0 { ideograph } else { word };
    drawn(&mut random, len, new_word)
}

fn drawn(random: &mut ChaCha8Rng, len: usize, new_word: fn(&mut ChaCha8Rng) -> String) -> Vec<String> {
    (0..len).map(|_| new_word(random)).collect()
}

/// A Chinese character, which counts as a word.
fn ideograph(random: &mut ChaCha8Rng) -> String {
    let code = random.random_range(0x4e00..0x5e00);
    char::from_u32(code).expect("an ideograph").to_string()
}

/// A word of syllables; some are frequent, most are rare.
fn word(random: &mut ChaCha8Rng) -> String {
    const SYLLABLES: [&str; 30] = [
        "ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu", "na", "pe", "qui", "ro", "su", "ta", "ve", "wi",
        "xo", "yu", "bra", "cle", "dri", "flo", "gru", "pla", "ste", "tri", "spo", "kru",
    ];
    let mut number = (random.random::<f64>().powi(3) * VOCABULARY) as usize;
    let mut word = String::new();
    loop {
        word.push_str(SYLLABLES[number % SYLLABLES.len()]);
        number /= SYLLABLES.len();
        if number == 0 {
            return word;
        }
    }
}

/// A text of sentences of twelve words.
fn text(words: &[String]) -> String {
    let mut text = String::new();
    for (index, word) in words.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| words[before].as_str());
        if before.is_some_and(|before| before.is_ascii() || word.is_ascii()) {
            text.push(' ');
        }
        let mut letters = word.chars();
        if index % 12 == 0 {
            text.extend(letters.by_ref().take(1).flat_map(char::to_uppercase));
        }
        text.extend(letters);
        if index % 12 == 11 {
            text.push('.');
        }
    }
    text
}

/// A variant of a text that is equal after normalisation.
fn disguised(text: &str, random: &mut ChaCha8Rng) -> String {
    let wide = |char: char| match char {
        '!'..='~' => char::from_u32(char as u32 - 0x20 + 0xff00).expect("a full-width form"),
        other => other,
    };
    match random.random_range(0..4) {
        0 => text.to_owned(),
        1 => text.to_uppercase(),
        2 => format!(" \t{}\n", text.replace(' ', "\u{3000}\r\n")),
        _ => text.chars().map(wide).collect(),
    }
}

/// The words with up to a tenth of them replaced, removed or inserted, or with the end cut off.
fn changed(words: &[String], random: &mut ChaCha8Rng) -> Vec<String> {
    let mut words = words.to_vec();
    if random.random_range(0..5) == 0 {
        words.truncate(words.len() - random.random_range(1..=words.len() * 3 / 10));
        return words;
    }
    let most = words.len() / 35;
    for _ in 0..random.random_range(1..=most.max(1)) {
        let at = random.random_range(0..words.len());
        match random.random_range(0..3) {
            0 => words[at] = word(random),
            1 => drop(words.remove(at)),
            _ => words.insert(at, word(random)),
        }
    }
    words
}

/// The sizes of the intersection and the union of the shingles.
fn shared(one: &[String], other: &[String]) -> (usize, usize) {
    let [one, other] = [one, other].map(|words| words.windows(SHINGLE).collect::<HashSet<_>>());
    let both = one.intersection(&other).count();
    (both, one.len() + other.len() - both)
}
