//! `align plan`: estimates memory by phase and part, the largest microbatch that fits, and the time per step,
//! without loading a model.

use align_kernels::HOST;
use std::process::ExitCode;
use std::time::Instant;

use align_core::config::{self, Config};
use align_core::process_memory;
use align_train::footprint::{Phase, StepEstimate};
use align_train::stage;
use anyhow::Result;
use comfy_table::TableComponent;
use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use super::stages::{Stage, stage_of};
use crate::cli::PlanArgs;
use crate::output::{align_right, print_line, table};
use crate::terminal::Terminal;

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// Memory of a training process beyond this one, whatever it trains: kernels that libtorch creates on first
/// use, threads, event files. Measured.
const PROGRAM: u64 = 60 << 20;

/// Estimates the stage that the config is for.
pub(crate) fn run(args: PlanArgs) -> Result<ExitCode> {
    let mut terminal = Terminal::new();
    let outline = match stage_of(&args.config)? {
        Stage::Ppo => stage::plan::<align_ppo::Ppo>(&load(&args)?, &mut terminal)?,
        Stage::Rm => stage::plan::<align_reward::Rm>(&load(&args)?, &mut terminal)?,
        Stage::Sft => stage::plan::<align_sft::Sft>(&load(&args)?, &mut terminal)?,
        Stage::Pretrain => stage::plan::<align_sft::Pretrain>(&load(&args)?, &mut terminal)?,
    };
    // Program, tokenizer and data are in memory now, as they will be in training; what the measurement of the
    // machine allocates is not.
    let beside = process_memory::current_rss() + PROGRAM;
    let machine = Machine::measure(outline.compute);
    let available = args.memory.map_or_else(total_memory, |gib| (gib * GIB) as u64);
    let mut phases = (outline.phases)(outline.microbatch_tokens);
    for phase in &mut phases {
        phase.parts.insert(0, ("program and data", beside));
    }
    let seconds: Vec<f64> = phases.iter().map(|phase| machine.seconds(phase)).collect();
    let largest = outline.largest(available.saturating_sub(beside));
    if args.json {
        print_line(&as_json(&outline, &phases, &seconds, available, largest).to_string());
    } else {
        print(&outline, &phases, &seconds, available, largest);
    }
    Ok(ExitCode::SUCCESS)
}

fn load<C: Config>(args: &PlanArgs) -> Result<C> {
    // Nothing is written, so a run folder is not needed.
    Ok(config::load(&args.config, &args.sets, Some(std::path::Path::new("plan")))?)
}

/// The measured speed of this machine.
struct Machine {
    /// Floating-point operations per second in a large matmul.
    rate: f64,
    /// Bytes read or written per second.
    bandwidth: f64,
}

impl Machine {
    fn measure(compute: Kind) -> Self {
        const SIZE: i64 = 1024;
        const ELEMENTS: i64 = 1 << 25;
        let factor = Tensor::ones([SIZE, SIZE], (compute, HOST));
        let product = best_of(|| drop(factor.mm(&factor)));
        let mut long = Tensor::ones([ELEMENTS], (Kind::Float, HOST));
        let pass = best_of(|| drop(long.g_mul_scalar_(1.0)));
        Self { rate: 2.0 * (SIZE as f64).powi(3) / product, bandwidth: 2.0 * 4.0 * ELEMENTS as f64 / pass }
    }

    fn seconds(&self, phase: &Phase) -> f64 {
        phase.flops / self.rate + phase.traffic / self.bandwidth
    }
}

fn best_of(mut work: impl FnMut()) -> f64 {
    const TIMES: usize = 5;
    let time = |()| {
        let started = Instant::now();
        work();
        started.elapsed().as_secs_f64()
    };
    std::iter::repeat_n((), TIMES).map(time).fold(f64::INFINITY, f64::min)
}

fn total_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("MemTotal:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn as_json(outline: &StepEstimate, phases: &[Phase], seconds: &[f64], available: u64, largest: Option<usize>) -> Value {
    let phases: Vec<Value> = phases
        .iter()
        .zip(seconds)
        .map(|(phase, seconds)| {
            let parts: Map<String, Value> =
                phase.parts.iter().map(|(part, bytes)| ((*part).to_owned(), json!(bytes))).collect();
            json!({ "phase": phase.name, "bytes": phase.bytes(), "parts": parts, "seconds": seconds })
        })
        .collect();
    json!({
        "stage": outline.stage,
        "starts_from": outline.outset.starts_from,
        "warnings": outline.outset.warnings,
        "microbatch_tokens": outline.microbatch_tokens,
        "peak_bytes": phases.iter().filter_map(|phase| phase["bytes"].as_u64()).max(),
        "step_seconds": seconds.iter().sum::<f64>(),
        "phases": phases,
        "memory_bytes": available,
        "largest_microbatch_tokens": largest,
    })
}

fn print(outline: &StepEstimate, phases: &[Phase], seconds: &[f64], available: u64, largest: Option<usize>) {
    let mut parts: Vec<&str> = Vec::new();
    for (part, _) in phases.iter().flat_map(|phase| &phase.parts) {
        if !parts.contains(part) {
            parts.push(part);
        }
    }
    let header: Vec<&str> = std::iter::once("GiB").chain(phases.iter().map(|phase| phase.name)).collect();
    let mut memory = table(&header);
    let gib = |bytes: u64| format!("{:.2}", bytes as f64 / GIB);
    for part in parts {
        let of = |phase: &Phase| {
            phase.parts.iter().find(|(own, _)| *own == part).map_or(String::new(), |(_, bytes)| gib(*bytes))
        };
        memory.add_row(std::iter::once(part.to_owned()).chain(phases.iter().map(of)));
    }
    memory.add_row(std::iter::once("together".to_owned()).chain(phases.iter().map(|phase| gib(phase.bytes()))));
    let time = |seconds: &f64| if *seconds > 0.0 { format!("{seconds:.2}") } else { String::new() };
    memory.add_row(std::iter::once("seconds per step".to_owned()).chain(seconds.iter().map(time)));
    memory.remove_style(TableComponent::HorizontalLines).remove_style(TableComponent::MiddleIntersections);
    print_line(&align_right(memory, 1).to_string());

    let peak = phases.iter().map(Phase::bytes).max().unwrap_or(0);
    print_line(&format!(
        "{}: at most {} GiB with {} = {}; a step takes about {:.1} s here",
        outline.stage,
        gib(peak),
        outline.key,
        outline.microbatch_tokens,
        seconds.iter().sum::<f64>()
    ));
    print_line(&match largest {
        Some(tokens) if tokens >= outline.step_tokens => {
            format!(
                "within {} GiB a whole step fits in one microbatch ({} tokens)",
                gib(available),
                outline.step_tokens
            )
        }
        Some(tokens) => format!("within {} GiB the largest is {} = {tokens}", gib(available), outline.key),
        None => format!(
            "{} GiB are not enough: recompute_layers saves half of the activations, models.frozen_dtype shrinks frozen models",
            gib(available)
        ),
    });
    print_line(&format!("starts from: {}", outline.outset.starts_from));
    outline.outset.lines().for_each(|line| print_line(&line));
}
