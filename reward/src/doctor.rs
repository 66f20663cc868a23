//! `align doctor` for reward models: whether a score is read where it should be and depends on nothing but its text, on the user's
//! own checkpoint and comparisons.

use align_core::error::Result;
use align_core::progress::Progress;
use align_data::{Batches, Length, Order};
use align_kernels::kind_of;
use align_text::chatml::Dialogue;
use align_train::stage::doctor::{Check, Diagnosis, LEARNING_RATE, alone, host, tolerance};

use crate::config::RmConfig;
use crate::data::Row;
use crate::eval::score;
use crate::train::Trainer;
use crate::{check, load, outset};

/// Comparisons that are looked at.
const COMPARISONS: usize = 8;

/// Examines what a config would train. Nothing is written.
///
/// # Errors
/// As [`crate::rm`] before its first step.
pub fn doctor(config: &RmConfig, progress: &mut dyn Progress) -> Result<Diagnosis> {
    let (source, format, mut rows) = check(config)?;
    let outset = outset(config, &source, &rows);
    tch::set_num_threads(config.run.num_threads() as i32);
    let model = load(config, &source)?;
    let end = format.tokenizer().special().im_end;
    let mut checks = vec![Check::template(&config.model.path, &format, &|dialogue: &Dialogue| {
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

    // Together, prefixes shared; then every dialogue alone, the scalar of its last token.
    let together = score(&model, &few, config.train.microbatch_tokens, &mut |_| {});
    let again = score(&model, &few, config.train.microbatch_tokens, &mut |_| {});
    let last_scalar = |dialogue: &Vec<i64>| {
        let _no_grad = tch::no_grad_guard();
        let hidden = model.hidden(&alone(dialogue), None).narrow(0, dialogue.len() as i64 - 1, 1);
        host(&model.scalars(&hidden))[0]
    };
    let each: Vec<f64> = dialogues.iter().map(last_scalar).collect();
    let scale = each.iter().map(|score| score.abs()).fold(1.0, f64::max);
    let limit = scale * tolerance(kind_of(config.model.dtype));
    checks.push(Check::compare("scores do not depend on batch, packing and prefix", &together.concat(), &each, limit));
    checks.push(Check::same_twice(&together, &again));
    drop(model);
    progress.advance(1, "a step");

    // One step on these comparisons, at a rate that is felt.
    let mut config = config.clone();
    config.optimizer.lr = config.optimizer.lr.max(LEARNING_RATE);
    config.schedule.warmup_steps = 0;
    let order = Order::new(&[few.len()], None, config.train.seed, false);
    rows.batches = Batches::new(order, few.len(), Length::Steps(2));
    rows.train.rows = few;
    let model = load(&config, &source)?;
    let mut trainer = Trainer::new(&config, &rows, &format, model);
    checks.push(Check::learns(&mut trainer)?);
    progress.end();
    Ok(Diagnosis { outset, checks })
}
