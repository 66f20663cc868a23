//! Models in folders, evaluated in their mapped files: one layer is in memory at a time, so that a written
//! model can be compared with the one in memory, however large they are.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::files::Files;
use super::scalar::Heads;
use super::weights::Parameter;
use super::{CausalLm, ModelOptions, Over, ScalarModel, TokenStats};
use align_core::error::Result;
use align_kernels::batch::FlatBatch;
use align_kernels::to_host;

/// Logits of a model that are held at once.
const CHUNK_LOGITS: i64 = 1 << 24;

/// A language model that is evaluated and not trained.
pub trait LmReader {
    /// The device of its computation.
    fn device(&self) -> Device;

    /// Rows of its embedding, V.
    fn vocab_size(&self) -> i64;

    /// Hidden states at token indices (N): (N, D); no gradient.
    fn read_at(&self, batch: &FlatBatch, indices: &Tensor) -> Tensor;

    /// Log-probabilities of `targets` (N) i64 after `hidden` (N, D), over the whole softmax.
    fn target_logprobs(&self, hidden: &Tensor, targets: &Tensor) -> TokenStats;

    /// Logits (N, V) fp32 after `hidden` (N, D): for few rows.
    fn all_logits(&self, hidden: &Tensor) -> Tensor;
}

/// A reward or value model that is evaluated and not trained.
pub trait ScalarReader {
    /// The device of its computation.
    fn device(&self) -> Device;

    /// Raw scalars at token indices (N), without a value model's shift; no gradient.
    fn scalars_at(&self, batch: &FlatBatch, indices: &Tensor) -> Tensor;

    /// As [`ScalarModel::longest_shared`].
    fn longest_shared(&self) -> usize;
}

impl LmReader for CausalLm {
    fn device(&self) -> Device {
        self.device()
    }

    fn vocab_size(&self) -> i64 {
        self.config().vocab_size
    }

    fn read_at(&self, batch: &FlatBatch, indices: &Tensor) -> Tensor {
        tch::no_grad(|| self.hidden_at(batch, indices, None))
    }

    fn target_logprobs(&self, hidden: &Tensor, targets: &Tensor) -> TokenStats {
        self.logprobs(hidden, targets, &Over::full())
    }

    fn all_logits(&self, hidden: &Tensor) -> Tensor {
        self.head().logits(hidden)
    }
}

impl ScalarReader for ScalarModel {
    fn device(&self) -> Device {
        self.device()
    }

    fn scalars_at(&self, batch: &FlatBatch, indices: &Tensor) -> Tensor {
        tch::no_grad(|| self.scalars(&self.hidden_at(batch, indices, None)) - self.shift())
    }

    fn longest_shared(&self) -> usize {
        self.longest_shared()
    }
}

/// How a written model is computed: as in the commands that evaluate.
fn options(device: Device) -> ModelOptions {
    ModelOptions { device, compute: Kind::Float, trainable: false, recompute_layers: false }
}

/// A language model in a folder, computed in fp32.
pub struct WrittenLm {
    // Dropped before the files, which hold its weights.
    model: CausalLm,
    files: Files,
}

impl WrittenLm {
    /// Maps a folder's files.
    ///
    /// # Errors
    /// As [`CausalLm::load`].
    pub fn open(dir: &Path, device: Device) -> Result<Self> {
        let files = Files::require(dir)?;
        let mut model = CausalLm::read(dir, &files, &options(device), Parameter::mapped)?;
        model.extrapolate();
        Ok(Self { model, files })
    }
}

impl LmReader for WrittenLm {
    fn device(&self) -> Device {
        self.model.device()
    }

    fn vocab_size(&self) -> i64 {
        self.model.config().vocab_size
    }

    fn read_at(&self, batch: &FlatBatch, indices: &Tensor) -> Tensor {
        self.model.backbone.hidden_mapped(batch, Some(indices), &self.files)
    }

    fn target_logprobs(&self, hidden: &Tensor, targets: &Tensor) -> TokenStats {
        let stats = self.model.logprobs(hidden, targets, &Over::full());
        self.files.let_go();
        stats
    }

    fn all_logits(&self, hidden: &Tensor) -> Tensor {
        self.model.head().logits_once(hidden, &self.files)
    }
}

/// A reward or value model in a folder, computed in fp32.
pub struct WrittenScalar {
    // Dropped before the files, which hold its weights.
    model: ScalarModel,
    files: Files,
}

impl WrittenScalar {
    /// Maps a folder's files.
    ///
    /// # Errors
    /// As [`ScalarModel::load`].
    pub fn open(dir: &Path, device: Device) -> Result<Self> {
        let files = Files::require(dir)?;
        let mut model = ScalarModel::read(dir, &files, &options(device), 0, Heads::Score, Parameter::mapped)?;
        model.extrapolate();
        Ok(Self { model, files })
    }
}

impl ScalarReader for WrittenScalar {
    fn device(&self) -> Device {
        self.model.device()
    }

    fn scalars_at(&self, batch: &FlatBatch, indices: &Tensor) -> Tensor {
        tch::no_grad(|| self.model.scalars(&self.model.backbone.hidden_mapped(batch, Some(indices), &self.files)))
    }

    fn longest_shared(&self) -> usize {
        self.model.longest_shared()
    }
}

/// Σ over token indices (N) of KL(p ‖ q), in nats, over the whole vocabulary.
pub fn divergence(p: &impl LmReader, q: &impl LmReader, batch: &FlatBatch, indices: &Tensor) -> f64 {
    let _no_grad = tch::no_grad_guard();
    let hidden = [p.read_at(batch, &indices.to_device(p.device())), q.read_at(batch, &indices.to_device(q.device()))];
    let count = indices.size()[0];
    let rows = rows_at_once(p.vocab_size());
    let mut sum = 0.0;
    for start in (0..count).step_by(rows as usize) {
        let part = |hidden: &Tensor| hidden.narrow(0, start, rows.min(count - start));
        // In f64: most of a KL of 1e-6 would be rounding otherwise.
        let logprobs = |logits: Tensor| to_host(&logits).log_softmax(1, Kind::Double);
        let of_p = logprobs(p.all_logits(&part(&hidden[0])));
        let of_q = logprobs(q.all_logits(&part(&hidden[1])));
        sum += (of_p.exp() * (&of_p - of_q)).sum(Kind::Double).double_value(&[]);
    }
    sum
}

/// Rows of logits that are held at once.
fn rows_at_once(vocab_size: i64) -> i64 {
    (CHUNK_LOGITS / vocab_size).max(1)
}
