//! Requests by hand.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::SOON;

/// Asks a node over HTTP; each request has a connection of its own.
#[derive(Debug, Clone)]
pub struct Http {
    /// Where it is.
    pub address: SocketAddr,
    token: Option<String>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as text.
    pub text: String,
}

impl Reply {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// Status and error code of a problem.
    pub fn problem(&self) -> (u16, String) {
        (self.status, self.json()["code"].as_str().unwrap_or_default().to_owned())
    }
}

impl Http {
    /// Requests to this address.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, token: None }
    }

    /// With this token.
    #[must_use]
    pub fn token(&self, token: &str) -> Self {
        Self { token: Some(token.into()), ..self.clone() }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, None, &[]).await
    }

    /// GET; an error if there is nobody.
    ///
    /// # Errors
    ///
    /// What went wrong.
    pub async fn try_get(&self, path: &str) -> Result<Reply, String> {
        self.try_send(Method::GET, path, None, &[]).await
    }

    /// POST with a JSON body; an error if there is nobody.
    ///
    /// # Errors
    ///
    /// What went wrong.
    pub async fn try_post(&self, path: &str, body: impl Into<Value>) -> Result<Reply, String> {
        let json = ("content-type", "application/json");
        let body = body.into().to_string().into();
        self.try_send(Method::POST, path, Some(body), &[json]).await
    }

    /// POST with a JSON body.
    pub async fn post(&self, path: &str, body: impl Into<Value>) -> Reply {
        self.post_text(path, body.into().to_string()).await
    }

    /// POST with a body that may be anything, said to be JSON.
    pub async fn post_text(&self, path: &str, body: impl Into<Bytes>) -> Reply {
        let json = ("content-type", "application/json");
        self.send(Method::POST, path, Some(body.into()), &[json]).await
    }

    /// A stream of events, from a number on if there is one.
    ///
    /// # Errors
    ///
    /// If it is refused or nobody is there.
    pub async fn listen(&self, path: &str, after: Option<u64>) -> Result<super::Live, String> {
        let stream = TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let mut request = Request::builder().uri(path).header("host", "batonq");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let request = request.body(Full::<Bytes>::default()).expect("a valid request");
        let reply = sender.send_request(request).await.map_err(|error| error.to_string())?;
        match reply.status().as_u16() {
            200 => Ok(super::Live::new(reply.into_body(), sender)),
            status => Err(format!("refused: {status}")),
        }
    }

    /// Any request.
    ///
    /// # Panics
    ///
    /// If there is no answer soon.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        headers: &[(&str, &str)],
    ) -> Reply {
        self.try_send(method, path, body, headers).await.expect("an answer")
    }

    /// Any request; an error if the node goes away before it answers.
    ///
    /// # Errors
    ///
    /// What went wrong.
    ///
    /// # Panics
    ///
    /// If nothing happens soon, or the request can not be sent at all.
    pub async fn try_send(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        headers: &[(&str, &str)],
    ) -> Result<Reply, String> {
        let stream = TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "batonq");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.unwrap_or_default())).expect("a valid request");
        let answered = tokio::time::timeout(SOON * 4, async {
            let reply = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let (status, headers) = (reply.status().as_u16(), reply.headers().clone());
            let body = reply.into_body().collect().await.map_err(|error| error.to_string())?;
            let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            Ok(Reply { status, headers, text })
        });
        answered.await.expect("the server neither answers nor closes")
    }
}
