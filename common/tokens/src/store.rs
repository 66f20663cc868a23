//! Stores sequences of token ids, concatenated, in memory or in mapped files. Few of them are accessed at a
//! time.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Deref;
use std::path::Path;

use memmap2::{Advice, Mmap};
use twox_hash::XxHash64;

use align_core::error::{Error, Result};
use align_data::RowLocation;

/// The files of a store in a folder.
const TOKENS: &str = "tokens.u32";
const INDEX: &str = "lists.u64";

/// The highest bit of a token's word marks a target; ids are far smaller.
const TARGET: u32 = 1 << 31;
const TOKEN_BYTES: usize = 4;
/// The words of an index entry: the end of the sequence among all tokens, its row and line in the file, and a
/// hash of its tokens.
const ENTRY_WORDS: usize = 4;
const ENTRY_BYTES: usize = 8 * ENTRY_WORDS;

/// A sequence in its stored form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PackedTokens(Vec<u32>);

impl PackedTokens {
    /// Packs tokens with their loss mask.
    pub(super) fn new(tokens: &[i64], loss_mask: impl IntoIterator<Item = bool>) -> Self {
        let word = |(token, counts): (&i64, bool)| {
            let id = u32::try_from(*token).ok().filter(|id| *id < TARGET).expect("ids of a vocabulary");
            if counts { id | TARGET } else { id }
        };
        Self(tokens.iter().zip(loss_mask).map(word).collect())
    }
}

/// Sequences with random access.
pub(super) struct Store {
    tokens: Bytes,
    index: Bytes,
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
    /// Maps the sequences in a folder. Its files must not change while they are mapped.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        #[expect(unsafe_code, reason = "a memory map is unsound if another process truncates the file")]
        let map = |name: &str| -> Result<Bytes> {
            let path = folder.join(name);
            let file = File::open(&path).map_err(Error::io(&path))?;
            if file.metadata().map_err(Error::io(&path))?.len() == 0 {
                return Ok(Bytes::Memory(Vec::new()));
            }
            // SAFETY: entries are renamed into place when complete, and never written to afterwards.
            let map = unsafe { Mmap::map(&file) }.map_err(Error::io(&path))?;
            let _ = map.advise(Advice::Random); // rows are shuffled; only a hint
            Ok(Bytes::Mapped(map))
        };
        Ok(Self { tokens: map(TOKENS)?, index: map(INDEX)? })
    }

    /// The number of sequences.
    pub(super) fn len(&self) -> usize {
        self.index.len() / ENTRY_BYTES
    }

    fn word(&self, sequence: usize, word: usize) -> u64 {
        let at = sequence * ENTRY_BYTES + 8 * word;
        u64::from_le_bytes(self.index[at..at + 8].try_into().expect("eight bytes"))
    }

    fn start(&self, sequence: usize) -> usize {
        if sequence == 0 { 0 } else { self.word(sequence - 1, 0) as usize }
    }

    /// The number of tokens of a sequence.
    pub(super) fn length(&self, sequence: usize) -> usize {
        self.word(sequence, 0) as usize - self.start(sequence)
    }

    /// Tokens `from..to` of a sequence, with their loss mask.
    pub(super) fn slice(&self, sequence: usize, from: usize, to: usize) -> (Vec<i64>, Vec<bool>) {
        let start = self.start(sequence);
        let bytes = &self.tokens[(start + from) * TOKEN_BYTES..(start + to) * TOKEN_BYTES];
        let words = bytes.chunks_exact(TOKEN_BYTES);
        let words = words.map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")));
        words.map(|word| (i64::from(word & !TARGET), word & TARGET != 0)).unzip()
    }

    /// The source row of a sequence in its file (from 0), and its line (from 1).
    pub(super) fn row_and_line(&self, sequence: usize) -> (u64, u64) {
        (self.word(sequence, 1), self.word(sequence, 2))
    }

    /// A hash of a sequence.
    pub(super) fn hash(&self, sequence: usize) -> u64 {
        self.word(sequence, 3)
    }
}

/// Writes a store.
pub(super) struct Writer<W> {
    tokens: W,
    index: W,
    num_tokens: u64,
}

impl<W: Write> Writer<W> {
    /// Appends a sequence.
    pub(super) fn push(&mut self, packed: &PackedTokens, location: &RowLocation) -> io::Result<()> {
        let bytes: Vec<u8> = packed.0.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.tokens.write_all(&bytes)?;
        self.num_tokens += packed.0.len() as u64;
        for word in [self.num_tokens, location.index, location.line, XxHash64::oneshot(0, &bytes)] {
            self.index.write_all(&word.to_le_bytes())?;
        }
        Ok(())
    }
}

impl Writer<Vec<u8>> {
    /// A writer to memory.
    pub(super) fn in_memory() -> Self {
        Self { tokens: Vec::new(), index: Vec::new(), num_tokens: 0 }
    }

    /// The store of what was written.
    pub(super) fn into_store(self) -> Store {
        Store { tokens: Bytes::Memory(self.tokens), index: Bytes::Memory(self.index) }
    }
}

impl Writer<io::BufWriter<File>> {
    /// A writer to files in a folder.
    pub(super) fn in_folder(folder: &Path) -> io::Result<Self> {
        let create = |name| File::create(folder.join(name)).map(|file| io::BufWriter::with_capacity(1 << 20, file));
        Ok(Self { tokens: create(TOKENS)?, index: create(INDEX)?, num_tokens: 0 })
    }

    /// Flushes all buffers to the operating system.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.tokens.flush()?;
        self.index.flush()
    }
}
