//! Jobs: each runs a command of this binary with a generated config, and reads its metrics.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use align_core::config::Dtype;
use align_core::error::Error;
use anyhow::{Context, Result};
use serde_json::Value;

use super::{BATCH, MAX_TOKENS, RESPONSE_TOKENS};
use crate::supervise::Supervisor;

/// More steps than any job runs: it is stopped after the measured ones.
const ENDLESS: u64 = 1_000_000;

/// The name of a dtype in configs.
pub(super) fn name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Float32 => "float32",
        Dtype::Bfloat16 => "bfloat16",
    }
}

/// The location of a job's files.
pub(super) struct JobFiles<'a> {
    /// The folder for configs, run folders and the stderr of jobs.
    pub(super) out: &'a Path,
    /// The prefix of this job's files.
    pub(super) name: String,
    pub(super) supervisor: &'a Supervisor,
}

impl JobFiles<'_> {
    fn path(&self, suffix: &str) -> PathBuf {
        self.out.join(format!("{}{suffix}", self.name))
    }
}

pub(super) fn sft_config(model: &Path, dtype: Dtype, train: &Path, longest: usize) -> String {
    format!(
        "[model]\npath = {}\ndtype = \"{}\"\n\n[data]\ntrain = {}\nmax_tokens = {longest}\nshuffle = false\n\n\
         [train]\nbatch_size = {BATCH}\nsteps = {ENDLESS}\ndropout = 0.0\n\n[optimizer]\nlr = 1e-4\n\n\
         [schedule]\nwarmup_steps = 0\n",
        quoted(model),
        name(dtype),
        quoted(train)
    )
}

pub(super) fn rm_config(model: &Path, dtype: Dtype, train: &Path, longest: usize) -> String {
    format!(
        "stage = \"pmp\"\n\n[model]\npath = {}\ndtype = \"{}\"\n\n[data]\ntrain = {}\nmax_tokens = {longest}\nshuffle = false\n\n\
         [train]\nbatch_size = {BATCH}\nsteps = {ENDLESS}\n",
        quoted(model),
        name(dtype),
        quoted(train)
    )
}

pub(super) fn ppo_config(policy: &Path, reward: &Path, dtype: Dtype, prompts: &Path, epochs: u64) -> String {
    format!(
        "[models]\npolicy = {}\nreward = {}\ndtype = \"{}\"\n\n[data]\nprompts = {}\nmax_prompt_tokens = {MAX_TOKENS}\n\
         shuffle = false\n\n[rollout]\nprompts_per_step = {BATCH}\nresponses_per_prompt = 1\n\
         max_response_tokens = {RESPONSE_TOKENS}\n\n[ppo]\nsteps = {ENDLESS}\nvalue_warmup_steps = 0\nepochs = {epochs}\n\n\
         [ptx]\ncoef = 0.0\n",
        quoted(policy),
        quoted(reward),
        name(dtype),
        quoted(prompts)
    )
}

fn quoted(path: &Path) -> toml::Value {
    toml::Value::String(path.display().to_string())
}

/// Runs a stage until it has logged `steps` steps, then stops it: writing the result is not measured. `None`
/// if this program was asked to stop.
pub(super) fn run_stage(files: &JobFiles<'_>, stage: &str, config: &str, steps: usize) -> Result<Option<Vec<Value>>> {
    let (file, folder) = (files.path(".toml"), files.path(""));
    let config = format!(
        "{config}\n[run]\nout = {}\ndevice = \"cpu\"\neval_every = {ENDLESS}\nsave_every = {ENDLESS}\n",
        quoted(&folder)
    );
    fs::write(&file, config).map_err(Error::io(&file))?;
    let arguments = [stage.as_ref(), "--config".as_ref(), file.as_os_str()];
    let mut running = Running::start(files, &arguments, Stdio::null())?;
    loop {
        let lines = metrics(&folder.join("metrics.jsonl"))?;
        if lines.len() >= steps {
            return Ok(Some(lines.into_iter().take(steps).collect()));
        }
        if files.supervisor.interrupt.load(Ordering::SeqCst) {
            return Ok(None);
        }
        if running.has_ended()? {
            return Err(running.failure(files).into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The complete lines of a file that is being written; none if it does not exist yet.
fn metrics(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).context("a line of metrics.jsonl")).collect()
}

/// Runs `align generate` and returns its statistics. `None` if this program was asked to stop.
pub(super) fn run_generate(files: &JobFiles<'_>, model: &Path, prompts: &Path) -> Result<Option<Value>> {
    let (out, said) = (files.path(".jsonl"), files.path(".json"));
    let tokens = RESPONSE_TOKENS.to_string();
    let arguments = [
        "generate".as_ref(),
        "--model".as_ref(),
        model.as_os_str(),
        "--prompts".as_ref(),
        prompts.as_os_str(),
        "--out".as_ref(),
        out.as_os_str(),
        "--max-tokens".as_ref(),
        tokens.as_ref(),
        "--json".as_ref(),
    ];
    let stdout = fs::File::create(&said).map_err(Error::io(&said))?;
    let mut running = Running::start(files, &arguments, stdout.into())?;
    while !running.has_ended()? {
        if files.supervisor.interrupt.load(Ordering::SeqCst) {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let text = fs::read_to_string(&said).map_err(Error::io(&said))?;
    serde_json::from_str(&text).map(Some).map_err(|_| running.failure(files).into())
}

/// A child process, killed when this value is dropped.
struct Running(Child);

impl Running {
    fn start(files: &JobFiles<'_>, arguments: &[&std::ffi::OsStr], stdout: Stdio) -> Result<Self> {
        let log = files.path(".log");
        let stderr = fs::File::create(&log).map_err(Error::io(&log))?;
        let program = std::env::current_exe().context("this program cannot be found")?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        // The ceilings are those of the CPU, so `generate` must run on it, as the stages do.
        command.env("CUDA_VISIBLE_DEVICES", "");
        Ok(Self(command.spawn().context("a job cannot start")?))
    }

    fn has_ended(&mut self) -> Result<bool> {
        Ok(self.0.try_wait().context("a job cannot be waited for")?.is_some())
    }

    /// Why it ended early: the last line on its stderr.
    fn failure(&self, files: &JobFiles<'_>) -> Error {
        let said = fs::read_to_string(files.path(".log")).unwrap_or_default();
        let last = said.lines().last().unwrap_or("no message");
        Error::Failed(format!("{} ended early: {}", files.name, last.trim_start_matches("align: ")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
