//! The update: optimizer steps of policy and value model on a trajectory, minibatch by minibatch.

use align_core::error::{Result, finite};
use align_core::random::{Permutation, Purpose};
use align_model::Forward;
use align_tokens::LmRow;
use align_train::optim::clip_scale;
use tch::Tensor;

use crate::config::Phase;
use crate::loss::{policy_loss, value_loss};
use crate::models::{ReusedForward, ValueForward, forward_before_tokens};
use crate::ptx::{add_grads, ptx_backward, take_grads};
use crate::record::{Minibatch, Record};
use crate::rollout::Rows;
use crate::statistics::MinibatchStats;
use crate::train::Trainer;
use crate::trajectory::Trajectory;

/// A minibatch, split into microbatches.
struct SplitMinibatch<'a> {
    trajectory: &'a Trajectory,
    microbatches: Vec<Rows>,
    /// Response tokens of all microbatches.
    num_tokens: usize,
}

impl Trainer {
    /// One optimizer step on a minibatch (rows, ordered): forward and backward by microbatch, clip, step.
    ///
    /// # Errors
    /// [`align_core::error::Error::NonFinite`] before anything is updated.
    pub(crate) fn update(
        &mut self,
        trajectory: &Trajectory,
        rows: &[usize],
        phase: Phase,
        reused: Option<ReusedForward>,
    ) -> Result<MinibatchStats> {
        let microbatches = trajectory.rollout.split_into_microbatches(rows, self.config.ppo.microbatch_tokens);
        let minibatch = SplitMinibatch { trajectory, microbatches, num_tokens: trajectory.rollout.num_tokens(rows) };
        let (text, text_taken) = self.next_text(phase, minibatch.num_tokens);
        if let Some(record) = &mut self.record {
            let ptx = text.iter().flat_map(|row| &row.pieces).map(|piece| piece.tokens.clone()).collect();
            record.minibatches.push(Minibatch { rows: rows.to_vec(), ptx });
        }
        let (policy, value_model) = reused.map(|reused| (reused.policy, reused.value_model)).unzip();
        let mut stats = MinibatchStats::default();
        // The policy comes first. To save memory, its PPO gradient is parked in the value model's gradient
        // buffers while the gradient on the text is computed: these are still zero then.
        let policy_grad_norm = match phase {
            Phase::Ppo => self.policy_gradient(&minibatch, policy.flatten(), &text, &mut stats)?,
            Phase::ValueWarmup => 0.0,
        };
        self.value_gradient(&minibatch, value_model, &mut stats);
        // Every loss and norm is checked before the first optimizer step.
        finite("value/loss", stats.value_loss)?;
        stats.value_grad_norm = finite("value/grad_norm", self.value_optimizer.grad_norm())?;
        let config = &self.config.ppo;
        if phase == Phase::Ppo {
            self.policy_optimizer.step(config.policy_lr, clip_scale(policy_grad_norm, config.grad_clip));
        }
        self.value_optimizer.step(config.value_lr, clip_scale(stats.value_grad_norm, config.grad_clip));
        if let (Some(stream), Some(taken)) = (&mut self.ptx, text_taken) {
            stream.taken = taken;
        }
        Ok(stats)
    }

    /// The pretraining text for a minibatch of this many response tokens, and the number of pieces taken
    /// after it. None in the value warm-up.
    fn next_text(&self, phase: Phase, num_tokens: usize) -> (Vec<LmRow>, Option<u64>) {
        match (phase, &self.ptx) {
            (Phase::Ppo, Some(stream)) => {
                let targets = (num_tokens as f64 * self.config.ptx.tokens_per_ppo_token).round() as usize;
                let (text, taken) = stream.peek(targets.max(1));
                (text, Some(taken))
            }
            _ => (Vec::new(), None),
        }
    }

