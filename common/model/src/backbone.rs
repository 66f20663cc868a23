//! What both models share: weights, the forward pass over flat batches, and the backward pass.

use std::rc::Rc;

use align_kernels::attention::Plan;
use align_kernels::batch::FlatBatch;
use align_kernels::kv_cache::{KvCache, Prefilled};
use align_kernels::{Precision, backward_with};
use tch::Tensor;

use super::config::ModelConfig;
use super::files::Files;
use super::heads::ensure_grad;
use super::layer::SavedActivations;
use super::pass::Pass;
use super::rope::{ntk_factor, rotation, tree_stretch};
use super::shape::Shape;
use super::transformer::Transformer;
use super::weights::{Parameter, SideFiles};
use super::{Dropout, ModelOptions};

/// Config, weights, and how they are computed.
pub(crate) struct Backbone {
    pub(crate) config: ModelConfig,
    pub(crate) options: ModelOptions,
    pub(crate) weights: Rc<Weights>,
    pub(crate) side_files: SideFiles,
    pub(crate) extrapolate: bool,
    shape: Shape,
}

/// The weights of a transformer and of its heads. Several models may share them.
pub(crate) struct Weights {
    /// In the order of [`Transformer::build`], heads last.
    pub(crate) parameters: Vec<Parameter>,
    transformer: Transformer,
}

/// Receives a tensor and its name.
pub type See<'a> = dyn FnMut(String, &Tensor) + 'a;

/// A forward pass in training: hidden states, and the activations that its backward pass needs. Dropping it
/// frees them.
pub struct Forward {
    /// Hidden states (N, D) after the final norm, in the activation dtype: a leaf, which receives its
    /// gradient from the loss.
    pub hidden: Tensor,
    plan: Plan,
    dropout: Option<Dropout>,
    /// The token indices (N) at which hidden states were computed; all T unless given.
    indices: Option<Tensor>,
    /// The embedded tokens (T, D), with their graph.
    embedded: Tensor,
    layers: Vec<SavedLayer>,
    /// The last layer's output (N, D).
    output: Tensor,
}

/// What the backward pass of a layer starts from.
enum SavedLayer {
    /// The layer's input (T, D): its activations are computed again.
    Input(Tensor),
    Activations(SavedActivations),
}

impl Weights {
    /// Parameters come in the order of [`Transformer::build`], heads after them.
    fn new(config: &ModelConfig, parameters: Vec<Parameter>) -> Self {
        let mut tensors = parameters.iter().map(|parameter| parameter.tensor.shallow_clone());
        let transformer = Transformer::build(config, &mut |_| tensors.next().expect("parameters follow the specs"));
        drop(tensors);
        Self { parameters, transformer }
    }
}

impl Backbone {
    /// Parameters come in the order of [`Transformer::build`], heads after them.
    pub(crate) fn new(
        config: ModelConfig,
        parameters: Vec<Parameter>,
        side_files: SideFiles,
        options: &ModelOptions,
    ) -> Self {
        let weights = Weights::new(&config, parameters);
        if options.trainable {
            // Gradients are allocated now: among the first step's activations, they would fragment the heap
            // for good. The embedding's own gradient is sparse, and needs a dense one to be added to.
            weights.parameters.iter().for_each(|parameter| drop(ensure_grad(&parameter.tensor)));
        }
        let shape = Shape::of(&config, options);
        let (weights, options) = (Rc::new(weights), options.clone());
        Self { config, options, weights, side_files, extrapolate: false, shape }
    }

    /// The parameter of a head.
    pub(crate) fn parameter(&self, name: &str) -> Option<&Tensor> {
        self.weights.parameters.iter().find(|parameter| parameter.name == name).map(|parameter| &parameter.tensor)
    }

    /// The embedding (V, D), which is also the language-model head where that is tied.
    pub(crate) fn embedding(&self) -> &Tensor {
        &self.transformer().embed_tokens
    }

    fn transformer(&self) -> &Transformer {
        &self.weights.transformer
    }

    /// Hidden states (N, D) after the final norm at token indices (N), all T unless given, in the activation
    /// dtype. No gradient.
    pub(crate) fn hidden(&self, batch: &FlatBatch, indices: Option<&Tensor>, dropout: Option<Dropout>) -> Tensor {
        let plan = self.plan(batch);
        if dropout.is_none() {
            return self.forward(&plan.tokens, indices, &mut Pass::Batch(&plan));
        }
        let _guard = tch::no_grad_guard();
        let embedded = self.transformer().embed(&self.shape, &plan.tokens, dropout);
        let layers = 0..self.transformer().layers.len();
        let output = layers.fold(embedded, |hidden, index| self.train_layer(index, &hidden, indices, &plan, dropout).0);
        self.transformer().final_norm(&self.shape, &output)
    }

