//! What a job waits for, as far as a store knows.

use super::{Attempt, Job};
use crate::job::{Admission, Closed, Flow, FlowKey, JobId, RateRule, State, Timestamp};

/// A job and all that it waits for.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// The store's time.
    pub now: Timestamp,
    /// The job, without its payload and result.
    pub job: Job,
    /// The attempt that runs, or that completed the job.
    pub attempt: Option<Attempt>,
    /// Whether its queue is paused.
    pub paused: Option<Paused>,
    /// While blocked: the jobs that it still waits for, by id, and where each is. `None`: nothing
    /// is known of it any more.
    pub needs: Vec<(JobId, Option<State>)>,
    /// While ready.
    pub line: Option<InLine>,
}

/// Since when a queue is paused, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paused {
    /// Since when.
    pub since: Timestamp,
    /// Who, in words. Empty: it is not known.
    pub by: String,
}

/// What stands before a ready job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InLine {
    /// Ready jobs of its queue with a higher priority, counted up to
    /// [`crate::limits::AHEAD_MAX`]; of as many gates at most.
    pub higher: usize,
    /// Ready jobs behind the same gate, of the same priority, that come first; counted likewise.
    pub ahead: usize,
    /// The limits that keep it from starting now.
    pub limits: Vec<Limit>,
}

/// A limit that is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Limit {
    /// Of the queue, at once.
    Queue {
        /// At most so many.
        max: u32,
        /// So many are leased.
        leased: u32,
    },
    /// Of a key, at once.
    Key {
        /// Its name.
        key: FlowKey,
        /// At most so many.
        max: u32,
        /// Those that are leased, by id, the first [`crate::limits::HOLDERS_SHOWN_MAX`].
        holders: Vec<JobId>,
    },
    /// Of the queue, in a time.
    QueueRate {
        /// So many.
        rule: RateRule,
        /// When the next one may start.
        opens_at: Timestamp,
    },
    /// Of a key, in a time.
    KeyRate {
        /// Its name.
        key: FlowKey,
        /// So many.
        rule: RateRule,
        /// When the next one may start.
        opens_at: Timestamp,
    },
}

impl Limit {
    /// The limits that keep a job from starting; `holders` has the key of its concurrency.
    pub(crate) fn all(admission: &Admission, flow: &Flow, holders: &[JobId]) -> Vec<Self> {
        let settings = &admission.settings;
        let limit = |closed| {
            Some(match closed {
                Closed::QueueFull => {
                    Self::Queue { max: settings.concurrency?, leased: admission.leased }
                }
                Closed::KeyFull => {
                    let concurrency = flow.concurrency.as_ref()?;
                    let (key, max) = (concurrency.key.clone(), admission.max_of(concurrency)?);
                    Self::Key { key, max, holders: holders.to_vec() }
                }
                Closed::QueueRate(opens_at) => Self::QueueRate { rule: settings.rate?, opens_at },
                Closed::KeyRate(opens_at) => {
                    let rate = flow.rate.as_ref()?;
                    let (key, rule) = (rate.key.clone(), admission.rule_of(rate));
                    Self::KeyRate { key, rule, opens_at }
                }
            })
        };
        admission.closed(flow).filter_map(limit).collect()
    }
}
