//! Mistakes in data files.

use super::*;

#[test]
fn a_malformed_line_is_named_with_its_number() {
    let folder = Folder::new();
    let mut lines: Vec<String> = folder.read("data/sft.jsonl").lines().take(6).map(str::to_owned).collect();
    lines[2].truncate(20);
    lines[4] = r#"{"messages": [{"role": "robot", "content": "x"}]}"#.to_owned();
    lines[5] = r#"{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": " "}]}"#.to_owned();
    folder.write("bad.jsonl", lines.join("\n"));
    let expected: [&[&str]; 3] = [
        &["bad.jsonl:3: ", "not JSON", "expected one object per line"],
        &["bad.jsonl:5: ", "`robot`", "expected system, user, assistant or tool"],
        &["bad.jsonl:6: ", "empty"],
    ];
    folder.refuse(&set(&SFT, &["data.train='bad.jsonl'"]), &expected);
    // Skipped when asked to, counted and named.
    let sets = ["data.train='bad.jsonl'", "data.bad_rows='skip'", "train.steps=1"];
    let output = folder.succeed(&set(&SFT, &sets));
    assert!(output.stderr.contains("bad rows skipped  3\n"), "{output}");
    assert!(output.stderr.contains("skipped bad.jsonl:3: "), "{output}");
    let run: Value = serde_json::from_str(&folder.read("runs/sft/run.json")).unwrap();
    assert_eq!((&run["rows"], &run["bad_rows_skipped"]), (&json!(3), &json!(3)), "{run}");
}

#[test]
fn files_that_do_not_fit_the_stage() {
    let folder = Folder::new();
    let expected = [
        "data/heldout-prompts.jsonl:1: ",
        "`prompt`",
        "expected a chat row",
        "; the same in 5 more rows: data/heldout-prompts.jsonl:2, data/heldout-prompts.jsonl:3, ",
    ];
    folder.refuse(&set(&SFT, &["data.train='data/heldout-prompts.jsonl'"]), &[&expected]);
    folder.write("empty.jsonl", "\n\n");
    folder.refuse(&set(&SFT, &["data.train='empty.jsonl'"]), &[&["empty.jsonl: ", "empty", "expected chat rows"]]);
    folder.write("a.txt", "plain text");
    folder.refuse(&set(&RM, &["data.train='a.txt'"]), &[&["a.txt: ", "plain text", "comparison row"]]);
    folder.refuse(&set(&PPO, &["data.prompts='none.jsonl'"]), &[&["none.jsonl: ", "no such file"]]);
    folder.refuse(&set(&PPO, &["data.pretrain='none.jsonl'"]), &[&["none.jsonl: ", "no such file"]]);
}

#[test]
fn rows_too_long_for_the_limit() {
    let folder = Folder::new();
    let sets = ["data.max_tokens=8"];
    folder.refuse(
        &set(&SFT, &sets),
        &[
            &["data/sft.jsonl: ", "no row is left", "256", "data.max_tokens", "truncate"],
            &["data/heldout-sft.jsonl: ", "no row is left"],
        ],
    );
    folder.refuse(
        &set(&RM, &sets),
        &[&["data/rm.jsonl: ", "data.max_tokens"], &["data/heldout-comparisons.jsonl: ", "data.max_tokens"]],
    );
    folder.refuse(
        &set(&PPO, &["data.max_prompt_tokens=8"]),
        &[&["data/ppo.jsonl: ", "data.max_prompt_tokens"], &["data/heldout-prompts.jsonl: ", "data.max_prompt_tokens"]],
    );
}
