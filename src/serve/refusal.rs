//! What a request is told when it gets no score: a status, and `{"error": …}`.

use axum::Json;
use axum::http::header::{CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// A request that is not answered with what it asks for.
#[derive(Debug)]
pub(super) struct Refusal {
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

    /// Something in the request is not as it should be.
    pub(super) fn malformed(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    pub(super) fn unauthorized() -> Self {
        let error = "no token or a wrong one, expected `Authorization: Bearer TOKEN`";
        Self::new(StatusCode::UNAUTHORIZED, error).with(WWW_AUTHENTICATE, "Bearer")
    }

    pub(super) fn unknown_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "no such path, expected POST /v1/score or GET /health")
    }

    pub(super) fn wrong_method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "another method than the path has, expected POST /v1/score or GET /health",
        )
    }

    /// It did not arrive in time.
    pub(super) fn too_slow() -> Self {
        let error = "the request did not arrive in time, expected all of it within --timeout-seconds";
        Self::new(StatusCode::REQUEST_TIMEOUT, error).with(CONNECTION, "close")
    }

    /// A body or a dialogue is too long.
    pub(super) fn too_large(error: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, error)
    }

    /// As many requests wait as may.
    pub(super) fn queue_is_full() -> Self {
        let error = "too many requests wait for the model (--queue), expected another try later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error).with(RETRY_AFTER, "1")
    }

    /// There are as many clients as there may be.
    pub(super) fn too_many_clients() -> Self {
        let error = "too many clients (--max-clients), expected another try later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error).with(RETRY_AFTER, "1").with(CONNECTION, "close")
    }

    pub(super) fn out_of_time() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "there is no score yet, expected one within --timeout-seconds")
    }

    /// Our own fault, or the model's.
    pub(super) fn failed(error: &str) -> Self {
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
