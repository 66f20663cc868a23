//! Mistakes in configs.

use super::*;

#[test]
fn an_unknown_key_is_named_with_the_nearest_known_one() {
    let folder = Folder::new();
    let text = folder.read("sft.toml");
    folder.write("a.toml", text.replace("[train]", "[train]\ngrad_clp = 1.0"));
    let expected = ["a.toml: ", "train.grad_clp", "did you mean train.grad_clip?"];
    folder.refuse(&["sft", "--config", "a.toml"], &[&expected]);
    // For a key of another section, the message names that section.
    folder.write("b.toml", text.replace("[train]", "[train]\nlr = 1.0"));
    let expected = ["b.toml: ", "train.lr", "did you mean optimizer.lr?"];
    folder.refuse(&["sft", "--config", "b.toml"], &[&expected]);
    folder.write("c.toml", text.replace("[train]", "[trian]"));
    folder.refuse(&["sft", "--config", "c.toml"], &[&["c.toml: ", "trian", "did you mean train?"]]);
    // The flag is the place of what a flag says.
    folder.refuse(&set(&SFT, &["train.sedd=1"]), &[&["--set train.sedd: ", "did you mean train.seed?"]]);
}

#[test]
fn all_problems_are_named_at_once() {
    let folder = Folder::new();
    let sets = ["train.batch_size='many'", "train.grad_clip=-1", "optimizer.lrr=1e-3", "data.overlong='cut'"];
    let args = set(&["sft", "--config", "sft.toml"], &[&sets[..], &["model.path=''"]].concat());
    let output = folder.align(&args);
    assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output}");
    let mut lines: Vec<&str> = output.stderr.lines().collect();
    lines.sort_unstable();
    let expected = [
        ["align: --set data.overlong: ", "\"drop\" or \"truncate\""],
        ["align: --set model.path: ", "is required"],
        ["align: --set optimizer.lrr: ", "did you mean optimizer.lr?"],
        ["align: --set train.batch_size: ", "expected a whole number"],
        ["align: --set train.grad_clip: ", "must be above 0"],
    ];
    assert_eq!(lines.len(), expected.len(), "{output}");
    for (line, parts) in lines.iter().zip(expected) {
        assert!(parts.iter().all(|part| line.contains(part)), "{line}\n{output}");
    }
}

#[test]
fn config_data_and_checkpoint_are_named_together() {
    let folder = Folder::new();
    let sets = ["data.train='data/none.jsonl'", "data.eval='data/none-either.jsonl'"];
    folder.refuse(
        &set(&SFT, &sets),
        &[&["data/none.jsonl: ", "no such file"], &["data/none-either.jsonl: ", "no such file"]],
    );
}

#[test]
fn wrong_types_and_values() {
    let folder = Folder::new();
    let cases: [(&str, &str); 11] = [
        ("train.batch_size=1.5", "a whole number"),
        ("train.dropout=1.0", "below 1"),
        ("train.dropout=nan", "finite"),
        ("optimizer.betas=[0.9]", "betas"),
        ("schedule.kind='cosin'", "\"constant\" or \"linear\" or \"cosine\""),
        ("schedule.warmup_kind='constant'", "\"linear\" or \"cosine\""),
        ("schedule.warmup_ratio=3", "from 0 to 1"),
        ("run.device='gpu'", "\"cpu\""),
        ("run.keep=0", "at least 1"),
        ("data.train=[]", "is required"),
        ("model=3", "expected a section"),
    ];
    for (set_to, expected) in cases {
        let key = set_to.split('=').next().unwrap();
        folder.refuse(&set(&SFT, &[set_to]), &[&[key.rsplit('.').next().unwrap(), expected]]);
    }
    folder.refuse(&set(&RM, &["stage='pmpp'"]), &[&["--set stage: ", "\"pmp\" or \"finetune\""]]);
    folder.refuse(&set(&RM, &["loss.margin=true"]), &[&["loss.margin", "scores"]]);
    folder.refuse(&set(&PPO, &["rollout.top_p=0.0"]), &[&["--set rollout.top_p: ", "above 0"]]);
    folder.refuse(&set(&PPO, &["ppo.minibatch_size=9"]), &[&["--set ppo.minibatch_size: ", "at most the 8 responses"]]);
    folder.refuse(&set(&PPO, &["data.pretrain=[]"]), &[&["data.pretrain", "ptx.coef"]]);
    folder.refuse(&set(&PPO, &["models.value_device='gpu'"]), &[&["--set models.value_device: ", "\"cpu\""]]);
    folder.refuse(&set(&PPO, &["models.frozen_dtype='bfloat16'"]), &[&["frozen_dtype", "frozen_dtype_ok = true"]]);
}

