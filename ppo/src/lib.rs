//! PPO with four models: policy and value model are trained, reference and reward model are frozen.
//!
//! A step ([`train::Trainer::step`]) samples responses ([`rollout`]), evaluates them with the models
//! ([`models`]), computes token rewards ([`rewards`]) and advantages ([`gae`]), and updates policy and value
//! model ([`update`], [`loss`]), with a gradient on pretraining text ([`ptx`]). A rollout and everything
//! computed from it is a [`trajectory`]; the metrics of a step are computed after it ([`statistics`]).
//! [`Ppo`] is the checked stage, [`Session`] the running trainer. [`held_out`] describes responses to
//! held-out prompts, [`charts`] plots them, and [`findings`] lists warning signs. [`guards`] checks the
//! metrics of every step, and [`record`] keeps the data of a step that failed.
//!
//! ```
//! use align_ppo::masked::{mask, table};
//! use align_ppo::gae::{GaeParams, gae};
//!
//! // Two tokens with a reward of 1 at the end, and the values 0.5 and 0.4.
//! let params = GaeParams { gamma: 1.0, gae_lambda: 0.95 };
//! let credit = gae(&table(&[0.0, 1.0], &[2]), &table(&[0.5, 0.4], &[2]), &mask(&[2]), &params);
//! // The last token: δ = 1 − 0.4. The first: δ = 0.4 − 0.5, plus 0.95 times the last advantage.
//! assert!((credit.advantages[(0, 1)] - 0.6).abs() < 1e-12);
//! assert!((credit.advantages[(0, 0)] - (-0.1 + 0.95 * 0.6)).abs() < 1e-12);
//! ```

#![forbid(unsafe_code)]

pub mod charts;
mod checked;
pub mod config;
mod doctor;
mod evaluation;
pub mod findings;
pub mod gae;
pub mod guards;
pub mod held_out;
mod inputs;
pub mod loss;
pub mod masked;
mod misfits;
pub mod models;
mod plan;
pub mod ptx;
pub mod record;
mod replay;
pub mod rewards;
pub mod rollout;
mod session;
mod stage;
pub mod statistics;
pub mod train;
pub mod trajectory;
pub mod update;
mod written;

pub use checked::Ppo;
pub use session::Session;
