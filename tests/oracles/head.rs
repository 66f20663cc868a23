//! Recorded calls that begin at logits. They go through the language model's own head, in fp32: its weight is
//! set to the identity, so that hidden states are logits.

use std::path::Path;

use align_kernels::HOST;
use align_model::{CausalLm, ModelConfig, ModelOptions, Over};
use align_ppo::loss::{PolicyStats, policy_loss};
use align_ppo::masked;
use serde_json::json;
use tch::{Kind, Tensor};

use super::case::{Case, close_fp32, cube, flat, numbers, table};

/// A model whose head leaves `width` numbers as they are.
fn identity_head(width: i64) -> CausalLm {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": width, "hidden_size": width,
        "intermediate_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2,
        "max_position_embeddings": 16, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "hidden_act": "silu",
        "tie_word_embeddings": false, "torch_dtype": "float32"
    });
    let config = config.as_object().expect("an object").clone();
    let config = ModelConfig::from_json(config, Path::new("config.json")).expect("a small architecture");
    let options = ModelOptions { device: HOST, compute: Kind::Float, trainable: false, recompute_layers: false };
    let model = CausalLm::random(config, 0, &options);
    let head = model.parameters().iter().find(|parameter| parameter.name == "lm_head.weight").expect("an untied head");
    head.tensor.shallow_clone().copy_(&Tensor::eye(width, (Kind::Float, HOST)));
    model
}

/// Rows of logits (N, V) in fp32, and the model to read them with.
fn rows(logits: &Tensor) -> (Tensor, CausalLm) {
    let width = *logits.size().last().expect("logits have a width");
    (logits.to_kind(Kind::Float).reshape([-1, width]), identity_head(width))
}

fn ids(case: &Case, name: &str) -> Tensor {
    Tensor::from_slice(&case.table(name).iter().map(|&id| id as i64).collect::<Vec<_>>())
}

pub(super) fn logprobs(case: &Case) {
    let (logits, model) = rows(&cube(&case.inputs["logits"]));
    let targets = ids(case, if case.inputs.get("index").is_some() { "index" } else { "labels" });
    let temperature = if case.params.get("temperature").is_some() { case.param("temperature") } else { 1.0 };
    let found = model.logprobs(&logits, &targets, &Over { temperature, nucleus: None });
    close_fp32(&numbers(&found.logprobs), &table(&case.out["out"]).into_raw_vec_and_offset().0);
}

pub(super) fn entropy(case: &Case) {
    let (logits, model) = rows(&cube(&case.inputs["logits"]));
    let any_target = Tensor::zeros([logits.size()[0]], (Kind::Int64, HOST));
    let found = model.logprobs(&logits, &any_target, &Over::full());
    close_fp32(&numbers(&found.entropy), &table(&case.out["out"]).into_raw_vec_and_offset().0);
}

/// The mean over tokens with a label; position t predicts label t + 1.
pub(super) fn language_model_loss(case: &Case) {
    let (logits, model) = rows(&cube(&case.inputs["logits"]));
    let labels = case.table("labels");
    let (places, targets): (Vec<i64>, Vec<i64>) = labels
        .indexed_iter()
        .filter(|((_, column), label)| *column > 0 && **label >= 0.0)
        .map(|((row, column), &label)| ((row * labels.ncols() + column - 1) as i64, label as i64))
        .unzip();
    let (places, num_tokens) = (Tensor::from_slice(&places), targets.len());
    let hidden = logits.index_select(0, &places);
    let mut each_alike = |rows: std::ops::Range<usize>, _: &Tensor| {
        Tensor::full([rows.len() as i64], -1.0 / num_tokens as f64, (Kind::Float, HOST))
    };
    let (stats, grad) = model.head().gradient(&hidden, &Tensor::from_slice(&targets), &Over::full(), &mut each_alike);
    close_fp32(&[-numbers(&stats.logprobs).iter().sum::<f64>() / num_tokens as f64], &[case.result("loss")]);
    let whole = logits.zeros_like().index_add(0, &places, &grad);
    close_fp32(&numbers(&whole), &numbers(&cube(&case.out["grad_logits"])));
}

/// The policy's half of a whole update: log-probabilities, loss, and its gradient back to the logits.
pub(super) fn policy_update(case: &Case) {
    let (old, advantages, mask) = (case.table("logprobs"), table(&case.out["advantages"]), case.response_mask(0));
    let context = case.table("queries").ncols();
    let (logits, model) = rows(&cube(&case.inputs["logits_full"]));
    let length = context + old.ncols();
    let places: Vec<i64> = mask
        .indexed_iter()
        .filter(|(_, counts)| **counts)
        .map(|((row, token), _)| (row * length + context - 1 + token) as i64)
        .collect();
    let places = Tensor::from_slice(&places);
    let targets = flat(&case.table("responses"), &mask).to_kind(Kind::Int64);
    let over = Over { temperature: case.param("temperature") + 1e-7, nucleus: None };

    let fp32 = |tensor: Tensor| tensor.to_kind(Kind::Float);
    let (old, advantages) = (fp32(flat(&old, &mask)), fp32(flat(&advantages, &mask)));
    let (num_tokens, mut loss) = (masked::count(&mask), PolicyStats::default());
    let mut grad_of = |rows: std::ops::Range<usize>, logprobs: &Tensor| {
        let part = |tensor: &Tensor| tensor.narrow(0, rows.start as i64, rows.len() as i64);
        let found = policy_loss(logprobs, &part(&old), &part(&advantages), case.param("cliprange"), num_tokens);
        loss.add(&found.stats);
        found.grad
    };
    let (stats, grad) = model.head().gradient(&logits.index_select(0, &places), &targets, &over, &mut grad_of);
    close_fp32(&numbers(&stats.logprobs), &masked::flat(&table(&case.out["new_logprobs"]), &mask));
    close_fp32(&[loss.loss, loss.clip_frac], &[case.result("pg_loss"), case.result("pg_clipfrac")]);
    let ratio_max = masked::flat(&table(&case.out["ratio"]), &mask).into_iter().fold(0.0, f64::max);
    close_fp32(&[loss.ratio_max], &[ratio_max]);
    let whole = logits.zeros_like().index_add(0, &places, &grad);
    close_fp32(&numbers(&whole), &numbers(&cube(&case.out["grad_logits"])));
}
