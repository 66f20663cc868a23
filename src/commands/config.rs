//! `align config`: the keys of a stage, as TOML to start from or as Markdown to read.

use std::process::ExitCode;

use align_core::config::{self, Config};
use align_ppo::config::PpoConfig;
use align_reward::config::RmConfig;
use align_sft::config::{PretrainConfig, SftConfig};
use anyhow::Result;
use clap::ValueEnum;

use crate::cli::{ConfigArgs, ConfigStage};
use crate::output::print;

/// Prints the keys of a stage, or of all of them, with their defaults and meanings.
pub(super) fn run(args: ConfigArgs) -> Result<ExitCode> {
    let stages = args.stage.as_ref().map_or(ConfigStage::value_variants(), std::slice::from_ref);
    let show = |stage: &ConfigStage| match stage {
        ConfigStage::Pretrain => shown::<PretrainConfig>("pretrain", args.markdown),
        ConfigStage::Sft => shown::<SftConfig>("sft", args.markdown),
        ConfigStage::Rm => shown::<RmConfig>("rm", args.markdown),
        ConfigStage::Ppo => shown::<PpoConfig>("ppo", args.markdown),
    };
    print(&stages.iter().map(show).collect::<Vec<_>>().join("\n"));
    Ok(ExitCode::SUCCESS)
}

fn shown<C: Config>(stage: &str, markdown: bool) -> String {
    if markdown {
        return config::to_markdown::<C>(stage);
    }
    let required = config::required_keys::<C>().join(", ");
    let defaults = config::to_toml(&C::default());
    format!("# Every key of align {stage} with its default. Required: {required}.\n\n{}", defaults.trim_start())
}
