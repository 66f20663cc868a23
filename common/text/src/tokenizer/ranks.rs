//! Builds a byte-level BPE from `qwen.tiktoken`, the byte sequences with ranks of first-generation
//! checkpoints.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Value, json};

/// The pre-tokenizer's pattern of the published tokenizers; the same in all generations.
const PATTERN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// `<|extra_0|>` to `<|extra_204|>` follow the three ChatML tokens.
const NUM_EXTRA: usize = 205;

/// Far above every published vocabulary; limits the memory that a damaged file can request.
const MAX_RANK: u32 = 1 << 22;

/// Builds the tokenizer; `Err` is the mistake in the file.
pub(super) fn from_bytes(file: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    let tokens = parse(file)?;
    let char_of_byte = char_of_byte();
    let spell = |bytes: &[u8]| bytes.iter().map(|&byte| char_of_byte[usize::from(byte)]).collect::<String>();
    let ranks: HashMap<&[u8], u32> = tokens.iter().map(|(rank, token)| (token.as_slice(), *rank)).collect();
    if ranks.len() < tokens.len() {
        return Err("a token has two ranks, expected one".to_owned());
    }
    let mut merges = Vec::with_capacity(tokens.len());
    for (rank, token) in tokens.iter().filter(|(_, token)| token.len() > 1) {
        // A token that is no merge of two tokens of lower rank is unreachable by merging: it stays in the
        // table, without a merge.
        if let Some((left, right)) = halves(token, *rank, &ranks) {
            merges.push(json!([spell(left), spell(right)]));
        }
    }
    let vocab = tokens.iter().map(|(rank, token)| (spell(token), *rank)).collect();
    let first_control_id = tokens.last().map_or(0, |(rank, _)| rank + 1);
    // In the form of tokenizer.json, so that both kinds of file share one code path.
    let json = tokenizer_json(vocab, merges, first_control_id);
    tokenizers::Tokenizer::from_bytes(json.to_string()).map_err(|error| error.to_string())
}

fn tokenizer_json(mut vocab: BTreeMap<String, u32>, merges: Vec<Value>, first_control_id: u32) -> Value {
    let chatml = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned);
    let extra = (0..NUM_EXTRA).map(|number| format!("<|extra_{number}|>"));
    let mut added = Vec::new();
    for (id, content) in (first_control_id..).zip(chatml.into_iter().chain(extra)) {
        added.push(json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}));
        // The library numbers added tokens from the vocabulary's size on, unless the vocabulary contains
        // them.
        vocab.insert(content, id);
    }
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let split = json!({"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": false});
    json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": null,
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges},
    })
}

/// The tokens with their ranks, which must increase from line to line.
fn parse(file: &[u8]) -> Result<Vec<(u32, Vec<u8>)>, String> {
    let mut tokens: Vec<(u32, Vec<u8>)> = Vec::new();
    for (index, line) in file.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let expected = || format!("line {}: expected `BASE64 RANK` with increasing ranks", index + 1);
        let mut words = line.split(|&byte| byte == b' ');
        let (Some(word), Some(rank), None) = (words.next(), words.next(), words.next()) else { return Err(expected()) };
        let rank: u32 = std::str::from_utf8(rank).ok().and_then(|rank| rank.parse().ok()).ok_or_else(expected)?;
        let token = base64(word).filter(|token| !token.is_empty()).ok_or_else(expected)?;
        if rank > MAX_RANK || tokens.last().is_some_and(|(last, _)| *last >= rank) {
            return Err(expected());
        }
        tokens.push((rank, token));
    }
    let single: HashSet<u8> = tokens.iter().filter(|(_, token)| token.len() == 1).map(|(_, token)| token[0]).collect();
    if single.len() < 256 {
        return Err(format!("{} of the 256 single bytes have a rank, expected all", single.len()));
    }
    Ok(tokens)
}

/// The two tokens whose merge is `token`: the result of merging by rank with only the ranks below its own.
fn halves<'a>(token: &'a [u8], rank: u32, ranks: &HashMap<&[u8], u32>) -> Option<(&'a [u8], &'a [u8])> {
    let mut cuts: Vec<usize> = (0..=token.len()).collect();
    while cuts.len() > 3 {
        let merged = |at: usize| ranks.get(&token[cuts[at]..cuts[at + 2]]).copied().filter(|&merged| merged < rank);
        let (_, at) = (0..cuts.len() - 2).filter_map(|at| Some((merged(at)?, at))).min()?;
        cuts.remove(at + 1);
    }
    Some(token.split_at(cuts[1]))
}

/// Standard base64 with padding.
fn base64(word: &[u8]) -> Option<Vec<u8>> {
    if !word.len().is_multiple_of(4) {
        return None;
    }
    let body = word.strip_suffix(b"==").or_else(|| word.strip_suffix(b"=")).unwrap_or(word);
    let (mut bits, mut num_bits, mut bytes) = (0u32, 0, Vec::with_capacity(word.len() / 4 * 3));
    for &digit in body {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        num_bits += 6;
        if num_bits >= 8 {
            num_bits -= 8;
            bytes.push((bits >> num_bits & 0xff) as u8);
        }
    }
    Some(bytes)
}

/// The printable character for each byte in byte-level vocabularies: printable Latin-1 maps to itself, the
/// other 68 bytes to U+0100 and following, in order.
fn char_of_byte() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| match byte as u8 {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte as u8),
        _ => {
            next += 1;
            char::from_u32(next - 1).expect("U+0100 to U+0143 are characters")
        }
    })
}

/// The inverse of [`char_of_byte`].
pub(super) fn byte_of_char() -> HashMap<char, u8> {
    char_of_byte().into_iter().zip(0..=255).collect()
}
