//! The reward model: preference model pretraining, then finetuning, on comparisons; its evaluation, and its use.
//!
//! A run reads its config ([`config`]), turns comparisons into tokens whose shared prefix is computed once ([`data`], [`rows`]), and
//! trains step by step ([`train`]) on the Bradley-Terry loss of scores read at the end token ([`loss`]). [`eval`] scores
//! held-out comparisons, [`verdict`] says whether to trust the accuracy, [`seen`] which pairs are not new to the model, [`survey`] what a run's data holds;
//! [`responses`] are scored without being compared.
//!
//! ```
//! use align_reward::loss::{LossParams, Pairs, reward_loss};
//! use tch::Tensor;
//!
//! // A pair whose chosen dialogue scores 1 more: −log σ(1).
//! let mut pairs = Pairs::new();
//! pairs.push_ranked(0..2);
//! let loss = reward_loss(&Tensor::from_slice(&[1.5f32, 0.5]), &pairs, 1, &LossParams::default());
//! assert!((loss.stats.loss - (1.0 + (-1f64).exp()).ln()).abs() < 1e-6);
//! assert_eq!((loss.stats.accuracy, loss.stats.margin), (1.0, 1.0));
//! ```

#![forbid(unsafe_code)]

mod checked;
pub mod config;
pub mod data;
mod doctor;
pub mod eval;
pub mod loss;
mod plan;
mod replay;
pub mod responses;
pub mod rows;
pub mod seen;
mod stage;
pub mod stats;
pub mod survey;
pub mod train;
pub mod verdict;
mod written;

pub use checked::Rm;
