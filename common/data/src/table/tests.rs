use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::super::{BadRows, Kind, RawRow, RawRows, Record, read};
use align_core::error::{Error, Result};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/data").join(name)
}

/// The files of tables, each with the same rows as JSON Lines.
const TABLES: [(&str, &str, Kind); 6] = [
    ("chat.parquet", "chat.jsonl", Kind::Chat),
    ("chat-zstd.parquet", "chat.jsonl", Kind::Chat),
    ("chat-gzip.parquet", "chat.jsonl", Kind::Chat),
    ("ranked.parquet", "ranked.jsonl", Kind::Comparison),
    ("text.parquet", "text.jsonl", Kind::Text),
    ("text-delta.parquet", "text.jsonl", Kind::Text),
];

fn rows(file: &Path) -> Result<Vec<RawRow>> {
    RawRows::open(file, None)?.collect()
}

#[test]
fn a_table_has_the_rows_of_its_json_lines() {
    for (table, lines, kind) in TABLES {
        let values = |name| rows(&golden(name)).unwrap().iter().map(|row| row.value().unwrap()).collect::<Vec<Value>>();
        assert_eq!(values(table), values(lines), "{table}");
        let records = |name| -> Vec<Record> {
            let rows = read(&[golden(name)], kind, BadRows::Error).unwrap();
            rows.records.into_iter().map(|(_, record)| record).collect()
        };
        assert_eq!(records(table), records(lines), "{table}");
    }
}

/// `align data` writes a row as the line that JSON Lines would have.
#[test]
fn a_row_of_a_table_is_a_line() {
    let lines = |name| rows(&golden(name)).unwrap().iter().map(|row| row.line().into_owned()).collect::<Vec<_>>();
    assert!(lines("ranked.parquet")[1].starts_with(br#"{"prompt":"r","responses":["d","e"],"scores":[[2.0],"#));
    assert_eq!(lines("chat.parquet"), lines("chat.jsonl"));
}

#[test]
fn rows_of_tables_are_located_by_their_index() {
    let rows = rows(&golden("text.parquet")).unwrap();
    assert!(rows[299].location.to_string().ends_with("text.parquet: row 299"), "{}", rows[299].location);
    let error = read(&[golden("text.parquet")], Kind::Prompt, BadRows::Error).unwrap_err().to_string();
    let first = error.lines().next().unwrap();
    let expected = "text.parquet: row 0: a row with `id`, `text`, `weight`, `kept`, `tags`, `source`, expected a prompt row: `prompt`";
    assert!(first.contains(expected), "{first}");
}

/// Whether a file is read to its end. If not, the message must be one line that names the file.
fn is_read(file: &Path) -> bool {
    let Err(error) = rows(file) else { return true };
    let name = file.display().to_string();
    assert_eq!(error.exit_code(), 2, "{error}");
    assert!(error.to_string().starts_with(&name) && error.to_string().lines().count() == 1, "{error}");
    assert!(error.to_string().contains("expected"), "{error}");
    false
}

#[test]
fn damaged_tables_are_refused_in_one_line() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("damaged.parquet");
    for (name, ..) in TABLES {
        let whole = std::fs::read(golden(name)).unwrap();
        for length in (4..whole.len()).step_by(whole.len() / 50) {
            std::fs::write(&file, &whole[..length]).unwrap();
            assert!(!is_read(&file), "{name}, cut at {length}");
        }
        // Damage in uncompressed text cannot be detected.
        let mut num_refused = 0;
        let offsets = (4..whole.len()).step_by(1 + whole.len() / 1000);
        let num_offsets = offsets.len();
        for at in offsets {
            let mut damaged = whole.clone();
            damaged[at] ^= [0xff, 0x01, 0x80][at % 3];
            std::fs::write(&file, &damaged).unwrap();
            num_refused += usize::from(!is_read(&file));
        }
        assert!(num_refused * 4 > num_offsets, "{name}: {num_refused} of {num_offsets}");
    }
}

#[test]
fn files_that_are_no_tables_are_refused() {
    let folder = TempDir::new().unwrap();
    let refused = |bytes: &[u8]| {
        let file = folder.path().join("rows.parquet");
        std::fs::write(&file, bytes).unwrap();
        let error: Error = rows(&file).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string().replace(&format!("{}/", folder.path().display()), "")
    };
    assert_eq!(
        refused(b"PAR1...."),
        "rows.parquet: damaged or cut off Parquet data (it is too short), expected a whole file"
    );
    assert!(refused(b"PAR1\0\0\0\0\0\0\0\0").contains("(the magic bytes at its end are missing)"));
    assert!(refused(b"PAR1\xff\xff\0\0PAR1").contains("(its footer is longer than the file)"));
    assert!(refused(b"PAR1\0\0\0\0PAR1").contains("(its footer contradicts itself)"));
    assert!(refused(b"{}").contains("not a Parquet file, expected one from the file's name"));
}
