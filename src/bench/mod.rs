//! `align bench`: the speed of every stage on this machine, as a fraction of the machine's peak.
//!
//! A job is the command itself, as a child process with a generated config: [`jobs`] runs it and reads its
//! metrics.jsonl. So a real run is measured, and peak memory is that of the job. [`useful`] counts the
//! operations that the rows require, and [`ceilings`] measures the machine's peak, in the same run.

mod ceilings;
mod jobs;
mod table;
mod useful;

use align_kernels::HOST;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use align_core::config::Dtype;
use align_core::config::Overlong;
use align_core::error::{Error, Problems};
use align_core::process_memory;
use align_core::progress::{Progress, Silent};
use align_data::{self as data, BadRows, Batches, Length, Order, Prompt};
use align_model::contract::ScoreContract;
use align_model::{ModelOptions, ScalarModel};
use align_reward::data::Row;
use align_text::chatml::{ChatFormat, Dialogue, LossOn, Message, SYSTEM};
use align_tokens::{Cache, LmRow, Reading};
use align_train::stage::{Source, check_causal_lm, check_format};
use anyhow::Result;
use serde_json::{Value, json};

use ceilings::{Ceilings, Probe};
use jobs::JobFiles;
use table::Measured;
use useful::Model;

use crate::cli::{BenchArgs, BenchJob};
use crate::output::print_line;
use crate::program;
use crate::supervise::Supervisor;
use crate::terminal::Terminal;

/// Dialogues, comparisons or prompts per step.
const BATCH: usize = 8;
/// Longer dialogues are left out.
const MAX_TOKENS: usize = 512;
/// Maximum length of a response of ppo and generate.
const RESPONSE_TOKENS: usize = 64;
/// The length of the prompts of ppo and generate; if there are too few for a batch, shorter ones are used as
/// well.
const PROMPT_TOKENS: std::ops::RangeInclusive<usize> = 64..=128;
/// The number of runs of `generate`.
const GENERATE_RUNS: usize = 3;

/// Runs the jobs and prints the results.
pub(crate) fn run(args: BenchArgs) -> Result<ExitCode> {
    let subjects = check(&args)?;
    let folder = Folder::open(args.out.as_deref())?;
    let supervisor = Supervisor::start()?;
    let mut terminal = Terminal::new();
    terminal.note("measuring the peak performance of this machine");
    let dtypes: Vec<Dtype> = args.dtype.iter().map(|dtype| Dtype::from(*dtype)).collect();
    // `generate` always computes in float32.
    let mut all = vec![Dtype::Float32];
    all.extend(dtypes.iter().filter(|dtype| **dtype != Dtype::Float32));
    let probe = Probe::choose(&all);
    let measured = vec![probe.measure()];
    let mut bench = Bench {
        args: &args,
        dtypes,
        out: &folder.path,
        supervisor: &supervisor,
        terminal,
        probe: &probe,
        measured,
        rows: Vec::new(),
    };
    for subject in &subjects {
        if !bench.measure(subject)? {
            return Ok(ExitCode::from(supervisor.exit_code()));
        }
    }
    let Bench { rows, measured, .. } = bench;
    if args.json {
        let rows: Vec<Value> = rows.iter().map(Measured::to_json).collect();
        let report = json!({
            "program": program(), "threads": tch::get_num_threads(), "ceilings": probe.to_json(&measured), "rows": rows,
        });
        print_line(&report.to_string());
    } else {
        table::print(&rows, &probe, &measured);
    }
    Ok(ExitCode::SUCCESS)
}

/// A model, and the rows that its jobs will use, in their order.
struct Subject {
    name: String,
    dir: PathBuf,
    model: Model,
    format: ChatFormat,
    longest: usize,
    dialogues: Vec<LmRow>,
    comparisons: Vec<Row>,
    prompts: Vec<(Dialogue, usize)>,
}

