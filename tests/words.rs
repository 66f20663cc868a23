//! The repository's prose is plain technical English. This checks comments, messages, names and pages for
//! words that were once used here in a private sense, and comments for their width.
//!
//! A folder is added to [`CHECKED`] when its prose is done.

use std::path::{Path, PathBuf};

/// Files and folders that are checked.
const CHECKED: [&str; 27] = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "bench",
    "build.rs",
    "common/core",
    "common/data",
    "common/kernels",
    "common/model",
    "common/run",
    "common/statistics",
    "common/text",
    "common/tokens",
    "common/train",
    "configs",
    "ppo",
    "reward",
    "curation",
    "datasets",
    "docs",
    "evaluation",
    "interop",
    "scripts",
    "sft",
    "src",
    "tests",
];

/// The maximum width of a line with nothing but a comment.
const WIDTH: usize = 110;

/// Words in comments, messages and pages, and the field's term for each.
const PROSE: [(&str, &str); 46] = [
    // Numerics and the backward pass.
    ("way back", "backward pass"),
    ("forward and back", "forward and backward"),
    ("goes back", "backward"),
    ("is no number", "is non-finite, is NaN"),
    ("are no number", "are non-finite"),
    ("are no numbers", "are non-finite"),
    ("to no number", "to a non-finite number"),
    ("number that is none", "non-finite number"),
    ("numbers that are none", "non-finite numbers"),
    ("slope", "gradient of the scores"),
    ("slopes", "gradients of the scores"),
    // Devices and kernels.
    ("what lies between", "the activation dtype"),
    ("lie side by side", "are contiguous"),
    ("factors", "matmul inputs"),
    ("who shares the batch", "batch-invariant"),
    // Models.
    ("behind", "after"),
    ("starts from nothing", "is randomly initialised"),
    // Training, runs.
    ("told", "reported, logged"),
    ("tells", "reports, logs"),
    ("opine", "evaluate"),
    ("deserves", "is credited with"),
    ("speaks against", "warning sign"),
    ("speak against", "warning signs"),
    ("goes on", "continues"),
    ("go on", "continue"),
    ("gone on with", "resumed"),
    ("come again", "be reproduced"),
    ("comes again", "is reproduced"),
    ("anew", "again"),
    ("way out", "recovery hint"),
    ("shut", "locked"),
    // Data.
    ("passed over", "skipped, ignored"),
    ("what becomes of", "what happens to"),
    ("becomes of", "happens to"),
    ("what an evaluation knows", "rows that overlap an evaluation set"),
    ("one after the other", "in order, concatenated"),
    ("token list", "sequence of tokens"),
    ("token lists", "sequences of tokens"),
    // Words without a fixed sense.
    ("stands", "is"),
    ("stand for", "refer to"),
    ("lies", "is"),
    ("nobody", "no client, no caller"),
    ("whoever", "the caller, the reader"),
    ("turned away", "refused"),
    ("another try", "a retry"),
    ("strangers", "untrusted sources"),
];

/// Parts of names (between underscores or capitals), and the field's term for each.
const NAMES: [(&str, &str); 9] = [
    ("behind", "after"),
    ("told", "reported"),
    ("opine", "evaluate"),
    ("opinions", "evaluation"),
    ("anew", "again"),
    ("slope", "grad_scores"),
    ("halt", "error"),
    ("shut", "guard"),
    ("fate", "outcome"),
];

/// Places where such a word is right: file, text around it, and why.
const ALLOWED: [(&str, &str, &str); 9] = [
    ("common/run/src/checkpoint/snapshot_lock.rs", "Whoever changes them", "any thread, of any owner"),
    ("common/train/src/footprint/model_memory.rs", "way back", "a key of `align plan --json`"),
    ("common/train/src/stage/warnings.rs", "told", "a key in saved states"),
    ("docs/config.md", "", "generated from doc comments, which are checked where they are"),
    ("src/label/page/guideline.md", "Other relevant factors", "the report's words"),
    ("src/commands/page.rs", "Larger dots stand for more pairs", "a symbol stands for what it shows"),
    ("datasets/tests/gold.rs", "Nobody.", "a response to be scored"),
    ("tests/cases.rs", "Go on with the story", "a row of data"),
    ("tests/words.rs", "", "it lists the words"),
];

