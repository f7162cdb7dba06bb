//! Working on jobs with a handler.

use std::any::Any;
use std::collections::HashMap;
use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::error::Error;
use crate::failure::Failure;
use crate::fate::Fate;
use crate::job::{Job, Lease};
use crate::settler::{self, Settlement};
use crate::subscription::Subscription;

const CONCURRENCY: u32 = 10;
const STOP_WITHIN: Duration = Duration::from_secs(25);
/// How long settling the last jobs may take.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// How long handlers that were dropped may take to be gone.
const DROP_MAX: Duration = Duration::from_secs(1);

/// Works on the jobs of one queue.
///
/// Up to `concurrency` handlers run at once, each in a task of its own. What a handler returns
/// settles its job; a panic is a failure with the code [`Failure::PANIC`]. Leases are kept by the
/// client's connection, which has a thread of its own: however long a handler takes, and even if
/// it blocks, it is not robbed of its job.
///
/// ```no_run
/// use batonq_client::{Client, Failure, JobContext, Worker};
///
/// # async fn run() -> Result<(), batonq_client::Error> {
/// let client = Client::connect("tcp://127.0.0.1:6789").await?;
/// let worker = Worker::new(client, "mail").concurrency(20);
/// let stop = worker.stop_handle();
/// tokio::spawn(async move {
///     tokio::signal::ctrl_c().await.ok();
///     stop.stop();
/// });
/// worker
///     .run(|job: JobContext| async move {
///         let mail: serde_json::Value = job.json()?;
///         if mail["to"].is_null() {
///             return Err(Failure::new("NO_RECIPIENT", "to is missing").reject());
///         }
///         Ok(())
///     })
///     .await
/// # }
/// ```
#[derive(Debug)]
pub struct Worker {
    client: Client,
    queue: String,
    concurrency: u32,
    prefetch: u32,
    stop_within: Duration,
    stop: StopHandle,
}

/// Stops a [`Worker`].
#[derive(Debug, Clone)]
pub struct StopHandle(CancellationToken);

impl StopHandle {
    /// Takes no more jobs; [`Worker::run`] returns once the running ones are settled.
    pub fn stop(&self) {
        self.0.cancel();
    }
}

impl Worker {
    /// A worker that runs ten handlers at once.
    pub fn new(client: Client, queue: impl Into<String>) -> Self {
        Self {
            client,
            queue: queue.into(),
            concurrency: CONCURRENCY,
            prefetch: 0,
            stop_within: STOP_WITHIN,
            stop: StopHandle(CancellationToken::new()),
        }
    }

    /// How many handlers run at once, at least 1; 10 unless given.
    #[must_use]
    pub fn concurrency(mut self, count: u32) -> Self {
        self.concurrency = count.max(1);
        self
    }

    /// How many jobs are held beyond those being worked on; 0 unless given.
    ///
    /// It saves a round trip between two short jobs. While they wait here no other worker gets
    /// them.
    #[must_use]
    pub fn prefetch(mut self, count: u32) -> Self {
        self.prefetch = count;
        self
    }

    /// How long handlers may run on after a stop; 25 s unless given. Those that still run are
    /// dropped then, and their jobs given back unharmed.
    #[must_use]
    pub fn stop_within(mut self, bound: Duration) -> Self {
        self.stop_within = bound;
        self
    }

    /// To stop it from elsewhere.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Works until it is stopped.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future drops the handlers. Their jobs go round again once the client closes.
    ///
    /// # Errors
    ///
    /// Why the node gives no jobs of this queue out to this client, or why the client ended.
    pub async fn run<H, F, R>(self, handler: H) -> Result<(), Error>
    where
        H: Fn(JobContext) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R, Failure>> + Send + 'static,
        R: Into<Output>,
    {
        let credit = self.concurrency.saturating_add(self.prefetch);
        let subscription = self.client.subscribe(&self.queue, credit).await?;
        // Never more than the jobs held, which the credit bounds.
        let (settle, settlements) = mpsc::unbounded_channel();
        let mut settling = JoinSet::new();
        settling.spawn(settler::run(self.client.clone(), settlements));
        let crew = Crew {
            handler: Arc::new(handler),
            client: self.client,
            settle,
            tasks: JoinSet::new(),
            running: HashMap::new(),
        };
        let ended = crew.work(subscription, self.concurrency, &self.stop.0, self.stop_within).await;
        if timeout(SETTLE_MAX, settling.join_next()).await.is_err() {
            tracing::warn!("stopped before all jobs were settled");
        }
        ended
    }
}

/// A job in the hands of its handler.
#[derive(Debug)]
pub struct JobContext {
    job: Job,
    client: Client,
    aborted: CancellationToken,
}

impl JobContext {
    /// Waits until there is no more use in going on: the lease is lost, somebody has asked for the
    /// end of the job, the attempt's time is over, or the worker could not wait any longer.
    pub async fn aborted(&self) {
        self.aborted.cancelled().await;
    }

    /// Whether there is no more use in going on.
    pub fn is_aborted(&self) -> bool {
        self.aborted.is_cancelled()
    }

    /// The signal itself, to be handed on.
    pub fn abort_token(&self) -> CancellationToken {
        self.aborted.clone()
    }

    /// Notes how far the work is, `percent` from 0 to 100.
    ///
    /// # Errors
    ///
    /// Those of [`Client::progress`].
    pub async fn progress(&self, percent: u8, message: impl Into<String>) -> Result<(), Error> {
        self.client.progress(&self.job.lease, percent, message).await
    }

