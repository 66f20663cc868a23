//! From a TOML file and `--set` to a config that is complete and checked, and back to a commented file that repeats the run.
//!
//! Every key has its default in one place, the stage's `Default`. What the user wrote is laid over it; unknown keys, wrong
//! types and wrong values are reported all at once by dotted name.

mod markdown;
mod print;
mod read;
mod resume;
mod sections;

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Problems, Result};

pub use markdown::{required_keys, to_markdown};
pub use print::to_toml;
pub use resume::{differences, resume_differences, same_result_dtype};
pub use sections::{
    DeviceSpec, Dtype, Files, Mix, ModelSection, OptimizerSection, Overlong, ResultDtype, RunSection, ScheduleKind,
    ScheduleSection, checks,
};

/// The keys of one section with what they mean, as [`documented!`](crate::documented) collects them from the doc comments.
pub type KeyDocs = &'static [(&'static str, &'static str)];

/// A stage's config: one struct per section, every key with a default, no `flatten`.
pub trait Config: Serialize + DeserializeOwned + Default {
    /// Pairs of dotted keys of which a config has one: giving one drops the default of the other, giving both is refused.
    const EITHER: &'static [(&'static str, &'static str)] = &[];

    /// The docs of the keys by section; `""` is the top level. They become the comments of the saved file and the reference in
    /// docs/config.md.
    fn docs() -> Vec<(&'static str, KeyDocs)>;

    /// Adds every mistake that types cannot catch, with the dotted key as the place and what is expected as the text:
    /// `problems.push("train.grad_clip", "must be above 0")`. [`load`] puts file and value in front.
    fn validate(&self, problems: &mut Problems);

    /// Looks up which files the data paths stand for: [`load`] does it once, when everything else is right, so that the resolved
    /// config names them.
    fn find_files(&mut self) {}
}

/// Reads `file`, lays it over the defaults of `C`, applies `sets` (each `section.key=TOMLVALUE`) and `out` (for `run.out`).
///
/// # Errors
/// [`crate::error::Error::Invalid`] with every unknown key, wrong type and wrong value.
pub fn load<C: Config>(file: &Path, sets: &[String], out: Option<&Path>) -> Result<C> {
    read::load(file, sets, out)
}

/// Like [`load`], from text; `place` stands for the file in messages.
///
/// # Errors
/// As [`load`].
pub fn load_text<C: Config>(place: &str, text: &str, sets: &[String], out: Option<&Path>) -> Result<C> {
    read::load_text(place, text, sets, out)
}

/// Defines a config section and keeps the doc comments of its keys in `Self::DOCS`, from where they become the comments of
/// the saved config. Derives `Debug`, `Clone`, `PartialEq`, `Serialize` and `Deserialize` with `deny_unknown_fields`.
#[macro_export]
macro_rules! documented {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[doc = $doc:literal])+ $(#[serde($($serde:tt)*)])? pub $field:ident: $type:ty,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        $vis struct $name {
            $($(#[doc = $doc])+ $(#[serde($($serde)*)])? pub $field: $type,)*
        }

        impl $name {
            /// The keys of this section and what they mean.
            $vis const DOCS: $crate::config::KeyDocs = &[$((stringify!($field), concat!($($doc, "\n"),+)),)*];
        }
    };
}

#[cfg(test)]
mod tests;
