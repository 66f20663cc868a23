//! Error responses: a status, and `{"error": …}`.

use axum::Json;
use axum::http::header::{CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// The error response to a request.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    error: String,
    headers: Vec<(HeaderName, &'static str)>,
}

impl Refusal {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into(), headers: Vec::new() }
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The request is malformed.
    pub(crate) fn malformed(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    pub(crate) fn unauthorized() -> Self {
        let error = "missing or wrong token, expected `Authorization: Bearer TOKEN`";
        Self::new(StatusCode::UNAUTHORIZED, error).with(WWW_AUTHENTICATE, "Bearer")
    }

    pub(crate) fn unknown_path(expected: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("no such path, expected {expected}"))
    }

    pub(crate) fn wrong_method(expected: &str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("wrong method for this path, expected {expected}"))
    }

    /// The request comes from another site.
    pub(crate) fn forbidden(error: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, error)
    }

    /// The request contradicts what was done before.
    pub(crate) fn conflict(error: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, error)
    }

    /// The request did not arrive in time.
    pub(crate) fn too_slow() -> Self {
        let error = "the request did not arrive in time, expected all of it within --timeout-seconds";
        Self::new(StatusCode::REQUEST_TIMEOUT, error).with(CONNECTION, "close")
    }

    /// A body or a dialogue is too long.
    pub(crate) fn too_large(error: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, error)
    }

    /// The queue is full.
    pub(crate) fn queue_is_full() -> Self {
        let error = "the queue of the model is full (--queue), expected a retry later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error).with(RETRY_AFTER, "1")
    }

    /// The limit of clients is reached.
    pub(crate) fn too_many_clients() -> Self {
        let error = "too many clients (--max-clients), expected a retry later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error).with(RETRY_AFTER, "1").with(CONNECTION, "close")
    }

    pub(crate) fn out_of_time() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "there is no score yet, expected one within --timeout-seconds")
    }

    /// A failure of the service or the model.
    pub(crate) fn failed(error: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.error }))).into_response();
        for (name, value) in self.headers {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
