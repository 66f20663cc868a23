//! What the two faces share: a transformer's forward pass over flat batches, and the backward pass through what it kept or computes again.

use tch::Tensor;

use super::config::ModelConfig;
use super::header::Files;
use super::heads::ensure_grad;
use super::layer::{Kept, Shape};
use super::rope::{ntk_factor, rotation, tree_stretch};
use super::transformer::Transformer;
use super::weights::{Parameter, SideFiles};
use super::{Dropout, ModelOptions};
use align_kernels::attention::{Heads, Plan};
use align_kernels::batch::FlatBatch;
use align_kernels::kv_cache::{KvCache, Prefilled};
use align_kernels::{Ops, Precision, backward_with};

/// Config, parameters, transformer.
pub(crate) struct Backbone {
    pub(crate) config: ModelConfig,
    pub(crate) options: ModelOptions,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) side_files: SideFiles,
    pub(crate) extrapolate: bool,
    transformer: Transformer,
}

/// Is shown a tensor under its name.
pub type See<'a> = dyn FnMut(String, &Tensor) + 'a;

/// A forward pass in training: hidden states, and the activations that its backward pass needs. Dropping it frees them.
pub struct Forward {
    /// Hidden states (N, D) after the final norm, in the dtype of activations: a leaf, to which the graph of a loss brings a gradient.
    pub hidden: Tensor,
    plan: Plan,
    dropout: Option<Dropout>,
    /// The token indices (N) at which hidden states were asked for; all T unless given.
    indices: Option<Tensor>,
    /// The embedded tokens (T, D), with their graph.
    embedded: Tensor,
    layers: Vec<Trace>,
    /// What came out of the last layer (N, D).
    output: Tensor,
}

/// What is left of a layer's forward pass.
enum Trace {
    /// What went in (T, D): the rest is computed again.
    Input(Tensor),
    Kept(Kept),
}

impl Backbone {
    /// Parameters come in the order in which [`Transformer::build`] asks for them, heads after them.
    pub(crate) fn new(
        config: ModelConfig,
        parameters: Vec<Parameter>,
        side_files: SideFiles,
        options: &ModelOptions,
    ) -> Self {
        let mut tensors = parameters.iter().map(|parameter| parameter.tensor.shallow_clone());
        let transformer = Transformer::build(&config, Shape::of(&config, options), &mut |_| {
            tensors.next().expect("parameters follow the specs")
        });
        drop(tensors);
        if options.trainable {
            // Now rather than amid the first step's activations, where they would leave gaps for good. The embedding's own gradient is
            // sparse, and needs a dense one to be added to.
            parameters.iter().for_each(|parameter| drop(ensure_grad(&parameter.tensor)));
        }
        Self { config, options: options.clone(), parameters, side_files, extrapolate: false, transformer }
    }

    /// The parameter of a head.
    pub(crate) fn parameter(&self, name: &str) -> Option<&Tensor> {
        self.parameters.iter().find(|parameter| parameter.name == name).map(|parameter| &parameter.tensor)
    }

    /// The embedding (V, D), which is also the language-model head where that is tied.
    pub(crate) fn embedding(&self) -> &Tensor {
        &self.transformer.embed_tokens
    }

    /// Hidden states (N, D) after the final norm at token indices (N), all T unless given, in the dtype of activations. No gradient.
    pub(crate) fn hidden(&self, batch: &FlatBatch, places: Option<&Tensor>, dropout: Option<Dropout>) -> Tensor {
        let plan = self.plan(batch);
        if dropout.is_some() {
            let _guard = tch::no_grad_guard();
            let embedded = self.transformer.embed(&plan.tokens, dropout);
            let through = |hidden, index| self.layer(index, &hidden, &plan, places, dropout).0;
            return self.transformer.final_norm(&(0..self.transformer.layers.len()).fold(embedded, through));
        }
        self.transformer.forward(&plan.tokens, &plan.rotation, false, places, &mut |layer, heads| {
            self.ops().attention(&plan, heads, self.config.sliding_windows[layer], 0.0)
        })
    }

