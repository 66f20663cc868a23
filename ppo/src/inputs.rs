//! The prompts and texts of a run, and their metadata.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use align_core::error::{Problem, Problems, Result, cause};
use align_data::{self as data, Parsed, Prompt, RowLocation, Unread, files_of};
use align_text::chatml::{ChatFormat, Dialogue};
use align_train::stage::{Scorer, set_names};
use serde_json::{Value, json};

use crate::config::PpoConfig;
use crate::rollout::Reading;

/// Prompts of one or several files.
#[derive(Debug, Default)]
pub(crate) struct Prompts {
    /// Token ids in file order, up to the first token of the response.
    pub(crate) tokens: Vec<Vec<i64>>,
    /// Number of prompts left out because of their length.
    pub(crate) dropped: u64,
    turns: u64,
    /// Number of prompts with a text that spells a special token; it is tokenized as ordinary text.
    special_text: u64,
}

/// Collects a reward model's own rendering of the prompts while they are read.
pub(crate) struct Reader {
    /// The format, if it may render another text than the policy's.
    format: Option<ChatFormat>,
    /// How the reward model reads responses, so far.
    pub(crate) reading: Reading,
}

impl Reader {
    /// The reader of a reward model, given the format of the policy.
    pub(crate) fn new(scorer: Option<&Scorer>, policy: Option<&ChatFormat>) -> Self {
        let format = scorer.map(|scorer| scorer.format.clone());
        let tokens_after_end = format.as_ref().map_or_else(Vec::new, |format| format.tokens_after_end().to_vec());
        let differs = |format: &ChatFormat| {
            policy.is_some_and(|policy| policy.clone().scored_at(format.score_at()).cache_key() != format.cache_key())
        };
        Self { format: format.filter(differs), reading: Reading { tokens_after_end, ..Reading::default() } }
    }

    /// The prompt in the rendering of this model, if it has its own.
    fn other(&self, dialogue: &Dialogue) -> Parsed<Option<Vec<i64>>> {
        self.format.as_ref().map(|format| format.prompt(dialogue)).transpose()
    }

    fn take(&mut self, prompt: &[i64], other: Option<Vec<i64>>) {
        if let Some(other) = other.filter(|other| other != prompt) {
            self.reading.prompts.entry(prompt.to_vec()).or_insert(other);
        }
    }
}

/// The data of a run.
#[derive(Debug, Default)]
pub(crate) struct Data {
    /// Prompts to train on.
    pub(crate) prompts: Prompts,
    /// Held-out files.
    pub(crate) eval: Vec<(String, Prompts)>,
    /// Pretraining text; none when `ptx.coef` is 0.
    pub(crate) documents: Vec<Vec<i64>>,
    /// Bad rows that were skipped, with location and reason.
    pub(crate) skipped: Vec<Problem>,
    /// Keys of rows that are not read.
    pub(crate) unread: Unread,
}

impl Data {
    /// Reads the files of a config, and how the reward models read the prompts; adds bad data to `problems`.
    ///
    /// # Errors
    /// Errors other than bad data.
    pub(crate) fn read(
        config: &PpoConfig,
        format: &ChatFormat,
        readers: &mut [Reader],
        problems: &mut Problems,
    ) -> Result<Self> {
        let (data, mut found) = (&config.data, Self::default());
        if !data.prompts.is_empty() {
            found.prompts = found.read_prompts(&data.prompts, config, format, readers, problems)?;
        }
        for (name, set) in set_names(&data.eval_prompts).into_iter().zip(data.eval_prompts.iter()) {
            let prompts = found.read_prompts(&files_of(set), config, format, readers, problems)?;
            found.eval.push((name, prompts));
        }
        if config.ptx.coef > 0.0 {
            let read = align_tokens::documents(&data.pretrain, format.tokenizer(), data.bad_rows);
            if let Some((documents, bad)) = problems.absorb(read)? {
                found.documents = documents;
                found.skipped.extend(bad);
            }
        }
        Ok(found)
    }

