use std::io::Read;
use std::path::PathBuf;

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");
const FAMILIES: [&str; 3] = ["qwen1", "qwen2_5", "qwen3"];

fn unpacked(file: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(std::fs::File::open(file).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

pub(crate) fn golden(file: &str) -> Value {
    serde_json::from_slice(&unpacked(&Path::new(GOLDEN).join(file))).unwrap()
}

/// Folders with a family's tokenizer: cut down, and whole where the environment names a folder with them.
pub(crate) fn folders(family: &str) -> Vec<(PathBuf, Option<TempDir>)> {
    let packed = Path::new(GOLDEN).join("tokenizer").join(family);
    let dir = TempDir::new().unwrap();
    for file in std::fs::read_dir(packed).unwrap().map(|entry| entry.unwrap().path()) {
        let name = file.file_name().unwrap().to_str().unwrap();
        match name.strip_suffix(".gz") {
            Some(name) => std::fs::write(dir.path().join(name), unpacked(&file)).unwrap(),
            None => drop(std::fs::copy(&file, dir.path().join(name)).unwrap()),
        }
    }
    let whole = std::env::var_os("ALIGN_TEST_TOKENIZERS").map(|whole| (Path::new(&whole).join(family), None));
    std::iter::once((dir.path().to_owned(), Some(dir))).chain(whole).collect()
}

/// The tokenizer of a folder, set to parse control tokens in text. Training scripts do so; `align` never
/// does.
pub(crate) fn parsing_control_tokens(dir: &Path) -> Tokenizer {
    let mut inner = Arc::into_inner(Tokenizer::open(dir).unwrap().0).expect("the only reference");
    inner.encoder.set_encode_special_tokens(false);
    Tokenizer(Arc::new(inner))
}

pub(crate) fn ids(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
}

/// 283 texts for three tokenizers. The records parse control tokens; where they also have the ids without
/// parsing, those are the expected ones. For two texts of Qwen2.5 and Qwen3 there are only the parsed ids.
#[test]
fn texts_encode_as_recorded() {
    let golden = golden("tokenizer/tokenizer_golden.json.gz");
    let cases = golden["encode"].as_array().unwrap();
    assert_eq!(cases.len(), 283);
    for family in FAMILIES {
        for (dir, _keep) in folders(family) {
            let tokenizer = Tokenizer::open(&dir).unwrap();
            let parsing = parsing_control_tokens(&dir);
            let (mut as_text, mut parsed) = (0, 0);
            for case in cases {
                let text = case["text"].as_str().unwrap();
                let key = match family {
                    "qwen2_5" if case.get("qwen25").is_some() => "qwen25",
                    "qwen3" if case.get("qwen3").is_some() => "qwen3",
                    _ => "ids",
                };
                let recorded = ids(&case[key]);
                let control = |id: &i64| tokenizer.entry(*id).is_some_and(|entry| entry.special);
                let expected = match case.get("ids_no_special") {
                    Some(expected) => Some(ids(expected)),
                    None => (!recorded.iter().any(control)).then(|| recorded.clone()),
                };
                if let Some(expected) = expected {
                    assert_eq!(tokenizer.encode(text), expected, "{family}: {text:?}");
                    as_text += 1;
                }
                // The first generation normalizes before it looks for control tokens.
                let normal = unicode_normalization::UnicodeNormalization::nfc(text).collect::<String>();
                assert_eq!(
                    parsing.encode(if family == "qwen1" { &normal } else { text }),
                    recorded,
                    "{family}: {text:?}"
                );
                parsed += 1;
            }
            assert_eq!((as_text, parsed), (if family == "qwen1" { 283 } else { 281 }, 283), "{family}");
        }
    }
}

#[test]
fn ids_decode_as_recorded() {
    let golden = golden("tokenizer/tokenizer_golden.json.gz");
    for family in FAMILIES {
        for (dir, _keep) in folders(family) {
            let tokenizer = Tokenizer::open(&dir).unwrap();
            for case in golden["decode"].as_array().unwrap() {
                // Control tokens have other texts in the first generation.
                let key = if family == "qwen1" { "text_replace" } else { "hf_qwen25" };
                assert_eq!(
                    tokenizer.decode(&ids(&case["ids"])),
                    case[key].as_str().unwrap(),
                    "{family}: {}",
                    case["ids"]
                );
            }
            for case in golden["encode"].as_array().unwrap() {
                // Texts that are not in normal form decode to their normalized form, as recorded.
                let text = case.get("decoded_v1").unwrap_or(&case["text"]).as_str().unwrap();
                assert_eq!(
                    tokenizer.decode(&tokenizer.encode(text)),
                    unicode_normalization::UnicodeNormalization::nfc(text).collect::<String>()
                );
            }
        }
    }
}

#[test]
fn control_tokens_have_their_published_ids_and_texts() {
    for (family, vocab_size) in [("qwen1", 151_851), ("qwen2_5", 151_665), ("qwen3", 151_669)] {
        for (dir, _keep) in folders(family) {
            let tokenizer = Tokenizer::open(&dir).unwrap();
            assert_eq!(*tokenizer.special(), Special { im_start: 151_644, im_end: 151_645, endoftext: 151_643 });
            assert_eq!(tokenizer.vocab_size(), vocab_size);
            assert_eq!(tokenizer.token(151_645), "<|im_end|>");
            assert_eq!(tokenizer.decode(&[6023, 151_645, 198]), "hi<|im_end|>\n");
            assert_eq!(tokenizer.decode_text(&[6023, 151_645, 198, 999_999, -1]), "hi\n");
            assert_eq!(tokenizer.decode(&[151_935]), "", "padding rows of the embedding have no token");
            assert!(!tokenizer.encode("hi<|im_end|>").contains(&151_645));
        }
    }
}

#[test]
fn fingerprints_tell_tables_apart_and_nothing_else() {
    let prints: Vec<String> = FAMILIES
        .iter()
        .map(|family| {
            let (dir, _keep) = folders(family).swap_remove(0);
            let print = Tokenizer::open(&dir).unwrap().fingerprint();
            if *family != "qwen1" {
                // The same tokenizer, written differently.
                let file = dir.join("tokenizer.json");
                let json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
                std::fs::write(&file, serde_json::to_string_pretty(&json).unwrap()).unwrap();
                assert_eq!(Tokenizer::open(&dir).unwrap().fingerprint(), print);
            }
            print
        })
        .collect();
    assert!(prints.iter().all(|print| print.len() == 64));
    assert!(prints[0] != prints[1] && prints[1] != prints[2]);
}

fn refusal(files: &[(&str, Vec<u8>)]) -> String {
    let dir = TempDir::new().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let error = Tokenizer::open(dir.path()).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    message.replace(&format!("{}/", dir.path().display()), "").replace(&dir.path().display().to_string(), "DIR")
}

/// A byte-level tokenizer without merges, changed by `change`.
fn tiny(change: impl Fn(&mut Value)) -> Vec<u8> {
    let bytes: Vec<char> = {
        let mut alphabet: Vec<(char, u8)> = ranks::byte_of_char().into_iter().collect();
        alphabet.sort_by_key(|(_, byte)| *byte);
        alphabet.into_iter().map(|(char, _)| char).collect()
    };
    let vocab: serde_json::Map<String, Value> =
        bytes.iter().enumerate().map(|(id, char)| (char.to_string(), json!(id))).collect();
    let added: Vec<Value> = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        .iter()
        .enumerate()
        .map(|(index, token)| {
            json!({"id": 256 + index, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let mut json = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "vocab": vocab, "merges": []}});
    change(&mut json);
    serde_json::to_vec(&json).unwrap()
}

/// Replaces the tokens of single bytes in a vocabulary by others with the same ids.
fn without_bytes(json: &mut Value, bytes: &[u8]) {
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    for (char, byte) in ranks::byte_of_char().into_iter().filter(|(_, byte)| bytes.contains(byte)) {
        let id = vocab.remove(&char.to_string()).unwrap();
        vocab.insert(format!("byte {byte}"), id);
    }
}

#[test]
fn a_vocabulary_may_lack_bytes_and_reports_the_first_that_a_text_needs() {
    let open = |bytes: &'static [u8]| {
        let dir = TempDir::new().unwrap();
        let file = tiny(|json| {
            without_bytes(json, bytes);
            json["normalizer"] = json!({"type": "NFC"});
        });
        std::fs::write(dir.path().join("tokenizer.json"), file).unwrap();
        Tokenizer::open(dir.path()).unwrap()
    };
    // UTF-8 never has these.
    let never = open(&[0xc0, 0xc1, 0xf5, 0xff]);
    assert_eq!(never.lacks("a\u{1b}é\u{10ffff}"), None);
    let few = open(&[0xc0, 0x1b, 0xa9, 0xcc]);
    assert_eq!(few.lacks("plain text\n"), None);
    assert_eq!(few.lacks("red \u{1b}[31m"), Some(0x1b));
    // é is c3 a9; so is e with U+0301 (cc 81) after normalization.
    assert_eq!((few.lacks("é"), few.lacks("e\u{301}")), (Some(0xa9), Some(0xa9)));
    // Encoding drops exactly that byte.
    assert_eq!(few.decode(&few.encode("é")).as_bytes(), "\u{fffd}".as_bytes());
    assert_eq!(few.decode(&few.encode("a\u{1b}b")), "ab");
}

#[test]
fn any_byte_level_vocabulary_with_the_chatml_tokens_will_do() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), tiny(|_| {})).unwrap();
    let tokenizer = Tokenizer::open(dir.path()).unwrap();
    assert_eq!(tokenizer.encode("aé"), [97, 0xc3, 0xa9]);
    assert_eq!(tokenizer.decode(&[97, 0xc3]), "a\u{fffd}");
    assert_eq!(*tokenizer.special(), Special { endoftext: 256, im_start: 257, im_end: 258 });
}

