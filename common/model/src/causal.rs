//! A transformer that ends in a distribution over tokens.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::backbone::{Backbone, Forward, See};
use super::config::ModelConfig;
use super::files::Files;
use super::header::causal_specs;
use super::heads::{GradOf, LmHead, Over, TokenStats};
use super::saved::{Probed, Saved, probe};
use super::spec::{Face, LM_HEAD, Spec};
use super::weights::{Parameter, SideFiles, Writing};
use super::{Dropout, ModelOptions};
use align_core::error::Result;
use align_core::random::Purpose;
use align_kernels::batch::FlatBatch;

/// A language model.
pub struct CausalLm {
    pub(crate) backbone: Backbone,
    head: LmHead,
}

impl CausalLm {
    /// Reads a checkpoint folder.
    ///
    /// # Errors
    /// [`align_core::error::Error::Invalid`] as [`super::inspect`]; also when the folder holds no weights or
    /// a scalar model.
    pub fn load(dir: &Path, options: &ModelOptions) -> Result<Self> {
        Self::read(dir, &Files::require(dir)?, options, Parameter::read)
    }

    pub(super) fn read(
        dir: &Path,
        files: &Files,
        options: &ModelOptions,
        parameter: fn(&Files, &Spec, &ModelOptions) -> Parameter,
    ) -> Result<Self> {
        let config = ModelConfig::read(dir)?;
        let specs = causal_specs(&config);
        files.compare(&specs, Face::CausalLm, &config)?;
        let parameters = specs.iter().map(|spec| parameter(files, spec, options)).collect();
        Ok(Self::assemble(Backbone::new(config, parameters, SideFiles::capture(dir)?, options)))
    }

    /// A new model, its weights a function of the seed.
    pub fn random(config: ModelConfig, seed: u64, options: &ModelOptions) -> Self {
        let specs = causal_specs(&config);
        let new =
            |(index, spec)| Parameter::random(spec, seed, Purpose::WeightInit, index as u64, config.dtype, options);
        let parameters = specs.iter().enumerate().map(new).collect();
        Self::assemble(Backbone::new(config, parameters, SideFiles::default(), options))
    }

    /// As [`CausalLm::random`] with weights of 0, to be filled later.
    pub fn blank(config: ModelConfig, options: &ModelOptions) -> Self {
        let blank = |spec: &Spec| {
            let zeros = Tensor::zeros(&spec.shape, (Kind::Float, options.device));
            Parameter::new(&spec.name, &zeros, config.dtype, options)
        };
        let parameters = causal_specs(&config).iter().map(blank).collect();
        Self::assemble(Backbone::new(config, parameters, SideFiles::default(), options))
    }

    fn assemble(backbone: Backbone) -> Self {
        let weight = backbone.parameter(LM_HEAD).unwrap_or(backbone.embedding()).shallow_clone();
        let head = LmHead::new(weight, &backbone.options);
        Self { backbone, head }
    }

    /// Gives a model that was made by [`CausalLm::random`] its companion files.
    pub fn set_side_files(&mut self, side_files: SideFiles) {
        self.backbone.side_files = side_files;
    }

    /// Has the first generation's dynamic NTK and LogN act on sequences longer than `seq_length`: for
    /// evaluation only. With them, sequences that share a prefix are all treated as the longest of them.
    pub fn extrapolate(&mut self) {
        self.backbone.extrapolate = true;
    }

    /// Hidden states (T, D) after the final norm, in the dtype of activations. No gradient: see
    /// [`CausalLm::forward_train`].
    pub fn hidden(&self, batch: &FlatBatch, dropout: Option<Dropout>) -> Tensor {
        self.backbone.hidden(batch, None, dropout)
    }

    /// Those at token indices (N) alone: (N, D). What follows the last layer's attention is computed for them
    /// only.
    pub fn hidden_at(&self, batch: &FlatBatch, indices: &Tensor, dropout: Option<Dropout>) -> Tensor {
        self.backbone.hidden(batch, Some(indices), dropout)
    }

    /// The same numbers, at token indices (N) or at all T, with what [`CausalLm::backward`] needs.
    pub fn forward_train(&self, batch: &FlatBatch, indices: Option<&Tensor>, dropout: Option<Dropout>) -> Forward {
        self.backbone.forward_train(batch, indices, dropout)
    }

    /// As [`CausalLm::hidden`] without gradients; `see` receives every tensor.
    pub fn trace(&self, batch: &FlatBatch, dropout: Option<Dropout>, see: &mut See<'_>) -> Tensor {
        self.backbone.trace(batch, dropout, see)
    }

    /// Log-probabilities of `targets` (N) i64 after `hidden` (N, D); no gradient.
    pub fn logprobs(&self, hidden: &Tensor, targets: &Tensor, over: &Over<'_>) -> TokenStats {
        self.head.logprobs(hidden, targets, over)
    }

    /// Runs the head forward and backward, then the backward pass of the backbone, for a loss that depends on
    /// the logits only through the log-probabilities of `targets` (N), which are returned. `grad_of(rows,
    /// logprobs)` gives ∂L/∂logprob of a chunk of rows.
    pub fn backward(
        &self,
        forward: Forward,
        targets: &Tensor,
        over: &Over<'_>,
        grad_of: &mut GradOf<'_>,
    ) -> TokenStats {
        let (stats, grad) = self.head.gradient(&forward.hidden, targets, over, grad_of);
        self.backbone.backward(forward, grad);
        stats
    }

    /// The head alone.
    pub fn head(&self) -> &LmHead {
        &self.head
    }

    /// All parameters, in the order of the transformer.
    pub fn parameters(&self) -> &[Parameter] {
        &self.backbone.weights.parameters
    }

    /// The architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.backbone.config
    }

    /// Whether equal weights give equal numbers: the same compute dtype on the same device.
    pub fn computes_like(&self, other: &Self) -> bool {
        let (own, other) = (&self.backbone.options, &other.backbone.options);
        own.compute == other.compute && own.device == other.device
    }

    /// The device of its weights.
    pub fn device(&self) -> Device {
        self.backbone.options.device
    }

    /// Adds end tokens to the written checkpoint: programs that load it stop generating at them.
    pub fn add_eos_token_ids(&mut self, ids: &[i64]) {
        self.backbone.side_files.add_eos_token_ids(ids);
    }

    /// Writes a checkpoint in Hugging Face layout, with the source's names and dtypes; the folder is made
    /// when missing.
    ///
    /// # Errors
    /// [`align_core::error::Error::Io`].
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.snapshot(Writing::default()).write(dir)
    }

    /// A snapshot of the model, for another thread to write and check.
    pub fn saved(&self, writing: Writing) -> Saved {
        let _no_grad = tch::no_grad_guard();
        self.snapshot(writing).probe(|| Probed {
            output: self.head.logits(&self.hidden(&probe(self.config().vocab_size), None)),
            options: self.backbone.options.frozen(),
            read: Self::probe_folder,
        })
    }

    fn snapshot(&self, writing: Writing) -> Saved {
        let side_files = self.backbone.side_files.clone();
        Saved::new(self.parameters(), writing, self.config().clone(), side_files, Face::CausalLm)
    }

    /// The logits of a folder's model on the probe.
    fn probe_folder(dir: &Path, options: &ModelOptions) -> Result<Tensor> {
        let files = Files::require(dir)?;
        let model = Self::read(dir, &files, options, Parameter::mapped)?;
        let hidden = model.backbone.hidden_mapped(&probe(model.config().vocab_size), None, &files);
        Ok(model.head.logits_once(&hidden, &files))
    }
}
