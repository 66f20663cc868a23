//! PPO.

pub mod gae;
pub mod loss;
pub mod rewards;
