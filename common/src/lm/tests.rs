//! Rows of tokens: how they are read, kept, merged and laid out.

use std::fs;
use std::path::{Path, PathBuf};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::chatml::{ChatFormat, LossOn, SYSTEM};
use crate::config::Overlong;
use crate::data::BadRows;
use crate::error::Result;
use crate::model::tests::{NEWER, tiny, trainable};
use crate::progress::Silent;
use crate::tokenizer::{Tokenizer, tests::folders};

#[test]
fn rows_fill_microbatches_and_a_long_one_goes_alone() {
    assert_eq!(microbatches(&[3, 4, 9, 2, 2], 8), vec![0..2, 2..3, 3..5]);
    assert_eq!(microbatches(&[], 8), Vec::<Range<usize>>::new());
}

#[test]
fn only_what_a_target_needs_is_laid_out() {
    let row = LmRow { pieces: vec![Piece::new(vec![9, 8, 7, 6, 5], vec![true, false, true, true, false])] };
    let batch = flatten([&row], Device::Cpu);
    assert_eq!(batch.flat.tokens(), &[9, 8, 7]);
    assert_eq!(Vec::<i64>::try_from(&batch.positions).unwrap(), vec![1, 2]);
    assert_eq!(Vec::<i64>::try_from(&batch.targets).unwrap(), vec![7, 6]);
}

/// A folder with a tokenizer, data files and a cache.
struct Desk {
    folder: TempDir,
    tokenizer: Tokenizer,
    format: ChatFormat,
}

impl Desk {
    fn new() -> Self {
        let (model, _keep) = folders("qwen2_5").remove(0);
        let tokenizer = Tokenizer::open(&model).unwrap();
        let format = ChatFormat::open(&model, &tokenizer, SYSTEM).unwrap();
        Self { folder: TempDir::new().unwrap(), tokenizer, format }
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

/// The gradient of the token mean over rows that are cut into microbatches of so many rows.
fn gradient(model: &CausalLm, rows: &[LmRow], at_once: usize) -> Vec<Tensor> {
    let targets: usize = rows.iter().map(LmRow::num_loss_tokens).sum();
    for parameter in model.parameters() {
        parameter.tensor.shallow_clone().zero_grad();
    }
    for microbatch in rows.chunks(at_once) {
        backward(model, microbatch, None, 1.0 / targets as f64);
    }
    model.parameters().iter().map(|parameter| parameter.tensor.grad().copy()).collect()
}

/// The largest difference of two gradients, as a part of the larger one's norm.
fn difference(one: &[Tensor], other: &[Tensor]) -> f64 {
    let norm =
        |tensors: &[Tensor]| tensors.iter().map(|tensor| tensor.norm().double_value(&[]).powi(2)).sum::<f64>().sqrt();
    let differences: Vec<Tensor> = one.iter().zip(other).map(|(one, other)| one - other).collect();
    norm(&differences) / norm(one)
}

#[test]
fn the_gradient_does_not_depend_on_how_a_batch_is_cut_or_packed() {
    let mut random = ChaCha8Rng::seed_from_u64(9);
    let mut piece = |length: usize| {
        let tokens: Vec<i64> = (0..length).map(|_| random.random_range(2..313)).collect();
        let targets = (1..=length).map(|at| at == length || random.random_range(0..3) > 0).collect();
        Piece::new(tokens, targets)
    };
    let pieces: Vec<Piece> = [5, 17, 3, 11, 8, 24, 2, 13].map(&mut piece).into();
    let alone: Vec<LmRow> = pieces.iter().map(|piece| LmRow { pieces: vec![piece.clone()] }).collect();
    let packed: Vec<LmRow> = pieces.chunks(4).map(|pieces| LmRow { pieces: pieces.to_vec() }).collect();
    for recompute_layers in [false, true] {
        let options = crate::model::ModelOptions { recompute_layers, ..trainable() };
        for name in NEWER {
            let model = CausalLm::load(&tiny(name), &options).unwrap();
            let expected = gradient(&model, &alone, 1); // eight microbatches of one row
            for (what, found) in [
                ("one of eight", gradient(&model, &alone, 8)),
                ("three, three and two", gradient(&model, &alone, 3)),
                ("packed", gradient(&model, &packed, 1)),
            ] {
                let found = difference(&expected, &found);
                assert!(found < 1e-6, "{name} {what} recompute {recompute_layers}: {found}");
            }
        }
    }
}

/// Document by document, as one would by hand.
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
fn documents_are_merged_as_by_hand() {
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
        assert_eq!(cached.rows.place(1), memory.rows.place(1));
        assert_eq!(desk.entries().len(), 1);
    }
    let counts = &memory.counts;
    assert_eq!((counts.rows, counts.turns, counts.special_text, counts.truncated), (4, 8, 1, 1));
    assert_eq!(counts.bad.values().sum::<u64>(), 1);
    assert_eq!(memory.skipped[0].place, format!("{}:2", file.display()));
    let place = memory.rows.place(1).unwrap();
    assert_eq!((place.index, place.line), (2, 3));
    let hashes: Vec<u64> = memory.rows.hashes().collect();
    assert!(hashes[0] == hashes[2] && hashes[0] != hashes[1]);
    assert_eq!(counts.tokens, memory.rows.iter().map(|row| row.len() as u64).sum::<u64>());
    assert_eq!(counts.loss_tokens, memory.rows.iter().map(|row| row.num_loss_tokens() as u64).sum::<u64>());
}

#[test]
fn an_entry_is_of_one_content_and_one_recipe() {
    let desk = Desk::new();
    let cache = || Cache::Folder(desk.path("cache"));
    let file = desk.write("chat.jsonl", &dialogue("Hello", "Good day."));
    desk.chat(&file, cache(), BadRows::Error).unwrap();
    // Another name, the same content.
    let copy = desk.write("copy.jsonl", &dialogue("Hello", "Good day."));
    assert_eq!(desk.chat(&copy, cache(), BadRows::Error).unwrap().rows.place(0).unwrap().file.as_ref(), copy);
    assert_eq!(desk.entries().len(), 1);
    // As many bytes, another content.
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
fn a_damaged_entry_is_made_anew() {
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
