//! The life of a job: its states, and what follows when a lease ends.
//!
//! ```text
//!             push                       due
//!   ─────────────────▶ scheduled ─────────────────▶ ready ◀──── push
//!                          ▲                        │   ▲
//!                          │ failed, timed out      │   │ released, crashed,
//!                          │ (attempt + 1)    claim │   │ expired, node lost
//!                          │                        ▼   │
//!                          └──────────────────────leased
//!                                                   │
//!                 ┌─────────────────────────────────┤
//!                 ▼                                 ▼
//!             completed                           dead
//! ```
//!
//! `cancelled` is reached from `scheduled`, `blocked` and `ready`, and from `leased` once somebody
//! has asked for it: the worker is told, and unless it completes the job, the job ends so. `dead`
//! is also reached without a lease, by expiry, or when a person discards the job. A job that waits for other jobs is `blocked` until
//! they have ended; then it is `scheduled` or `ready`, or `dead` if one of them has failed.

use super::{Backoff, Timestamp};
use std::time::Duration;

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Waits for its time.
    Scheduled,
    /// Waits for other jobs.
    Blocked,
    /// May be claimed.
    Ready,
    /// Somebody works on it.
    Leased,
    /// Acked.
    Completed,
    /// In the dead letter queue, for a [`Reason`].
    Dead,
    /// Taken back before it ran.
    Cancelled,
}

impl State {
    /// All of them, in the order of a job's life.
    pub const ALL: [Self; 7] = [
        Self::Scheduled,
        Self::Blocked,
        Self::Ready,
        Self::Leased,
        Self::Completed,
        Self::Dead,
        Self::Cancelled,
    ];

    /// The word for it in SQL, JSON, logs and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Blocked => "blocked",
            Self::Ready => "ready",
            Self::Leased => "leased",
            Self::Completed => "completed",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether nothing more will happen to the job by itself.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Dead | Self::Cancelled)
    }
}

/// Why a job is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Its last attempt failed.
    MaxAttemptsExceeded,
    /// Too many workers vanished while they had it.
    Poison,
    /// Its time to live was over before it could run (again).
    Expired,
    /// A worker, or a person, said that trying again is no use.
    Rejected,
    /// A job that it waited for died or was cancelled.
    DependencyFailed,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::MaxAttemptsExceeded,
        Self::Poison,
        Self::Expired,
        Self::Rejected,
        Self::DependencyFailed,
    ];

    /// The code for it in SQL, JSON, logs and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MaxAttemptsExceeded => "MAX_ATTEMPTS_EXCEEDED",
            Self::Poison => "POISON",
            Self::Expired => "EXPIRED",
            Self::Rejected => "REJECTED",
            Self::DependencyFailed => "DEPENDENCY_FAILED",
        }
    }

    /// The reason of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

/// How a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The worker is done.
    Completed,
    /// The worker could not do it.
    Failed {
        /// The worker's own choice of the delay.
        retry_in: Option<Duration>,
    },
    /// The worker could not do it, and nobody ever will.
    Rejected,
    /// The attempt ran longer than its job allows.
    TimedOut,
    /// The worker gave it back unharmed.
    Released,
    /// The worker gave it back unharmed, to be worked on after this time.
    Snoozed(Duration),
    /// Somebody had asked for its end, and the worker did not end it in time.
    Cancelled,
    /// The worker vanished: its connection closed, or nothing was heard from it.
    Crashed,
    /// The lease had a time of its own and was not extended: the worker vanished.
    Expired,
    /// The node that kept the lease alive is gone. Nobody is to blame.
    NodeLost,
}

