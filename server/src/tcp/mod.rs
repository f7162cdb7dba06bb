//! The port for TCP. The binary protocol is ours: decode, call the broker, encode.
//!
//! One task for each connection does everything: it reads frames, runs the requests side by side,
//! and writes their answers in the order in which they are ready, as many at once as there are.
//! A client that does not read is not read from either. What travels is told in
//! [`batonq_protocol`].
//!
//! A connection whose first byte says so speaks the protocol of flashQ instead; see `flashq/`.
//! Clients of that are quiet until they have something to say, so a quiet connection is cut off only
//! where they would have to show a token first.

mod connection;
mod convert;
mod handshake;
mod request;
mod together;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

use crate::door::Door;
use crate::{flashq, limits};

/// Lets clients in until the door's `stop`. One for which there is no room is cut off.
pub async fn serve(listener: TcpListener, door: Door) {
    let flashq = flashq::Service::new(door.clone());
    let attend = |stream, address: std::net::SocketAddr, permit| {
        let span = tracing::debug_span!("conn", %address);
        let (door, flashq) = (door.clone(), flashq.clone());
        attend(stream, address.to_string(), door, flashq, permit).instrument(span)
    };
    door.let_in(listener, attend, |stream| async move { drop(stream) }).await;
}

async fn attend(
    mut stream: TcpStream,
    address: String,
    door: Door,
    flashq: flashq::Service,
    _permit: OwnedSemaphorePermit,
) {
    flashq::keep_alive(&stream);
    let first = tokio::select! {
        first = first_byte(&stream, &door) => first,
        () = door.stop.cancelled() => return,
    };
    let Some(first) = first else { return };
    if flashq::Service::speaks(first) {
        let _connected = door.broker.metrics().connected("flashq");
        return flashq.attend(stream, first, &address).await;
    }
    let _connected = door.broker.metrics().connected("tcp");
    let greeted = tokio::select! {
        greeted = handshake::greet(&mut stream, &address, &door) => greeted,
        () = door.stop.cancelled() => return,
    };
    match greeted {
        Ok(guest) => connection::Connection::new(stream, guest, door).run().await,
        Err(reason) => tracing::debug!(address, reason, "connection refused"),
    }
}

/// The first byte that a client sends; it is still to be read. `None`: it has left, or was quiet
/// for too long.
async fn first_byte(stream: &TcpStream, door: &Door) -> Option<u8> {
    let mut first = [0];
    let peeked = stream.peek(&mut first);
    let count = match door.access.is_open() {
        true => peeked.await.ok()?,
        false => tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, peeked).await.ok()?.ok()?,
    };
    (count > 0).then_some(first[0])
}
