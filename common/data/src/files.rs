//! Finds the data files that a path refers to: the file itself, the data files of a folder, or the matches of
//! a pattern.
//!
//! Names are sorted by their bytes, so that the same files give the same rows in the same order everywhere.

use align_core::config::Files;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::foreign;

/// The files that one path refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The file or folder; for a pattern, one of its matches.
    pub path: PathBuf,
    /// The data files, in order. If there are none, the path itself, so that opening it reports the reason.
    pub files: Vec<PathBuf>,
    /// Other files in the same place, which are ignored.
    pub ignored: Vec<PathBuf>,
}

impl Found {
    fn itself(path: &Path) -> Self {
        Self { path: path.to_owned(), files: vec![path.to_owned()], ignored: Vec::new() }
    }
}

/// The kind of a file, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileKind {
    /// A data file, in a format that is supported or refused by name.
    Data,
    /// A known companion of data files, such as a README.
    Beside,
    /// Unknown.
    Unknown,
}

/// Extensions of supported formats; each may be followed by `.gz` or `.zst`.
const READ: [&str; 7] = ["jsonl", "json", "ndjson", "txt", "csv", "tsv", "parquet"];
/// [`READ`] as messages show it.
pub(super) const READ_NAMES: &str = ".jsonl, .json, .ndjson, .txt, .csv, .tsv, .parquet, each also .gz or .zst";

/// Names and extensions of known companions of data files.
const BESIDE: [&str; 9] = [
    "readme",
    "license",
    "licence",
    "changelog",
    "_success",
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
];
const BESIDE_ENDINGS: [&str; 13] = [
    ".md",
    ".rst",
    ".lock",
    ".py",
    ".sh",
    ".toml",
    ".yaml",
    ".yml",
    ".html",
    ".png",
    ".crc",
    ".report.json",
    ".partial",
];

fn file_kind(path: &Path) -> FileKind {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let stem = name.split('.').next().unwrap_or_default();
    let is_beside = name.starts_with('.')
        || BESIDE.iter().any(|beside| name == *beside || (!beside.contains('.') && stem == *beside))
        || BESIDE_ENDINGS.iter().any(|ending| name.ends_with(ending));
    if is_beside {
        return FileKind::Beside;
    }
    let plain = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    let is_read = Path::new(plain).extension().is_some_and(|ending| READ.iter().any(|read| ending == *read));
    if is_read || foreign::has_foreign_name(&name) { FileKind::Data } else { FileKind::Unknown }
}

/// Finds the files that a path refers to. An existing file is itself; a folder is the data files directly in
/// it. Any other path with `*`, `?` or `[` is a pattern (`**` descends into folders) and refers to every file
/// it matches.
pub fn find(given: &Path) -> Vec<Found> {
    if given.is_dir() {
        return vec![in_folder(given)];
    }
    if fs::symlink_metadata(given).is_ok() || !is_pattern(given) {
        return vec![Found::itself(given)];
    }
    matched(given)
}

/// The data files that a path refers to, in order.
pub fn files_of(given: &Path) -> Vec<PathBuf> {
    find(given).into_iter().flat_map(|found| found.files).collect()
}

/// Whether a path that does not exist is meant as a pattern.
pub(super) fn is_pattern(path: &Path) -> bool {
    path.as_os_str().as_bytes().iter().any(|byte| b"*?[".contains(byte))
}

fn in_folder(folder: &Path) -> Found {
    let (mut files, ignored) = list(folder);
    if files.is_empty() || splits(&files).is_some() {
        files = vec![folder.to_owned()];
    }
    Found { path: folder.to_owned(), files, ignored }
}

/// The data files directly in a folder, and the others. Hidden files are neither.
fn list(folder: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.file_name().is_some_and(|name| !name.as_bytes().starts_with(b".")));
    in_order(&mut paths);
    // A broken link counts as a file, so that opening it reports the error.
    let is_file = |path: &PathBuf| fs::metadata(path).map_or(true, |metadata| metadata.is_file());
    paths.into_iter().partition(|path| is_file(path) && file_kind(path) == FileKind::Data)
}

