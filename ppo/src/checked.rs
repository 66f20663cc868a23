//! The checked inputs of `align ppo`.

use std::path::Path;

use align_core::error::{Problems, Result};
use align_model::contract::ScoreContract;
use align_text::chatml::ChatFormat;
use align_train::stage::{
    ScoreOptions, Scorer, Source, check_causal_lm, check_device, check_format, check_reward_model, check_scalar_model,
    check_trained_length,
};

use crate::config::PpoConfig;
use crate::inputs::{Data, Reader};
use crate::rollout::Reading;

/// `align ppo`.
pub struct Ppo {
    pub(crate) config: PpoConfig,
    pub(crate) policy: Source,
    pub(crate) reward: Source,
    pub(crate) reading: Reading,
    pub(crate) second_reading: Reading,
    /// What is assumed about reward models without align.json, by config key.
    pub(crate) assumed: Vec<(&'static str, String)>,
    pub(crate) format: ChatFormat,
    pub(crate) data: Data,
    /// The shift in the align.json of `models.value`.
    pub(crate) value_shift: Option<f64>,
}

impl Ppo {
    /// Reads and checks everything, without loading a tensor.
    pub(crate) fn read(config: &PpoConfig) -> Result<Self> {
        let mut problems = Problems::new();
        let models = &config.models;
        check_device("run.device", config.run.device(), &mut problems);
        for (key, named) in models.devices().into_iter().filter(|(_, named)| named.is_some()) {
            check_device(&format!("models.{key}"), config.device(named), &mut problems);
        }
        let policy = check_causal_lm(&models.policy, &mut problems)?;
        let format = check_format(&models.policy, policy.as_ref(), &config.data.system, &mut problems)?;
        let options = ScoreOptions { position: config.reward.score_at, system: config.reward.system.clone() };
        let reward = check_reader(&models.reward, format.as_ref(), &options, &mut problems)?;
        let mut value_shift = None;
        if let Some(path) = &models.value {
            let value = check_scalar_model(path, &ScoreOptions::default(), &mut problems)?;
            if let (Some(value), Some(format)) = (&value, &format) {
                check_contract(path, value, value.source.contract.as_ref(), format, &mut problems);
            }
            value_shift = value.and_then(|value| value.source.contract).and_then(|contract| contract.value_shift);
        }
        let second = match &config.reward.second {
            Some(path) => {
                let options = ScoreOptions {
                    position: config.reward.second_score_at,
                    system: config.reward.second_system.clone(),
                };
                check_reader(path, format.as_ref(), &options, &mut problems)?
            }
            None => None,
        };
        let mut readers =
            [Reader::new(reward.as_ref(), format.as_ref()), Reader::new(second.as_ref(), format.as_ref())];
        let data = match &format {
            Some(format) => Data::read(config, format, &mut readers, &mut problems)?,
            None => Data::default(),
        };
        // The value model has the reward model's context length.
        let scorers = [&reward, &second].map(|scorer| scorer.as_ref().map(|scorer| &scorer.source));
        for source in std::iter::once(policy.as_ref()).chain(scorers).flatten() {
            let longest =
                data.prompts.tokens.iter().map(Vec::len).max().unwrap_or(0) + config.rollout.max_response_tokens;
            let what = "after the longest prompt makes a dialogue";
            check_trained_length(&source.header, longest, "rollout.max_response_tokens", what, &mut problems);
        }
        let ((policy, reward), format) = problems.into_checked(policy.zip(reward).zip(format))?;
        let mut assumed = Vec::new();
        for (key, scorer) in [("models.reward", Some(&reward)), ("reward.second", second.as_ref())] {
            assumed.extend(scorer.and_then(|scorer| Some((key, scorer.assumed.clone()?))));
        }
        let [reading, second_reading] = readers.map(|reader| reader.reading);
        let (config, reward) = (config.clone(), reward.source);
        Ok(Self { config, policy, reward, reading, second_reading, assumed, format, data, value_shift })
    }
}

/// Checks a reward model, and whether its contract fits the dialogues of the policy. `options.system`
/// overrides the system text of the contract.
fn check_reader(
    path: &Path,
    format: Option<&ChatFormat>,
    options: &ScoreOptions,
    problems: &mut Problems,
) -> Result<Option<Scorer>> {
    let scorer = check_reward_model(path, options, problems)?;
    if let (Some(scorer), Some(format)) = (&scorer, format) {
        let contract = scorer.source.contract.clone().map(|contract| match options.system {
            Some(_) => ScoreContract { system: format.system().to_owned(), ..contract },
            None => contract,
        });
        check_contract(path, scorer, contract.as_ref(), format, problems);
    }
    Ok(scorer)
}

/// Reports every difference between the contract of a reward or value model and the dialogues of the policy.
fn check_contract(
    path: &Path,
    scorer: &Scorer,
    contract: Option<&ScoreContract>,
    format: &ChatFormat,
    problems: &mut Problems,
) {
    match contract {
        Some(contract) => contract.compare(path, format, problems),
        None if scorer.source.tokenizer.fingerprint() != format.tokenizer().fingerprint() => {
            problems.push(path.display(), "has another tokenizer than the policy, expected the same; train it from a checkpoint of the policy's family");
        }
        None => {}
    }
}
