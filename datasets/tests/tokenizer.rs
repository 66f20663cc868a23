//! The tokenizer is small, lossless, deterministic, and in Qwen's layout.

use align_datasets::{generate, tokenizer, write_model_folder};
use tokenizers::Tokenizer;

#[test]
fn it_is_lossless_deterministic_and_of_the_size_of_config_json() {
    let sets = generate(1);
    let (once, again) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_model_folder(once.path(), &sets).unwrap();
    write_model_folder(again.path(), &sets).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "config.json"] {
        let read = |folder: &tempfile::TempDir| std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(read(&once), read(&again), "{name}");
    }
    let loaded = Tokenizer::from_file(once.path().join("tokenizer.json")).unwrap();
    assert_eq!(loaded.get_vocab_size(true), tokenizer::VOCAB_SIZE);
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(once.path().join("config.json")).unwrap()).unwrap();
    for (key, token) in [("eos_token_id", "<|im_end|>"), ("pad_token_id", "<|endoftext|>")] {
        assert_eq!(config[key].as_u64(), loaded.token_to_id(token).map(u64::from));
    }
    let text = "Certainly, Mira, 3 plus 4 is 7.\n好的，小明，法国的首都是巴黎。 Ünknown wörds ☃";
    let ids = loaded.encode(text, false).unwrap();
    assert_eq!(loaded.decode(ids.get_ids(), false).unwrap(), text);
    assert!(ids.get_ids().iter().all(|&id| id < 1021));
}
