//! Finding a node that lets the client in.

use std::sync::Arc;
use std::time::Duration;

use batonq_protocol::messages::{Hello, Welcome};
use batonq_protocol::{Envelope, FRAME_BYTES_MAX, FrameCodec, Message, VERSION_MAX, VERSION_MIN};
use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::codec::Decoder;

use crate::address::Address;
use crate::config::Config;
use crate::error::Error;
use crate::outbound::Outbound;

/// Goes through the addresses in a circle.
#[derive(Debug)]
pub(crate) struct Dialer {
    config: Arc<Config>,
    addresses: Vec<Address>,
    next: usize,
}

/// A connection on which the node has said welcome.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) stream: TcpStream,
    pub(crate) welcome: Welcome,
    /// What came after the welcome.
    pub(crate) inbound: BytesMut,
}

impl Dialer {
    /// Begins with any of the addresses, so that many clients spread over the nodes.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] if the URL could not be read.
    pub(crate) fn new(config: Arc<Config>) -> Result<Self, Error> {
        let addresses = config.addresses.clone()?;
        let next = rand::random_range(0..addresses.len());
        Ok(Self { config, addresses, next })
    }

    /// Tries each address once, first the one after that of the call before.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] if none answered in time; [`Error::Refused`] if one will never let
    /// the client in.
    pub(crate) async fn round(&mut self, session: u64) -> Result<Opened, Error> {
        let deadline = Instant::now() + self.config.connect_timeout;
        let mut failures = Vec::new();
        for left in (1..=self.addresses.len()).rev() {
            let address = &self.addresses[self.next];
            self.next = (self.next + 1) % self.addresses.len();
            // One silent address must leave time for the others.
            let share =
                deadline.duration_since(Instant::now()) / left.try_into().unwrap_or(u32::MAX);
            match self.open(address, session, share).await {
                Err(error) if error.forbids_connecting() => return Err(error),
                Err(error) => failures.push(format!("{address}: {error}")),
                Ok(opened) => return Ok(opened),
            }
        }
        Err(Error::Unreachable { detail: failures.join(", ") })
    }

    async fn open(
        &self,
        address: &Address,
        session: u64,
        within: Duration,
    ) -> Result<Opened, Error> {
        let opening = async {
            let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let welcoming = async {
            let stream = opening.await.map_err(|error: std::io::Error| unreachable(&error))?;
            greet(stream, hello(&self.config, session)).await
        };
        let Ok(opened) = timeout(within, welcoming).await else {
            return Err(unreachable(&"no answer in time"));
        };
        opened
    }
}

fn hello(config: &Config, session: u64) -> Hello {
    Hello {
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        token: config.token.clone(),
        worker: config.worker.clone(),
        session,
        client: config.program.clone(),
    }
}

async fn greet(mut stream: TcpStream, hello: Hello) -> Result<Opened, Error> {
    let mut outbound = Outbound::new();
    outbound.put_preface();
    outbound.put(&Envelope { request_id: 1, message: Some(Message::Hello(Box::new(hello))) })?;
    while !outbound.is_empty() {
        outbound.write_to(&mut stream).await.map_err(|error| unreachable(&error))?;
    }
    let mut codec = FrameCodec::new(FRAME_BYTES_MAX);
    let mut inbound = BytesMut::new();
    let envelope = loop {
        let read = stream.read_buf(&mut inbound).await.map_err(|error| unreachable(&error))?;
        if let Some(envelope) = codec.decode(&mut inbound).map_err(|error| unreachable(&error))? {
            break envelope;
        }
        if read == 0 {
            return Err(unreachable(&"closed without a word"));
        }
    };
    match envelope.message {
        Some(Message::Welcome(welcome)) => Ok(Opened { stream, welcome: *welcome, inbound }),
        Some(Message::Error(error)) => Err(error.into()),
        Some(other) => Err(Error::unexpected(&other)),
        None => Err(unreachable(&"no answer that this client knows")),
    }
}

fn unreachable(detail: &impl ToString) -> Error {
    Error::Unreachable { detail: detail.to_string() }
}