    /// As [`Backbone::hidden`] without a gradient, for a model in mapped files: of these, a layer is held at a time.
    pub(crate) fn hidden_once(&self, batch: &FlatBatch, places: Option<&Tensor>, files: &Files) -> Tensor {
        let _guard = tch::no_grad_guard();
        let plan = self.plan(batch);
        let hidden = self.transformer.forward(&plan.tokens, &plan.rotation, false, places, &mut |layer, heads| {
            files.let_go();
            self.ops().attention(&plan, heads, self.config.sliding_windows[layer], 0.0)
        });
        files.let_go();
        hidden
    }

    /// The same numbers, with what the backward pass needs.
    pub(crate) fn forward_train(
        &self,
        batch: &FlatBatch,
        indices: Option<&Tensor>,
        dropout: Option<Dropout>,
    ) -> Forward {
        let plan = self.plan(batch);
        let embedded = tch::with_grad(|| self.transformer.embed(&plan.tokens, dropout));
        let mut output = embedded.detach();
        let mut layers = Vec::with_capacity(self.transformer.layers.len());
        for layer in 0..self.transformer.layers.len() {
            let (next, kept) = self.layer(layer, &output, &plan, indices, dropout);
            layers.push(if self.options.recompute_layers { Trace::Input(output) } else { Trace::Kept(kept) });
            output = next;
        }
        let hidden = tch::no_grad(|| self.transformer.final_norm(&output)).set_requires_grad(true);
        Forward { hidden, plan, dropout, indices: indices.map(Tensor::shallow_clone), embedded, layers, output }
    }

    /// A forward pass as training takes it, of which every tensor is shown under its name. Returns the hidden states (T, D); no gradient.
    pub(crate) fn trace(&self, batch: &FlatBatch, dropout: Option<Dropout>, see: &mut See<'_>) -> Tensor {
        let _guard = tch::no_grad_guard();
        let plan = self.plan(batch);
        let mut hidden = self.transformer.embed(&plan.tokens, dropout);
        see("embedding".to_owned(), &hidden);
        for index in 0..self.transformer.layers.len() {
            let (output, kept) = self.layer(index, &hidden, &plan, None, dropout);
            kept.parts().into_iter().for_each(|(part, tensor)| see(format!("layer {index}, {part}"), tensor));
            see(format!("layer {index}, output"), &output);
            hidden = output;
        }
        hidden = self.transformer.final_norm(&hidden);
        see("final norm".to_owned(), &hidden);
        hidden
    }

    /// `places`: what is read behind the last layer.
    fn layer(
        &self,
        index: usize,
        input: &Tensor,
        plan: &Plan,
        places: Option<&Tensor>,
        dropout: Option<Dropout>,
    ) -> (Tensor, Kept) {
        let (window, p) = (self.config.sliding_windows[index], dropout.map_or(0.0, |dropout| dropout.p));
        let attend = &mut |_: usize, heads: &Heads| self.ops().attention(plan, heads, window, p);
        let layer = &self.transformer.layers[index];
        let at = self.transformer.at(index, places);
        layer.forward_kept(at, input, &self.transformer.shape, &plan.rotation, dropout, attend)
    }

    /// The backward pass of a forward pass, given ∂L/∂hidden (N, D): adds to the gradients of the parameters.
    pub(crate) fn backward(&self, forward: Forward, hidden_grad: Tensor) {
        let Forward { hidden, plan, dropout, indices, embedded, mut layers, output } = forward;
        drop(hidden);
        let mut grad = self.transformer.final_norm_backward(&output, &hidden_grad);
        drop((output, hidden_grad));
        for index in (0..layers.len()).rev() {
            let kept = match layers.pop().expect("a trace for each layer") {
                Trace::Input(input) => self.layer(index, &input, &plan, indices.as_ref(), dropout).1,
                Trace::Kept(kept) => kept,
            };
            let layer = &self.transformer.layers[index];
            let window = self.config.sliding_windows[index];
            let attend_back = &mut |heads: &Heads, attended: &Tensor, grad: &Tensor| {
                self.ops().attention_backward(&plan, heads, window, attended, grad)
            };
            grad = layer.backward(kept, grad, &self.transformer.shape, &plan.rotation, attend_back);
        }
        tch::with_grad(|| backward_with(&embedded, &grad));
    }

