//! Handing jobs in.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use batonq_protocol::messages::{self, State, backoff};
use batonq_protocol::{ErrorCode, Message};
use bytes::Bytes;
use serde::Serialize;

use crate::client::{Client, answer, millis};
use crate::error::Error;
use crate::job::JobId;

/// A job to be pushed.
///
/// ```
/// use std::time::Duration;
/// use batonq_client::{Backoff, NewJob};
///
/// # fn main() -> Result<(), batonq_client::Error> {
/// let job = NewJob::json("mail", &serde_json::json!({ "to": "ada" }))?
///     .priority(5)
///     .delay(Duration::from_secs(60))
///     .max_attempts(3)
///     .backoff(Backoff::fixed(Duration::from_secs(10)))
///     .unique("welcome:ada")
///     .tag("welcome");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    wire: messages::NewJob,
}

impl NewJob {
    /// A job whose payload is JSON already, or said to be something else by
    /// [`NewJob::content_type`].
    pub fn new(queue: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        let (queue, payload) = (queue.into(), payload.into());
        Self { wire: messages::NewJob { queue, payload, ..<_>::default() } }
    }

    /// A job with `payload` as JSON.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with [`ErrorCode::Invalid`] if there is no JSON for it.
    pub fn json(queue: impl Into<String>, payload: &impl Serialize) -> Result<Self, Error> {
        let payload = serde_json::to_vec(payload)
            .map_err(|error| Error::refused(ErrorCode::Invalid, error.to_string(), "payload"))?;
        Ok(Self::new(queue, payload))
    }

    pub(crate) fn into_wire(self) -> messages::NewJob {
        self.wire
    }

    /// What the payload is; `application/json` unless given.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.wire.content_type = content_type.into();
        self
    }

    /// Higher first; 0 unless given.
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.wire.priority = priority;
        self
    }

    /// Not before this long after the push.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.wire.delay_ms = Some(millis(delay));
        self.wire.run_at_ms = None;
        self
    }

    /// Not before this time.
    #[must_use]
    pub fn run_at(mut self, run_at: SystemTime) -> Self {
        let since_1970 = run_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.wire.run_at_ms = Some(i64::try_from(millis(since_1970)).unwrap_or(i64::MAX));
        self.wire.delay_ms = None;
        self
    }

    /// Not later than this long after the push.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.wire.ttl_ms = Some(millis(ttl));
        self
    }

    /// After so many failed attempts the job is dead.
    #[must_use]
    pub fn max_attempts(mut self, max_attempts: u32) -> Self {
        self.wire.max_attempts = Some(max_attempts);
        self
    }

    /// How long to wait after a failure.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.wire.backoff = Some(backoff.wire);
        self
    }

    /// How long one attempt may run.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.wire.timeout_ms = Some(millis(timeout));
        self
    }

    /// Only if no live job of the queue has this key. See [`Outcome::Duplicate`].
    #[must_use]
    pub fn unique(mut self, key: impl Into<String>) -> Self {
        self.wire.unique = Some(Box::new(messages::Unique { key: key.into(), ..<_>::default() }));
        self
    }

    /// Only if no job of the queue was pushed with this key within the window, whatever has become
    /// of it. See [`Outcome::Throttled`].
    #[must_use]
    pub fn unique_for(mut self, key: impl Into<String>, window: Duration) -> Self {
        let window_ms = Some(millis(window));
        self.wire.unique =
            Some(Box::new(messages::Unique { key: key.into(), window_ms, debounce: false }));
        self
    }

    /// If a job with this key waits that has never run, that one gets this payload and this time
    /// instead: the last one wins. See [`Outcome::Replaced`].
    #[must_use]
    pub fn debounce(mut self, key: impl Into<String>) -> Self {
        let key = key.into();
        self.wire.unique =
            Some(Box::new(messages::Unique { key, window_ms: None, debounce: true }));
        self
    }

    /// A push that is repeated with this key within a day is not done again: so it is safe to
    /// repeat one after [`Error::OutcomeUnknown`]. See [`Outcome::Repeated`].
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.wire.idempotency_key = key.into();
        self
    }

    /// At most `max` jobs of the queue with this key are worked on at once.
    #[must_use]
    pub fn concurrency(mut self, key: impl Into<String>, max: u32) -> Self {
        self.wire.concurrency =
            Some(Box::new(messages::Concurrency { key: key.into(), max: Some(max) }));
        self
    }

    /// Jobs of the queue with different keys take turns, so that none waits for all those of
    /// another.
    #[must_use]
    pub fn fair_share(mut self, key: impl Into<String>) -> Self {
        self.wire.concurrency =
            Some(Box::new(messages::Concurrency { key: key.into(), max: None }));
        self
    }

    /// At most `limit` jobs of the queue with this key are given out in `per`.
    #[must_use]
    pub fn rate(mut self, key: impl Into<String>, limit: u32, per: Duration) -> Self {
        let (key, per_ms) = (key.into(), millis(per));
        self.wire.rate = Some(Box::new(messages::Rate { key, limit, per_ms, burst: None }));
        self
    }

    /// So many jobs of its rate may start at once after a rest; 1 spreads them evenly. Unset: a
    /// quarter of the limit. Without a [`rate`](Self::rate) it does nothing.
    #[must_use]
    pub fn burst(mut self, burst: u32) -> Self {
        if let Some(rate) = &mut self.wire.rate {
            rate.burst = Some(burst);
        }
        self
    }

    /// Only after this job has been completed; a job may wait for several.
    #[must_use]
    pub fn after(mut self, job: impl Into<JobId>) -> Self {
        self.wire.depends_on.push(job.into().0);
        self
    }

    /// In a flow: only after the job at this place. See [`Client::push_flow`].
    #[must_use]
    pub fn after_item(mut self, place: u32) -> Self {
        self.wire.depends_on_items.push(place);
        self
    }

    /// What becomes of it if a job that it waits for dies or is cancelled.
    #[must_use]
    pub fn on_failure(mut self, policy: OnFailure) -> Self {
        let policy = match policy {
            OnFailure::Fail => messages::OnFailure::Fail,
            OnFailure::Ignore => messages::OnFailure::Ignore,
            OnFailure::Wait => messages::OnFailure::Wait,
        };
        self.wire.on_failure = policy.into();
        self
    }

    /// A word to find the job by; a job may have several.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.wire.tags.push(tag.into());
        self
    }
}

