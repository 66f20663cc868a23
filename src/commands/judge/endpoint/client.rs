//! Requests to a service: retried while the cause may pass, and without a word of the key in any message.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use align_core::error::{Error, Result};
use serde_json::Value;
use ureq::Agent;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};

use super::address::Address;
use crate::http::read_token;

/// How often a request is sent at most.
const TRIES: u32 = 6;
/// The wait after a first failure; it doubles with each further one …
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// … up to this.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A service that asks for a longer wait is not waited for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);
/// The time for a connection.
const CONNECT: Duration = Duration::from_secs(20);
/// The time for an answer: models that reason take minutes.
const ANSWER: Duration = Duration::from_secs(600);
/// The longest answer that is read, in bytes.
const LONGEST_ANSWER: u64 = 8 << 20;
/// How much of a refusal is shown, in characters.
const SHOWN: usize = 300;

/// The key of a service. It has no `Debug`, so that it cannot be printed by accident.
pub(super) struct Key(String);

impl Key {
    /// Reads a file with a key on one line.
    pub(super) fn read(file: &Path) -> Result<Self> {
        read_token(file).map(Self)
    }
}

/// A service.
pub(super) struct Client {
    agent: Agent,
    address: Address,
    key: Option<Key>,
    requests: AtomicUsize,
}

/// Why a request has no answer.
enum Failure {
    /// It may have one later; the service may say when.
    Passing(String, Option<Duration>),
    Lasting(String),
}

impl Client {
    pub(super) fn new(address: Address, key: Option<Key>) -> Self {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(ANSWER))
            .user_agent(concat!("align/", env!("CARGO_PKG_VERSION")));
        if address.is_this_machine() {
            config = config.proxy(None);
        }
        Self { agent: config.build().into(), address, key, requests: AtomicUsize::new(0) }
    }

    pub(super) fn address(&self) -> &str {
        self.address.as_str()
    }

    /// The number of requests sent, retries included.
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// The text of the answer to a request.
    ///
    /// # Errors
    /// [`Error::Failed`] when the service refuses it or fails too often, and when it would have to be waited
    /// for although judging was stopped.
    pub(super) fn ask(&self, body: &Value, stopped: &AtomicBool) -> Result<String> {
        let failed = |what: String| {
            let what = self.key.as_ref().map_or(what.clone(), |key| what.replace(&key.0, "(the key)"));
            Error::Failed(format!(
                "{}: {what}; what is judged so far is kept, and the same command continues",
                self.address
            ))
        };
        for tried in 1.. {
            match self.send(body) {
                Ok(answer) => return Ok(answer),
                Err(Failure::Lasting(what)) => return Err(failed(what)),
                Err(Failure::Passing(what, _)) if tried == TRIES => {
                    return Err(failed(format!("{what}, {TRIES} times in a row")));
                }
                Err(Failure::Passing(what, Some(wait))) if wait > LONGEST_RETRY_AFTER => {
                    return Err(failed(format!("{what}, and asks to wait for {} seconds", wait.as_secs())));
                }
                Err(Failure::Passing(what, wait)) => {
                    if !sleep(wait.unwrap_or(backoff(tried)), stopped) {
                        return Err(failed(what));
                    }
                }
            }
        }
        unreachable!("the last try returns")
    }

    fn send(&self, body: &Value) -> std::result::Result<String, Failure> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut request = self.agent.post(self.address.as_str()).header(CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, format!("Bearer {}", key.0));
        }
        let passing = |error: ureq::Error| Failure::Passing(format!("no answer ({error})"), None);
        let mut response = request.send(body.to_string()).map_err(passing)?;
        let status = response.status().as_u16();
        let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let text = response.body_mut().with_config().limit(LONGEST_ANSWER).read_to_string().map_err(passing)?;
        match status {
            200 => answer_in(&text).map_err(Failure::Lasting),
            408 | 409 | 425 | 429 | 500.. => {
                Err(Failure::Passing(refusal(status, &text), wait.map(Duration::from_secs)))
            }
            _ => Err(Failure::Lasting(refusal(status, &text))),
        }
    }
}

/// The text in the answer of a service; "" if the model wrote none.
fn answer_in(text: &str) -> std::result::Result<String, String> {
    let answer: Option<Value> = serde_json::from_str(text).ok();
    let message = answer.as_ref().and_then(|answer| answer["choices"].get(0)).map(|choice| &choice["message"]);
    let Some(message) = message.filter(|message| message.is_object()) else {
        return Err(format!("answers {:?}, expected `choices` with a `message`", beginning(text)));
    };
    Ok(message["content"].as_str().unwrap_or_default().to_owned())
}

fn refusal(status: u16, text: &str) -> String {
    let said: Option<Value> = serde_json::from_str(text).ok();
    let said = said.as_ref().and_then(|said| said["error"]["message"].as_str()).unwrap_or(text);
    format!("answers with status {status}: {:?}", beginning(said))
}

fn beginning(text: &str) -> String {
    text.trim().chars().take(SHOWN).collect()
}

/// The wait after a number of failures: between half of it and the whole, so that requests that failed
/// together do not come back together.
fn backoff(tried: u32) -> Duration {
    let whole = FIRST_WAIT.saturating_mul(1 << (tried - 1).min(16)).min(LONGEST_WAIT);
    whole.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}

/// Whether the whole time passed before judging was stopped.
fn sleep(time: Duration, stopped: &AtomicBool) -> bool {
    const SLICE: Duration = Duration::from_millis(50);
    let started = Instant::now();
    while let Some(rest) = time.checked_sub(started.elapsed()).filter(|rest| !rest.is_zero()) {
        if stopped.load(Ordering::Relaxed) {
            return false;
        }
        std::thread::sleep(rest.min(SLICE));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit() {
        for (tried, whole) in [(1, 0.5), (2, 1.0), (5, 8.0), (9, 30.0), (40, 30.0)] {
            let wait = backoff(tried).as_secs_f64();
            assert!((whole / 2.0..=whole).contains(&wait), "{tried}: {wait}");
        }
    }

    #[test]
    fn the_text_of_an_answer() {
        let answer = r#"{"choices": [{"message": {"role": "assistant", "content": "so [[A]]"}}]}"#;
        assert_eq!(answer_in(answer), Ok("so [[A]]".to_owned()));
        assert_eq!(answer_in(r#"{"choices": [{"message": {"content": null}}]}"#), Ok(String::new()));
        for bad in ["", "<html>", "{}", r#"{"choices": []}"#] {
            assert!(answer_in(bad).unwrap_err().contains("expected `choices`"), "{bad}");
        }
    }

    #[test]
    fn refusals_show_what_the_service_says() {
        assert_eq!(
            refusal(404, r#"{"error": {"message": "no such model"}}"#),
            r#"answers with status 404: "no such model""#
        );
        assert_eq!(refusal(502, "Bad Gateway\n"), r#"answers with status 502: "Bad Gateway""#);
    }
}
