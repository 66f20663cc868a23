//! `align quickstart`: runs the whole recipe on a tiny world with known answers, and prints what each stage
//! gained.
//!
//! The stages are the same library calls as those of the commands, with configs/quickstart/*.toml. This
//! module adds the data, the measurement on held-out prompts, and its table. Benchmarks and comparison are
//! the commands `align eval tasks` and `align compare`, on files written here.

mod command;
mod comparison;
mod measure;
mod table;
mod tasks;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use align_core::config;
use align_core::error::Error;
use align_core::progress::Progress;
use align_ppo::config::PpoConfig;
use align_run::checkpoint;
use align_run::run::Outcome;
use align_train::stage::{self, Job};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::cli::{Command, QuickstartArgs};
use crate::program;
use crate::supervise::Supervisor;
use crate::terminal::Terminal;

const PRETRAIN: &str = include_str!("../../configs/quickstart/pretrain.toml");
const SFT: &str = include_str!("../../configs/quickstart/sft.toml");
const PMP: &str = include_str!("../../configs/quickstart/pmp.toml");
const RM: &str = include_str!("../../configs/quickstart/rm.toml");
const PPO: &str = include_str!("../../configs/quickstart/ppo.toml");

/// The stages whose models are compared, on tasks and by their responses.
const COMPARED: [&str; 3] = ["pretrain", "sft", "ppo"];

/// Runs every unfinished stage, measures the models, prints tables, and writes quickstart.json and the files
/// that they are computed from.
pub(crate) fn run(args: QuickstartArgs, run_command: RunCommand<'_>) -> Result<ExitCode> {
    let out = &args.out;
    claim(out, args.seed)?;
    let supervisor = Supervisor::start()?;
    let mut quickstart = Quickstart {
        out,
        seed: args.seed,
        steps: args.steps,
        supervisor: &supervisor,
        terminal: Terminal::new(),
        stages: Map::new(),
    };
    let (data, model) = (out.join("data"), out.join("data/model"));
    if !model.join("config.json").exists() {
        quickstart.terminal.note("writing the data and the tokenizer");
        let sets = align_datasets::write(&data, args.seed).context("the data cannot be written")?;
        align_datasets::write_model_folder(&model, &sets).context("the tiny model's folder cannot be written")?;
    }

    let stages: [(&str, &str, Stage); 6] = [
        ("pretrain", PRETRAIN, Stage::Pretrain),
        ("sft", SFT, Stage::Sft),
        ("pmp", PMP, Stage::Rm),
        ("rm", RM, Stage::Rm),
        ("ppo", PPO, Stage::Ppo { with_ptx: true }),
        ("ppo-without-ptx", PPO, Stage::Ppo { with_ptx: false }),
    ];
    for (name, toml, stage) in stages {
        if !quickstart.stage(name, toml, stage)? {
            return Ok(ExitCode::from(supervisor.exit_code()));
        }
    }

    let sets = quickstart.sets("ppo", Stage::Ppo { with_ptx: true });
    let config: PpoConfig = config::load_text("configs/quickstart/ppo.toml", PPO, &sets, None)?;
    let Quickstart { stages, mut terminal, .. } = quickstart;
    let measured = measure::measure(out, &config, stages, &mut terminal)?;
    let results = &measured.results;
    let path = out.join("quickstart.json");
    let text = serde_json::to_string_pretty(results).expect("results are plain data");
    fs::write(&path, text + "\n").map_err(Error::io(&path))?;
    table::print(results);
    tasks::show(out, &measured.prompts, args.seed, run_command)?;
    comparison::show(out, &measured, run_command)?;
    table::print_what_next(out);
    Ok(ExitCode::SUCCESS)
}

/// Runs another command of this program. It is passed in: `commands` imports this module.
pub(crate) type RunCommand<'a> = &'a dyn Fn(Command) -> Result<ExitCode>;

