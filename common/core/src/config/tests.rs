//! A config like those of the stages, and every kind of mistake in it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::*;
use crate::error::{Error, Problem};

documented! {
    /// `[train]` of the test stage.
    struct Train {
        /// Steps of the run.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub steps: Option<u64>,
        /// Passes over the data.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub epochs: Option<u64>,
        /// Clips the norm.
        pub grad_clip: f64,
    }
}

documented! {
    /// `[data]` of the test stage.
    struct Data {
        /// Rows to train on.
        pub train: Files,
        /// Rows to evaluate on.
        pub eval: Files,
        /// Sources by weight.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub mix: Vec<Mix>,
        /// Whether rows are shuffled.
        pub shuffle: bool,
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stage {
    name: String,
    model: ModelSection,
    data: Data,
    train: Train,
    optimizer: OptimizerSection,
    schedule: ScheduleSection,
    run: RunSection,
}

impl Default for Stage {
    fn default() -> Self {
        Self {
            name: String::new(),
            model: ModelSection::default(),
            data: Data { train: Files::default(), eval: Files::default(), mix: Vec::new(), shuffle: true },
            train: Train { steps: Some(4000), epochs: None, grad_clip: 1.0 },
            optimizer: OptimizerSection::new(2e-6, 0.1),
            schedule: ScheduleSection::new(ScheduleKind::Constant, 1430),
            run: RunSection::default(),
        }
    }
}

impl Config for Stage {
    const EITHER: &'static [(&'static str, &'static str)] =
        &[("train.steps", "train.epochs"), ("data.train", "data.mix"), ScheduleSection::EITHER];

    fn docs() -> Vec<(&'static str, KeyDocs)> {
        vec![
            ("", &[("name", "The stage's name.")]),
            ("model", ModelSection::DOCS),
            ("data", Data::DOCS),
            ("train", Train::DOCS),
            ("optimizer", OptimizerSection::DOCS),
            ("schedule", ScheduleSection::DOCS),
            ("run", RunSection::DOCS),
        ]
    }

    fn validate(&self, problems: &mut Problems) {
        self.model.validate(problems);
        if self.data.mix.is_empty() {
            checks::required_files(problems, "data.train", &self.data.train);
        }
        checks::above_zero(problems, "train.grad_clip", self.train.grad_clip);
        self.optimizer.validate(problems);
        self.schedule.validate(problems);
        self.run.validate(problems);
    }
}

const GOOD: &str = "
    model.path = 'base'
    data.train = 'a.jsonl'
    run.out = 'runs/a'
    run.device = 'cpu'
";

fn good(more: &str, sets: &[&str]) -> Result<Stage> {
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    load_text("a.toml", &format!("{GOOD}{more}"), &sets, None)
}

fn problems(result: Result<Stage>) -> Vec<String> {
    match result {
        Err(Error::Invalid(problems)) => problems.iter().map(Problem::to_string).collect(),
        other => panic!("expected problems, got {other:?}"),
    }
}

#[test]
fn the_users_values_override_the_defaults() {
    let config = good("train.grad_clip = 2\n[schedule]\nkind = 'cosine'", &["optimizer.lr=1e-3"]).unwrap();
    assert_eq!(config.train.grad_clip, 2.0); // a whole number is a number
    assert_eq!(config.schedule, ScheduleSection::new(ScheduleKind::Cosine, 1430));
    assert_eq!(config.optimizer, OptimizerSection::new(1e-3, 0.1));
    assert_eq!(config.data.train, ["a.jsonl"].into_iter().collect());
    assert_eq!((config.train.steps, config.train.epochs), (Some(4000), None));
}

#[test]
fn all_mistakes_at_once_by_dotted_name() {
    let text = "
        nane = 'x'
        model.path = 'base'
        data.train = 3
        [train]
        grad_clip = -1
        steps = 1.5
        lr = 1e-3
        [optimizer]
        lr = 'small'
        [schedule]
        kind = 'cosinus'
        warmup_stepts = 3
        [runs]
        out = 'x'
    ";
    let found = problems(load_text("a.toml", text, &["run.threads=-2".to_owned()], None));
    let expected = [
        "a.toml: nane: is not a known key, did you mean name?",
        "a.toml: runs: is not a known key, did you mean run?",
        "a.toml: data.train = 3: expected a path or an array of paths",
        "a.toml: train.lr: is not a known key, did you mean optimizer.lr?",
        "a.toml: train.steps = 1.5: expected a whole number, at least 0",
        "a.toml: optimizer.lr = \"small\": expected a number",
        "a.toml: schedule.kind = \"cosinus\": expected \"constant\" or \"linear\" or \"cosine\"",
        "a.toml: schedule.warmup_stepts: is not a known key, did you mean schedule.warmup_steps?",
        "--set run.threads: run.threads = -2: expected a whole number, at least 0",
        "a.toml: train.grad_clip = -1: must be above 0",
        "a.toml: run.out: is required, here or as --out",
    ];
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    assert_eq!(sorted(found), sorted(expected.map(str::to_owned).to_vec()));
}

#[test]
fn an_unknown_key_without_neighbours_lists_the_section() {
    let found = problems(good("model.quantise = true", &[]));
    assert_eq!(found, ["a.toml: model.quantise: is not a known key, expected one of path, dtype, recompute_layers"]);
}

#[test]
fn non_finite_values_are_refused() {
    let found = problems(good("train.grad_clip = nan\noptimizer.betas = [inf, 0.5]", &[]));
    assert_eq!(
        found,
        [
            "a.toml: optimizer.betas = [inf, 0.5]: expected a finite number",
            "a.toml: train.grad_clip = nan: expected a finite number",
        ]
    );
    assert_eq!(
        problems(good("optimizer.betas = [0.9]", &[])),
        ["a.toml: optimizer.betas = [0.9]: expected an array of length 2"]
    );
}

#[test]
fn a_section_must_be_a_section() {
    assert_eq!(problems(good("schedule = 3", &[])), ["a.toml: schedule = 3: expected a section"]);
    assert_eq!(problems(good("train.steps.x = 3", &[])), ["a.toml: train.steps: expected a whole number, at least 0"]);
}

#[test]
fn a_mix_and_its_mistakes() {
    let text = "model.path = 'b'\nrun.out = 'r'\n[[data.mix]]\npath = ['a', 'b']\nweight = 2\n";
    let config: Stage = load_text("a.toml", text, &[], None).unwrap();
    assert_eq!(config.data.mix, [Mix { path: ["a", "b"].into_iter().collect(), weight: 2.0 }]);
    let found = problems(load_text("a.toml", &text.replace("weight", "wieght"), &[], None));
    assert_eq!(found[0], "a.toml: data.mix[0].wieght: is not a known key, did you mean data.mix[0].weight?");
    let found = problems(load_text("a.toml", &text.replace("weight = 2", ""), &[], None));
    assert_eq!(found[0], "a.toml: data.mix[0]: `weight` is required");
}

#[test]
fn one_of_two_keys() {
    let config = good("train.epochs = 2", &[]).unwrap();
    assert_eq!((config.train.steps, config.train.epochs), (None, Some(2)));
    let config = good("train.epochs = 2", &["train.steps=7"]).unwrap();
    assert_eq!((config.train.steps, config.train.epochs), (Some(7), None));
    assert_eq!(
        problems(good("train.epochs = 2\ntrain.steps = 3", &[])),
        ["a.toml: has both train.steps and train.epochs, expected one of the two"]
    );
    assert_eq!(
        problems(good("", &["train.epochs=2", "train.steps=3"])),
        ["--set train.steps: train.epochs is set as well, expected one of the two"]
    );
}

#[test]
fn the_warm_up_in_steps_or_as_a_ratio() {
    let warmup = |more: &str, sets: &[&str]| {
        let schedule = good(more, sets).unwrap().schedule;
        (schedule.warmup_steps, schedule.warmup_ratio)
    };
    let (steps, ratio) = ("schedule.warmup_steps", "schedule.warmup_ratio");
    assert_eq!(warmup("", &[]), (Some(1430), None));
    assert_eq!(warmup("schedule.warmup_ratio = 0.03", &[]), (None, Some(0.03)), "in place of the default");
    assert_eq!(warmup("schedule.warmup_ratio = 0.03", &["schedule.warmup_steps=7"]), (Some(7), None));
    assert_eq!(warmup("schedule.warmup_steps = 7", &["schedule.warmup_ratio=0"]), (None, Some(0.0)));
    assert_eq!(
        problems(good("schedule.warmup_steps = 7\nschedule.warmup_ratio = 0.03", &[])),
        [format!("a.toml: has both {steps} and {ratio}, expected one of the two")]
    );
    assert_eq!(
        problems(good("", &["schedule.warmup_steps=7", "schedule.warmup_ratio=0.03"])),
        [format!("--set {ratio}: {steps} is set as well, expected one of the two")]
    );
    for wrong in ["-0.01", "1.01", "3"] {
        assert_eq!(
            problems(good("", &[&format!("{ratio}={wrong}")])),
            [format!("--set {ratio}: {ratio} = {wrong}: must be from 0 to 1")]
        );
    }
    let text = to_toml(&good("schedule.warmup_ratio = 0.03\nschedule.warmup_kind = 'cosine'", &[]).unwrap());
    assert!(text.contains("# warmup_steps is not set\n"), "{text}");
    assert!(text.contains("\nwarmup_ratio = 0.03\n") && text.contains("\nwarmup_kind = \"cosine\"\n"), "{text}");
    let again: Stage = load_text("again.toml", &text, &[], None).unwrap();
    assert_eq!(to_toml(&again), text);
}

#[test]
fn set_takes_toml_values() {
    let config = good("", &["data.eval=['b', \"c\"]", "data.shuffle = false", "model.path='x=y'"]).unwrap();
    assert_eq!(config.data.eval, ["b", "c"].into_iter().collect());
    assert!(!config.data.shuffle);
    assert_eq!(config.model.path, PathBuf::from("x=y"));
    assert_eq!(
        problems(good("", &["model.path=base", "train.steps", "=3", "train.grad_clip=1\nx=2", "train.grad_clip=-3"])),
        [
            "--set model.path: `base` is not a TOML value; text needs quotes: --set 'model.path=\"base\"'",
            "--set train.steps: has no value, expected section.key=VALUE",
            "--set : is not a key, expected section.key=VALUE",
            "--set train.grad_clip: `1\nx=2` is not a TOML value; text needs quotes: --set 'train.grad_clip=\"1\nx=2\"'",
            "--set train.grad_clip: train.grad_clip = -3: must be above 0",
        ]
    );
}

#[test]
fn out_is_a_flag_too() {
    let config: Stage = load_text("a.toml", GOOD, &[], Some(Path::new("elsewhere"))).unwrap();
    assert_eq!(config.run.out, PathBuf::from("elsewhere"));
}

#[test]
fn a_file_that_is_not_toml_or_not_there() {
    assert!(problems(load_text("a.toml", "a = 1\nb = [\nc", &[], None))[0].starts_with("a.toml:"));
    let found = problems(load(Path::new("/nowhere/a.toml"), &[], None));
    assert!(found[0].starts_with("/nowhere/a.toml: cannot be read"), "{found:?}");
}

#[test]
fn devices() {
    let names = ["auto", "cpu", "cuda", "cuda:3"].map(|name| name.parse::<DeviceSpec>().unwrap());
    assert_eq!(names, [DeviceSpec::Auto, DeviceSpec::Cpu, DeviceSpec::Cuda(0), DeviceSpec::Cuda(3)]);
    assert!(["gpu", "cuda:", "cuda:x", "cuda:-1"].iter().all(|name| name.parse::<DeviceSpec>().is_err()));
    assert_eq!(
        problems(good("", &["run.device=\"tpu\""])),
        ["--set run.device: run.device = \"tpu\": expected \"auto\", \"cpu\", \"cuda\" or \"cuda:N\""]
    );
}

#[test]
fn printed_and_read_back() {
    let config = good(
        "data.eval = ['x \"y\"', 'z']\nname = 'é'",
        &["optimizer.lr=1.2345678901234567e-7", "run.threads=3", "data.mix=[{path='m', weight=0.25}]"],
    )
    .unwrap();
    let text = to_toml(&config);
    let again: Stage = load_text("again.toml", &text, &[], None).unwrap();
    assert_eq!(again, config);
    assert_eq!(to_toml(&again), text);
}

#[test]
fn the_printed_file_reads_as_the_recipe() {
    let text = to_toml(&good("", &[]).unwrap());
    let expected = "\
[optimizer]
# Peak learning rate. Qwen report §3.1.2: 2e-6 (sft), §3.2.1: 3e-6 (rm), §2: 3e-4 (pretraining).
lr = 2e-6
# Decay of the first and the second moment. Qwen report §2, §3.1.2 (pretraining, sft); our choice
# for rm.
betas = [0.9, 0.95]
# Added to the square root of the second moment. Qwen report §2, §3.1.2 (pretraining, sft); our
# choice for rm.
eps = 1e-8
";
    assert!(text.contains(expected), "{text}");
    assert!(text.starts_with("# The stage's name.\nname = \"\"\n"), "{text}");
    assert!(text.contains("# Passes over the data.\n# epochs is not set\n"), "{text}");
    // Sections in the order of the stage, not of the alphabet.
    let sections: Vec<&str> = text.lines().filter(|line| line.starts_with('[')).collect();
    assert_eq!(sections, ["[model]", "[data]", "[train]", "[optimizer]", "[schedule]", "[run]"]);
}

#[test]
fn every_key_has_a_doc() {
    let table = toml::Table::try_from(Stage::default()).unwrap();
    for (section, value) in table.iter().filter(|(_, value)| value.is_table()) {
        let docs = Stage::docs().into_iter().find(|(name, _)| name == section).unwrap().1;
        for key in value.as_table().unwrap().keys() {
            assert!(docs.iter().any(|(name, doc)| name == key && !doc.trim().is_empty()), "{section}.{key}");
        }
    }
}

#[test]
fn what_may_change_across_a_resume() {
    let old = to_toml(&good("", &[]).unwrap());
    let new = |sets: &[&str]| to_toml(&good("", sets).unwrap());
    let none = BTreeSet::new();
    let may = ["train.steps=9", "run.log_every=2", "run.out=\"moved\"", "data.eval='e'", "run.threads=1"];
    resume_differences("config.toml", &old, &new(&may), &none).unwrap();
    resume_differences("config.toml", &old, &new(&["train.epochs=2"]), &none).unwrap();
    let Err(Error::Invalid(found)) = resume_differences(
        "config.toml",
        &old,
        &new(&["optimizer.lr=1e-4", "data.shuffle=false", "train.steps=9"]),
        &none,
    ) else {
        panic!("expected problems")
    };
    let found: Vec<String> = found.iter().map(Problem::to_string).collect();
    let rule = "across a resume only steps, [run], [guards] and eval settings may change";
    assert_eq!(
        found,
        [
            format!("config.toml: data.shuffle was true, now false: {rule}"),
            format!("config.toml: optimizer.lr was 2e-6, now 1e-4: {rule}"),
        ]
    );
    // A key that only one of the two has.
    assert!(resume_differences("c", "[a]\nx = 1\n", "", &none).is_err());
    // The same number of steps now; another one with another number of steps of the run.
    let refused = resume_differences("c", &old, &new(&["schedule.warmup_ratio=0.3575"]), &none).unwrap_err();
    let refused = refused.to_string();
    assert!(refused.contains("schedule.warmup_ratio was not set, now 0.3575"), "{refused}");
    assert!(refused.contains("schedule.warmup_steps was 1430, now not set"), "{refused}");
    // ppo.epochs is part of the algorithm, ppo.steps is not.
    assert!(resume_differences("c", "[ppo]\nepochs = 1\n", "[ppo]\nepochs = 2\n", &none).is_err());
    assert!(resume_differences("c", "[ppo]\nsteps = 1\n", "[ppo]\nsteps = 2\n", &none).is_ok());
}

#[test]
fn paths_whose_content_is_compared_may_change() {
    let keys = ["data.train", "data.mix", "model.path"].map(str::to_owned).into();
    let differ = |old: &str, new: &str| resume_differences("c", old, new, &keys);
    differ("[data]\ntrain = ['a']\n[model]\npath = 'm'", "[data]\ntrain = ['b', 'c']\n[model]\npath = 'n'").unwrap();
    let mix = |path: &str, weight: f64| format!("[[data.mix]]\npath = ['{path}']\nweight = {weight}\n");
    differ(&mix("a", 0.5), &mix("b", 0.5)).unwrap();
    let refused = differ(&mix("a", 0.5), &mix("b", 0.25)).unwrap_err().to_string();
    assert!(refused.contains("data.mix was [{ weight = 0.5 }], now [{ weight = 0.25 }]"), "{refused}");
    assert!(differ("[data]\ntrain = ['a']", "[data]\ntrain = ['a']\nsystem = 's'").is_err());
    assert!(differ("[data]\ncache = 'a'", "[data]\ncache = 'b'").is_err());
}

/// A run that is older than a key continues with the behaviour it had.
#[test]
fn a_newer_key_with_the_old_behaviour_is_no_difference() {
    let none = BTreeSet::new();
    resume_differences("c", "[reward]\n", "[reward]\nscore_at = \"auto\"\n", &none).unwrap();
    assert!(resume_differences("c", "[reward]\n", "[reward]\nscore_at = \"last\"\n", &none).is_err());
    assert!(
        resume_differences("c", "[reward]\nscore_at = \"end\"\n", "[reward]\nscore_at = \"auto\"\n", &none).is_err()
    );
    let old = "[schedule]\nwarmup_steps = 3\n";
    resume_differences("c", old, &format!("{old}warmup_kind = \"linear\"\n"), &none).unwrap();
    assert!(resume_differences("c", old, &format!("{old}warmup_kind = \"cosine\"\n"), &none).is_err());
}