fn matched(pattern: &Path) -> Vec<Found> {
    const OPTIONS: glob::MatchOptions =
        glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
    let mut matches: Vec<PathBuf> = match pattern.to_str().map(|pattern| glob::glob_with(pattern, OPTIONS)) {
        Some(Ok(paths)) => paths.flatten().collect(),
        _ => Vec::new(),
    };
    in_order(&mut matches);
    let (files, ignored): (Vec<PathBuf>, Vec<PathBuf>) =
        matches.into_iter().partition(|path| path.is_file() && file_kind(path) != FileKind::Beside);
    let mut found: Vec<Found> = files.iter().map(|file| Found::itself(file)).collect();
    match found.first_mut() {
        Some(first) => first.ignored = ignored,
        None => found.push(Found { ignored, ..Found::itself(pattern) }),
    }
    found
}

fn in_order(paths: &mut [PathBuf]) {
    paths.sort_by(|left, right| left.as_os_str().as_bytes().cmp(right.as_os_str().as_bytes()));
}

/// The first training file and the first evaluation file of a folder that has both, by their names. Such a
/// folder is refused: reading all of it would train on held-out data.
fn splits(files: &[PathBuf]) -> Option<(&Path, &Path)> {
    let first = |names: &[&str]| {
        let is_one = |path: &&PathBuf| {
            let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
            names.iter().any(|split| {
                name.strip_prefix(split).is_some_and(|rest| rest.starts_with(['-', '_', '.']) && !rest.is_empty())
            })
        };
        files.iter().find(is_one).map(PathBuf::as_path)
    };
    first(&["train"]).zip(first(&["test", "validation", "valid", "val", "dev", "eval", "heldout"]))
}

/// Why a folder or a pattern refers to no file.
pub(super) fn nothing_found(given: &Path) -> String {
    if !given.is_dir() {
        if let Some(Err(error)) = given.to_str().map(glob::Pattern::new) {
            return format!(
                "is not a pattern ({}), expected a file, a folder or a pattern as `dir/*.jsonl`",
                error.msg
            );
        }
        let beside = matched(given).into_iter().flat_map(|found| found.ignored).collect::<Vec<_>>();
        return match beside.first() {
            None => "matches no file, expected data files".to_owned(),
            Some(_) if beside.iter().all(|path| path.is_dir()) => {
                format!("matches only folders ({}), expected files: end it with `/*`", names(&beside))
            }
            Some(_) => format!("matches only {}, expected data files", names(&beside)),
        };
    }
    if let Err(error) = fs::read_dir(given) {
        return format!("cannot be read ({error}), expected a folder of data files");
    }
    let (files, ignored) = list(given);
    if let Some((train, held_out)) = splits(&files) {
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        return format!(
            "a folder with data to train on (`{}`) and to measure on (`{}`), expected one kind: give a pattern, as `{}/train*`",
            name(train),
            name(held_out),
            given.display()
        );
    }
    if !files.is_empty() {
        return "a folder, expected a file".to_owned();
    }
    let folders: Vec<PathBuf> = ignored.iter().filter(|path| path.is_dir()).cloned().collect();
    match (ignored.is_empty(), folders.is_empty()) {
        (true, _) => format!("an empty folder, expected data files ({READ_NAMES})"),
        (false, true) => {
            format!("a folder without data files, expected {READ_NAMES}; in it: {}", names(&ignored))
        }
        (false, false) => format!(
            "a folder without data files of its own, expected {READ_NAMES}; its folders are {}: give one of them, or a pattern",
            names(&folders)
        ),
    }
}

/// The names of the first few paths.
fn names(paths: &[PathBuf]) -> String {
    let name = |path: &PathBuf| path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    a_few(paths.iter().map(name).collect())
}

/// The first few of some paths, sorted and without duplicates.
pub fn first_few<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> String {
    let mut shown: Vec<String> = paths.into_iter().map(|path| path.display().to_string()).collect();
    shown.sort();
    shown.dedup();
    a_few(shown)
}

fn a_few(mut names: Vec<String>) -> String {
    const SHOWN: usize = 5;
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}

/// Replaces each path of a config by the files that it refers to.
pub fn find_files(files: &mut Files) {
    files.replace(|given| lookup(given, |found| found.files));
}

/// As [`find_files`], but keeps a folder as one path: its files are one set.
pub fn find_sets(files: &mut Files) {
    files.replace(|given| lookup(given, |found| vec![found.path]));
}

