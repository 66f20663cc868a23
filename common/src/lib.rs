//! What two or more stages of `align` use; knows no stage.
//!
//! Files become rows ([`data`]), rows become token ids with a loss mask ([`tokenizer`], [`chatml`], [`template`]), token ids a flat
//! batch in which sequences may share a prefix ([`batch`]). A [`model`] turns a batch into log-probabilities or scalars,
//! [`lm`] into a loss, [`generate`] goes on where it ends. [`optim`] and [`schedule`] learn, [`masked`] counts. Around all that,
//! [`config`] says what to do, [`stage`] checks that it can be done, [`run`] and [`checkpoint`] keep it, and [`metrics`] tell.
//!
//! To read: [`batch`], [`model`], [`lm`], [`chatml`], [`run`].
//!
//! Shapes are written with one legend everywhere: **B** rows, **P** prompt, **R** response, **T** tokens of a flat batch, **N** the
//! tokens among them that something is asked about, **V** vocabulary, **D** hidden, **H** query heads, **K** key/value heads, **E** head
//! width. A mask is true where something counts. Entry t of whatever is said about a response is about its token t, and is read
//! at the place before it.
//!
//! ```
//! use align_common::masked::{mask, table, whiten};
//!
//! // Two responses of three and one tokens as a (B, R) table; what lies behind a response never counts.
//! let response_mask = mask(&[3, 1]);
//! let advantages = whiten(&table(&[1.0, 2.0, 3.0, 6.0], &[3, 1]), &response_mask);
//! let expected = [-2.0, -1.0, 0.0, 3.0].map(|distance: f64| distance / 3.5f64.sqrt());
//! assert!((advantages[(0, 0)] - expected[0]).abs() < 1e-6 && (advantages[(1, 0)] - expected[3]).abs() < 1e-6);
//! ```

pub mod error;
pub mod random;

pub mod batch;
pub mod generate;
pub mod lm;
pub mod model;

pub mod chatml;
pub mod data;
pub mod template;
pub mod tokenizer;

pub mod checkpoint;
pub mod config;
pub mod contract;
pub mod metrics;
pub mod optim;
pub mod plot;
pub mod progress;
pub mod run;
pub mod schedule;
pub mod stage;

mod arithmetic;
pub mod footprint;
pub mod masked;
pub mod memory;
mod parallel;

/// Seeds libtorch's generator for a test. There is one for the process: whoever draws from it, dropout included, holds this meanwhile.
#[cfg(test)]
fn seeded(seed: i64) -> impl Drop {
    static GENERATOR: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let guard = GENERATOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    tch::manual_seed(seed);
    guard
}
