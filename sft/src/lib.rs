//! Supervised finetuning on ChatML dialogues, and pretraining on plain text, with one training loop.
//!
//! A run reads its config ([`config`]), turns files into rows ([`data`]) and trains on them step by step
//! ([`train`]); the loss is the mean −log p over all targets of a batch ([`align_train::lm`]).
//!
//! ```
//! use align_core::config::load_text;
//! use align_sft::config::SftConfig;
//!
//! // Keys that the file omits have the report's values; `epochs` replaces the default of 4000 steps.
//! let file = "model.path = 'models/base'\ndata.train = 'sft.jsonl'\ntrain.epochs = 2\nrun.out = 'runs/sft'";
//! let config: SftConfig = load_text("sft.toml", file, &["optimizer.lr=1e-5".to_owned()], None).unwrap();
//! assert_eq!((config.train.batch_size, config.train.steps, config.train.epochs), (128, None, Some(2)));
//! assert_eq!((config.optimizer.lr, config.optimizer.betas), (1e-5, [0.9, 0.95]));
//!
//! let refused = load_text::<SftConfig>("sft.toml", "train.batchsize = 1", &[], None).unwrap_err();
//! assert!(refused.to_string().contains("did you mean train.batch_size?"));
//! ```

#![forbid(unsafe_code)]

mod checked;
pub mod config;
pub mod data;
mod doctor;
mod plan;
mod replay;
mod stage;
pub mod train;
mod written;

pub use stage::{LmData, LmStage, Pretrain, Sft};
