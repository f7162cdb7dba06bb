//! Answers that go on: server-sent events.
//!
//! A task reads events and hands them to the connection page by page; a page waits until the one
//! before it has been taken, so that a slow client costs a page of memory. The stream begins with
//! the number to come back with, in case nothing happens before it breaks. Every 15 seconds of
//! silence there is a comment, and the number that has been reached.
//!
//! A stream that the node ends says so in an event `end` with the reason: `draining`, `slow` (the
//! client has read nothing for too long) or `unavailable` (the store can not be read). Whatever the
//! reason, the client comes back with its last number, here or elsewhere, and misses nothing.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use http_body_util::{Either, Full, StreamBody};
use hyper::Response;
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use serde_json::json;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{mpsc, oneshot};

use crate::broker::{Listener, ShownEvent, Told};
use crate::door::Door;
use crate::limits;
use crate::store::EventId;

/// The longest silence: proxies close what is silent for longer.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);

/// How long a client is to wait before it comes back.
const RETRY_MS: u64 = 1000;

/// Tells nginx not to gather what is meant to be seen at once.
const NO_BUFFER: HeaderName = HeaderName::from_static("x-accel-buffering");

type Parts = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

/// The body of an answer: at once, or as it comes.
pub(super) type Body = Either<Full<Bytes>, StreamBody<Parts>>;

/// A body that is there already.
pub(super) fn whole(body: impl Into<Bytes>) -> Body {
    Either::Left(Full::new(body.into()))
}

/// Answers with what a listener hears, until somebody ends it.
pub(super) fn stream_of(listener: Listener, door: &Door) -> Response<Body> {
    let (pages, taken) = mpsc::channel(1);
    let (end, ended) = oneshot::channel();
    door.tasks.spawn(tell(listener, door.clone(), pages, end));
    let parts = stream::unfold((taken, Some(ended)), |(mut taken, mut ended)| async {
        let part = match taken.recv().await {
            Some(page) => page,
            None => ended.take()?.await.ok()?,
        };
        Some((Ok(Frame::data(part)), (taken, ended)))
    });
    let parts: Parts = Box::pin(parts);
    let mut response = Response::new(Either::Right(StreamBody::new(parts)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(NO_BUFFER, HeaderValue::from_static("no"));
    response
}

async fn tell(
    mut listener: Listener,
    door: Door,
    pages: mpsc::Sender<Bytes>,
    end: oneshot::Sender<Bytes>,
) {
    let reason = tokio::select! {
        reason = feed(&mut listener, &pages) => reason,
        () = door.stop.cancelled() => Some("draining"),
        () = door.broker.draining() => Some("draining"),
        () = pages.closed() => None,
    };
    if let Some(reason) = reason {
        tracing::debug!(reason, "a stream of events is ended");
        let data = json!({ "reason": reason });
        // The client may be gone by now.
        end.send(format!("event: end\ndata: {data}\n\n").into()).ok();
    }
}

/// Hands pages over until that is impossible. The answer: why; `None`: the client has left.
async fn feed(listener: &mut Listener, pages: &mpsc::Sender<Bytes>) -> Option<&'static str> {
    let mut page = format!("retry: {RETRY_MS}\nid: {}\n\n", listener.heard());
    loop {
        match pages.send_timeout(page.into(), limits::WRITE_TIMEOUT).await {
            Ok(()) => {}
            Err(SendTimeoutError::Timeout(_)) => return Some("slow"),
            Err(SendTimeoutError::Closed(_)) => return None,
        }
        page = match tokio::time::timeout(HEARTBEAT_EVERY, listener.next()).await {
            Ok(Ok(told)) => show(told, listener.heard()),
            Ok(Err(error)) => {
                tracing::debug!(%error, "events can not be read");
                return Some("unavailable");
            }
            Err(_) => format!(":\nid: {}\n\n", listener.heard()),
        };
    }
}

fn show(told: Told, heard: EventId) -> String {
    let mut text = String::new();
    let events = match told {
        Told::Events(events) => events,
        Told::Missed => {
            let data = json!({ "detail": "events are missing: they are no longer kept" });
            return format!("id: {heard}\nevent: missed\ndata: {data}\n\n");
        }
    };
    for event in events {
        let (id, kind) = (event.id, event.kind.name());
        let data = serde_json::to_string(&ShownEvent::from(event)).unwrap_or_default();
        write!(text, "id: {id}\nevent: {kind}\ndata: {data}\n\n").expect("a String takes it");
    }
    text
}
