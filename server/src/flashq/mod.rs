//! The flashQ protocol over TCP, so that clients of that broker can stay as they are: decode, call
//! the broker, encode. What it has over HTTP is in [`http`] and asks for the same commands.
//!
//! It is spoken on the port of our own protocol; the first byte of a connection tells which one it
//! is. `{`, LF and CR begin text: one JSON object a line, either way. 0 and 1 begin frames: a length
//! of four bytes, big endian, and a MessagePack map. Everything else is ours.
//!
//! ```text
//!            with tokens                 AUTH with a good one
//!  ───────▶ unknown ───────────────────────────────────────▶ served ──▶ leaving ──▶ closed
//!              │  one request at a time, small ones only,      ▲  the node stops
//!              │  for HANDSHAKE_TIMEOUT                        │  or drains
//!              ▼                              without tokens ──┘
//!            closed
//! ```
//!
//! What holds:
//!
//! * Requests of a connection are served side by side: an ACK never waits for a PULL. What has a
//!   `reqId` is answered as soon as it is ready, and the answer has it; the rest in the order of the
//!   requests, since nothing else tells whose answer it is.
//! * A request that can not be understood is answered too, with its `reqId` if that can be read.
//!   Only a line or frame that is too long ends the connection, after an answer.
//! * What happens in queues that a client has subscribed to comes between the answers, without a
//!   `reqId`.
//! * A client that does not read is not read from, and cut off after a while.
//!
//! Jobs are known by their numbers only, so leases stay here. They hang on the session of the
//! connection that has pulled. No client of this protocol sends signs of life by itself: the session
//! lives as long as its connection does, and TCP asks whether the peer is there. What happens when
//! something fails:
//!
//! * The connection goes: its waits end and take nothing, its jobs come back as from a crashed worker.
//! * The worker settles a job over another connection or another node: the lease is looked up.
//! * The node dies: leases end by themselves, at nobody's charge.
//! * The node stops or drains: pulls are answered empty. A connection stays until what was asked for
//!   has been answered and its jobs have been settled, as far as the node waits for it.
//! * The store can not be reached: an error says so. A pull that it keeps waiting is answered
//!   empty a moment after its time, and what it may still bring goes back.

mod change_job;
mod change_queue;
mod command;
mod connection;
mod cron;
mod events;
mod feed;
mod fields;
mod flow;
mod frame;
pub(crate) mod http;
mod job;
mod kv;
mod leases;
mod look;
mod options;
mod queues;
mod subscriptions;
pub(crate) mod webhook;
mod work;

use std::time::Duration;

use batonq_protocol::ErrorCode;
use serde_json::{Map, Value};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use self::leases::Leases;
use crate::broker::Visitor;
use crate::door::Door;
use crate::error::Error;
use crate::job::{JobId, WorkerName};
use crate::limits;
use crate::store::Hold;

/// A peer of which nothing is heard for so long is asked whether it is there, so often, so many
/// times.
const PEER_ASKED_AFTER: Duration = Duration::from_secs(10);
const PEER_ASKED_EVERY: Duration = Duration::from_secs(5);
const PEER_ASKED_TIMES: u32 = 3;

/// A request, and what an answer has beside `ok`, `success` and `reqId`.
type Fields = Map<String, Value>;

/// What a request comes to.
type Answer = Result<Fields, Refused>;

/// Why a request was not served: the text of `error`, and what it means. Over TCP clients have the
/// text only, and tell what went wrong by the words in it; `auth` and `valid` have meanings there.
/// Over HTTP the status comes of the code.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refused(String, ErrorCode);

impl Refused {
    /// Nothing is known of a job, or it is not where it would have to be.
    fn no_job(id: JobId) -> Self {
        Self(format!("Job not found: {id}"), ErrorCode::NotFound)
    }

