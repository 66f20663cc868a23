//! Unsupported formats, recognised so that the message can name them and say what to do.

use std::path::Path;

use align_core::atomic_files::LFS_POINTER;

/// An unsupported format: its file name extensions, its magic bytes with their offsets, and the message. In
/// the message, `FILE` is replaced by the path quoted for a shell, and `PATH` by the path as it is.
struct Format {
    endings: &'static [&'static str],
    magic: &'static [(usize, &'static [u8])],
    message: &'static str,
}

const FORMATS: [Format; 15] = [
    Format {
        endings: &[".arrow", ".ipc"],
        magic: &[(0, b"ARROW1"), (0, b"\xff\xff\xff\xff")],
        message: "an Apache Arrow file, expected JSON Lines or Parquet; convert it with Python's datasets: \
            Dataset.from_file(\"PATH\").to_json(\"rows.jsonl\")",
    },
    Format {
        endings: &[".feather"],
        magic: &[(0, b"FEA1")],
        message: "a Feather file, expected JSON Lines or Parquet; convert it with pandas: \
            read_feather(\"PATH\").to_parquet(\"rows.parquet\")",
    },
    Format {
        endings: &[".xlsx", ".xlsm", ".xls"],
        magic: &[(0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")],
        message: "an Excel workbook, expected text; save its sheet as CSV (UTF-8)",
    },
    Format {
        endings: &[".bz2"],
        magic: &[(4, b"1AY&SY")],
        message: "compressed with bzip2, expected gzip, zstd or none; unpack it: bunzip2 -k FILE",
    },
    Format {
        endings: &[".xz", ".lzma"],
        magic: &[(0, b"\xfd7zXZ\0")],
        message: "compressed with xz, expected gzip, zstd or none; unpack it: unxz -k FILE",
    },
    Format {
        endings: &[".lz4"],
        magic: &[(0, b"\x04\x22\x4d\x18")],
        message: "compressed with lz4, expected gzip, zstd or none; unpack it: lz4 -d FILE",
    },
    Format {
        endings: &[".tar", ".tgz"],
        magic: &[(257, b"ustar")],
        message: "a tar archive, expected one of the files in it; unpack it: tar -xf FILE",
    },
    Format {
        endings: &[".zip"],
        magic: &[(0, b"PK\x03\x04")],
        message: "a zip archive, expected one of the files in it; unpack it: unzip FILE",
    },
    Format {
        endings: &[".7z"],
        magic: &[(0, b"7z\xbc\xaf\x27\x1c")],
        message: "a 7z archive, expected one of the files in it; unpack it",
    },
    Format {
        endings: &[".rar"],
        magic: &[(0, b"Rar!\x1a\x07")],
        message: "a rar archive, expected one of the files in it; unpack it",
    },
    Format { endings: &[".orc"], magic: &[], message: "an ORC file, expected JSON Lines or Parquet; convert it" },
    Format {
        endings: &[".avro"],
        magic: &[(0, b"Obj\x01")],
        message: "an Avro file, expected JSON Lines or Parquet; convert it",
    },
    Format {
        endings: &[],
        magic: &[(0, b"SQLite format 3\0")],
        message: "an SQLite database, expected JSON Lines or CSV; export its table",
    },
    Format { endings: &[], magic: &[(0, b"%PDF-")], message: "a PDF document, expected text; extract it first" },
    Format {
        endings: &[],
        magic: &[(0, LFS_POINTER)],
        message: "a Git LFS pointer in place of the file, expected the file itself; fetch it: git lfs pull",
    },
];

/// A path, quoted for a shell.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain =
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+=:,@%".contains(&byte) || byte > 0x7f);
    if is_plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Whether a lower-case file name has the extension of an unsupported format.
pub(super) fn has_foreign_name(name: &str) -> bool {
    by_name(name).is_some()
}

fn by_name(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.endings.iter().any(|ending| name.ends_with(ending)))
}

/// The message for a file of an unsupported format, recognised by its name (in lower case, without `.gz` or
/// `.zst`) or its first bytes; `None` if the file may be supported.
pub(super) fn refusal(file: &Path, name: &str, head: &[u8]) -> Option<String> {
    let holds = |(at, bytes): &(usize, &[u8])| head.get(*at..).is_some_and(|rest| rest.starts_with(bytes));
    // An Excel workbook is a zip archive.
    let format = by_name(name).or_else(|| FORMATS.iter().find(|format| format.magic.iter().any(holds)));
    if let Some(format) = format.filter(|_| !head.is_empty()) {
        return Some(format.message.replace("PATH", &file.display().to_string()).replace("FILE", &quoted(file)));
    }
    let begins = |tag: &str| {
        let text = head.trim_ascii_start();
        text.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag.as_bytes()))
    };
    let is_page = !name.ends_with(".txt") && (begins("<!doctype html") || begins("<html"));
    is_page.then(|| {
        "an HTML page, expected data; of a hub, download the file itself, not the page that shows it".to_owned()
    })
}