#[test]
fn damaged_tokenizers_are_refused_by_name() {
    let json = |change: fn(&mut Value)| refusal(&[("tokenizer.json", tiny(change))]);
    assert_eq!(refusal(&[]), "DIR: no tokenizer, expected tokenizer.json or qwen.tiktoken");
    assert!(refusal(&[("tokenizer.json", b"{".to_vec())]).starts_with("tokenizer.json: EOF"));
    let no_end = json(|json| drop(json["added_tokens"].as_array_mut().unwrap().pop()));
    assert_eq!(no_end, "tokenizer.json: no token `<|im_end|>`, expected the ChatML tokens of a Qwen tokenizer");
    let forged = json(|json| json["added_tokens"][2]["special"] = json!(false));
    assert!(forged.starts_with("tokenizer.json: the text `<|im_end|>` becomes token 258"), "{forged}");
    let shifted = json(|json| json["added_tokens"][2]["id"] = json!(300));
    assert!(shifted.starts_with("tokenizer.json: the added token `<|im_end|>` has id 300"), "{shifted}");
    let dropout = json(|json| json["model"]["dropout"] = json!(0.1));
    assert!(dropout.starts_with("tokenizer.json: `model.dropout` is set"), "{dropout}");
    let huge = json(|json| {
        for (token, id) in [("<|endoftext|>", 256), ("<|im_start|>", 257), ("<|im_end|>", 4_000_000_000u32)] {
            json["model"]["vocab"][token] = json!(id);
        }
        json["added_tokens"][2]["id"] = json!(4_000_000_000u32);
    });
    assert!(huge.contains("expected ids up to"), "{huge}");
    let no_byte = json(|json| without_bytes(json, b"a"));
    assert!(no_byte.starts_with("tokenizer.json: the vocabulary lacks the byte 0x61"), "{no_byte}");
    let pointer = refusal(&[("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\noid".to_vec())]);
    assert!(pointer.contains("a Git LFS pointer") && pointer.contains("git lfs pull"), "{pointer}");
    let slow = refusal(&[("vocab.json", b"{}".to_vec())]);
    assert!(slow.contains("no tokenizer, expected tokenizer.json") && slow.contains("save_pretrained"), "{slow}");
    let ranks = |text: &str| refusal(&[("qwen.tiktoken", text.as_bytes().to_vec())]);
    assert_eq!(ranks("IQ== 0\nIg==\n"), "qwen.tiktoken: line 2: expected `BASE64 RANK` with increasing ranks");
    assert_eq!(ranks("IQ== 0\nIg== 0\n"), "qwen.tiktoken: line 2: expected `BASE64 RANK` with increasing ranks");
    assert_eq!(ranks("I 0\n"), "qwen.tiktoken: line 1: expected `BASE64 RANK` with increasing ranks");
    assert_eq!(ranks("IQ== 0\n"), "qwen.tiktoken: 1 of the 256 single bytes have a rank, expected all");
}
