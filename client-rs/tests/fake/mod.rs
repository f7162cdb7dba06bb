//! A node that says what the test tells it to say.
//!
//! Nothing here sleeps: a test waits for what the client sends, and times are short only where
//! it is the point that they run out.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that can not go on has failed")]

use std::time::Duration;

use batonq_client::{Client, Config};
use batonq_protocol::messages::*;
use batonq_protocol::{Envelope, ErrorCode, FRAME_BYTES_MAX, FrameCodec, Message, PREFACE};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::{Decoder, Encoder};

/// Longer than anything takes; a test that hangs ends.
const PATIENCE: Duration = Duration::from_secs(20);

pub const SESSION: u64 = 8812;

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

pub struct FakeNode {
    listener: TcpListener,
}

/// The node's end of a connection.
pub struct Peer {
    stream: TcpStream,
    inbound: BytesMut,
    codec: FrameCodec,
    pub pings: usize,
}

impl FakeNode {
    pub async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    pub fn url(&self) -> String {
        format!("tcp://{}", self.address())
    }

    pub fn config(&self) -> Config {
        Client::builder()
            .url(&self.url())
            .reconnect_pause(Duration::from_millis(1), Duration::from_millis(10))
    }

    /// The next connection, up to and with its `Hello`.
    pub async fn accept(&self) -> (Peer, Hello) {
        within(async {
            let (mut stream, _) = self.listener.accept().await.unwrap();
            let mut preface = [0; PREFACE.len()];
            stream.read_exact(&mut preface).await.unwrap();
            assert_eq!(preface, PREFACE);
            let codec = FrameCodec::new(FRAME_BYTES_MAX);
            let mut peer = Peer { stream, inbound: BytesMut::new(), codec, pings: 0 };
            let Some((1, Message::Hello(hello))) = peer.next().await else { panic!("no hello") };
            (peer, *hello)
        })
        .await
    }

    pub async fn welcome(&self, welcome: Welcome) -> Peer {
        let (mut peer, _) = self.accept().await;
        peer.answer(1, Message::Welcome(Box::new(welcome))).await;
        peer
    }

    pub async fn refuse(&self, code: ErrorCode) {
        let (mut peer, _) = self.accept().await;
        peer.answer(1, error(code)).await;
    }

    /// A client that is connected.
    pub async fn client(&self) -> (Client, Peer) {
        self.client_of(self.config(), welcome()).await
    }

    pub async fn client_of(&self, config: Config, welcome: Welcome) -> (Client, Peer) {
        let (client, peer) = tokio::join!(within(config.connect()), self.welcome(welcome));
        (client.unwrap(), peer)
    }
}

impl Peer {
    /// What the client says next; its pings are counted and answered. `None`: it closed.
    pub async fn next(&mut self) -> Option<(u64, Message)> {
        loop {
            let (id, message) = self.next_of_all().await?;
            if let Message::Ping(_) = message {
                self.pings += 1;
                self.answer(id, Message::Pong(Pong {})).await;
                continue;
            }
            return Some((id, message));
        }
    }

    pub async fn next_of_all(&mut self) -> Option<(u64, Message)> {
        within(async {
            loop {
                if let Some(envelope) = self.codec.decode(&mut self.inbound).unwrap() {
                    return Some((envelope.request_id, envelope.message.unwrap()));
                }
                // A client that vanishes may well reset the connection.
                if self.stream.read_buf(&mut self.inbound).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        })
        .await
    }

    /// Answers pings for as long as the client stays.
    pub async fn stay(mut self) {
        while let Some((id, message)) = self.next_of_all().await {
            if let Message::Ping(_) = message {
                self.answer(id, Message::Pong(Pong {})).await;
            }
        }
    }

    pub async fn answer(&mut self, request_id: u64, message: Message) {
        let mut bytes = BytesMut::new();
        let envelope = Envelope { request_id, message: Some(message) };
        self.codec.encode(&envelope, &mut bytes).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    pub async fn say(&mut self, message: Message) {
        self.answer(0, message).await;
    }

    /// Agrees to the subscription that the client asks for next, and returns id and credit.
    pub async fn subscribed(&mut self) -> (u64, u32) {
        let (id, Message::Subscribe(subscribe)) = self.expect().await else {
            panic!("no subscription")
        };
        self.answer(id, Message::Done(Done {})).await;
        (id, subscribe.credit)
    }

    pub async fn deliver(&mut self, subscription: u64, jobs: impl IntoIterator<Item = LeasedJob>) {
        let jobs = jobs.into_iter().collect();
        self.say(Message::Delivery(Delivery { subscription, jobs })).await;
    }

    /// Accepts the settlement that comes next, and returns what it was.
    pub async fn settled(&mut self) -> Message {
        let (id, message) = self.expect().await;
        self.answer(id, settled_ok(count(&message))).await;
        message
    }

    pub async fn expect(&mut self) -> (u64, Message) {
        self.next().await.expect("the client closed")
    }
}

fn count(message: &Message) -> usize {
    match message {
        Message::Ack(ack) => ack.items.len(),
        Message::Fail(fail) => fail.items.len(),
        Message::Release(release) => release.leases.len(),
        Message::Progress(_) => 1,
        other => panic!("no settlement: {other:?}"),
    }
}

pub fn settled_ok(count: usize) -> Message {
    let ok = SettleResult { status: SettleStatus::Ok as i32, ..<_>::default() };
    Message::Settled(Settled { results: vec![ok; count] })
}

pub fn error(code: ErrorCode) -> Message {
    Message::Error(Error { code: code as i32, detail: "told to".into(), field: String::new() })
}

/// Heartbeats that no test waits for, and a grace that does not end.
pub fn welcome() -> Welcome {
    Welcome {
        version: 1,
        node_id: "node-1".into(),
        session: SESSION,
        heartbeat_interval_ms: 60_000,
        heartbeat_timeout_ms: 120_000,
        reconnect_grace_ms: 120_000,
        ..Welcome::default()
    }
}

pub fn resumed(leases: impl IntoIterator<Item = u64>) -> Welcome {
    Welcome { resumed: true, leases: leases.into_iter().map(lease).collect(), ..welcome() }
}

pub fn lease(id: u64) -> Bytes {
    format!("lease-{id}").into()
}

pub fn leased(id: u64) -> LeasedJob {
    LeasedJob {
        id,
        lease: lease(id),
        payload: Bytes::from_static(b"{}"),
        attempt: 1,
        max_attempts: 3,
        delivery: 1,
        ..LeasedJob::default()
    }
}

pub fn pushed(ids: impl IntoIterator<Item = u64>) -> Message {
    let result = |id| PushResult {
        id,
        outcome: Outcome::Inserted as i32,
        state: State::Ready as i32,
        error: None,
    };
    Message::Pushed(Pushed { results: ids.into_iter().map(result).collect() })
}
