//! What a correct command does.

use super::*;

#[test]
fn a_dry_run_trains_nothing() {
    let folder = Folder::new();
    for stage in ["pretrain", "sft", "rm", "ppo"] {
        let before = folder.files("");
        let config = format!("{stage}.toml");
        let output = folder.succeed(&[stage, "--config", &config, "--dry-run"]);
        assert_eq!(output.stdout, "", "{output}");
        assert!(output.stderr.ends_with("nothing was trained\n"), "{output}");
        assert!(folder.files("") == before, "a dry run of {stage} changed files");
    }
}

/// The resolved config is shown with what every key means, is written into the run, and repeats the run.
#[test]
fn the_resolved_config_repeats_the_run() {
    let folder = Folder::new();
    let output = folder.succeed(&set(&SFT, &["train.steps=3"]));
    assert_eq!(output.stdout, "runs/sft/model\n", "{output}");
    let config = folder.read("runs/sft/config.toml");
    assert!(output.stderr.starts_with(config.trim_end()), "{output}");
    for part in ["# Rows per optimizer step", "Qwen report", "eps = 1e-8", "keep = 3"] {
        assert!(config.contains(part), "{part}\n{config}");
    }
    folder.write("again.toml", config);
    folder.succeed(&["sft", "--config", "again.toml", "--out", "runs/again"]);
    assert!(folder.files("runs/sft/model") == folder.files("runs/again/model"));
    assert_eq!(folder.metric("runs/sft", "train/loss"), folder.metric("runs/again", "train/loss"));
}

#[test]
fn relative_paths_are_relative_to_the_working_directory() {
    let folder = Folder::new();
    folder.write("configs/sft.toml", folder.read("sft.toml"));
    folder.succeed(&["sft", "--config", "configs/sft.toml", "--set", "train.steps=1"]);
    assert!(folder.join("runs/sft/model/model.safetensors").exists());
}