/// What a source file is made of, as far as people read it.
#[derive(Default)]
struct Prose {
    /// Comments, a paragraph each, and string literals, with the line on which they begin.
    texts: Vec<(usize, String)>,
    /// Names in code.
    names: Vec<(usize, String)>,
}

/// Splits Rust into comments, strings and names. Strings with escapes are kept as they are written.
fn rust(source: &str) -> Prose {
    let (mut prose, mut rest, mut line) = (Prose::default(), source, 1);
    let mut comment: Option<(usize, usize, String)> = None; // its first and last line, and its text
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => {
                let text = rest.split('\n').next().unwrap_or(rest);
                let words = text.trim_start_matches(['/', '!']).trim();
                match &mut comment {
                    Some((_, last, paragraph)) if *last + 1 == line && !words.is_empty() => {
                        (*last, *paragraph) = (line, format!("{paragraph} {words}"));
                    }
                    _ => {
                        prose.texts.extend(comment.take().map(|(start, _, text)| (start, text)));
                        comment = Some((line, line, words.to_owned()));
                    }
                }
                text.len()
            }
            'r' if rest.starts_with("r\"")
                || rest.starts_with("r#") && rest.trim_start_matches(['r', '#']).starts_with('"') =>
            {
                let hashes = rest[1..].len() - rest[1..].trim_start_matches('#').len();
                let end = format!("\"{}", "#".repeat(hashes));
                let body = &rest[hashes + 2..];
                let length = body.find(&end).expect("a raw string ends");
                prose.texts.push((line, body[..length].to_owned()));
                hashes + 2 + length + end.len()
            }
            '"' => {
                let mut escaped = false;
                let end = rest[1..].find(|char| {
                    let ends = char == '"' && !escaped;
                    escaped = char == '\\' && !escaped;
                    ends
                });
                let end = end.expect("a string ends");
                prose.texts.push((line, rest[1..=end].to_owned()));
                end + 2
            }
            // A character literal; a lifetime has no closing quote.
            '\'' if rest[1..].starts_with('\\') => 3 + rest[3..].find('\'').expect("a character ends"),
            '\'' if rest.chars().nth(2) == Some('\'') => 2 + rest[1..].chars().next().map_or(0, char::len_utf8),
            char if char.is_alphabetic() || char == '_' => {
                let length = rest.find(|char: char| !char.is_alphanumeric() && char != '_').unwrap_or(rest.len());
                prose.names.push((line, rest[..length].to_owned()));
                length
            }
            char => char.len_utf8(),
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    prose.texts.extend(comment.map(|(start, _, text)| (start, text)));
    prose
}

/// The paragraphs of a page, without fenced blocks.
fn markdown(source: &str) -> Prose {
    let mut prose = Prose::default();
    let (mut paragraph, mut is_fenced) = ((1, String::new()), false);
    for (index, line) in source.lines().enumerate() {
        is_fenced ^= line.trim_start().starts_with("```");
        if line.trim().is_empty() || is_fenced {
            prose.texts.push(std::mem::take(&mut paragraph));
        } else {
            if paragraph.1.is_empty() {
                paragraph.0 = index + 1;
            }
            paragraph.1.push_str(&format!("{line} "));
        }
    }
    prose.texts.push(paragraph);
    prose
}

/// The comments of TOML or Python, a line each; Python's doc strings are taken line by line.
fn hash_comments(source: &str) -> Prose {
    let mut prose = Prose::default();
    let mut is_doc = false;
    for (index, line) in source.lines().enumerate() {
        let quotes = line.matches("\"\"\"").count();
        let comment = line.split_once("# ").map(|(_, comment)| comment);
        let text = if is_doc || quotes > 0 { Some(line) } else { comment };
        is_doc ^= quotes == 1;
        prose.texts.extend(text.map(|text| (index + 1, text.to_owned())));
    }
    prose
}

