//! `align doctor` for reward models: whether scores are read at the end token and depend on the dialogue
//! alone, checked on the user's checkpoint and comparisons.

use align_core::error::Result;
use align_core::progress::Progress;
use align_data::{Batches, Length, Order};
use align_kernels::kind_of;
use align_text::chatml::Dialogue;
use align_train::stage::doctor::{Check, LEARNING_RATE, single_sequence, to_host, tolerance};

use crate::checked::Rm;
use crate::data::Row;
use crate::eval::score;

/// Number of comparisons that are examined.
const COMPARISONS: usize = 8;

/// Examines the model and the data of `align rm`.
pub(crate) fn examine(mut stage: Rm, progress: &mut dyn Progress) -> Result<Vec<Check>> {
    let model = stage.model()?;
    let Rm { config, format, rows, .. } = &mut stage;
    let end = format.tokenizer().special().im_end;
    let mut checks = vec![Check::template(&config.model.path, format, &|dialogue: &Dialogue| {
        format.prompt(dialogue).expect("a dialogue of texts")
    })?];

    progress.begin("examining", 2);
    let few: Vec<Row> = rows.train.rows.iter().take(COMPARISONS).cloned().collect();
    let dialogues: Vec<Vec<i64>> =
        few.iter().flat_map(|row| (0..row.tails.len()).map(|dialogue| row.dialogue(dialogue))).collect();
    let at_end = dialogues.iter().filter(|dialogue| dialogue.last() == Some(&end)).count();
    checks.push(Check::new(
        "dialogues end at the end token",
        format!("{at_end} of {}", dialogues.len()),
        "all",
        at_end == dialogues.len(),
    ));

    // In one batch with shared prefixes; then every dialogue alone, at its last token.
    let batched = score(&model, &few, config.train.microbatch_tokens, &mut |_| {});
    let repeated = score(&model, &few, config.train.microbatch_tokens, &mut |_| {});
    let last_scalar = |dialogue: &Vec<i64>| {
        let _no_grad = tch::no_grad_guard();
        let hidden = model.hidden(&single_sequence(dialogue), None).narrow(0, dialogue.len() as i64 - 1, 1);
        to_host(&model.scalars(&hidden))[0]
    };
    let alone: Vec<f64> = dialogues.iter().map(last_scalar).collect();
    let scale = alone.iter().map(|score| score.abs()).fold(1.0, f64::max);
    let limit = scale * tolerance(kind_of(config.model.dtype));
    checks.push(Check::compare("scores do not depend on batch, packing and prefix", &batched.concat(), &alone, limit));
    checks.push(Check::deterministic(&batched, &repeated));
    drop(model);
    progress.advance(1, "a step");

    // Two steps on these comparisons, with a learning rate that has an effect.
    config.optimizer.lr = config.optimizer.lr.max(LEARNING_RATE);
    config.schedule.remove_warmup();
    let order = Order::new(&[few.len()], None, None);
    rows.batches = Batches::new(order, few.len(), Length::Steps(2));
    rows.train.rows = few;
    let model = stage.model()?;
    checks.push(Check::learns(&mut stage.trainer(model))?);
    progress.end();
    Ok(checks)
}
