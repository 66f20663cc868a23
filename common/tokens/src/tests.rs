//! Rows of tokens: how they are read, cached and packed.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use align_core::config::Overlong;
use align_core::error::Result;
use align_core::progress::Silent;
use align_data::BadRows;
use align_text::chatml::{ChatFormat, LossOn, SYSTEM};
use align_text::tokenizer::Tokenizer;
use flate2::read::GzDecoder;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tempfile::TempDir;

use super::*;

/// Writes the golden tokenizer of Qwen2.5 into a folder.
fn unpack(to: &Path) {
    let packed = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tokenizer/qwen2_5"));
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(packed).unwrap().map(|entry| entry.unwrap().path()) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let mut bytes = fs::read(&file).unwrap();
        if name.ends_with(".gz") {
            let mut whole = Vec::new();
            GzDecoder::new(&bytes[..]).read_to_end(&mut whole).unwrap();
            bytes = whole;
        }
        fs::write(to.join(name.trim_end_matches(".gz")), bytes).unwrap();
    }
}

/// A folder with a tokenizer, data files and a cache.
struct Desk {
    folder: TempDir,
    tokenizer: Tokenizer,
    format: ChatFormat,
}

impl Desk {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let model = folder.path().join("model");
        unpack(&model);
        let tokenizer = Tokenizer::open(&model).unwrap();
        let format = ChatFormat::open(&model, &tokenizer, SYSTEM).unwrap();
        Self { folder, tokenizer, format }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn chat(&self, file: &Path, cache: Cache, bad_rows: BadRows) -> Result<LmData> {
        let mut reading = Reading { bad_rows, cache, progress: &mut Silent };
        let limit = Some((64, Overlong::Truncate));
        chat_rows(&[file.to_owned()], &self.format, LossOn::Assistant, limit, &mut reading)
    }

    /// The names in the cache.
    fn entries(&self) -> Vec<PathBuf> {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(self.path("cache")).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        entries
    }
}

fn dialogue(user: &str, answer: &str) -> String {
    format!("{}\n", json!({ "instruction": user, "output": answer }))
}

/// A direct implementation of packing, document by document.
fn merged_by_hand(documents: &[Vec<i64>], end: i64, max_tokens: usize) -> Vec<LmRow> {
    let mut row: Vec<Piece> = Vec::new();
    let mut rows = Vec::new();
    for document in documents {
        let mut piece = Vec::new();
        for (index, token) in document.iter().chain([&end]).enumerate() {
            piece.push(*token);
            let filled: usize = row.iter().map(|piece| piece.tokens.len()).sum::<usize>() + piece.len();
            if filled == max_tokens || index == document.len() {
                let targets = vec![true; piece.len()];
                row.push(Piece::new(std::mem::take(&mut piece), targets));
            }
            if filled == max_tokens {
                rows.push(LmRow { pieces: std::mem::take(&mut row) });
            }
        }
    }
    rows.push(LmRow { pieces: row });
    rows.retain(|row| row.num_loss_tokens() > 0);
    rows
}

#[test]
fn documents_are_packed_as_by_hand() {
    let desk = Desk::new();
    let mut random = ChaCha8Rng::seed_from_u64(5);
    for max_tokens in [2, 3, 5, 16, 200] {
        let texts: Vec<String> =
            (0..30).map(|_| "ab c\n".chars().cycle().take(random.random_range(1..40)).collect()).collect();
        let lines: String = texts.iter().map(|text| format!("{}\n", json!({ "text": text }))).collect();
        let files = [desk.write("a.jsonl", &lines), desk.write("b.txt", "One more document.")];
        for overlong in [None, Some(Overlong::Drop), Some(Overlong::Truncate)] {
            let mut reading = Reading { bad_rows: BadRows::Error, cache: Cache::Off, progress: &mut Silent };
            let data = text_rows(&files, &desk.tokenizer, max_tokens, overlong, None, &mut reading);
            let mut documents: Vec<Vec<i64>> = texts
                .iter()
                .map(String::as_str)
                .chain(["One more document."])
                .map(|text| desk.tokenizer.encode(text))
                .collect();
            match overlong {
                None => {}
                Some(Overlong::Drop) => documents.retain(|document| document.len() < max_tokens),
                Some(Overlong::Truncate) => documents.iter_mut().for_each(|document| document.truncate(max_tokens - 1)),
            }
            let expected = merged_by_hand(&documents, desk.tokenizer.special().endoftext, max_tokens);
            if expected.is_empty() {
                assert!(data.is_err());
                continue;
            }
            let data = data.unwrap();
            assert_eq!(data.rows.iter().collect::<Vec<_>>(), expected, "{max_tokens} {overlong:?}");
            assert_eq!(data.counts.tokens, documents.iter().map(|document| document.len() as u64 + 1).sum::<u64>());
            let targets: usize = expected.iter().map(LmRow::num_loss_tokens).sum();
            assert_eq!(data.counts.loss_tokens, targets as u64);
            assert_eq!(data.rows.len(), expected.len());
        }
    }
}

