//! Measures the gain of each stage on held-out prompts, comparisons and text, which were used neither for
//! training nor for tuning.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use align_core::config::Dtype;
use align_core::progress::Progress;
use align_core::random::{self, Purpose};
use align_data::{self as data, BadRows, Prompt};
use align_datasets::{Gold, gold};
use align_model::generate::{Response, Sampling, generate};
use align_model::{CausalLm, ScalarModel};
use align_ppo::config::PpoConfig;
use align_reward::eval::{score, score_pairs};
use align_reward::stats::pair_accuracy;
use align_text::chatml::ChatFormat;
use align_text::tokenizer::Tokenizer;
use align_tokens::{Cache, LmRow, Piece, Reading};
use align_train::lm;
use align_train::stage::evaluation_options;
use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::terminal::Terminal;

const MICROBATCH_TOKENS: usize = 8192;
/// The number of responses decoded at once.
const ROWS: usize = 256;

/// The held-out prompts, as text and as tokens.
struct Prompts {
    texts: Vec<String>,
    tokens: Vec<Vec<i64>>,
}

/// The results of the stages, and what they were computed from.
pub(super) struct Measured {
    pub(super) results: Value,
    /// The held-out prompts.
    pub(super) prompts: Vec<String>,
    /// The responses to them, by stage.
    pub(super) responses: HashMap<&'static str, Vec<ScoredResponse>>,
}

/// A response as text.
pub(super) struct ScoredResponse {
    pub(super) text: String,
    /// Points of 100.
    pub(super) gold: Gold,
}

/// Measures the models of a finished quickstart, and adds the numbers to the results of its stages.
pub(super) fn measure(
    out: &Path,
    config: &PpoConfig,
    mut stages: Map<String, Value>,
    terminal: &mut Terminal,
) -> Result<Measured> {
    let seed = config.ppo.seed;
    let started = Instant::now();
    let data = |name: &str| vec![out.join("data").join(name)];
    let model = |stage: &str| out.join(stage).join("model");
    let tokenizer = Tokenizer::open(&model("sft"))?;
    let format = ChatFormat::open(&model("sft"), &tokenizer, &config.data.system)?;
    let prompts = read_prompts(&data("heldout-prompts.jsonl"), &format)?;
    let mut reading = Reading { bad_rows: BadRows::Error, cache: Cache::Off, progress: terminal };
    let documents = align_tokens::document_rows(&data("heldout-text.jsonl"), &tokenizer, 2048, &mut reading)?.rows;
    let documents: Vec<LmRow> = documents.iter().collect();
    let text: Vec<LmRow> = documents.iter().map(without_end).collect();
    let comparisons = align_reward::data::read(&data("heldout-comparisons.jsonl"), &format, None, BadRows::Error)?.rows;

    for stage in ["pmp", "rm"] {
        let reward_model = ScalarModel::load(&model(stage), &evaluation_options(Dtype::Float32), 0)?;
        terminal.begin(&format!("scoring {stage}"), comparisons.len() as u64);
        let scores =
            score(&reward_model, &comparisons, MICROBATCH_TOKENS, &mut |done| terminal.advance(done as u64, ""));
        terminal.end();
        let accuracy = pair_accuracy(score_pairs(&comparisons, &scores));
        let entry = &mut stages[stage];
        entry["pairs"] = json!(accuracy.pairs);
        entry["accuracy"] = json!(accuracy.accuracy);
        entry["accuracy_ci95"] = json!(accuracy.ci95);
    }

    let reference = CausalLm::load(&model("sft"), &evaluation_options(Dtype::Float32))?;
    let mut of_stages = HashMap::new();
    for stage in ["pretrain", "sft", "ppo", "ppo-without-ptx"] {
        let policy = CausalLm::load(&model(stage), &evaluation_options(Dtype::Float32))?;
        terminal.begin(&format!("asking {stage}"), prompts.tokens.len() as u64);
        let responses = respond(&policy, &prompts, &format, config, terminal)?;
        terminal.end();
        let entry = &mut stages[stage];
        let scored = scored(&prompts, &responses, &tokenizer);
        add_gold_scores(&prompts, &scored, entry);
        of_stages.insert(stage, scored);
        for (name, rows) in [("perplexity", &text), ("perplexity_with_end", &documents)] {
            entry[name] = json!(lm::evaluate(&policy, rows, MICROBATCH_TOKENS, &mut |_, _, _| {}).perplexity());
        }
        if stage.starts_with("ppo") {
            let rows = response_rows(&prompts, &responses);
            let difference = sum_logprobs(&policy, &rows) - sum_logprobs(&reference, &rows);
            entry["kl"] = json!(difference / rows.len() as f64);
        }
    }
    let results = json!({
        "seed": seed,
        "heldout_prompts": prompts.tokens.len(),
        "heldout_documents": text.len(),
        "measure_seconds": started.elapsed().as_secs_f64(),
        "stages": stages,
    });
    Ok(Measured { results, prompts: prompts.texts, responses: of_stages })
}

