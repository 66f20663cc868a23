//! `align doctor` for supervised finetuning and pretraining, on the user's own checkpoint and data: whether
//! the loss is on the answers only, and independent of the batch.

use align_core::error::Result;
use align_core::progress::Progress;
use align_data::{Batches, Chat, Kind, Length, Order, RawRows};
use align_kernels::kind_of;
use align_model::CausalLm;
use align_text::chatml::{ChatFormat, Dialogue, LossOn, Message, Role};
use align_tokens::LmRow;
use align_train::lm;
use align_train::stage::doctor::{Check, LEARNING_RATE, single_sequence, tolerance};
use align_train::stage::{Mixture, Start};

use crate::checked::Inputs;
use crate::config::SftConfig;

/// Number of rows that are checked.
const ROWS: usize = 8;

/// The checks of sft only: the chat template and the loss mask.
pub(crate) fn chat(config: &SftConfig, format: &ChatFormat) -> Result<Vec<Check>> {
    let mut checks = vec![Check::template(&config.model.path, format, &|dialogue: &Dialogue| {
        format.prompt(dialogue).expect("a dialogue of texts")
    })?];
    if config.data.loss_on == LossOn::Assistant {
        checks.push(mask(config, format)?);
    }
    Ok(checks)
}

/// The checks of sft and pretraining: the model on the first rows, and a step on them.
pub(crate) fn examine(mut inputs: Inputs, mut checks: Vec<Check>, progress: &mut dyn Progress) -> Result<Vec<Check>> {
    progress.begin("examining", 2);
    let first_rows: Vec<LmRow> = inputs.rows.train.iter().take(ROWS).collect();
    let model = inputs.model(Start::Models)?;
    let logprobs = |rows: &[LmRow]| {
        let mut found = Vec::new();
        lm::evaluate(&model, rows, inputs.sections.train.microbatch_tokens, &mut |_, _, logprobs| {
            found.extend(logprobs.iter().map(|logprob| f64::from(*logprob)))
        });
        found
    };
    let (together, again) = (logprobs(&first_rows), logprobs(&first_rows));
    let separate: Vec<f64> = first_rows.iter().flat_map(|row| reference_logprobs(&model, row)).collect();
    let limit = tolerance(kind_of(inputs.sections.model.dtype));
    checks.push(Check::compare("log-probabilities do not depend on the batch", &together, &separate, limit));
    checks.push(Check::deterministic(&together, &again));

    progress.advance(1, "a step");
    // Steps on these rows, with a learning rate that changes the loss measurably.
    let sections = &mut inputs.sections;
    sections.optimizer.lr = sections.optimizer.lr.max(LEARNING_RATE);
    sections.train.dropout = 0.0;
    sections.schedule.remove_warmup();
    let order = Order::new(&[first_rows.len()], None, None);
    inputs.rows.batches = Batches::new(order, first_rows.len(), Length::Steps(2));
    checks.push(Check::learns(&mut inputs.trainer(model))?);
    progress.end();
    Ok(checks)
}

/// Compares the tokens with loss, as text, with the answers of the data and their end tokens.
fn mask(config: &SftConfig, format: &ChatFormat) -> Result<Check> {
    let files = Mixture::new(&config.data.train, &config.data.mix).files;
    let (mut checked, mut equal, mut first_wrong) = (0, 0, None);
    let rows = RawRows::open(&files[0], Some(Kind::Chat))?.map_while(Result::ok);
    for (Chat(dialogue), _) in rows.filter_map(|row| row.read().ok()).take(ROWS) {
        let answers = dialogue.messages.iter().filter(|message| message.role == Role::Assistant);
        // Reasoning and tool calls have their own rendering, which the template check covers.
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
        checked += 1;
        if trained.replace("\n", "") == expected.replace("\n", "") {
            equal += 1;
        } else {
            first_wrong.get_or_insert(trained);
        }
    }
    let measured = match first_wrong {
        None => format!("{equal} of {checked} dialogues"),
        Some(text) => format!("{equal} of {checked} dialogues; one has {text:?}"),
    };
    Ok(Check::new("the loss is on the answers and their end tokens only", measured, "all", equal == checked))
}

/// Log-probabilities of a row's targets, with every piece in a batch of its own.
fn reference_logprobs(model: &CausalLm, row: &LmRow) -> Vec<f64> {
    let _no_grad = tch::no_grad_guard();
    let of_piece = |piece: &align_tokens::Piece| -> Vec<f64> {
        let logits = model.head().logits(&model.hidden(&single_sequence(&piece.tokens), None)); // (T, V)
        let logprobs = logits.to_kind(tch::Kind::Double).log_softmax(-1, tch::Kind::Double);
        piece.targets().map(|at| logprobs.double_value(&[at as i64 - 1, piece.tokens[at]])).collect()
    };
    row.pieces.iter().flat_map(of_piece).collect()
}
