//! Token lists from run to run: a folder an entry, named by a hash of all that went into it, put in place whole, compared with its own
//! checksums before it is used, and removed when nobody has used it for a month.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use align_core::atomic_files::TEMPORARY;
use align_core::error::{Error, Result};
use align_core::manifest::{self, MANIFEST};
use align_core::progress::Progress;

/// Raised when the same text becomes other tokens than before, or an entry's files change.
const VERSION: u32 = 2;
/// Less text is tokenized sooner than anybody would notice …
const WORTH_KEEPING: u64 = 32 << 20;
/// … of which a compressed file may hold this many times its size.
const COMPRESSION: u64 = 20;
const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Bytes hashed at a time.
const STRIDE: usize = 16 << 20;

/// Where token lists are kept: `data.cache`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cache {
    /// Nowhere: they are in memory.
    Off,
    /// Those of large files in the user's folder for such things; where there is none, or it cannot be written, in memory.
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
    /// The folder in which a file's entry is looked for.
    pub(super) fn folder(&self, file: &Path) -> Option<PathBuf> {
        // What is no plain file can be read only once.
        let bytes = fs::metadata(file).ok().filter(fs::Metadata::is_file)?.len();
        match self {
            Self::Off => None,
            Self::Folder(folder) => Some(folder.clone()),
            Self::Auto if text_bytes(file, bytes) < WORTH_KEEPING => None,
            Self::Auto => {
                let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
                // As the XDG base directory specification has it, which ignores relative paths.
                let caches = set("XDG_CACHE_HOME").filter(|path| path.is_absolute());
                Some(caches.or_else(|| set("HOME").map(|home| home.join(".cache")))?.join("align"))
            }
        }
    }
}

/// How much text a file may hold.
fn text_bytes(file: &Path, bytes: u64) -> u64 {
    const COMPRESSED: [&str; 3] = ["gz", "zst", "parquet"];
    let extension = file.extension().map(|extension| extension.to_ascii_lowercase()).unwrap_or_default();
    let is_compressed = COMPRESSED.iter().any(|name| extension == *name);
    if is_compressed { bytes.saturating_mul(COMPRESSION) } else { bytes }
}

/// An entry's place.
pub(super) struct Entry {
    folder: PathBuf,
    name: String,
}

impl Entry {
    /// That of a file whose rows become lists as `recipe` says.
    pub(super) fn of(folder: PathBuf, file: &Path, recipe: &Value, progress: &mut dyn Progress) -> Result<Self> {
        let mut hash = blake3::Hasher::new();
        hash.update(format!("{VERSION}\n{recipe}\n").as_bytes());
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

    /// The entry, where it is there and whole.
    pub(super) fn find(&self) -> Option<PathBuf> {
        let path = self.path();
        if !manifest::damage(&path).is_empty() {
            return None;
        }
        // Only to be found young by `remove_old`.
        let manifest = File::options().append(true).open(path.join(MANIFEST));
        let _ = manifest.and_then(|manifest| manifest.set_modified(SystemTime::now()));
        Some(path)
    }

    /// Puts the entry in place that `write` fills a folder with.
    pub(super) fn create(&self, write: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let (path, temporary) =
            (self.path(), self.folder.join(format!("{TEMPORARY}{}-{}", self.name, std::process::id())));
        let made = fs::create_dir_all(&temporary).map_err(Error::io(&temporary));
        let written = made.and_then(|()| write(&temporary)).and_then(|()| manifest::seal(&temporary));
        if let Err(error) = written {
            let _ = fs::remove_dir_all(&temporary);
            return Err(error);
        }
        // One that is there is damaged, or another process was faster: then its lists are the same.
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

    /// Removes what nobody has used for a month, as far as that is possible.
    fn remove_old(&self) {
        let old = |path: &Path| -> io::Result<bool> {
            let used = fs::metadata(path.join(MANIFEST)).or_else(|_| fs::metadata(path))?.modified()?;
            Ok(used.elapsed().is_ok_and(|age| age > MONTH))
        };
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let hash = name.strip_prefix(TEMPORARY).unwrap_or(&name).split('-').next().unwrap_or_default();
            let is_ours = hash.len() == self.name.len() && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
            if is_ours && old(&entry.path()).unwrap_or(false) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}
