//! The first frames: who is there, and may they come in.

use std::time::Duration;

use batonq_protocol::messages::{Hello, Limits, Welcome};
use batonq_protocol::{
    Envelope, FRAME_BYTES_MAX, FRAME_BYTES_MAX_UNAUTHENTICATED, FrameCodec, FrameError, Message,
    PREFACE, VERSION_MAX, VERSION_MIN, negotiate,
};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::codec::{Decoder, Encoder};

use super::convert;
use crate::access::Principal;
use crate::broker::{Attendance, Visitor};
use crate::door::{Door, version};
use crate::error::Error;
use crate::job::{WorkerName, cut};
use crate::limits;
use crate::store::SessionId;

/// Somebody who guesses tokens shall have to wait for each.
const AFTER_WRONG_TOKEN: Duration = Duration::from_millis(500);

/// A client that has been let in.
pub(super) struct Guest {
    pub(super) principal: Principal,
    pub(super) worker: WorkerName,
    /// Who it is, in words.
    pub(super) who: String,
    pub(super) attendance: Attendance,
    /// Bytes that came behind the `Hello`.
    pub(super) read: BytesMut,
}

/// Reads preface and `Hello`, answers.
///
/// # Errors
///
/// Why the connection must close. The client has been told, if it could understand it.
pub(super) async fn greet(
    stream: &mut TcpStream,
    address: &str,
    door: &Door,
) -> Result<Guest, &'static str> {
    let mut read = BytesMut::new();
    let hello = tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, read_hello(stream, &mut read));
    let (request_id, hello) = match hello.await {
        Ok(Ok(hello)) => hello,
        Ok(Err(Refusal::Silent(reason))) => return Err(reason),
        Ok(Err(Refusal::Framing(error))) => {
            say(stream, 0, convert::framing_error(&error)).await;
            return Err("framing violation");
        }
        Err(_) => return Err("no Hello in time"),
    };
    let Some(version) = negotiate(hello.version_min, hello.version_max) else {
        let detail = format!("this node speaks versions {VERSION_MIN} to {VERSION_MAX}");
        say(stream, request_id, convert::version_error(detail)).await;
        return Err("no version in common");
    };
    match admit(hello, address, door).await {
        Ok((guest, welcome)) => {
            let welcome = Message::Welcome(Box::new(Welcome { version, ..welcome }));
            say(stream, request_id, welcome).await;
            Ok(Guest { read, ..guest })
        }
        Err(error) => {
            if matches!(error, Error::Unauthenticated(_)) {
                tokio::time::sleep(AFTER_WRONG_TOKEN).await;
            }
            say(stream, request_id, convert::error_message(&error)).await;
            Err("not admitted")
        }
    }
}

async fn admit(hello: Hello, address: &str, door: &Door) -> Result<(Guest, Welcome), Error> {
    let principal = door.access.authenticate(Some(&hello.token))?;
    let worker = WorkerName::parse(&hello.worker)?;
    let visitor = Visitor {
        worker: worker.clone(),
        client: cut(&hello.client, limits::WORKER_NAME_BYTES_MAX),
        address: address.into(),
    };
    let name =
        [worker.as_str(), &visitor.client, "a client"].into_iter().find(|name| !name.is_empty());
    let who = format!("{} ({address})", name.unwrap_or_default());
    let resume = (hello.session != 0).then_some(SessionId(hello.session));
    let (attendance, leases) = door.broker.open_session(visitor, resume).await?;
    let patience = door.broker.patience();
    let token = |lease| convert::token(&door.broker, lease);
    let welcome = Welcome {
        version: 0,
        node_id: door.card.id.clone(),
        server_version: version().into(),
        session: attendance.id().0,
        resumed: leases.is_some(),
        leases: leases.unwrap_or_default().into_iter().map(token).collect(),
        heartbeat_interval_ms: convert::millis(patience.heartbeat_interval),
        heartbeat_timeout_ms: convert::millis(patience.heartbeat_timeout),
        reconnect_grace_ms: convert::millis(patience.reconnect_grace),
        limits: Some(Limits {
            frame_bytes_max: limits::FRAME_BYTES_MAX as u64,
            payload_bytes_max: limits::PAYLOAD_BYTES_MAX as u64,
            batch_max: limits::BATCH_MAX as u32,
            wait_ms_max: convert::millis(limits::WAIT_MAX),
            in_flight_max: limits::IN_FLIGHT_MAX as u32,
            credit_max: limits::CREDIT_MAX,
        }),
    };
    Ok((Guest { principal, worker, who, attendance, read: BytesMut::new() }, welcome))
}

enum Refusal {
    Silent(&'static str),
    Framing(FrameError),
}

async fn read_hello(stream: &mut TcpStream, read: &mut BytesMut) -> Result<(u64, Hello), Refusal> {
    let mut codec = FrameCodec::new(FRAME_BYTES_MAX_UNAUTHENTICATED);
    let mut is_opened = false;
    loop {
        if !is_opened {
            let known = read.len().min(PREFACE.len());
            if read[..known] != PREFACE[..known] {
                return Err(Refusal::Silent("another protocol"));
            }
            if known == PREFACE.len() {
                is_opened = true;
                drop(read.split_to(known));
            }
        }
        if is_opened && let Some(envelope) = codec.decode(read).map_err(Refusal::Framing)? {
            return match envelope.message {
                Some(Message::Hello(hello)) => Ok((envelope.request_id, *hello)),
                _ => Err(Refusal::Silent("no Hello")),
            };
        }
        match stream.read_buf(read).await {
            Ok(0) | Err(_) => return Err(Refusal::Silent("closed")),
            Ok(_) => {}
        }
    }
}

/// Sends one frame. If that fails, the next read will show it.
async fn say(stream: &mut TcpStream, request_id: u64, message: Message) {
    let mut out = BytesMut::new();
    let envelope = Envelope { request_id, message: Some(message) };
    if FrameCodec::new(FRAME_BYTES_MAX).encode(&envelope, &mut out).is_ok() {
        let sent = tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, stream.write_all(&out)).await;
        if !matches!(sent, Ok(Ok(()))) {
            tracing::debug!("a client left during the handshake");
        }
    }
}
