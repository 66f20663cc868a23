//! `align plan` for PPO: memory and arithmetic of its phases, for responses of maximum length.

use align_kernels::HOST;
use align_kernels::batch::microbatches;
use align_kernels::kind_of;
use align_model::Writing;
use align_model::{Face, Header, ModelOptions};
use align_train::footprint::{BatchCost, ModelMemory, Phase, STEPS, StepEstimate, resident};
use align_train::stage::Stage as _;

use crate::checked::Ppo;
use crate::config::PpoConfig;
use crate::rollout::layout;
use crate::session::{frozen, trained};
use crate::train::rollout_rows;

/// The memory of the models of a run.
struct Models {
    policy: ModelMemory,
    reference: ModelMemory,
    value: ModelMemory,
    reward: ModelMemory,
    second: Option<ModelMemory>,
}

impl Models {
    fn all(&self) -> Vec<&ModelMemory> {
        [&self.policy, &self.reference, &self.value, &self.reward].into_iter().chain(&self.second).collect()
    }
}

/// The estimate for the step with the most prompt tokens.
pub(crate) fn estimate(stage: Ppo) -> StepEstimate {
    let outset = stage.outset();
    let Ppo { config, policy, reward, data, .. } = stage;
    let (policy, reward) = (&policy.header, &reward.header);
    let models = Models {
        policy: memory(&config, policy, trained(&config, HOST), Face::CausalLm),
        reference: memory(&config, policy, frozen(&config, HOST), Face::CausalLm),
        value: memory(&config, reward, trained(&config, HOST), Face::Scalar),
        reward: memory(&config, reward, frozen(&config, HOST), Face::Scalar),
        second: config.reward.second.as_ref().map(|_| memory(&config, reward, frozen(&config, HOST), Face::Scalar)),
    };
    let batches = config.batches(data.prompts.tokens.len());
    // The step with the most prompt tokens.
    let lengths = |step: u64| -> Vec<usize> { batches.rows(step).map(|row| data.prompts.tokens[row].len()).collect() };
    let steps = 0..batches.steps().min(STEPS);
    let prompts = steps.map(lengths).max_by_key(|lengths| lengths.iter().sum::<usize>()).unwrap_or_default();
    let samples = config.rollout.responses_per_prompt;
    let step_tokens = prompts.iter().map(|prompt| samples * (prompt + config.rollout.max_response_tokens)).sum();
    let has_text = !data.documents.is_empty();
    StepEstimate {
        stage: "ppo",
        outset,
        compute: kind_of(config.models.dtype),
        microbatch_tokens: config.ppo.microbatch_tokens,
        key: "ppo.microbatch_tokens",
        step_tokens,
        phases: Box::new(move |microbatch_tokens| {
            let step = Step { config: &config, models: &models, prompts: &prompts, has_text, microbatch_tokens };
            vec![step.rollout(), step.score(), step.update(), step.save()]
        }),
    }
}

fn memory(config: &PpoConfig, header: &Header, options: ModelOptions, face: Face) -> ModelMemory {
    ModelMemory {
        config: header.config.clone(),
        options,
        has_lm_head: face == Face::CausalLm,
        dropout: false,
        result_dtype: Writing::of(config.run.result_dtype, face, 0).dtype,
    }
}

/// A step with responses of maximum length.
struct Step<'a> {
    config: &'a PpoConfig,
    models: &'a Models,
    /// Lengths of the prompts.
    prompts: &'a [usize],
    has_text: bool,
    microbatch_tokens: usize,
}

