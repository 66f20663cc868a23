//! The parts of Thrift's compact protocol that are needed to check Parquet metadata before the library trusts
//! them: page headers, and whether a footer can be decoded.
//!
//! Source: <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md> and Parquet's
//! `parquet.thrift`.

/// The maximum nesting of structures; Parquet's own are half as deep.
const MAX_NESTING: usize = 32;
/// The maximum nesting of groups; a column of messages has four levels.
const MAX_SCHEMA_DEPTH: usize = 32;

/// The bytes end early or are inconsistent.
#[derive(Debug)]
pub(super) struct Malformed;

type Read<T> = Result<T, Malformed>;

/// A page's header.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PageHeader {
    /// The sizes of the page in bytes: stored and decompressed.
    pub(super) stored: usize,
    pub(super) size: usize,
    pub(super) kind: PageKind,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum PageKind {
    Data {
        num_values: u32,
        encoding: i64,
        def_encoding: i64,
        rep_encoding: i64,
    },
    /// Its levels come first and are never compressed.
    DataV2 {
        num_values: u32,
        num_nulls: u32,
        num_rows: u32,
        encoding: i64,
        def_bytes: u32,
        rep_bytes: u32,
        compressed: bool,
    },
    Dictionary {
        num_values: u32,
        encoding: i64,
    },
    /// An unknown type, which is skipped.
    Other,
}

impl PageHeader {
    /// Reads the header at the beginning of `bytes`, and returns it with its length.
    pub(super) fn read(bytes: &[u8]) -> Read<(Self, usize)> {
        let mut thrift = Thrift(bytes);
        let (mut sizes, mut bodies) = ([None; 3], [[None; 8]; 8]);
        let mut last = 0;
        while let Some((id, kind)) = thrift.field(&mut last)? {
            match (id, kind) {
                (1..=3, 5) => sizes[id as usize - 1] = Some(thrift.zigzag()?),
                (5 | 7 | 8, STRUCT) => bodies[id as usize - 1] = thrift.integers()?,
                _ => thrift.skip(kind, MAX_NESTING)?,
            }
        }
        let [Some(kind), Some(size), Some(stored)] = sizes else { return Err(Malformed) };
        let size_of = |value: i64| usize::try_from(value).map_err(|_| Malformed);
        let count = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok()).ok_or(Malformed);
        let kind = match (kind, bodies) {
            (0, [_, _, _, _, data, ..]) => PageKind::Data {
                num_values: count(data[0])?,
                encoding: data[1].ok_or(Malformed)?,
                def_encoding: data[2].ok_or(Malformed)?,
                rep_encoding: data[3].ok_or(Malformed)?,
            },
            (2, [.., dictionary, _]) => {
                PageKind::Dictionary { num_values: count(dictionary[0])?, encoding: dictionary[1].ok_or(Malformed)? }
            }
            (3, [.., data]) => PageKind::DataV2 {
                num_values: count(data[0])?,
                num_nulls: count(data[1])?,
                num_rows: count(data[2])?,
                encoding: data[3].ok_or(Malformed)?,
                def_bytes: count(data[4])?,
                rep_bytes: count(data[5])?,
                compressed: data[6] != Some(0),
            },
            _ => PageKind::Other,
        };
        Ok((Self { stored: size_of(stored)?, size: size_of(size)?, kind }, bytes.len() - thrift.0.len()))
    }
}

/// Checks that a footer can be decoded: the library does not check lengths and the depth of the schema.
pub(super) fn check_footer(bytes: &[u8]) -> Read<()> {
    let mut thrift = Thrift(bytes);
    let mut last = 0;
    while let Some((id, kind)) = thrift.field(&mut last)? {
        match (id, kind) {
            (2, LIST) => thrift.check_schema()?,
            (2, _) => return Err(Malformed),
            _ => thrift.skip(kind, MAX_NESTING)?,
        }
    }
    Ok(())
}

/// A reader over the remaining bytes.
pub(super) struct Thrift<'a>(pub(super) &'a [u8]);

const LIST: u8 = 9;
const STRUCT: u8 = 12;

