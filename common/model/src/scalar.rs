//! A transformer that ends in one number per position: a reward model's score at the end token, a value
//! model's value.

use std::path::Path;

use serde_json::{Value, json};
use tch::{Device, Tensor};

use super::backbone::{Backbone, Forward, See};
use super::config::{Family, ModelConfig};
use super::files::Files;
use super::header::{causal_specs, lm_head_spec, scalar_specs, score_spec};
use super::heads::{LmHead, ScalarHead};
use super::saved::{Probed, Saved, probe};
use super::spec::{Face, LM_HEAD, SCORE, Spec};
use super::weights::{Parameter, SideFiles, Writing};
use super::{Dropout, ModelOptions};
use align_core::error::{Error, Result};
use align_core::random::Purpose;
use align_kernels::batch::FlatBatch;

/// A reward or value model.
pub struct ScalarModel {
    pub(super) backbone: Backbone,
    head: ScalarHead,
    lm_head: Option<LmHead>,
    has_new_head: bool,
}

/// The heads that a scalar model is loaded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heads {
    Score,
    /// With the language-model head, for a language-model loss.
    ScoreAndLm,
}

impl ScalarModel {
    /// Reads a `…ForSequenceClassification` with its head, or a language model, which gets a new head: normal
    /// with standard deviation 1/√(D+1), a function of `head_seed`.
    ///
    /// # Errors
    /// [`Error::Invalid`] as [`super::inspect`], or when the folder holds no weights.
    pub fn load(dir: &Path, options: &ModelOptions, head_seed: u64) -> Result<Self> {
        Self::read(dir, &Files::require(dir)?, options, head_seed, Heads::Score, Parameter::read)
    }

    /// As [`ScalarModel::load`], keeping the language-model head beside the scalar one, for a language-model
    /// loss on chosen responses. The head is trained with the rest, but not saved unless it is the embedding.
    ///
    /// # Errors
    /// As [`ScalarModel::load`]; also when the folder has no language-model head.
    pub fn load_with_lm_head(dir: &Path, options: &ModelOptions, head_seed: u64) -> Result<Self> {
        Self::read(dir, &Files::require(dir)?, options, head_seed, Heads::ScoreAndLm, Parameter::read)
    }

    pub(super) fn read(
        dir: &Path,
        files: &Files,
        options: &ModelOptions,
        head_seed: u64,
        heads: Heads,
        parameter: fn(&Files, &Spec, &ModelOptions) -> Parameter,
    ) -> Result<Self> {
        let config = ModelConfig::read(dir)?;
        let has_new_head = !files.contains(SCORE);
        if has_new_head {
            files.compare(&causal_specs(&config), Face::CausalLm, &config)?;
        } else {
            files.compare(&scalar_specs(&config), Face::Scalar, &config)?;
        }
        let mut specs = scalar_specs(&config);
        specs.pop();
        let mut parameters: Vec<Parameter> = specs.iter().map(|spec| parameter(files, spec, options)).collect();
        let score = score_spec(&config);
        parameters.push(if has_new_head {
            Parameter::random(&score, head_seed, Purpose::HeadInit, 0, config.dtype, options)
        } else {
            parameter(files, &score, options)
        });
        if heads == Heads::ScoreAndLm && !config.tie_word_embeddings {
            if !files.contains(LM_HEAD) {
                return Err(Error::invalid(dir.display(), "has no lm_head.weight, which loss.lm_coef above 0 needs"));
            }
            parameters.push(parameter(files, &lm_head_spec(&config), options));
        }
        let backbone = Backbone::new(config, parameters, SideFiles::capture(dir)?, options);
        let weight = backbone.parameter(SCORE).expect("a scalar model has a head").shallow_clone();
        let head = ScalarHead { weight, compute: options.compute, shift: 0.0 };
        let lm_head = (heads == Heads::ScoreAndLm).then(|| {
            let weight = backbone.parameter(LM_HEAD).unwrap_or(backbone.embedding()).shallow_clone();
            LmHead::new(weight, options)
        });
        Ok(Self { backbone, head, lm_head, has_new_head })
    }

    /// Whether the head is new, rather than read from the folder.
    pub fn has_new_head(&self) -> bool {
        self.has_new_head
    }

    /// The longest sequence whose prefix others may share without a change to any number: beyond it the first
    /// generation's dynamic NTK, where it acts, rotates every token by the sequence's own length.
    pub fn longest_shared(&self) -> usize {
        let stretches = self.backbone.extrapolate && self.config().use_dynamic_ntk;
        if stretches { self.config().seq_length as usize } else { usize::MAX }
    }

    /// See [`super::CausalLm::extrapolate`].
    pub fn extrapolate(&mut self) {
        self.backbone.extrapolate = true;
    }

    /// Hidden states (T, D) after the final norm, in the dtype of activations. No gradient: see
    /// [`ScalarModel::forward_train`].
    pub fn hidden(&self, batch: &FlatBatch, dropout: Option<Dropout>) -> Tensor {
        self.backbone.hidden(batch, None, dropout)
    }

