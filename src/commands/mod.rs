//! One short function per subcommand.

mod chat;
mod compare;
mod config;
mod data;
mod doctor;
pub(crate) mod eval;
mod eval_rm;
mod eval_tasks;
mod execute;
mod generate;
mod html;
mod inputs;
mod inspect;
mod judge;
mod label_export;
mod lines;
mod page;
mod plan;
mod questions;
mod replay;
mod report;
mod score;
pub(crate) mod stages;
mod tools;

use std::process::ExitCode;

use align_core::error::Error;
use anyhow::Result;

use crate::cli::label::LabelCommand;
use crate::cli::{Command, Data, Eval, Inspect, Serve, Tools};

/// Runs a command.
pub(crate) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Quickstart(args) => crate::quickstart::run(args, &run),
        Command::Pretrain(args) => stages::run::<align_sft::Pretrain>(args),
        Command::Sft(args) => stages::run::<align_sft::Sft>(args),
        Command::Rm(args) => stages::run::<align_reward::Rm>(args),
        Command::Ppo(args) => stages::run::<align_ppo::Ppo>(args),
        Command::Config(args) => config::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Bench(args) => crate::bench::run(args),
        Command::Eval(Eval::Lm(args)) => eval::lm(args),
        Command::Eval(Eval::Rm(args)) => eval_rm::rm(args),
        Command::Eval(Eval::Tasks(args)) => eval_tasks::tasks(args),
        Command::Eval(Eval::Tools(args)) => tools::selection(args),
        Command::Eval(Eval::Code(args)) => tools::code(args),
        Command::Tools(Tools::Run(args)) => tools::run(args),
        Command::Score(args) => score::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Serve(Serve::Rm(args)) => crate::serve::rm(args),
        Command::Judge(args) => judge::run(args),
        Command::Label(args) => match (args.command, args.serve) {
            (Some(LabelCommand::Export(args)), _) => label_export::run(args),
            (None, Some(serve)) => crate::label::serve(&args.given, serve),
            (None, None) => Err(Error::invalid("arguments", "are missing, expected --items and --out").into()),
        },
        Command::Data(Data::Dedup(args)) => data::dedup(args),
        Command::Data(Data::Decontaminate(args)) => data::decontaminate(args),
        Command::Data(Data::Sample(args)) => data::sample(args),
        Command::Report(args) => report::run(args),
        Command::Inspect(Inspect::Data(args)) => inspect::data(args),
        Command::Inspect(Inspect::Model(args)) => inspect::model(args),
        Command::Inspect(Inspect::Run(args)) => inspect::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Chat(args) => chat::run(args),
    }
}