impl Ending {
    /// The word for it in timelines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed { .. } => "failed",
            Self::Rejected => "rejected",
            Self::TimedOut => "timed_out",
            Self::Released => "released",
            Self::Snoozed(_) => "snoozed",
            Self::Cancelled => "cancelled",
            Self::Crashed => "crashed",
            Self::Expired => "expired",
            Self::NodeLost => "node_lost",
        }
    }

    /// What it is charged to.
    const fn charge(self) -> Charge {
        match self {
            Self::Failed { .. } | Self::Rejected | Self::TimedOut => Charge::Attempt,
            Self::Crashed | Self::Expired => Charge::Crash,
            Self::Completed
            | Self::Released
            | Self::Snoozed(_)
            | Self::Cancelled
            | Self::NodeLost => Charge::Nobody,
        }
    }
}

enum Charge {
    Attempt,
    Crash,
    Nobody,
}

/// What has been charged to a job so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Charges {
    /// Attempts that failed or timed out.
    pub attempts: u32,
    /// Leases that ended because their worker vanished.
    pub crashes: u32,
}

/// What a job was pushed with, as far as it decides how the job goes on.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Dead after so many failed attempts.
    pub max_attempts: u32,
    /// Dead after so many crashes.
    pub crashes_max: u32,
    /// The delay between attempts.
    pub backoff: Backoff,
    /// Not delivered at or after this time.
    pub expires_at: Option<Timestamp>,
    /// Somebody has asked for its end: it does not go round again.
    pub is_cancelled: bool,
}

/// Where a job goes when its lease has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It is done.
    Completed,
    /// Round again, in its old place.
    Ready,
    /// Round again, not before this time.
    Scheduled(Timestamp),
    /// Into the dead letter queue.
    Dead(Reason),
    /// Somebody had asked for its end.
    Cancelled,
}

/// Where a job goes after `ending`, and what is charged to it then.
///
/// `chance` is for the jitter of the backoff, 0 to 1.
pub fn after(
    ending: Ending,
    charges: Charges,
    rules: &Rules,
    now: Timestamp,
    chance: f64,
) -> (Next, Charges) {
    let charges = match ending.charge() {
        Charge::Attempt => Charges { attempts: charges.attempts + 1, ..charges },
        Charge::Crash => Charges { crashes: charges.crashes + 1, ..charges },
        Charge::Nobody => charges,
    };
    let next = match ending {
        Ending::Completed => return (Next::Completed, charges),
        Ending::Cancelled => return (Next::Cancelled, charges),
        _ if rules.is_cancelled => return (Next::Cancelled, charges),
        Ending::Rejected => Next::Dead(Reason::Rejected),
        Ending::Failed { .. } | Ending::TimedOut if charges.attempts >= rules.max_attempts => {
            Next::Dead(Reason::MaxAttemptsExceeded)
        }
        Ending::Failed { retry_in: Some(delay) } | Ending::Snoozed(delay) => {
            Next::Scheduled(now + delay)
        }
        Ending::Failed { retry_in: None } | Ending::TimedOut => {
            Next::Scheduled(now + rules.backoff.after_failure(charges.attempts, chance))
        }
        Ending::Crashed | Ending::Expired if charges.crashes >= rules.crashes_max => {
            Next::Dead(Reason::Poison)
        }
        Ending::Released | Ending::Crashed | Ending::Expired | Ending::NodeLost => Next::Ready,
    };
    (expire(next, rules.expires_at, now), charges)
}