    /// Accumulates the policy's gradient: that of the PPO loss over the microbatches, and that of the text.
    /// The value model's gradients must be zero before, and are zero after. Returns the norm of the policy's
    /// total gradient.
    fn policy_gradient(
        &self,
        minibatch: &SplitMinibatch<'_>,
        mut reused: Option<Forward>,
        text: &[LmRow],
        stats: &mut MinibatchStats,
    ) -> Result<f64> {
        let (config, model) = (&self.config.ppo, &self.models.policy);
        let SplitMinibatch { trajectory, microbatches, num_tokens } = minibatch;
        for rows in microbatches {
            let layout = trajectory.rollout.layout(rows, model.device());
            let old_logprobs = trajectory.flat_tensor(&trajectory.stats.old_logprobs, rows, model.device()); // (N)
            let advantages = trajectory.flat_tensor(&trajectory.advantages, rows, model.device()); // (N)
            let forward = reused.take().unwrap_or_else(|| forward_before_tokens(model, &layout));
            self.convention().over(&trajectory.rollout, rows, |over| {
                model.backward(forward, &layout.tokens, over, &mut |range, logprobs| {
                    let part = |tensor: &Tensor| tensor.narrow(0, range.start as i64, range.len() as i64);
                    let (old_logprobs, advantages) = (part(&old_logprobs), part(&advantages));
                    let loss = policy_loss(logprobs, &old_logprobs, &advantages, config.cliprange, *num_tokens);
                    stats.policy.add(&loss.stats);
                    loss.grad
                })
            });
        }
        finite("policy/loss", stats.policy.loss)?;
        stats.policy_grad_norm = finite("policy/grad_norm", self.policy_optimizer.grad_norm())?;
        if text.is_empty() {
            return Ok(stats.policy_grad_norm);
        }
        let ppo_grads = take_grads(model.parameters(), self.models.value_model.parameters());
        let loss = ptx_backward(model, text, self.config.ptx.coef, config.microbatch_tokens);
        let norm = self.policy_optimizer.grad_norm();
        add_grads(model.parameters(), ppo_grads);
        stats.ptx_loss = finite("ptx/loss", loss)?;
        stats.ptx_grad_norm = finite("ptx/grad_norm", norm)?;
        Ok(self.policy_optimizer.grad_norm())
    }

    /// Accumulates the value model's gradient over the microbatches.
    fn value_gradient(
        &self,
        minibatch: &SplitMinibatch<'_>,
        mut reused: Option<ValueForward>,
        stats: &mut MinibatchStats,
    ) {
        let SplitMinibatch { trajectory, microbatches, num_tokens } = minibatch;
        for rows in microbatches {
            let layout = trajectory.rollout.layout(rows, self.models.policy.device());
            let forward = reused.take();
            let ValueForward { values, forward } =
                forward.unwrap_or_else(|| ValueForward::before_tokens(&self.models.value_model, &layout));
            let old_values = trajectory.flat_tensor(&trajectory.stats.values, rows, values.device()); // (N)
            let returns = trajectory.flat_tensor(&trajectory.returns, rows, values.device()); // (N)
            let loss = value_loss(&values, &old_values, &returns, self.config.ppo.cliprange_value, *num_tokens);
            self.models.value_model.backward(forward, &loss.loss);
            stats.value_loss += loss.loss.double_value(&[]);
            stats.value_clip_frac += loss.clip_frac;
        }
    }

    /// Repeats the last optimizer step of a record with the current weights, on the recorded trajectory.
    pub(crate) fn repeat_update(&mut self, mut record: Record) -> Result<()> {
        let (trajectory, phase) = (record.trajectory.clone(), self.config.phase(record.step));
        let minibatch = record.minibatches.pop().expect("a record of an optimizer step").rows;
        self.record = Some(record);
        self.update(&trajectory, &minibatch, phase, None).map(drop)
    }

    /// The sorted rows of each optimizer step, over all epochs.
    pub(crate) fn minibatches(&self, step: u64, num_rows: usize) -> Vec<Rows> {
        let size = self.config.minibatch_rows();
        let mut minibatches = Vec::new();
        for epoch in 0..self.config.ppo.epochs {
            let key = step * self.config.ppo.epochs + epoch;
            let order = Permutation::new(num_rows as u64, self.config.ppo.seed, Purpose::Minibatch, key);
            let shuffled: Vec<usize> = (0..num_rows as u64).map(|row| order.get(row) as usize).collect();
            minibatches.extend(shuffled.chunks(size).map(|rows| {
                let mut rows = rows.to_vec();
                rows.sort_unstable();
                rows
            }));
        }
        minibatches
    }
}
