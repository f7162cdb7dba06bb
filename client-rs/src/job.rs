//! A job that this client may work on.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use batonq_protocol::ErrorCode;
use batonq_protocol::messages::{self, LeasedJob, State};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::fate::Fate;

/// The number of a job: the same on all nodes, never used twice, below 2^53.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for JobId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

/// The right to work on a job. What is in it is the node's affair.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lease(pub(crate) Bytes);

impl Lease {
    /// A lease that was kept outside the client, for example in a file.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// To keep the lease outside the client.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A job and the lease on it.
///
/// Dropping it settles nothing: the lease is held as long as the client lives, or as long as the
/// pull asked for.
#[derive(Debug)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// The queue it was pushed to.
    pub queue: Arc<str>,
    /// To be handed back when the job is settled.
    pub lease: Lease,
    /// The work, as it was pushed.
    pub payload: Bytes,
    /// What the payload is; empty: `application/json`.
    pub content_type: String,
    /// The attempt that begins; 1 is the first.
    pub attempt: u32,
    /// The last attempt there may be.
    pub max_attempts: u32,
    /// How often the job has been leased, this time included.
    pub delivery: u32,
    /// Higher first.
    pub priority: i32,
    /// When it was pushed.
    pub created_at: SystemTime,
    /// When the lease ends unless it is kept.
    pub lease_until: SystemTime,
    /// How long this attempt may run.
    pub timeout: Option<Duration>,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// The jobs that it waited for, by id.
    pub needs: Vec<Need>,
    pub(crate) fate: Fate,
}

/// A job that another one waited for.
#[derive(Debug, Clone, PartialEq)]
pub struct Need {
    /// Its number.
    pub id: JobId,
    /// How it ended. [`State::Unspecified`]: nothing is known of it any more.
    pub state: State,
    /// What came of it. `None`: nothing, or more than 64 KiB, to be asked for.
    pub result: Option<Bytes>,
}

impl Job {
    pub(crate) fn new(leased: LeasedJob, queue: Arc<str>, fate: Fate) -> Self {
        let need = |need: messages::Need| Need {
            id: JobId(need.id),
            state: need.state(),
            result: need.result,
        };
        Self {
            id: JobId(leased.id),
            queue,
            lease: Lease(leased.lease),
            payload: leased.payload,
            content_type: leased.content_type,
            attempt: leased.attempt,
            max_attempts: leased.max_attempts,
            delivery: leased.delivery,
            priority: leased.priority,
            created_at: time(leased.created_at_ms),
            lease_until: time(leased.lease_until_ms),
            timeout: (leased.timeout_ms > 0).then(|| Duration::from_millis(leased.timeout_ms)),
            tags: leased.tags,
            needs: leased.needs.into_iter().map(need).collect(),
            fate,
        }
    }

    /// Reads the payload as JSON.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with [`ErrorCode::Invalid`] if it is something else.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.payload)
            .map_err(|error| Error::refused(ErrorCode::Invalid, error.to_string(), "payload"))
    }

    /// Waits until the lease is lost: someone else may work on the job now.
    ///
    /// Only leases that last as long as the client are watched, not those of a pull that asked
    /// for a time of its own.
    pub async fn lost(&self) {
        self.fate.lost().cancelled().await;
    }

    /// Waits until somebody asks for the end of this job, or the lease is lost. Unless the job is
    /// acked, it does not go round again.
    pub async fn cancel_requested(&self) {
        self.fate.cancelled().cancelled().await;
    }

    /// Whether somebody has asked for the end of this job.
    pub fn is_cancel_requested(&self) -> bool {
        self.fate.is_cancelled() && !self.is_lost()
    }

    /// Whether the lease is lost, as far as the client knows.
    pub fn is_lost(&self) -> bool {
        self.fate.is_lost()
    }
}

/// Times before 1970 do not occur.
pub(crate) fn time(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

pub(crate) fn leases(jobs: Vec<Job>) -> Vec<Bytes> {
    jobs.into_iter().map(|job| job.lease.0).collect()
}
