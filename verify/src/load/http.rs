//! Requests over HTTP, one after the other on one connection.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::answer::{Answer, Failure, of_status};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks one address.
#[derive(Debug)]
pub(super) struct Peer {
    address: String,
    token: Option<String>,
    connection: Option<Connection>,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    _task: AbortOnDropHandle<Result<(), hyper::Error>>,
}

impl Peer {
    pub(super) fn new(address: String, token: Option<String>) -> Self {
        Self { address, token, connection: None }
    }

    /// Asks, and reads the answer as JSON.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future drops the connection.
    pub(super) async fn ask<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        within: Duration,
    ) -> Answer<T> {
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.sender.is_closed() => connection,
            _ => Connection::open(&self.address).await?,
        };
        let request = self.request(method, path, body)?;
        let (status, answer) =
            timeout(within, connection.send(request)).await.unwrap_or(Err(Failure::Unknown))?;
        // After an error the connection is not to be trusted: it was dropped by then.
        self.connection = Some(connection);
        if !status.is_success() {
            return Err(of_status(status, &answer));
        }
        serde_json::from_slice(&answer).map_err(|_| Failure::Unknown)
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Answer<Request<Full<Bytes>>> {
        let mut request = Request::builder().method(method).uri(path).header("host", &self.address);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = body.map(|body| Bytes::from(body.to_string()));
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        request.body(Full::new(body.unwrap_or_default())).map_err(|_| Failure::NOBODY)
    }
}

impl Connection {
    async fn open(address: &str) -> Answer<Self> {
        let opening = async {
            let stream = TcpStream::connect(address).await.map_err(|_| Failure::NOBODY)?;
            stream.set_nodelay(true).map_err(|_| Failure::NOBODY)?;
            handshake(TokioIo::new(stream)).await.map_err(|_| Failure::NOBODY)
        };
        let opened = timeout(CONNECT_TIMEOUT, opening).await.unwrap_or(Err(Failure::NOBODY));
        let (sender, connection) = opened?;
        Ok(Self { sender, _task: AbortOnDropHandle::new(tokio::spawn(connection)) })
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer<(hyper::StatusCode, Bytes)> {
        self.sender.ready().await.map_err(|_| Failure::NOBODY)?;
        let sent = self.sender.try_send_request(request).await;
        let reply = sent.map_err(|error| match error.message().is_some() {
            // It was handed back: not a byte of it was written.
            true => Failure::NOBODY,
            false => Failure::Unknown,
        })?;
        let status = reply.status();
        let body = reply.into_body().collect().await.map_err(|_| Failure::Unknown)?;
        Ok((status, body.to_bytes()))
    }
}
