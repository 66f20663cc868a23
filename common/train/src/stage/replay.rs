//! Repeats a recorded step: whether it fails again, and where the first non-finite number occurs.

use serde_json::{Value, json};
use tch::{Kind, Tensor};

use align_core::error::Result;
use align_model::Parameter;
use align_run::run::{Failure, Recorded};

/// Number of weights that are reported.
const WEIGHTS: usize = 8;

/// Statistics of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorStats {
    /// The tensor's name.
    pub name: String,
    /// The largest finite |x|; 0 when there is none.
    pub largest: f64,
    /// Number of non-finite elements.
    pub not_finite: u64,
    /// Number of elements.
    pub elements: u64,
}

impl TensorStats {
    /// Of a tensor of any shape.
    pub fn of(name: impl Into<String>, tensor: &Tensor) -> Self {
        let _no_grad = tch::no_grad_guard();
        let elements = tensor.numel() as u64;
        let finite = tensor.isfinite();
        let not_finite = elements - finite.sum(Kind::Int64).int64_value(&[]) as u64;
        let magnitudes = tensor.abs().where_self(&finite, &tensor.zeros_like());
        let largest = if elements == 0 { 0.0 } else { magnitudes.max().double_value(&[]) };
        Self { name: name.into(), largest, not_finite, elements }
    }

    /// Of a slice.
    pub fn of_slice<T: Copy + Into<f64>>(name: impl Into<String>, numbers: &[T]) -> Self {
        Self::of(name, &Tensor::from_slice(&numbers.iter().map(|number| (*number).into()).collect::<Vec<f64>>()))
    }

    /// Whether all elements are finite.
    pub fn is_finite(&self) -> bool {
        self.not_finite == 0
    }

    fn add(&mut self, other: &Self) {
        self.largest = self.largest.max(other.largest);
        self.not_finite += other.not_finite;
        self.elements += other.elements;
    }

    /// As a JSON object.
    pub fn to_json(&self) -> Value {
        json!({ "name": self.name, "largest": self.largest, "not_finite": self.not_finite, "numbers": self.elements })
    }
}

/// Merges the statistics of another pass into those of earlier passes, by name.
pub fn merge(into: &mut Vec<TensorStats>, others: Vec<TensorStats>) {
    for other in others {
        match into.iter_mut().find(|stats| stats.name == other.name) {
            Some(stats) => stats.add(&other),
            None => into.push(other),
        }
    }
}

/// The part of a report about one microbatch or one model.
#[derive(Debug, Clone, Default)]
pub struct Section {
    /// The name of the microbatch or model.
    pub name: String,
    /// Its rows, by file and line.
    pub rows: Vec<String>,
    /// Tokens of the flat batch.
    pub tokens: usize,
    /// Its own loss, if it has one.
    pub loss: Option<f64>,
    /// The computed tensors, in order.
    pub activations: Vec<TensorStats>,
    /// The gradient of each parameter, in the order of the model.
    pub gradients: Vec<TensorStats>,
}

impl Section {
    /// The first computed tensor with a non-finite element.
    pub fn first_activation(&self) -> Option<&TensorStats> {
        self.activations.iter().find(|stats| !stats.is_finite())
    }

    /// The gradients with a non-finite element.
    pub fn bad_gradients(&self) -> impl DoubleEndedIterator<Item = &TensorStats> {
        self.gradients.iter().filter(|stats| !stats.is_finite())
    }
}

/// The report of a repeated step.
#[derive(Debug, Clone, Default)]
pub struct NanReport {
    /// How the step fails when it is taken as in the run; `None` when it succeeds.
    pub failure: Option<Failure>,
    /// One section for each microbatch of the step, or for each model of the stage.
    pub sections: Vec<Section>,
    /// Tensors that the step computes from the models' outputs, in order.
    pub tensors: Vec<TensorStats>,
    /// The largest weights.
    pub weights: Vec<TensorStats>,
}

