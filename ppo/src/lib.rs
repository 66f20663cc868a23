//! PPO with four models: a policy and a value model that learn, a reference and a reward model that never change.
//!
//! A step ([`train::Trainer::step`]) samples responses ([`rollout`]), lets the models judge them ([`models`]), turns scores
//! into per-token rewards ([`rewards`]), credits tokens ([`gae`]) and learns from that ([`loss`]), with pretraining text mixed
//! in ([`ptx`]). [`run`] goes from config to result around it.

pub mod config;
pub mod gae;
pub mod loss;
pub mod models;
pub mod ptx;
pub mod rewards;
pub mod rollout;
pub mod run;
pub mod train;

pub use run::ppo;
