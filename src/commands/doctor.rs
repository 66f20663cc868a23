//! `align doctor`: checks the models, data and code that a config would train with.

use std::process::ExitCode;

use align_core::config::{self, Config};
use align_train::stage;
use align_train::stage::doctor::{Check, Diagnosis};
use anyhow::Result;
use serde_json::{Value, json};

use super::stages::{Stage, stage_of};
use crate::cli::DoctorArgs;
use crate::output::{print_line, table};
use crate::terminal::Terminal;

/// Checks the stage that the config is for.
pub(crate) fn run(args: DoctorArgs) -> Result<ExitCode> {
    let mut terminal = Terminal::new();
    let Diagnosis { outset, checks } = match stage_of(&args.config)? {
        Stage::Ppo => stage::doctor::<align_ppo::Ppo>(&load(&args)?, &mut terminal)?,
        Stage::Rm => stage::doctor::<align_reward::Rm>(&load(&args)?, &mut terminal)?,
        Stage::Sft => stage::doctor::<align_sft::Sft>(&load(&args)?, &mut terminal)?,
        Stage::Pretrain => stage::doctor::<align_sft::Pretrain>(&load(&args)?, &mut terminal)?,
    };
    let faults = checks.iter().filter(|check| !check.passed).count();
    if args.json {
        let of = |check: &Check| json!({ "check": check.name, "measured": check.measured, "expected": check.expected, "sound": check.passed });
        let all = json!({
            "faults": faults, "starts_from": outset.starts_from, "warnings": outset.warnings,
            "checks": checks.iter().map(of).collect::<Vec<Value>>(),
        });
        print_line(&all.to_string());
    } else {
        print_line(&format!("starts from: {}", outset.starts_from));
        let mut findings = table(&["", "check", "measured", "expected"]);
        for check in &checks {
            let verdict = if check.passed { "ok" } else { "FAULT" };
            findings.add_row([verdict, check.name, &check.measured, &check.expected]);
        }
        print_line(&findings.to_string());
        outset.lines().for_each(|line| print_line(&line));
        print_line(&match faults {
            0 => format!("{} checks, no fault", checks.len()),
            _ => format!("{} checks, {faults} faults: do not train with this before they are explained", checks.len()),
        });
    }
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn load<C: Config>(args: &DoctorArgs) -> Result<C> {
    // Nothing is written, so a run folder is not needed.
    let nowhere = std::path::Path::new("doctor");
    Ok(config::load(&args.config, &args.sets, Some(nowhere))?)
}
