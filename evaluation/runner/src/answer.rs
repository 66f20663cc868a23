//! Puts a task to a model.

use align_core::error::{Error, Result};
use align_core::progress::Progress;
use align_model::CausalLm;
use align_tasks::task::{Answer, Ask, Item, Task, short_name};

use crate::choose::{batches, choose};
use crate::encode::{Encoded, Encoder};
use crate::journal::{Given, Journal};
use crate::write::{Drawing, Question, write};

/// A model that answers.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// Its weights.
    pub model: &'a CausalLm,
    /// How it reads prompts.
    pub encoder: Encoder<'a>,
    /// How it answers with texts.
    pub drawing: Drawing,
    /// Tokens of a forward pass.
    pub microbatch_tokens: usize,
}

/// A task's items as tokens, in the task's order.
#[derive(Debug)]
pub struct EncodedTask {
    /// By subject, then by item.
    pub subjects: Vec<Vec<Encoded>>,
}

impl EncodedTask {
    /// Encodes every item. Nothing of the model but its tokenizer is needed.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn new(task: &Task, encoder: &Encoder<'_>) -> Result<Self> {
        let encode = |items: &[Item]| items.iter().map(|item| encoder.encode(item)).collect::<Result<Vec<_>>>();
        Ok(Self { subjects: task.subjects.iter().map(|subject| encode(&subject.items)).collect::<Result<_>>()? })
    }

    /// The number of prompts that lost their beginning.
    pub fn cut_prompts(&self) -> usize {
        self.subjects.iter().flatten().filter(|item| item.cut_tokens > 0).count()
    }
}

/// The answers to every item of a task: by subject, item and sample. Those that the journal has are not asked
/// for again.
///
/// # Errors
/// [`Error::Failed`] when the model gives a non-finite number, [`Error::Io`] of the journal.
pub fn answer(
    subject: &Subject<'_>,
    task: &Task,
    encoded: &EncodedTask,
    journal: &mut Journal,
    progress: &mut dyn Progress,
) -> Result<Vec<Vec<Vec<Given>>>> {
    let items = task.subjects.iter().flat_map(|part| &part.items);
    let total: usize =
        items.filter(|item| !is_answered(item, subject, journal)).map(|item| samples(item, subject)).sum();
    progress.begin(&short_name(&task.name), total as u64);
    for (part, encoded) in task.subjects.iter().zip(&encoded.subjects) {
        answer_choices(subject, &part.items, encoded, journal, progress)?;
    }
    answer_texts(subject, task, encoded, journal, progress)?;
    progress.end();
    let given = |item: &Item, sample| journal.get(&item.id, sample).expect("every item was answered").clone();
    let of_item = |item: &Item| (0..samples(item, subject)).map(|sample| given(item, sample)).collect();
    Ok(task.subjects.iter().map(|part| part.items.iter().map(of_item).collect()).collect())
}

/// Probabilities do not vary: one sample of them is all.
fn samples(item: &Item, subject: &Subject<'_>) -> usize {
    if matches!(item.ask, Ask::Choose(_)) { 1 } else { subject.drawing.samples }
}

/// Whether a run that is resumed has the item's answers.
fn is_answered(item: &Item, subject: &Subject<'_>, journal: &Journal) -> bool {
    (0..samples(item, subject)).all(|sample| journal.get(&item.id, sample).is_some())
}

fn answer_choices(
    subject: &Subject<'_>,
    items: &[Item],
    encoded: &[Encoded],
    journal: &mut Journal,
    progress: &mut dyn Progress,
) -> Result<()> {
    let (items, encoded): (Vec<&Item>, Vec<Encoded>) = items
        .iter()
        .zip(encoded)
        .filter(|(item, _)| matches!(item.ask, Ask::Choose(_)))
        .map(|(item, encoded)| (item, encoded.clone()))
        .unzip();
    // Batches are those of the whole subject also when a run resumes, so that it gives the same numbers.
    for batch in batches(&encoded, subject.microbatch_tokens) {
        let items = &items[batch.clone()];
        let waiting = items.iter().filter(|item| !is_answered(item, subject, journal)).count();
        if waiting > 0 {
            let chosen = choose(subject.model, &encoded[batch]);
            let mut answers = Vec::with_capacity(items.len());
            for (item, choice) in items.iter().zip(chosen) {
                if choice.iter().any(|choice| !choice.logprob.is_finite()) {
                    return Err(non_finite(&item.id));
                }
                answers.push((item.id.clone(), 0, Given { answer: Answer::Choice(choice), tokens: 0, ended: None }));
            }
            journal.add(answers)?;
        }
        progress.advance(waiting as u64, "");
    }
    Ok(())
}

fn non_finite(id: &str) -> Error {
    Error::Failed(format!("{id}: a log-probability is not finite, expected a finite number; the model is damaged"))
}

fn answer_texts(
    subject: &Subject<'_>,
    task: &Task,
    encoded: &EncodedTask,
    journal: &mut Journal,
    progress: &mut dyn Progress,
) -> Result<()> {
    let all = task.subjects.iter().flat_map(|part| &part.items).zip(encoded.subjects.iter().flatten());
    let (mut items, mut questions) = (Vec::new(), Vec::new());
    for (item, encoded) in all {
        let Some(question) = Question::new(item, &encoded.prompt) else { continue };
        if is_answered(item, subject, journal) {
            continue;
        }
        items.push(item);
        questions.push(question);
    }
    if questions.is_empty() {
        return Ok(());
    }
    let Encoder { tokenizer, format, .. } = subject.encoder;
    let mut on_done = |question: usize, sample: usize, written: crate::write::Written| {
        progress.advance(1, "");
        journal.add(vec![(items[question].id.clone(), sample, written.into())])
    };
    write(subject.model, tokenizer, format, &questions, &subject.drawing, &mut on_done)
}