impl NanReport {
    /// Sets [`NanReport::weights`] to the largest of these parameters; non-finite ones count as the largest.
    pub fn set_largest_weights<'a>(&mut self, models: impl IntoIterator<Item = (&'a str, &'a [Parameter])>) {
        let mut weights: Vec<TensorStats> = Vec::new();
        for (prefix, parameters) in models {
            let of = |parameter: &Parameter| TensorStats::of(format!("{prefix}{}", parameter.name), &parameter.tensor);
            weights.extend(parameters.iter().map(of));
        }
        weights.sort_by(|a, b| (b.not_finite, b.largest).partial_cmp(&(a.not_finite, a.largest)).expect("finite"));
        weights.truncate(WEIGHTS);
        self.weights = weights;
    }

    /// The origin of the non-finite numbers: the first tensor of the forward passes that has one, else the
    /// first one computed from their outputs, else the first gradient in the backward pass.
    pub fn origin(&self) -> Option<String> {
        let count = |stats: &TensorStats| format!("{} of {} are non-finite", stats.not_finite, stats.elements);
        let activation =
            self.sections.iter().find_map(|section| section.first_activation().map(|first| (section, first)));
        if let Some((section, first)) = activation {
            return Some(format!("{}: {}, {}", section.name, first.name, count(first)));
        }
        if let Some(first) = self.tensors.iter().find(|stats| !stats.is_finite()) {
            return Some(format!("{}: {}", first.name, count(first)));
        }
        // The backward pass computes the gradients of the last parameters first.
        let gradient =
            self.sections.iter().find_map(|section| section.bad_gradients().next_back().map(|first| (section, first)));
        let (section, first) = gradient?;
        Some(format!("{}: in the backward pass, the gradient of {}, {}", section.name, first.name, count(first)))
    }
}

/// Statistics of the gradients of a model's parameters that have one.
pub fn gradients(parameters: &[Parameter]) -> Vec<TensorStats> {
    let grads = parameters.iter().map(|parameter| (&parameter.name, parameter.tensor.grad()));
    grads.filter(|(_, grad)| grad.defined()).map(|(name, grad)| TensorStats::of(name, &grad)).collect()
}

/// A trainer that can repeat a recorded step.
pub trait Replay {
    /// Repeats the recorded step from the record's state, and collects statistics of its tensors. If the step
    /// succeeds, the trainer's models are updated.
    ///
    /// # Errors
    /// Any error of the step except [`align_core::error::Error::NonFinite`].
    fn replay(&mut self, recorded: &Recorded) -> Result<NanReport>;
}

/// A recorded step and the result of its repetition.
#[derive(Debug)]
pub struct Replayed {
    /// The stage's name in run.json.
    pub stage: String,
    /// The number of the step, from 1.
    pub done: u64,
    /// How it failed in the run.
    pub recorded: Failure,
    /// The report of its repetition.
    pub found: NanReport,
}

impl Replayed {
    /// Whether the step fails as in the run.
    pub fn is_reproduced(&self) -> bool {
        self.found.failure.as_ref() == Some(&self.recorded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(name: &str, numbers: &[f64]) -> TensorStats {
        TensorStats::of_slice(name, numbers)
    }

    #[test]
    fn non_finite_elements_are_counted_separately() {
        let found = stats("x", &[1.0, -3.0, f64::NAN, f64::INFINITY]);
        assert_eq!((found.largest, found.not_finite, found.elements), (3.0, 2, 4));
        assert_eq!(stats("x", &[f64::NAN]).largest, 0.0);
        assert_eq!(stats("x", &[]).elements, 0);
        let mut merged = vec![found];
        merge(&mut merged, vec![stats("x", &[5.0]), stats("y", &[1.0])]);
        assert_eq!((merged[0].largest, merged[0].not_finite, merged[0].elements, merged.len()), (5.0, 2, 5, 2));
    }

    #[test]
    fn the_forward_pass_comes_first_and_gradients_in_the_order_of_the_backward_pass() {
        let (good, bad) = (|name| stats(name, &[1.0]), |name| stats(name, &[f64::NAN, 1.0]));
        let section = |name: &str, activations, gradients| Section {
            name: name.to_owned(),
            activations,
            gradients,
            ..Section::default()
        };
        let mut found = NanReport {
            sections: vec![
                section("1", vec![good("a"), good("b")], vec![bad("first"), bad("last"), good("head")]),
                section("2", vec![good("a"), bad("b"), bad("c")], vec![bad("first")]),
            ],
            tensors: vec![good("scores"), bad("values")],
            ..NanReport::default()
        };
        assert_eq!(found.origin().unwrap(), "2: b, 1 of 2 are non-finite");
        found.sections[1].activations.clear();
        assert_eq!(found.origin().unwrap(), "values: 1 of 2 are non-finite");
        found.tensors.clear();
        assert_eq!(found.origin().unwrap(), "1: in the backward pass, the gradient of last, 1 of 2 are non-finite");
        found.sections.clear();
        assert_eq!(found.origin(), None);
    }
}
