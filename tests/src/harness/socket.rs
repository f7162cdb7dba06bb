//! A WebSocket, as a browser has it.

use futures_util::{SinkExt, StreamExt};
use hyper::Request;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{Http, SOON};

/// An open socket.
#[derive(Debug)]
pub struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    /// Opens one at a node.
    ///
    /// # Errors
    ///
    /// The status, if it is refused.
    ///
    /// # Panics
    ///
    /// If there is no answer soon, or one that is none.
    pub async fn open(http: &Http, path: &str, headers: &[(&str, &str)]) -> Result<Self, u16> {
        let stream = TcpStream::connect(http.address).await.expect("the server listens");
        let mut request = Request::builder()
            .uri(format!("ws://{}{path}", http.address))
            .header("host", http.address.to_string())
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", generate_key());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a valid request");
        let opened = tokio::time::timeout(SOON, client_async(request, stream)).await;
        match opened.expect("an answer soon") {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(Error::Http(refusal)) => Err(refusal.status().as_u16()),
            Err(error) => panic!("no answer: {error}"),
        }
    }

    /// Sends a text.
    pub async fn say(&mut self, text: impl Into<String>) {
        // A server that has closed takes nothing, which is fine.
        self.0.send(Message::text(text.into())).await.ok();
    }

    /// Sends bytes that are no frame.
    pub async fn send(&mut self, bytes: &[u8]) {
        // The same.
        self.0.get_mut().write_all(bytes).await.ok();
    }

    /// The next text, as JSON.
    ///
    /// # Panics
    ///
    /// If none comes soon, or none at all.
    pub async fn next(&mut self) -> Value {
        let text = self.read().await.unwrap_or_else(|code| panic!("it is closed: {code:?}"));
        serde_json::from_str(&text).expect("what is sent is JSON")
    }

    /// The code it is closed with; `None`: without one. Texts are passed over.
    ///
    /// # Panics
    ///
    /// If it is not closed soon.
    pub async fn closed(&mut self) -> Option<u16> {
        loop {
            if let Err(code) = self.read().await {
                return code;
            }
        }
    }

    /// The next text, or the code that it is closed with.
    async fn read(&mut self) -> Result<String, Option<u16>> {
        loop {
            let message = tokio::time::timeout(SOON, self.0.next()).await;
            match message.expect("a message, or the end, soon") {
                Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
                Some(Ok(Message::Close(frame))) => {
                    return Err(frame.map(|frame| code(frame.code)));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }
}

fn code(code: CloseCode) -> u16 {
    code.into()
}
