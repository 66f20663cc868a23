//! A transformer that ends in one number per position: a reward model's score at the end token, a value model's value.

use std::path::Path;

use serde_json::{Map, Value, json};
use tch::{Device, Tensor};

use super::attention::Plan;
use super::config::{Family, ModelConfig};
use super::header::{Face, Files, LM_HEAD, SCORE, causal_specs, lm_head_spec, scalar_specs, score_spec};
use super::heads::{LmHead, ScalarHead};
use super::transformer::{Heads, Transformer};
use super::weights::{self, Parameter, SideFiles};
use super::{Dropout, ModelOptions};
use crate::batch::FlatBatch;
use crate::error::{Error, Result};
use crate::random::Purpose;

/// A reward or value model.
pub struct ScalarModel {
    config: ModelConfig,
    options: ModelOptions,
    parameters: Vec<Parameter>,
    body: Transformer,
    head: ScalarHead,
    lm_head: Option<LmHead>,
    side_files: SideFiles,
    has_new_head: bool,
    extrapolate: bool,
}

impl ScalarModel {
    /// Reads a `…ForSequenceClassification` with its head, or a language model, which gets a new head: normal with standard
    /// deviation 1/√(D+1), a function of `head_seed`.
    ///
    /// # Errors
    /// [`Error::Invalid`] as [`super::inspect`], or when the folder holds no weights.
    pub fn load(dir: &Path, options: &ModelOptions, head_seed: u64) -> Result<Self> {
        Self::read(dir, options, head_seed, false)
    }

    /// As [`ScalarModel::load`], keeping the language-model head beside the scalar one, for a language-model loss on chosen
    /// responses. The head is trained with the rest, but not saved unless it is the embedding.
    ///
    /// # Errors
    /// As [`ScalarModel::load`]; also when the folder has no language-model head.
    pub fn load_with_lm_head(dir: &Path, options: &ModelOptions, head_seed: u64) -> Result<Self> {
        Self::read(dir, options, head_seed, true)
    }

    fn read(dir: &Path, options: &ModelOptions, head_seed: u64, with_lm_head: bool) -> Result<Self> {
        let config = ModelConfig::read(dir)?;
        let files = Files::open(dir)?.ok_or_else(|| {
            Error::invalid(
                dir.display(),
                "holds no weights, expected model.safetensors or shards with model.safetensors.index.json",
            )
        })?;
        let has_new_head = !files.contains(SCORE);
        if has_new_head {
            files.compare(&causal_specs(&config), Face::CausalLm, &config)?;
        } else {
            files.compare(&scalar_specs(&config), Face::Scalar, &config)?;
        }
        let mut specs = scalar_specs(&config);
        specs.pop();
        let mut parameters: Vec<Parameter> = specs.iter().map(|spec| Parameter::read(&files, spec, options)).collect();
        let score = score_spec(&config);
        parameters.push(if has_new_head {
            Parameter::random(&score, head_seed, Purpose::HeadInit, 0, config.dtype, options)
        } else {
            Parameter::read(&files, &score, options)
        });
        if with_lm_head && !config.tie_word_embeddings {
            if !files.contains(LM_HEAD) {
                return Err(Error::invalid(dir.display(), "has no lm_head.weight, which loss.lm_coef above 0 needs"));
            }
            parameters.push(Parameter::read(&files, &lm_head_spec(&config), options));
        }
        let mut model = Self::assemble(config, parameters, SideFiles::capture(dir)?, options, with_lm_head);
        model.has_new_head = has_new_head;
        Ok(model)
    }

    fn assemble(
        config: ModelConfig,
        parameters: Vec<Parameter>,
        side_files: SideFiles,
        options: &ModelOptions,
        with_lm_head: bool,
    ) -> Self {
        let mut tensors = parameters.iter().map(|parameter| parameter.tensor.shallow_clone());
        let mut next = || tensors.next().expect("parameters follow the specs");
        let mut body = Transformer::build(&config, &mut |_| next());
        body.shape.compute = options.compute;
        let head = ScalarHead { weight: next(), compute: options.compute, shift: 0.0 };
        let lm_head = with_lm_head.then(|| {
            let weight = if config.tie_word_embeddings { body.embed_tokens.shallow_clone() } else { next() };
            LmHead::new(weight, options.compute)
        });
        let options = options.clone();
        Self { config, options, parameters, body, head, lm_head, side_files, has_new_head: false, extrapolate: false }
    }

