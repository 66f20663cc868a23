//! Shared by `align doctor` of all stages: a check, and the comparisons that checks use.

use align_kernels::HOST;
use std::path::Path;

use tch::{Kind, Tensor};

use super::{Outset, Trainer};
use align_core::error::{Error, Result};
use align_kernels::batch::FlatBatch;
use align_text::chatml::{ChatFormat, Dialogue, Message, Role};
use align_text::template::Template;

/// The result of `align doctor` for a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// What is reported before any run of the config.
    pub outset: Outset,
    /// The checks, in order.
    pub checks: Vec<Check>,
}

/// One line of `align doctor`: what is checked, what was measured and what is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The property that must hold.
    pub name: &'static str,
    /// What was measured.
    pub measured: String,
    /// What is expected.
    pub expected: String,
    /// Whether the property holds.
    pub passed: bool,
}

impl Check {
    /// A check with its result.
    pub fn new(name: &'static str, measured: impl Into<String>, expected: impl Into<String>, passed: bool) -> Self {
        Self { name, measured: measured.into(), expected: expected.into(), passed }
    }

    /// Compares two lists: equal in length, and each number within `tolerance`.
    pub fn compare(name: &'static str, found: &[f64], expected: &[f64], tolerance: f64) -> Self {
        let diff = if found.len() == expected.len() { max_abs_diff(found, expected) } else { f64::INFINITY };
        let measured = format!("{} numbers, maximum difference {diff:.1e}", found.len());
        Self::new(name, measured, format!("{} numbers, at most {tolerance:.0e}", expected.len()), diff <= tolerance)
    }

    /// Two evaluations with results equal to the bit.
    pub fn deterministic<T: PartialEq>(one: &T, other: &T) -> Self {
        let (same, name) = (one == other, "deterministic: no dropout");
        let measured = if same { "equal to the bit" } else { "different numbers" };
        Self::new(name, measured, "equal to the bit", same)
    }

    /// Takes two steps on one batch: the second one must have a lower loss.
    ///
    /// # Errors
    /// The trainer's error.
    pub fn learns(trainer: &mut impl Trainer) -> Result<Self> {
        let losses = [trainer.step(0)?, trainer.step(1)?].map(|metrics| metrics.get("train/loss").unwrap_or(f64::NAN));
        let measured = format!("{:.5} → {:.5}", losses[0], losses[1]);
        Ok(Self::new("a step lowers the loss of its batch", measured, "lower", losses[1] < losses[0]))
    }

    /// Compares the prompt of a dialogue, as `prompt` renders it, with the checkpoint's chat template, or
    /// with plain ChatML when there is no template.
    ///
    /// # Errors
    /// When the template cannot be rendered.
    pub fn template(dir: &Path, format: &ChatFormat, prompt: &dyn Fn(&Dialogue) -> Vec<i64>) -> Result<Self> {
        let turns = [
            Message::new(Role::User, "Name a city."),
            Message::new(Role::Assistant, "Paris."),
            Message::new(Role::User, "And\nanother?"),
        ];
        let system = (!format.system().is_empty()).then(|| Message::new(Role::System, format.system()));
        let whole: Dialogue = system.into_iter().chain(turns.iter().cloned()).collect::<Vec<_>>().into();
        let expected = match Template::open(dir)? {
            Some(template) => {
                template.render(&whole, true).map_err(|what| Error::invalid(template.file().display(), what))?
            }
            None => {
                let turn =
                    |message: &Message| format!("<|im_start|>{}\n{}<|im_end|>\n", message.role.name(), message.content);
                whole.messages.iter().map(turn).collect::<String>() + "<|im_start|>assistant\n"
            }
        };
        let written = format.tokenizer().decode(&prompt(&turns.into()));
        let at = written.bytes().zip(expected.bytes()).take_while(|(one, other)| one == other).count();
        let measured = match written == expected {
            true => "the same text".to_owned(),
            false => format!("differs at byte {at}: {written:?}"),
        };
        let name = "prompts equal those of the chat template";
        Ok(Self::new(name, measured, format!("{} bytes", expected.len()), written == expected))
    }
}

/// The maximum absolute difference of two lists of equal length; infinite if any difference is NaN.
pub fn max_abs_diff(found: &[f64], expected: &[f64]) -> f64 {
    let differences = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    differences.fold(0.0, |largest: f64, diff| if diff.is_nan() { f64::INFINITY } else { largest.max(diff) })
}

/// A batch of one sequence.
pub fn single_sequence(tokens: &[i64]) -> FlatBatch {
    let mut flat = FlatBatch::new();
    flat.push(tokens, None);
    flat
}

/// A tensor's elements, copied to the CPU and flattened.
pub fn to_host(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).to_device(HOST).view([-1])).expect("a flat tensor of f64")
}

/// A learning rate at which one step changes the loss measurably.
pub const LEARNING_RATE: f64 = 1e-5;

/// The tolerance for results of differently shaped batches in this dtype.
pub fn tolerance(compute: Kind) -> f64 {
    if compute == Kind::Float { 1e-4 } else { 0.2 }
}