fn read_prompts(files: &[PathBuf], format: &ChatFormat) -> Result<Prompts> {
    let mut prompts = Prompts { texts: Vec::new(), tokens: Vec::new() };
    for (_, Prompt(dialogue)) in data::read_rows(files, BadRows::Error, &|_, prompt: Prompt| Ok(prompt))?.records {
        prompts.tokens.push(format.prompt(&dialogue).expect("the world's prompts are text"));
        prompts.texts.push(dialogue.messages.last().map(|message| message.content.clone()).unwrap_or_default());
    }
    Ok(prompts)
}

/// One response per prompt, sampled as in PPO.
fn respond(
    policy: &CausalLm,
    prompts: &Prompts,
    format: &ChatFormat,
    config: &PpoConfig,
    terminal: &mut Terminal,
) -> Result<Vec<Response>> {
    let sampling = Sampling {
        temperature: config.rollout.temperature,
        top_p: config.rollout.top_p,
        max_tokens: config.rollout.max_response_tokens,
        stop_ids: format.stop_ids(),
        vocab: format.tokenizer().vocab_size(),
        record_nucleus: false,
    };
    let draws = |prompt: usize, _: usize, position: usize| {
        random::uniform(config.ppo.seed, Purpose::Generate, 0, prompt as u64, position as u64)
    };
    let mut begun = HashSet::new();
    let mut on_token = |prompt: usize, _: usize, _: i64| {
        terminal.advance(u64::from(begun.insert(prompt)), "");
        ControlFlow::Continue(())
    };
    let responses = generate(policy, &prompts.tokens, 1, &sampling, ROWS, &draws, &mut on_token)?;
    Ok(responses.into_iter().flatten().collect())
}

/// The responses as texts with their gold scores.
fn scored(prompts: &Prompts, responses: &[Response], tokenizer: &Tokenizer) -> Vec<ScoredResponse> {
    let end = tokenizer.special().im_end;
    let pairs = prompts.texts.iter().zip(responses);
    pairs
        .map(|(prompt, response)| {
            let text = tokenizer.decode_text(&response.tokens);
            let gold = gold(prompt, &text, response.tokens.last() == Some(&end));
            ScoredResponse { text, gold }
        })
        .collect()
}

/// Adds the means of the gold scores, with correctness and style separately, and the diversity of the
/// responses.
fn add_gold_scores(prompts: &Prompts, responses: &[ScoredResponse], entry: &mut Value) {
    let count = responses.len() as f64;
    let mean = |part: &dyn Fn(&Gold) -> f64| responses.iter().map(|response| part(&response.gold)).sum::<f64>() / count;
    entry["gold"] = json!(mean(&|gold| gold.total()));
    entry["gold_correct"] = json!(mean(&|gold| gold.correct));
    entry["gold_style"] = json!(mean(&|gold| gold.style()));
    let texts = responses.iter().map(|response| response.text.as_str());
    entry["distinct"] = json!(texts.clone().collect::<HashSet<_>>().len() as f64 / count);
    entry["samples"] =
        json!(prompts.texts.iter().zip(texts).take(4).map(|(prompt, text)| json!([prompt, text])).collect::<Vec<_>>());
}

/// A document whose end token is no target: SFT trains another one, `<|im_end|>`, and in documents this
/// short, that token would dominate the text.
fn without_end(document: &LmRow) -> LmRow {
    let mut row = document.clone();
    if let Some(end) = row.pieces.last_mut().and_then(|piece| piece.loss_mask.last_mut()) {
        *end = false;
    }
    row
}

/// The responses after their prompts, with every response token as a target.
fn response_rows(prompts: &Prompts, responses: &[Response]) -> Vec<LmRow> {
    let row = |(prompt, response): (&Vec<i64>, &Response)| {
        let mask = (0..prompt.len() + response.tokens.len()).map(|index| index >= prompt.len()).collect();
        LmRow { pieces: vec![Piece::new([prompt.as_slice(), &response.tokens].concat(), mask)] }
    };
    prompts.tokens.iter().zip(responses).map(row).collect()
}

fn sum_logprobs(model: &CausalLm, rows: &[LmRow]) -> f64 {
    -lm::evaluate(model, rows, MICROBATCH_TOKENS, &mut |_, _, _| {}).loss_sum
}
