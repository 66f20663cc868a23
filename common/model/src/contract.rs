//! The score contract: what the scores of a reward or value model mean, written next to its weights as
//! `align.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use align_core::error::{Error, Problems, Result};
use align_text::chatml::ChatFormat;

/// The file's name.
pub const FILE: &str = "align.json";

/// What has to agree before a score means anything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreContract {
    /// The chat format, as [`ChatFormat::describe`] describes it.
    pub chat_format: Value,
    /// System text inserted where a dialogue brings none; "" inserts none.
    pub system: String,
    /// The token at which a sequence ends and is scored.
    pub end_token: String,
    /// Its id.
    pub end_token_id: i64,
    /// Hash of the tokenizer's id table.
    pub tokenizer: String,
    /// The distribution of raw scores on a named set; absent when training had no held-out set.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reference: Option<Reference>,
    /// A value model's constant: its value is the head's output plus this.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub value_shift: Option<f64>,
}

/// Raw scores on a named set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// The set's file.
    pub set: String,
    /// Number of scores.
    pub scores: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation (biased).
    pub std: f64,
}

impl Reference {
    /// Mean and spread of raw scores.
    pub fn new(set: impl Into<String>, scores: &[f64]) -> Self {
        let count = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / count;
        let variance = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / count;
        Self { set: set.into(), scores: scores.len(), mean, std: variance.sqrt() }
    }
}

impl ScoreContract {
    /// The contract of a model that reads this format.
    pub fn new(format: &ChatFormat) -> Self {
        let (tokenizer, end) = (format.tokenizer(), format.tokenizer().special().im_end);
        Self {
            chat_format: format.describe(),
            system: format.system().to_owned(),
            end_token: tokenizer.token(end),
            end_token_id: end,
            tokenizer: tokenizer.fingerprint(),
            reference: None,
            value_shift: None,
        }
    }

    /// Reads a folder's contract; `None` where there is none, as in folders that `align` did not write.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the file is not a contract.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Io { path, source }),
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                Error::invalid(path.display(), format!("{error}, expected a score contract that `align` wrote"))
            }),
        }
    }

    /// Writes it into an existing folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        std::fs::write(&path, self.to_bytes()).map_err(Error::io(&path))
    }

    /// The content of its file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("a contract is plain data");
        text.push(b'\n');
        text
    }

    /// Adds every way in which a model with this contract at `dir` would misread what a policy with `format`
    /// writes.
    pub fn compare(&self, dir: &Path, format: &ChatFormat, problems: &mut Problems) {
        let expected = Self::new(format);
        let place = dir.join(FILE);
        if self.tokenizer != expected.tokenizer {
            problems.push(place.display(), "the model was trained with another tokenizer than the policy's, expected the same; train it from a checkpoint of the policy's family");
        }
        if self.end_token_id != expected.end_token_id {
            let (own, policy) = (&self.end_token, &expected.end_token);
            problems.push(
                place.display(),
                format!("scores are read at `{own}`, but the policy's turns end with `{policy}`"),
            );
        }
        if self.chat_format != expected.chat_format {
            let (own, policy) = (&self.chat_format, &expected.chat_format);
            problems.push(
                place.display(),
                format!("the model reads the chat format {own}, but the policy writes {policy}"),
            );
        }
        if self.system != expected.system {
            let (own, policy) = (&self.system, &expected.system);
            problems.push(place.display(), format!("the model was trained with the system text {own:?}, expected {policy:?}; set data.system to the model's"));
        }
    }
}