/// A job that could not be delivered in time any more does not go round again.
fn expire(next: Next, expires_at: Option<Timestamp>, now: Timestamp) -> Next {
    let delivered_at = match next {
        Next::Ready => now,
        Next::Scheduled(run_at) => run_at,
        Next::Completed | Next::Dead(_) | Next::Cancelled => return next,
    };
    match expires_at {
        Some(expires_at) if expires_at <= delivered_at => Next::Dead(Reason::Expired),
        _ => next,
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);
    const FAILED: Ending = Ending::Failed { retry_in: None };
    const SECOND: Duration = Duration::from_secs(1);

    fn rules() -> Rules {
        Rules {
            max_attempts: 3,
            crashes_max: 2,
            backoff: Backoff::Fixed(10 * SECOND),
            expires_at: None,
            is_cancelled: false,
        }
    }

    /// `before` is (attempts, crashes).
    fn next(ending: Ending, before: (u32, u32), rules: &Rules) -> (Next, (u32, u32)) {
        let charges = Charges { attempts: before.0, crashes: before.1 };
        let (next, charges) = after(ending, charges, rules, NOW, 0.0);
        (next, (charges.attempts, charges.crashes))
    }

    #[test]
    fn each_ending_leads_where_it_should() {
        use Reason::{MaxAttemptsExceeded, Poison, Rejected};
        let later = Next::Scheduled(NOW + 10 * SECOND);
        let chosen = Ending::Failed { retry_in: Some(SECOND) };
        for (ending, before, expected) in [
            (Ending::Completed, (1, 1), (Next::Completed, (1, 1))),
            (FAILED, (0, 0), (later, (1, 0))),
            (FAILED, (1, 0), (later, (2, 0))),
            (FAILED, (2, 0), (Next::Dead(MaxAttemptsExceeded), (3, 0))),
            (chosen, (0, 0), (Next::Scheduled(NOW + SECOND), (1, 0))),
            (chosen, (2, 0), (Next::Dead(MaxAttemptsExceeded), (3, 0))),
            (Ending::Rejected, (0, 0), (Next::Dead(Rejected), (1, 0))),
            (Ending::TimedOut, (0, 0), (later, (1, 0))),
            (Ending::TimedOut, (2, 0), (Next::Dead(MaxAttemptsExceeded), (3, 0))),
            (Ending::Released, (2, 1), (Next::Ready, (2, 1))),
            (Ending::NodeLost, (2, 1), (Next::Ready, (2, 1))),
            (Ending::Snoozed(SECOND), (2, 1), (Next::Scheduled(NOW + SECOND), (2, 1))),
            (Ending::Cancelled, (2, 1), (Next::Cancelled, (2, 1))),
            (Ending::Crashed, (2, 0), (Next::Ready, (2, 1))),
            (Ending::Crashed, (0, 1), (Next::Dead(Poison), (0, 2))),
            (Ending::Expired, (0, 0), (Next::Ready, (0, 1))),
            (Ending::Expired, (0, 1), (Next::Dead(Poison), (0, 2))),
        ] {
            assert_eq!(next(ending, before, &rules()), expected, "{ending:?} after {before:?}");
        }
    }

    #[test]
    fn a_job_whose_end_was_asked_for_does_not_go_round_again() {
        let rules = Rules { is_cancelled: true, ..rules() };
        for ending in [FAILED, Ending::Rejected, Ending::TimedOut, Ending::Released] {
            assert_eq!(next(ending, (2, 1), &rules).0, Next::Cancelled, "{ending:?}");
        }
        assert_eq!(next(Ending::Completed, (2, 1), &rules).0, Next::Completed);
    }

    #[test]
    fn a_job_does_not_go_round_beyond_its_time_to_live() {
        let expired = Next::Dead(Reason::Expired);
        for (ending, lives_for, expected) in [
            (Ending::Released, Duration::ZERO, expired),
            (Ending::Released, Duration::from_millis(1), Next::Ready),
            (FAILED, 10 * SECOND, expired),
            (FAILED, 11 * SECOND, Next::Scheduled(NOW + 10 * SECOND)),
            (Ending::Completed, Duration::ZERO, Next::Completed),
        ] {
            let rules = Rules { expires_at: Some(NOW + lives_for), ..rules() };
            assert_eq!(next(ending, (0, 0), &rules).0, expected, "{ending:?} {lives_for:?}");
        }
    }

    #[test]
    fn names_and_states_are_one_to_one() {
        for state in State::ALL {
            assert_eq!(State::parse(state.name()), Some(state));
        }
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.name()), Some(reason));
        }
        assert_eq!(State::parse("waiting"), None);
    }
}
