//! The start of a run: what it needs, what is checked first, and what a resumed run takes from its folder.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::{Map, Value};

use super::Run;
use super::best::EvalLosses;
use super::folder::{self, CHECKPOINTS, CONFIG, METRICS, SAMPLES, TENSORBOARD};
use super::past::{Clock, History, RunState};
use crate::checkpoint;
use crate::metrics::{self, Lines, Shown, TensorBoard};
use align_core::atomic_files::write_atomic;
use align_core::clock;
use align_core::config::RunSection;
use align_core::error::{Error, Result};
use align_core::folder_lock::lock_folder;

/// What a run needs to start.
#[derive(Debug)]
pub struct Spec<'a> {
    /// `[run]`.
    pub section: &'a RunSection,
    /// The resolved config as TOML, from [`align_core::config::to_toml`].
    pub config: &'a str,
    /// Whether to resume a run in the folder.
    pub resume: bool,
    /// Steps of the whole run.
    pub steps: u64,
    /// The metadata for run.json: version, commit, libtorch, device, seed, parameter and row counts.
    /// `inputs`, the [`super::fingerprints`] of data and weights, must be equal across a resume.
    pub facts: Map<String, Value>,
    /// Set by the binary when the run is asked to stop.
    pub interrupt: Arc<AtomicBool>,
}

/// A run that is ready to start, or one that has nothing left to do.
#[derive(Debug)]
pub enum Started {
    /// The run is ready.
    Ready(Box<Run>),
    /// The folder has a finished run.
    Finished {
        /// Steps done.
        step: u64,
    },
}

/// The result of [`preflight`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preflight {
    /// A new run would start at step 0.
    Fresh,
    /// A resumed run would continue after this step.
    Resume {
        /// Steps done.
        step: u64,
    },
    /// The folder has a finished run.
    Finished {
        /// Steps done.
        step: u64,
    },
}

/// Checks the folder without changing anything: for `--dry-run`, and to refuse a folder before a model is
/// loaded.
///
/// # Errors
/// [`Error::Invalid`] when [`Run::start`] would refuse; the lock is not checked.
pub fn preflight(
    out: &Path,
    resume: bool,
    config: &str,
    steps: Option<u64>,
    facts: &Map<String, Value>,
) -> Result<Preflight> {
    if out.exists() && !out.is_dir() {
        return Err(Error::invalid(out.display(), "is a file, expected a folder to write the run into"));
    }
    if let Some(file) = out.ancestors().skip(1).find(|above| above.is_file()) {
        let what = format!("is below {}, which is a file; expected a folder to write the run into", file.display());
        return Err(Error::invalid(out.display(), what));
    }
    if resume {
        folder::check_resume(out, config, facts)?;
    } else {
        folder::check_unused(out)?;
    }
    if let Some(step) = folder::finished(out, config, steps)? {
        return Ok(Preflight::Finished { step });
    }
    Ok(match folder::newest(out)? {
        Some((step, _)) => Preflight::Resume { step },
        None => Preflight::Fresh,
    })
}

/// The planned number of steps of the run in a folder; `None` if there is no run.
///
/// # Errors
/// [`Error::Invalid`] when its run.json is damaged.
pub fn planned_steps(out: &Path) -> Result<Option<u64>> {
    Ok(folder::read_facts(out)?.get("steps").and_then(Value::as_u64))
}

