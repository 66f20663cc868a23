//! Token lists, one behind the other, in memory or in mapped files: as many as there are rows, of which few are looked at at a time.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Deref;
use std::path::Path;

use memmap2::{Advice, Mmap};
use twox_hash::XxHash64;

use align_core::error::{Error, Result};
use align_data::Place;

/// The files of a store in a folder.
const TOKENS: &str = "tokens.u32";
const LISTS: &str = "lists.u64";

/// A token is a word whose highest bit says that it is a target; ids are far smaller.
const TARGET: u32 = 1 << 31;
const TOKEN_BYTES: usize = 4;
/// A list's words: where it ends among the tokens, its row and line in the file, and a hash of its tokens.
const LIST_WORDS: usize = 4;
const LIST_BYTES: usize = 8 * LIST_WORDS;

/// A token list that is to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Words(Vec<u32>);

impl Words {
    /// Tokens, and which of them are targets.
    pub(super) fn new(tokens: &[i64], loss_mask: impl IntoIterator<Item = bool>) -> Self {
        let word = |(token, counts): (&i64, bool)| {
            let id = u32::try_from(*token).ok().filter(|id| *id < TARGET).expect("ids of a vocabulary");
            if counts { id | TARGET } else { id }
        };
        Self(tokens.iter().zip(loss_mask).map(word).collect())
    }
}

/// Lists that are read in any order.
pub(super) struct Store {
    tokens: Bytes,
    lists: Bytes,
}

enum Bytes {
    Memory(Vec<u8>),
    Mapped(Mmap),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Memory(bytes) => bytes,
            Bytes::Mapped(map) => map,
        }
    }
}

impl Store {
    /// Maps the lists in a folder, whose files must not change while they are.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        #[expect(unsafe_code, reason = "memory-mapping is unsafe where another process truncates the file meanwhile")]
        let map = |name: &str| -> Result<Bytes> {
            let path = folder.join(name);
            let file = File::open(&path).map_err(Error::io(&path))?;
            if file.metadata().map_err(Error::io(&path))?.len() == 0 {
                return Ok(Bytes::Memory(Vec::new()));
            }
            // SAFETY: only whole folders are put in place, and none is written to behind that.
            let map = unsafe { Mmap::map(&file) }.map_err(Error::io(&path))?;
            let _ = map.advise(Advice::Random); // rows are shuffled; only a hint
            Ok(Bytes::Mapped(map))
        };
        Ok(Self { tokens: map(TOKENS)?, lists: map(LISTS)? })
    }

    /// Number of lists.
    pub(super) fn len(&self) -> usize {
        self.lists.len() / LIST_BYTES
    }

    fn word(&self, list: usize, word: usize) -> u64 {
        let at = list * LIST_BYTES + 8 * word;
        u64::from_le_bytes(self.lists[at..at + 8].try_into().expect("eight bytes"))
    }

    fn start(&self, list: usize) -> usize {
        if list == 0 { 0 } else { self.word(list - 1, 0) as usize }
    }

    /// Tokens of a list.
    pub(super) fn length(&self, list: usize) -> usize {
        self.word(list, 0) as usize - self.start(list)
    }

    /// Tokens `from..to` of a list, and which of them are targets.
    pub(super) fn slice(&self, list: usize, from: usize, to: usize) -> (Vec<i64>, Vec<bool>) {
        let start = self.start(list);
        let bytes = &self.tokens[(start + from) * TOKEN_BYTES..(start + to) * TOKEN_BYTES];
        let words = bytes.chunks_exact(TOKEN_BYTES);
        let words = words.map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")));
        words.map(|word| (i64::from(word & !TARGET), word & TARGET != 0)).unzip()
    }

    /// The row of the file that a list was made of, from 0, and its line, from 1.
    pub(super) fn row_and_line(&self, list: usize) -> (u64, u64) {
        (self.word(list, 1), self.word(list, 2))
    }

    /// Equal for equal lists, and hardly ever for others.
    pub(super) fn hash(&self, list: usize) -> u64 {
        self.word(list, 3)
    }
}

/// Writes the lists of a store.
pub(super) struct Writer<W> {
    tokens: W,
    lists: W,
    num_tokens: u64,
}

impl<W: Write> Writer<W> {
    /// Appends a list.
    pub(super) fn push(&mut self, words: &Words, place: &Place) -> io::Result<()> {
        let bytes: Vec<u8> = words.0.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.tokens.write_all(&bytes)?;
        self.num_tokens += words.0.len() as u64;
        for word in [self.num_tokens, place.index, place.line, XxHash64::oneshot(0, &bytes)] {
            self.lists.write_all(&word.to_le_bytes())?;
        }
        Ok(())
    }
}

impl Writer<Vec<u8>> {
    /// Into memory.
    pub(super) fn in_memory() -> Self {
        Self { tokens: Vec::new(), lists: Vec::new(), num_tokens: 0 }
    }

    /// What was written.
    pub(super) fn into_store(self) -> Store {
        Store { tokens: Bytes::Memory(self.tokens), lists: Bytes::Memory(self.lists) }
    }
}

impl Writer<io::BufWriter<File>> {
    /// Into files of a folder.
    pub(super) fn in_folder(folder: &Path) -> io::Result<Self> {
        let create = |name| File::create(folder.join(name)).map(|file| io::BufWriter::with_capacity(1 << 20, file));
        Ok(Self { tokens: create(TOKENS)?, lists: create(LISTS)?, num_tokens: 0 })
    }

    /// Hands everything to the system.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.tokens.flush()?;
        self.lists.flush()
    }
}
