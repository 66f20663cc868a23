//! A run without faults, and ten runs with one fault each, which the doctor must find.

use std::fs::File;
use std::path::{Path, PathBuf};

use align_core::progress::Silent;
use align_model::generate::Sampling;
use align_model::{CausalLm, Dropout};
use align_run::metrics::Metrics;
use align_text::chatml::ChatFormat;
use align_text::tokenizer::Tokenizer;

use super::*;
use crate::masked::{self, Table, mask};
use crate::models::Models;
use crate::rollout::Reading;
use crate::train::tests::{END, PAD, trainer};
use crate::trajectory::RolloutStats;
use align_train::stage::doctor::{Check, to_host};

/// The fault of a [`Faulty`] subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    WrongTemplate,
    HeadOnWrongToken,
    ShiftedValues,
    DropoutLeftOn,
    ReferenceNotFrozen,
    TokenizerSwapped,
    InnerPadMasked,
    StaleCache,
    UnnormalisedValue,
    TemperatureIgnored,
}

/// The pieces of a run with one fault.
struct Faulty {
    pieces: Pieces,
    fault: Fault,
    calls: std::cell::Cell<u64>,
}

impl Subject for Faulty {
    fn prompt(&self, dialogue: &Dialogue) -> Vec<i64> {
        match self.fault {
            // The newline after `<|im_end|>` is missing.
            Fault::WrongTemplate => {
                let ids = self.pieces.prompt(dialogue);
                let ends: Vec<bool> =
                    ids.iter().map(|id| *id == self.pieces.format.tokenizer().special().im_end).collect();
                (0..ids.len()).filter(|&at| at == 0 || !ends[at - 1]).map(|at| ids[at]).collect()
            }
            _ => self.pieces.prompt(dialogue),
        }
    }

    fn tokenizers(&self) -> [String; 2] {
        let [policy, reward] = self.pieces.tokenizers();
        [policy, if self.fault == Fault::TokenizerSwapped { "0123456789abcdef".to_owned() } else { reward }]
    }

    fn respond(
        &self,
        prompts: &[Vec<i64>],
        samples: usize,
        max_tokens: usize,
        draws: &dyn Fn(usize, usize, usize) -> f64,
    ) -> Result<Vec<Response>> {
        match self.fault {
            Fault::TemperatureIgnored => {
                let sampling = Sampling { temperature: 1.0, max_tokens, ..self.pieces.trainer.sampling.clone() };
                let trainer = &self.pieces.trainer;
                trainer.respond(&trainer.models.policy, &sampling, prompts, samples, draws)
            }
            // Every prompt but the first continues from the cached keys of the previous one.
            Fault::StaleCache if prompts.len() > 1 => {
                let stale: Vec<Vec<i64>> = (0..prompts.len()).map(|at| prompts[at.saturating_sub(1)].clone()).collect();
                self.pieces.respond(&stale, samples, max_tokens, draws)
            }
            _ => self.pieces.respond(prompts, samples, max_tokens, draws),
        }
    }

    fn score(&self, rollout: &Rollout) -> Vec<f64> {
        if self.fault != Fault::HeadOnWrongToken {
            return self.pieces.score(rollout);
        }
        let _no_grad = tch::no_grad_guard();
        let model = &self.pieces.trainer.models.reward_model;
        let (flat, ends) = rollout.reward_model_batch(&rollout.rows(), END, &Reading::default(), model.device());
        to_host(&model.scalars(&model.hidden(&flat, None).index_select(0, &(ends - 1))))
    }

    fn evaluate(&self, rollout: &Rollout) -> RolloutStats {
        let mut stats = self.pieces.evaluate(rollout);
        let lengths = rollout.lengths();
        match self.fault {
            Fault::ShiftedValues => {
                let mut values = masked::flat(&stats.values, &mask(&lengths));
                values.rotate_left(1);
                stats.values = masked::table(&values, &lengths);
            }
            Fault::DropoutLeftOn => {
                self.calls.set(self.calls.get() + 1);
                let dropout = Dropout { p: 0.1, key: self.calls.get() };
                let logprobs = with_dropout(&self.pieces.trainer.models.policy, rollout, dropout);
                stats.old_logprobs = masked::table(&logprobs, &lengths);
            }
            Fault::InnerPadMasked => {
                let kept = |table: &Table| -> Table {
                    let token = |(row, column): (usize, usize)| rollout.responses[row].tokens.get(column);
                    let value =
                        |(at, value): ((usize, usize), &f64)| if token(at) == Some(&PAD) { 0.0 } else { *value };
                    Table::from_shape_vec(table.raw_dim(), table.indexed_iter().map(value).collect()).unwrap()
                };
                stats.old_logprobs = kept(&stats.old_logprobs);
                stats.ref_logprobs = kept(&stats.ref_logprobs);
            }
            _ => {}
        }
        stats
    }

