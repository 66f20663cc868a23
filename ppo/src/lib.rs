//! PPO with four models: a policy and a value model that learn, a reference and a reward model that never change.
//!
//! A step ([`train::Trainer::step`]) samples responses ([`rollout`]), lets the models judge them ([`models`]), turns scores
//! into per-token rewards ([`rewards`]), credits tokens ([`gae`]) and learns from that ([`loss`]), with pretraining text mixed
//! in ([`ptx`]). [`run`] goes from config to result around it; [`held_out`] says what is looked for in responses to held-out prompts,
//! [`charts`] draw it, and [`findings`] say what speaks against a run; [`guards`] watch every step, and keep the [`record`] of one that
//! went wrong.
//!
//! ```
//! use align_ppo::masked::{mask, table};
//! use align_ppo::gae::{GaeParams, gae};
//!
//! // Two tokens, rewarded with 1 at the end, that the value model expected to bring 0.5 and 0.4.
//! let params = GaeParams { gamma: 1.0, gae_lambda: 0.95 };
//! let credit = gae(&table(&[0.0, 1.0], &[2]), &table(&[0.5, 0.4], &[2]), &mask(&[2]), &params);
//! // The last token: δ = 1 − 0.4. The first: δ = 0.4 − 0.5, and 0.95 of what came after.
//! assert!((credit.advantages[(0, 1)] - 0.6).abs() < 1e-12);
//! assert!((credit.advantages[(0, 0)] - (-0.1 + 0.95 * 0.6)).abs() < 1e-12);
//! ```

#![forbid(unsafe_code)]

pub mod charts;
pub mod config;
pub mod doctor;
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
pub mod plan;
pub mod ptx;
pub mod record;
mod replay;
pub mod rewards;
pub mod rollout;
pub mod run;
pub mod train;
mod written;

pub use doctor::doctor;
pub use plan::plan;
pub use run::{ppo, replay as replay_ppo};