#[test]
fn required_keys() {
    let folder = Folder::new();
    let text = folder.read("rm.toml");
    folder.write("a.toml", text.replace("stage = \"pmp\"", ""));
    folder.refuse(&["rm", "--config", "a.toml"], &[&["a.toml: stage: ", "\"pmp\" or \"finetune\""]]);
    folder.write("b.toml", text.replace("out = \"runs/rm\"", ""));
    folder.refuse(&["rm", "--config", "b.toml"], &[&["b.toml: run.out: is required", "--out"]]);
    folder.write("c.toml", text.replace("path = \"base\"", ""));
    folder.refuse(&["rm", "--config", "c.toml"], &[&["c.toml: model.path: is required"]]);
}

#[test]
fn steps_or_epochs() {
    let folder = Folder::new();
    folder.write("a.toml", folder.read("sft.toml").replace("steps = 12", "steps = 12\nepochs = 1"));
    folder.refuse(&["sft", "--config", "a.toml"], &[&["a.toml: ", "train.steps", "train.epochs", "one of the two"]]);
    let both = set(&SFT, &["train.steps=3", "train.epochs=1"]);
    folder.refuse(&both, &[&["--set train.epochs: ", "train.steps", "one of the two"]]);
    // A flag is stronger than the file: 256 dialogues are 64 batches.
    let output = folder.succeed(&with(&set(&SFT, &["train.epochs=1"]), &["--dry-run"]));
    assert!(output.stderr.contains("steps  64\n"), "{output}");
}

#[test]
fn a_warm_up_in_steps_or_as_a_ratio() {
    let folder = Folder::new();
    for stage in ["pretrain", "sft", "rm"] {
        let text = folder.read(&format!("{stage}.toml"));
        let both = "[schedule]\nwarmup_ratio = 0.03\nwarmup_steps = 3\n[run]\n";
        let without = text.replace("[schedule]", "").replace("warmup_steps = 3", "");
        folder.write("both.toml", without.replace("[run]\n", both));
        let expected = ["both.toml: ", "schedule.warmup_steps", "schedule.warmup_ratio", "one of the two"];
        folder.refuse(&[stage, "--config", "both.toml"], &[&expected]);
    }
    let both = set(&SFT, &["schedule.warmup_steps=3", "schedule.warmup_ratio=0.03"]);
    folder.refuse(&both, &[&["--set schedule.warmup_ratio: ", "schedule.warmup_steps", "one of the two"]]);
    // A flag is stronger than the file. 256 dialogues twice are 128 steps, of which 3 % are 3.84.
    let epochs = ["train.epochs=2", "schedule.warmup_ratio=0.03"];
    let output = folder.succeed(&with(&set(&SFT, &epochs), &["--dry-run"]));
    assert!(output.stderr.contains("steps  128\n") && output.stderr.contains("warmup steps  4\n"), "{output}");
    assert!(output.stderr.contains("warmup_ratio = 0.03\n"), "{output}");
    // PPO's rates are constant.
    folder.refuse(&set(&PPO, &["schedule.warmup_ratio=0.03"]), &[&["schedule", "is not a known key"]]);
}

#[test]
fn bad_files_and_flags() {
    let folder = Folder::new();
    folder.refuse(&["sft", "--config", "none.toml"], &[&["none.toml: ", "expected a TOML file"]]);
    folder.write("a.toml", "[model]\npath = \"base\"\n\n[data\ntrain = 1\n");
    folder.refuse(&["sft", "--config", "a.toml"], &[&["a.toml:4: ", "not TOML"]]);
    folder.refuse(&set(&SFT, &["train.steps"]), &[&["--set train.steps: ", "section.key=VALUE"]]);
    folder.refuse(
        &set(&SFT, &["model.path=base"]),
        &[&["--set model.path: ", "text needs quotes", "model.path=\"base\""]],
    );
    folder.refuse(&set(&SFT, &["=3"]), &[&["--set", "section.key=VALUE"]]);
}

#[test]
fn mix_and_train_are_one_of_two() {
    let folder = Folder::new();
    let mix = "data.mix=[{path='data/sft.jsonl', weight=1.0}]";
    folder.refuse(&set(&SFT, &[mix]), &[&["data.train", "one of the two"]]);
    let mix = "data.mix=[{path='data/sft.jsonl', weight=0.0}]";
    folder.refuse(&set(&SFT, &["data.train=[]", mix]), &[&["--set data.mix: ", "above 0"]]);
}
