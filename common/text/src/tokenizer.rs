//! Tokenizers of all Qwen generations: `tokenizer.json` (Qwen1.5 and later) or `qwen.tiktoken` (the first).
//!
//! Control tokens (such as `<|im_start|>`; `special: true` in tokenizer.json) are inserted by id and never
//! parsed from text: `<|im_end|>` in a message is tokenized as ordinary text. Added tokens with
//! `special: false` (`<tool_call>`, `<think>`) are ordinary vocabulary.

mod ranks;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use aho_corasick::AhoCorasick;
use sha2::{Digest, Sha256};
use tokenizers::decoders::DecoderWrapper;
use tokenizers::{NormalizedString, Normalizer};

use align_core::atomic_files::is_lfs_pointer;
use align_core::error::{Error, Result};

/// Far above every published vocabulary; limits the memory that a damaged file can request.
const MAX_ID: u32 = 1 << 22;

/// Ids of the control tokens that ChatML and generation need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Special {
    /// `<|im_start|>`: begins a turn.
    pub im_start: i64,
    /// `<|im_end|>`: ends a turn; the reward model's end token.
    pub im_end: i64,
    /// `<|endoftext|>`: ends a document; also the pad token.
    pub endoftext: i64,
}

/// A checkpoint's tokenizer. Cheap to clone, shared between threads.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

struct Inner {
    encoder: tokenizers::Tokenizer,
    /// Whether tokens are spelled in the byte-level alphabet, as in all Qwen tokenizers. Others use their own
    /// decoder.
    byte_level: bool,
    /// The token of each id; `None` for unused ids.
    table: Vec<Option<Entry>>,
    special: Special,
    /// Finds control tokens spelled out in text.
    control: AhoCorasick,
    /// Bytes without a token of their own, if any. Encoding would drop them.
    missing: Option<Box<[bool; 256]>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    bytes: Vec<u8>,
    special: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, or `qwen.tiktoken` if there is none.
    ///
    /// # Errors
    /// [`Error::Invalid`] when neither exists, a file is damaged, a ChatML token is missing, or text could be
    /// encoded as a control token.
    pub fn open(dir: &Path) -> Result<Self> {
        let (json, ranks) = (dir.join("tokenizer.json"), dir.join("qwen.tiktoken"));
        if json.is_file() {
            let bytes = std::fs::read(&json).map_err(Error::io(&json))?;
            if is_lfs_pointer(&bytes) {
                let what =
                    "a Git LFS pointer in place of the tokenizer, expected the file itself; fetch it: git lfs pull";
                return Err(Error::invalid(json.display(), what));
            }
            let encoder = from_json(&bytes).map_err(|what| Error::invalid(json.display(), what))?;
            Self::new(encoder, &json)?.with_text_kept_text(&json)
        } else if ranks.is_file() {
            let bytes = std::fs::read(&ranks).map_err(Error::io(&ranks))?;
            let encoder = ranks::from_bytes(&bytes).map_err(|what| Error::invalid(ranks.display(), what))?;
            Self::new(encoder, &ranks)?.with_text_kept_text(&ranks)
        } else {
            let is_slow = ["vocab.json", "merges.txt", "tokenizer.model"].iter().any(|name| dir.join(name).is_file());
            let fix = if is_slow {
                "; create it once with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
            } else {
                ""
            };
            Err(Error::invalid(dir.display(), format!("no tokenizer, expected tokenizer.json or qwen.tiktoken{fix}")))
        }
    }

    fn new(mut encoder: tokenizers::Tokenizer, file: &Path) -> Result<Self> {
        encoder.set_encode_special_tokens(true);
        encoder.with_padding(None);
        encoder.with_truncation(None).map_err(|error| Error::invalid(file.display(), error))?;
        let byte_level = encoder.get_decoder().is_some_and(is_byte_level);
        let table = table(&encoder, byte_level.then(ranks::byte_of_char).as_ref());
        let missing = if byte_level { missing_bytes(&table) } else { None };
        let id = |token: &str| {
            encoder.token_to_id(token).map(i64::from).ok_or_else(|| {
                Error::invalid(
                    file.display(),
                    format!("no token `{token}`, expected the ChatML tokens of a Qwen tokenizer"),
                )
            })
        };
        let special =
            Special { im_start: id("<|im_start|>")?, im_end: id("<|im_end|>")?, endoftext: id("<|endoftext|>")? };
        let control = table.iter().flatten().filter(|entry| entry.special).map(|entry| &entry.bytes);
        let control = AhoCorasick::new(control).map_err(|error| Error::invalid(file.display(), error))?;
        let tokenizer = Self(Arc::new(Inner { encoder, byte_level, table, special, control, missing }));
        // ChatML and the probe dialogues use these characters.
        let ascii: String = (' '..='~').chain(['\n']).collect();
        if let Some(byte) = tokenizer.lacks(&ascii) {
            let what = format!(
                "the vocabulary lacks the byte 0x{byte:02x}, expected all of printable ASCII and the line break"
            );
            return Err(Error::invalid(file.display(), what));
        }
        Ok(tokenizer)
    }