    /// As [`Backbone::hidden`] for a model in mapped files, one layer of which is in memory at a time.
    pub(crate) fn hidden_mapped(&self, batch: &FlatBatch, indices: Option<&Tensor>, files: &Files) -> Tensor {
        let plan = self.plan(batch);
        let hidden = self.forward(&plan.tokens, indices, &mut Pass::Mapped(&plan, files));
        files.let_go();
        hidden
    }

    /// The numbers of [`Backbone::hidden`], with what the backward pass needs.
    pub(crate) fn forward_train(
        &self,
        batch: &FlatBatch,
        indices: Option<&Tensor>,
        dropout: Option<Dropout>,
    ) -> Forward {
        let plan = self.plan(batch);
        let embedded = tch::with_grad(|| self.transformer().embed(&self.shape, &plan.tokens, dropout));
        let mut output = embedded.detach();
        let mut layers = Vec::with_capacity(self.transformer().layers.len());
        for layer in 0..self.transformer().layers.len() {
            let (next, saved) = self.train_layer(layer, &output, indices, &plan, dropout);
            layers.push(match self.options.recompute_layers {
                true => SavedLayer::Input(output),
                false => SavedLayer::Activations(saved),
            });
            output = next;
        }
        let hidden = tch::no_grad(|| self.transformer().final_norm(&self.shape, &output)).set_requires_grad(true);
        Forward { hidden, plan, dropout, indices: indices.map(Tensor::shallow_clone), embedded, layers, output }
    }

    /// A forward pass as in training, without gradients: `see` receives every tensor. Returns the hidden
    /// states (T, D).
    pub(crate) fn trace(&self, batch: &FlatBatch, dropout: Option<Dropout>, see: &mut See<'_>) -> Tensor {
        let _guard = tch::no_grad_guard();
        let plan = self.plan(batch);
        let mut hidden = self.transformer().embed(&self.shape, &plan.tokens, dropout);
        see("embedding".to_owned(), &hidden);
        for index in 0..self.transformer().layers.len() {
            let (output, saved) = self.train_layer(index, &hidden, None, &plan, dropout);
            saved.parts().into_iter().for_each(|(part, tensor)| see(format!("layer {index}, {part}"), tensor));
            see(format!("layer {index}, output"), &output);
            hidden = output;
        }
        hidden = self.transformer().final_norm(&self.shape, &hidden);
        see("final norm".to_owned(), &hidden);
        hidden
    }

    /// The backward pass of a forward pass, given ∂L/∂hidden (N, D): adds to the gradients of the parameters.
    pub(crate) fn backward(&self, forward: Forward, hidden_grad: Tensor) {
        let Forward { hidden, plan, dropout, indices, embedded, mut layers, output } = forward;
        drop(hidden);
        let mut grad = self.transformer().final_norm_backward(&self.shape, &output, &hidden_grad);
        drop((output, hidden_grad));
        for index in (0..layers.len()).rev() {
            let saved = match layers.pop().expect("every layer was saved") {
                SavedLayer::Input(input) => self.train_layer(index, &input, indices.as_ref(), &plan, dropout).1,
                SavedLayer::Activations(saved) => saved,
            };
            grad = self.transformer().layers[index].backward(saved, grad, &self.shape, &plan);
        }
        tch::with_grad(|| backward_with(&embedded, &grad));
    }

    /// Hidden states (N, D) of prompts at token indices (N), and the keys and values for their responses. No
    /// gradient.
    pub(crate) fn prefill(&self, batch: &FlatBatch, indices: &Tensor) -> (Tensor, Prefilled) {
        let plan = self.plan_with(batch, self.decode_precision());
        let mut layers = Vec::with_capacity(self.transformer().layers.len());
        let hidden = self.forward(&plan.tokens, Some(indices), &mut Pass::Prefill(&plan, &mut layers));
        (hidden, Prefilled { layers })
    }

