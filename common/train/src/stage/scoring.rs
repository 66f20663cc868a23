//! How a reward or value model reads dialogues: the system text, and the token at which scores are read.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Source, check_source};
use align_core::error::{Problems, Result};
use align_model::Face;
use align_text::chatml::{ChatFormat, ScoreAt, TEMPLATES_SYSTEM};

/// The token at which scores are read: `score_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScorePosition {
    /// As in the model's align.json; without one, at the last token of its chat template.
    #[default]
    Auto,
    /// At the last answer's `<|im_end|>`.
    End,
    /// At the last token of the chat template.
    Last,
}

/// The settings of a config or of flags for how a model reads dialogues.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScoreOptions {
    /// The token at which scores are read.
    pub position: ScorePosition,
    /// The system text of dialogues without one; when absent that of align.json, or else the template's.
    pub system: Option<String>,
}

/// A checked reward or value model.
pub struct Scorer {
    /// Its folder.
    pub source: Source,
    /// How it reads dialogues.
    pub format: ChatFormat,
    /// The assumptions about a model without an align.json, as one line.
    pub assumed: Option<String>,
}

/// Checks a folder with a scalar head, and how the model reads dialogues: as in `options`, otherwise as in
/// align.json, otherwise (a model of another program) as its chat template renders them. Accepts value
/// models, whose raw scores are the outputs of the head. Mistakes land in `problems`.
///
/// # Errors
/// As [`check_source`].
pub fn check_scalar_model(dir: &Path, options: &ScoreOptions, problems: &mut Problems) -> Result<Option<Scorer>> {
    let Some(source) = check_source(dir, problems)? else { return Ok(None) };
    if source.header.face != Face::Scalar {
        problems.push(dir.display(), "holds a language model, expected a reward model: train one with `align rm`");
    }
    let contract = source.contract.as_ref();
    let system =
        options.system.as_deref().or(contract.map(|contract| contract.system.as_str())).unwrap_or(TEMPLATES_SYSTEM);
    let Some(format) = problems.absorb(ChatFormat::open(dir, &source.tokenizer, system))? else { return Ok(None) };
    let score_at = match (options.position, contract) {
        (ScorePosition::End, _) | (ScorePosition::Auto, Some(_)) => ScoreAt::End,
        (ScorePosition::Last, _) | (ScorePosition::Auto, None) => ScoreAt::Last,
    };
    let format = format.scored_at(score_at);
    let assumed = contract.is_none().then(|| assumed(&format, options));
    Ok(Some(Scorer { source, format, assumed }))
}

/// As [`check_scalar_model`], but a value model is refused.
///
/// # Errors
/// As [`check_source`].
pub fn check_reward_model(dir: &Path, options: &ScoreOptions, problems: &mut Problems) -> Result<Option<Scorer>> {
    let scorer = check_scalar_model(dir, options, problems)?;
    if let Some(scorer) = &scorer {
        refuse_value_model(dir, &scorer.source, problems);
    }
    Ok(scorer)
}

/// Refuses a value model, which predicts rewards before an answer is whole.
pub fn refuse_value_model(dir: &Path, source: &Source, problems: &mut Problems) {
    if source.contract.as_ref().is_some_and(|contract| contract.value_shift.is_some()) {
        problems.push(dir.display(), "holds a value model, expected a reward model that `align rm` wrote");
    }
}

/// Describes the assumptions about a model without an align.json.
fn assumed(format: &ChatFormat, options: &ScoreOptions) -> String {
    let special = format.tokenizer().special();
    let last = format.tokens_after_end().last().copied().unwrap_or(special.im_end);
    let position = format!("at the token {:?}", format.tokenizer().token(last));
    let system = match format.system() {
        "" => "without a system text".to_owned(),
        text => format!("with the system text {text:?}"),
    };
    let reason = match (options.position, &options.system) {
        (ScorePosition::Auto, None) => "as in its chat template; score_at and system change this",
        (ScorePosition::Auto, Some(_)) => "the last token of its chat template; score_at changes this",
        _ => "as set",
    };
    format!(
        "no align.json, so another program made it: scores are read {position}, {system} for dialogues without one ({reason})"
    )
}
