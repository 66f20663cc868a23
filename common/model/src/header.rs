//! What a checkpoint folder holds, read from `config.json` and the safetensors headers alone, and compared
//! both ways with the parameters of the architecture.

use std::path::Path;

use tch::Kind;

use super::config::ModelConfig;
use super::files::Files;
use super::spec::{Face, Init, LM_HEAD, SCORE, Spec};
use super::transformer::Transformer;
use align_core::error::Result;

/// A checkpoint that can be loaded: its config and headers were read and agree.
#[derive(Debug)]
pub struct Header {
    /// The architecture.
    pub config: ModelConfig,
    /// Whether it ends in a scalar head.
    pub face: Face,
    /// The number of parameters; a tied head counts once.
    pub num_parameters: u64,
    /// Whether there is a language-model head: its own or the tied embedding.
    pub has_lm_head: bool,
    /// Whether there are weights at all; a folder with `config.json` alone describes a model to be
    /// initialised randomly.
    pub has_weights: bool,
}

/// Checks a folder without loading a tensor: names, shapes and dtypes both ways, truncated files, overlapping
/// tensors, shard names that leave the folder.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] with every difference.
pub fn inspect(dir: &Path) -> Result<Header> {
    let config = ModelConfig::read(dir)?;
    let Some(files) = Files::open(dir)? else {
        let specs = causal_specs(&config);
        return Ok(Header {
            num_parameters: count(&specs),
            config,
            face: Face::CausalLm,
            has_lm_head: true,
            has_weights: false,
        });
    };
    let face = if files.contains(SCORE) { Face::Scalar } else { Face::CausalLm };
    let specs = specs(&config, face);
    files.compare(&specs, face, &config)?;
    let has_lm_head = face == Face::CausalLm || config.tie_word_embeddings || files.contains(LM_HEAD);
    Ok(Header { num_parameters: count(&specs), config, face, has_lm_head, has_weights: true })
}

/// The dtypes of a folder's weights, each once.
///
/// # Errors
/// [`align_core::error::Error::Invalid`] when it holds none, or none that can be read.
pub fn dtypes(dir: &Path) -> Result<Vec<Kind>> {
    let files = Files::require(dir)?;
    Ok(files.dtypes())
}

/// Parameters of a language model, or of a scalar model, whose head is one row.
pub fn num_parameters(config: &ModelConfig, face: Face) -> u64 {
    count(&specs(config, face))
}

/// Those that the other model has none of the same name and shape as.
pub fn num_parameters_without(config: &ModelConfig, face: Face, other: &ModelConfig, other_face: Face) -> u64 {
    let others = specs(other, other_face);
    let has = |spec: &Spec| others.iter().any(|other| other.name == spec.name && other.shape == spec.shape);
    count(&specs(config, face).into_iter().filter(|spec| !has(spec)).collect::<Vec<_>>())
}

pub(crate) fn specs(config: &ModelConfig, face: Face) -> Vec<Spec> {
    match face {
        Face::CausalLm => causal_specs(config),
        Face::Scalar => scalar_specs(config),
    }
}

/// What a language model needs.
pub(crate) fn causal_specs(config: &ModelConfig) -> Vec<Spec> {
    let mut specs = body_specs(config);
    if !config.tie_word_embeddings {
        specs.push(lm_head_spec(config));
    }
    specs
}

/// What a scalar model needs.
pub(crate) fn scalar_specs(config: &ModelConfig) -> Vec<Spec> {
    let mut specs = body_specs(config);
    specs.push(score_spec(config));
    specs
}

/// The untied language-model head.
pub(crate) fn lm_head_spec(config: &ModelConfig) -> Spec {
    let shape = vec![config.vocab_size, config.hidden_size];
    Spec { name: LM_HEAD.to_owned(), shape, init: Init::Normal(config.initializer_range) }
}

/// The scalar head: normal with standard deviation 1/√(D+1). Source: Huang et al. 2024 (arXiv 2403.17031),
/// detail 11.
pub(crate) fn score_spec(config: &ModelConfig) -> Spec {
    let init = Init::Normal(1.0 / ((config.hidden_size + 1) as f64).sqrt());
    Spec { name: SCORE.to_owned(), shape: vec![1, config.hidden_size], init }
}

fn body_specs(config: &ModelConfig) -> Vec<Spec> {
    let mut specs = Vec::new();
    Transformer::build(config, &mut |spec| {
        specs.push(spec);
        tch::Tensor::new()
    });
    specs
}

fn count(specs: &[Spec]) -> u64 {
    specs.iter().map(|spec| spec.shape.iter().product::<i64>() as u64).sum()
}
