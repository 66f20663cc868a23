//! Data files that would take more memory than there is: refused in one line, and the memory is measured.

use std::fs::File;
use std::io::{BufWriter, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::util::Folder;

const GB: u64 = 1 << 30;
/// What a refusal may take beyond a run on a few good rows: a record of 16 MB or a page, and buffers.
const MOST_BYTES: u64 = 150 << 20;

/// What checking a config with this data takes; the exit code and what was said.
fn check(folder: &Folder, data: &str) -> (u64, Option<i32>, String) {
    let train = format!("data.train='{data}'");
    let mut running = folder.spawn(&["sft", "--config", "sft.toml", "--dry-run", "--set", &train]);
    let peak = running.peak_bytes();
    let (code, stderr) = running.wait();
    (peak, code, stderr)
}

/// Refuses each file in the one line that follows its name, with little more memory than good rows take.
fn refuse(folder: &Folder, files: &[(&str, &str)]) {
    let (usual, code, stderr) = check(folder, "data/sft.jsonl");
    assert_eq!(code, Some(0), "{stderr}");
    for (file, said) in files {
        let (peak, code, stderr) = check(folder, file);
        let expected = format!("align: {file}{said}");
        assert!(code == Some(2) && stderr.starts_with(&expected), "{file}: {code:?}: {stderr}");
        assert!(stderr.lines().count() == 1 && stderr.contains("expected"), "{stderr}");
        assert!(peak < usual + MOST_BYTES, "{file} took {} MB, good rows {} MB", peak >> 20, usual >> 20);
    }
}

/// One and a half GB of zeros, compressed.
fn zeros() -> Vec<u8> {
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0; 1 << 20];
    (0..1536).for_each(|_| bomb.write_all(&zeros).unwrap());
    bomb.finish().unwrap()
}

#[test]
fn compressed_files_that_grow() {
    let folder = Folder::new();
    let zeros = zeros();
    folder.write("zeros.jsonl.gz", &zeros);
    let size = 3 * GB / 2;
    let table = |page_size, column_size| table(2, &zeros, page_size, column_size, 10, 10);
    folder.write("honest.parquet", table(size, size));
    folder.write("page.parquet", table(size, 1000));
    folder.write("lying.parquet", table(1000, 1000));
    refuse(
        &folder,
        &[
            ("zeros.jsonl.gz", ": decompresses to more than 256 MB, expected at most 100 times its size"),
            ("honest.parquet", ": decompresses to more than 256 MB, expected at most 100 times its size"),
            ("page.parquet", ": column `text`: decompresses to more than 256 MB, expected"),
            (
                "lying.parquet",
                ": damaged or cut off Parquet data (column `text`: a page differs in size from its header)",
            ),
        ],
    );
}

#[test]
fn lines_without_an_end() {
    let folder = Folder::new();
    let good = br#"{"instruction": "q", "output": "a"}"#;
    let file = folder.write("sparse.jsonl", [&good[..], b"\n"].concat());
    File::options().write(true).open(file).unwrap().set_len(GB).unwrap();
    let mut letters = BufWriter::new(File::create(folder.join("letters.jsonl")).unwrap());
    (0..GB >> 20).for_each(|_| letters.write_all(&[b'a'; 1 << 20]).unwrap());
    letters.flush().unwrap();
    refuse(
        &folder,
        &[
            ("sparse.jsonl", ":2: a record of more than 16 MB, expected at most that"),
            ("letters.jsonl", ":1: a record of more than 16 MB, expected at most that"),
        ],
    );
}