#[test]
fn shuffled_documents_are_the_same_documents_in_another_order() {
    let desk = Desk::new();
    let lines: String = (0..50).map(|index| format!("{}\n", json!({ "text": format!("document {index}") }))).collect();
    let file = desk.write("a.jsonl", &lines);
    let read = |seed: Option<u64>| {
        let mut reading = Reading { bad_rows: BadRows::Error, cache: Cache::Off, progress: &mut Silent };
        let data = text_rows(std::slice::from_ref(&file), &desk.tokenizer, 1000, None, seed, &mut reading).unwrap();
        let tokens: Vec<i64> = data.rows.iter().flat_map(|row| row.pieces).flat_map(|piece| piece.tokens).collect();
        desk.tokenizer.decode(&tokens)
    };
    let (plain, shuffled) = (read(None), read(Some(3)));
    assert!(plain.starts_with("document 0<|endoftext|>document 1<|endoftext|>") && plain != shuffled);
    let sorted = |text: &str| {
        let mut documents: Vec<String> = text.split("<|endoftext|>").map(str::to_owned).collect();
        documents.sort();
        documents
    };
    assert_eq!(sorted(&plain), sorted(&shuffled));
}

#[test]
fn rows_of_the_cache_are_those_of_the_file() {
    let desk = Desk::new();
    let lines = [
        dialogue("Hello", "Good day."),
        "no json\n".to_owned(),
        dialogue("Write <|im_end|> please", "No."),
        dialogue("Hello", "Good day."),
        dialogue("Long", &"word ".repeat(100)),
    ];
    let file = desk.write("chat.jsonl", &lines.concat());
    let memory = desk.chat(&file, Cache::Off, BadRows::Skip).unwrap();
    let cache = || Cache::Folder(desk.path("cache"));
    for round in 0..2 {
        let cached = desk.chat(&file, cache(), BadRows::Skip).unwrap();
        assert_eq!(cached.rows.iter().collect::<Vec<_>>(), memory.rows.iter().collect::<Vec<_>>(), "round {round}");
        assert_eq!(
            (&cached.counts, &cached.skipped, &cached.file_rows),
            (&memory.counts, &memory.skipped, &memory.file_rows)
        );
        assert_eq!(cached.rows.location(1), memory.rows.location(1));
        assert_eq!(desk.entries().len(), 1);
    }
    let counts = &memory.counts;
    assert_eq!((counts.rows, counts.turns, counts.special_text, counts.truncated), (4, 8, 1, 1));
    assert_eq!(counts.bad.values().sum::<u64>(), 1);
    assert_eq!(memory.skipped[0].location, format!("{}:2", file.display()));
    let location = memory.rows.location(1).unwrap();
    assert_eq!((location.index, location.line), (2, 3));
    let hashes: Vec<u64> = memory.rows.hashes().collect();
    assert!(hashes[0] == hashes[2] && hashes[0] != hashes[1]);
    assert_eq!(counts.tokens, memory.rows.iter().map(|row| row.len() as u64).sum::<u64>());
    assert_eq!(counts.loss_tokens, memory.rows.iter().map(|row| row.num_loss_tokens() as u64).sum::<u64>());
}

