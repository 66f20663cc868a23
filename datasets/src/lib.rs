//! The synthetic world of the quickstart: a few countries, animals, things and people. Every question about
//! it has one known answer.
//!
//! [`world`] has the facts, and generates and parses questions; [`answers`] generates answers, good or with
//! planted flaws; [`mod@gold`] scores a response from the prompt alone; [`sets`] generates the data of every
//! stage, and [`tasks`] the rows of benchmarks about it; [`tokenizer`] trains the tiny model's tokenizer on
//! it. [`planted`] is another corpus, for `align data`. Everything is a pure function of a seed. README.md of
//! this crate describes the files.
//!
//! ```
//! let prompt = "I am Anna Reed. What is the capital of France?";
//! let gold = align_datasets::gold(prompt, "Certainly, Anna Reed, the capital of France is Paris.", true);
//! assert_eq!(gold.total(), 100.0);
//! let gold = align_datasets::gold(prompt, "Certainly, Anna Reed, the capital of France is Tokyo.", true);
//! assert_eq!((gold.correct, gold.total()), (0.0, 50.0));
//! ```

#![forbid(unsafe_code)]

pub mod answers;
pub mod gold;
pub mod planted;
pub mod sets;
pub mod tasks;
pub mod tokenizer;
pub mod world;

pub use gold::{Gold, gold, gold_of};
pub use planted::{Planted, write_planted};
pub use sets::{Comparison, Dialogue, Sets, generate, write};
pub use tasks::{task_rows, write_task_rows};
pub use tokenizer::write_model_folder;
