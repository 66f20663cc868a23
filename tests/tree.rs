//! The tree in ARCHITECTURE.md and the disk agree, and the documentation's links lead somewhere.

use std::collections::BTreeSet;
use std::path::Path;

/// The paths of the tree in a fenced block under the heading "Layout"; folders end with `/`.
fn layout(page: &str) -> Vec<String> {
    let section = page.split("\n## Layout\n").nth(1).expect("ARCHITECTURE.md has a section \"Layout\"");
    let block = section.split("```").nth(1).expect("the section has a fenced block");
    let (mut parents, mut paths): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for line in block.lines() {
        let Some((before, entry)) = line.split_once("── ") else { continue };
        let depth = before.chars().count() / 4; // "│   " a level, then "├" or "└"
        let name = entry.split_whitespace().next().expect("an entry has a name");
        parents.truncate(depth);
        let path = format!("{}{name}", parents.concat());
        if name.ends_with('/') {
            parents.push(name.to_owned());
        }
        paths.push(path);
    }
    paths
}

#[test]
fn the_tree_agrees_with_the_disk() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let paths = layout(&std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap());
    assert!(paths.len() > 10, "{paths:?}");
    for path in &paths {
        let on_disk = root.join(path);
        assert!(if path.ends_with('/') { on_disk.is_dir() } else { on_disk.is_file() }, "{path} is in the tree only");
    }

    // Where the tree shows what is in a folder of sources, it shows all of it.
    let listed: BTreeSet<&str> = paths.iter().map(String::as_str).collect();
    for folder in paths.iter().filter(|path| path.ends_with('/')) {
        if !paths.iter().any(|path| path.starts_with(folder.as_str()) && path != folder) {
            continue;
        }
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            // A crate's root says itself what it is; a folder beside a file of its name belongs to that file.
            let of_file = listed.contains(format!("{folder}{name}.rs").as_str());
            let slash = if entry.path().is_dir() { "/" } else { "" };
            let known = listed.contains(format!("{folder}{name}{slash}").as_str());
            assert!(name == "lib.rs" || of_file || known, "{folder}{name} is on the disk only");
        }
    }

    // Every crate of the workspace has its place.
    let manifest: toml::Table = toml::from_str(&std::fs::read_to_string(root.join("Cargo.toml")).unwrap()).unwrap();
    for member in manifest["workspace"]["members"].as_array().unwrap() {
        let member = member.as_str().unwrap();
        assert!(
            paths.iter().any(|path| path.starts_with(&format!("{member}/"))),
            "the crate {member} is not in the tree"
        );
    }
}

#[test]
fn every_local_link_of_the_documentation_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec!["README.md".into(), "ARCHITECTURE.md".into(), "CONTRIBUTING.md".into(), "CHANGELOG.md".into()];
    for entry in std::fs::read_dir(root.join("docs")).unwrap() {
        files.push(entry.unwrap().path());
    }
    for file in files {
        let file = root.join(file);
        let text = std::fs::read_to_string(&file).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
            let led_to = if path.is_empty() { file.clone() } else { file.parent().unwrap().join(path) };
            assert!(led_to.exists(), "{}: {target} leads nowhere", file.display());
            let found = anchor.is_none_or(|anchor| anchors(&led_to).contains(anchor));
            assert!(found, "{}: {target} names no heading", file.display());
        }
    }
}

/// The headings of a page as links name them: lower case, hyphens for spaces, no other punctuation.
fn anchors(page: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(page).unwrap();
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |c: char| c.is_alphanumeric() || c == '-' || c == '_' || c == ' ';
    headings
        .map(|heading| heading.to_lowercase().chars().filter(|c| kept(*c)).collect::<String>().replace(' ', "-"))
        .collect()
}

/// docs/correctness.md names tests as `file::test`; they are there.
#[test]
fn every_test_that_the_documentation_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/correctness.md")).unwrap();
    let named: Vec<(&str, &str)> =
        text.split('`').filter_map(|part| part.split_once(".rs::")).filter(|(_, name)| !name.contains(' ')).collect();
    assert!(named.len() > 30, "{named:?}");
    for (file, name) in named {
        let source = std::fs::read_to_string(root.join(format!("{file}.rs")));
        let source = source.unwrap_or_else(|error| panic!("{file}.rs of {name}: {error}"));
        assert!(source.contains(&format!("fn {name}(")), "{file}.rs has no test {name}");
    }
}
