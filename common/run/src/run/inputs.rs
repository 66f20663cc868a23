//! Fingerprints of a run's input files. A resume requires the same data and models, at any path.

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use align_core::error::{Error, Problems, Result};

/// The files under one config key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// The key; for `[[data.mix]]`, with the index of the entry.
    pub key: String,
    /// The files, in the order in which they are used.
    pub files: Vec<PathBuf>,
}

impl Input {
    /// Files under their key.
    pub fn new(key: impl Into<String>, files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { key: key.into(), files: files.into_iter().collect() }
    }

    /// The config key of the path. Its value may change as long as the content is the same.
    fn config_key(key: &str) -> &str {
        if key.starts_with(MIX) { MIX } else { key }
    }
}

const MIX: &str = "data.mix";

/// The size of a block, in bytes.
const BLOCK: u64 = 64 << 10;
/// A file of up to this many bytes is hashed completely …
const WHOLE: u64 = 32 << 20;
/// … of a longer one only this many blocks, including the first and the last.
const BLOCKS: u64 = 64;

/// The inputs as run.json records them: a list of files by key, each with its length and a hash of its
/// content (for a large file, of evenly spaced blocks).
///
/// # Errors
/// [`Error::Io`] when a file cannot be read.
pub fn fingerprints(inputs: &[Input]) -> Result<Value> {
    let mut all = Map::new();
    for input in inputs {
        let files: Vec<Value> = input.files.iter().map(|file| fingerprint(file)).collect::<Result<_>>()?;
        all.insert(input.key.clone(), Value::Array(files));
    }
    Ok(Value::Object(all))
}

fn fingerprint(path: &Path) -> Result<Value> {
    let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
    // A file that is not regular, such as a pipe, can be read only once.
    let hash = metadata.is_file().then(|| hash(path, &metadata)).transpose().map_err(Error::io(path))?;
    Ok(json!({ "file": path, "bytes": metadata.len(), "blake3": hash }))
}

fn hash(path: &Path, metadata: &Metadata) -> io::Result<String> {
    let (length, mut file, mut hash) = (metadata.len(), File::open(path)?, blake3::Hasher::new());
    hash.update(&length.to_le_bytes());
    if length <= WHOLE {
        let mut bytes = Vec::with_capacity(length as usize);
        file.read_to_end(&mut bytes)?;
        hash.update_rayon(&bytes);
        return Ok(hash.finalize().to_hex().to_string());
    }
    let mut block = vec![0; BLOCK as usize];
    for index in 0..BLOCKS {
        // In 128 bits: a length of 2^58 bytes times 63 does not fit into 64.
        let start = u128::from(length - BLOCK) * u128::from(index) / u128::from(BLOCKS - 1);
        file.seek(SeekFrom::Start(start as u64))?;
        file.read_exact(&mut block)?;
        hash.update(&block);
    }
    Ok(hash.finalize().to_hex().to_string())
}

/// The config keys whose paths may change because contents are compared: those for which both runs have
/// fingerprints.
pub(super) fn compared_keys(then: Option<&Value>, now: Option<&Value>) -> BTreeSet<String> {
    let keys = |inputs: Option<&Value>| -> BTreeSet<String> {
        let compared = |(key, files): (&String, &Value)| files.is_array().then(|| Input::config_key(key).to_owned());
        inputs.and_then(Value::as_object).into_iter().flatten().filter_map(compared).collect()
    };
    keys(then).intersection(&keys(now)).cloned().collect()
}

/// Refuses inputs that differ from those in run.json, whose path is `location`, with one line per file that
/// differs.
pub(super) fn compare(location: &Path, then: Option<&Value>, now: Option<&Value>) -> Result<()> {
    let (Some(then), Some(now)) = (then.and_then(Value::as_object), now.and_then(Value::as_object)) else {
        return Ok(());
    };
    let mut problems = Problems::new();
    if then.values().any(Value::is_number) {
        compare_sizes(then, now, &mut problems);
    } else {
        for (key, files) in now {
            let before = then.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            compare_files(location, key, before, files.as_array().map_or(&[][..], Vec::as_slice), &mut problems);
        }
    }
    problems.into_result()
}