#[test]
fn tables_that_lie_about_their_sizes() {
    let folder = Folder::new();
    let rows = |num_values, num_rows| table(0, &[0; 40], 40, 40, num_values, num_rows);
    folder.write("good.parquet", rows(1, 1));
    folder.write("values.parquet", rows(i64::from(i32::MAX), 10));
    folder.write("rows.parquet", rows(10, 1 << 40));
    folder.write("fewer.parquet", rows(10, 11));
    folder.write("page.parquet", table(0, &[0; 40], 2 * GB - 1, 40, 10, 10));
    folder.write("footer.parquet", footed(&[0; 4], &list_of(0xfffffff)));
    folder.write("children.parquet", footed(&[0; 4], &groups(2, 1 << 30)));
    folder.write("deep.parquet", footed(&[0; 4], &groups(1_000_000, 1)));
    refuse(
        &folder,
        &[
            // Its texts have no keys of a chat.
            ("good.parquet", ": row 0: a row with `text`, expected a chat row"),
            ("values.parquet", ": column `text`: a page or row of more than 4194304 values, expected at most that"),
            ("rows.parquet", ": decompresses to more than 256 MB, expected at most"),
            (
                "fewer.parquet",
                ": damaged or cut off Parquet data (column `text`: it has fewer rows than the file says)",
            ),
            ("page.parquet", ": column `text`: decompresses to more than 256 MB, expected"),
            (
                "footer.parquet",
                ": damaged or cut off Parquet data (its footer contradicts itself), expected a whole file",
            ),
            ("children.parquet", ": damaged or cut off Parquet data (its footer contradicts itself)"),
            ("deep.parquet", ": damaged or cut off Parquet data (its footer contradicts itself)"),
        ],
    );
}

/// A Parquet file of one page of one column of texts, `codec` as Parquet counts them, with any numbers in its
/// metadata.
///
/// Source: Parquet's `parquet.thrift`, in Thrift's compact protocol.
fn table(codec: i64, stored: &[u8], page_size: u64, column_size: u64, num_values: i64, num_rows: i64) -> Vec<u8> {
    let (page_size, column_size) = (page_size as i64, column_size as i64);
    let data_page = structure(&[int(1, num_values), int(1, 0), int(1, 3), int(1, 3)]);
    let mut page =
        structure(&[int(1, 0), int(1, page_size), int(1, stored.len() as i64), [vec![0x2c], data_page].concat()]);
    page.extend(stored);
    let text = [&[4], &b"text"[..]].concat();
    let root = structure(&[[&[0x48, 1], &b"r"[..]].concat(), int(1, 1)]);
    let column = structure(&[int(1, 6), int(2, 0), [vec![0x18], text.clone()].concat(), int(2, 0)]);
    let size = page.len() as i64;
    let numbers = [long(1, num_values), long(1, column_size), long(1, size), long(2, 4)];
    let metadata = structure(&[
        int(1, 6),
        vec![0x19, 0x15, 0],
        [vec![0x19, 0x18], text].concat(),
        int(1, codec),
        numbers.concat(),
    ]);
    let chunk = structure(&[long(2, 4), [vec![0x1c], metadata].concat()]);
    let group = structure(&[[vec![0x19, 0x1c], chunk].concat(), long(1, column_size), long(1, num_rows)]);
    let schema = [vec![0x19, 0x2c], root, column].concat();
    footed(&page, &structure(&[int(1, 1), schema, long(1, num_rows), [vec![0x19, 0x1c], group].concat()]))
}

/// A schema of groups, each of which says how many children it has.
fn groups(count: u64, children: i64) -> Vec<u8> {
    let group = structure(&[int(3, 0), [&[0x18, 1], &b"g"[..]].concat(), int(1, children)]);
    structure(&[int(1, 1), [vec![0x19, 0xfc], varint(count), group.repeat(count as usize)].concat()])
}

/// Metadata whose list of the schema has more elements than there are bytes.
fn list_of(count: u64) -> Vec<u8> {
    structure(&[int(1, 1), [vec![0x19, 0xfc], varint(count)].concat()])
}

fn footed(pages: &[u8], footer: &[u8]) -> Vec<u8> {
    [b"PAR1", pages, footer, &(footer.len() as u32).to_le_bytes(), b"PAR1"].concat()
}

fn structure(fields: &[Vec<u8>]) -> Vec<u8> {
    [fields.concat(), vec![0]].concat()
}

/// A field of 32 bits, `step` ids after the previous one.
fn int(step: u8, value: i64) -> Vec<u8> {
    [vec![step << 4 | 5], zigzag(value)].concat()
}

/// A field of 64 bits.
fn long(step: u8, value: i64) -> Vec<u8> {
    [vec![step << 4 | 6], zigzag(value)].concat()
}

fn zigzag(value: i64) -> Vec<u8> {
    varint((value << 1 ^ value >> 63) as u64)
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}