    /// Those at token indices (N) alone: (N, D). What follows the last layer's attention is computed for them
    /// only.
    pub fn hidden_at(&self, batch: &FlatBatch, indices: &Tensor, dropout: Option<Dropout>) -> Tensor {
        self.backbone.hidden(batch, Some(indices), dropout)
    }

    /// The same numbers, at token indices (N) or at all T, with what [`ScalarModel::backward`] needs.
    pub fn forward_train(&self, batch: &FlatBatch, indices: Option<&Tensor>, dropout: Option<Dropout>) -> Forward {
        self.backbone.forward_train(batch, indices, dropout)
    }

    /// As [`ScalarModel::hidden`] without gradients; `see` receives every tensor.
    pub fn trace(&self, batch: &FlatBatch, dropout: Option<Dropout>, see: &mut See<'_>) -> Tensor {
        self.backbone.trace(batch, dropout, see)
    }

    /// Hidden states (N, D) → one scalar each (N), fp32, differentiable, the shift included.
    pub fn scalars(&self, hidden: &Tensor) -> Tensor {
        self.head.forward(hidden)
    }

    /// The backward pass of a loss that was computed from the hidden states of `forward`, through them and
    /// the transformer.
    pub fn backward(&self, forward: Forward, loss: &Tensor) {
        loss.backward();
        let grad = forward.hidden.grad();
        self.backbone.backward(forward, grad);
    }

    /// A constant added to every scalar: the value model's `value_shift`. It is not part of the weights.
    pub fn set_shift(&mut self, shift: f64) {
        self.head.shift = shift;
    }

    /// The constant added to every scalar.
    pub fn shift(&self) -> f64 {
        self.head.shift
    }

    /// The language-model head, where the model was loaded with it. [`LmHead::gradient`] gives the gradient
    /// with respect to hidden states: add `(hidden * gradient).sum()` to the loss before the backward pass.
    pub fn lm_head(&self) -> Option<&LmHead> {
        self.lm_head.as_ref()
    }

    /// Names the pad token in the config that is written; other programs need one to score batches.
    pub fn set_pad_token_id(&mut self, pad: i64) {
        self.backbone.config.pad_token_id = Some(pad);
    }

    /// All parameters, in the order of the transformer, heads last.
    pub fn parameters(&self) -> &[Parameter] {
        &self.backbone.weights.parameters
    }

    /// The architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.backbone.config
    }

    /// The device of its weights.
    pub fn device(&self) -> Device {
        self.backbone.options.device
    }

    /// Writes a `…ForSequenceClassification` with one label, in Hugging Face layout.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.snapshot(Writing::default()).write(dir)
    }

    /// A snapshot of the model, for another thread to write and check.
    pub fn saved(&self, writing: Writing) -> Saved {
        let _no_grad = tch::no_grad_guard();
        self.snapshot(writing).probe(|| Probed {
            output: self.scalars(&self.hidden(&probe(self.config().vocab_size), None)) - self.shift(),
            options: self.backbone.options.frozen(),
            read: Self::probe_folder,
        })
    }

    fn snapshot(&self, writing: Writing) -> Saved {
        let parameters = self.parameters().iter().filter(|parameter| parameter.name != LM_HEAD);
        let side_files = self.backbone.side_files.clone();
        Saved::new(parameters, writing, self.written_config(), side_files, Face::Scalar)
    }

    /// The scalars of a folder's model on the probe.
    fn probe_folder(dir: &Path, options: &ModelOptions) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let files = Files::require(dir)?;
        let model = Self::read(dir, &files, options, 0, Heads::Score, Parameter::mapped)?;
        Ok(model.scalars(&model.backbone.hidden_mapped(&probe(model.config().vocab_size), None, &files)))
    }

    /// The source's config as that of a sequence classifier with one label.
    fn written_config(&self) -> ModelConfig {
        let mut written = self.config().clone();
        let config = &mut written.source;
        let name = match self.config().family {
            Family::Qwen => "QWenForSequenceClassification",
            Family::Qwen2 => "Qwen2ForSequenceClassification",
            Family::Qwen3 => "Qwen3ForSequenceClassification",
        };
        config.insert("architectures".to_owned(), json!([name]));
        config.insert("id2label".to_owned(), json!({"0": "LABEL_0"}));
        config.insert("label2id".to_owned(), json!({"LABEL_0": 0}));
        config.insert("num_labels".to_owned(), json!(1));
        // Raw scores: otherwise transformers' pipeline and vLLM put a sigmoid over them.
        config.insert("problem_type".to_owned(), json!("regression"));
        config.insert("sentence_transformers".to_owned(), json!({"activation_fn": "torch.nn.modules.linear.Identity"}));
        // Never an end token: a program that looks for the last token that is not padding would skip it.
        let pad =
            self.config().pad_token_id.or_else(|| config.get("bos_token_id").and_then(Value::as_i64)).unwrap_or(0);
        config.insert("pad_token_id".to_owned(), json!(pad));
        written.pad_token_id = Some(pad);
        written
    }
}
