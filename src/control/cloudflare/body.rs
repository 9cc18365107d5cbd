//! The bodies of requests to the API.

use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::envelope::ApiError;

/// The longest body that is understood, in bytes.
const LONGEST: usize = 64 * 1024;
/// How long a body may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much of a body is read that nobody wants, in bytes: more than any Worker may have.
const LONGEST_UNWANTED: usize = 128 << 20;
/// How long that may take.
const PATIENCE_WITH_UNWANTED: Duration = Duration::from_secs(30);

/// The JSON of a body, whatever it is called: wrangler sends some of it as text.
///
/// # Errors
/// It is too long, too slow, or not what is asked for.
pub(super) async fn json<T: DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    let read = tokio::time::timeout(PATIENCE, axum::body::to_bytes(body, LONGEST)).await;
    let read = read.map_err(|_| ApiError::invalid("the body takes too long"))?;
    let too_long = |_| ApiError::invalid(format!("the body is longer than {LONGEST} bytes, or broken off"));
    let bytes = read.map_err(too_long)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::invalid(format!("the body is not the JSON that belongs here: {error}")))
}

/// Reads a body that nobody wants, within bounds, and forgets it: most clients see an answer only when they have sent all.
pub(super) async fn discard(mut body: Body) {
    let read = async {
        let mut left = LONGEST_UNWANTED;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, bytes::Bytes::len);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // Who sends more, or more slowly, is cut off.
    let _ = tokio::time::timeout(PATIENCE_WITH_UNWANTED, read).await;
}