/// Whether a text has the words, as whole words and in any case.
fn has(text: &str, words: &str) -> bool {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    text.match_indices(words).any(|(at, _)| {
        let (before, after) = (text[..at].chars().next_back(), text[at + words.len()..].chars().next());
        [before, after].into_iter().flatten().all(|char| !char.is_alphanumeric() && char != '_')
    })
}

/// The parts of a name in lower case: `SnapshotLock` and `snapshot_lock` have two.
fn parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for char in name.chars() {
        if char == '_' || char.is_uppercase() {
            parts.push(String::new());
        }
        if char != '_' {
            parts.last_mut().expect("one at least").extend(char.to_lowercase());
        }
    }
    parts
}

/// All checked files with the ending, in order.
fn files(root: &Path, ending: &str) -> Vec<PathBuf> {
    fn walk(path: PathBuf, ending: &str, found: &mut Vec<PathBuf>) {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
            entries.for_each(|path| walk(path, ending, found));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    let mut found = Vec::new();
    CHECKED.iter().for_each(|path| walk(root.join(path), ending, &mut found));
    found.sort();
    found
}

fn is_allowed(file: &str, text: &str) -> bool {
    ALLOWED.iter().any(|(of, part, _)| *of == file && text.contains(part))
}

#[test]
fn prose_and_names_are_plain_english() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for path in [".rs", ".md", ".toml", ".py"].iter().flat_map(|ending| files(root, ending)) {
        let source = std::fs::read_to_string(&path).unwrap();
        let file = path.strip_prefix(root).unwrap().display().to_string();
        let prose = match path.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => rust(&source),
            Some("md") => markdown(&source),
            _ => hash_comments(&source),
        };
        for (line, text) in prose.texts.iter().filter(|(_, text)| !is_allowed(&file, text)) {
            let odd = PROSE.iter().filter(|(odd, _)| has(text, odd));
            found.extend(odd.map(|(odd, plain)| format!("{file}:{line}: `{odd}`, expected `{plain}`")));
        }
        for (line, name) in prose.names.iter().filter(|(_, name)| !is_allowed(&file, name)) {
            let parts = parts(name);
            let odd = NAMES.iter().filter(|(odd, _)| parts.iter().any(|part| part == odd));
            found.extend(odd.map(|(_, plain)| format!("{file}:{line}: the name {name}, expected `{plain}`")));
        }
    }
    assert!(found.is_empty(), "{} words:\n{}", found.len(), found.join("\n"));
}

#[test]
fn every_allowed_word_is_still_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, part, _) in ALLOWED {
        let source = std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(source.contains(part), "{file} has no `{part}` any more");
    }
}

#[test]
fn comments_are_not_wider_than_the_limit() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wide = Vec::new();
    for path in files(root, ".rs") {
        for (index, line) in std::fs::read_to_string(&path).unwrap().lines().enumerate() {
            let has_url = line.contains("https://");
            if line.trim_start().starts_with("//") && line.chars().count() > WIDTH && !has_url {
                wide.push(format!("{}:{}", path.strip_prefix(root).unwrap().display(), index + 1));
            }
        }
    }
    assert!(wide.is_empty(), "comments wider than {WIDTH}:\n{}", wide.join("\n"));
}

#[test]
fn words_are_found_in_comments_messages_and_names() {
    let prose =
        rust("/// Saved for the way\n/// back.\nfn told_once() { say(\"it \\\"lies\\\" there\", 'x', r#\"a\"#); }\n");
    let texts: Vec<&str> = prose.texts.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["it \\\"lies\\\" there", "a", "Saved for the way back."]);
    assert!(has(texts[2], "way back") && has(texts[0], "lies") && !has("it relies on", "lies"));
    assert_eq!(parts("told_once"), ["told", "once"]);
    assert_eq!(parts("HaltNow"), ["", "halt", "now"]);
    let prose = hash_comments("a = \"b\"  # c\n\"\"\"d\ne\"\"\"\nf\n");
    let texts: Vec<&str> = prose.texts.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["c", "\"\"\"d", "e\"\"\""]);
    assert_eq!(markdown("a\nb\n\n```\ncode\n```\nc\n").texts.iter().filter(|(_, text)| !text.is_empty()).count(), 2);
}