    /// Refuses a tokenizer that encodes text as control tokens.
    fn with_text_kept_text(self, file: &Path) -> Result<Self> {
        let chatml = [self.0.special.im_start, self.0.special.im_end, self.0.special.endoftext];
        let marked = (0..self.vocab_size()).filter(|&id| self.entry(id).is_some_and(|entry| entry.special));
        for id in chatml.into_iter().chain(marked) {
            let text = self.token(id);
            if self.encode(&text).contains(&id) {
                let what = format!(
                    "the text `{text}` becomes token {id}, expected `special: true` for it so that content cannot forge it"
                );
                return Err(Error::invalid(file.display(), what));
            }
        }
        Ok(self)
    }

    /// Encodes text. Control tokens are never parsed from it. (The pre-tokenizer's regular expression gives
    /// up on runs of more than half a million spaces; such a run is then one word.)
    pub fn encode(&self, text: &str) -> Vec<i64> {
        let encoding = self.0.encoder.encode_fast(text, false).expect("byte-level tokenizers cover every text");
        encoding.get_ids().iter().map(|&id| i64::from(id)).collect()
    }

    /// As [`Tokenizer::encode`], but refuses a text that cannot be encoded without loss.
    ///
    /// # Errors
    /// The byte that has no token, as one line.
    pub fn encode_whole(&self, text: &str) -> std::result::Result<Vec<i64>, String> {
        self.check(text)?;
        Ok(self.encode(text))
    }

    /// Refuses a text that cannot be encoded without loss.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_whole`].
    pub fn check(&self, text: &str) -> std::result::Result<(), String> {
        self.lacks(text).map_or(Ok(()), |byte| {
            Err(format!(
                "a text has byte 0x{byte:02x}, for which the tokenizer has no token, expected text that it encodes without loss"
            ))
        })
    }

    /// The first byte of a text that has no token and would be lost; always `None` for most vocabularies.
    pub fn lacks(&self, text: &str) -> Option<u8> {
        let missing = self.0.missing.as_ref()?;
        let first_in = |text: &str| text.bytes().find(|byte| missing[usize::from(*byte)]);
        let Some(normalizer) = self.0.encoder.get_normalizer() else { return first_in(text) };
        let mut normal = NormalizedString::from(text);
        match normalizer.normalize(&mut normal) {
            Ok(()) => first_in(normal.get()),
            Err(_) => first_in(text),
        }
    }

    /// Whether an id is that of a control token.
    pub fn is_control(&self, id: i64) -> bool {
        self.entry(id).is_some_and(|entry| entry.special)
    }

    /// Whether a text spells a control token. (It is not encoded as one.)
    pub fn spells_special(&self, text: &str) -> bool {
        self.0.control.is_match(text)
    }

    /// The ranges of a text that spell control tokens.
    pub fn specials_in(&self, text: &str) -> impl Iterator<Item = Range<usize>> {
        self.0.control.find_iter(text).map(|found| found.range())
    }

    /// Decodes ids, including control tokens. Invalid UTF-8 becomes U+FFFD; ids without a token are skipped.
    pub fn decode(&self, ids: &[i64]) -> String {
        self.join(ids, |_| true)
    }

    /// Decodes ids, without control tokens.
    pub fn decode_text(&self, ids: &[i64]) -> String {
        self.join(ids, |entry| !entry.special)
    }

