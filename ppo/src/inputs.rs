//! The prompts and texts of a run, and what is said of them.

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
    /// In file order, rendered up to where the response begins.
    pub(crate) tokens: Vec<Vec<i64>>,
    /// Those left out for their length.
    pub(crate) dropped: u64,
    turns: u64,
    /// Prompts with a text that spells a special token, which it does not become.
    special_text: u64,
}

/// A reward model's own rendering of prompts, while they are read.
pub(crate) struct Reader {
    /// Where it may render another text than the policy.
    format: Option<ChatFormat>,
    /// What was found of it.
    pub(crate) reading: Reading,
}

impl Reader {
    /// Of a reward model, beside the policy's format.
    pub(crate) fn new(scorer: Option<&Scorer>, policy: Option<&ChatFormat>) -> Self {
        let format = scorer.map(|scorer| scorer.format.clone());
        let tokens_after_end = format.as_ref().map_or_else(Vec::new, |format| format.tokens_after_end().to_vec());
        let differs = |format: &ChatFormat| {
            policy.is_some_and(|policy| policy.clone().scored_at(format.score_at()).cache_key() != format.cache_key())
        };
        Self { format: format.filter(differs), reading: Reading { tokens_after_end, ..Reading::default() } }
    }

    /// The prompt as this model reads it, where it has a rendering of its own.
    fn other(&self, dialogue: &Dialogue) -> Parsed<Option<Vec<i64>>> {
        self.format.as_ref().map(|format| format.prompt(dialogue)).transpose()
    }

    fn take(&mut self, prompt: &[i64], other: Option<Vec<i64>>) {
        if let Some(other) = other.filter(|other| other != prompt) {
            self.reading.prompts.entry(prompt.to_vec()).or_insert(other);
        }
    }
}

/// Everything that is read of data.
#[derive(Debug, Default)]
pub(crate) struct Data {
    /// Prompts to train on.
    pub(crate) prompts: Prompts,
    /// Held-out files.
    pub(crate) eval: Vec<(String, Prompts)>,
    /// Text of the pretrained gradient; none where that is off.
    pub(crate) documents: Vec<Vec<i64>>,
    /// Bad rows of all files that were left out, by name.
    pub(crate) skipped: Vec<Problem>,
    /// Keys of rows that nothing reads.
    pub(crate) unread: Unread,
}

impl Data {
    /// Reads what a config names, and how the reward models read the prompts; mistakes land in `problems`.
    ///
    /// # Errors
    /// What is not the user's mistake.
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

    /// What became of the data: shown before the first step, and in run.json.
    pub(crate) fn facts(&self) -> Vec<(&'static str, Value)> {
        let prompts = &self.prompts;
        let held_out = |count: fn(&Prompts) -> u64| json!(self.eval.iter().map(|(_, set)| count(set)).sum::<u64>());
        let tokens = |lists: &[Vec<i64>]| json!(lists.iter().map(Vec::len).sum::<usize>());
        let known: u64 = self.known().iter().map(|(known, _)| known).sum();
        let mut facts = vec![
            ("prompts", json!(prompts.tokens.len())),
            ("turns", json!(prompts.turns)),
            ("prompt tokens", tokens(&prompts.tokens)),
            ("prompts dropped", json!(prompts.dropped)),
            ("duplicate prompts", json!(duplicates(&prompts.tokens))),
            ("prompts with special-token text", json!(prompts.special_text)),
            ("held-out prompts", held_out(|set| set.tokens.len() as u64)),
            ("held-out prompts dropped", held_out(|set| set.dropped)),
            ("held-out prompts trained on", json!(known)),
            ("pretraining documents", json!(self.documents.len())),
            ("pretraining tokens", tokens(&self.documents)),
            ("duplicate pretraining documents", json!(duplicates(&self.documents))),
            ("bad rows skipped", json!(self.skipped.len())),
        ];
        let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
        self.skipped.iter().for_each(|problem| *reasons.entry(cause(&problem.what)).or_default() += 1);
        if !self.unread.is_empty() {
            facts.push(("keys that are not read", json!(self.unread)));
        }
        if !reasons.is_empty() {
            facts.push(("bad rows by reason", json!(reasons)));
        }
        facts
    }

    /// Of each held-out file, how many prompts are also trained on, and how many there are.
    pub(crate) fn known(&self) -> Vec<(u64, u64)> {
        let trained: HashSet<&Vec<i64>> = self.prompts.tokens.iter().collect();
        let of_set = |(_, set): &(String, Prompts)| {
            (set.tokens.iter().filter(|prompt| trained.contains(prompt)).count() as u64, set.tokens.len() as u64)
        };
        self.eval.iter().map(of_set).collect()
    }
}

/// How many equal an earlier one.
pub(crate) fn duplicates(lists: &[Vec<i64>]) -> u64 {
    let mut seen = HashSet::new();
    lists.iter().filter(|list| !seen.insert(*list)).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(tokens: &[&[i64]]) -> Prompts {
        Prompts { tokens: tokens.iter().map(|prompt| prompt.to_vec()).collect(), ..Prompts::default() }
    }

    #[test]
    fn copies_and_known_prompts_are_counted() {
        let data = Data {
            prompts: prompts(&[&[1, 2], &[1, 3], &[1, 2], &[1, 2], &[4]]),
            eval: vec![("a".to_owned(), prompts(&[&[1, 2], &[9]])), ("b".to_owned(), prompts(&[&[4], &[4], &[1, 3]]))],
            documents: vec![vec![7], vec![7, 8], vec![7]],
            ..Data::default()
        };
        assert_eq!(data.known(), [(1, 2), (3, 3)]);
        let facts = data.facts();
        let fact = |name: &str| facts.iter().find(|(own, _)| *own == name).unwrap().1.as_u64().unwrap();
        assert_eq!((fact("duplicate prompts"), fact("prompt tokens")), (2, 9));
        assert_eq!((fact("held-out prompts"), fact("held-out prompts trained on")), (5, 4));
        assert_eq!((fact("pretraining tokens"), fact("duplicate pretraining documents")), (4, 1));
    }
}
