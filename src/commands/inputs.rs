//! The data paths of a command: files, folders, patterns.

use std::path::PathBuf;

use align_data::{self as data, Found};

use crate::output::say;

/// What the paths stand for: a folder is one set, a pattern as many as it matches.
pub(super) fn sets(given: &[PathBuf]) -> Vec<Found> {
    given.iter().flat_map(|path| data::find(path)).collect()
}

/// The paths of sets, as they are named in results.
pub(super) fn paths(sets: &[Found]) -> Vec<PathBuf> {
    sets.iter().map(|set| set.path.clone()).collect()
}

/// All files of sets, in order.
pub(super) fn files(sets: &[Found]) -> Vec<PathBuf> {
    sets.iter().flat_map(|set| set.files.iter().cloned()).collect()
}

/// Says what lies beside the files and is not read.
pub(super) fn say_passed_over(sets: &[Found]) {
    let ignored: Vec<&PathBuf> = sets.iter().flat_map(|set| &set.ignored).collect();
    if !ignored.is_empty() {
        say(&format!("not read, no data by name: {}", data::files::listed(ignored)));
    }
}