    /// The client that the worker works with, to push more jobs for example.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

impl Deref for JobContext {
    type Target = Job;

    fn deref(&self) -> &Job {
        &self.job
    }
}

/// What a handler leaves with its finished job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output(pub(crate) Bytes);

impl Output {
    /// `value` as JSON.
    ///
    /// # Errors
    ///
    /// A failure with the code [`Failure::ERROR`] if there is no JSON for it.
    pub fn json(value: &impl Serialize) -> Result<Self, Failure> {
        Ok(Self(serde_json::to_vec(value)?.into()))
    }
}

impl From<()> for Output {
    fn from((): ()) -> Self {
        Self::default()
    }
}

impl From<Bytes> for Output {
    fn from(result: Bytes) -> Self {
        Self(result)
    }
}

impl From<Vec<u8>> for Output {
    fn from(result: Vec<u8>) -> Self {
        Self(result.into())
    }
}

impl From<String> for Output {
    fn from(result: String) -> Self {
        Self(result.into())
    }
}

/// The running handlers of one worker.
struct Crew<H> {
    handler: Arc<H>,
    client: Client,
    settle: mpsc::UnboundedSender<Settlement>,
    tasks: JoinSet<Result<Output, Failure>>,
    running: HashMap<Id, Running>,
}

struct Running {
    lease: Lease,
    fate: Fate,
    aborted: CancellationToken,
}

impl<H, F, R> Crew<H>
where
    H: Fn(JobContext) -> F + Send + Sync + 'static,
    F: Future<Output = Result<R, Failure>> + Send + 'static,
    R: Into<Output>,
{
    async fn work(
        mut self,
        mut subscription: Subscription,
        concurrency: u32,
        stop: &CancellationToken,
        stop_within: Duration,
    ) -> Result<(), Error> {
        let ended = loop {
            let has_room = self.tasks.len() < concurrency as usize;
            tokio::select! {
                () = stop.cancelled() => break Ok(()),
                Some(done) = self.tasks.join_next_with_id() => self.finish(done),
                job = subscription.next(), if has_room => match job {
                    Some(job) => self.begin(job),
                    None => break Err(subscription.refused().cloned().unwrap_or(Error::Closed)),
                },
            }
        };
        let deadline = Instant::now() + stop_within;
        // What can not be given back now is given back when the session ends.
        timeout_at(deadline, subscription.close()).await.ok();
        self.wind_up(deadline).await;
        ended
    }

    fn begin(&mut self, job: Job) {
        let aborted = job.fate.cancelled().child_token();
        let running =
            Running { lease: job.lease.clone(), fate: job.fate.clone(), aborted: aborted.clone() };
        let timeout = job.timeout;
        let context = JobContext { job, client: self.client.clone(), aborted: aborted.clone() };
        let handler = Arc::clone(&self.handler);
        let task = self.tasks.spawn(async move {
            let work = async move { handler(context).await.map(Into::into) };
            let work = AssertUnwindSafe(work).catch_unwind();
            let done = match timeout {
                Some(timeout) => abort_after(timeout, work, aborted).await,
                None => work.await,
            };
            done.unwrap_or_else(|panic| Err(failure_of(&*panic)))
        });
        self.running.insert(task.id(), running);
    }

    fn finish(&mut self, done: Result<(Id, Result<Output, Failure>), JoinError>) {
        // A handler's panic was caught: a task without a result was dropped on purpose, and its
        // job stays in the list of those to give back.
        let Ok((id, result)) = done else { return };
        let Some(Running { lease, fate, .. }) = self.running.remove(&id) else { return };
        if fate.is_lost() {
            tracing::debug!("the lease was lost before the handler ended");
            return;
        }
        // Without the settler there is no client either.
        self.settle.send(Settlement { lease, fate, result }).ok();
    }

    /// Lets the handlers end until `deadline`, and gives back the jobs of those that do not.
    async fn wind_up(mut self, deadline: Instant) {
        timeout_at(deadline, self.finish_all()).await.ok();
        for running in self.running.values() {
            running.aborted.cancel();
        }
        self.tasks.abort_all();
        timeout(DROP_MAX, self.finish_all()).await.ok();

        let leases: Vec<_> = self.running.into_values().map(|running| running.lease).collect();
        if leases.is_empty() {
            return;
        }
        let count = leases.len();
        match self.client.release_batch(leases).await {
            Ok(_) => tracing::info!(count, "unfinished jobs given back"),
            Err(error) => tracing::warn!(%error, count, "unfinished jobs not given back"),
        }
    }

    async fn finish_all(&mut self) {
        while let Some(done) = self.tasks.join_next_with_id().await {
            self.finish(done);
        }
    }
}

/// Tells the handler when its time is over, and waits for it nevertheless.
async fn abort_after<T>(
    timeout: Duration,
    work: impl Future<Output = T>,
    aborted: CancellationToken,
) -> T {
    let mut work = std::pin::pin!(work);
    match tokio::time::timeout(timeout, &mut work).await {
        Ok(done) => done,
        Err(_) => {
            aborted.cancel();
            work.await
        }
    }
}

fn failure_of(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Failure::new(Failure::PANIC, text.unwrap_or_else(|| "the handler panicked".to_owned()))
}
