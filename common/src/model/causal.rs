//! A transformer that ends in a distribution over tokens.

use std::path::Path;

use tch::{Device, Tensor};

use super::attention::Plan;
use super::config::ModelConfig;
use super::header::{Face, Files, causal_specs};
use super::heads::{GradOf, LmHead, Over, TokenStats};
use super::kv_cache::{KvCache, Prefilled};
use super::rope::{Rotation, ntk_factor};
use super::transformer::{Heads, Transformer};
use super::weights::{self, Parameter, SideFiles};
use super::{Dropout, ModelOptions, backward_with};
use crate::batch::FlatBatch;
use crate::error::{Error, Result};
use crate::random::Purpose;

/// A language model.
pub struct CausalLm {
    config: ModelConfig,
    options: ModelOptions,
    parameters: Vec<Parameter>,
    pub(crate) body: Transformer,
    head: LmHead,
    side_files: SideFiles,
    extrapolate: bool,
}

impl CausalLm {
    /// Reads a checkpoint folder.
    ///
    /// # Errors
    /// [`Error::Invalid`] as [`super::inspect`]; also when the folder holds no weights or a scalar model.
    pub fn load(dir: &Path, options: &ModelOptions) -> Result<Self> {
        let config = ModelConfig::read(dir)?;
        let files = Files::open(dir)?.ok_or_else(|| {
            Error::invalid(
                dir.display(),
                "holds no weights, expected model.safetensors or shards with model.safetensors.index.json",
            )
        })?;
        let specs = causal_specs(&config);
        files.compare(&specs, Face::CausalLm, &config)?;
        let parameters = specs.iter().map(|spec| Parameter::read(&files, spec, options)).collect();
        Ok(Self::assemble(config, parameters, SideFiles::capture(dir)?, options))
    }

    /// A new model, its weights a function of the seed.
    pub fn random(config: ModelConfig, seed: u64, options: &ModelOptions) -> Self {
        let specs = causal_specs(&config);
        let new =
            |(index, spec)| Parameter::random(spec, seed, Purpose::WeightInit, index as u64, config.dtype, options);
        let parameters = specs.iter().enumerate().map(new).collect();
        Self::assemble(config, parameters, SideFiles::default(), options)
    }

    fn assemble(
        config: ModelConfig,
        parameters: Vec<Parameter>,
        side_files: SideFiles,
        options: &ModelOptions,
    ) -> Self {
        let mut tensors = parameters.iter().map(|parameter| parameter.tensor.shallow_clone());
        let mut body = Transformer::build(&config, &mut |_| tensors.next().expect("parameters follow the specs"));
        body.shape.compute = options.compute;
        let weight = tensors.next().unwrap_or_else(|| body.embed_tokens.shallow_clone());
        let head = LmHead::new(weight, options.compute);
        Self { config, options: options.clone(), parameters, body, head, side_files, extrapolate: false }
    }

    /// Gives a model that was made by [`CausalLm::random`] the files that travel with it.
    pub fn set_side_files(&mut self, side_files: SideFiles) {
        self.side_files = side_files;
    }

    /// Whether the first generation's dynamic NTK and LogN act on sequences beyond `seq_length`: evaluation only. With them,
    /// sequences that share a prefix are all treated as the longest of them.
    pub fn set_extrapolate(&mut self, extrapolate: bool) {
        self.extrapolate = extrapolate;
    }

    /// Hidden states (T, D) after the final norm, in the compute dtype.
    pub fn hidden(&self, batch: &FlatBatch, dropout: Option<Dropout>) -> Tensor {
        let plan = self.plan(batch);
        let p = dropout.map_or(0.0, |dropout| dropout.p);
        let windows = &self.config.sliding_windows;
        let attend = &mut |layer: usize, heads: &Heads| plan.attend(heads, windows[layer], p);
        self.body.forward(&plan.tokens, &plan.rotation, dropout, attend)
    }

    /// Log-probabilities of `targets` (N) i64 after `hidden` (N, D); no gradient.
    pub fn logprobs(&self, hidden: &Tensor, targets: &Tensor, over: &Over<'_>) -> TokenStats {
        self.head.logprobs(hidden, targets, over)
    }

    /// One pass over the head and back through the body: log-probabilities, and the gradient of a loss that is a sum over
    /// tokens. `grad_of(rows, logprobs)` gives ∂L/∂logprob of a chunk of rows.
    pub fn backward(&self, hidden: &Tensor, targets: &Tensor, over: &Over<'_>, grad_of: &mut GradOf<'_>) -> TokenStats {
        let (stats, grad) = self.head.gradient(hidden, targets, over, grad_of);
        backward_with(hidden, &grad);
        stats
    }

    /// The head alone.
    pub fn head(&self) -> &LmHead {
        &self.head
    }

    /// All parameters, in the order of the checkpoint's names.
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

    /// Writes a checkpoint in Hugging Face layout into an existing folder, with the source's names and dtypes.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
        weights::write(dir, &self.parameters.iter().collect::<Vec<_>>(), weights::SHARD_BYTES)?;
        weights::write_config(dir, &self.config.source)?;
        self.side_files.write(dir)
    }

    /// Hidden states (T, D) of prompts, and the keys and values that responses will see. No gradient.
    pub(crate) fn prefill(&self, batch: &FlatBatch) -> (Tensor, Prefilled) {
        let _guard = tch::no_grad_guard();
        let plan = self.plan(batch);
        let mut layers = Vec::with_capacity(self.config.sliding_windows.len());
        let hidden = self.body.forward(&plan.tokens, &plan.rotation, None, &mut |layer, heads| {
            layers.push((heads.keys.shallow_clone(), heads.values.shallow_clone()));
            plan.attend(heads, self.config.sliding_windows[layer], 0.0)
        });
        (hidden, Prefilled { layers })
    }

    /// Hidden states (R, D) of one more token in every row of the cache. `prompt_lengths` fix each row's NTK factor. No
    /// gradient.
    pub(crate) fn decode(&self, cache: &mut KvCache, tokens: &[i64], prompt_lengths: &[usize]) -> Tensor {
        let _guard = tch::no_grad_guard();
        let (compute, device) = (self.options.compute, self.options.device);
        let stretch: Option<Vec<f64>> =
            self.extrapolate.then(|| prompt_lengths.iter().map(|&length| ntk_factor(&self.config, length)).collect());
        let rotation = Rotation::new(&self.config, cache.lengths(), stretch.as_deref(), compute, device);
        let step = cache.step(&self.config, device, compute);
        self.body.forward(&Tensor::from_slice(tokens).to_device(device), &rotation, None, &mut |layer, heads| {
            cache.attend(layer, heads, self.config.sliding_windows[layer], &step)
        })
    }

    /// A cache for up to `max_rows` rows of this model.
    pub(crate) fn cache(&self, max_rows: usize) -> KvCache {
        KvCache::new(&self.config, max_rows, self.options.compute, self.options.device)
    }

    fn plan(&self, batch: &FlatBatch) -> Plan {
        Plan::new(&self.config, batch, self.extrapolate, self.options.compute, self.options.device)
    }
}
