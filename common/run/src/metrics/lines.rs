//! A JSONL file whose lines belong to steps, and which can be truncated to a step.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use align_core::atomic_files::write_atomic;
use align_core::error::{Error, Result};

/// A JSONL file that is appended to. Each line is one write, so that a killed process leaves at most a part
/// of the last line.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    file: Option<File>,
}

impl Lines {
    /// The file at `path`; it is created with its first line.
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// Creates the file, empty, if it does not exist.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn create(&self) -> Result<()> {
        OpenOptions::new().create(true).append(true).open(&self.path).map(drop).map_err(Error::io(&self.path))
    }

    /// Rewrites the file with the lines that `keep` returns, given each line's step and object. Unreadable
    /// lines (such as the partial last line of a killed process) are removed.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read or written.
    pub fn retain(
        &mut self,
        keep: &mut dyn FnMut(u64, Map<String, Value>) -> Option<Map<String, Value>>,
    ) -> Result<()> {
        self.file = None;
        let bytes = match std::fs::read(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            bytes => bytes.map_err(Error::io(&self.path))?,
        };
        let mut kept = Vec::with_capacity(bytes.len());
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let whole = line.ends_with(b"\n");
            let Ok(object) = serde_json::from_slice::<Map<String, Value>>(line) else { continue };
            let Some(step) = object.get("step").and_then(Value::as_u64).filter(|_| whole) else { continue };
            let Some(changed) = keep(step, object.clone()) else { continue };
            if changed == object { kept.extend_from_slice(line) } else { kept.extend(to_line(&changed)) }
        }
        if kept == bytes { Ok(()) } else { write_atomic(&self.path, &kept) }
    }

    /// Appends one object.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn append(&mut self, object: &Map<String, Value>) -> Result<()> {
        if self.file.is_none() {
            let file = OpenOptions::new().create(true).append(true).open(&self.path);
            self.file = Some(file.map_err(Error::io(&self.path))?);
        }
        let file = self.file.as_mut().expect("opened above");
        file.write_all(&to_line(object)).map_err(Error::io(&self.path))
    }

    /// Flushes what was appended to the disk.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk refuses.
    pub fn sync(&mut self) -> Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.sync_data().map_err(Error::io(&self.path)))
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn to_line(object: &Map<String, Value>) -> Vec<u8> {
    let mut line = serde_json::to_vec(object).expect("plain data");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(step: u64) -> Map<String, Value> {
        serde_json::json!({"step": step, "x": 0.1}).as_object().unwrap().clone()
    }

    #[test]
    fn a_killed_process_leaves_part_of_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut lines = Lines::new(path.clone());
        for step in 1..=3 {
            lines.append(&object(step)).unwrap();
        }
        let whole = std::fs::read_to_string(&path).unwrap();
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut lines = Lines::new(path.clone());
            lines.retain(&mut |step, object| (step <= 2).then_some(object)).unwrap();
            let complete = whole[..cut].matches('\n').count().min(2);
            let expected: String = whole.split_inclusive('\n').take(complete).collect();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), expected, "cut at {cut}");
        }
    }

    #[test]
    fn appending_continues_after_the_kept_lines() {
        let folder = tempfile::tempdir().unwrap();
        let mut lines = Lines::new(folder.path().join("a.jsonl"));
        lines.retain(&mut |_, object| Some(object)).unwrap();
        lines.append(&object(1)).unwrap();
        lines.append(&object(2)).unwrap();
        lines.retain(&mut |step, object| (step < 2).then_some(object)).unwrap();
        lines.append(&object(3)).unwrap();
        lines.sync().unwrap();
        let text = std::fs::read_to_string(lines.path()).unwrap();
        assert_eq!(text, "{\"step\":1,\"x\":0.1}\n{\"step\":3,\"x\":0.1}\n");
    }
}
