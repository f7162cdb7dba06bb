//! Who does the duties: one node at a time, and each of its writes is proof of it.
//!
//! # What is promised
//!
//! * At most one leader's work takes effect. Each write of a duty asks for the fence, the leader's
//!   row with the token of its term, in its own transaction ([`Term`]); the next
//!   election changes the token and waits for those that are under way. So a leader that was
//!   frozen or cut off and does not know that it was deposed writes nothing when it wakes.
//! * There is a leader again soon: within a second after a crash, in about three after a freeze or
//!   a partition. [`Profile`] has the bounds.
//! * Nobody's push, pull or ack needs a leader.
//!
//! # How
//!
//! ```text
//!              lock won, token written
//!   following ─────────────────────────▶ leading: a beat each 400 ms keeps the trust
//!       ▲                                   │
//!       └───────────────────────────────────┘ a beat fails or comes too late, the connection
//!                 connection dropped          ends, a duty is stuck, the node stops
//! ```
//!
//! One connection, never from a pool, on a thread of its own, asks for an advisory lock of the
//! database, without ever waiting in it: a session that waits in a lock holds back vacuum. The
//! lock ends with the session. A session ends when its process dies; settings of the session see
//! to it that it also ends when the process freezes or its host vanishes. The
//! leader trusts itself for a time after the *sending* of its last good beat that is shorter than
//! the database's patience.
//!
//! Any number of nodes will do, also two: the lock decides, not a vote.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::mutants::{self, Mutant};

/// One reign of one leader: the permission to do duties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Its number, for people: each election of a cluster adds one.
    pub epoch: u64,
    /// What the store compares: drawn anew for each election, so that it is unlike all others even
    /// if a database that was restored counts the same epoch twice.
    pub token: u128,
}

impl Term {
    /// Of a node that has its store to itself and was never elected.
    pub const SOLE: Self = Self { epoch: 0, token: 0 };

    /// The token as a UUID.
    pub fn token_text(&self) -> String {
        format!("{:032x}", self.token)
    }
}

/// How soon a silent leader is replaced, and what it costs in queries and false alarms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Its name in settings.
    pub name: &'static str,
    /// The database ends a leader's session after so much silence.
    pub session_silence_max: Duration,
    /// A leader trusts itself so long after its last good beat was sent.
    pub trust: Duration,
    /// A leader's beat.
    pub beat: Duration,
    /// How often followers ask for the lock, ± a quarter.
    pub poll: Duration,
    /// What one statement of the leader's session may take.
    pub statement_max: Duration,
}

impl Profile {
    /// Crash: a quarter of a second; freeze or partition: about 3 s.
    pub const DEFAULT: Self = Self {
        name: "default",
        session_silence_max: Duration::from_millis(2500),
        trust: Duration::from_millis(1500),
        beat: Duration::from_millis(400),
        poll: Duration::from_millis(250),
        statement_max: Duration::from_millis(1000),
    };

    /// Crash: a tenth of a second; freeze or partition: about 1.2 s. For a database that is near.
    pub const FAST: Self = Self {
        name: "fast",
        session_silence_max: Duration::from_millis(1000),
        trust: Duration::from_millis(700),
        beat: Duration::from_millis(200),
        poll: Duration::from_millis(100),
        statement_max: Duration::from_millis(500),
    };

    /// The profile of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::DEFAULT, Self::FAST].into_iter().find(|profile| profile.name == name)
    }
}

/// Whether this node leads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Leadership {
    reign: watch::Receiver<Option<Reign>>,
    resigning: Arc<Resigning>,
}

/// The other end: what an election tells.
#[derive(Debug)]
pub struct Throne {
    reign: watch::Sender<Option<Reign>>,
    resigning: Arc<Resigning>,
}

#[derive(Debug, Clone, Copy)]
struct Reign {
    term: Term,
    /// `None`: for ever.
    trusted_until: Option<Instant>,
}

#[derive(Debug, Default)]
struct Resigning {
    asked: Notify,
    reason: Mutex<Option<String>>,
}

