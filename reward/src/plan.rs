//! `align plan` for reward models: the memory and the arithmetic of a step on the comparisons of the run.

use align_kernels::HOST;
use align_kernels::kind_of;
use align_model::Writing;
use std::rc::Rc;

use align_model::{Face, ModelOptions};
use align_train::footprint::{self, BatchCost, ModelMemory, STEPS, StepEstimate};
use align_train::stage::Stage as _;

use crate::checked::Rm;
use crate::config::Stage as RmStage;
use crate::data::{Row, flatten};

/// The estimate for the first steps of the run.
pub(crate) fn estimate(stage: Rm) -> StepEstimate {
    let outset = stage.outset();
    let Rm { config, source, rows, .. } = stage;
    let train = &config.train;
    let options = ModelOptions {
        device: HOST,
        compute: kind_of(config.model.dtype),
        trainable: true,
        recompute_layers: config.model.recompute_layers,
    };
    let has_lm_head = config.loss.lm_coef > 0.0;
    let result_dtype = Writing::of(config.run.result_dtype, Face::Scalar, train.seed).dtype;
    let memory = ModelMemory { config: source.header.config, options, has_lm_head, dropout: false, result_dtype };
    let targets = move |row: &Row| if has_lm_head { row.num_answer_tokens(row.best) } else { 0 };
    let rows = Rc::new(rows);
    let layout_rows = Rc::clone(&rows);
    let rows = footprint::Rows {
        steps: rows.batches.steps().min(STEPS),
        sizes: Box::new(move |step| rows.batch(step).map(|row| (row.len(), targets(row))).collect()),
        layout: Box::new(move |step, range| {
            let rows: Vec<&Row> = layout_rows.batch(step).take(range.end).skip(range.start).collect();
            BatchCost::of(&flatten(&rows, HOST).flat, rows.iter().map(|row| targets(row)).sum())
        }),
    };
    StepEstimate::of_training(config.stage.map_or("rm", RmStage::name), outset, memory, train.microbatch_tokens, rows)
}
