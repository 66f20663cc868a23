//! AdamW with a state that can be saved, and gradient clipping by norm.

use tch::{Kind, Tensor, no_grad_guard};

use align_core::config::OptimizerSection;
use align_core::error::{Problems, Result};
use align_kernels::adamw::{AdamWSlot, AdamWStep};
use align_kernels::{HOST, Ops, ops};
use align_run::checkpoint::{SnapshotLock, State};

/// The constants of AdamW; the learning rate is an argument of each step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWOptions {
    /// Decay of the first and of the second moment.
    pub betas: [f64; 2],
    /// Added to the root of the bias-corrected second moment.
    pub eps: f64,
    /// Decoupled weight decay, on every parameter.
    pub weight_decay: f64,
}

impl From<&OptimizerSection> for AdamWOptions {
    fn from(section: &OptimizerSection) -> Self {
        Self { betas: section.betas, eps: section.eps, weight_decay: section.weight_decay }
    }
}

/// AdamW (Loshchilov and Hutter 2019, algorithm 2) with fp32 moments:
///
/// p ← p − lr·wd·p; m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²; p ← p − lr·(m / (1−β₁ᵗ)) / (√v / √(1−β₂ᵗ) + ε)
///
/// A parameter without a gradient is treated as one with a zero gradient: whether libtorch has allocated a
/// gradient depends on earlier steps of the process, and a resumed run must be the same.
#[derive(Debug)]
pub struct AdamW {
    options: AdamWOptions,
    slots: Vec<AdamWSlot>,
    steps: u64,
    /// Locked while a [`State`] holds masters and moments.
    snapshot_lock: SnapshotLock,
}

/// The factor that clips gradients of this 2-norm to `max_norm`; 1 when the norm is non-finite. The 1e-6 is
/// the one of `torch.nn.utils.clip_grad_norm_`.
pub fn clip_scale(norm: f64, max_norm: f64) -> f64 {
    if norm.is_finite() { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 }
}

impl AdamW {
    /// Over named fp32 leaves; those that do not require gradients are left out.
    ///
    /// # Panics
    /// When a trainable parameter is not fp32 or not contiguous, as masters are.
    pub fn new<'a>(
        parameters: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
        options: impl Into<AdamWOptions>,
    ) -> Self {
        let slots: Vec<AdamWSlot> = parameters
            .into_iter()
            .filter(|(_, parameter)| parameter.requires_grad())
            .map(|(name, parameter)| {
                assert_eq!(parameter.kind(), Kind::Float, "{name}: the optimizer works on fp32 masters");
                assert!(parameter.is_contiguous(), "{name}: the optimizer works on contiguous masters");
                AdamWSlot::new(name, parameter)
            })
            .collect();
        Self { options: options.into(), slots, steps: 0, snapshot_lock: SnapshotLock::default() }
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The 2-norm of all gradients together, summed in f64.
    pub fn grad_norm(&self) -> f64 {
        let _guard = no_grad_guard();
        let grads: Vec<Tensor> = self.slots.iter().filter_map(AdamWSlot::grad).collect();
        self.ops().grad_norm(&grads)
    }

    /// One step with learning rate `lr` on the gradients times `grad_scale`; sets the gradients to zero.
    /// Waits until no [`State`] holds masters and moments: another thread may be writing them.
    pub fn step(&mut self, lr: f64, grad_scale: f64) {
        self.snapshot_lock.wait();
        let _guard = no_grad_guard();
        self.steps += 1;
        let AdamWOptions { betas: [beta1, beta2], eps, weight_decay } = self.options;
        let t = self.steps as f64;
        let step_size = lr / (1.0 - beta1.powf(t));
        let root_correction2 = (1.0 - beta2.powf(t)).sqrt();
        let step = AdamWStep {
            grad_scale,
            decay: 1.0 - lr * weight_decay,
            betas: [beta1, beta2],
            eps,
            step_size,
            root_correction2,
        };
        self.ops().adamw_step(&mut self.slots, &step);
    }

    /// The backend of the parameters, which are all on one device.
    fn ops(&self) -> &'static dyn Ops {
        ops(self.slots.first().map_or(HOST, |slot| slot.parameter.device()))
    }

    /// Adds masters and moments to `state`, under `prefix/master/NAME`, `prefix/exp_avg/NAME` and
    /// `prefix/exp_avg_sq/NAME`, and the number of steps under `prefix/steps`. The tensors share the
    /// optimizer's memory: it takes no step as long as the state exists.
    pub fn save(&self, prefix: &str, state: &mut State) {
        for slot in &self.slots {
            for (part, tensor) in parts(slot) {
                state.tensors.push((format!("{prefix}/{part}/{}", slot.name), tensor));
            }
        }
        state.set(&format!("{prefix}/steps"), self.steps);
        state.hold(self.snapshot_lock.lock());
    }

    /// Restores masters (in place, in the model's parameters), moments and the number of steps from `state`.
    ///
    /// # Errors
    /// [`align_core::error::Error::Invalid`] naming every tensor that is missing or has another shape.
    pub fn load(&mut self, prefix: &str, state: &State) -> Result<()> {
        let _guard = no_grad_guard();
        let mut problems = Problems::new();
        let by_name = state.by_name();
        let mut copies = Vec::new();
        for slot in &self.slots {
            for (part, own) in parts(slot) {
                let name = format!("{prefix}/{part}/{}", slot.name);
                match by_name.get(name.as_str()) {
                    None => problems.push(&state.location, format!("`{name}` is missing")),
                    Some(saved) if saved.size() != own.size() => problems.push(
                        &state.location,
                        format!("`{name}` has shape {:?}, expected {:?}", saved.size(), own.size()),
                    ),
                    Some(saved) => copies.push((own, *saved)),
                }
            }
        }
        let steps = problems.absorb(state.get::<u64>(&format!("{prefix}/steps")))?;
        problems.into_result()?;
        for (mut own, saved) in copies {
            own.copy_(saved);
        }
        let ops = self.ops();
        self.slots.iter_mut().for_each(|slot| ops.find_touched(slot));
        self.steps = steps.unwrap_or(self.steps);
        Ok(())
    }
}

/// The tensors of a slot that a checkpoint saves, as views.
fn parts(slot: &AdamWSlot) -> [(&'static str, Tensor); 3] {
    [("master", slot.parameter.detach()), ("exp_avg", slot.exp_avg.detach()), ("exp_avg_sq", slot.exp_avg_sq.detach())]
}

#[cfg(test)]
mod tests;
