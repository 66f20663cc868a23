//! A model of a service as a judge: OpenAI's chat completions, which other services offer as well. It is
//! asked about pairs in both orders, gives reasons, and ends with a verdict.

mod address;
mod cache;
mod client;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use align_core::error::{Problems, Result};
use align_core::progress::Progress;
use align_judgments::Item;
use align_judgments::judge::opinion::Opinion;
use align_judgments::judge::question::{AnswerForm, question, verdict_in, wording};
use align_judgments::judge::{JudgedFolder, pairs};
use serde_json::{Value, json};

use self::address::Address;
use self::cache::Cache;
use self::client::{Client, Key};
use super::{JudgeStats, entry};
use crate::cli::judge::JudgeArgs;
use crate::terminal::Terminal;

/// Requests at once. Our choice: few services refuse so many.
const PARALLEL: usize = 4;
/// The default folder of answers in a labelling folder.
const CACHE: &str = "cache";
/// Why an item is skipped.
const NO_VERDICT: &str = "no verdict";

/// A service that was checked as far as it can be without a request.
pub(super) struct EndpointJudge {
    client: Client,
    cache: Cache,
    model: String,
    parallel: usize,
}

/// What was asked and answered, over all threads.
#[derive(Debug, Default)]
struct Counts {
    cached: AtomicUsize,
    unparsed: AtomicUsize,
}

impl EndpointJudge {
    /// Checks address and key.
    pub(super) fn check(url: &str, args: &JudgeArgs, problems: &mut Problems) -> Result<Option<Self>> {
        let key = problems.absorb(args.key_file.as_deref().map(Key::read).transpose())?;
        let address = Address::new(url).map_err(|what| problems.push("--endpoint", what)).ok();
        if let (Some(address), Some(Some(_))) = (&address, &key)
            && !address.hides_the_key()
        {
            let what = format!("{address} would send the key unencrypted, expected https for another machine");
            problems.push("--endpoint", what);
        }
        let model = args.model.clone().unwrap_or_default();
        if model.trim().is_empty() {
            problems.push("--model", "is empty, expected the model's name at --endpoint");
        }
        let cache = Cache::new(args.cache.clone().unwrap_or_else(|| args.out.join(CACHE)));
        let parallel = args.parallel.unwrap_or(PARALLEL);
        Ok(address.zip(key).map(|(address, key)| Self { client: Client::new(address, key), cache, model, parallel }))
    }

    pub(super) fn model(&self) -> &str {
        &self.model
    }

    pub(super) fn identity(&self) -> Vec<(&'static str, Value)> {
        vec![
            entry("endpoint", self.client.address()),
            entry("model", self.model.as_str()),
            entry("wording", wording(AnswerForm::Verdict)),
        ]
    }

    /// Judges with several requests at once. After a failure no further one begins; what was judged is kept.
    pub(super) fn judge(&self, folder: &mut JudgedFolder, terminal: &mut Terminal) -> Result<JudgeStats> {
        self.cache.create()?;
        let waiting = folder.waiting().to_vec();
        let items: Vec<Item> = waiting.iter().map(|&index| folder.items()[index].clone()).collect();
        let (next, stopped, counts) = (AtomicUsize::new(0), AtomicBool::new(false), Counts::default());
        terminal.begin("items", waiting.len() as u64);
        let mut failed = None;
        std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            for _ in 0..self.parallel.min(items.len()) {
                let (sender, items, next, stopped, counts) = (sender.clone(), &items, &next, &stopped, &counts);
                scope.spawn(move || {
                    while !stopped.load(Ordering::Relaxed) {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(item) = items.get(at) else { break };
                        let started = Instant::now();
                        let opinion = self.opinion(item, stopped, counts);
                        if opinion.is_err() {
                            stopped.store(true, Ordering::Relaxed);
                        }
                        if sender.send((at, opinion, started.elapsed().as_secs_f64())).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            for (at, opinion, seconds) in receiver {
                let kept = opinion.and_then(|opinion| match opinion {
                    Some(opinion) => folder.append(waiting[at], opinion, seconds).map(|()| terminal.advance(1, "")),
                    None => Ok(()),
                });
                if let Err(error) = kept {
                    stopped.store(true, Ordering::Relaxed);
                    failed.get_or_insert(error);
                }
            }
        });
        terminal.end();
        failed.map_or(Ok(()), Err)?;
        Ok(JudgeStats {
            requests: Some(self.client.requests()),
            cached: Some(counts.cached.into_inner()),
            unparsed: Some(counts.unparsed.into_inner()),
            ..JudgeStats::default()
        })
    }

    /// What the model says of an item's pairs; `None` when judging was stopped meanwhile.
    fn opinion(&self, item: &Item, stopped: &AtomicBool, counts: &Counts) -> Result<Option<Opinion>> {
        let shown = item.distinct();
        let mut verdicts = Vec::new();
        for (one, other) in pairs(shown.len()) {
            let mut of_orders = [None, None];
            for (verdict, (first, second)) in of_orders.iter_mut().zip([(one, other), (other, one)]) {
                if stopped.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                let question = question(item, shown[first], shown[second], AnswerForm::Verdict);
                *verdict = self.verdict(&question, stopped, counts)?;
            }
            // In the second order the first response of the pair is shown as B.
            verdicts.push(match of_orders {
                [Some(first), Some(second)] => Some([first, 1.0 - second]),
                _ => None,
            });
        }
        let verdicts: Option<Vec<[f64; 2]>> = verdicts.into_iter().collect();
        Ok(Some(verdicts.map_or_else(|| Opinion::Skipped(NO_VERDICT.to_owned()), Opinion::Verdicts)))
    }

    /// How far what is shown as A is better; `None` if the answer does not say.
    fn verdict(&self, question: &str, stopped: &AtomicBool, counts: &Counts) -> Result<Option<f64>> {
        let body = json!({
            "model": self.model, "messages": [{ "role": "user", "content": question }], "temperature": 0,
        });
        let answer = if let Some(answer) = self.cache.get(self.client.address(), &body) {
            counts.cached.fetch_add(1, Ordering::Relaxed);
            answer
        } else {
            let answer = self.client.ask(&body, stopped)?;
            self.cache.put(self.client.address(), &body, &answer)?;
            answer
        };
        let verdict = verdict_in(&answer);
        if verdict.is_none() {
            counts.unparsed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(verdict)
    }
}
