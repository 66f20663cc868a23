//! Measures tokenization of dialogues against the tokenizers crate's parallel encode of the same texts, in
//! alternating runs: `cargo run --release --example tokenize_rate -- MODEL FILE`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use align_core::progress::Silent;
use align_data::{BadRows, Kind, Record, read};
use align_text::chatml::{ChatFormat, LossOn, SYSTEM};
use align_text::tokenizer::Tokenizer;
use align_tokens::{Cache, Reading, chat_rows};

const ROUNDS: usize = 3;

#[expect(clippy::print_stdout, reason = "the result")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [model, file] = args.as_slice() else { return Err("expected MODEL FILE".into()) };
    let texts: Vec<String> = read(std::slice::from_ref(file), Kind::Chat, BadRows::Error)?
        .records
        .into_iter()
        .flat_map(|(_, record)| match record {
            Record::Chat(dialogue) => dialogue.messages,
            _ => Vec::new(),
        })
        .map(|message| message.content)
        .collect();
    let megabytes = texts.iter().map(String::len).sum::<usize>() as f64 / 1e6;
    for _ in 0..ROUNDS {
        let theirs = encode_batch(model, &texts)?;
        let ours = prepare(model, file)?;
        println!(
            "tokenizers {:.2} MB/s · align, from the file to the cache {:.2} MB/s · {:.2}",
            megabytes / theirs,
            megabytes / ours,
            theirs / ours
        );
    }
    Ok(())
}

/// Seconds of a single `encode_batch` of all texts.
fn encode_batch(model: &Path, texts: &[String]) -> Result<f64, Box<dyn std::error::Error>> {
    let tokenizer =
        tokenizers::Tokenizer::from_file(model.join("tokenizer.json")).map_err(|error| error.to_string())?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let started = Instant::now();
    let encodings = tokenizer.encode_batch_fast(texts, false).map_err(|error| error.to_string())?;
    assert!(!encodings.is_empty());
    Ok(started.elapsed().as_secs_f64())
}

/// Seconds from the file to its cache entry.
fn prepare(model: &Path, file: &Path) -> Result<f64, Box<dyn std::error::Error>> {
    let tokenizer = Tokenizer::open(model)?;
    let format = ChatFormat::open(model, &tokenizer, SYSTEM)?;
    let folder = std::env::temp_dir().join(format!("tokenize-rate-{}", std::process::id()));
    let cache = Cache::Folder(folder.clone());
    let mut reading = Reading { bad_rows: BadRows::Error, cache, progress: &mut Silent };
    let started = Instant::now();
    chat_rows(&[file.to_owned()], &format, LossOn::Assistant, None, &mut reading)?;
    let seconds = started.elapsed().as_secs_f64();
    std::fs::remove_dir_all(folder)?;
    Ok(seconds)
}
