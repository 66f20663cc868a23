//! Parses requests and builds their responses.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use align_data::{self as data, Kind};
use align_reward::responses::Responses;
use align_text::chatml::ChatFormat;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::model::Job;
use crate::http::{Refusal, Token, read, refuse};

/// The paths, as refusals list them.
const PATHS: &str = "POST /v1/score or GET /health";

/// State shared by all requests.
pub(super) struct Service {
    /// The model's folder, as given.
    pub(super) model: String,
    pub(super) format: ChatFormat,
    pub(super) token: Option<Token>,
    pub(super) jobs: mpsc::Sender<Job>,
    pub(super) max_body_bytes: usize,
    pub(super) max_tokens: usize,
    pub(super) timeout: Duration,
    pub(super) counts: Counts,
}

/// The numbers of requests for scores.
#[derive(Default)]
pub(super) struct Counts {
    served: AtomicU64,
    refused: AtomicU64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [served, refused] = [&self.served, &self.refused].map(|count| count.load(Ordering::SeqCst));
        write!(f, "stopped: {served} requests served, {refused} refused")
    }
}

/// The routes.
pub(super) fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/v1/score", post(score))
        .fallback(async |request: Request| refuse(request.into_body(), Refusal::unknown_path(PATHS)).await)
        .method_not_allowed_fallback(async |request: Request| {
            refuse(request.into_body(), Refusal::wrong_method(PATHS)).await
        })
        .with_state(service)
}

async fn health(State(service): State<Arc<Service>>) -> Response {
    Json(json!({ "status": "ok", "model": service.model })).into_response()
}

async fn score(State(service): State<Arc<Service>>, request: Request) -> Response {
    let answer = answer(&service, request).await;
    let count = if answer.is_ok() { &service.counts.served } else { &service.counts.refused };
    count.fetch_add(1, Ordering::SeqCst);
    answer.map(Json).into_response()
}

async fn answer(service: &Arc<Service>, request: Request) -> Result<Value, Refusal> {
    let (parts, body) = request.into_parts();
    if service.token.as_ref().is_some_and(|token| !token.authorizes(&parts.headers)) {
        return Err(refuse(body, Refusal::unauthorized()).await);
    }
    let arrived = timeout(service.timeout, read(body, service.max_body_bytes)).await;
    let bytes = arrived.map_err(|_| Refusal::too_slow())??;
    let scored = timeout(service.timeout, scores(service, bytes)).await;
    scored.map_err(|_| Refusal::out_of_time())?
}

/// Computes the response to a body. If the future is dropped, its job is not computed.
async fn scores(service: &Arc<Service>, bytes: Vec<u8>) -> Result<Value, Refusal> {
    // Tokenizing takes time: it must not block a thread that serves connections.
    let reader = service.clone();
    let asked = tokio::task::spawn_blocking(move || Asked::read(&bytes, &reader.format, reader.max_tokens));
    let asked = asked.await.map_err(|_| Refusal::failed("the request could not be read"))??;
    let (reply, answer) = oneshot::channel();
    let job = Job { rows: asked.rows.clone(), reply };
    service.jobs.try_send(job).map_err(|_| Refusal::queue_is_full())?;
    let scores = answer.await.map_err(|_| Refusal::failed("the model failed on this request"))?;
    if scores.iter().any(|score| !score.is_finite()) {
        return Err(Refusal::failed("a score is not finite: the model is damaged"));
    }
    Ok(asked.response(&scores))
}

/// A parsed request.
struct Asked {
    rows: Arc<Vec<Responses>>,
    /// Whether the request has `inputs`, and so the response `results`.
    is_batch: bool,
    /// Keys that were not read; the response lists them.
    unread: BTreeSet<String>,
}

impl Asked {
    fn read(bytes: &[u8], format: &ChatFormat, max_tokens: usize) -> Result<Self, Refusal> {
        let content: Value = serde_json::from_slice(bytes).map_err(|error| {
            Refusal::malformed(format!("not JSON ({error}), expected an object with {}", Kind::Response.shapes()))
        })?;
        let (inputs, is_batch) = match content {
            Value::Object(mut content) if content.contains_key("inputs") => match content.remove("inputs") {
                Some(Value::Array(inputs)) if !inputs.is_empty() => {
                    if let Some(key) = content.keys().next() {
                        let what = format!("`{key}` beside `inputs`, expected it in each of them");
                        return Err(Refusal::malformed(what));
                    }
                    (inputs, true)
                }
                _ => return Err(Refusal::malformed("`inputs` is not a list or is empty, expected a list of objects")),
            },
            single => (vec![single], false),
        };
        let (mut rows, mut unread) = (Vec::with_capacity(inputs.len()), BTreeSet::new());
        for (index, input) in inputs.into_iter().enumerate() {
            let prefix = if is_batch { format!("`inputs[{index}]`: ") } else { String::new() };
            let malformed = |what: String| Refusal::malformed(format!("{prefix}{what}"));
            let (row, keys): (data::Response, _) = data::parse_row(&input).map_err(malformed)?;
            let row = Responses::new(&row, format).map_err(malformed)?;
            unread.extend(keys);
            let longest = row.longest();
            if longest > max_tokens {
                let what =
                    format!("{prefix}a dialogue of {longest} tokens, expected at most {max_tokens} (--max-tokens)");
                return Err(Refusal::too_large(what));
            }
            rows.push(row);
        }
        Ok(Self { rows: Arc::new(rows), is_batch, unread })
    }

    /// The response, with the scores of all rows in order.
    fn response(&self, scores: &[f64]) -> Value {
        let mut rest = scores;
        let of_row = |row: &Responses| {
            let (own, others) = rest.split_at(row.tails.len());
            rest = others;
            Value::Object(row.to_json(own))
        };
        let mut results: Vec<Value> = self.rows.iter().map(of_row).collect();
        let mut response = if self.is_batch { json!({ "results": results }) } else { results.swap_remove(0) };
        if !self.unread.is_empty() {
            response["unread_keys"] = json!(self.unread);
        }
        response
    }
}