impl Step<'_> {
    fn rollout(&self) -> Phase {
        let policy = &self.models.policy;
        let (samples, response) = (self.config.rollout.responses_per_prompt, self.config.rollout.max_response_tokens);
        let rows = self.rows();
        let longest = self.longest();
        let mut parts = self.resident();
        parts.push(("cache", self.cache()));
        parts.push(("logits", policy.decoding_step(rows as u64).max(policy.inference(&self.prefill()))));
        let all = (self.prompts.len() * samples) as f64;
        let decoded = BatchCost { tokens: 1, targets: 1, pairs: longest as u64, ..BatchCost::default() };
        let rounds = (self.prompts.len() * samples).div_ceil(rows.max(1)) * response;
        Phase {
            name: "rollout",
            parts,
            flops: policy.forward_flops(&Self::work(self.prompts, 0, 0))
                + all * response as f64 * policy.forward_flops(&decoded),
            traffic: rounds as f64 * policy.weights() as f64,
        }
    }

    /// Tokens of the longest prompt with the longest response.
    fn longest(&self) -> usize {
        self.prompts.iter().copied().max().unwrap_or(0) + self.config.rollout.max_response_tokens
    }

    /// Number of responses that are decoded at once.
    fn rows(&self) -> usize {
        let samples = self.config.rollout.responses_per_prompt;
        rollout_rows(self.microbatch_tokens, self.longest(), samples).min(self.prompts.len() * samples)
    }

    /// The prompts of one prefill.
    fn prefill(&self) -> BatchCost {
        let prompts = self.rows().div_ceil(self.config.rollout.responses_per_prompt).min(self.prompts.len());
        Self::work(&self.prompts[..prompts], 0, 0)
    }

    fn cache(&self) -> u64 {
        let policy = &self.models.policy;
        let prompt = self.longest() - self.config.rollout.max_response_tokens;
        policy.kv_cache(self.rows() as u64, prompt as u64, self.longest() as u64)
            + policy.prefill_cache(&self.prefill())
    }

    fn score(&self) -> Phase {
        let work = self.heaviest(self.prompts.len(), self.config.rollout.responses_per_prompt);
        let transient = |model: &&ModelMemory| {
            model.inference(&work).max(if model.has_lm_head { model.head_inference(&work) } else { 0 })
        };
        let models = self.models.all();
        let mut parts = self.resident();
        parts.push(("activations", models.iter().map(transient).max().unwrap_or(0)));
        let whole =
            Self::work(self.prompts, self.config.rollout.responses_per_prompt, self.config.rollout.max_response_tokens);
        // The second reward model scores held-out responses alone.
        let sum = |part: fn(&ModelMemory, &BatchCost) -> f64| {
            models.iter().take(4).map(|model| part(model, &whole)).sum::<f64>()
        };
        Phase { name: "score", parts, flops: sum(ModelMemory::forward_flops), traffic: sum(ModelMemory::traffic) / 3.0 }
    }

    fn update(&self) -> Phase {
        let (config, Models { policy, value, .. }) = (self.config, self.models);
        let rows = config.minibatch_rows();
        // The responses to a prompt share a prefix only if the minibatch is the whole rollout.
        let samples = config.rollout.responses_per_prompt;
        let work = if rows == config.rollout_rows() {
            self.heaviest(self.prompts.len(), samples)
        } else {
            self.heaviest(rows, 1)
        };
        let value_work = BatchCost { targets: work.targets, ..work };
        let [policy_kept, policy_peak] = policy.training(&work);
        let [value_kept, value_peak] = value.training(&value_work);
        // If the update reuses the evaluation's forward passes, the saved activations of the value model are
        // retained during the policy's backward pass.
        let waiting = if self.may_be_one_microbatch() { value.saved_activations(&value_work) } else { 0 };
        let mut passes = vec![(value_kept, value_peak, 0), (policy_kept, policy_peak, waiting)];
        let mut parts = self.resident();
        let updates = (config.ppo.epochs * config.rollout_rows().div_ceil(rows.max(1)) as u64) as f64;
        let tokens = (rows * config.rollout.max_response_tokens) as f64;
        let (all, epochs) = (self.total(), config.ppo.epochs as f64);
        let mut flops = 3.0 * (policy.forward_flops(&all) + value.forward_flops(&all)) * epochs;
        let mut traffic = updates * (policy.optimizer_traffic() + value.optimizer_traffic())
            + epochs * (policy.traffic(&all) + value.traffic(&all));
        if self.has_text {
            let targets = tokens * config.ptx.tokens_per_ppo_token;
            let at_once = targets.min(self.microbatch_tokens as f64) as u64;
            let text = BatchCost { tokens: at_once, targets: at_once, calls: 2, ..BatchCost::default() };
            let [text_kept, text_peak] = policy.training(&text);
            passes.push((text_kept, text_peak, waiting));
            // The gradient of the PPO loss is kept in the gradient buffers of the value model where their
            // shapes are equal.
            parts.push(("waiting gradients", policy.gradients_without(value)));
            let whole = BatchCost { tokens: targets as u64, targets: targets as u64, ..BatchCost::default() };
            flops += 3.0 * policy.forward_flops(&whole) * updates;
            traffic += policy.traffic(&whole) * updates;
        }
        let largest = passes.into_iter().max_by_key(|(kept, peak, waiting)| kept.1 + peak.1 + waiting);
        let (kept, peak, waiting) = largest.expect("two at least");
        parts.extend([kept, peak]);
        parts.push(("waiting activations", waiting));
        Phase { name: "update", parts, flops, traffic }
    }

    /// Whether the update of a step with short responses reuses the forward passes of the evaluation.
    fn may_be_one_microbatch(&self) -> bool {
        Self::work(self.prompts, self.config.rollout.responses_per_prompt, 1).tokens <= self.microbatch_tokens as u64
            && self.config.minibatch_rows() == self.config.rollout_rows()
    }

    fn save(&self) -> Phase {
        Phase { name: "save", parts: self.resident(), ..Phase::default() }
    }

    /// The models, and a checkpoint that is written during every phase.
    fn resident(&self) -> Vec<(&'static str, u64)> {
        let mut parts = resident(&self.models.all());
        parts.push(("checkpoint", self.models.policy.checkpoint().max(self.models.value.checkpoint())));
        parts
    }

    /// All responses, as in the minibatches.
    fn total(&self) -> BatchCost {
        let (samples, response) = (self.config.rollout.responses_per_prompt, self.config.rollout.max_response_tokens);
        Self::work(self.prompts, samples, response)
    }

    /// The largest microbatch of this many prompts and samples.
    fn heaviest(&self, prompts: usize, samples: usize) -> BatchCost {
        let response = self.config.rollout.max_response_tokens;
        let mut lengths: Vec<usize> = self.prompts.iter().cycle().take(prompts).copied().collect();
        lengths.sort_unstable();
        lengths.reverse();
        let groups: Vec<usize> = lengths.iter().map(|prompt| prompt + samples * response).collect();
        let works = microbatches(&groups, self.microbatch_tokens).into_iter();
        works
            .map(|range| Self::work(&lengths[range], samples, response))
            .max_by_key(|work| work.tokens)
            .unwrap_or_default()
    }

    /// The cost of prompts of these lengths, with `samples` responses each.
    fn work(prompts: &[usize], samples: usize, response: usize) -> BatchCost {
        let token = vec![0i64; prompts.iter().copied().max().unwrap_or(0).max(response)];
        let groups = prompts.iter().map(|prompt| (&token[..*prompt], vec![&token[..response]; samples]));
        let layout = layout(groups, HOST);
        BatchCost::of(&layout.flat, samples * prompts.len() * response)
    }
}
