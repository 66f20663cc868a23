//! Every config in the repository parses and validates, states the report's numbers and marks ours; the
//! defaults are the report's where it has any.

use std::path::{Path, PathBuf};

use align_core::config::{self, Config};
use align_ppo::config::PpoConfig;
use align_reward::config::RmConfig;
use align_sft::config::{PretrainConfig, SftConfig};
use align_train::schedule::warmup_steps;
use toml::{Table, Value};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The configs of stages; `tasks/` holds questions for `align eval tasks`, which tests/quickstart.rs puts.
fn tomls(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("tasks") {
                found.extend(tomls(&path));
            }
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Loads a config as the stage that it is for; the config as it was resolved.
fn load(file: &Path) -> Table {
    fn resolved<C: Config>(file: &Path) -> Table {
        let config: C = config::load(file, &[], None).unwrap_or_else(|error| panic!("{error}"));
        toml::from_str(&config::to_toml(&config)).unwrap()
    }
    let table: Table = toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let name = file.file_stem().unwrap().to_string_lossy();
    if table.contains_key("models") {
        resolved::<PpoConfig>(file)
    } else if table.contains_key("stage") {
        resolved::<RmConfig>(file)
    } else if name.contains("pretrain") || CODE_QWEN.contains(&&*name) {
        resolved::<PretrainConfig>(file)
    } else {
        resolved::<SftConfig>(file)
    }
}

#[test]
fn every_config_parses_and_validates() {
    let files = tomls(&root().join("configs"));
    assert!(files.len() >= 5, "{files:?}");
    for file in files {
        load(&file);
    }
}

/// Configs of continued pretraining.
const CODE_QWEN: [&str; 2] = ["code-qwen-7b", "code-qwen-14b"];

/// What the report says (arXiv 2309.16609, sections 2 and 3), by the config that carries it out.
const REPORT: &[(&str, &[(&str, &str)])] = &[
    (
        "pretrain",
        &[
            ("data.max_tokens", "2048"),
            ("model.dtype", "'bfloat16'"),
            ("optimizer.lr", "3e-4"),
            ("optimizer.betas", "[0.9, 0.95]"),
            ("optimizer.eps", "1e-8"),
            ("schedule.kind", "'cosine'"),
            ("schedule.min_lr_ratio", "0.1"),
        ],
    ),
    (
        "sft",
        &[
            ("data.max_tokens", "2048"),
            ("data.loss_on", "'assistant'"),
            ("train.batch_size", "128"),
            ("train.steps", "4000"),
            ("train.dropout", "0.1"),
            ("train.grad_clip", "1.0"),
            ("optimizer.lr", "2e-6"),
            ("optimizer.betas", "[0.9, 0.95]"),
            ("optimizer.eps", "1e-8"),
            ("optimizer.weight_decay", "0.1"),
            ("schedule.warmup_steps", "1430"),
        ],
    ),
    ("pmp", REWARD_MODEL),
    ("rm", REWARD_MODEL),
    (
        "ppo",
        &[
            ("rollout.responses_per_prompt", "2"),
            ("rollout.top_p", "0.9"),
            ("reward.kl_coef", "0.04"),
            ("reward.kl_controller", "'fixed'"),
            ("reward.normalize", "'running-mean'"),
            ("ppo.value_warmup_steps", "50"),
            ("ppo.cliprange_value", "0.15"),
            ("ppo.policy_lr", "1e-6"),
            ("ppo.value_lr", "5e-6"),
        ],
    ),
];
const REWARD_MODEL: &[(&str, &str)] = &[
    ("data.max_tokens", "2048"),
    ("train.batch_size", "64"),
    ("train.epochs", "1"),
    ("optimizer.lr", "3e-6"),
    ("schedule.kind", "'constant'"),
];

/// What the report says of its specialised models (sections 4 and 5), by config. The defaults of their stages
/// are other numbers.
const SPECIALISED: &[(&str, &[(&str, &str)])] = &[
    ("code-qwen-7b", &code_qwen("3e-5")),
    ("code-qwen-14b", &code_qwen("6e-5")),
    ("code-qwen-chat-7b", &code_qwen_chat("1e-5")),
    ("code-qwen-chat-14b", &code_qwen_chat("2e-6")),
    (
        "math-qwen-chat",
        &[
            ("data.max_tokens", "1024"),
            ("data.loss_on", "'assistant'"),
            ("train.batch_size", "128"),
            ("train.steps", "50000"),
            ("train.dropout", "0.1"),
            ("train.grad_clip", "1.0"),
            ("optimizer.lr", "2e-5"),
            ("optimizer.betas", "[0.9, 0.95]"),
            ("optimizer.eps", "1e-8"),
            ("optimizer.weight_decay", "0.1"),
            ("schedule.warmup_steps", "1430"),
        ],
    ),
];

const fn code_qwen(lr: &'static str) -> [(&'static str, &'static str); 6] {
    [
        ("data.max_tokens", "8192"),
        ("optimizer.lr", lr),
        ("optimizer.betas", "[0.9, 0.95]"),
        ("optimizer.eps", "1e-8"),
        ("schedule.kind", "'constant'"),
        ("schedule.warmup_ratio", "0.03"),
    ]
}

const fn code_qwen_chat(lr: &'static str) -> [(&'static str, &'static str); 6] {
    [
        ("optimizer.lr", lr),
        ("optimizer.betas", "[0.9, 0.95]"),
        ("optimizer.eps", "1e-8"),
        ("schedule.kind", "'constant'"),
        ("schedule.warmup_ratio", "0.03"),
        ("schedule.warmup_kind", "'cosine'"),
    ]
}

fn at<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let (section, leaf) = key.split_once('.').unwrap();
    table.get(section)?.get(leaf)
}