    /// A request that is wrong in itself.
    fn invalid(detail: impl std::fmt::Display) -> Self {
        Self(format!("Invalid: {detail}"), ErrorCode::Invalid)
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let code = error.code();
        let text = match error {
            Error::Invalid(invalid) => format!("Invalid: {}: {}", invalid.field, invalid.detail),
            Error::PayloadTooLarge { field: "payload", detail } => {
                format!("Job data too large ({detail})")
            }
            Error::PayloadTooLarge { detail, .. } => format!("Value too large ({detail})"),
            Error::Unauthenticated(_) => "Invalid token".into(),
            Error::Forbidden { .. } => format!("Unauthorized: {error}"),
            Error::NotFound(detail) => match detail.strip_prefix("there is no job ") {
                Some(id) => format!("Job not found: {id}"),
                None => format!("Not found: {detail}"),
            },
            Error::LeaseLost => "Job not found in processing".into(),
            Error::WrongState(detail) => detail,
            Error::Duplicate(detail) => format!("Duplicate: {detail}"),
            Error::RateLimited(detail) => format!("Rate limit: {detail}"),
            Error::Overloaded(detail) => format!("Overloaded: {detail}"),
            Error::Unavailable(detail) => format!("Unavailable: {detail}"),
            Error::OutcomeUnknown(detail) => format!("Outcome unknown: {detail}"),
            Error::Internal(detail) => format!("Internal error: {detail}"),
        };
        Self(text, code)
    }
}

impl From<crate::job::InvalidField> for Refused {
    fn from(invalid: crate::job::InvalidField) -> Self {
        Error::from(invalid).into()
    }
}

/// Who asks, for the length of one request.
#[derive(Clone, Copy)]
struct Client<'a> {
    door: &'a Door,
    /// What its leases hang on.
    hold: Hold,
    worker: &'a WorkerName,
    /// Who it is, in words.
    who: &'a str,
    leases: &'a Leases,
    req_id: Option<&'a str>,
}

/// What serves this protocol at a node. Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    door: Door,
    leases: Leases,
}

impl Service {
    pub(crate) fn new(door: Door) -> Self {
        Self { door, leases: Leases::default() }
    }

    /// Whether a connection that begins with this byte is meant for it.
    pub(crate) fn speaks(first: u8) -> bool {
        frame::Mode::of(first).is_some()
    }

    /// Serves a client until it leaves, misbehaves, or the node stops. `first` is the first byte
    /// that it has sent, which is still to be read.
    pub(crate) async fn attend(&self, stream: TcpStream, first: u8, address: &str) {
        let Some(mode) = frame::Mode::of(first) else { return };
        let name = format!("flashq@{address}");
        let worker = match WorkerName::parse(&crate::job::cut(&name, limits::WORKER_NAME_BYTES_MAX))
        {
            Ok(worker) => worker,
            Err(error) => return tracing::error!(%error, "a peer's address is no name"),
        };
        let visitor =
            Visitor { worker: worker.clone(), client: "flashq".into(), address: address.into() };
        let attendance = match self.door.broker.open_session(visitor, None).await {
            Ok((attendance, _)) => attendance,
            Err(error) => return tracing::debug!(%error, "no session"),
        };
        let guest = connection::Guest {
            door: self.door.clone(),
            leases: self.leases.clone(),
            session: attendance.id(),
            worker,
            who: format!("flashq client ({address})"),
        };
        connection::Connection::new(stream, mode, guest, attendance).run().await;
    }
}

/// Has the system notice when a peer is gone that says nothing by itself.
pub(crate) fn keep_alive(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(PEER_ASKED_AFTER)
        .with_interval(PEER_ASKED_EVERY)
        .with_retries(PEER_ASKED_TIMES);
    if let Err(error) = socket.set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "no TCP keepalive");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_the_words_that_clients_look_for() {
        for (error, text) in [
            (Error::NotFound("there is no job 7".into()), "Job not found: 7"),
            (Error::NotFound("there is no queue q".into()), "Not found: there is no queue q"),
            (Error::invalid("queue", "empty"), "Invalid: queue: empty"),
            (Error::Unauthenticated("a token is needed"), "Invalid token"),
            (Error::RateLimited("9 a minute".into()), "Rate limit: 9 a minute"),
        ] {
            assert_eq!(Refused::from(error).0, text);
        }
    }

    #[test]
    fn what_is_no_matter_of_tokens_or_of_the_request_does_not_sound_so() {
        for error in [
            Error::Unavailable("the database can not be reached".into()),
            Error::OutcomeUnknown("the answer was lost".into()),
            Error::Overloaded("too much waits"),
            Error::WrongState("job 7 is completed: only a dead job can be retried".into()),
            Error::Internal("a mistake".into()),
            Error::LeaseLost,
        ] {
            let text = Refused::from(error).0.to_lowercase();
            assert!(!text.contains("auth") && !text.contains("valid"), "{text}");
        }
    }
}