    fn read_prompts(
        &mut self,
        files: &[PathBuf],
        config: &PpoConfig,
        format: &ChatFormat,
        readers: &mut [Reader],
        problems: &mut Problems,
    ) -> Result<Prompts> {
        let (mut found, limit) = (Prompts::default(), config.data.max_prompt_tokens);
        let prepare = |_: &RowLocation, Prompt(dialogue): Prompt| {
            let prompt = format.prompt(&dialogue)?;
            let others = readers.iter().map(|reader| reader.other(&dialogue)).collect::<Parsed<Vec<_>>>()?;
            Ok((dialogue, prompt, others))
        };
        let Some(rows) = problems.absorb(data::read_rows(files, config.data.bad_rows, &prepare))? else {
            return Ok(found);
        };
        self.skipped.extend(rows.skipped);
        self.unread.add(&rows.unread);
        for (_, (dialogue, prompt, others)) in rows.records {
            if prompt.len() > limit {
                found.dropped += 1;
                continue;
            }
            readers.iter_mut().zip(others).for_each(|(reader, other)| reader.take(&prompt, other));
            found.turns += dialogue.messages.len() as u64;
            let spells = dialogue.texts().any(|text| format.tokenizer().spells_special(text));
            found.special_text += u64::from(spells);
            found.tokens.push(prompt);
        }
        if found.tokens.is_empty() {
            let what = "no prompt is left, expected at least one within data.max_prompt_tokens";
            problems.push(files[0].display(), what);
        }
        Ok(found)
    }

    /// Counts of the data: shown before the first step, and in run.json.
    pub(crate) fn metadata(&self) -> Vec<(&'static str, Value)> {
        let prompts = &self.prompts;
        let held_out = |count: fn(&Prompts) -> u64| json!(self.eval.iter().map(|(_, set)| count(set)).sum::<u64>());
        let tokens = |sequences: &[Vec<i64>]| json!(sequences.iter().map(Vec::len).sum::<usize>());
        let trained_on: u64 = self.overlaps().iter().map(|(trained_on, _)| trained_on).sum();
        let mut metadata = vec![
            ("prompts", json!(prompts.tokens.len())),
            ("turns", json!(prompts.turns)),
            ("prompt tokens", tokens(&prompts.tokens)),
            ("prompts dropped", json!(prompts.dropped)),
            ("duplicate prompts", json!(duplicates(&prompts.tokens))),
            ("prompts with special-token text", json!(prompts.special_text)),
            ("held-out prompts", held_out(|set| set.tokens.len() as u64)),
            ("held-out prompts dropped", held_out(|set| set.dropped)),
            ("held-out prompts trained on", json!(trained_on)),
            ("pretraining documents", json!(self.documents.len())),
            ("pretraining tokens", tokens(&self.documents)),
            ("duplicate pretraining documents", json!(duplicates(&self.documents))),
            ("bad rows skipped", json!(self.skipped.len())),
        ];
        let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
        self.skipped.iter().for_each(|problem| *reasons.entry(cause(&problem.what)).or_default() += 1);
        if !self.unread.is_empty() {
            metadata.push(("keys that are not read", json!(self.unread)));
        }
        if !reasons.is_empty() {
            metadata.push(("bad rows by reason", json!(reasons)));
        }
        metadata
    }

    /// For each held-out file, the number of prompts that are also trained on, and of all prompts.
    pub(crate) fn overlaps(&self) -> Vec<(u64, u64)> {
        let trained: HashSet<&Vec<i64>> = self.prompts.tokens.iter().collect();
        let of_set = |(_, set): &(String, Prompts)| {
            (set.tokens.iter().filter(|prompt| trained.contains(prompt)).count() as u64, set.tokens.len() as u64)
        };
        self.eval.iter().map(of_set).collect()
    }
}

/// Number of sequences that equal an earlier one.
pub(crate) fn duplicates(sequences: &[Vec<i64>]) -> u64 {
    let mut seen = HashSet::new();
    sequences.iter().filter(|sequence| !seen.insert(*sequence)).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(tokens: &[&[i64]]) -> Prompts {
        Prompts { tokens: tokens.iter().map(|prompt| prompt.to_vec()).collect(), ..Prompts::default() }
    }

    #[test]
    fn duplicates_and_overlaps_are_counted() {
        let data = Data {
            prompts: prompts(&[&[1, 2], &[1, 3], &[1, 2], &[1, 2], &[4]]),
            eval: vec![("a".to_owned(), prompts(&[&[1, 2], &[9]])), ("b".to_owned(), prompts(&[&[4], &[4], &[1, 3]]))],
            documents: vec![vec![7], vec![7, 8], vec![7]],
            ..Data::default()
        };
        assert_eq!(data.overlaps(), [(1, 2), (3, 3)]);
        let metadata = data.metadata();
        let count = |name: &str| metadata.iter().find(|(own, _)| *own == name).unwrap().1.as_u64().unwrap();
        assert_eq!((count("duplicate prompts"), count("prompt tokens")), (2, 9));
        assert_eq!((count("held-out prompts"), count("held-out prompts trained on")), (5, 4));
        assert_eq!((count("pretraining tokens"), count("duplicate pretraining documents")), (4, 1));
    }
}
