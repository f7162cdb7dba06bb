//! Frames by hand.

use std::net::SocketAddr;

use batonq_protocol::messages::Hello;
use batonq_protocol::{Envelope, FRAME_BYTES_MAX, FrameCodec, Message, PREFACE};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::codec::{Decoder, Encoder};

use super::SOON;

/// A TCP connection to a node. Nothing is sent that the test has not said.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    read: BytesMut,
}

impl Wire {
    /// Connects.
    ///
    /// # Panics
    ///
    /// If nobody listens.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        Self { stream, read: BytesMut::new() }
    }

    /// Connects and says hello.
    ///
    /// # Panics
    ///
    /// If it is not welcome.
    pub async fn greeted(address: SocketAddr) -> Self {
        let mut wire = Self::connect(address).await;
        wire.send(&PREFACE).await;
        wire.say(1, Message::Hello(Box::new(hello("")))).await;
        let welcome = wire.hear().await;
        assert!(
            matches!(welcome, Some(Envelope { message: Some(Message::Welcome(_)), .. })),
            "{welcome:?}"
        );
        wire
    }

    /// Sends bytes. A server that has closed takes nothing, which is fine.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.ok();
    }

    /// Sends a frame.
    pub async fn say(&mut self, request_id: u64, message: Message) {
        self.send(&frame(request_id, message)).await;
    }

    /// The next frame; `None`: the server has closed the connection.
    ///
    /// # Panics
    ///
    /// If neither happens soon, or if it is no frame.
    pub async fn hear(&mut self) -> Option<Envelope> {
        let mut codec = FrameCodec::new(FRAME_BYTES_MAX);
        loop {
            if let Some(envelope) = codec.decode(&mut self.read).expect("the server sends frames") {
                return Some(envelope);
            }
            let read = tokio::time::timeout(SOON, self.stream.read_buf(&mut self.read)).await;
            match read.expect("the server neither answers nor closes") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next frame's message.
    ///
    /// # Panics
    ///
    /// If the server closes instead.
    pub async fn answer(&mut self) -> Message {
        self.hear().await.and_then(|envelope| envelope.message).expect("an answer")
    }

    /// Asks and hears the answer, passing over what comes unasked.
    ///
    /// # Panics
    ///
    /// If the server closes instead.
    pub async fn ask(&mut self, request_id: u64, message: Message) -> Message {
        self.say(request_id, message).await;
        loop {
            let envelope = self.hear().await.expect("an answer");
            if envelope.request_id == request_id {
                return envelope.message.expect("a known message");
            }
        }
    }

    /// Whatever comes until the server closes.
    ///
    /// # Panics
    ///
    /// If it does not close soon.
    pub async fn until_closed(&mut self) -> Vec<Envelope> {
        let mut heard = Vec::new();
        while let Some(envelope) = self.hear().await {
            heard.push(envelope);
        }
        heard
    }
}

/// The bytes of a frame.
///
/// # Panics
///
/// If it is too large for the protocol.
pub fn frame(request_id: u64, message: Message) -> BytesMut {
    let mut bytes = BytesMut::new();
    let envelope = Envelope { request_id, message: Some(message) };
    FrameCodec::new(FRAME_BYTES_MAX).encode(&envelope, &mut bytes).expect("it fits");
    bytes
}

/// The first message of a client.
pub fn hello(token: &str) -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        token: token.into(),
        worker: "wire".into(),
        session: 0,
        client: "tests".into(),
    }
}
