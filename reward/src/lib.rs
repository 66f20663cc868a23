//! The reward model: preference model pretraining, then finetuning, on comparisons; its evaluation and its
//! use.
//!
//! A run reads its config ([`config`]), renders comparisons as tokens with a shared prefix ([`data`],
//! [`rows`]), and trains ([`train`]) on the Bradley-Terry loss of the scores at the end tokens ([`loss`]).
//! [`eval`] scores held-out comparisons, [`diagnostics`] lists warning signs about an accuracy,
//! [`trained_pairs`] records the pairs that a model was trained on, [`survey`] counts over the data of a run,
//! and [`responses`] are scored without a comparison.
//!
//! ```
//! use align_reward::loss::{LossParams, Pairs, reward_loss};
//! use tch::Tensor;
//!
//! // A pair with a score difference of 1: −log σ(1).
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
pub mod diagnostics;
mod doctor;
pub mod eval;
pub mod loss;
mod plan;
mod replay;
pub mod responses;
pub mod rows;
mod stage;
pub mod stats;
pub mod survey;
pub mod train;
pub mod trained_pairs;
mod written;

pub use checked::Rm;
