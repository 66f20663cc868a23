//! A recorded step, repeated: whether it fails as it did, and where the first non-finite number appears.

use serde_json::{Value, json};
use tch::{Kind, Tensor};

use align_core::error::Result;
use align_model::Parameter;
use align_run::run::{Failure, Recorded};

/// How many weights are told.
const WEIGHTS: usize = 8;

/// What a tensor holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantity {
    /// What it is.
    pub name: String,
    /// The largest |x| of those that are finite; 0 where none is.
    pub largest: f64,
    /// How many are not.
    pub not_finite: u64,
    /// How many there are.
    pub numbers: u64,
}

impl Quantity {
    /// Of a tensor of any shape.
    pub fn of(name: impl Into<String>, tensor: &Tensor) -> Self {
        let _no_grad = tch::no_grad_guard();
        let numbers = tensor.numel() as u64;
        let finite = tensor.isfinite();
        let not_finite = numbers - finite.sum(Kind::Int64).int64_value(&[]) as u64;
        let magnitudes = tensor.abs().where_self(&finite, &tensor.zeros_like());
        let largest = if numbers == 0 { 0.0 } else { magnitudes.max().double_value(&[]) };
        Self { name: name.into(), largest, not_finite, numbers }
    }

    /// Of numbers.
    pub fn of_slice<T: Copy + Into<f64>>(name: impl Into<String>, numbers: &[T]) -> Self {
        Self::of(name, &Tensor::from_slice(&numbers.iter().map(|number| (*number).into()).collect::<Vec<f64>>()))
    }

    /// Whether every number is one.
    pub fn is_finite(&self) -> bool {
        self.not_finite == 0
    }

    fn add(&mut self, other: &Self) {
        self.largest = self.largest.max(other.largest);
        self.not_finite += other.not_finite;
        self.numbers += other.numbers;
    }

    /// As an object.
    pub fn to_json(&self) -> Value {
        json!({ "name": self.name, "largest": self.largest, "not_finite": self.not_finite, "numbers": self.numbers })
    }
}

/// Adds what another pass showed to what the passes before it did, by name.
pub fn merge(into: &mut Vec<Quantity>, others: Vec<Quantity>) {
    for other in others {
        match into.iter_mut().find(|quantity| quantity.name == other.name) {
            Some(quantity) => quantity.add(&other),
            None => into.push(other),
        }
    }
}

/// A microbatch, or a model.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// Which one.
    pub name: String,
    /// The rows in it, by file and line.
    pub rows: Vec<String>,
    /// Tokens that went through.
    pub tokens: usize,
    /// Its own loss, where it has one.
    pub loss: Option<f64>,
    /// What was computed, in order.
    pub activations: Vec<Quantity>,
    /// Gradients by parameter, in the order of the model.
    pub gradients: Vec<Quantity>,
}

impl Part {
    /// The first thing computed that is not finite.
    pub fn first_activation(&self) -> Option<&Quantity> {
        self.activations.iter().find(|quantity| !quantity.is_finite())
    }

    /// The gradients that are not finite.
    pub fn bad_gradients(&self) -> impl DoubleEndedIterator<Item = &Quantity> {
        self.gradients.iter().filter(|quantity| !quantity.is_finite())
    }
}

/// What was seen while a step was repeated.
#[derive(Debug, Clone, Default)]
pub struct Examination {
    /// What the step came to, as the run takes it; `None` when it is fine now.
    pub failure: Option<Failure>,
    /// The step's microbatches, or the stage's models.
    pub parts: Vec<Part>,
    /// What the step computed from their results, in order.
    pub quantities: Vec<Quantity>,
    /// The largest weights.
    pub weights: Vec<Quantity>,
}

