//! How a client connects.

use std::time::Duration;

use crate::address::{self, Address};
use crate::client::Client;
use crate::error::Error;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const RECONNECT_MIN: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(5);

/// Settings of a [`Client`], begun with [`Client::builder`].
///
/// ```no_run
/// # async fn run() -> Result<(), batonq_client::Error> {
/// let client = batonq_client::Client::builder()
///     .url("tcp://queue-1:6789,queue-2:6789")
///     .token("s3cret")
///     .worker("mailer-1")
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Config {
    pub(crate) addresses: Result<Vec<Address>, Error>,
    pub(crate) token: String,
    pub(crate) worker: String,
    pub(crate) program: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) call_timeout: Duration,
    pub(crate) reconnect_min: Duration,
    pub(crate) reconnect_max: Duration,
    pub(crate) home: Home,
}

/// Where the connection task runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Home {
    OwnThread,
    CallersRuntime,
}

impl Config {
    pub(crate) fn new() -> Self {
        Self {
            addresses: address::parse_url("127.0.0.1"),
            token: String::new(),
            worker: String::new(),
            program: concat!("batonq-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: CONNECT_TIMEOUT,
            call_timeout: CALL_TIMEOUT,
            reconnect_min: RECONNECT_MIN,
            reconnect_max: RECONNECT_MAX,
            home: Home::OwnThread,
        }
    }

    /// The nodes, as `tcp://host:port[,host:port]`; `127.0.0.1:6789` unless given.
    ///
    /// What is wrong with it is said by [`Config::connect`].
    #[must_use]
    pub fn url(mut self, url: &str) -> Self {
        self.addresses = address::parse_url(url);
        self
    }

    /// The token that says who the client is; none unless given.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = token.into();
        self
    }

    /// The worker's name in timelines and lists, at most 128 bytes.
    #[must_use]
    pub fn worker(mut self, name: impl Into<String>) -> Self {
        self.worker = name.into();
        self
    }

    /// Name and version of the program, as `batonq-cli/1.0`, for the node's logs.
    #[must_use]
    pub fn program(mut self, name: impl Into<String>) -> Self {
        self.program = name.into();
        self
    }

    /// How long one try of all addresses may take; 5 s unless given.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a call may take; 10 s unless given.
    ///
    /// The wait of a call that waits is added to it. The time to connect again is part of it.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// The shortest and the longest pause between two tries to connect again; 50 ms and 5 s
    /// unless given. A pause doubles from try to try, and half of it is left to chance.
    #[must_use]
    pub fn reconnect_pause(mut self, min: Duration, max: Duration) -> Self {
        self.reconnect_min = min;
        self.reconnect_max = max.max(min);
        self
    }

    /// Runs the connection on the runtime that connects, instead of a thread of its own.
    ///
    /// It saves the thread and the way to it. But whatever blocks a thread of that runtime may
    /// stop the heartbeats, and with them the leases: only for programs that do not work on jobs,
    /// or never block.
    #[must_use]
    pub fn on_this_runtime(mut self) -> Self {
        self.home = Home::CallersRuntime;
        self
    }

    /// Connects: tries each address once.
    ///
    /// From then on the client connects again by itself, until it is closed or a node says that
    /// it will never let this client in.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] if the URL can not be read; [`Error::Unreachable`] if no node answered
    /// in time; [`Error::Refused`] if the token or the protocol version is not accepted.
    pub async fn connect(self) -> Result<Client, Error> {
        Client::open(self).await
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { addresses, worker, connect_timeout, call_timeout, .. } = self;
        f.debug_struct("Config")
            .field("addresses", addresses)
            .field("worker", worker)
            .field("connect_timeout", connect_timeout)
            .field("call_timeout", call_timeout)
            .finish_non_exhaustive()
    }
}
