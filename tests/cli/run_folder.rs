//! Run folders that are in the way, in use, or of another run.

use super::*;

#[test]
fn a_folder_that_holds_a_run_is_kept() {
    let folder = Folder::new();
    folder.succeed(&set(&SFT, &["train.steps=2"]));
    folder.refuse(&set(&SFT, &["train.steps=3"]), &[&["runs/sft: ", "has a run already", "--resume"]]);
    folder.refuse(&with(&RM, &["--out", "runs/sft"]), &[&["runs/sft: ", "has a run already", "--resume"]]);
    folder.refuse(&with(&SFT, &["--dry-run"]), &[&["runs/sft: ", "has a run already", "--resume"]]);
    folder.write("file", "something");
    folder.refuse(&with(&SFT, &["--out", "file"]), &[&["file: ", "is a file, expected a folder"]]);
    folder.refuse(&with(&SFT, &["--out", "file/below"]), &[&["file/below: "]]);
    folder.refuse(&with(&SFT, &["--out", "/proc/align"]), &[&["/proc/align: ", "cannot be used as run.out"]]);
    // An empty folder is fine.
    std::fs::create_dir(folder.join("empty")).unwrap();
    folder.succeed(&with(&set(&SFT, &["train.steps=1"]), &["--out", "empty"]));
}

#[test]
fn a_resume_with_another_config_or_other_data_is_refused_and_shown() {
    let folder = Folder::new();
    folder.write("rows.jsonl", folder.read("data/sft.jsonl"));
    let run = set(&SFT, &["train.steps=2", "data.train='rows.jsonl'"]);
    folder.succeed(&run);
    let sets = ["--set", "optimizer.lr=1e-4", "--set", "train.seed=7", "--set", "train.steps=4", "--resume"];
    folder.refuse(
        &with(&run, &sets),
        &[
            &["runs/sft/config.toml: ", "optimizer.lr was 0.001, now 1e-4"],
            &["runs/sft/config.toml: ", "train.seed was 0, now 7"],
        ],
    );
    let output = folder.align(&with(&RM, &["--out", "runs/sft", "--resume"]));
    assert_eq!(output.code, Some(2), "{output}");
    assert!(output.stderr.contains("align: runs/sft/config.toml: stage was not set, now \"pmp\""), "{output}");
}

#[test]
fn a_resume_on_changed_data_is_refused() {
    let folder = Folder::new();
    folder.write("rows.jsonl", folder.read("data/sft.jsonl"));
    let sets = ["train.steps=2", "data.train='rows.jsonl'"];
    folder.succeed(&set(&SFT, &sets));
    folder.write("rows.jsonl", folder.read("data/heldout-sft.jsonl"));
    let args = with(&set(&SFT, &["train.steps=4", sets[1]]), &["--resume"]);
    folder.refuse(&args, &[&["rows.jsonl: ", "its content differs from that of data.train when the run began"]]);
}

#[test]
fn one_process_a_folder() {
    let folder = Folder::new();
    let args = set(&SFT, &["train.steps=100000", "run.eval_every=100000"]);
    let mut first = folder.spawn(&args);
    first.wait_for_lines(&folder.join("runs/sft/metrics.jsonl"), 1);
    let output = folder.align(&with(&args, &["--resume"]));
    let lines = output.stderr.lines().count();
    assert_eq!((output.code, output.stdout.as_str(), lines), (Some(2), "", 1), "{output}");
    assert!(output.stderr.contains("align: runs/sft: is in use by another process (pid "), "{output}");
    let count = folder.rows("runs/sft/metrics.jsonl").len();
    first.wait_for_lines(&folder.join("runs/sft/metrics.jsonl"), count + 2);
    assert!(first.kill(), "the first process is still running");
}

#[test]
fn a_run_that_fails_says_where_and_exits_with_1() {
    let folder = Folder::new();
    let output = folder.align(&set(&SFT, &["optimizer.lr=1e30", "schedule.warmup_steps=0"]));
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output}");
    let last = output.stderr.lines().last().unwrap();
    assert!(last.starts_with("align: step 2: train/loss is not finite"), "{output}");
}
