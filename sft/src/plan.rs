//! `align plan` for sft and pretraining: the memory and arithmetic of a step, for the rows of the run.

use align_kernels::HOST;
use align_kernels::kind_of;
use align_model::Writing;
use align_model::{Face, ModelOptions};
use align_tokens::LmRow;
use align_train::footprint::{self, BatchCost, ModelMemory, STEPS, StepEstimate};
use align_train::lm::flatten;

use crate::checked::Inputs;

/// Estimates a step on the rows of the run.
pub(crate) fn estimate(inputs: Inputs) -> StepEstimate {
    let outset = inputs.outset();
    let Inputs { stage, sections, source, rows, .. } = inputs;
    let (train, steps) = (&sections.train, rows.batches.steps().min(STEPS));
    let options = ModelOptions {
        device: HOST,
        compute: kind_of(sections.model.dtype),
        trainable: true,
        recompute_layers: sections.model.recompute_layers,
    };
    let result_dtype = Writing::of(sections.run.result_dtype, Face::CausalLm, train.seed).dtype;
    let dropout = train.dropout > 0.0;
    let memory = ModelMemory { config: source.header.config, options, has_lm_head: true, dropout, result_dtype };
    let microbatch_tokens = train.microbatch_tokens;
    // Computed once: `sizes` is called repeatedly, and each call would read the rows again.
    let of_step = |step| rows.batch(step).map(|row| (row.len(), row.num_loss_tokens())).collect();
    let sizes: Vec<Vec<(usize, usize)>> = (0..steps).map(of_step).collect();
    let rows = footprint::Rows {
        steps,
        sizes: Box::new(move |step| sizes[step as usize].clone()),
        layout: Box::new(move |step, range| {
            let rows: Vec<LmRow> = rows.batch(step).take(range.end).skip(range.start).collect();
            let batch = flatten(&rows, HOST);
            BatchCost::of(&batch.flat, batch.targets.size()[0] as usize)
        }),
    };
    StepEstimate::of_training(stage, outset, memory, microbatch_tokens, rows)
}
