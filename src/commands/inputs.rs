//! The data paths of a command: files, folders, patterns.

use std::path::PathBuf;

use align_data::{self as data, Found};

use crate::output::say;

/// The sets that the paths refer to: a folder is one set, a pattern is one set per match.
pub(super) fn sets(given: &[PathBuf]) -> Vec<Found> {
    given.iter().flat_map(|path| data::find(path)).collect()
}

/// The paths of sets, as named in results.
pub(super) fn paths(sets: &[Found]) -> Vec<PathBuf> {
    sets.iter().map(|set| set.path.clone()).collect()
}

/// All files of sets, in order.
pub(super) fn files(sets: &[Found]) -> Vec<PathBuf> {
    sets.iter().flat_map(|set| set.files.iter().cloned()).collect()
}

/// Reports the files that are ignored.
pub(super) fn report_ignored(sets: &[Found]) {
    let ignored: Vec<&PathBuf> = sets.iter().flat_map(|set| &set.ignored).collect();
    if !ignored.is_empty() {
        say(&format!("ignored, not data files by name: {}", data::files::first_few(ignored)));
    }
}
