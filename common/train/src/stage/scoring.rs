//! How a reward or value model reads dialogues: under which system text, and at which token they are scored.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Source, check_source};
use align_core::error::{Problems, Result};
use align_model::Face;
use align_text::chatml::{ChatFormat, ScoreAt, TEMPLATES_SYSTEM};

/// At which token scores are read: `score_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScorePlace {
    /// Where the model's align.json says; without one at the last token that its chat template writes.
    #[default]
    Auto,
    /// At the last answer's `<|im_end|>`.
    End,
    /// At the last token that the chat template writes.
    Last,
}

/// What a config or flags say of how a model reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScoreWish {
    /// At which token.
    pub place: ScorePlace,
    /// The system text that is inserted where a dialogue has none; absent: that of align.json, without one the template's.
    pub system: Option<String>,
}

/// A checked reward or value model.
pub struct Scorer {
    /// Its folder.
    pub source: Source,
    /// How it reads dialogues.
    pub format: ChatFormat,
    /// What was assumed of a model that another program made, as one line.
    pub assumed: Option<String>,
}

/// Checks a folder with a scalar head, and how it reads: as `wish` says, else as align.json says that it was trained; a model without
/// one was made by another program and reads what its own template writes. A value model is taken: its raw scores are what its head
/// gives. Mistakes land in `problems`.
///
/// # Errors
/// As [`check_source`].
pub fn check_scalar_model(dir: &Path, wish: &ScoreWish, problems: &mut Problems) -> Result<Option<Scorer>> {
    let Some(source) = check_source(dir, problems)? else { return Ok(None) };
    if source.header.face != Face::Scalar {
        problems.push(dir.display(), "holds a language model, expected a reward model: train one with `align rm`");
    }
    let contract = source.contract.as_ref();
    let system =
        wish.system.as_deref().or(contract.map(|contract| contract.system.as_str())).unwrap_or(TEMPLATES_SYSTEM);
    let Some(format) = problems.absorb(ChatFormat::open(dir, &source.tokenizer, system))? else { return Ok(None) };
    let score_at = match (wish.place, contract) {
        (ScorePlace::End, _) | (ScorePlace::Auto, Some(_)) => ScoreAt::End,
        (ScorePlace::Last, _) | (ScorePlace::Auto, None) => ScoreAt::Last,
    };
    let format = format.scored_at(score_at);
    let assumed = contract.is_none().then(|| assumed(&format, wish));
    Ok(Some(Scorer { source, format, assumed }))
}

/// As [`check_scalar_model`], but a value model is refused.
///
/// # Errors
/// As [`check_source`].
pub fn check_reward_model(dir: &Path, wish: &ScoreWish, problems: &mut Problems) -> Result<Option<Scorer>> {
    let scorer = check_scalar_model(dir, wish, problems)?;
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

/// What is taken for granted of a model that says nothing of itself.
fn assumed(format: &ChatFormat, wish: &ScoreWish) -> String {
    let special = format.tokenizer().special();
    let last = format.tokens_after_end().last().copied().unwrap_or(special.im_end);
    let place = format!("at the token {:?}", format.tokenizer().token(last));
    let system = match format.system() {
        "" => "without a system text".to_owned(),
        text => format!("under the system text {text:?}"),
    };
    let asked = match (wish.place, &wish.system) {
        (ScorePlace::Auto, None) => "as its chat template writes dialogues; score_at and system say otherwise",
        (ScorePlace::Auto, Some(_)) => "at the last token that its chat template writes; score_at says otherwise",
        _ => "as asked",
    };
    format!(
        "no align.json, so another program made it: scores are read {place}, {system} where a dialogue has none ({asked})"
    )
}