/// Compares with the records of earlier versions: lengths of data files, by path.
fn compare_sizes(then: &Map<String, Value>, now: &Map<String, Value>, problems: &mut Problems) {
    for file in now.values().filter_map(Value::as_array).flatten() {
        let (path, bytes) = (file["file"].as_str().unwrap_or_default(), &file["bytes"]);
        if let Some(before) = then.get(path).filter(|before| *before != bytes) {
            problems.push(path, format!("has {bytes} bytes, {before} when the run began; {EXPECTED}"));
        }
    }
}

const EXPECTED: &str =
    "expected the file that the run was started with; restore it, or start a new run in another folder";

fn compare_files(location: &Path, key: &str, then: &[Value], now: &[Value], problems: &mut Problems) {
    let same = |one: &Value, other: &Value| one["bytes"] == other["bytes"] && one["blake3"] == other["blake3"];
    let name = |file: &Value| file["file"].as_str().unwrap_or_default().to_owned();
    if then.len() == now.len() && then.iter().zip(now).all(|(then, now)| same(then, now)) {
        return;
    }
    let missing: Vec<&Value> = then.iter().filter(|before| !now.iter().any(|file| same(before, file))).collect();
    let new: Vec<&Value> = now.iter().filter(|file| !then.iter().any(|before| same(before, file))).collect();
    if missing.is_empty() && new.is_empty() {
        let order: Vec<String> = then.iter().map(name).collect();
        let what = format!("{key} has the run's files in another order or number, expected {}", order.join(", "));
        problems.push(location.display(), what);
    }
    for file in &new {
        // The earlier file: by path or, if it was moved, by its index in the list.
        let path = name(file);
        let at = now.iter().position(|other| other == *file);
        let by_index = at.and_then(|at| then.get(at)).filter(|_| then.len() == now.len());
        let before = then.iter().find(|before| name(before) == path).or(by_index);
        problems.push(
            &path,
            match before {
                Some(before) if name(before) == path => format!(
                    "its content differs from that of {key} when the run began (now {} bytes, then {}); {EXPECTED}",
                    file["bytes"], before["bytes"]
                ),
                Some(before) => {
                    format!("is {key} instead of {} and has other content; {EXPECTED}", name(before))
                }
                None => format!("was not among {key} when the run began; {EXPECTED}"),
            },
        );
    }
    for file in missing.iter().filter(|_| new.is_empty()) {
        problems.push(name(file), format!("is no longer among {key}; {EXPECTED}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use align_core::error::Problem;

    fn input(key: &str, files: &[&PathBuf]) -> Input {
        Input::new(key, files.iter().map(|file| (*file).clone()))
    }

    fn refusals(then: &[Input], now: &[Input]) -> Vec<String> {
        let (then, now) = (fingerprints(then).unwrap(), fingerprints(now).unwrap());
        let Err(Error::Invalid(found)) = compare(Path::new("run.json"), Some(&then), Some(&now)) else {
            return Vec::new();
        };
        found.iter().map(Problem::to_string).collect()
    }

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        }
    }

    #[test]
    fn a_moved_file_is_the_same_and_a_changed_one_is_named() {
        let files = Files::new();
        let (one, moved, other) = (files.write("a", b"rows"), files.write("b", b"rows"), files.write("c", b"rowz"));
        assert_eq!(refusals(&[input("data.train", &[&one])], &[input("data.train", &[&moved])]), Vec::<String>::new());
        let refused = refusals(&[input("data.train", &[&one])], &[input("data.train", &[&other])]);
        assert_eq!(refused.len(), 1);
        assert!(refused[0].starts_with(&format!("{}: is data.train instead of {}", other.display(), one.display())));
        // Changed in location, with the same length.
        let then = fingerprints(&[input("data.train", &[&one])]).unwrap();
        files.write("a", b"ROWS");
        let now = fingerprints(&[input("data.train", &[&one])]).unwrap();
        let refused = compare(Path::new("run.json"), Some(&then), Some(&now)).unwrap_err().to_string();
        assert!(
            refused.starts_with(&format!("{}: its content differs from that of data.train", one.display())),
            "{refused}"
        );
    }

    #[test]
    fn order_and_number_of_files_count() {
        let files = Files::new();
        let (one, two) = (files.write("a", b"one"), files.write("b", b"two"));
        let then = [input("data.train", &[&one, &two])];
        let refused = refusals(&then, &[input("data.train", &[&two, &one])]);
        assert!(refused.len() == 1 && refused[0].contains("another order"), "{refused:?}");
        let refused = refusals(&then, &[input("data.train", &[&one])]);
        assert!(refused.len() == 1 && refused[0].contains("is no longer among data.train"), "{refused:?}");
        let refused = refusals(&[input("data.train", &[&one])], &then);
        assert!(refused.len() == 1 && refused[0].contains("was not among data.train"), "{refused:?}");
    }

    /// The fingerprint of a large file covers its length, both ends, and evenly spaced blocks.
    #[test]
    fn the_fingerprint_of_a_large_file_covers_both_ends_and_blocks_between() {
        let files = Files::new();
        let mut bytes = vec![7u8; WHOLE as usize + 1_000_001];
        let hash_of = |bytes: &[u8]| fingerprint(&files.write("large", bytes)).unwrap()["blake3"].clone();
        let first = hash_of(&bytes);
        let (middle, last) = (bytes.len() / 2, bytes.len() - 1);
        // The block that begins 31/63 of the way reaches over the middle less half a stride; one byte of it
        // is enough.
        let sampled = (bytes.len() - BLOCK as usize) * 31 / 63;
        for at in [0, sampled, last] {
            bytes[at] = 8;
            assert_ne!(hash_of(&bytes), first, "byte {at} of {last}");
            bytes[at] = 7;
        }
        assert_eq!(hash_of(&bytes), first);
        bytes.insert(middle, 7);
        assert_ne!(hash_of(&bytes), first, "another length");
    }

    #[test]
    fn the_lengths_that_earlier_versions_recorded_still_count() {
        let files = Files::new();
        let one = files.write("a", b"rows");
        let now = fingerprints(&[input("data.train", &[&one])]).unwrap();
        let then = |bytes: u64| json!({ one.display().to_string(): bytes });
        assert!(compared_keys(Some(&then(4)), Some(&now)).is_empty(), "paths must stay as they are");
        compare(Path::new("run.json"), Some(&then(4)), Some(&now)).unwrap();
        let refused = compare(Path::new("run.json"), Some(&then(5)), Some(&now)).unwrap_err().to_string();
        assert!(refused.contains("has 4 bytes, 5 when the run began"), "{refused}");
        compare(Path::new("run.json"), None, Some(&now)).unwrap();
    }

    #[test]
    fn a_pipe_is_not_read() {
        let found = fingerprint(Path::new("/dev/null")).unwrap();
        assert_eq!((&found["bytes"], &found["blake3"]), (&json!(0), &Value::Null));
    }

    #[test]
    fn entries_of_a_mix_share_one_config_key() {
        let files = Files::new();
        let (one, two) = (files.write("a", b"one"), files.write("b", b"two"));
        let mix = fingerprints(&[input("data.mix[0]", &[&one]), input("data.mix[1]", &[&two])]).unwrap();
        assert_eq!(compared_keys(Some(&mix), Some(&mix)).into_iter().collect::<Vec<_>>(), ["data.mix"]);
        let refused = refusals(
            &[input("data.mix[0]", &[&one]), input("data.mix[1]", &[&two])],
            &[input("data.mix[0]", &[&two]), input("data.mix[1]", &[&one])],
        );
        assert_eq!(refused.len(), 2, "a file of the other entry has another weight: {refused:?}");
    }
}
