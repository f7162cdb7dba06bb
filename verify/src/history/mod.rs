//! What was done, what was answered, and what was left at the end.
//!
//! All calls are made by one process, so `start_ns` and `end_ns` are of one monotonic clock. All
//! leases are given by one database, so times of its clock (`*_ms`) order them without doubt.
//!
//! A call for several jobs is several records with the same client, start and end.

mod code;
pub mod file;

use batonq_protocol::ErrorCode;
use serde::{Deserialize, Serialize};

/// All records of a run, in the order in which they were written.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct History {
    /// The records.
    pub records: Vec<Record>,
    /// Whether the end was cut off, as when who wrote it was killed.
    pub is_cut: bool,
}

impl From<Vec<Record>> for History {
    fn from(records: Vec<Record>) -> Self {
        Self { records, is_cut: false }
    }
}

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// A call of a client, for one job.
    Call(Call),
    /// A fault that was injected, or its end.
    Fault(Fault),
    /// A job as the database has it when all is over.
    Job(JobEnd),
    /// A lease of a job that was delivered more than once, or that is not completed, as its
    /// timeline has it when all is over. Ordered by job and delivery.
    Lease(LeaseEnd),
    /// A slot of a schedule, as the database has it when all is over.
    Slot(Slot),
    /// What a leader did, in the order of the commits.
    Duty(Duty),
    /// What is known of a queue, a schedule or a limit before the run: the rules to judge by.
    Rule(Rule),
    /// How the run ended.
    End(End),
}

/// A call of a client, for one job.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Sent at.
    pub start_ns: u64,
    /// Answered, or given up, at.
    pub end_ns: u64,
    /// Who called.
    pub client: u32,
    /// The node that was asked, from 1; 0: not known, as behind a balancer.
    pub node: u8,
    /// What was asked.
    pub what: What,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was done.
    Ok,
    /// It was not done.
    Rejected(#[serde(with = "code")] ErrorCode),
    /// It was sent, and nobody knows.
    Unknown,
    /// The client was cut off, or went away, before it was answered: nobody knows.
    CutOff,
}

impl Outcome {
    /// Whether it was done for sure.
    pub fn is_ok(self) -> bool {
        self == Self::Ok
    }

    /// Whether nobody knows: no answer came, or one that says no more.
    pub fn is_unknown(self) -> bool {
        use ErrorCode::{Internal, OutcomeUnknown, Unspecified};
        match self {
            Self::Unknown | Self::CutOff => true,
            Self::Rejected(code) => matches!(code, OutcomeUnknown | Internal | Unspecified),
            Self::Ok => false,
        }
    }

    /// Whether it may have been done.
    pub fn is_possible(self) -> bool {
        self.is_ok() || self.is_unknown()
    }
}

/// What was asked for one job.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum What {
    /// A job was handed in.
    Push {
        /// Its idempotency key, which is also its payload. Unique to one job of the run; not 0.
        key: u64,
        /// The number of its queue.
        queue: u16,
        /// Its id, once that was answered; 0: not known.
        job: u64,
        /// Not to be delivered before this time of the database; 0: at once.
        run_at_ms: i64,
        /// For what it waits before it is delivered.
        waits: Waits,
        /// Whether the answer said that the same push was done before.
        repeated: bool,
    },
    /// A job was given out. Always [`Outcome::Ok`].
    Lease {
        /// The job.
        job: u64,
        /// The key in its payload; of a schedule's job 0.
        key: u64,
        /// The queue it came from.
        queue: u16,
        /// Which of its leases this is, from 1.
        delivery: u32,
        /// The attempt that begins, from 1.
        attempt: u32,
        /// When the lease began, by the database's clock.
        begins_ms: i64,
        /// When it ends unless extended; renewed by the node as long as the session lives if
        /// `is_timed` is false.
        until_ms: i64,
        /// Whether the lease has a time of its own.
        is_timed: bool,
    },
    /// A lease was used.
    Settle {
        /// The job.
        job: u64,
        /// The lease.
        delivery: u32,
        /// What for.
        how: How,
        /// After an extension that was granted: when the lease ends, by the database's clock; else 0.
        until_ms: i64,
    },
    /// A client knows by itself that a lease is lost: a node told it, or it was cut off for too
    /// long. Always [`Outcome::Ok`].
    Lost {
        /// The job.
        job: u64,
        /// The lease.
        delivery: u32,
    },
    /// Somebody asked for a job's end.
    Cancel {
        /// The job.
        job: u64,
    },
    /// A call that is about no job, as a look at a node: it counts for liveness only.
    Look,
}

/// For what a job waits before it is delivered for the first time: what else may be its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Waits {
    /// Until somebody takes it.
    ForWorkers,
    /// For so many milliseconds at most, from its push: it has a time to live.
    AtMostMs(u64),
    /// For other jobs: it may die with them.
    ForJobs,
}

