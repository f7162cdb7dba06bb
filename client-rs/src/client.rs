//! The handle: hands calls to the connection task and waits for their answers.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use batonq_protocol::Message;
use tokio::runtime;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::config::{Config, Home};
use crate::connection::Inbox;
use crate::dial::Dialer;
use crate::error::Error;
use crate::request::{Answer, Request, Waiting};
use crate::session::{NodeInfo, Session};
use crate::supervisor::Supervisor;

/// How many calls may wait for the connection task before callers wait to hand theirs over.
const REQUESTS_MAX: usize = 1024;
/// The longest a call may wait, far above what a node allows.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// A connection to the cluster. Cloning it is cheap, and the clones share the connection.
///
/// One task, on a thread of its own, owns the socket: it sends the heartbeats, so that a slow
/// handler never costs a lease, and connects again when the connection is lost. It ends when the
/// last clone is dropped, or by [`Client::close`]. Calls of many tasks are sent together and
/// answered as they are ready.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    call_timeout: Duration,
    requests: mpsc::Sender<Request>,
    session: Arc<Session>,
    over: Arc<OnceLock<Error>>,
    closed: CancellationToken,
    task: TaskTracker,
    /// The task would not notice by itself that nobody needs it while it connects.
    _close_on_drop: DropGuard,
}

impl Client {
    /// Settings, with good ones to begin with.
    pub fn builder() -> Config {
        Config::new()
    }

    /// Connects to `tcp://host:port[,host:port]` without a token.
    ///
    /// # Errors
    ///
    /// Those of [`Config::connect`].
    pub async fn connect(url: &str) -> Result<Self, Error> {
        Self::builder().url(url).connect().await
    }

    pub(crate) async fn open(config: Config) -> Result<Self, Error> {
        let config = Arc::new(config);
        let (control, controls) = mpsc::unbounded_channel();
        let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
        let closed = CancellationToken::new();
        let shared = Arc::new(Shared {
            call_timeout: config.call_timeout,
            requests,
            session: Arc::new(Session::new(control)),
            over: Arc::default(),
            task: TaskTracker::new(),
            _close_on_drop: closed.clone().drop_guard(),
            closed: closed.clone(),
        });
        let supervisor = Supervisor {
            dialer: Dialer::new(Arc::clone(&config))?,
            session: Arc::clone(&shared.session),
            inbox: Inbox { requests: inbox, control: controls },
            closed,
            over: Arc::clone(&shared.over),
            config: Arc::clone(&config),
        };
        let (report, connected) = oneshot::channel();
        let life = shared.task.track_future(supervisor.run(report));
        shared.task.close();
        match config.home {
            Home::OwnThread => run_on_own_thread(life)?,
            Home::CallersRuntime => drop(tokio::spawn(life)),
        }
        connected.await.unwrap_or(Err(Error::Closed))?;
        Ok(Self { shared })
    }

    /// Gives back the jobs that are held, and closes the connection for all clones.
    ///
    /// Without it, a program that ends leaves its jobs to be missed by the node, which counts
    /// that as a crash.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not keep the connection open.
    pub async fn close(&self) {
        self.shared.closed.cancel();
        self.shared.task.wait().await;
    }

    /// The node that the client is, or was last, connected to.
    pub fn node(&self) -> NodeInfo {
        self.shared.session.node()
    }

    pub(crate) fn call(&self, message: Message) -> impl Future<Output = Result<Answer, Error>> {
        self.ask(message, Duration::ZERO)
    }

    /// Asks and waits for the answer. `wait` is how long the node may take its time.
    pub(crate) fn ask(
        &self,
        message: Message,
        wait: Duration,
    ) -> impl Future<Output = Result<Answer, Error>> {
        let (request, waiting) = Request::new(message, self.shared.session.control.clone());
        self.send(request, waiting, wait)
    }

    async fn send(
        &self,
        request: Request,
        waiting: Waiting,
        wait: Duration,
    ) -> Result<Answer, Error> {
        let shared = &*self.shared;
        let deadline = Instant::now() + shared.call_timeout + wait.min(WAIT_MAX);
        // Mostly there is room: then there is no timer to be set and no future to be carried about.
        if let Err(failed) = shared.requests.try_send(request) {
            let TrySendError::Full(request) = failed else { return Err(self.over()) };
            let handed_over = Box::pin(timeout_at(deadline, shared.requests.send(request))).await;
            handed_over.map_err(|_| Error::Timeout)?.map_err(|_| self.over())?;
        }
        waiting.answer(deadline).await.unwrap_or_else(|| Err(self.over()))
    }

    fn over(&self) -> Error {
        self.shared.over.get().cloned().unwrap_or(Error::Closed)
    }
}

fn run_on_own_thread(life: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::Unreachable { detail: error.to_string() };
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let thread = std::thread::Builder::new().name("batonq-client".to_owned());
    // It ends with its client; `Shared::task` is what waits for it.
    thread.spawn(move || runtime.block_on(life)).map_err(failed).map(drop)
}

/// Takes the message out of an answer, if it is the one expected.
macro_rules! answer {
    ($answer:expr, $kind:ident) => {
        match $answer {
            $crate::request::Answer::Plain(message) => match *message {
                batonq_protocol::Message::$kind(message) => Ok(message),
                other => Err($crate::error::Error::unexpected(&other)),
            },
            other => Err($crate::error::Error::unexpected(&other)),
        }
    };
}
pub(crate) use answer;

/// Milliseconds for the wire; what is below one is rounded up, so that it does not become nothing.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
