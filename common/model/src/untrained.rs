//! Whether the ChatML tokens' rows were ever trained: those of base checkpoints often were not, and a model
//! that does not know `<|im_end|>` does not stop.

use std::path::Path;

use tch::{Kind, Tensor};

use super::ModelConfig;
use super::files::Files;
use super::names::Names;
use super::spec::LM_HEAD;
use align_core::error::Result;
use align_text::tokenizer::Tokenizer;

/// Rows of ordinary tokens that are looked at.
const SAMPLE: i64 = 1024;
/// A row shorter than this part of the ordinary ones' median length was hardly ever moved. Our choice.
const SHORT: f64 = 1.0 / 3.0;
/// A row that is this close to a row no text can train, in parts of that length, is one of their kind. Our
/// choice.
const CLOSE: f64 = 0.01;

/// Names the ChatML tokens whose row in the embedding or the head is close to zero, to that of the other, or
/// to one of the rows after the tokenizer's ids, which no text trains. In a model made of random numbers none
/// is.
///
/// # Errors
/// When the weights cannot be read.
pub fn untrained_chatml(dir: &Path, config: &ModelConfig, tokenizer: &Tokenizer) -> Result<Vec<String>> {
    let files = Files::require(dir)?;
    let special = tokenizer.special();
    let ids = [special.im_start, special.im_end];
    let known = tokenizer.vocab_size().min(config.vocab_size);
    let mut found: Vec<String> = Vec::new();
    for name in [Names::of(config.family).embed, LM_HEAD] {
        let Some(weight) = files.view(name) else { continue };
        let rows = |ids: &[i64]| weight.index_select(0, &Tensor::from_slice(ids)).to_kind(Kind::Double);
        let stride = (special.endoftext.min(known) / SAMPLE).max(1);
        let ordinary: Vec<i64> = (0..special.endoftext.min(known)).step_by(stride as usize).collect();
        if ordinary.is_empty() {
            continue;
        }
        let lengths = |rows: &Tensor| rows.square().sum_dim_intlist(-1, false, Kind::Double).sqrt();
        let median = lengths(&rows(&ordinary)).median().double_value(&[]);
        let unused: Vec<i64> = (known..config.vocab_size).take(SAMPLE as usize).collect();
        for (id, other) in [(ids[0], ids[1]), (ids[1], ids[0])] {
            let row = rows(&[id]);
            let kin = rows(&[&unused[..], &[other]].concat());
            let nearest = lengths(&(kin - &row)).min().double_value(&[]);
            let length = lengths(&row).double_value(&[0]);
            let text = tokenizer.token(id);
            if (length < SHORT * median || nearest < CLOSE * median) && !found.contains(&text) {
                found.push(text);
            }
        }
    }
    found.sort();
    found.reverse(); // <|im_start|> first
    Ok(found)
}