    fn join(&self, ids: &[i64], keep: impl Fn(&Entry) -> bool) -> String {
        let entries = ids.iter().filter_map(|&id| Some((id, self.entry(id)?))).filter(|(_, entry)| keep(entry));
        if !self.0.byte_level {
            let ids: Vec<u32> = entries.map(|(id, _)| id as u32).collect();
            return self.0.encoder.decode(&ids, false).expect("every id has a token");
        }
        let bytes: Vec<u8> = entries.flat_map(|(_, entry)| entry.bytes.iter().copied()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn entry(&self, id: i64) -> Option<&Entry> {
        self.0.table.get(usize::try_from(id).ok()?)?.as_ref()
    }

    /// The ids of the ChatML tokens.
    pub fn special(&self) -> &Special {
        &self.0.special
    }

    /// One more than the largest id that has a token. Sampling draws ids below it: embedding rows above it
    /// were never trained.
    pub fn vocab_size(&self) -> i64 {
        self.0.table.len() as i64
    }

    /// The text of one token, as [`Tokenizer::decode`] shows it.
    pub fn token(&self, id: i64) -> String {
        self.decode(&[id])
    }

    /// SHA-256, in hex, of the id → token table. It is equal for two files that give every id the same bytes
    /// and kind (vocabulary or control), regardless of format.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for (id, entry) in self.0.table.iter().enumerate() {
            let Some(entry) = entry else { continue };
            hash.update((id as u64).to_le_bytes());
            hash.update([u8::from(entry.special)]);
            hash.update((entry.bytes.len() as u64).to_le_bytes());
            hash.update(&entry.bytes);
        }
        hash.finalize().iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("writing to a string cannot fail");
            hex
        })
    }
}

/// Reads tokenizer.json; `Err` is the mistake in it.
fn from_json(bytes: &[u8]) -> std::result::Result<tokenizers::Tokenizer, String> {
    #[derive(serde::Deserialize)]
    struct Header {
        #[serde(default)]
        added_tokens: Vec<Added>,
        model: Model,
    }
    #[derive(serde::Deserialize)]
    struct Added {
        id: u32,
        content: String,
    }
    #[derive(serde::Deserialize)]
    struct Model {
        dropout: Option<f64>,
    }
    let damaged = |error: &dyn std::fmt::Display| format!("{error}, expected a Hugging Face tokenizer");
    let header: Header = serde_json::from_slice(bytes).map_err(|error| damaged(&error))?;
    let encoder = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| damaged(&error))?;
    if header.model.dropout.is_some_and(|dropout| dropout > 0.0) {
        return Err("`model.dropout` is set, expected none: the same text must always give the same ids".to_owned());
    }
    // The library assigns the ids of added tokens itself, following the vocabulary. A file with other ids
    // would be shifted.
    for Added { id, content } in header.added_tokens {
        if encoder.token_to_id(&content) != Some(id) {
            return Err(format!(
                "the added token `{content}` has id {id}, expected ids that follow the vocabulary without gaps"
            ));
        }
    }
    match encoder.get_vocab(true).values().max() {
        Some(&id) if id > MAX_ID => Err(format!("the id {id}, expected ids up to {MAX_ID}")),
        _ => Ok(encoder),
    }
}

/// The bytes of every id. In a byte-level vocabulary, the characters of `alphabet` represent bytes.
fn table(encoder: &tokenizers::Tokenizer, alphabet: Option<&HashMap<char, u8>>) -> Vec<Option<Entry>> {
    let added: BTreeMap<u32, _> = encoder.get_added_tokens_decoder().into_iter().collect();
    let vocab: HashMap<String, u32> = encoder.get_vocab(false);
    let len = vocab.values().chain(added.keys()).max().map_or(0, |&id| id as usize + 1);
    let mut table = vec![None; len];
    for (token, id) in vocab {
        let bytes: Option<Vec<u8>> =
            alphabet.and_then(|alphabet| token.chars().map(|char| alphabet.get(&char).copied()).collect());
        let bytes = bytes.unwrap_or_else(|| token.into_bytes());
        table[id as usize] = Some(Entry { bytes, special: false });
    }
    for (id, token) in added {
        table[id as usize] = Some(Entry { bytes: token.content.into_bytes(), special: token.special });
    }
    table
}

/// Bytes without a single-byte token, except those that UTF-8 never uses (0xc0, 0xc1, 0xf5 to 0xff).
fn missing_bytes(table: &[Option<Entry>]) -> Option<Box<[bool; 256]>> {
    let mut missing = Box::new([true; 256]);
    for entry in table.iter().flatten().filter(|entry| !entry.special) {
        if let [byte] = entry.bytes[..] {
            missing[usize::from(byte)] = false;
        }
    }
    for byte in [0xc0, 0xc1].into_iter().chain(0xf5..=0xff) {
        missing[byte] = false;
    }
    missing.contains(&true).then_some(missing)
}

fn is_byte_level(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteLevel(_) => true,
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().any(is_byte_level),
        _ => false,
    }
}