/// Prepares a folder that is new, or was started with the same seed.
fn claim(out: &Path, seed: u64) -> Result<()> {
    let mark = out.join("seed");
    match fs::read_to_string(&mark) {
        Ok(text) if text.trim() == seed.to_string() => return Ok(()),
        Ok(text) => {
            let what = format!("was created with seed {}, expected --seed {0} or another --out", text.trim());
            return Err(Error::invalid(out.display(), what).into());
        }
        Err(_) => {}
    }
    let occupied = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
    if occupied || out.is_file() {
        return Err(Error::invalid(
            out.display(),
            "is not a quickstart folder, expected an empty or new folder; give another --out",
        )
        .into());
    }
    fs::create_dir_all(out).map_err(Error::io(out))?;
    fs::write(&mark, format!("{seed}\n")).map_err(Error::io(&mark))?;
    Ok(())
}

/// A stage of the recipe.
#[derive(Clone, Copy)]
enum Stage {
    Pretrain,
    Sft,
    Rm,
    Ppo { with_ptx: bool },
}

struct Quickstart<'a> {
    out: &'a Path,
    seed: u64,
    /// Where stages are cut short.
    steps: Option<u64>,
    supervisor: &'a Supervisor,
    terminal: Terminal,
    /// The results of each stage, by name.
    stages: Map<String, Value>,
}

impl Quickstart<'_> {
    /// Runs or resumes a stage unless it is finished; false if it was interrupted.
    fn stage(&mut self, name: &str, toml: &str, stage: Stage) -> Result<bool> {
        let out = self.out.join(name);
        let sets = self.sets(name, stage);
        let started = Instant::now();
        let outcome = match stage {
            Stage::Pretrain => self.launch::<align_sft::Pretrain>(name, toml, &sets)?,
            Stage::Sft => self.launch::<align_sft::Sft>(name, toml, &sets)?,
            Stage::Rm => self.launch::<align_reward::Rm>(name, toml, &sets)?,
            Stage::Ppo { .. } => self.launch::<align_ppo::Ppo>(name, toml, &sets)?,
        };
        if matches!(outcome, Outcome::Interrupted { .. }) {
            self.terminal.note(&format!("stopped in {name}; the same command continues from there"));
            return Ok(false);
        }
        let report = report(&out, self.seed)?;
        let seconds = report["seconds"].as_f64().unwrap_or(0.0);
        let (loss, first) = (&report["loss"], &report["loss_at_start"]);
        let (loss, first) = (loss.as_f64().unwrap_or(f64::NAN), first.as_f64().unwrap_or(f64::NAN));
        let took = started.elapsed().as_secs_f64();
        self.terminal.note(&format!(
            "{name:>16}  loss {first:.3} → {loss:.3}  {:>4} steps  {seconds:.0} s ({took:.0} s now)",
            report["steps"]
        ));
        self.stages.insert(name.to_owned(), report);
        Ok(true)
    }

    fn launch<S: stage::Stage>(&mut self, name: &str, toml: &str, sets: &[String]) -> Result<Outcome> {
        let config: S::Config = config::load_text(&format!("configs/quickstart/{name}.toml"), toml, sets, None)?;
        let mut quiet = Quiet { terminal: &mut self.terminal, name };
        let job = Job {
            resume: true,
            dry_run: false,
            interrupt: self.supervisor.interrupt.clone(),
            progress: &mut quiet,
            program: program(),
        };
        Ok(stage::run::<S>(&config, job)?)
    }

    /// Overrides of a stage's config: its seed, and the paths to the results of earlier stages.
    fn sets(&self, name: &str, stage: Stage) -> Vec<String> {
        let path = |path: &str| self.out.join(path);
        let set = |key: &str, path: PathBuf| format!("{key}={}", toml::Value::String(path.display().to_string()));
        let before = match name {
            "pretrain" => "data/model",
            "rm" => "pmp/model",
            _ => "pretrain/model",
        };
        let mut sets = vec![set("run.out", path(name))];
        match stage {
            Stage::Pretrain | Stage::Sft | Stage::Rm => {
                let eval = if matches!(stage, Stage::Rm) { "validation-comparisons" } else { "validation-text" };
                sets.push(set("model.path", path(before)));
                sets.push(set("data.train", path(&format!("data/{name}.jsonl"))));
                if !matches!(stage, Stage::Sft) {
                    sets.push(set("data.eval", path(&format!("data/{eval}.jsonl"))));
                }
                sets.push(format!("train.seed={}", self.seed));
                sets.extend(self.steps.map(|steps| format!("train.steps={steps}")));
            }
            Stage::Ppo { with_ptx } => {
                sets.push(set("models.policy", path("sft/model")));
                sets.push(set("models.reward", path("rm/model")));
                sets.push(set("data.prompts", path("data/ppo.jsonl")));
                sets.push(set("data.eval_prompts", path("data/validation-prompts.jsonl")));
                sets.push(format!("ppo.seed={}", self.seed));
                let (steps, warmup) = self.steps.map_or_else(ppo_steps, |_| (2, 1));
                if self.steps.is_some() {
                    sets.extend([format!("run.save_every={warmup}"), format!("ppo.value_warmup_steps={warmup}")]);
                    sets.push(format!("ppo.steps={steps}"));
                }
                if with_ptx {
                    sets.push(set("data.pretrain", path("data/pretrain.jsonl")));
                } else {
                    // The same policy steps, starting from the value model that the first run has warmed up.
                    let warm = path("ppo/checkpoints").join(checkpoint::folder_name(warmup)).join("value");
                    sets.push(set("models.value", warm));
                    sets.push(format!("ppo.steps={}", steps - warmup));
                    sets.push("ppo.value_warmup_steps=0".to_owned());
                    sets.push("data.pretrain=[]".to_owned());
                    sets.push("ptx.coef=0.0".to_owned());
                }
            }
        }
        sets
    }
}

