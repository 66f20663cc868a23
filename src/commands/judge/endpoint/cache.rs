//! Answers of a service on the disk: a file per request, named by its hash.

use std::path::PathBuf;

use align_core::atomic_files::write_atomic;
use align_core::error::{Error, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A folder of answers. Several processes may share it.
#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
}

impl Cache {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Creates the folder.
    pub(super) fn create(&self) -> Result<()> {
        std::fs::create_dir_all(&self.dir).map_err(Error::io(&self.dir))
    }

    /// The answer to a request. A damaged file counts as none.
    pub(super) fn get(&self, address: &str, body: &Value) -> Option<String> {
        let text = std::fs::read(self.path(address, body)).ok()?;
        let kept: Value = serde_json::from_slice(&text).ok()?;
        // Equal hashes are not enough: the file may have been edited, or renamed.
        (kept["address"] == address && kept["request"] == *body).then(|| kept["answer"].as_str().map(str::to_owned))?
    }

    /// Keeps an answer.
    pub(super) fn put(&self, address: &str, body: &Value, answer: &str) -> Result<()> {
        let kept = json!({ "address": address, "request": body, "answer": answer });
        write_atomic(&self.path(address, body), format!("{kept:#}\n").as_bytes())
    }

    fn path(&self, address: &str, body: &Value) -> PathBuf {
        let hash = Sha256::digest(format!("{address}\n{body}").as_bytes());
        let name: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        self.dir.join(format!("{name}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_belongs_to_its_request() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("new"));
        cache.create().unwrap();
        let body = json!({ "model": "m", "temperature": 0 });
        assert_eq!(cache.get("http://a", &body), None);
        cache.put("http://a", &body, "so [[A]]").unwrap();
        assert_eq!(cache.get("http://a", &body).as_deref(), Some("so [[A]]"));
        assert_eq!(cache.get("http://b", &body), None);
        assert_eq!(cache.get("http://a", &json!({ "model": "n", "temperature": 0 })), None);
        std::fs::write(cache.path("http://a", &body), "{\"answer\": ").unwrap();
        assert_eq!(cache.get("http://a", &body), None);
    }
}
