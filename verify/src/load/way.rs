//! The same questions over either transport.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use batonq_client::{Client, ErrorCode, Failure as Failed, Job, Lease, Outcome, PullOptions};
use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::answer::{Answer, Failure, Problem};
use super::http::Peer;
use super::jobs::Spec;
use crate::history::How;

/// How long a call may take, beside its wait.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const RECONNECT_PAUSE: (Duration, Duration) =
    (Duration::from_millis(50), Duration::from_millis(500));

/// How long a node leases jobs to a session, unless it renews the lease: it began so long before it
/// ends at first.
pub const SESSION_LEASE: Duration = Duration::from_secs(30);

/// An address that is asked over one transport.
#[derive(Debug)]
pub(super) enum Way {
    Tcp(Client),
    /// One request at a time.
    Http(Mutex<Peer>),
}

/// A job that was leased.
#[derive(Debug)]
pub(super) struct Leased {
    pub(super) job: u64,
    pub(super) key: u64,
    pub(super) queue: u16,
    pub(super) delivery: u32,
    pub(super) attempt: u32,
    pub(super) begins_ms: i64,
    pub(super) until_ms: i64,
    /// Whether the lease has a time of its own.
    pub(super) is_timed: bool,
    /// As it travels over the binary protocol; over HTTP it is this in base64.
    pub(super) token: Bytes,
    /// Where the client says that a lease of its session is lost.
    pub(super) watched: Option<Arc<Job>>,
}

/// What a push made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) job: u64,
    pub(super) is_repeated: bool,
}

/// A lease to be settled: which, and its token.
pub(super) type Token = Bytes;

impl Way {
    /// Over the binary protocol, on this runtime. Over several addresses the client moves between
    /// them as it likes.
    pub(super) async fn tcp(url: &str, token: Option<&str>, worker: &str) -> Answer<Self> {
        let mut config = Client::builder()
            .url(url)
            .worker(worker)
            .program("batonq verify")
            .connect_timeout(CONNECT_TIMEOUT)
            .call_timeout(CALL_TIMEOUT)
            .reconnect_pause(RECONNECT_PAUSE.0, RECONNECT_PAUSE.1)
            .on_this_runtime();
        if let Some(token) = token {
            config = config.token(token);
        }
        Ok(Self::Tcp(config.connect().await?))
    }

    pub(super) fn http(address: String, token: Option<String>) -> Self {
        Self::Http(Mutex::new(Peer::new(address, token)))
    }

    async fn post<T: serde::de::DeserializeOwned>(
        peer: &Mutex<Peer>,
        path: &str,
        body: Value,
    ) -> Answer<T> {
        peer.lock().await.ask(Method::POST, path, Some(&body), CALL_TIMEOUT).await
    }

    /// Pushes jobs of one queue. The outer failure is that of all of them.
    pub(super) async fn push(&self, queue: &str, jobs: &[Spec]) -> Answer<Vec<Answer<Made>>> {
        match self {
            Self::Tcp(client) => {
                let jobs = jobs.iter().map(|job| job.job(queue)).collect();
                let pushed = client.push_batch(jobs).await?.into_iter();
                Ok(pushed.map(|one| made(one?)).collect())
            }
            Self::Http(peer) => {
                if let [job] = jobs {
                    let path = format!("/v1/queues/{queue}/jobs");
                    let pushed: Pushed = Self::post(peer, &path, job.body()).await?;
                    return Ok(vec![pushed.made()]);
                }
                let path = format!("/v1/queues/{queue}/jobs/batch");
                let bodies: Vec<Value> = jobs.iter().map(Spec::body).collect();
                let pushed: Results = Self::post(peer, &path, json!({ "jobs": bodies })).await?;
                pushed.each(jobs.len(), Pushed::made)
            }
        }
    }

    /// Pushes jobs that wait for each other: all of them, or none.
    pub(super) async fn push_flow(&self, queue: &str, jobs: &[Spec]) -> Answer<Vec<Answer<Made>>> {
        match self {
            Self::Tcp(client) => {
                let jobs = jobs.iter().map(|job| job.job(queue)).collect();
                Ok(client.push_flow(jobs).await?.into_iter().map(made).collect())
            }
            Self::Http(peer) => {
                let body = |job: &Spec| {
                    let mut body = job.body();
                    body["queue"] = queue.into();
                    body
                };
                let bodies: Vec<Value> = jobs.iter().map(body).collect();
                let pushed: Results =
                    Self::post(peer, "/v1/flows", json!({ "jobs": bodies })).await?;
                pushed.each(jobs.len(), Pushed::made)
            }
        }
    }