/// The steps of the first PPO run, and how many of them are value warm-up.
fn ppo_steps() -> (u64, u64) {
    let config: toml::Table = PPO.parse().expect("the embedded config is TOML");
    let number = |key: &str| config["ppo"][key].as_integer().expect("a number of steps") as u64;
    (number("steps"), number("value_warmup_steps"))
}

/// The statistics of a finished stage: steps, time, and the loss at its start and end (means of ten logged
/// steps).
fn report(out: &Path, seed: u64) -> Result<Value> {
    const STEPS: usize = 10;
    let path = out.join("metrics.jsonl");
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let lines: Vec<Value> =
        text.lines().map(serde_json::from_str).collect::<Result<_, _>>().context("metrics.jsonl")?;
    let last = lines.last().context("a finished stage has logged a step")?;
    let key = if last.get("train/loss").is_some() { "train/loss" } else { "value/loss" };
    let losses: Vec<f64> = lines.iter().filter_map(|line| line[key].as_f64()).collect();
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    Ok(json!({
        "seed": seed, "steps": last["step"], "seconds": last["seconds"], "loss_of": key,
        "loss_at_start": mean(&losses[..STEPS.min(losses.len())]),
        "loss": mean(&losses[losses.len().saturating_sub(STEPS)..]),
    }))
}

/// Shows a stage's progress under its name, without its config, which is in its run folder.
struct Quiet<'a> {
    terminal: &'a mut Terminal,
    name: &'a str,
}

impl Progress for Quiet<'_> {
    fn begin(&mut self, _what: &str, total: u64) {
        self.terminal.begin(self.name, total);
    }

    fn advance(&mut self, n: u64, note: &str) {
        self.terminal.advance(n, note);
    }

    fn end(&mut self) {
        self.terminal.end();
    }

    fn note(&mut self, _line: &str) {}
}
