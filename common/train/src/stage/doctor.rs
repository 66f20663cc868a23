//! What the doctors of all stages share: a finding, and the comparisons that findings are made of.

use align_kernels::HOST;
use std::path::Path;

use tch::{Kind, Tensor};

use super::{Outset, Trainer};
use align_core::error::{Error, Result};
use align_kernels::batch::FlatBatch;
use align_text::chatml::{ChatFormat, Dialogue, Message, Role};
use align_text::template::Template;

/// What `align doctor` found of a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// What is told before any run of it.
    pub outset: Outset,
    /// The findings.
    pub checks: Vec<Check>,
}

/// One line of `align doctor`: what was looked at, what was found and what a sound stage gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What must hold.
    pub name: &'static str,
    /// What was found.
    pub measured: String,
    /// What is allowed.
    pub expected: String,
    /// Whether it holds.
    pub sound: bool,
}

impl Check {
    /// A finding.
    pub fn new(name: &'static str, measured: impl Into<String>, expected: impl Into<String>, sound: bool) -> Self {
        Self { name, measured: measured.into(), expected: expected.into(), sound }
    }

    /// As many numbers as expected, each within `tolerance`.
    pub fn compare(name: &'static str, found: &[f64], expected: &[f64], tolerance: f64) -> Self {
        let apart = if found.len() == expected.len() { widest(found, expected) } else { f64::INFINITY };
        let measured = format!("{} numbers, apart by {apart:.1e}", found.len());
        Self::new(name, measured, format!("{} numbers, at most {tolerance:.0e}", expected.len()), apart <= tolerance)
    }

    /// Equal to the bit when asked twice.
    pub fn same_twice<T: PartialEq>(one: &T, other: &T) -> Self {
        let (same, name) = (one == other, "the same twice: no dropout");
        let measured = if same { "equal to the bit" } else { "different numbers" };
        Self::new(name, measured, "equal to the bit", same)
    }

    /// Two steps on one batch: the second sees a lower loss.
    ///
    /// # Errors
    /// What the trainer returns.
    pub fn learns(trainer: &mut impl Trainer) -> Result<Self> {
        let losses = [trainer.step(0)?, trainer.step(1)?].map(|metrics| metrics.get("train/loss").unwrap_or(f64::NAN));
        let measured = format!("{:.5} → {:.5}", losses[0], losses[1]);
        Ok(Self::new("a step lowers the loss of its batch", measured, "lower", losses[1] < losses[0]))
    }

    /// A dialogue to be answered, as `prompt` writes it, against what the checkpoint's own template makes of it; against plain
    /// ChatML where there is no template.
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
        let name = "prompts are written as the chat template says";
        Ok(Self::new(name, measured, format!("{} bytes", expected.len()), written == expected))
    }
}

/// The largest difference of two equally long lists; infinite where one is not a number.
pub fn widest(found: &[f64], expected: &[f64]) -> f64 {
    let differences = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    differences.fold(0.0, |widest: f64, apart| if apart.is_nan() { f64::INFINITY } else { widest.max(apart) })
}

/// One whole sequence, alone in its batch.
pub fn alone(tokens: &[i64]) -> FlatBatch {
    let mut flat = FlatBatch::new();
    flat.push(tokens, None);
    flat
}

/// A tensor's numbers, flat.
pub fn host(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).to_device(HOST).view([-1])).expect("a flat tensor of f64")
}

/// A learning rate at which one step is felt.
pub const LEARNING_RATE: f64 = 1e-5;

/// How far numbers of differently shaped batches may be apart, in this dtype.
pub fn tolerance(compute: Kind) -> f64 {
    if compute == Kind::Float { 1e-4 } else { 0.2 }
}