/// Reads the models' headers and the data, and reports all problems together.
fn check(args: &BenchArgs) -> Result<Vec<Subject>> {
    let mut problems = Problems::new();
    if args.steps == 0 {
        problems.push("--steps", "is 0, expected at least 1");
    }
    if args.ppo_epochs == 0 {
        problems.push("--ppo-epochs", "is 0, expected at least 1");
    }
    if args.batches.contains(&0) {
        problems.push("--batches", "has 0, expected at least 1");
    }
    let mut subjects: Vec<Subject> = Vec::new();
    for dir in &args.models {
        let Some(source) = check_causal_lm(dir, &mut problems)? else { continue };
        let Some(format) = check_format(dir, Some(&source), SYSTEM, &mut problems)? else { continue };
        let subject = read(args, dir, source, format, &mut problems)?;
        if subjects.iter().any(|other| other.name == subject.name) {
            problems.push("--models", format!("two folders are called {}, expected different names", subject.name));
        }
        subjects.push(subject);
    }
    problems.into_result()?;
    Ok(subjects)
}

fn read(args: &BenchArgs, dir: &Path, source: Source, format: ChatFormat, problems: &mut Problems) -> Result<Subject> {
    let config = &source.header.config;
    let longest = MAX_TOKENS.min(config.max_position_embeddings as usize);
    let runs = |jobs: &[BenchJob]| args.jobs.iter().any(|job| jobs.contains(job));
    let mut subject = Subject {
        name: dir
            .canonicalize()
            .unwrap_or_else(|_| dir.to_owned())
            .file_name()
            .map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned()),
        dir: dir.to_owned(),
        model: Model::new(config),
        format,
        longest,
        dialogues: Vec::new(),
        comparisons: Vec::new(),
        prompts: Vec::new(),
    };
    if runs(&[BenchJob::Sft]) {
        let (files, limit) = ([args.data.join("sft.jsonl")], Some((longest, Overlong::Drop)));
        let mut reading = Reading { bad_rows: BadRows::Error, cache: Cache::Off, progress: &mut Silent };
        let rows = align_tokens::chat_rows(&files, &subject.format, LossOn::Assistant, limit, &mut reading);
        subject.dialogues = problems.absorb(rows)?.map_or_else(Vec::new, |data| data.rows.iter().collect());
    }
    if runs(&[BenchJob::Rm]) {
        let files = [args.data.join("preferences.jsonl")];
        let rows = align_reward::data::read(&files, &subject.format, Some(longest), BadRows::Error);
        subject.comparisons = problems.absorb(rows)?.map_or_else(Vec::new, |data| data.rows);
    }
    if runs(&[BenchJob::Ppo, BenchJob::Generate]) {
        let file = args.data.join("prompts.jsonl");
        let unchanged = |_: &data::RowLocation, prompt: Prompt| Ok(prompt);
        let rows = problems.absorb(data::read_rows(std::slice::from_ref(&file), BadRows::Error, &unchanged))?;
        subject.prompts = rows.map_or_else(Vec::new, |rows| prompts(rows.records, &subject.format));
        let needed = BATCH.max(args.batches.iter().copied().max().unwrap_or(0));
        if problems.is_empty() && subject.prompts.len() < needed {
            let (there, most) = (subject.prompts.len(), PROMPT_TOKENS.end());
            problems.push(file.display(), format!("has {there} prompts of at most {most} tokens, expected {needed}"));
        }
    }
    Ok(subject)
}

/// The prompts of the measured length, in order, with their number of tokens.
fn prompts(rows: Vec<(data::RowLocation, Prompt)>, format: &ChatFormat) -> Vec<(Dialogue, usize)> {
    let with_length = |(_, Prompt(dialogue))| {
        let tokens = format.prompt(&dialogue).ok()?.len();
        Some((dialogue, tokens))
    };
    let mut prompts: Vec<_> =
        rows.into_iter().filter_map(with_length).filter(|(_, tokens)| tokens <= PROMPT_TOKENS.end()).collect();
    if prompts.iter().filter(|(_, tokens)| PROMPT_TOKENS.contains(tokens)).count() >= BATCH {
        prompts.retain(|(_, tokens)| PROMPT_TOKENS.contains(tokens));
    }
    prompts
}

