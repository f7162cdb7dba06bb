//! HTTP with JSON: decode, call the broker, encode.
//!
//! One table (`routes.rs`) says for each route its operation (and so its role), the types of its
//! body and answer, and who serves it; the router, the authorization and the description at
//! `/openapi.json` all come from it. Errors are problems as in RFC 9457.
//!
//! Clients of flashQ have routes of their own on the same port; `flashq/http` serves them.

pub(crate) mod body;
pub(crate) mod cors;
mod handlers;
pub(crate) mod headers;
pub(crate) mod live;
mod model;
mod openapi;
mod problem;
mod query;
mod routes;
mod service;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;

use self::service::Service;
use crate::door::Door;
use crate::limits;
use crate::metrics::Connected;

#[doc(hidden)]
pub use self::body::fuzz as fuzz_bodies;

/// The head of a request may have so many bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The head of a request may have so many fields.
const HEADERS_MAX: usize = 100;

/// The place of a client among those of the node, as long as any of its clones lives. Each request
/// has one among its extensions, for what goes on after HTTP.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    _permit: Arc<OwnedSemaphorePermit>,
    _connected: Arc<Connected>,
}

/// Lets clients in until the door's `stop`.
pub async fn serve(listener: TcpListener, door: Door) {
    let service = Arc::new(Service::new(door.clone()));
    let attend =
        |stream, address: SocketAddr, permit| attend(stream, address, Arc::clone(&service), permit);
    door.let_in(listener, attend, problem::turn_away).await;
}

/// Serves one connection until it ends, is idle for too long, or the node stops.
async fn attend(
    stream: TcpStream,
    address: SocketAddr,
    service: Arc<Service>,
    permit: OwnedSemaphorePermit,
) {
    let connected = service.door().broker.metrics().connected("http");
    let place = Place { _permit: Arc::new(permit), _connected: Arc::new(connected) };
    let stop = service.door().stop.clone();
    let serve = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(place.clone());
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(service.serve(request, address).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits::IDLE_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    let connection = http.serve_connection(TokioIo::new(stream), serve).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
