//! The requests of the pages. All of them are POST with JSON, and bring a token if there is one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use align_core::clock::unix_seconds;
use align_judgments::answer::{Answer, FLAGS, MAX_COMMENT, SKIP_REASONS};
use align_judgments::assignment::{Next, Progress, Task};
use align_judgments::desk::{Desk, Refused};
use align_judgments::judgment::PROGRAM_PREFIX;
use align_judgments::overview::overview;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::middleware::{Next as Handler, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::origin::Hosts;
use super::pages::{PAGES, with_headers};
use crate::http::{Refusal, Token, read, refuse};

/// More than any answer needs.
const MAX_BODY_BYTES: usize = 64 << 10;
/// The longest name of an annotator, in characters.
const MAX_NAME: usize = 40;
/// The paths, as refusals list them.
const PATHS: &str = "GET / or GET /owner";

/// State shared by all requests.
pub(super) struct Service {
    pub(super) desk: Mutex<Desk>,
    pub(super) token: Option<Token>,
    pub(super) owner: Token,
    pub(super) hosts: Hosts,
    pub(super) guideline: Vec<Value>,
    pub(super) timeout: Duration,
}

impl Service {
    /// The folder. A panic while it was locked leaves the file of judgments intact.
    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The routes.
pub(super) fn router(service: Arc<Service>) -> Router {
    let mut router = Router::new()
        .route("/api/session", post(session))
        .route("/api/next", post(next))
        .route("/api/judgment", post(judgment))
        .route("/api/finished", post(finished))
        .route("/api/owner", post(owner));
    for page in PAGES {
        router = router.route(page.path, get(async move || page));
    }
    router
        .fallback(async |request: Request| refuse(request.into_body(), Refusal::unknown_path(PATHS)).await)
        .method_not_allowed_fallback(async |request: Request| {
            refuse(request.into_body(), Refusal::wrong_method(PATHS)).await
        })
        .layer(from_fn_with_state(service.clone(), only_own))
        .layer(map_response(with_headers))
        .with_state(service)
}

/// Refuses requests of other sites before anything else.
async fn only_own(State(service): State<Arc<Service>>, request: Request, handler: Handler) -> Response {
    match service.hosts.check(request.headers()) {
        Ok(()) => handler.run(request).await,
        Err(refusal) => refuse(request.into_body(), refusal).await.into_response(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    annotator: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Finished {
    annotator: String,
    /// From 0.
    number: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Submitted {
    annotator: String,
    task: u64,
    answer: Answer,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// What the page needs to begin.
async fn session(State(service): State<Arc<Service>>, request: Request) -> Result<Json<Value>, Refusal> {
    answer(service.clone(), service.token.as_ref(), request, |service, asked: Named| {
        let desk = service.desk();
        let name = name_of(&desk, &asked.annotator)?;
        let settings = desk.settings();
        Ok(json!({
            "annotator": name,
            "ask": settings.rules.ask,
            "scale": settings.scale,
            "flags": FLAGS,
            "skip_reasons": SKIP_REASONS,
            "max_comment": MAX_COMMENT,
            "guideline": service.guideline,
            "progress": shown(desk.assignment().progress(&name)),
        }))
    })
    .await
}

/// The next item of an annotator.
async fn next(State(service): State<Arc<Service>>, request: Request) -> Result<Json<Value>, Refusal> {
    answer(service.clone(), service.token.as_ref(), request, |service, asked: Named| {
        let mut desk = service.desk();
        let name = name_of(&desk, &asked.annotator)?;
        let mut response = json!({});
        match desk.next(&name, now()).map_err(|error| Refusal::failed(&error.to_string()))? {
            Next::Task(task) => response["sheet"] = json!(desk.sheet(&name, task)),
            Next::Later(count) => response["later"] = json!(count),
            Next::Done => response["done"] = json!(true),
        }
        response["progress"] = shown(desk.assignment().progress(&name));
        Ok(response)
    })
    .await
}

/// Takes an answer: the response is sent when it is on the disk.
async fn judgment(State(service): State<Arc<Service>>, request: Request) -> Result<Json<Value>, Refusal> {
    answer(service.clone(), service.token.as_ref(), request, |service, asked: Submitted| {
        let mut desk = service.desk();
        let name = name_of(&desk, &asked.annotator)?;
        match desk.submit(&name, Task::of_number(asked.task), asked.answer, now()) {
            Ok(progress) => Ok(json!({ "progress": shown(progress) })),
            Err(Refused::Invalid(what)) => Err(Refusal::malformed(what)),
            Err(Refused::Gone) => Err(Refusal::conflict("the item was given to others in the meantime")),
            Err(Refused::Failed(error)) => Err(Refusal::failed(&format!("not saved: {error}"))),
        }
    })
    .await
}

/// An item that the annotator has finished, with the answer.
async fn finished(State(service): State<Arc<Service>>, request: Request) -> Result<Json<Value>, Refusal> {
    answer(service.clone(), service.token.as_ref(), request, |service, asked: Finished| {
        let desk = service.desk();
        let name = name_of(&desk, &asked.annotator)?;
        let Some((sheet, answer)) = desk.finished(&name, asked.number) else {
            return Err(Refusal::malformed("no finished item has this number, expected a smaller one"));
        };
        let progress = shown(desk.assignment().progress(&name));
        Ok(json!({ "sheet": sheet, "answer": answer, "number": asked.number, "progress": progress }))
    })
    .await
}

/// What the owner's page shows.
async fn owner(State(service): State<Arc<Service>>, request: Request) -> Result<Json<Value>, Refusal> {
    answer(service.clone(), Some(&service.owner), request, |service, _: Nothing| {
        let desk = service.desk();
        let shown = serde_json::to_value(overview(&desk, now())).expect("plain data");
        Ok(shown)
    })
    .await
}

/// Reads a request and answers it on a thread that may wait for the disk.
async fn answer<T: DeserializeOwned + Send + 'static>(
    service: Arc<Service>,
    token: Option<&Token>,
    request: Request,
    work: impl FnOnce(&Service, T) -> Result<Value, Refusal> + Send + 'static,
) -> Result<Json<Value>, Refusal> {
    let (parts, body) = request.into_parts();
    if let Err(refusal) = check(&parts, token) {
        return Err(refuse(body, refusal).await);
    }
    let asked = parsed::<T>(body, service.timeout).await?;
    let worked = tokio::task::spawn_blocking(move || work(&service, asked));
    worked.await.map_err(|_| Refusal::failed("the request could not be answered"))?.map(Json)
}

fn check(parts: &Parts, token: Option<&Token>) -> Result<(), Refusal> {
    Hosts::check_data(&parts.headers)?;
    if token.is_some_and(|token| !token.authorizes(&parts.headers)) {
        return Err(Refusal::unauthorized());
    }
    // A form of another site cannot send this type.
    let content_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if content_type.split(';').next().map(str::trim) != Some("application/json") {
        return Err(Refusal::malformed("the body is not declared as JSON, expected `Content-Type: application/json`"));
    }
    Ok(())
}

async fn parsed<T: DeserializeOwned>(body: Body, limit: Duration) -> Result<T, Refusal> {
    let bytes = timeout(limit, read(body, MAX_BODY_BYTES)).await.map_err(|_| Refusal::too_slow())??;
    serde_json::from_slice(&bytes).map_err(|error| Refusal::malformed(format!("not the expected JSON ({error})")))
}

/// The name of an annotator, without surrounding spaces.
fn name_of(desk: &Desk, given: &str) -> Result<String, Refusal> {
    let name = given.trim();
    let is_odd = |char: char| char.is_control() || ('\u{202a}'..='\u{202e}').contains(&char);
    if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(is_odd) {
        let what = format!("the name has no or odd characters or more than {MAX_NAME}, expected a short name");
        return Err(Refusal::malformed(what));
    }
    if name.starts_with(PROGRAM_PREFIX) {
        return Err(Refusal::malformed(format!("the name begins with {PROGRAM_PREFIX}, expected a person's")));
    }
    if let Some(other) = desk.assignment().similar_name(name) {
        return Err(Refusal::malformed(format!(
            "there is an annotator {other}, expected that spelling or another name"
        )));
    }
    Ok(name.to_owned())
}

fn shown(progress: Progress) -> Value {
    json!({ "mine": progress.mine, "all": progress.all, "wanted": progress.wanted })
}

fn now() -> u64 {
    unix_seconds(SystemTime::now())
}
