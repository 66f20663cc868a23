//! A reward model as a judge: ranks by its scores, which are those of `align score`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use align_core::config::Dtype;
use align_core::error::{Problem, Problems};
use align_core::progress::Progress;
use align_data::Response;
use align_judgments::Item;
use align_judgments::judge::JudgedFolder;
use align_judgments::judge::opinion::Opinion;
use align_model::{ScalarModel, require_finite};
use align_reward::responses::{Responses, score};
use align_text::chatml::ChatFormat;
use align_train::stage::{ScoreOptions, ScorePosition, Scorer, check_reward_model, evaluation_options, misfits};
use anyhow::Result;
use serde_json::{Value, json};

use super::super::eval::{MICROBATCH_TOKENS, not_a_number, warn_of_long};
use super::{CHUNK, JudgeStats, entry};
use crate::cli::judge::JudgeArgs;
use crate::terminal::{Terminal, report_assumed};

/// A reward model that passed every check.
pub(super) struct RewardJudge {
    dir: PathBuf,
    scorer: Scorer,
    tie_margin: f64,
}

impl RewardJudge {
    /// Checks the model's folder, and that it can read every item.
    pub(super) fn check(dir: &Path, args: &JudgeArgs, items: &[Item], problems: &mut Problems) -> Result<Option<Self>> {
        let options = ScoreOptions { position: ScorePosition::Auto, system: args.system.clone() };
        let Some(scorer) = check_reward_model(dir, &options, problems)? else { return Ok(None) };
        for item in items {
            if let Err(what) = encode(item, &scorer.format) {
                problems.push_problem(Problem::of_row(format!("item {}", item.id), what));
            }
        }
        Ok(Some(Self { dir: dir.to_owned(), scorer, tie_margin: args.tie_margin.unwrap_or(0.0) }))
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn identity(&self) -> Vec<(&'static str, Value)> {
        vec![entry("tie_margin", self.tie_margin), entry("system", self.scorer.format.system())]
    }

    pub(super) fn judge(&self, folder: &mut JudgedFolder, dtype: Dtype, terminal: &mut Terminal) -> Result<JudgeStats> {
        report_assumed(&self.dir, self.scorer.assumed.as_deref());
        let mut model = ScalarModel::load(&self.dir, &evaluation_options(dtype), 0)?;
        require_finite(&self.dir, model.parameters())?;
        model.extrapolate();
        let waiting = folder.waiting().to_vec();
        let encoded = |index: &usize| {
            encode(&folder.items()[*index], &self.scorer.format).expect("items are checked before they are judged")
        };
        let longer_than = |limit| misfits::longer(waiting.iter().map(|index| encoded(index).longest()), limit);
        warn_of_long(model.config(), Path::new("items"), "items have a dialogue", terminal, longer_than);
        terminal.begin("items", waiting.len() as u64);
        for chunk in waiting.chunks(CHUNK) {
            let started = Instant::now();
            let rows: Vec<Responses> = chunk
                .iter()
                .map(|&index| encode(&folder.items()[index], &self.scorer.format).expect("as above"))
                .collect();
            let scores = score(&model, &rows, MICROBATCH_TOKENS, &mut |_| {});
            let seconds = started.elapsed().as_secs_f64() / chunk.len() as f64;
            for (&index, rewards) in chunk.iter().zip(scores) {
                if rewards.iter().any(|reward| !reward.is_finite()) {
                    let place = format!("item {}", folder.items()[index].id);
                    return Err(not_a_number(place, "the score", &self.dir));
                }
                folder.append(index, Opinion::Rewards { rewards, tie_margin: self.tie_margin }, seconds)?;
            }
            terminal.advance(chunk.len() as u64, "");
        }
        terminal.end();
        Ok(JudgeStats::default())
    }
}

/// The responses of an item that differ, as `align score` reads a row of them.
fn encode(item: &Item, format: &ChatFormat) -> Result<Responses, String> {
    let texts: Vec<&String> = item.distinct().into_iter().map(|index| &item.responses[index]).collect();
    let row = json!({ "prompt": item.prompt, "responses": texts });
    let (row, _) = align_data::parse_row::<Response>(&row)?;
    Responses::new(&row, format)
}