    /// Leases jobs. `lease`: for this time; over HTTP always.
    pub(super) async fn pull(
        &self,
        (number, queue): (u16, &str),
        count: u32,
        wait: Duration,
        lease: Option<Duration>,
    ) -> Answer<Vec<Leased>> {
        match self {
            Self::Tcp(client) => {
                let options = PullOptions::new(queue).count(count).wait(wait);
                let options = lease.map_or(options.clone(), |lease| options.lease(lease));
                let jobs = client.pull(options).await?.into_iter();
                Ok(jobs.map(|job| Leased::of(job, number, lease)).collect())
            }
            Self::Http(peer) => {
                let lease = lease.unwrap_or(SESSION_LEASE);
                let (wait_ms, lease_ms) = (millis(wait), millis(lease));
                let body = json!({ "count": count, "wait_ms": wait_ms, "lease_ms": lease_ms });
                let path = format!("/v1/queues/{queue}/pull");
                let within = CALL_TIMEOUT + wait;
                let pulled: Pulled =
                    peer.lock().await.ask(Method::POST, &path, Some(&body), within).await?;
                pulled.jobs.into_iter().map(|job| job.leased(number, lease_ms)).collect()
            }
        }
    }

    /// Settles leases that way. Not for [`How::Extend`] and [`How::Progress`].
    pub(super) async fn settle(&self, how: How, tokens: &[Token]) -> Answer<Vec<Answer<()>>> {
        match self {
            Self::Tcp(client) => {
                let leases = tokens.iter().map(|token| Lease::from_bytes(token.clone()));
                let failed = |lease| match how {
                    How::Reject => (lease, Failed::new("REJECTED", "no use").reject()),
                    _ => (lease, Failed::new("FAILED", "by chance")),
                };
                let settled = match how {
                    How::Ack => client.ack_batch(leases).await?,
                    How::Release => client.release_batch(leases).await?,
                    _ => client.fail_batch(leases.map(failed)).await?,
                };
                Ok(settled.into_iter().map(|one| one.map_err(Failure::from)).collect())
            }
            Self::Http(peer) => {
                let (path, field) = match how {
                    How::Ack => ("/v1/ack", "acks"),
                    How::Release => ("/v1/release", "releases"),
                    _ => ("/v1/fail", "fails"),
                };
                let item = |token: &Token| {
                    let mut item = json!({ "lease": text(token) });
                    match how {
                        How::Reject => item["reject"] = true.into(),
                        How::Fail => item["error"] = json!({ "message": "by chance" }),
                        _ => {}
                    }
                    item
                };
                let items: Vec<Value> = tokens.iter().map(item).collect();
                let settled: Results = Self::post(peer, path, json!({ field: items })).await?;
                settled.each(tokens.len(), Settled::done)
            }
        }
    }

    /// Settles one lease by the call for one. Not for [`How::Extend`] and [`How::Progress`].
    pub(super) async fn settle_one(&self, how: How, job: u64, token: &Token) -> Answer<()> {
        let Self::Http(peer) = self else {
            let settled = self.settle(how, std::slice::from_ref(token)).await?;
            return settled.into_iter().next().unwrap_or(Err(Failure::Unknown));
        };
        let (word, body) = match how {
            How::Ack => ("ack", json!({ "lease": text(token) })),
            How::Release => ("release", json!({ "lease": text(token) })),
            How::Reject => ("fail", json!({ "lease": text(token), "reject": true })),
            _ => ("fail", json!({ "lease": text(token) })),
        };
        Self::post::<Value>(peer, &format!("/v1/jobs/{job}/{word}"), body).await.map(drop)
    }

    /// Extends a lease. When it ends then, by the database's clock.
    pub(super) async fn extend(&self, job: u64, token: &Token, lasts: Duration) -> Answer<i64> {
        match self {
            Self::Tcp(client) => {
                let until = client.extend(Lease::from_bytes(token.clone()), lasts).await?;
                Ok(since_1970(until))
            }
            Self::Http(peer) => {
                let body = json!({ "lease": text(token), "lease_ms": millis(lasts) });
                let path = format!("/v1/jobs/{job}/extend");
                let extended: Extended = Self::post(peer, &path, body).await?;
                parse_time(&extended.lease_until)
            }
        }
    }

    /// Tells how far a job is.
    pub(super) async fn progress(&self, job: u64, token: &Token) -> Answer<()> {
        match self {
            Self::Tcp(client) => {
                Ok(client.progress(Lease::from_bytes(token.clone()), 50, "half").await?)
            }
            Self::Http(peer) => {
                let body = json!({ "lease": text(token), "percent": 50, "message": "half" });
                let path = format!("/v1/jobs/{job}/progress");
                Self::post::<Value>(peer, &path, body).await.map(drop)
            }
        }
    }

    /// Asks for the end of a job.
    pub(super) async fn cancel(&self, job: u64, grace: Duration) -> Answer<()> {
        match self {
            Self::Tcp(client) => Ok(client.cancel_within(job, grace).await.map(drop)?),
            Self::Http(peer) => {
                let body = json!({ "grace_ms": millis(grace) });
                Self::post::<Value>(peer, &format!("/v1/jobs/{job}/cancel"), body).await.map(drop)
            }
        }
    }

    /// Stops a queue, or lets it go on.
    pub(super) async fn set_paused(&self, queue: &str, is_paused: bool) -> Answer<()> {
        match (self, is_paused) {
            (Self::Tcp(client), true) => Ok(client.pause(queue).await?),
            (Self::Tcp(client), false) => Ok(client.resume(queue).await?),
            (Self::Http(peer), _) => {
                let word = if is_paused { "pause" } else { "resume" };
                let path = format!("/v1/queues/{queue}/{word}");
                Self::post::<Value>(peer, &path, json!({})).await.map(drop)
            }
        }
    }