/// The paths that a given path refers to, and the ignored files beside them.
fn lookup(given: &Path, paths: impl Fn(Found) -> Vec<PathBuf>) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut all, mut ignored) = (Vec::new(), Vec::new());
    for mut found in find(given) {
        ignored.append(&mut found.ignored);
        all.extend(paths(found));
    }
    (all, ignored)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A folder with empty files of these names.
    fn folder(names: &[&str]) -> TempDir {
        let folder = TempDir::new().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    fn below(folder: &TempDir, paths: &[PathBuf]) -> Vec<String> {
        let name = |path: &PathBuf| path.strip_prefix(folder.path()).unwrap().display().to_string();
        paths.iter().map(name).collect()
    }

    #[test]
    fn a_folder_is_its_data_files_in_the_order_of_bytes() {
        let folder = folder(&[
            "b.jsonl",
            "a.jsonl.gz",
            "B.JSON",
            "ä.csv",
            "10.txt",
            "9.parquet",
            "README.md",
            "dataset_info.json",
            "rows.report.json",
            ".hidden.jsonl",
            "notes",
            "below/c.jsonl",
            "packed.jsonl.bz2",
        ]);
        let [found] = find(folder.path()).try_into().unwrap();
        let files = ["10.txt", "9.parquet", "B.JSON", "a.jsonl.gz", "b.jsonl", "packed.jsonl.bz2", "ä.csv"];
        assert_eq!(below(&folder, &found.files), files);
        let ignored = ["README.md", "below", "dataset_info.json", "notes", "rows.report.json"];
        assert_eq!(below(&folder, &found.ignored), ignored);
        assert_eq!(found.path, folder.path());
    }

    #[test]
    fn a_pattern_is_every_file_that_it_matches() {
        let folder = folder(&[
            "s/b-2.jsonl",
            "s/b-10.jsonl",
            "s/c.jsonl",
            "t/b-1.jsonl",
            "s/part-0",
            "s/README.md",
            "x[1].jsonl",
        ]);
        let matched = |pattern: &str| below(&folder, &files_of(&folder.path().join(pattern)));
        assert_eq!(matched("s/b-*.jsonl"), ["s/b-10.jsonl", "s/b-2.jsonl"]);
        assert_eq!(matched("**/b-?.jsonl"), ["s/b-2.jsonl", "t/b-1.jsonl"]);
        assert_eq!(matched("s/[cb]*"), ["s/b-10.jsonl", "s/b-2.jsonl", "s/c.jsonl"]);
        // A pattern also matches names without a known extension.
        assert_eq!(matched("s/*"), ["s/b-10.jsonl", "s/b-2.jsonl", "s/c.jsonl", "s/part-0"]);
        // An existing file is itself, whatever its name; and so is a path that does not exist.
        assert_eq!(matched("x[1].jsonl"), ["x[1].jsonl"]);
        assert_eq!(matched("none.jsonl"), ["none.jsonl"]);
        assert_eq!(matched("none/*.jsonl"), ["none/*.jsonl"]);
    }

    #[test]
    fn why_there_are_no_files() {
        let said = |names: &[&str], path: &str| {
            let folder = folder(names);
            let path = folder.path().join(path);
            assert_eq!(files_of(&path), std::slice::from_ref(&path));
            nothing_found(&path)
        };
        assert!(said(&[".hidden"], "").starts_with("an empty folder, expected data files (.jsonl"));
        assert!(said(&["README.md"], "").ends_with("in it: README.md"));
        assert!(said(&["data/a.jsonl"], "").contains("its folders are data"));
        assert_eq!(said(&["a.jsonl"], "*.csv"), "matches no file, expected data files");
        assert!(said(&["data/a.jsonl"], "*").contains("matches only folders (data)"));
        assert!(said(&[], "[").starts_with("is not a pattern (invalid range pattern)"));
        // Held-out data would be trained on.
        let splits = said(&["train-0.parquet", "validation-0.parquet"], "");
        assert!(splits.contains("`train-0.parquet`") && splits.contains("`validation-0.parquet`"), "{splits}");
        assert_eq!(files_of(folder(&["training.jsonl", "testimony.jsonl"]).path()).len(), 2);
    }
}
