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
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{mpsc, oneshot};

use crate::broker::{Listener, ShownEvent, Told};
use crate::door::Door;
use crate::error::Error;
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
pub(crate) type Body = Either<Full<Bytes>, StreamBody<Parts>>;

/// A body that is there already.
pub(crate) fn whole(body: impl Into<Bytes>) -> Body {
    Either::Left(Full::new(body.into()))
}

/// What a stream of events tells, page by page.
pub(crate) trait Pages: Send + 'static {
    /// All events up to here have been told: the number to come back with.
    fn heard(&self) -> EventId;

    /// Waits for what comes next, as text.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    ///
    /// # Errors
    ///
    /// Those of the store.
    fn page(&mut self) -> impl Future<Output = Result<String, Error>> + Send;
}

impl Pages for Listener {
    fn heard(&self) -> EventId {
        Listener::heard(self)
    }

    async fn page(&mut self) -> Result<String, Error> {
        let events = match self.next().await? {
            Told::Events(events) => events,
            Told::Missed => return Ok(missed(Listener::heard(self))),
        };
        let mut page = String::new();
        for event in events {
            let (id, kind) = (event.id, event.kind.name());
            append(&mut page, id, kind, &ShownEvent::from(event));
        }
        Ok(page)
    }
}

/// Appends an event to a page.
pub(crate) fn append(page: &mut String, id: EventId, kind: &str, event: &impl Serialize) {
    let data = serde_json::to_string(event).unwrap_or_default();
    write!(page, "id: {id}\nevent: {kind}\ndata: {data}\n\n").expect("a String takes it");
}

/// A page that says that something is missing before what comes next.
pub(crate) fn missed(heard: EventId) -> String {
    let data = json!({ "detail": "events are missing: they are no longer kept" });
    format!("id: {heard}\nevent: missed\ndata: {data}\n\n")
}

/// Answers with what comes, until somebody ends it.
pub(crate) fn stream_of(pages: impl Pages, door: &Door) -> Response<Body> {
    let (taker, taken) = mpsc::channel(1);
    let (end, ended) = oneshot::channel();
    door.tasks.spawn(tell(pages, door.clone(), taker, end));
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
    mut pages: impl Pages,
    door: Door,
    taker: mpsc::Sender<Bytes>,
    end: oneshot::Sender<Bytes>,
) {
    let reason = tokio::select! {
        reason = feed(&mut pages, &taker) => reason,
        () = door.stop.cancelled() => Some("draining"),
        () = door.broker.draining() => Some("draining"),
        () = taker.closed() => None,
    };
    if let Some(reason) = reason {
        tracing::debug!(reason, "a stream of events is ended");
        let data = json!({ "reason": reason });
        // The client may be gone by now.
        end.send(format!("event: end\ndata: {data}\n\n").into()).ok();
    }
}

/// Hands pages over until that is impossible. The answer: why; `None`: the client has left.
async fn feed(pages: &mut impl Pages, taker: &mpsc::Sender<Bytes>) -> Option<&'static str> {
    let mut page = format!("retry: {RETRY_MS}\nid: {}\n\n", pages.heard());
    loop {
        match taker.send_timeout(page.into(), limits::WRITE_TIMEOUT).await {
            Ok(()) => {}
            Err(SendTimeoutError::Timeout(_)) => return Some("slow"),
            Err(SendTimeoutError::Closed(_)) => return None,
        }
        page = match tokio::time::timeout(HEARTBEAT_EVERY, pages.page()).await {
            Ok(Ok(page)) => page,
            Ok(Err(error)) => {
                tracing::debug!(%error, "events can not be read");
                return Some("unavailable");
            }
            Err(_) => format!(":\nid: {}\n\n", pages.heard()),
        };
    }
}