/// What a lease was used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum How {
    /// The job is done.
    Ack,
    /// The attempt failed.
    Fail,
    /// The attempt failed, and nobody is to try again.
    Reject,
    /// The job is given back unharmed.
    Release,
    /// The lease is to last longer.
    Extend,
    /// How far the job is.
    Progress,
}

impl How {
    /// Whether it ends the lease.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Extend | Self::Progress)
    }

    /// The words of timelines for what it does to a lease. None if it does not end it.
    pub fn endings(self) -> &'static [&'static str] {
        match self {
            Self::Ack => &["completed"],
            Self::Fail => &["failed"],
            Self::Reject => &["rejected"],
            Self::Release => &["released", "snoozed"],
            Self::Extend | Self::Progress => &[],
        }
    }
}

/// A fault that was injected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// When it began, on the clock of the calls.
    pub start_ns: u64,
    /// When it was over: healed, or started again. The same as the start for faults that last no time.
    pub end_ns: u64,
    /// What was done, as `kill`, `freeze`, `partition_both`; see the nemesis.
    pub kind: String,
    /// The node it was done to, from 1; 0: the database, or all.
    pub node: u8,
    /// Whether that node led at that time.
    pub was_leader: bool,
    /// When another node led, if `was_leader` and one did; 0: not seen.
    pub led_again_ns: u64,
}

/// A job as the database has it when all is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobEnd {
    /// The job.
    pub job: u64,
    /// The key in its payload; of a schedule's job 0.
    pub key: u64,
    /// The number of its queue.
    pub queue: u16,
    /// Where it stands.
    pub state: State,
    /// How many leases were given.
    pub deliveries: u32,
    /// When it was pushed, by the database's clock.
    pub created_ms: i64,
    /// When it ended, by the database's clock; 0: it has not.
    pub finished_ms: i64,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum State {
    /// Waits for other jobs.
    Blocked,
    /// Waits for its time.
    Scheduled,
    /// Waits for a worker.
    Ready,
    /// A worker has it.
    Leased,
    /// Done.
    Completed,
    /// Set aside.
    Dead,
    /// Its end was asked for.
    Cancelled,
}

impl State {
    /// Whether nothing more will happen to the job by itself.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Dead | Self::Cancelled)
    }
}

/// A lease as the job's timeline has it when all is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseEnd {
    /// The job.
    pub job: u64,
    /// The lease.
    pub delivery: u32,
    /// The attempt that it was.
    pub attempt: u32,
    /// When it began, by the database's clock.
    pub begins_ms: i64,
    /// When it ended, by the database's clock; 0: it has not.
    pub ended_ms: i64,
    /// How, as `failed`, `released`, `node_lost`; empty: not known.
    pub ending: String,
}

/// What became of a slot of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// The number of the schedule.
    pub schedule: u16,
    /// The slot, by the database's clock.
    pub slot_ms: i64,
    /// When it was fired, by the database's clock.
    pub fired_ms: i64,
    /// The job that was made; 0: none.
    pub job: u64,
}

/// What a leader did: one part of a duty, one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duty {
    /// When, by the database's clock.
    pub at_ms: i64,
    /// The term, by number.
    pub epoch: u64,
    /// The term, by its fence.
    pub token: u128,
    /// The node, as it calls itself.
    pub node: String,
    /// Which duty.
    pub name: String,
    /// How many rows it changed.
    pub count: u32,
}

/// What the run asked for, to judge by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Rule {
    /// At most so many jobs of a queue are leased at once.
    Concurrency {
        /// The queue.
        queue: u16,
        /// The limit.
        max: u32,
    },
    /// At most so many jobs of a queue are leased in a time, and so many more at once after a rest.
    Rate {
        /// The queue.
        queue: u16,
        /// How many.
        limit: u32,
        /// In which time.
        per_ms: u64,
        /// The burst.
        burst: u32,
    },
    /// A schedule with a slot each so many milliseconds was there between these times of the
    /// database.
    Schedule {
        /// Its number.
        schedule: u16,
        /// The queue its jobs go to.
        queue: u16,
        /// Between two slots.
        every_ms: u64,
        /// The first slot that must be there.
        from_ms: i64,
        /// The last slot that must be there.
        to_ms: i64,
    },
}

/// How the run ended.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// When the last fault was healed, on the clock of the calls.
    pub healed_ns: u64,
    /// When the first call of each client had succeeded after that, on the clock of the calls; 0: not.
    pub served_ns: u64,
    /// When nothing was left to do, on the clock of the calls; 0: never.
    pub drained_ns: u64,
    /// How many nodes said that they lead when all was over.
    pub leaders: u32,
    /// The database's clock less the clock of the calls, in milliseconds.
    pub database_offset_ms: i64,
    /// How far that may be off, in milliseconds.
    pub offset_error_ms: i64,
}