    fn shift_value_model(&mut self, scores: &[f64], ended: &[bool]) {
        self.pieces.shift_value_model(scores, ended);
        if self.fault == Fault::UnnormalisedValue {
            self.pieces.trainer.models.value_model.set_shift(0.0);
        }
    }

    fn end_values(&self, rollout: &Rollout) -> Vec<f64> {
        self.pieces.end_values(rollout)
    }

    fn step(&mut self, step: u64) -> Result<Metrics> {
        let metrics = self.pieces.step(step)?;
        if self.fault == Fault::ReferenceNotFrozen {
            let _no_grad = tch::no_grad_guard();
            let models = &mut self.pieces.trainer.models;
            for (reference, policy) in models.ref_policy.parameters().iter().zip(models.policy.parameters()) {
                reference.tensor.shallow_clone().copy_(&policy.tensor);
            }
        }
        Ok(metrics)
    }

    fn models(&self) -> &Models {
        self.pieces.models()
    }

    fn sampling(&self) -> &Sampling {
        self.pieces.sampling()
    }
}

fn with_dropout(policy: &CausalLm, rollout: &Rollout, dropout: Dropout) -> Vec<f32> {
    let _no_grad = tch::no_grad_guard();
    let layout = rollout.layout(&rollout.rows(), policy.device());
    let hidden = policy.hidden(&layout.flat, Some(dropout)).index_select(0, &layout.predict_indices);
    let over = align_model::Over { temperature: 0.7, nucleus: None };
    Vec::try_from(policy.logprobs(&hidden, &layout.tokens, &over).logprobs).unwrap()
}

/// The chat format of a published tokenizer. The ids of the tiny models are not its ids, which no check
/// depends on.
fn format() -> ChatFormat {
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tokenizer/qwen2_5");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(packed.join("tokenizer_config.json"), folder.path().join("tokenizer_config.json")).unwrap();
    let mut unpacked = File::create(folder.path().join("tokenizer.json")).unwrap();
    let packed = File::open(packed.join("tokenizer.json.gz")).unwrap();
    std::io::copy(&mut flate2::read::GzDecoder::new(packed), &mut unpacked).unwrap();
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    ChatFormat::open(folder.path(), &tokenizer, "Be brief.").unwrap()
}

fn examined(fault: Fault) -> Vec<Check> {
    let mut trainer = trainer(|config| config.rollout.temperature = 0.7);
    trainer.sampling.stop_ids = vec![END];
    let format = format();
    let setup = Setup {
        prompts: trainer.prompts.clone(),
        max_tokens: 6,
        seed: 3,
        temperature: 0.7,
        nucleus: false,
        missing_end: (MissingEnd::Subtract, 1.0),
        normalize: Normalize::RunningMean,
        shares_value: true,
        same_dtype: true,
        tolerance: 1e-4,
        end_id: END,
        reading: Reading::default(),
        assumed: Vec::new(),
        pad_id: PAD,
        format: format.clone(),
        folder: PathBuf::from("no template here"),
    };
    let reward_tokenizer = format.tokenizer().fingerprint();
    let pieces = Pieces { trainer, format, reward_tokenizer };
    examine(&mut Faulty { pieces, fault, calls: std::cell::Cell::new(0) }, &setup, &mut Silent).unwrap()
}

fn broken(fault: Fault) -> Vec<&'static str> {
    let checks = examined(fault);
    checks.iter().filter(|check| !check.passed).map(|check| check.name).collect()
}

#[test]
fn a_sound_run_has_no_findings() {
    let checks = examined(Fault::None);
    assert!(checks.iter().all(|check| check.passed), "{checks:#?}");
    assert!(checks.len() >= 14);
}

#[test]
fn each_of_ten_faults_is_found_by_the_check_that_names_it() {
    for (fault, name) in [
        (Fault::WrongTemplate, "prompts equal those of the chat template"),
        (Fault::HeadOnWrongToken, "scores are read at the end token"),
        (Fault::ShiftedValues, "values are read before their tokens"),
        (Fault::DropoutLeftOn, "deterministic: no dropout"),
        (Fault::ReferenceNotFrozen, "the reference is frozen"),
        (Fault::TokenizerSwapped, "policy and reward model have one tokenizer"),
        (Fault::InnerPadMasked, "a pad id inside a response counts as a token"),
        (Fault::StaleCache, "cached sampling draws what uncached logits give"),
        (Fault::UnnormalisedValue, "the value at the end is the shifted score"),
        (Fault::TemperatureIgnored, "sampled tokens follow the softmax at the temperature (χ²)"),
    ] {
        let found = broken(fault);
        assert!(found.contains(&name), "{fault:?}: {found:?}");
    }
}