fn value(text: &str) -> Value {
    toml::from_str::<Table>(&format!("value = {text}")).unwrap().remove("value").unwrap()
}

#[test]
fn the_reports_configs_state_all_of_its_numbers() {
    let files = tomls(&root().join("configs/report"));
    let names: Vec<_> = files.iter().map(|file| file.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    let mut expected: Vec<_> = REPORT.iter().chain(SPECIALISED).map(|(name, _)| *name).collect();
    expected.sort_unstable();
    assert_eq!(names, expected, "one file per stage and specialised model");
    for (name, numbers) in REPORT.iter().chain(SPECIALISED) {
        let file = root().join(format!("configs/report/{name}.toml"));
        let table: Table = toml::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        for (key, number) in *numbers {
            assert_eq!(at(&table, key), Some(&value(number)), "{key} of {name}.toml");
        }
    }
}

/// Keys of the report's configs that say where things are, not what is done.
const PLACES: [&str; 8] =
    ["model.path", "models.policy", "models.reward", "data.train", "data.prompts", "data.pretrain", "run.out", "stage"];

#[test]
fn the_reports_configs_mark_every_choice_of_ours() {
    for (name, numbers) in REPORT.iter().chain(SPECIALISED) {
        let text = std::fs::read_to_string(root().join(format!("configs/report/{name}.toml"))).unwrap();
        let mut section = String::new();
        for line in text.lines() {
            if let Some(header) = line.strip_prefix('[') {
                section = format!("{}.", header.split(']').next().unwrap());
            } else if let Some((key, rest)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
                let key = format!("{section}{}", key.trim());
                let reports = numbers.iter().any(|(number, _)| *number == key) || PLACES.contains(&key.as_str());
                let ours = rest.split_once('#').is_some_and(|(_, comment)| comment.contains("ours"));
                let by_report_with_note = reports && rest.contains("on every parameter: ours");
                assert!(reports != ours || by_report_with_note, "{name}.toml: is {key} the report's or ours? {line}");
            }
        }
    }
}

/// The steps and the rates of Code-Qwen's warm-up: 3 % of 21,458 steps, and 90 B tokens of rows of 8192.
#[test]
fn the_configs_of_code_qwen_say_what_their_comments_say() {
    for name in CODE_QWEN {
        let config: PretrainConfig =
            config::load(&root().join(format!("configs/report/{name}.toml")), &[], None).unwrap();
        let steps = config.train.steps.unwrap();
        assert_eq!(warmup_steps(&config.schedule, steps), 644); // 643.74
        let tokens = steps * (config.train.batch_size * config.data.max_tokens) as u64;
        assert!((90_000_000_000..90_005_000_000).contains(&tokens), "{tokens}");
    }
}

#[test]
fn the_defaults_are_the_reports_numbers() {
    fn defaults<C: Config>() -> Table {
        toml::from_str(&config::to_toml(&C::default())).unwrap()
    }
    for (name, numbers) in REPORT {
        let table = match *name {
            "pretrain" => defaults::<PretrainConfig>(),
            "sft" => defaults::<SftConfig>(),
            "ppo" => defaults::<PpoConfig>(),
            _ => defaults::<RmConfig>(),
        };
        for (key, number) in numbers.iter().filter(|(key, _)| *key != "model.dtype") {
            assert_eq!(at(&table, key), Some(&value(number)), "the default of {key} in {name}");
        }
    }
}

/// Defaults that the report does not give and that users rely on.
#[test]
fn the_other_defaults_stand() {
    let ppo: Table = toml::from_str(&config::to_toml(&PpoConfig::default())).unwrap();
    for (key, number) in [
        ("models.dtype", "'float32'"),
        ("data.max_prompt_tokens", "1024"),
        ("data.system", "'You are a helpful assistant.'"),
        ("data.shuffle", "true"),
        ("data.bad_rows", "'error'"),
        ("rollout.prompts_per_step", "64"),
        ("rollout.max_response_tokens", "512"),
        ("rollout.temperature", "1.0"),
        ("rollout.logprobs", "'full'"),
        ("rollout.missing_end", "'subtract'"),
        ("rollout.missing_end_value", "1.0"),
        ("ppo.steps", "1000"),
        ("ppo.epochs", "1"),
        ("ppo.microbatch_tokens", "8192"),
        ("ppo.cliprange", "0.2"),
        ("ppo.gamma", "1.0"),
        ("ppo.gae_lambda", "0.95"),
        ("ppo.whiten_advantages", "true"),
        ("ppo.grad_clip", "1.0"),
        ("ppo.seed", "0"),
        ("ptx.coef", "0.1"),
        ("ptx.tokens_per_ppo_token", "4.0"),
        ("run.device", "'auto'"),
        ("run.log_every", "1"),
        ("run.eval_every", "100"),
        ("run.save_every", "500"),
        ("run.keep", "3"),
    ] {
        assert_eq!(at(&ppo, key), Some(&value(number)), "{key} of ppo");
    }
    let sft: Table = toml::from_str(&config::to_toml(&SftConfig::default())).unwrap();
    let rm: Table = toml::from_str(&config::to_toml(&RmConfig::default())).unwrap();
    for (key, number) in [
        ("data.max_tokens", "2048"),
        ("data.shuffle", "true"),
        ("data.bad_rows", "'error'"),
        ("train.microbatch_tokens", "8192"),
        ("train.seed", "0"),
        ("schedule.warmup_kind", "'linear'"),
        ("schedule.min_lr_ratio", "0.1"),
    ] {
        assert_eq!(at(&sft, key), Some(&value(number)), "{key} of sft");
        assert_eq!(at(&rm, key), Some(&value(number)), "{key} of rm");
    }
    assert_eq!([&sft, &rm].map(|table| at(table, "schedule.warmup_ratio")), [None; 2]);
    assert_eq!(at(&rm, "schedule.warmup_steps"), Some(&value("0")));
    assert_eq!(at(&sft, "data.overlong"), Some(&value("'drop'")));
    assert_eq!(at(&rm, "optimizer.weight_decay"), Some(&value("0.0")));
    assert_eq!(at(&rm, "loss.margin"), Some(&value("false")));
    for coefficient in ["lm_coef", "center_coef", "label_smoothing"] {
        assert_eq!(at(&rm, &format!("loss.{coefficient}")), Some(&value("0.0")));
    }
}
