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
    let show = if args.markdown { as_markdown } else { as_toml };
    print(&stages.iter().map(show).collect::<Vec<_>>().join("\n"));
    Ok(ExitCode::SUCCESS)
}

fn as_markdown(stage: &ConfigStage) -> String {
    match stage {
        ConfigStage::Pretrain => config::to_markdown::<PretrainConfig>("pretrain"),
        ConfigStage::Sft => config::to_markdown::<SftConfig>("sft"),
        ConfigStage::Rm => config::to_markdown::<RmConfig>("rm"),
        ConfigStage::Ppo => config::to_markdown::<PpoConfig>("ppo"),
    }
}

fn as_toml(stage: &ConfigStage) -> String {
    match stage {
        ConfigStage::Pretrain => commented::<PretrainConfig>("pretrain"),
        ConfigStage::Sft => commented::<SftConfig>("sft"),
        ConfigStage::Rm => commented::<RmConfig>("rm"),
        ConfigStage::Ppo => commented::<PpoConfig>("ppo"),
    }
}

/// The default config as TOML, with comments.
fn commented<C: Config>(stage: &str) -> String {
    let required = config::required_keys::<C>().join(", ");
    let defaults = config::to_toml(&C::default());
    format!("# Every key of align {stage} with its default. Required: {required}.\n\n{}", defaults.trim_start())
}
