//! WebSockets: events, or what a dashboard shows, as it happens.
//!
//! ```text
//!                  a token with the request, or none is needed
//!   request ──────────────────────────────────────────────────▶ told ──▶ closed
//!      │                                                          ▲   by the client, or by the node:
//!      │  101      {"type":"auth","token":…} in time              │   1001 it stops or drains
//!      └─────────▶ unknown ───────────────────────────────────────┘   1013 something is missing
//!                     │ 1008
//!                     ▼
//!                  closed
//! ```
//!
//! Each text is one event, or one state of the dashboard. There is no number to come back with: a
//! socket begins with what happens from now on, before its request is answered or once its token is
//! known. While the store can not be read nothing is told, and then everything; if some of it is not
//! kept any more, the socket ends.
//!
//! Sockets are bounded in number, and what a client sends in size: it has nothing to say but its
//! token. One that does not read is cut off after a while, as is one that is silent in spite of being
//! asked by pings. A socket has its place among the node's connections until it ends.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, Stream, StreamExt, stream};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use super::handshake::{self, Refusal};
use super::{Front, dashboard};
use crate::access::{Access, Operation, Principal};
use crate::error::Error;
use crate::flashq::Refused;
use crate::flashq::events::Wanted;
use crate::flashq::feed::{Feed, Heard};
use crate::http::Place;
use crate::http::live::Body;
use crate::job::cut;
use crate::limits;

/// How often a client is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(30);

/// A client that has said nothing for so long is not.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// How long a client that is told why its socket ends may take to hear it.
const PARTING_TIME: Duration = Duration::from_secs(1);

/// Bytes that are gathered before they are written.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;

/// The reason in a close frame may have so many bytes.
const REASON_BYTES_MAX: usize = 123;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// What a socket tells, without an end of its own.
type Texts = Pin<Box<dyn Stream<Item = Result<Vec<String>, End>> + Send>>;

/// How a socket ends: with these words; `None`: nobody is there to hear any.
type End = Option<CloseFrame>;

/// What a socket shows.
pub(super) enum Shows {
    /// Events.
    Events(Wanted),
    /// How the node and its queues stand.
    Dashboard,
}

impl Shows {
    /// What its client must be allowed to do.
    fn operation(&self) -> Operation {
        match self {
            Self::Events(_) => Operation::ListenEvents,
            Self::Dashboard => Operation::GetStats,
        }
    }

    /// Begins: what happens from now on is told.
    async fn open(self, front: &Front) -> Result<Texts, Error> {
        Ok(match self {
            Self::Events(wanted) => {
                let feed = Feed::open(&front.door().broker, wanted, None).await?;
                Box::pin(stream::unfold(feed, |mut feed| async {
                    Some((events(&mut feed).await, feed))
                }))
            }
            Self::Dashboard => {
                let front = front.clone();
                let mut tick = interval(dashboard::EVERY);
                tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
                Box::pin(stream::unfold((front, tick), |(front, mut tick)| async {
                    let frame = loop {
                        tick.tick().await;
                        match dashboard::frame(&front).await {
                            Ok(frame) => break frame,
                            Err(refused) => tracing::debug!(reason = refused.0, "not shown"),
                        }
                    };
                    Some((Ok(vec![frame]), (front, tick)))
                }))
            }
        })
    }
}

async fn events(feed: &mut Feed) -> Result<Vec<String>, End> {
    match feed.hear().await {
        Heard::Events(events) => {
            let texts = events.iter().map(serde_json::to_string);
            texts.collect::<Result<_, _>>().map_err(|error| {
                tracing::error!(%error, "an event can not be shown");
                close(CloseCode::Error, "an event can not be shown")
            })
        }
        Heard::Missed => {
            Err(close(CloseCode::Again, "events are missing: they are no longer kept"))
        }
    }
}

/// Who is at the other end.
enum Guest {
    /// Somebody who may be told.
    Known(Texts),
    /// Somebody who has yet to show a token.
    Unknown(Shows),
}

/// Makes a WebSocket of a request. `may`: what its client has shown that it may do; `None`: it has to
/// show a token first. Where its page comes from has been looked at.
pub(super) async fn upgrade(
    request: Request<Incoming>,
    front: &Front,
    shows: Shows,
    may: Option<Principal>,
) -> Response<Body> {
    accept(request, front, shows, may).await.unwrap_or_else(Refusal::respond)
}

async fn accept(
    mut request: Request<Incoming>,
    front: &Front,
    shows: Shows,
    may: Option<Principal>,
) -> Result<Response<Body>, Refusal> {
    let accept = handshake::accept_of(request.headers())?;
    let full = |_| Error::Overloaded("too many WebSockets: try another node");
    let permit = Arc::clone(&front.door().sockets).try_acquire_owned().map_err(full)?;
    let guest = match may {
        Some(principal) => {
            principal.check(shows.operation())?;
            Guest::Known(shows.open(front).await?)
        }
        None => Guest::Unknown(shows),
    };
    let places = (permit, request.extensions_mut().remove::<Place>());
    let upgrading = hyper::upgrade::on(&mut request);
    front.door().tasks.spawn(attend(upgrading, front.clone(), guest, places));
    Ok(handshake::agree(accept))
}

/// Attends to a client until it leaves or is to.
async fn attend(
    upgrading: OnUpgrade,
    front: Front,
    guest: Guest,
    _places: (OwnedSemaphorePermit, Option<Place>),
) {
    let upgraded = match upgrading.await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => return tracing::debug!(%error, "no WebSocket after all"),
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(limits::FLASHQ_SOCKET_MESSAGE_BYTES_MAX)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(Some(limits::FLASHQ_SOCKET_MESSAGE_BYTES_MAX))
        .max_frame_size(Some(limits::FLASHQ_SOCKET_MESSAGE_BYTES_MAX));
    let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Server, Some(config)).await;
    let end = tokio::select! {
        end = converse(&mut socket, &front, guest) => end,
        () = front.door().stop.cancelled() => close(CloseCode::Away, "the node is about to stop"),
        () = front.door().broker.draining() => close(CloseCode::Away, "the node is about to stop"),
    };
    part(&mut socket, end).await;
}

