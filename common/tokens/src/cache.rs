//! Caches tokenized files between runs. An entry is a folder, named by a hash of all of its inputs. It is
//! written atomically, verified by its checksums before use, and removed after a month without use.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use align_core::atomic_files::TEMPORARY;
use align_core::error::{Error, Result};
use align_core::manifest::{self, MANIFEST};
use align_core::progress::Progress;

/// Increased when the tokens of a text, or the format of an entry, change.
const VERSION: u32 = 2;
/// The minimum amount of text worth caching; less is tokenized quickly anyway.
const WORTH_KEEPING: u64 = 32 << 20;
/// The assumed ratio of text to the size of a compressed file.
const COMPRESSION: u64 = 20;
const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Bytes hashed at a time.
const STRIDE: usize = 16 << 20;

/// Where tokens are cached: `data.cache`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cache {
    /// Nowhere: tokens are in memory only.
    Off,
    /// Tokens of large files in the user's cache folder; in memory if there is none or it cannot be written.
    Auto,
    /// In this folder.
    Folder(PathBuf),
}

impl From<&str> for Cache {
    fn from(setting: &str) -> Self {
        match setting {
            "off" => Self::Off,
            "auto" => Self::Auto,
            folder => Self::Folder(folder.into()),
        }
    }
}

impl Cache {
    /// The folder with a file's entry; `None` if the file is not cached.
    pub(super) fn folder(&self, file: &Path) -> Option<PathBuf> {
        // A file that is not regular, such as a pipe, can be read only once.
        let bytes = fs::metadata(file).ok().filter(fs::Metadata::is_file)?.len();
        match self {
            Self::Off => None,
            Self::Folder(folder) => Some(folder.clone()),
            Self::Auto if text_bytes(file, bytes) < WORTH_KEEPING => None,
            Self::Auto => {
                let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
                // The XDG base directory specification ignores relative paths.
                let caches = set("XDG_CACHE_HOME").filter(|path| path.is_absolute());
                Some(caches.or_else(|| set("HOME").map(|home| home.join(".cache")))?.join("align"))
            }
        }
    }
}

/// The estimated number of bytes of text in a file.
fn text_bytes(file: &Path, bytes: u64) -> u64 {
    const COMPRESSED: [&str; 3] = ["gz", "zst", "parquet"];
    let extension = file.extension().map(|extension| extension.to_ascii_lowercase()).unwrap_or_default();
    let is_compressed = COMPRESSED.iter().any(|name| extension == *name);
    if is_compressed { bytes.saturating_mul(COMPRESSION) } else { bytes }
}

/// The location of a cache entry.
pub(super) struct Entry {
    folder: PathBuf,
    name: String,
}

impl Entry {
    /// The entry of a file that is tokenized with the settings `key`.
    pub(super) fn of(folder: PathBuf, file: &Path, key: &Value, progress: &mut dyn Progress) -> Result<Self> {
        let mut hash = blake3::Hasher::new();
        hash.update(format!("{VERSION}\n{key}\n").as_bytes());
        let mut opened = File::open(file).map_err(Error::io(file))?;
        let bytes = opened.metadata().map_err(Error::io(file))?.len();
        progress.begin_bytes(&format!("looking up {}", file.display()), bytes);
        let mut part = vec![0; STRIDE];
        loop {
            let read = opened.read(&mut part).map_err(Error::io(file))?;
            if read == 0 {
                break;
            }
            hash.update_rayon(&part[..read]);
            progress.advance(read as u64, "");
        }
        progress.end();
        Ok(Self { folder, name: hash.finalize().to_hex().to_string() })
    }

    /// The folder of the entry, if it exists and is intact.
    pub(super) fn find(&self) -> Option<PathBuf> {
        let path = self.path();
        if !manifest::damage(&path).is_empty() {
            return None;
        }
        // Marks the entry as used for `remove_old`.
        let manifest = File::options().append(true).open(path.join(MANIFEST));
        let _ = manifest.and_then(|manifest| manifest.set_modified(SystemTime::now()));
        Some(path)
    }

    /// Creates the entry atomically: `write` fills a temporary folder, which is then renamed.
    pub(super) fn create(&self, write: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let (path, temporary) =
            (self.path(), self.folder.join(format!("{TEMPORARY}{}-{}", self.name, std::process::id())));
        let created = fs::create_dir_all(&temporary).map_err(Error::io(&temporary));
        let written = created.and_then(|()| write(&temporary)).and_then(|()| manifest::seal(&temporary));
        if let Err(error) = written {
            let _ = fs::remove_dir_all(&temporary);
            return Err(error);
        }
        // An existing entry is damaged, or another process has just written the same one.
        let _ = fs::remove_dir_all(&path);
        match fs::rename(&temporary, &path) {
            Err(_) if self.find().is_some() => drop(fs::remove_dir_all(&temporary)),
            renamed => renamed.map_err(Error::io(&path))?,
        }
        self.remove_old();
        Ok(path)
    }

    fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// Removes entries that were not used for a month; ignores errors.
    fn remove_old(&self) {
        let old = |path: &Path| -> io::Result<bool> {
            let used = fs::metadata(path.join(MANIFEST)).or_else(|_| fs::metadata(path))?.modified()?;
            Ok(used.elapsed().is_ok_and(|age| age > MONTH))
        };
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let hash = name.strip_prefix(TEMPORARY).unwrap_or(&name).split('-').next().unwrap_or_default();
            let is_entry = hash.len() == self.name.len() && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
            if is_entry && old(&entry.path()).unwrap_or(false) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}
