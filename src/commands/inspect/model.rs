//! `align inspect model`: shows the contents of a checkpoint folder, from its headers and a few rows of its
//! embedding.

use std::path::Path;
use std::process::ExitCode;

use align_core::error::{Error, Problems};
use align_model::{Face, Family, Header, untrained_chatml};
use align_text::chatml::{ChatFormat, SYSTEM, TEMPLATES_SYSTEM};
use align_train::stage::{ScoreOptions, check_scalar_model, check_source};
use anyhow::Result;
use serde_json::{Map, Value, json};
use tch::Kind;

use super::{first_problem, print_facts};
use crate::cli::InspectModelArgs;
use crate::output::print_line;

/// Shows a model.
pub(crate) fn run(args: InspectModelArgs) -> Result<ExitCode> {
    let mut problems = Problems::new();
    let source = check_source(&args.model, &mut problems)?;
    let source = problems.into_checked(source)?;
    let own_system = source.contract.as_ref().map(|contract| contract.system.as_str());
    let is_scalar = source.header.face == Face::Scalar;
    let system = own_system.unwrap_or(if is_scalar { TEMPLATES_SYSTEM } else { SYSTEM });
    let mut facts = architecture(&source.header);
    let mut set = |name: &str, value: Value| facts.insert(name.to_owned(), value);
    let tokenizer = &source.tokenizer;
    set("ids of the tokenizer", json!(tokenizer.vocab_size()));
    set("tokenizer", json!(tokenizer.fingerprint()));
    let (chat, fits) = match ChatFormat::open(&args.model, tokenizer, system) {
        Ok(format) if format.describe()["empty_think_block"] == true => {
            ("ChatML, an empty think block before the last answer".to_owned(), true)
        }
        Ok(_) => ("ChatML".to_owned(), true),
        Err(error @ Error::Invalid(_)) => (first_problem(&error), false),
        Err(error) => return Err(error.into()),
    };
    set("chat format", json!(chat));
    set("chat format fits", json!(fits));
    if source.header.has_weights {
        let untrained = untrained_chatml(&args.model, &source.header.config, tokenizer)?;
        set("untrained ChatML tokens", json!(untrained));
    }
    set("generation stops at", stops(&args.model));
    if is_scalar && fits {
        let scorer = check_scalar_model(&args.model, &ScoreOptions::default(), &mut Problems::new())?;
        let scorer = scorer.expect("checked above");
        let at = scorer.format.tokens_after_end().last().copied().unwrap_or(tokenizer.special().im_end);
        set("scores are read at", json!(format!("{:?}", tokenizer.token(at))));
        if let Some(assumed) = scorer.assumed {
            set("assumed", json!(assumed));
        }
    }
    if let Some(contract) = &source.contract {
        set("system text of its scores", json!(contract.system));
        set("value shift", json!(contract.value_shift));
        let reference = contract.reference.as_ref();
        let scores = |reference: &align_model::contract::Reference| {
            json!(format!("{:.4} ± {:.4} on {} of {}", reference.mean, reference.std, reference.scores, reference.set))
        };
        set("scores", reference.map_or(Value::Null, scores));
    }
    if args.json {
        let facts: Map<String, Value> =
            facts.into_iter().map(|(name, value)| (name.replace(' ', "_"), value)).collect();
        print_line(&Value::Object(facts).to_string());
    } else {
        facts.retain(|_, value| *value != json!([]));
        print_facts(facts.iter().map(|(name, value)| (name.as_str(), value)));
    }
    Ok(ExitCode::SUCCESS)
}

fn architecture(header: &Header) -> Map<String, Value> {
    let config = &header.config;
    let family = match config.family {
        Family::Qwen => "qwen",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
    };
    let holds = match (header.face, header.has_weights) {
        (_, false) => "a config without weights: pretrain initialises them randomly",
        (Face::CausalLm, _) => "a language model",
        (Face::Scalar, _) => "a reward or value model",
    };
    let dtype = match config.dtype {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        _ => "float32",
    };
    let bytes = header.num_parameters * config.dtype.elt_size_in_bytes() as u64;
    let facts = [
        ("holds", json!(holds)),
        ("family", json!(family)),
        ("parameters", json!(header.num_parameters)),
        ("dtype", json!(dtype)),
        ("weights in GiB", json!((bytes as f64 / f64::from(1 << 30) * 1000.0).round() / 1000.0)),
        ("layers", json!(config.num_hidden_layers)),
        ("hidden size", json!(config.hidden_size)),
        ("inner size", json!(config.intermediate_size)),
        ("query heads", json!(config.num_attention_heads)),
        ("key and value heads", json!(config.num_key_value_heads)),
        ("head width", json!(config.head_dim)),
        ("head is the embedding", json!(config.tie_word_embeddings)),
        ("longest sequence", json!(config.max_position_embeddings)),
        ("rows of the embedding", json!(config.vocab_size)),
    ];
    facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The end tokens in generation_config.json, or null.
fn stops(dir: &Path) -> Value {
    let text = std::fs::read_to_string(dir.join("generation_config.json")).unwrap_or_default();
    serde_json::from_str::<Value>(&text).map_or(Value::Null, |config| config["eos_token_id"].clone())
}