    /// Hidden states (R, D) of one more token in every row of the cache. `prompt_lengths` fix each row's NTK
    /// factor. No gradient.
    pub(crate) fn decode(&self, cache: &mut KvCache, tokens: &[i64], prompt_lengths: &[usize]) -> Tensor {
        let (activations, device) = (self.decode_precision().activations, self.options.device);
        let stretch: Option<Vec<f64>> =
            self.extrapolate.then(|| prompt_lengths.iter().map(|&length| ntk_factor(&self.config, length)).collect());
        let rotation = rotation(&self.config, cache.lengths(), stretch.as_deref(), activations, device);
        let is_masked = self.shape.ops.decode_attention_is_masked();
        let step = if is_masked { cache.masked_step() } else { cache.step() };
        let tokens = Tensor::from_slice(tokens).to_device(device);
        self.forward(&tokens, None, &mut Pass::Decode { cache, rotation: &rotation, step: &step })
    }

    /// A cache for up to `max_rows` rows of this model.
    pub(crate) fn cache(&self, max_rows: usize) -> KvCache {
        let activations = self.decode_precision().activations;
        KvCache::new(&self.config.attention_dims(), max_rows, activations, self.options.device)
    }

    /// Token ids (T) → hidden states (N, D), without dropout and without a gradient.
    fn forward(&self, tokens: &Tensor, indices: Option<&Tensor>, pass: &mut Pass<'_>) -> Tensor {
        let _guard = tch::no_grad_guard();
        let mut shape = self.shape;
        if pass.is_decoding() {
            shape.precision = self.decode_precision();
        }
        let transformer = self.transformer();
        let mut hidden = transformer.embed(&shape, tokens, None);
        for (index, layer) in transformer.layers.iter().enumerate() {
            hidden = layer.forward(&hidden, &shape, transformer.indices_of(index, indices), pass);
        }
        transformer.final_norm(&shape, &hidden)
    }

    /// A layer's output, and what its backward pass needs. `indices` are those of the hidden states.
    fn train_layer(
        &self,
        index: usize,
        input: &Tensor,
        indices: Option<&Tensor>,
        plan: &Plan,
        dropout: Option<Dropout>,
    ) -> (Tensor, SavedActivations) {
        let indices = self.transformer().indices_of(index, indices);
        self.transformer().layers[index].forward_train(input, &self.shape, indices, plan, dropout)
    }

    /// The dtypes of decoding.
    fn decode_precision(&self) -> Precision {
        self.shape.ops.decode_precision(self.shape.precision.matmul, self.embedding().kind())
    }

    fn plan(&self, batch: &FlatBatch) -> Plan {
        self.plan_with(batch, self.options.precision())
    }

    fn plan_with(&self, batch: &FlatBatch, precision: Precision) -> Plan {
        let device = self.options.device;
        let stretch = self.extrapolate.then(|| tree_stretch(&self.config, batch));
        let rotation = rotation(&self.config, batch.positions(), stretch.as_deref(), precision.activations, device);
        Plan::new(&self.config.attention_dims(), batch, rotation, precision, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CausalLm;
    use crate::tests::{tiny, trainable};
    use tch::Kind;

    #[test]
    fn training_sees_the_hidden_states_that_evaluation_sees() {
        for recompute_layers in [false, true] {
            let options = ModelOptions { recompute_layers, ..trainable() };
            let backbone = CausalLm::load(&tiny("qwen2_tied_gqa"), &options).unwrap().backbone;
            let mut batch = FlatBatch::new();
            batch.push(&[1, 2, 3], None);
            let (hidden, forward) = (backbone.hidden(&batch, None, None), backbone.forward_train(&batch, None, None));
            assert!(hidden.equal(&forward.hidden.detach()), "recompute_layers = {recompute_layers}");
            assert!(!hidden.requires_grad() && forward.hidden.requires_grad());
        }
    }

    /// Where a backend decodes with the fp32 weights of a model that is trained in bfloat16, prompts are
    /// prefilled in fp32, too: to the bit, attention included.
    #[test]
    fn prefill_has_the_precision_of_decoding() {
        let mut batch = FlatBatch::new();
        batch.push(&[1, 2, 3, 7, 5], None);
        let hidden = |compute| {
            let options = ModelOptions { compute, ..trainable() };
            let backbone = CausalLm::load(&tiny("qwen2_tied_gqa"), &options).unwrap().backbone;
            backbone.prefill(&batch, &Tensor::from_slice(&[2i64, 4])).0
        };
        let decodes_in = trainable().ops().decode_precision(Kind::BFloat16, Kind::Float).matmul;
        assert_eq!(hidden(Kind::BFloat16).equal(&hidden(Kind::Float)), decodes_in == Kind::Float);
    }
}
