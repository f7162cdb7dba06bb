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

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;

use crate::door::Door;

/// After the system refused a connection (no file handles left), the next try comes this much
/// later.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Lets clients in until the door's `stop`.
pub async fn serve(listener: TcpListener, door: Door) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = door.stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                let permit = std::sync::Arc::clone(&door.connections).try_acquire_owned();
                let Ok(permit) = permit else {
                    tracing::warn!(%address, "too many connections");
                    continue;
                };
                let task = attend(stream, address.to_string(), door.clone(), permit);
                door.tasks.spawn(task);
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
}

async fn attend(mut stream: TcpStream, address: String, door: Door, _permit: OwnedSemaphorePermit) {
    let _connected = door.broker.metrics().connected("tcp");
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(address, %error, "no TCP_NODELAY");
    }
    let greeted = tokio::select! {
        greeted = handshake::greet(&mut stream, &address, &door) => greeted,
        () = door.stop.cancelled() => return,
    };
    match greeted {
        Ok(guest) => connection::Connection::new(stream, guest, door).run().await,
        Err(reason) => tracing::debug!(address, reason, "connection refused"),
    }
}
