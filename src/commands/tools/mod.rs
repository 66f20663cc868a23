//! Tools: `align tools run`, `align eval tools` and `align eval code`.

mod code;
mod run;
mod selection;

use std::path::Path;

use align_core::config::Dtype;
use align_core::error::Problems;
use align_evaluation::write::Drawing;
use align_model::{CausalLm, require_finite};
use align_text::chatml::ChatFormat;
use align_train::stage::{Source, check_causal_lm, check_format, evaluation_options};
use anyhow::Result;

pub(super) use self::code::code;
pub(super) use self::run::run;
pub(super) use self::selection::selection;
use super::eval_tasks::trained_length;

/// Greedy texts, one at a time or some at once.
const GREEDY: Drawing = Drawing { samples: 1, temperature: 0.0, top_p: 1.0, seed: 0, rows: 64 };

/// A model folder that passed every check.
struct Checked {
    source: Source,
    format: ChatFormat,
}

impl Checked {
    fn new(dir: &Path, system: &str, problems: &mut Problems) -> Result<Option<Self>> {
        let source = check_causal_lm(dir, problems)?;
        let format = check_format(dir, source.as_ref(), system, problems)?;
        Ok(source.zip(format).map(|(source, format)| Self { source, format }))
    }

    fn load(&self, dir: &Path) -> Result<CausalLm> {
        let model = CausalLm::load(dir, &evaluation_options(Dtype::Float32))?;
        require_finite(dir, model.parameters())?;
        Ok(model)
    }

    fn context_length(&self) -> usize {
        trained_length(&self.source.header.config)
    }
}

/// Adds the mistakes in numbers that must be positive.
fn check_positive(numbers: &[(&str, Option<usize>)], problems: &mut Problems) {
    for (flag, _) in numbers.iter().filter(|(_, number)| *number == Some(0)) {
        problems.push(flag, "is 0, expected at least 1");
    }
}