    /// Hidden states (N, D) of prompts at `places` (N), and the keys and values that responses will see. No gradient.
    pub(crate) fn prefill(&self, batch: &FlatBatch, places: &Tensor) -> (Tensor, Prefilled) {
        let _guard = tch::no_grad_guard();
        let plan = self.plan_by(batch, self.transformer.decode_precision());
        let mut layers = Vec::with_capacity(self.transformer.layers.len());
        let hidden = self.transformer.forward(&plan.tokens, &plan.rotation, true, Some(places), &mut |layer, heads| {
            layers.push((heads.keys.shallow_clone(), heads.values.shallow_clone()));
            self.ops().attention(&plan, heads, self.config.sliding_windows[layer], 0.0)
        });
        (hidden, Prefilled { layers })
    }

    /// Hidden states (R, D) of one more token in every row of the cache. `prompt_lengths` fix each row's NTK factor. No
    /// gradient.
    pub(crate) fn decode(&self, cache: &mut KvCache, tokens: &[i64], prompt_lengths: &[usize]) -> Tensor {
        let _guard = tch::no_grad_guard();
        let (precision, device) = (self.transformer.decode_precision(), self.options.device);
        let stretch: Option<Vec<f64>> =
            self.extrapolate.then(|| prompt_lengths.iter().map(|&length| ntk_factor(&self.config, length)).collect());
        let rotation = rotation(&self.config, cache.lengths(), stretch.as_deref(), precision.activations, device);
        let step = cache.step(self.ops());
        let tokens = Tensor::from_slice(tokens).to_device(device);
        self.transformer.forward(&tokens, &rotation, true, None, &mut |layer, heads| {
            self.ops().decode_attention(cache, layer, heads, &step)
        })
    }

    /// A cache for up to `max_rows` rows of this model.
    pub(crate) fn cache(&self, max_rows: usize) -> KvCache {
        KvCache::new(
            &self.config.attention_dims(),
            max_rows,
            self.transformer.decode_precision().activations,
            self.options.device,
        )
    }

    fn plan(&self, batch: &FlatBatch) -> Plan {
        self.plan_by(batch, self.options.precision())
    }

    fn plan_by(&self, batch: &FlatBatch, precision: Precision) -> Plan {
        let device = self.options.device;
        let stretch = self.extrapolate.then(|| tree_stretch(&self.config, batch));
        let rotation = rotation(&self.config, batch.positions(), stretch.as_deref(), precision.activations, device);
        Plan::new(&self.config.attention_dims(), batch, rotation, precision, device)
    }

    fn ops(&self) -> &'static dyn Ops {
        self.options.ops()
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

    /// To the bit, attention included: tokens are sampled with the fp32 weights as they are.
    #[test]
    fn prompts_are_read_in_fp32_by_a_model_that_is_trained_in_bfloat16() {
        let mut batch = FlatBatch::new();
        batch.push(&[1, 2, 3, 7, 5], None);
        let hidden = |compute| {
            let options = ModelOptions { compute, ..trainable() };
            let backbone = CausalLm::load(&tiny("qwen2_tied_gqa"), &options).unwrap().backbone;
            backbone.prefill(&batch, &Tensor::from_slice(&[2i64, 4])).0
        };
        assert!(hidden(Kind::BFloat16).equal(&hidden(Kind::Float)));
    }
}