async fn converse(socket: &mut Socket, front: &Front, guest: Guest) -> End {
    let told = match guest {
        Guest::Known(texts) => tell(socket, texts).await,
        Guest::Unknown(shows) => match admit(socket, front, shows).await {
            Ok(texts) => tell(socket, texts).await,
            Err(end) => Err(end),
        },
    };
    match told {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

/// The first thing that a client says.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Hello {
    Auth { token: String },
}

/// Waits for a token, and begins if it is good for that.
async fn admit(socket: &mut Socket, front: &Front, shows: Shows) -> Result<Texts, End> {
    let first = async {
        loop {
            if let Message::Text(text) = heard(socket.next().await)? {
                return Ok::<_, End>(text);
            }
        }
    };
    let late = |_| close(CloseCode::Policy, "Authentication required: no token in time");
    let text = timeout(limits::HANDSHAKE_TIMEOUT, first).await.map_err(late)??;
    check(&text, &front.door().access, shows.operation())?;
    shows.open(front).await.map_err(|error| close(CloseCode::Again, &Refused::from(error).0))
}

fn check(text: &str, access: &Access, operation: Operation) -> Result<(), End> {
    let refused = |reason: &str| close(CloseCode::Policy, reason);
    let hello = serde_json::from_str(text);
    let Hello::Auth { token } = hello.map_err(|_| refused("Authentication required"))?;
    let principal = access.authenticate(Some(&token));
    let allowed = principal.and_then(|principal| principal.check(operation));
    allowed.map_err(|error| refused(&Refused::from(error).0))
}

/// Tells a client what happens, as long as it is there.
async fn tell(socket: &mut Socket, mut texts: Texts) -> Result<Infallible, End> {
    let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    let mut heard_at = Instant::now();
    loop {
        tokio::select! {
            Some(told) = texts.next() => {
                for text in told? {
                    in_time(socket.feed(Message::text(text))).await?;
                }
                in_time(socket.flush()).await?;
            }
            message = socket.next() => {
                heard(message)?;
                heard_at = Instant::now();
            }
            _ = ping.tick() => in_time(socket.send(Message::Ping(Bytes::new()))).await?,
            () = sleep_until(heard_at + SILENCE_MAX) => {
                tracing::debug!("a WebSocket is silent");
                return Err(None);
            }
        }
    }
}

/// What a client has said, if it goes on.
fn heard(message: Option<Result<Message, tungstenite::Error>>) -> Result<Message, End> {
    match message {
        None | Some(Ok(Message::Close(_))) => Err(None),
        Some(Ok(message)) => Ok(message),
        Some(Err(tungstenite::Error::Capacity(error))) => {
            Err(close(CloseCode::Size, &error.to_string()))
        }
        Some(Err(tungstenite::Error::Protocol(error))) => {
            Err(close(CloseCode::Protocol, &error.to_string()))
        }
        Some(Err(error)) => {
            tracing::debug!(%error, "a WebSocket broke");
            Err(None)
        }
    }
}

/// Writes, unless the client does not read.
async fn in_time(writing: impl Future<Output = Result<(), tungstenite::Error>>) -> Result<(), End> {
    match timeout(limits::WRITE_TIMEOUT, writing).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => tracing::debug!(%error, "a WebSocket broke"),
        Err(_) => tracing::debug!("the client does not read"),
    }
    Err(None)
}

fn close(code: CloseCode, reason: &str) -> End {
    let reason = cut(reason, REASON_BYTES_MAX);
    Some(CloseFrame { code, reason: reason.into() })
}

/// Says the last words and hears those of the client, if that takes no longer than a moment.
async fn part(socket: &mut Socket, end: End) {
    let parting = async {
        if let Some(frame) = end {
            tracing::debug!(code = u16::from(frame.code), reason = %frame.reason, "closing");
            socket.close(Some(frame)).await?;
        }
        while let Some(message) = socket.next().await {
            message?;
        }
        Ok::<_, tungstenite::Error>(())
    };
    let parted = timeout(PARTING_TIME, parting).await;
    tracing::debug!(is_heard = matches!(parted, Ok(Ok(()))), "a WebSocket has ended");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_message_must_have_a_token_that_is_good_for_it() {
        let access = Access::parse("o:observe,p:produce").unwrap();
        let check = |text| check(text, &access, Operation::ListenEvents);
        assert_eq!(check(r#"{"type":"auth","token":"o","more":1}"#), Ok(()));
        for (text, reason) in [
            (r#"{"type":"auth","token":"x"}"#, "Invalid token"),
            (r#"{"type":"auth","token":"p"}"#, "Unauthorized: listen to events needs the role"),
            (r#"{"type":"auth"}"#, "Authentication required"),
            (r#"{"type":"hello","token":"o"}"#, "Authentication required"),
            ("o", "Authentication required"),
        ] {
            let frame = check(text).unwrap_err().unwrap();
            assert_eq!(frame.code, CloseCode::Policy);
            assert!(frame.reason.starts_with(reason), "{text}: {}", frame.reason);
        }
    }

    #[test]
    fn a_reason_fits_into_its_frame() {
        let frame = close(CloseCode::Again, &"ü".repeat(200)).unwrap();
        assert!(frame.reason.len() <= REASON_BYTES_MAX);
    }
}