impl Run {
    /// Locks the folder, and creates it or, to resume, truncates its files to the newest checkpoint. Called
    /// after data and checkpoint headers are checked and before a model is loaded, so that a refusal comes
    /// early.
    ///
    /// # Errors
    /// [`Error::Invalid`] when another process uses the folder, when it has a run that is not to be resumed
    /// or one with another config, and when the newest checkpoint is damaged; [`Error::Io`] when the folder
    /// cannot be written.
    pub fn start(spec: Spec<'_>) -> Result<Started> {
        let out = spec.section.out.clone();
        let lock = lock_folder(&out, "run.out")?;
        if spec.resume {
            folder::check_resume(&out, spec.config, &spec.facts)?;
        } else {
            folder::check_unused(&out)?;
        }
        let old = folder::read_facts(&out)?;
        if let Some(step) = folder::finished(&out, spec.config, Some(spec.steps))? {
            return Ok(Started::Finished { step });
        }
        folder::clean(&out)?;
        let from = folder::newest(&out)?;
        if let Some((step, path)) = &from {
            checkpoint::verify(path)?;
            if *step > spec.steps {
                let what = format!("is at step {step} already, expected at least that many steps, not {}", spec.steps);
                return Err(Error::invalid(out.display(), what));
            }
        }
        let next_step = from.as_ref().map_or(0, |(step, _)| *step);
        let run_state = from.as_ref().map(|(_, path)| RunState::read(path)).transpose()?;
        let seconds = run_state.as_ref().map_or(0.0, |state| state.seconds);
        let is_other_dtype = run_state.and_then(|state| state.result_dtype) != Some(spec.section.result_dtype);
        let models_are_due = from
            .as_ref()
            .is_some_and(|(step, path)| !checkpoint::has_models(path) || (is_other_dtype && *step == spec.steps));
        let was_last = old.get("steps").and_then(Value::as_u64) == Some(next_step);
        let extended = was_last && spec.steps > next_step;
        let history = History { next_step, extended, section: spec.section.clone() };
        let (metrics, samples, eval_losses) = cut_back(&out, &history)?;
        write_atomic(&out.join(CONFIG), spec.config.as_bytes())?;
        let facts = facts(old, spec.facts, spec.steps, next_step);
        let board = TensorBoard::create(&out.join(TENSORBOARD))?;
        let mut run = Run {
            section: spec.section.clone(),
            steps: spec.steps,
            facts,
            interrupt: spec.interrupt,
            stopping: false,
            from: from.map(|(_, path)| path),
            models_are_due,
            next_step,
            metrics,
            samples,
            board,
            clock: Clock::new(seconds, next_step),
            eval_losses,
            saving: None,
            _lock: lock,
            out,
        };
        let best = run.best()?;
        run.note_best(best.as_ref());
        folder::write_facts(&run.out, &run.facts)?;
        // In case the last process was killed before it did so.
        checkpoint::prune(&run.out.join(CHECKPOINTS), run.section.keep, best.map(|best| best.step))?;
        Ok(Started::Ready(Box::new(run)))
    }
}

/// Truncates metrics, samples and TensorBoard files to what the run keeps of them.
fn cut_back(out: &Path, history: &History) -> Result<(Lines, Lines, EvalLosses)> {
    let mut metrics = Lines::new(out.join(METRICS));
    let mut eval_losses = EvalLosses::default();
    metrics.retain(&mut |step, line| {
        let line = history.line(step, line)?;
        eval_losses.record(step, line.iter().map(|(name, value)| (name.as_str(), value.as_f64())));
        Some(line)
    })?;
    let mut samples = Lines::new(out.join(SAMPLES));
    samples.create()?;
    samples.retain(&mut |step, line| (history.keeps(step) && history.evaluated(step)).then_some(line))?;
    metrics::retain(&out.join(TENSORBOARD), &|step, shown| match shown {
        Shown::Scalar(name) => history.keeps_value(step, name),
        Shown::Picture => history.keeps(step) && history.evaluated(step),
    })?;
    Ok((metrics, samples, eval_losses))
}

/// The contents of run.json: the stage's metadata, and the run's start and resumptions.
fn facts(mut old: Map<String, Value>, new: Map<String, Value>, steps: u64, next_step: u64) -> Map<String, Value> {
    let now = clock::now();
    let mut resumed = match old.remove("resumed") {
        Some(Value::Array(times)) => times,
        _ => Vec::new(),
    };
    let started = match old.remove("started") {
        None => Value::from(now),
        Some(started) => {
            resumed.push(serde_json::json!({ "step": next_step, "time": now }));
            started
        }
    };
    let mut facts = new;
    facts.insert("steps".to_owned(), Value::from(steps));
    facts.insert("started".to_owned(), started);
    facts.insert("resumed".to_owned(), Value::Array(resumed));
    facts
}
