//! flashQ's protocol by hand, as text and as MessagePack.

use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::SOON;

/// How requests and replies are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A line of JSON.
    Text,
    /// A length and MessagePack.
    Binary,
}

impl Mode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Text, Self::Binary];

    /// The bytes of a request.
    pub fn encode(self, request: &Value) -> Vec<u8> {
        match self {
            Self::Text => format!("{request}\n").into_bytes(),
            Self::Binary => {
                framed(&rmp_serde::to_vec_named(request).expect("JSON can be written so"))
            }
        }
    }

    /// Takes a whole reply out of what was read.
    fn decode(self, read: &mut BytesMut) -> Option<Value> {
        match self {
            Self::Text => {
                let end = read.iter().position(|byte| *byte == b'\n')?;
                let line = read.split_to(end + 1);
                Some(serde_json::from_slice(&line).expect("a reply is a line of JSON"))
            }
            Self::Binary => {
                let length = u32::from_be_bytes(*read.first_chunk()?) as usize;
                if read.len() < 4 + length {
                    return None;
                }
                read.advance(4);
                let body = read.split_to(length);
                Some(rmp_serde::from_slice(&body).expect("a reply is MessagePack"))
            }
        }
    }
}

/// Bytes with their length before them.
pub fn framed(body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    frame
}

/// A connection to a node. Nothing is sent that the test has not said.
#[derive(Debug)]
pub struct FlashQ {
    mode: Mode,
    stream: TcpStream,
    read: BytesMut,
    asked: u64,
}

impl FlashQ {
    /// Connects.
    ///
    /// # Panics
    ///
    /// If nobody listens.
    pub async fn connect(address: SocketAddr, mode: Mode) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("it is a connection");
        Self { mode, stream, read: BytesMut::new(), asked: 0 }
    }

    /// Sends bytes. A server that has closed takes nothing, which is fine.
    ///
    /// # Panics
    ///
    /// If it neither takes them soon nor closes.
    pub async fn send(&mut self, bytes: &[u8]) {
        let sent = tokio::time::timeout(SOON, self.stream.write_all(bytes)).await;
        // Closed by the server.
        sent.expect("the server neither reads nor closes").ok();
    }

    /// Sends a request as it is.
    pub async fn say(&mut self, request: &Value) {
        self.send(&self.mode.encode(request)).await;
    }

    /// The next reply; `None`: the server has closed the connection.
    ///
    /// # Panics
    ///
    /// If neither happens soon, or if it is no reply.
    pub async fn hear(&mut self) -> Option<Value> {
        loop {
            if let Some(reply) = self.mode.decode(&mut self.read) {
                return Some(reply);
            }
            let read = tokio::time::timeout(SOON, self.stream.read_buf(&mut self.read)).await;
            match read.expect("the server neither answers nor closes") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next reply.
    ///
    /// # Panics
    ///
    /// If the server closes instead.
    pub async fn reply(&mut self) -> Value {
        self.hear().await.expect("a reply")
    }

    /// Says `cmd` with these fields and a `reqId`, and hears the reply to it, passing over others.
    /// `None`: the server has closed the connection.
    pub async fn try_ask(&mut self, cmd: &str, mut fields: Value) -> Option<Value> {
        self.asked += 1;
        let id = json!(self.asked.to_string());
        fields["cmd"] = cmd.into();
        fields["reqId"] = id.clone();
        self.say(&fields).await;
        loop {
            let reply = self.hear().await?;
            if reply["reqId"] == id {
                return Some(reply);
            }
        }
    }

    /// The same, of a server that stays.
    ///
    /// # Panics
    ///
    /// If it closes instead.
    pub async fn ask(&mut self, cmd: &str, fields: Value) -> Value {
        self.try_ask(cmd, fields).await.expect("a reply")
    }

    /// The same, of a request that is done.
    ///
    /// # Panics
    ///
    /// If it is refused.
    pub async fn done(&mut self, cmd: &str, fields: Value) -> Value {
        let reply = self.ask(cmd, fields).await;
        assert_eq!(reply["ok"], true, "{cmd}: {reply}");
        reply
    }

    /// Whatever comes until the server closes.
    ///
    /// # Panics
    ///
    /// If it does not close soon.
    pub async fn until_closed(&mut self) -> Vec<Value> {
        let mut heard = Vec::new();
        while let Some(reply) = self.hear().await {
            heard.push(reply);
        }
        heard
    }
}
