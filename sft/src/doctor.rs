//! `align doctor` for supervised finetuning and pretraining: whether the loss stands on the answers and on nothing else, and depends on no
//! batch, on the user's own checkpoint and data.

use align_core::config::{OptimizerSection, ScheduleSection};
use align_core::error::Result;
use align_core::progress::Progress;
use align_data::{Batches, Kind, Length, Order, RawRows, Record};
use align_kernels::kind_of;
use align_model::CausalLm;
use align_text::chatml::{ChatFormat, Dialogue, LossOn, Message, Role};
use align_tokens::LmRow;
use align_train::lm;
use align_train::stage::Mixture;
use align_train::stage::doctor::{Check, Diagnosis, LEARNING_RATE, alone, tolerance};

use crate::config::{PretrainConfig, SftConfig, TrainSection};
use crate::train::{Sections, Trainer};
use crate::{Inputs, load, pretrain_inputs, sft_inputs};

/// Rows that are looked at.
const ROWS: usize = 8;

/// Examines what `align sft` would train. Nothing is written.
///
/// # Errors
/// As [`crate::sft`] before its first step.
pub fn doctor(config: &SftConfig, progress: &mut dyn Progress) -> Result<Diagnosis> {
    let path = &config.model.path;
    let (inputs, format) = sft_inputs(config, progress)?;
    let mut checks = vec![Check::template(path, &format, &|dialogue: &Dialogue| {
        format.prompt(dialogue).expect("a dialogue of texts")
    })?];
    if config.data.loss_on == LossOn::Assistant {
        checks.push(mask(config, &format)?);
    }
    examine(inputs, checks, progress)
}

/// As [`doctor`], of `align pretrain`.
///
/// # Errors
/// As [`crate::pretrain`] before its first step.
pub fn doctor_pretrain(config: &PretrainConfig, progress: &mut dyn Progress) -> Result<Diagnosis> {
    examine(pretrain_inputs(config, progress)?, Vec::new(), progress)
}

/// What both share: the model on the first rows, and a step on them.
fn examine(mut inputs: Inputs<'_>, mut checks: Vec<Check>, progress: &mut dyn Progress) -> Result<Diagnosis> {
    let (outset, Sections { model: base, train, optimizer, schedule, run }) = (inputs.outset(), inputs.sections);
    tch::set_num_threads(run.num_threads() as i32);
    progress.begin("examining", 2);
    let few: Vec<LmRow> = inputs.rows.train.iter().take(ROWS).collect();
    let model = load(&inputs, false)?;
    let logprobs = |rows: &[LmRow]| {
        let mut found = Vec::new();
        lm::evaluate(&model, rows, train.microbatch_tokens, &mut |_, _, logprobs| {
            found.extend(logprobs.iter().map(|logprob| f64::from(*logprob)))
        });
        found
    };
    let (together, again) = (logprobs(&few), logprobs(&few));
    let each: Vec<f64> = few.iter().flat_map(|row| truth(&model, row)).collect();
    let limit = tolerance(kind_of(base.dtype));
    checks.push(Check::compare("log-probabilities do not depend on the batch", &together, &each, limit));
    checks.push(Check::same_twice(&together, &again));

    progress.advance(1, "a step");
    // One step on these rows, at a rate that is felt.
    let optimizer = OptimizerSection { lr: optimizer.lr.max(LEARNING_RATE), ..optimizer.clone() };
    let (train, schedule) =
        (TrainSection { dropout: 0.0, ..train.clone() }, ScheduleSection { warmup_steps: 0, ..schedule.clone() });
    let order = Order::new(&[few.len()], None, train.seed, false);
    inputs.rows.batches = Batches::new(order, few.len(), Length::Steps(2));
    let sections = Sections { train: &train, optimizer: &optimizer, schedule: &schedule, ..inputs.sections };
    let mut trainer = Trainer::new(sections, &inputs.rows, &inputs.source.tokenizer, model);
    checks.push(Check::learns(&mut trainer)?);
    progress.end();
    Ok(Diagnosis { outset, checks })
}

/// The tokens with loss, as text, against the answers of the data, each with its end token.
fn mask(config: &SftConfig, format: &ChatFormat) -> Result<Check> {
    let files = Mixture::new(&config.data.train, &config.data.mix).files;
    let (mut looked, mut right, mut first_wrong) = (0, 0, None);
    let rows = RawRows::open(&files[0], Some(Kind::Chat))?.map_while(Result::ok);
    for read in rows.filter_map(|row| row.record(Kind::Chat).ok()).take(ROWS) {
        let Record::Chat(dialogue) = read.record else { unreachable!("a chat file gives chat records") };
        let answers = dialogue.messages.iter().filter(|message| message.role == Role::Assistant);
        // Reasoning and calls are rendered by the family's own rules, which the template check is about.
        let is_text = |answer: &&Message| {
            answer.reasoning.is_none() && answer.tool_calls.is_empty() && !answer.content.contains("</think>")
        };
        if !answers.clone().all(|answer| is_text(&answer)) {
            continue;
        }
        let end = |answer: &Message| if answer.is_whole { "<|im_end|>" } else { "" };
        let expected: String = answers
            .filter(|answer| answer.is_trained)
            .map(|answer| format!("{}{}", answer.content.trim_start_matches('\n'), end(answer)))
            .collect();
        let Ok(encoded) = format.dialogue(&dialogue, LossOn::Assistant) else { continue };
        let masked = encoded.tokens.iter().zip(&encoded.loss_mask).filter(|(_, counts)| **counts);
        let trained = format.tokenizer().decode(&masked.map(|(token, _)| *token).collect::<Vec<i64>>());
        looked += 1;
        if trained.replace("\n", "") == expected.replace("\n", "") {
            right += 1;
        } else {
            first_wrong.get_or_insert(trained);
        }
    }
    let measured = match first_wrong {
        None => format!("{right} of {looked} dialogues"),
        Some(text) => format!("{right} of {looked} dialogues; one has {text:?}"),
    };
    Ok(Check::new("the loss stands on the answers and their ends", measured, "all", right == looked))
}

/// Log-probabilities of a row's targets, every piece alone in its batch.
fn truth(model: &CausalLm, row: &LmRow) -> Vec<f64> {
    let _no_grad = tch::no_grad_guard();
    let of_piece = |piece: &align_tokens::Piece| -> Vec<f64> {
        let logits = model.head().logits(&model.hidden(&alone(&piece.tokens), None)); // (T, V)
        let logprobs = logits.to_kind(tch::Kind::Double).log_softmax(-1, tch::Kind::Double);
        piece.targets().map(|at| logprobs.double_value(&[at as i64 - 1, piece.tokens[at]])).collect()
    };
    row.pieces.iter().flat_map(of_piece).collect()
}