impl Examination {
    /// Takes the largest of all these parameters for [`Examination::weights`]; those that are non-finite are the largest.
    pub fn weigh<'a>(&mut self, models: impl IntoIterator<Item = (&'a str, &'a [Parameter])>) {
        let mut weights: Vec<Quantity> = Vec::new();
        for (prefix, parameters) in models {
            let of = |parameter: &Parameter| Quantity::of(format!("{prefix}{}", parameter.name), &parameter.tensor);
            weights.extend(parameters.iter().map(of));
        }
        weights.sort_by(|a, b| (b.not_finite, b.largest).partial_cmp(&(a.not_finite, a.largest)).expect("finite"));
        weights.truncate(WEIGHTS);
        self.weights = weights;
    }

    /// Where what is no number appears first: among activations, among what is made of them, then on the way back.
    pub fn begins(&self) -> Option<String> {
        let said = |quantity: &Quantity| format!("{} of {} are non-finite", quantity.not_finite, quantity.numbers);
        let activation = self.parts.iter().find_map(|part| part.first_activation().map(|first| (part, first)));
        if let Some((part, first)) = activation {
            return Some(format!("{}: {}, {}", part.name, first.name, said(first)));
        }
        if let Some(first) = self.quantities.iter().find(|quantity| !quantity.is_finite()) {
            return Some(format!("{}: {}", first.name, said(first)));
        }
        // The way back ends with the first parameters.
        let gradient = self.parts.iter().find_map(|part| part.bad_gradients().next_back().map(|first| (part, first)));
        let (part, first) = gradient?;
        Some(format!("{}: in the backward pass, the gradient of {}, {}", part.name, first.name, said(first)))
    }
}

/// Gradients of a model's parameters, where they have any.
pub fn gradients(parameters: &[Parameter]) -> Vec<Quantity> {
    let grads = parameters.iter().map(|parameter| (&parameter.name, parameter.tensor.grad()));
    grads.filter(|(_, grad)| grad.defined()).map(|(name, grad)| Quantity::of(name, &grad)).collect()
}

/// A trainer that can repeat a recorded step.
pub trait Replay {
    /// Repeats the step that a run recorded, from the state that is in the record, and looks at everything on its way. The
    /// trainer may have moved on when the step no longer fails.
    ///
    /// # Errors
    /// Another one than what the step was recorded for.
    fn replay(&mut self, recorded: &Recorded) -> Result<Examination>;
}

/// A recorded step and its repetition.
#[derive(Debug)]
pub struct Replayed {
    /// What run.json calls the stage.
    pub stage: String,
    /// Steps that the step would have made.
    pub done: u64,
    /// What it came to in the run.
    pub recorded: Failure,
    /// What it comes to now.
    pub found: Examination,
}

impl Replayed {
    /// Whether the step failed as it did in the run.
    pub fn is_reproduced(&self) -> bool {
        self.found.failure.as_ref() == Some(&self.recorded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantity(name: &str, numbers: &[f64]) -> Quantity {
        Quantity::of_slice(name, numbers)
    }

    #[test]
    fn a_quantity_counts_what_is_no_number_apart() {
        let found = quantity("x", &[1.0, -3.0, f64::NAN, f64::INFINITY]);
        assert_eq!((found.largest, found.not_finite, found.numbers), (3.0, 2, 4));
        assert_eq!(quantity("x", &[f64::NAN]).largest, 0.0);
        assert_eq!(quantity("x", &[]).numbers, 0);
        let mut merged = vec![found];
        merge(&mut merged, vec![quantity("x", &[5.0]), quantity("y", &[1.0])]);
        assert_eq!((merged[0].largest, merged[0].not_finite, merged[0].numbers, merged.len()), (5.0, 2, 5, 2));
    }

    #[test]
    fn the_way_forward_comes_first_and_the_way_back_from_its_end() {
        let (good, bad) = (|name| quantity(name, &[1.0]), |name| quantity(name, &[f64::NAN, 1.0]));
        let part = |name: &str, activations, gradients| Part {
            name: name.to_owned(),
            activations,
            gradients,
            ..Part::default()
        };
        let mut found = Examination {
            parts: vec![
                part("1", vec![good("a"), good("b")], vec![bad("first"), bad("last"), good("head")]),
                part("2", vec![good("a"), bad("b"), bad("c")], vec![bad("first")]),
            ],
            quantities: vec![good("scores"), bad("values")],
            ..Examination::default()
        };
        assert_eq!(found.begins().unwrap(), "2: b, 1 of 2 are non-finite");
        found.parts[1].activations.clear();
        assert_eq!(found.begins().unwrap(), "values: 1 of 2 are non-finite");
        found.quantities.clear();
        assert_eq!(found.begins().unwrap(), "1: in the backward pass, the gradient of last, 1 of 2 are non-finite");
        found.parts.clear();
        assert_eq!(found.begins(), None);
    }
}
