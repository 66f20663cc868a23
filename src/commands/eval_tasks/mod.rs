//! `align eval tasks`: benchmarks.

mod folder;
mod page;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use align_core::error::Problems;
use align_evaluation::answer::{EncodedTask, Subject, answer};
use align_evaluation::encode::{Encoder, Words};
use align_evaluation::records::{Records, judge};
use align_evaluation::results::{Paired, TaskResult, compare, summarize};
use align_evaluation::write::Drawing;
use align_model::{CausalLm, Family, ModelConfig, require_finite};
use align_tasks::task::{Ask, Task};
use align_tasks::{Preset, Request, Style};
use align_text::chatml::{ChatFormat, SYSTEM};
use align_train::stage::{Source, check_causal_lm, check_format, evaluation_options};
use anyhow::Result;
use serde_json::{Value, json};

use self::folder::Folder;
use super::eval::MICROBATCH_TOKENS;
use super::execute::Executor;
use super::lines::Lines;
use crate::cli::{EvalTasksArgs, PresetName};
use crate::output::{print_line, say};
use crate::terminal::Terminal;

/// Answers that are decoded at once.
const ROWS: usize = 64;

/// A model folder that passed every check, with the tasks as its tokens.
struct Model {
    dir: PathBuf,
    source: Source,
    format: Option<ChatFormat>,
    words: Words,
    context_length: usize,
    tasks: Vec<EncodedTask>,
}

/// Everything that was checked before a model loads.
struct Checked {
    tasks: Vec<Task>,
    models: Vec<Model>,
    executor: Option<Executor>,
}

/// The results of a command.
struct Report {
    /// By model.
    models: Vec<(PathBuf, Vec<TaskResult>)>,
    paired: Vec<Paired>,
    /// How programs were executed, when there were any.
    execution: Option<String>,
    seconds: f64,
    /// Of these, what the models took to answer.
    answer_seconds: f64,
}

/// Benchmarks of one or more models; two are also compared with each other.
pub(crate) fn tasks(args: EvalTasksArgs) -> Result<ExitCode> {
    let started = std::time::Instant::now();
    let Checked { tasks, models, mut executor } = check(&args)?;
    let folder = args.out.as_deref().map(|dir| Folder::open(dir, &args, &tasks, &models)).transpose()?;
    let mut html = args.html.as_deref().map(Lines::create).transpose()?;
    let mut terminal = Terminal::new();
    let mut results = Vec::new();
    let mut answering = std::time::Duration::ZERO;
    let mut records: Vec<Vec<Records>> = tasks.iter().map(|_| Vec::new()).collect();
    for (number, model) in models.iter().enumerate() {
        let loaded = CausalLm::load(&model.dir, &evaluation_options(args.dtype.into()))?;
        require_finite(&model.dir, loaded.parameters())?;
        let subject = Subject {
            model: &loaded,
            encoder: model.encoder(),
            drawing: args.drawing(),
            microbatch_tokens: MICROBATCH_TOKENS,
        };
        let mut of_model = Vec::new();
        for (at, (task, encoded)) in tasks.iter().zip(&model.tasks).enumerate() {
            let mut journal = Folder::journal(folder.as_ref(), number, &task.name)?;
            let asked = std::time::Instant::now();
            let answers = answer(&subject, task, encoded, &mut journal, &mut terminal)?;
            answering += asked.elapsed();
            let mut run = |programs| Executor::execute(executor.as_mut(), &task.name, programs, &mut terminal);
            let judged = judge(task, &subject.encoder, encoded, &answers, &mut run)?;
            if let Some(folder) = &folder {
                folder.write_records(number, &task.name, &judged)?;
            }
            of_model.push(summarize(task, &judged));
            records[at].push(judged);
        }
        results.push((model.dir.clone(), of_model));
    }
    let paired = tasks.iter().zip(&records).filter_map(|(task, records)| match &records[..] {
        [first, second] => Some(compare(task, first, second)),
        _ => None,
    });
    let report = Report {
        paired: paired.collect(),
        models: results,
        execution: executor.map(|executor| executor.describe()),
        seconds: started.elapsed().as_secs_f64(),
        answer_seconds: answering.as_secs_f64(),
    };
    finish(&args, &report, folder.as_ref(), &mut html)?;
    html.map_or(Ok(()), Lines::finish)?;
    Ok(ExitCode::SUCCESS)
}

fn finish(args: &EvalTasksArgs, report: &Report, folder: Option<&Folder>, html: &mut Option<Lines>) -> Result<()> {
    let json = report.json(args);
    if let Some(folder) = folder {
        folder.write_results(&json)?;
    }
    if let Some(html) = html {
        html.write_text(&page::render(args, report)?)?;
    }
    if args.json {
        let mut json = json;
        json["seconds"] = json!(report.seconds);
        json["answer_seconds"] = json!(report.answer_seconds);
        print_line(&json.to_string());
    } else {
        table::print(report);
    }
    Ok(())
}

fn check(args: &EvalTasksArgs) -> Result<Checked> {
    let mut problems = Problems::new();
    args.check(&mut problems);
    let mut tasks = Vec::new();
    for (at, name) in args.task.iter().enumerate() {
        let request = Request {
            name,
            data: args.data.as_deref(),
            shots: if args.shots.len() == 1 { args.shots.first() } else { args.shots.get(at) }.copied(),
            style: args.style(),
            preset: args.preset.into(),
        };
        if let Some(mut task) = problems.absorb(align_tasks::load(&request))? {
            args.restrict(&mut task);
            if tasks.iter().any(|other: &Task| folder::same_files(&other.name, &task.name)) {
                let what = format!("is called `{}`, as an earlier task, expected another name", task.name);
                problems.push(format!("--task {name}"), what);
            }
            tasks.push(task);
        }
    }
    let mut models = Vec::new();
    for dir in &args.model {
        models.extend(check_model(dir, args, &tasks, &mut problems)?);
    }
    let runs_programs = tasks.iter().any(Task::runs_programs);
    let executor = if runs_programs { problems.absorb(Executor::new(&args.execution))? } else { None };
    problems.into_result()?;
    Ok(Checked { tasks, models, executor })
}

