//! The binary protocol over TCP: decode, call the broker, encode.
//!
//! One task for each connection does everything: it reads frames, runs the requests side by side,
//! and writes their answers in the order in which they are ready, as many at once as there are.
//! A client that does not read is not read from either. What travels is told in
//! [`batonq_protocol`].

mod connection;
mod convert;
mod handshake;
mod request;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

use crate::door::Door;

/// Lets clients in until the door's `stop`. One for which there is no room is cut off.
pub async fn serve(listener: TcpListener, door: Door) {
    let attend = |stream, address: std::net::SocketAddr, permit| {
        let span = tracing::debug_span!("conn", %address);
        attend(stream, address.to_string(), door.clone(), permit).instrument(span)
    };
    door.let_in(listener, attend, |stream| async move { drop(stream) }).await;
}

async fn attend(mut stream: TcpStream, address: String, door: Door, _permit: OwnedSemaphorePermit) {
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