    /// Asks whether anybody is there who can serve.
    pub(super) async fn look(&self) -> Answer<()> {
        match self {
            Self::Tcp(client) => Ok(client.ping().await.map(drop)?),
            Self::Http(peer) => {
                let ask = Method::GET;
                let mut peer = peer.lock().await;
                peer.ask::<Value>(ask, "/health/ready", None, CALL_TIMEOUT).await.map(drop)
            }
        }
    }

    /// Leaves in good order.
    pub(super) async fn close(&self) {
        if let Self::Tcp(client) = self {
            client.close().await;
        }
    }
}

impl Leased {
    pub(super) fn of(job: Job, queue: u16, lease: Option<Duration>) -> Self {
        let until_ms = since_1970(job.lease_until);
        let begins_ms = until_ms.saturating_sub_unsigned(millis(lease.unwrap_or(SESSION_LEASE)));
        Self {
            job: job.id.0,
            key: key_of(&job.payload),
            queue,
            delivery: job.delivery,
            attempt: job.attempt,
            begins_ms,
            until_ms,
            is_timed: lease.is_some(),
            token: Bytes::copy_from_slice(job.lease.as_bytes()),
            watched: lease.is_none().then(|| Arc::new(job)),
        }
    }
}

/// The key in a payload; one that nobody pushed if there is none.
pub(crate) fn key_of(payload: &[u8]) -> u64 {
    str::from_utf8(payload).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}

fn made(pushed: batonq_client::Pushed) -> Answer<Made> {
    match pushed.outcome {
        Outcome::Inserted => Ok(Made { job: pushed.id.0, is_repeated: false }),
        Outcome::Repeated => Ok(Made { job: pushed.id.0, is_repeated: true }),
        // There is no job of this key, for another one has its unique key.
        Outcome::Duplicate | Outcome::Throttled | Outcome::Replaced => {
            Err(Failure::Refused(ErrorCode::Duplicate))
        }
    }
}

fn text(token: &Token) -> String {
    URL_SAFE_NO_PAD.encode(token)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn since_1970(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn parse_time(text: &str) -> Answer<i64> {
    let time: Result<jiff::Timestamp, _> = text.parse();
    time.map(jiff::Timestamp::as_millisecond).map_err(|_| Failure::Unknown)
}

#[derive(Deserialize)]
struct Results {
    results: Vec<Value>,
}

impl Results {
    /// One result for each item.
    fn each<T, R: serde::de::DeserializeOwned>(
        self,
        count: usize,
        read: fn(R) -> Answer<T>,
    ) -> Answer<Vec<Answer<T>>> {
        if self.results.len() != count {
            return Err(Failure::Unknown);
        }
        let each = self.results.into_iter().map(|result| match result.get("error") {
            Some(error) => Err(Problem::deserialize(error).map_or(Failure::Unknown, Into::into)),
            None => read(serde_json::from_value(result).map_err(|_| Failure::Unknown)?),
        });
        Ok(each.collect())
    }
}

#[derive(Deserialize)]
struct Pushed {
    id: u64,
    outcome: String,
}

impl Pushed {
    fn made(self) -> Answer<Made> {
        match self.outcome.as_str() {
            "inserted" => Ok(Made { job: self.id, is_repeated: false }),
            "repeated" => Ok(Made { job: self.id, is_repeated: true }),
            _ => Err(Failure::Refused(ErrorCode::Duplicate)),
        }
    }
}

#[derive(Deserialize)]
struct Settled {
    status: String,
}

impl Settled {
    fn done(self) -> Answer<()> {
        match self.status.as_str() {
            "ok" => Ok(()),
            "lease_lost" => Err(Failure::Refused(ErrorCode::LeaseLost)),
            "unknown" => Err(Failure::Refused(ErrorCode::NotFound)),
            _ => Err(Failure::Unknown),
        }
    }
}

#[derive(Deserialize)]
struct Extended {
    lease_until: String,
}

#[derive(Deserialize)]
struct Pulled {
    jobs: Vec<PulledJob>,
}

#[derive(Deserialize)]
struct PulledJob {
    id: u64,
    lease: String,
    payload: Value,
    attempt: u32,
    delivery: u32,
    lease_until: String,
}

impl PulledJob {
    fn leased(self, queue: u16, lease_ms: u64) -> Answer<Leased> {
        let until_ms = parse_time(&self.lease_until)?;
        let token = URL_SAFE_NO_PAD.decode(&self.lease).map_err(|_| Failure::Unknown)?;
        Ok(Leased {
            job: self.id,
            key: self.payload.as_u64().unwrap_or(u64::MAX),
            queue,
            delivery: self.delivery,
            attempt: self.attempt,
            begins_ms: until_ms.saturating_sub_unsigned(lease_ms),
            until_ms,
            is_timed: true,
            token: token.into(),
            watched: None,
        })
    }
}