impl Leadership {
    /// Of a node that has its store to itself.
    pub fn sole() -> Self {
        let reign = Reign { term: Term::SOLE, trusted_until: None };
        Self { reign: watch::channel(Some(reign)).1, resigning: Arc::default() }
    }

    /// Of a node that stands for election.
    pub fn elected() -> (Throne, Self) {
        let (sender, reign) = watch::channel(None);
        let resigning = Arc::<Resigning>::default();
        let throne = Throne { reign: sender, resigning: Arc::clone(&resigning) };
        (throne, Self { reign, resigning })
    }

    /// The present term, if this node leads and may still trust itself.
    pub fn term(&self) -> Option<Term> {
        let reign = (*self.reign.borrow())?;
        let is_trusted = reign.trusted_until.is_none_or(|until| Instant::now() < until);
        (is_trusted || mutants::is(Mutant::SkipFence)).then_some(reign.term)
    }

    /// Waits for a term to begin, if none is under way.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn begun(&mut self) -> Term {
        loop {
            if let Some(term) = self.term() {
                return term;
            }
            // The election lives as long as the node.
            if self.reign.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until `term` is over.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn ended(&mut self, term: Term) {
        let is_other = |reign: &Option<Reign>| reign.is_none_or(|reign| reign.term != term);
        if self.reign.wait_for(is_other).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Lets another node lead: this one does not do its work.
    pub fn resign(&self, reason: String) {
        *self.resigning.reason.lock() = Some(reason);
        self.resigning.asked.notify_one();
    }
}

impl Throne {
    /// The node leads from now on, as far as `trusted_until`.
    pub fn take(&self, term: Term, trusted_until: Instant) {
        self.reign.send_replace(Some(Reign { term, trusted_until: Some(trusted_until) }));
    }

    /// A beat was good.
    pub fn trust(&self, until: Instant) {
        // Nobody waits for this.
        self.reign.send_if_modified(|reign| {
            if let Some(reign) = reign {
                reign.trusted_until = Some(until);
            }
            false
        });
    }

    /// The node follows from now on.
    pub fn leave(&self) {
        if !mutants::is(Mutant::SkipFence) {
            self.reign.send_replace(None);
        }
    }

    /// Waits until somebody wants this node to resign. The answer is the reason.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn asked_to_resign(&self) -> String {
        loop {
            self.resigning.asked.notified().await;
            if let Some(reason) = self.resigning.reason.lock().take() {
                return reason;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Term = Term { epoch: 3, token: 7 };

    #[test]
    fn a_node_alone_leads_for_ever() {
        assert_eq!(Leadership::sole().term(), Some(Term::SOLE));
    }

    #[tokio::test(start_paused = true)]
    async fn trust_ends_by_itself() {
        let (throne, leadership) = Leadership::elected();
        assert_eq!(leadership.term(), None);
        throne.take(TERM, Instant::now() + Duration::from_secs(1));
        assert_eq!(leadership.term(), Some(TERM));
        tokio::time::advance(Duration::from_millis(900)).await;
        throne.trust(Instant::now() + Duration::from_secs(1));
        tokio::time::advance(Duration::from_millis(900)).await;
        assert_eq!(leadership.term(), Some(TERM));
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(leadership.term(), None);
    }

    #[tokio::test]
    async fn who_waits_is_told_of_begin_and_end() {
        let (throne, mut leadership) = Leadership::elected();
        throne.take(TERM, Instant::now() + Duration::from_secs(1));
        assert_eq!(leadership.begun().await, TERM);
        throne.leave();
        leadership.ended(TERM).await;
        assert_eq!(leadership.term(), None);
    }

    #[test]
    fn a_leader_stops_trusting_itself_before_the_database_does() {
        for profile in [Profile::DEFAULT, Profile::FAST] {
            assert!(profile.trust > 3 * profile.beat);
            assert!(profile.trust + profile.beat < profile.session_silence_max);
            assert_eq!(Profile::parse(profile.name), Some(profile));
        }
    }
}