fn check_model(dir: &Path, args: &EvalTasksArgs, tasks: &[Task], problems: &mut Problems) -> Result<Option<Model>> {
    let source = check_causal_lm(dir, problems)?;
    let format = if args.style() == Style::Chat {
        let Some(format) = check_format(dir, source.as_ref(), args.system(), problems)? else { return Ok(None) };
        Some(format)
    } else {
        None
    };
    let Some(source) = source else { return Ok(None) };
    let context_length = args.context.unwrap_or_else(|| trained_length(&source.header.config));
    let words = if args.preset == PresetName::LmEval { Words::Joined } else { Words::Apart };
    let mut model = Model { dir: dir.to_owned(), source, format, words, context_length, tasks: Vec::new() };
    for task in tasks {
        let answer = task.longest_answer();
        if answer >= context_length {
            let what = format!(
                "answers to {} may have {answer} tokens, and the model reads {context_length}; expected room for the prompt: lower --max-tokens",
                task.name
            );
            problems.push(dir.display(), what);
            continue;
        }
        let Some(encoded) = problems.absorb(EncodedTask::new(task, &model.encoder()))? else { return Ok(None) };
        if let cut @ 1.. = encoded.cut_prompts() {
            say(&format!(
                "warning: {}: {cut} prompts of {} are longer than the {context_length} tokens that the model reads; they lose their beginning",
                dir.display(),
                task.name,
            ));
        }
        model.tasks.push(encoded);
    }
    Ok(Some(model))
}

/// The number of tokens that a model was trained to read.
pub(super) fn trained_length(config: &ModelConfig) -> usize {
    let length = if config.family == Family::Qwen { config.seq_length } else { config.max_position_embeddings };
    length as usize
}

impl Model {
    fn encoder(&self) -> Encoder<'_> {
        let Self { source, format, words, context_length, .. } = self;
        Encoder {
            tokenizer: &source.tokenizer,
            format: format.as_ref(),
            words: *words,
            context_length: *context_length,
        }
    }
}

impl EvalTasksArgs {
    fn check(&self, problems: &mut Problems) {
        if self.shots.len() > 1 && self.shots.len() != self.task.len() {
            let (shots, tasks) = (self.shots.len(), self.task.len());
            problems.push("--shots", format!("has {shots} numbers for {tasks} tasks, expected one, or one for each"));
        }
        for (at, task) in self.task.iter().enumerate() {
            if self.task[..at].contains(task) {
                problems.push("--task", format!("{task} is given twice, expected each task once"));
            }
        }
        for (flag, number) in [("--limit", self.limit), ("--max-tokens", self.max_tokens), ("--context", self.context)]
        {
            if number == Some(0) {
                problems.push(flag, "is 0, expected at least 1");
            }
        }
        if self.samples == 0 {
            problems.push("--samples", "is 0, expected at least 1");
        }
        if self.samples > 1 && self.temperature == 0.0 {
            problems.push("--samples", "all answers are the same at --temperature 0, expected a temperature above 0");
        }
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            problems.push("--temperature", format!("is {}, expected at least 0", self.temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            problems.push("--top-p", format!("is {}, expected above 0 and at most 1", self.top_p));
        }
    }

    /// The system text of dialogues: that of the published scripts, or the chat template's.
    fn system(&self) -> &str {
        let of_preset = if self.preset == PresetName::Qwen { SYSTEM } else { "template" };
        self.system.as_deref().unwrap_or(of_preset)
    }

    fn drawing(&self) -> Drawing {
        let Self { samples, temperature, top_p, seed, .. } = *self;
        Drawing { samples, temperature, top_p, seed, rows: ROWS.max(samples) }
    }

    /// Applies --limit and --max-tokens.
    fn restrict(&self, task: &mut Task) {
        for part in &mut task.subjects {
            part.items.truncate(self.limit.unwrap_or(usize::MAX));
            for item in &mut part.items {
                if let (Ask::Generate { max_tokens, .. }, Some(longest)) = (&mut item.ask, self.max_tokens) {
                    *max_tokens = longest;
                }
            }
        }
    }

    /// What the results depend on, besides models and tasks.
    fn describe(&self) -> Value {
        json!({
            "preset": if Preset::from(self.preset) == Preset::Qwen { "qwen" } else { "lm-eval" },
            "style": if self.style() == Style::Chat { "chat" } else { "base" },
            "system": (self.style() == Style::Chat).then(|| self.system()),
            "limit": self.limit, "max_tokens": self.max_tokens, "context": self.context,
            "samples": self.samples, "temperature": self.temperature, "top_p": self.top_p, "seed": self.seed,
            "dtype": if matches!(self.dtype, crate::cli::ComputeDtype::Bfloat16) { "bfloat16" } else { "float32" },
        })
    }
}

impl Report {
    fn json(&self, args: &EvalTasksArgs) -> Value {
        let models = self.models.iter().map(|(dir, tasks)| json!({ "model": dir, "tasks": tasks }));
        let mut json = args.describe();
        json["models"] = models.collect();
        if self.models.len() > 1 {
            json["paired"] = json!(self.paired);
        }
        if let Some(execution) = &self.execution {
            json["execution"] = json!(execution);
        }
        json
    }
}