/// The rows of a step, in the order of `data.shuffle = false`.
fn taken<T>(rows: &[T], step: u64) -> Vec<&T> {
    let batches = Batches::new(Order::new(&[rows.len()], None, None), BATCH, Length::Steps(step + 1));
    batches.rows(step).map(|row| &rows[row]).collect()
}

struct Bench<'a> {
    args: &'a BenchArgs,
    dtypes: Vec<Dtype>,
    out: &'a Path,
    supervisor: &'a Supervisor,
    terminal: Terminal,
    probe: &'a Probe,
    /// The ceilings at the start and after each job.
    measured: Vec<Ceilings>,
    rows: Vec<Measured>,
}

impl Bench<'_> {
    /// Runs all jobs of a model; false if asked to stop.
    fn measure(&mut self, subject: &Subject) -> Result<bool> {
        for job in &self.args.jobs {
            let goes_on = match job {
                BenchJob::Generate => self.generate(subject)?,
                job => self.stage(subject, *job)?,
            };
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Runs a stage in every dtype.
    fn stage(&mut self, subject: &Subject, job: BenchJob) -> Result<bool> {
        for dtype in self.dtypes.clone() {
            let data = |file: &str| self.args.data.join(file);
            let (stage, warm_up, config) = match job {
                BenchJob::Sft => ("sft", 2, jobs::sft_config(&subject.dir, dtype, &data("sft.jsonl"), subject.longest)),
                BenchJob::Rm => {
                    ("rm", 2, jobs::rm_config(&subject.dir, dtype, &data("preferences.jsonl"), subject.longest))
                }
                BenchJob::Ppo | BenchJob::Generate => {
                    let (reward, prompts) =
                        (self.reward_model(subject)?, self.prompts(subject, "ppo", subject.prompts.len())?);
                    ("ppo", 1, jobs::ppo_config(&subject.dir, &reward, dtype, &prompts, self.args.ppo_epochs))
                }
            };
            let steps = warm_up + self.args.steps;
            let files = self.job_files(subject, &format!("{stage}-{}", jobs::name(dtype)));
            let Some(lines) = jobs::run_stage(&files, stage, &config, steps)? else { return Ok(false) };
            let mut row = self.row(subject, stage, dtype, BATCH);
            row.first_loss = lines[0]["train/loss"].as_f64();
            for (step, line) in lines.iter().enumerate().skip(warm_up) {
                row.peak(line["memory/peak_gib"].as_f64());
                self.add_step(&mut row, subject, job, step as u64, line);
            }
            self.push(row);
        }
        Ok(true)
    }

    /// Adds a step's time and work, from its rows.
    fn add_step(&self, row: &mut Measured, subject: &Subject, job: BenchJob, step: u64, line: &Value) {
        let number = |key: &str| line[key].as_f64().unwrap_or(f64::NAN);
        let seconds = number("time/step");
        match job {
            BenchJob::Sft => {
                let rows = taken(&subject.dialogues, step);
                let tokens: usize = rows.iter().map(|row| row.len()).sum();
                row.step(seconds, subject.model.sft(&rows));
                row.rate("tokens_per_second", tokens as f64 / seconds);
            }
            BenchJob::Rm => {
                let rows = taken(&subject.comparisons, step);
                let tokens: usize = rows.iter().map(|row| row.len_unshared()).sum();
                row.step(seconds, subject.model.rm(&rows));
                row.rate("tokens_per_second", tokens as f64 / seconds);
                row.rate("pairs_per_second", BATCH as f64 / seconds);
            }
            BenchJob::Ppo | BenchJob::Generate => {
                let lengths: Vec<usize> =
                    taken(&subject.prompts, step).into_iter().map(|(_, tokens)| *tokens).collect();
                let response = number("response/tokens").round() as usize;
                row.step(seconds, subject.model.ppo(&lengths, response, self.args.ppo_epochs));
                row.rate("episodes_per_second", BATCH as f64 / seconds);
                for phase in ["rollout", "score", "update"] {
                    row.rate(&format!("{phase}_seconds"), number(&format!("time/{phase}")));
                }
            }
        }
    }

    /// Measures sampling at every batch size; false if asked to stop.
    fn generate(&mut self, subject: &Subject) -> Result<bool> {
        for &batch in &self.args.batches {
            let prompts = self.prompts(subject, &format!("generate-{batch}"), batch)?;
            let lengths: Vec<usize> = subject.prompts[..batch].iter().map(|(_, tokens)| *tokens).collect();
            let mut row = self.row(subject, "generate", Dtype::Float32, batch);
            for run in 0..GENERATE_RUNS {
                let files = self.job_files(subject, &format!("generate-{batch}-{run}"));
                let Some(said) = jobs::run_generate(&files, &subject.dir, &prompts)? else { return Ok(false) };
                let number = |key: &str| said[key].as_f64().unwrap_or(f64::NAN);
                let (seconds, tokens) = (number("seconds"), number("tokens"));
                let response = (tokens / batch as f64).round() as usize;
                row.peak(said["peak_gib"].as_f64());
                row.step(seconds, subject.model.generate(&lengths, response));
                row.rate("tokens_per_second", tokens / seconds);
                let decoding = seconds - number("first_token_seconds");
                row.rate("bytes_per_second", subject.model.decoding(&lengths, response) / decoding);
            }
            self.push(row);
        }
        Ok(true)
    }

    /// A row without steps.
    fn row(&self, subject: &Subject, job: &'static str, dtype: Dtype, batch: usize) -> Measured {
        let before = self.measured.last().expect("measured at the start");
        Measured::new(&subject.name, subject.model.num_parameters(), job, dtype, batch, before)
    }

    /// Adds a row whose job has just ended.
    fn push(&mut self, mut row: Measured) {
        let after = self.probe.measure();
        row.after(&after);
        self.measured.push(after);
        self.rows.push(row);
    }

    fn job_files(&mut self, subject: &Subject, job: &str) -> JobFiles<'_> {
        let name = format!("{}-{job}", subject.name);
        self.terminal.note(&name);
        JobFiles { out: self.out, name, supervisor: self.supervisor }
    }

    /// Writes a file with the first prompts, for a job.
    fn prompts(&self, subject: &Subject, job: &str, count: usize) -> Result<PathBuf> {
        let path = self.out.join(format!("{}-{job}-prompts.jsonl", subject.name));
        let line = |(dialogue, _): &(Dialogue, usize)| {
            let messages: Vec<_> = dialogue.messages.iter().map(Message::to_json).collect();
            json!({ "prompt": messages, "tools": dialogue.tools }).to_string() + "\n"
        };
        let text: String = subject.prompts[..count].iter().map(line).collect();
        fs::write(&path, text).map_err(Error::io(&path))?;
        Ok(path)
    }

    /// Writes a reward model of the subject's size: its weights with a new head.
    fn reward_model(&self, subject: &Subject) -> Result<PathBuf> {
        let folder = self.out.join(format!("{}-reward", subject.name));
        if !folder.exists() {
            let options =
                ModelOptions { device: HOST, compute: tch::Kind::Float, trainable: false, recompute_layers: false };
            ScalarModel::load(&subject.dir, &options, 0)?.save(&folder)?;
            ScoreContract::new(&subject.format).write(&folder)?;
            process_memory::trim_malloc();
        }
        Ok(folder)
    }
}

/// The folder for configs, run folders and reward models: the user's, or a temporary one.
struct Folder {
    path: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl Folder {
    fn open(out: Option<&Path>) -> Result<Self> {
        let Some(out) = out else {
            let temporary = tempfile::Builder::new().prefix("align-bench-").tempdir();
            let temporary = temporary.map_err(Error::io(&std::env::temp_dir()))?;
            return Ok(Self { path: temporary.path().to_owned(), _temporary: Some(temporary) });
        };
        let occupied = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
        if occupied || out.is_file() {
            let what = "is not empty, expected an empty or new folder; give another --out";
            return Err(Error::invalid(out.display(), what).into());
        }
        fs::create_dir_all(out).map_err(Error::io(out))?;
        Ok(Self { path: out.to_owned(), _temporary: None })
    }
}
