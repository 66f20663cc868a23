//! Counts useful floating-point operations and bytes: those that the results require, however they are
//! computed.
//!
//! With P the elements of a model's matrices (all but embedding and head), T tokens, N tokens with an output
//! (a log-probability, a sampled token, a value, a score), C pairs of a token and one that it attends to
//! (including itself), L layers, Q the width of all query heads, V·D the head:
//!
//! - forward: 2·(P·T − A·(T − N)) + 4·L·Q·C + 2·V·D·N, A the matrices after the last layer's attention, of
//!   which only N rows are needed; forward and backward: three times that. Scores and values have no head.
//! - A prompt that several responses share counts once. Recomputation and padding do not count.
//! - decoding: each step reads P and the head once, and the keys and values of every row.

use align_kernels::HOST;
use align_model::{ModelConfig, ModelOptions};
use align_reward::data::Row;
use align_tokens::LmRow;
use align_train::footprint::{BatchCost, ModelMemory};
use tch::Kind;

/// The sizes of a model, as a language model and as a scalar model.
pub(super) struct Model {
    lm: ModelMemory,
    scalar: ModelMemory,
}

impl Model {
    pub(super) fn new(config: &ModelConfig) -> Self {
        let options = ModelOptions { device: HOST, compute: Kind::Float, trainable: false, recompute_layers: false };
        let memory = |has_lm_head: bool| ModelMemory {
            config: config.clone(),
            options: options.clone(),
            has_lm_head,
            dropout: false,
            result_dtype: None,
        };
        Self { lm: memory(true), scalar: memory(false) }
    }

    pub(super) fn num_parameters(&self) -> u64 {
        self.lm.num_parameters()
    }

    /// Forward and backward over dialogues.
    pub(super) fn sft(&self, rows: &[&LmRow]) -> f64 {
        rows.iter().map(|row| 3.0 * self.lm.forward_flops(&sequence(row.len(), row.num_loss_tokens()))).sum()
    }

    /// Forward and backward over comparisons.
    pub(super) fn rm(&self, rows: &[&Row]) -> f64 {
        rows.iter().map(|row| 3.0 * self.scalar.forward_flops(&comparison(row))).sum()
    }

    /// A step of PPO on a response to each prompt: sampling (which gives the old log-probabilities),
    /// reference, value and reward forward, and for each epoch policy and value model forward and backward.
    pub(super) fn ppo(&self, prompts: &[usize], response: usize, epochs: u64) -> f64 {
        let sum = |model: &ModelMemory, targets: usize| -> f64 {
            prompts.iter().map(|prompt| model.forward_flops(&sequence(prompt + response, targets))).sum()
        };
        let (lm, value, score) = (sum(&self.lm, response), sum(&self.scalar, response), sum(&self.scalar, 1));
        2.0 * lm + value + score + 3.0 * epochs as f64 * (lm + value)
    }

    /// Sampling a response to each prompt; its last token needs no forward pass.
    pub(super) fn generate(&self, prompts: &[usize], response: usize) -> f64 {
        prompts.iter().map(|prompt| self.lm.forward_flops(&sequence(prompt + response - 1, response))).sum()
    }

    /// Bytes that decoding reads in fp32, for all tokens but each response's first, which prefill gives.
    pub(super) fn decoding(&self, prompts: &[usize], response: usize) -> f64 {
        const FP32: f64 = 4.0;
        let config = &self.lm.config;
        // One multiplication and one addition per weight.
        let weights = self.lm.forward_flops(&BatchCost { tokens: 1, targets: 1, ..BatchCost::default() }) / 2.0;
        let width = (2 * config.num_hidden_layers * config.key_width()) as f64;
        let seen: usize = prompts.iter().map(|prompt| (1..response).map(|token| prompt + token).sum::<usize>()).sum();
        FP32 * (response.saturating_sub(1) as f64 * weights + seen as f64 * width)
    }
}

/// A causal sequence: each token attends to itself and all earlier ones.
fn sequence(tokens: usize, targets: usize) -> BatchCost {
    BatchCost { tokens: tokens as u64, targets: targets as u64, pairs: triangle(tokens), ..BatchCost::default() }
}

/// Dialogues with a shared prefix, which counts once.
fn comparison(row: &Row) -> BatchCost {
    let tails: u64 = row.tails.iter().map(|tail| triangle(tail.len()) + (tail.len() * row.prefix.len()) as u64).sum();
    let (tokens, targets) = (row.len() as u64, row.tails.len() as u64);
    BatchCost { tokens, targets, pairs: triangle(row.prefix.len()) + tails, ..BatchCost::default() }
}

fn triangle(tokens: usize) -> u64 {
    (tokens * (tokens + 1) / 2) as u64
}

#[cfg(test)]
mod tests {
    use align_data::RowLocation;
    use serde_json::json;

    use super::*;

    /// D 4, I 8, one layer, two heads of width 2, one for keys and values, V 10: P = 4·(2·4 + 2·2) + 3·4·8 =
    /// 144.
    fn tiny() -> Model {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "model_type": "qwen2", "vocab_size": 10, "hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
            "rope_theta": 1e4, "tie_word_embeddings": true,
        });
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        Model::new(&ModelConfig::read(folder.path()).unwrap())
    }

    #[test]
    fn operations_by_hand() {
        let model = tiny();
        // Two tokens, two targets: 2·144·2 + 4·4·3 + 2·40·2 = 576 + 48 + 160.
        assert_eq!(model.generate(&[1], 2), 784.0);
        // After attention there are 4·4 + 3·4·8 = 112. Three tokens, two targets: 2·(144·3 − 112) + 96 + 160
        // = 896, without a head 736, and for one score 2·(432 − 224) + 96 = 512. The first twice, the others
        // once, then the first two forward and backward in two epochs.
        assert_eq!(model.ppo(&[1], 2, 2), 2.0 * 896.0 + 736.0 + 512.0 + 6.0 * (896.0 + 736.0));
        // One more token is decoded: 184 weights, and keys and values (width 2 each) of two tokens.
        assert_eq!(model.decoding(&[1], 2), 4.0 * (184.0 + 2.0 * 4.0));
    }

    #[test]
    fn a_shared_prompt_counts_once() {
        let row = Row {
            prefix: vec![1, 2],
            tails: vec![vec![3], vec![4, 5]],
            best: 0,
            answer_starts: vec![2, 2],
            scores: None,
            turns: 4,
            has_special_text: false,
            begins_with_newline: false,
            location: RowLocation { file: std::path::Path::new("pairs.jsonl").into(), index: 0, line: 1 },
        };
        // Five tokens, of which two are scored; pairs: 3 in the prompt, 1 + 2 and 3 + 4 after it.
        assert_eq!(tiny().rm(&[&row]), 3.0 * (2.0 * (144.0 * 5.0 - 112.0 * 3.0) + 4.0 * 4.0 * 13.0));
    }
}