/// What becomes of a job if one that it waits for dies or is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// It dies too.
    #[default]
    Fail,
    /// It goes on.
    Ignore,
    /// It waits on: the other one may be retried.
    Wait,
}

/// How long to wait after a failure.
#[derive(Debug, Clone, PartialEq)]
pub struct Backoff {
    wire: messages::Backoff,
}

impl Backoff {
    /// `base`, doubled after each failure up to `max`. `jitter` is the share, 0.0 to 1.0, of each
    /// delay that is left to chance.
    pub fn exponential(base: Duration, max: Duration, jitter: f64) -> Self {
        let (base_ms, max_ms) = (millis(base), millis(max));
        Self::rule(backoff::Rule::Exponential(backoff::Exponential { base_ms, max_ms, jitter }))
    }

    /// Always the same delay.
    pub fn fixed(delay: Duration) -> Self {
        Self::rule(backoff::Rule::Fixed(backoff::Fixed { delay_ms: millis(delay) }))
    }

    /// One delay after the other; the last is used from there on.
    pub fn list(delays: impl IntoIterator<Item = Duration>) -> Self {
        let delays_ms = delays.into_iter().map(millis).collect();
        Self::rule(backoff::Rule::List(backoff::List { delays_ms }))
    }

    fn rule(rule: backoff::Rule) -> Self {
        Self { wire: messages::Backoff { rule: Some(rule) } }
    }
}

/// What became of a pushed job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// The new job, or the one that has the key.
    pub id: JobId,
    /// Which of them.
    pub outcome: Outcome,
    /// Where the job stands.
    pub state: State,
}

/// Whether a push made a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did.
    Inserted,
    /// A live job has the same unique key.
    Duplicate,
    /// A waiting job with the same debounce key took over payload and time.
    Replaced,
    /// A job has the same unique key within its window.
    Throttled,
    /// The same push was done before.
    Repeated,
}

impl Client {
    /// Hands a job in. Once this returns, the job survives the crash of any node.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall the job: it may still be pushed.
    ///
    /// # Errors
    ///
    /// [`Error::OutcomeUnknown`] if the job may have been pushed; otherwise it was not.
    pub async fn push(&self, job: NewJob) -> Result<Pushed, Error> {
        let results = self.push_batch(vec![job]).await?;
        results.into_iter().next().unwrap_or_else(|| Err(Error::unexpected(&"Pushed")))
    }

    /// Hands jobs in with one call. A refused job does not harm its neighbours; result `i` is
    /// that of job `i`.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall the jobs: they may still be pushed.
    ///
    /// # Errors
    ///
    /// [`Error::OutcomeUnknown`] if the jobs may have been pushed; otherwise none was.
    pub async fn push_batch(&self, jobs: Vec<NewJob>) -> Result<Vec<Result<Pushed, Error>>, Error> {
        let jobs: Vec<_> = jobs.into_iter().map(|job| job.wire).collect();
        let count = jobs.len();
        self.push_all(Message::Push(messages::Push { jobs }), count).await
    }

    /// Hands in jobs that wait for each other, by [`NewJob::after_item`]: all of them are stored,
    /// or none.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not recall the jobs: they may still be pushed.
    ///
    /// # Errors
    ///
    /// As [`Client::push_batch`]; or [`Error::Refused`] if they wait for each other in a ring.
    pub async fn push_flow(&self, jobs: Vec<NewJob>) -> Result<Vec<Pushed>, Error> {
        let jobs: Vec<_> = jobs.into_iter().map(|job| job.wire).collect();
        let count = jobs.len();
        let flow = Message::PushFlow(messages::PushFlow { jobs });
        self.push_all(flow, count).await?.into_iter().collect()
    }

    async fn push_all(
        &self,
        message: Message,
        count: usize,
    ) -> Result<Vec<Result<Pushed, Error>>, Error> {
        let pushed = answer!(self.call(message).await?, Pushed)?;
        if pushed.results.len() != count {
            return Err(Error::unexpected(&"Pushed"));
        }
        Ok(pushed.results.into_iter().map(pushed_one).collect())
    }
}

pub(crate) fn pushed_one(result: messages::PushResult) -> Result<Pushed, Error> {
    let (outcome, state) = (result.outcome(), result.state());
    if let Some(error) = result.error {
        return Err(error.into());
    }
    let outcome = match outcome {
        messages::Outcome::Duplicate => Outcome::Duplicate,
        messages::Outcome::Replaced => Outcome::Replaced,
        messages::Outcome::Throttled => Outcome::Throttled,
        messages::Outcome::Repeated => Outcome::Repeated,
        messages::Outcome::Inserted | messages::Outcome::Unspecified => Outcome::Inserted,
    };
    Ok(Pushed { id: JobId(result.id), outcome, state })
}