impl Thrift<'_> {
    fn byte(&mut self) -> Read<u8> {
        let (&byte, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(byte)
    }

    fn pass(&mut self, count: usize) -> Read<()> {
        self.0 = self.0.get(count..).ok_or(Malformed)?;
        Ok(())
    }

    /// A varint: seven bits per byte.
    pub(super) fn varint(&mut self) -> Read<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn zigzag(&mut self) -> Read<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The id and type of the next field; `None` at the end of the structure.
    fn field(&mut self, last: &mut i64) -> Read<Option<(i64, u8)>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Ok(None);
        }
        *last = if byte >> 4 == 0 { self.zigzag()? } else { *last + i64::from(byte >> 4) };
        if !(0..=i64::from(i16::MAX)).contains(last) {
            return Err(Malformed);
        }
        Ok(Some((*last, byte & 0x0f)))
    }

    /// The integers and booleans of a structure, by field id from 1.
    fn integers(&mut self) -> Read<[Option<i64>; 8]> {
        let (mut found, mut last) = ([None; 8], 0);
        while let Some((id, kind)) = self.field(&mut last)? {
            let value = match kind {
                1 | 2 => Some(i64::from(kind == 1)),
                4..=6 => Some(self.zigzag()?),
                _ => {
                    self.skip(kind, MAX_NESTING)?;
                    None
                }
            };
            if let (Some(slot), Some(_)) = (usize::try_from(id - 1).ok().and_then(|id| found.get_mut(id)), value) {
                *slot = value;
            }
        }
        Ok(found)
    }

    /// Type and number of a list's elements. Each element takes at least one byte.
    fn list(&mut self) -> Read<(u8, usize)> {
        let byte = self.byte()?;
        let size = if byte >> 4 == 15 { self.varint()? } else { u64::from(byte >> 4) };
        let size = usize::try_from(size).ok().filter(|&size| size <= self.0.len()).ok_or(Malformed)?;
        // A footer has no lists of booleans, and the library would read them as zero bytes long.
        if size > 0 && matches!(byte & 0x0f, 1 | 2) {
            return Err(Malformed);
        }
        Ok((byte & 0x0f, size))
    }

    fn skip(&mut self, kind: u8, nesting: usize) -> Read<()> {
        let nesting = nesting.checked_sub(1).ok_or(Malformed)?;
        match kind {
            1 | 2 => Ok(()),
            3 => self.pass(1),
            4..=6 => self.varint().map(drop),
            7 => self.pass(8),
            8 => {
                let size = self.varint()?;
                self.pass(usize::try_from(size).map_err(|_| Malformed)?)
            }
            LIST | 10 => {
                let (kind, size) = self.list()?;
                (0..size).try_for_each(|_| self.skip(kind, nesting))
            }
            STRUCT => {
                let mut last = 0;
                while let Some((_, kind)) = self.field(&mut last)? {
                    self.skip(kind, nesting)?;
                }
                Ok(())
            }
            // Maps, which Parquet's metadata do not use, and invalid types.
            _ => Err(Malformed),
        }
    }

    /// Checks a schema: its groups and columns in depth-first order, each with the number of its children.
    fn check_schema(&mut self) -> Read<()> {
        let (kind, size) = self.list()?;
        if kind != STRUCT {
            return Err(Malformed);
        }
        // The number of remaining children on each level, from the root inwards.
        let mut open = vec![1];
        for _ in 0..size {
            let (mut children, mut last) = (0, 0);
            while let Some((id, kind)) = self.field(&mut last)? {
                match (id, kind) {
                    (5, 5) => children = usize::try_from(self.zigzag()?).map_err(|_| Malformed)?,
                    (5, _) => return Err(Malformed),
                    _ => self.skip(kind, MAX_NESTING)?,
                }
            }
            *open.last_mut().ok_or(Malformed)? -= 1;
            open.push(children);
            if children > size || open.len() > MAX_SCHEMA_DEPTH {
                return Err(Malformed);
            }
            while open.last() == Some(&0) {
                open.pop();
            }
        }
        if open.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}
