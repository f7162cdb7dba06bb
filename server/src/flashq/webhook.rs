//! Webhooks whose receivers expect what flashQ posts.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::value::RawValue;

use super::events;
use crate::broker::Broker;
use crate::error::Error;
use crate::store::events::Event;

/// The body of a delivery. What there is nothing to say of is null.
#[derive(Serialize)]
struct Body {
    event: &'static str,
    queue: String,
    job_id: u64,
    timestamp: i64,
    data: Option<Box<RawValue>>,
    error: Option<String>,
}

/// Makes the body of a delivery, with the payload, the result or the error as they are by now. `None`:
/// flashQ tells nobody of such events.
///
/// # Errors
///
/// Those of the store.
pub(crate) fn body(
    broker: Broker,
    event: Event,
) -> BoxFuture<'static, Result<Option<Bytes>, Error>> {
    Box::pin(async move {
        let shown = events::shown(&broker, vec![event]).await?;
        let Some(shown) = shown.into_iter().next() else { return Ok(None) };
        let body = Body {
            event: shown.event_type,
            queue: shown.queue,
            job_id: shown.job_id,
            timestamp: shown.timestamp,
            data: shown.data,
            error: shown.error,
        };
        let json = |error: serde_json::Error| Error::Internal(error.to_string().into());
        Ok(Some(serde_json::to_vec(&body).map_err(json)?.into()))
    })
}
