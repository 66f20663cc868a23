//! Reads the bodies of requests.

use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::refusal::Refusal;

/// This many bytes of a refused body are read, so that the client receives the error response …
const UNWANTED_BYTES: usize = 16 << 20;
/// … for at most this long.
const UNWANTED_TIME: Duration = Duration::from_secs(2);

/// Reads a body of at most `max_bytes`.
pub(crate) async fn read(mut body: Body, max_bytes: usize) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::malformed("the body ended early, expected all of it"))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > max_bytes {
            drop(bytes);
            let what = format!("a body of more than {max_bytes} bytes, expected at most that (--max-body-bytes)");
            return Err(refuse(body, Refusal::too_large(what)).await);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Reads the rest of the body for a while: closing a connection with unread bytes would discard the response.
pub(crate) async fn refuse(mut body: Body, refusal: Refusal) -> Refusal {
    let drain = async {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, |data| data.len());
            if read > UNWANTED_BYTES {
                return;
            }
        }
    };
    let _ = timeout(UNWANTED_TIME, drain).await;
    refusal
}
