//! Which leases this node has given to clients of flashQ, who know their jobs by number only.
//!
//! It is a hint that spares a question to the store with each ack: what settles a job checks the
//! lease, and if that is lost, or nothing is known here, the store is asked. So it may forget what it
//! likes; it has a bound, and what a connection was given goes with the connection.

use std::sync::Arc;

use dashmap::DashMap;

use super::options::Extra;
use super::{Client, Refused};
use crate::job::{JobId, Lease, Options};
use crate::limits;
use crate::store::{LeasedJob, SessionId};

/// What is to be removed once it has ended so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Removal {
    pub(super) on_complete: bool,
    pub(super) on_fail: bool,
}

impl Removal {
    /// As the options of a job say.
    pub(super) fn of(options: &Options) -> Self {
        let extra = Extra::of(options);
        Self { on_complete: extra.remove_on_complete, on_fail: extra.remove_on_fail }
    }
}

/// A lease, and what is to be done at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) lease: Lease,
    pub(super) removal: Removal,
}

/// The leases. Cheap to clone: all clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct Leases(Arc<DashMap<JobId, (Given, SessionId)>>);

impl Leases {
    /// Notes jobs that are about to be handed out.
    pub(super) fn note(&self, session: SessionId, jobs: &[LeasedJob]) {
        let room = limits::FLASHQ_LEASES_MAX.saturating_sub(self.0.len());
        for job in jobs.iter().take(room) {
            let removal = Removal::of(&job.options);
            let given = Given { lease: job.lease, removal };
            self.0.insert(job.lease.job, (given, session));
        }
    }

    /// What is known of the lease of a job.
    pub(super) fn get(&self, job: JobId) -> Option<Given> {
        self.0.get(&job).map(|entry| entry.0)
    }

    /// A lease has ended.
    pub(super) fn forget(&self, lease: Lease) {
        self.0.remove_if(&lease.job, |_, (given, _)| given.lease == lease);
    }

    /// A connection has ended.
    pub(super) fn forget_all(&self, session: SessionId) {
        self.0.retain(|_, (_, of)| *of != session);
    }

    /// Whether a connection still has leases, as far as is known.
    pub(super) fn has(&self, session: SessionId) -> bool {
        self.0.iter().any(|entry| entry.1 == session)
    }
}

/// The live lease of a job, whoever has it. What is known here may be out of date.
pub(super) async fn lease_of(client: &Client<'_>, job: JobId) -> Result<Option<Lease>, Refused> {
    if let Some(given) = client.leases.get(job) {
        return Ok(Some(given.lease));
    }
    let known = client.door.broker.leases_of(vec![job]).await?;
    Ok(known.into_iter().next().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);

    fn leased(job: u64, delivery: u32) -> LeasedJob {
        LeasedJob {
            lease: Lease { job: JobId(job), delivery },
            payload: crate::job::Payload::new(bytes::Bytes::new()).unwrap(),
            attempt: 1,
            max_attempts: 1,
            priority: 0,
            created_at: crate::job::Timestamp(0),
            lease_until: crate::job::Timestamp(0),
            timeout: None,
            tags: Vec::new(),
            needs: Vec::new(),
            options: Options::default().into(),
        }
    }

    #[test]
    fn a_later_lease_is_not_forgotten_for_an_earlier_one() {
        let leases = Leases::default();
        leases.note(A, &[leased(1, 1)]);
        leases.note(B, &[leased(1, 2)]);
        leases.forget(Lease { job: JobId(1), delivery: 1 });
        assert_eq!(leases.get(JobId(1)).unwrap().lease.delivery, 2);
        leases.forget(Lease { job: JobId(1), delivery: 2 });
        assert_eq!(leases.get(JobId(1)), None);
    }

    #[test]
    fn what_a_connection_was_given_goes_with_it() {
        let leases = Leases::default();
        leases.note(A, &[leased(1, 1), leased(2, 1)]);
        leases.note(B, &[leased(3, 1)]);
        leases.forget_all(A);
        assert!(!leases.has(A) && leases.has(B));
        assert_eq!(leases.get(JobId(2)), None);
        assert!(leases.get(JobId(3)).is_some());
    }
}
