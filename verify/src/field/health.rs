//! Asking a node how it is.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// What came of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// It says that it leads.
    Leads,
    /// It says that it does not lead.
    Follows,
    /// Nobody is there, or the connection broke.
    Gone,
    /// There was no answer in time.
    Silent,
}

/// Questions to one node on one connection, as long as that lasts.
#[derive(Debug)]
pub struct Probe {
    address: SocketAddr,
    connection: Option<Connection>,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Probe {
    /// Questions to the node that serves HTTP there.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    /// Who it says it is; asked within so long.
    ///
    /// # Cancel safety
    ///
    /// The next question is asked on a new connection.
    pub async fn look(&mut self, within: Duration) -> Sight {
        match tokio::time::timeout(within, self.get("/health")).await {
            Err(_) => Sight::Silent,
            Ok(None) => Sight::Gone,
            Ok(Some((_, health))) if health["is_leader"] == true => Sight::Leads,
            Ok(Some(_)) => Sight::Follows,
        }
    }

    /// Whether it can do its work.
    ///
    /// # Cancel safety
    ///
    /// As [`Probe::look`].
    pub async fn is_ready(&mut self, within: Duration) -> bool {
        let asked = tokio::time::timeout(within, self.get("/health/ready")).await;
        matches!(asked, Ok(Some((200, _))))
    }

    async fn get(&mut self, path: &str) -> Option<(u16, Value)> {
        // It is put back when it has been of use.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::to(self.address).await?,
        };
        let request = Request::get(path).header("host", "batonq").body(Empty::new());
        let request = request.expect("the path is one of ours");
        let reply = connection.sender.send_request(request).await.ok()?;
        let status = reply.status().as_u16();
        let body = reply.into_body().collect().await.ok()?.to_bytes();
        if connection.sender.ready().await.is_ok() {
            self.connection = Some(connection);
        }
        Some((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }
}

impl Connection {
    async fn to(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
        let driver = tokio::spawn(async move {
            // Whoever asks sees that it is broken.
            connection.await.ok();
        });
        Some(Self { sender, driver })
    }
}