    /// Whether the head was made here, rather than read from the folder.
    pub fn has_new_head(&self) -> bool {
        self.has_new_head
    }

    /// See [`super::CausalLm::set_extrapolate`].
    pub fn set_extrapolate(&mut self, extrapolate: bool) {
        self.extrapolate = extrapolate;
    }

    /// Hidden states (T, D) after the final norm, in the compute dtype.
    pub fn hidden(&self, batch: &FlatBatch, dropout: Option<Dropout>) -> Tensor {
        let plan = Plan::new(&self.config, batch, self.extrapolate, self.options.compute, self.options.device);
        let p = dropout.map_or(0.0, |dropout| dropout.p);
        let windows = &self.config.sliding_windows;
        let attend = &mut |layer: usize, heads: &Heads| plan.attend(heads, windows[layer], p);
        self.body.forward(&plan.tokens, &plan.rotation, dropout, attend)
    }

    /// Hidden states (N, D) → one scalar each (N), fp32, differentiable, the shift included.
    pub fn scalars(&self, hidden: &Tensor) -> Tensor {
        self.head.forward(hidden)
    }

    /// Goes backward from a loss made of this model's scalars. Always use this rather than the tensor's own `backward`: with
    /// recomputed layers, the gradient reaches the parameters only here.
    pub fn backward(&self, loss: &Tensor) {
        loss.backward();
    }

    /// A constant added to every scalar: the value model's `value_shift`. It is not part of the weights.
    pub fn set_shift(&mut self, shift: f64) {
        self.head.shift = shift;
    }

    /// The constant added to every scalar.
    pub fn shift(&self) -> f64 {
        self.head.shift
    }

    /// The language-model head, where the model was loaded with it. [`LmHead::gradient`] gives the gradient with respect to
    /// hidden states: add `(hidden * gradient).sum()` to the loss before going backward.
    pub fn lm_head(&self) -> Option<&LmHead> {
        self.lm_head.as_ref()
    }

    /// Names the pad token in the config that is written; other programs need one to score batches.
    pub fn set_pad_token_id(&mut self, pad: i64) {
        self.config.pad_token_id = Some(pad);
    }

    /// All parameters, in the order of the checkpoint's names, heads last.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        self.options.device
    }

    /// Writes a `…ForSequenceClassification` with one label, in Hugging Face layout.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let written: Vec<&Parameter> = self.parameters.iter().filter(|parameter| parameter.name != LM_HEAD).collect();
        weights::write(dir, &written, weights::SHARD_BYTES)?;
        weights::write_config(dir, &self.written_config())?;
        self.side_files.write(dir)
    }

    /// The source's config as that of a sequence classifier with one label.
    fn written_config(&self) -> Map<String, Value> {
        let mut config = self.config.source.clone();
        let name = match self.config.family {
            Family::Qwen => "QWenForSequenceClassification",
            Family::Qwen2 => "Qwen2ForSequenceClassification",
            Family::Qwen3 => "Qwen3ForSequenceClassification",
        };
        config.insert("architectures".to_owned(), json!([name]));
        config.insert("id2label".to_owned(), json!({"0": "LABEL_0"}));
        config.insert("label2id".to_owned(), json!({"LABEL_0": 0}));
        config.insert("num_labels".to_owned(), json!(1));
        // Never an end token: a program that looks for the last token that is not padding would skip it.
        let pad = self.config.pad_token_id.or_else(|| config.get("bos_token_id").and_then(Value::as_i64)).unwrap_or(0);
        config.insert("pad_token_id".to_owned(), json!(pad));
        config
    }
}
