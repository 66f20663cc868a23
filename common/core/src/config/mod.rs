//! Turns a TOML file and `--set` flags into a complete, checked config, and a config into a commented file
//! that reproduces the run.
//!
//! Every key has its default in one place, the stage's `Default`. The user's values override it. Unknown
//! keys, wrong types and wrong values are reported together, by dotted name.

mod markdown;
mod print;
mod read;
mod resume;
mod schedule;
mod sections;

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Problems, Result};

pub use markdown::{required_keys, to_markdown};
pub use print::to_toml;
pub use resume::{differences, resume_differences, same_result_dtype};
pub use schedule::{ScheduleKind, ScheduleSection, WarmupKind};
pub use sections::{
    DeviceSpec, Dtype, Files, Mix, ModelSection, OptimizerSection, Overlong, ResultDtype, RunSection, checks,
};

/// The keys of one section and their meanings, collected from the doc comments by
/// [`documented!`](crate::documented).
pub type KeyDocs = &'static [(&'static str, &'static str)];

/// A stage's config: one struct per section, every key with a default, no `flatten`.
pub trait Config: Serialize + DeserializeOwned + Default {
    /// Pairs of mutually exclusive dotted keys. Setting one drops the default of the other; setting both is
    /// an error.
    const EITHER: &'static [(&'static str, &'static str)] = &[];

    /// The docs of the keys by section; `""` is the top level. They become the comments of the saved file and
    /// the reference in docs/config.md.
    fn docs() -> Vec<(&'static str, KeyDocs)>;

    /// Adds every mistake that types cannot catch: the dotted key is the location, the expected value is the
    /// text, as in `problems.push("train.grad_clip", "must be above 0")`. [`load`] adds the file and the
    /// value.
    fn validate(&self, problems: &mut Problems);

    /// Expands folders and patterns in the data paths to files. [`load`] calls it once, after all checks have
    /// passed, so that the resolved config lists the files.
    fn find_files(&mut self) {}
}

/// Reads `file`, merges it over the defaults of `C`, then applies `sets` (each `section.key=TOMLVALUE`) and
/// `out` (for `run.out`).
///
/// # Errors
/// [`crate::error::Error::Invalid`] with every unknown key, wrong type and wrong value.
pub fn load<C: Config>(file: &Path, sets: &[String], out: Option<&Path>) -> Result<C> {
    read::load(file, sets, out)
}

/// Like [`load`], from text; messages name `location` as the file.
///
/// # Errors
/// As [`load`].
pub fn load_text<C: Config>(location: &str, text: &str, sets: &[String], out: Option<&Path>) -> Result<C> {
    read::load_text(location, text, sets, out)
}

/// Defines a config section and stores the doc comments of its keys in `Self::DOCS`. They become the comments
/// of the saved config. Derives `Debug`, `Clone`, `PartialEq`, `Serialize` and `Deserialize` with
/// `deny_unknown_fields`.
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
