//! The embedded pages, and the headers of every answer.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};

/// Nothing but this service's own files; no inline scripts or styles, no frames, no forms.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                                       img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page {
    pub(super) path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// All of them.
pub(super) const PAGES: [Page; 10] = [
    Page { path: "/", content_type: HTML, text: include_str!("page/label.html") },
    Page { path: "/owner", content_type: HTML, text: include_str!("page/owner.html") },
    Page { path: "/label.css", content_type: "text/css; charset=utf-8", text: include_str!("page/label.css") },
    Page { path: "/label.js", content_type: SCRIPT, text: include_str!("page/label.js") },
    Page { path: "/answer.js", content_type: SCRIPT, text: include_str!("page/answer.js") },
    Page { path: "/keys.js", content_type: SCRIPT, text: include_str!("page/keys.js") },
    Page { path: "/order.js", content_type: SCRIPT, text: include_str!("page/order.js") },
    Page { path: "/view.js", content_type: SCRIPT, text: include_str!("page/view.js") },
    Page { path: "/owner.js", content_type: SCRIPT, text: include_str!("page/owner.js") },
    Page { path: "/icon.svg", content_type: "image/svg+xml", text: include_str!("page/icon.svg") },
];

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, self.content_type)], self.text).into_response()
    }
}

/// Adds the headers that every answer has.
pub(super) async fn with_headers(mut response: Response) -> Response {
    let headers: &mut HeaderMap = response.headers_mut();
    let mut set = |name: &'static str, value| {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    };
    set("content-security-policy", CONTENT_SECURITY_POLICY);
    set("x-content-type-options", "nosniff");
    set("referrer-policy", "no-referrer");
    set("cross-origin-resource-policy", "same-origin");
    set("cross-origin-opener-policy", "same-origin");
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