#[test]
fn an_entry_depends_on_content_and_settings() {
    let desk = Desk::new();
    let cache = || Cache::Folder(desk.path("cache"));
    let file = desk.write("chat.jsonl", &dialogue("Hello", "Good day."));
    desk.chat(&file, cache(), BadRows::Error).unwrap();
    // Another name, the same content.
    let copy = desk.write("copy.jsonl", &dialogue("Hello", "Good day."));
    assert_eq!(desk.chat(&copy, cache(), BadRows::Error).unwrap().rows.location(0).unwrap().file.as_ref(), copy);
    assert_eq!(desk.entries().len(), 1);
    // The same size, another content.
    let other = desk.write("chat.jsonl", &dialogue("Hello", "Good dog."));
    let data = desk.chat(&other, cache(), BadRows::Error).unwrap();
    assert!(desk.tokenizer.decode(&data.rows.row(0).pieces[0].tokens).contains("dog"));
    assert_eq!(desk.entries().len(), 2);
    // Another mask.
    let mut reading = Reading { bad_rows: BadRows::Error, cache: cache(), progress: &mut Silent };
    chat_rows(&[other], &desk.format, LossOn::QwenFinetune, None, &mut reading).unwrap();
    assert_eq!(desk.entries().len(), 3);
}

#[test]
fn a_damaged_entry_is_recreated() {
    let desk = Desk::new();
    let cache = || Cache::Folder(desk.path("cache"));
    let file = desk.write("chat.jsonl", &dialogue("Hello", "Good day."));
    let sound: Vec<LmRow> = desk.chat(&file, cache(), BadRows::Error).unwrap().rows.iter().collect();
    let entry = desk.entries().remove(0);
    for name in ["tokens.u32", "lists.u64", "about.json"] {
        let mut bytes = fs::read(entry.join(name)).unwrap();
        bytes[3] ^= 1;
        fs::write(entry.join(name), &bytes).unwrap();
        let again: Vec<LmRow> = desk.chat(&file, cache(), BadRows::Error).unwrap().rows.iter().collect();
        assert_eq!(again, sound, "{name}");
        fs::write(entry.join(name), &bytes[..2]).unwrap();
        desk.chat(&file, cache(), BadRows::Error).unwrap();
        assert_ne!(fs::read(entry.join(name)).unwrap(), &bytes[..2], "{name}");
    }
    assert_eq!(desk.entries(), [entry]);
}

#[test]
fn entries_of_last_month_are_removed_and_nothing_else() {
    let desk = Desk::new();
    let cache = || Cache::Folder(desk.path("cache"));
    let first = desk.write("first.jsonl", &dialogue("Hello", "Good day."));
    desk.chat(&first, cache(), BadRows::Error).unwrap();
    let old = desk.entries().remove(0);
    let month_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(32 * 24 * 3600);
    let manifest = fs::File::options().append(true).open(old.join("manifest.json")).unwrap();
    manifest.set_modified(month_ago).unwrap();
    fs::create_dir(desk.path("cache/notes")).unwrap();
    let second = desk.write("second.jsonl", &dialogue("Hello", "Good evening."));
    desk.chat(&second, cache(), BadRows::Error).unwrap();
    assert!(!old.exists() && desk.path("cache/notes").exists());
    assert_eq!(desk.entries().len(), 2);
}

#[test]
fn bad_rows_and_folders_that_cannot_be_used_are_refused() {
    let desk = Desk::new();
    let bad = desk.write("bad.jsonl", &format!("{}no json\n", dialogue("Hello", "Good day.")));
    let error = desk.chat(&bad, Cache::Folder(desk.path("cache")), BadRows::Error).unwrap_err().to_string();
    assert!(error.contains("bad.jsonl:2") && desk.entries().is_empty(), "{error}");
    let file = desk.write("chat.jsonl", &dialogue("Hello", "Good day."));
    let error = desk.chat(&file, Cache::Folder(file.clone()), BadRows::Error).unwrap_err().to_string();
    assert!(error.contains("cannot be used as data.cache"), "{error}");
}
