//! The folder of the tiny model before pretraining: a byte-level BPE tokenizer in Qwen's layout, trained on
//! the world's text, its chat template, and config.json.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::json;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior, TokenizerBuilder, TokenizerImpl};

use crate::sets::Sets;

/// The number of ids, including special tokens.
pub const VOCAB_SIZE: usize = 1024;
const SPECIAL_TOKENS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// The pre-tokenizer's pattern of Qwen's tokenizers, from their tokenizer.json.
const QWEN_PATTERN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Writes tokenizer.json, tokenizer_config.json and config.json of a model without weights: `align pretrain`
/// initialises them.
///
/// # Errors
/// When the tokenizer cannot be trained or a file cannot be written.
pub fn write_model_folder(folder: &Path, sets: &Sets) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let tokenizer = train(sets).map_err(io::Error::other)?;
    tokenizer.save(folder.join("tokenizer.json"), true).map_err(io::Error::other)?;
    write_json(&folder.join("tokenizer_config.json"), &tokenizer_config())?;
    write_json(&folder.join("config.json"), &model_config())
}

type QwenTokenizer = TokenizerImpl<BPE, NFC, PreTokenizerWrapper, ByteLevel, ByteLevelDecoder>;

fn train(sets: &Sets) -> tokenizers::Result<QwenTokenizer> {
    let split = Split::new(SplitPattern::Regex(QWEN_PATTERN.into()), SplitDelimiterBehavior::Isolated, false)?;
    let bytes = ByteLevel::new(false, false, false);
    let mut tokenizer: QwenTokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(Some(NFC))
        .with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(vec![split.into(), bytes.into()]))))
        .with_post_processor(Some(bytes))
        .with_decoder(Some(bytes))
        .build()?;
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(VOCAB_SIZE - SPECIAL_TOKENS.len())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let documents = sets.pretrain.iter().map(|document| document.text.as_str());
    let messages = sets.sft.iter().flat_map(|row| row.messages.iter().map(|message| message.content.as_str()));
    tokenizer.train(&mut trainer, documents.chain(messages))?;
    let special = SPECIAL_TOKENS.map(|token| AddedToken::from(token, true).normalized(false));
    tokenizer.add_special_tokens(special)?;
    Ok(tokenizer)
}

fn tokenizer_config() -> serde_json::Value {
    json!({
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": MAX_POSITIONS,
        "bos_token": null,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": null,
        "add_prefix_space": false,
        "clean_up_tokenization_spaces": false,
        "errors": "replace",
        "split_special_tokens": false,
        "chat_template": CHAT_TEMPLATE,
    })
}

const MAX_POSITIONS: usize = 256;

/// 0.6 million parameters, including embeddings. With tied embeddings, the model learns sooner to copy a name
/// from the prompt.
fn model_config() -> serde_json::Value {
    let id = |token: &str| {
        let at = SPECIAL_TOKENS.iter().position(|&special| special == token).expect("a token of the list");
        VOCAB_SIZE - SPECIAL_TOKENS.len() + at
    };
    json!({
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": MAX_POSITIONS,
        "initializer_range": 0.06,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "use_sliding_window": false,
        "attention_dropout": 0.0,
        "tie_word_embeddings": true,
        "use_cache": true,
        "torch_dtype": "float32",
        "vocab_size": VOCAB_SIZE,
        "bos_token_id": id("<|endoftext|>"),
        "eos_token_id": id("<|im_end|>"),
        "pad_token_id": id("<|endoftext|>"),
    })
}

fn write_json(path: &Path, value: &serde_json::Value) -> io::Result<()> {
    fs::write(path, serde_json::to_string_pretty(value)? + "\n")
}
