//! Mistakes in arguments.

use super::*;

#[test]
fn unknown_ones_are_refused_on_one_line() {
    let folder = Folder::new();
    folder.refuse(&with(&SFT, &["--reusme"]), &[&["--reusme", "--resume"]]);
    folder.refuse(&["stf"], &[&["stf", "align --help"]]);
    folder.refuse(&["sft"], &[&["--config"]]);
    folder.refuse(&["generate", "--model", "policy", "--prompts", "data/ppo.jsonl"], &[&["--out"]]);
    folder.refuse(&["generate", "--model", "policy", "--n", "two"], &[&["two", "--n"]]);
    folder.refuse(&["eval", "perplexity"], &[&["perplexity"]]);
}

/// Without a command there is nothing to refuse: the help says what there is.
#[test]
fn no_command_shows_the_commands() {
    let folder = Folder::new();
    for args in [&[][..], &["eval"]] {
        let output = folder.align(args);
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output}");
        assert!(output.stderr.contains("Usage: align"), "{output}");
    }
    let output = folder.align(&[]);
    assert!(["pretrain", "sft", "rm", "ppo", "eval", "generate", "chat"].iter().all(|c| output.stderr.contains(c)));
}

#[test]
fn version_names_commit_and_libtorch() {
    let output = Folder::empty().succeed(&["--version"]);
    let words: Vec<&str> = output.stdout.split_whitespace().collect();
    assert_eq!(words[0], "align", "{output}");
    assert!(output.stdout.contains("commit ") && output.stdout.contains("libtorch 2.13.0"), "{output}");
    assert_eq!(output.stderr, "");
}
