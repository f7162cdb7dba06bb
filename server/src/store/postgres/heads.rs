//! Where a look at what comes first by time begins.
//!
//! What is due, has run out or is overdue stands first in an index by time. While somebody holds an
//! old snapshot all that has ever stood there stays, dead, and a look from the very beginning wades
//! through it, through more each second. So once such *full* looks are slow, the next one waits
//! for thirty times as long as it took, and *near* ones are made instead: they begin shortly before the
//! time up to which everything was done.
//!
//! What comes before that, since it is past when it is written, the next full look finds: a job with a
//! delay that a transaction of SQL was long in committing, or one that is edited to be due since long. So
//! it does what somebody else had locked for longer.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::job::Timestamp;
use crate::store::columns::sql_millis;

/// Where so many full looks in a row take longer, they are not made each time: one may be slow because
/// the machine is busy, and near ones see less.
const SLOW: Duration = Duration::from_millis(20);
const SLOW_LOOKS: u32 = 3;

/// One that takes so long is enough.
const VERY_SLOW: Duration = Duration::from_secs(1);

/// After a slow one there is none for so many times its own duration, and for each second of it as much
/// again.
const PAUSE: u32 = 30;

/// So long may a time be past that a transaction of a node writes, when others see it: none takes longer.
const IN_FLIGHT: Duration = Duration::from_secs(60);

/// So far ahead near looks see: beyond it there may be as much that is dead, and no duty sleeps longer.
const AHEAD: Duration = Duration::from_secs(30);

/// So far others do, in milliseconds: a few thousand years.
const EVER: i64 = 1 << 47;

/// The beginning of one index.
#[derive(Debug, Default)]
pub(super) struct Head(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Up to here all was done.
    reached: Option<Timestamp>,
    /// How many full looks in a row were slow.
    slow: u32,
    /// No full look before.
    full_from: Option<Instant>,
}

/// A look that is being made, until it is dropped.
#[derive(Debug)]
pub(super) struct Look<'a> {
    head: &'a Head,
    /// It begins here, in milliseconds.
    pub(super) from: i64,
    /// It ends so far from now, in milliseconds.
    pub(super) ahead: i64,
    started: Instant,
}

impl Head {
    pub(super) fn look(&self) -> Look<'_> {
        let state = self.0.lock();
        let started = Instant::now();
        let is_near = state.full_from.is_some_and(|from| started < from);
        let near = state.reached.filter(|_| is_near);
        let (from, ahead) = match near {
            Some(reached) => (reached.0.saturating_sub(sql_millis(IN_FLIGHT)), sql_millis(AHEAD)),
            None => (i64::MIN, EVER),
        };
        Look { head: self, from, ahead, started }
    }

    /// All is done up to this time, durably.
    pub(super) fn reach(&self, at: Timestamp) {
        self.0.lock().reached = Some(at);
    }

    /// The same, as somebody else has noted it.
    pub(super) fn reach_at_least(&self, at: Timestamp) {
        let reached = &mut self.0.lock().reached;
        *reached = (*reached).max(Some(at));
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        if self.from == i64::MIN {
            let took = self.started.elapsed();
            let pause = took * PAUSE * (1 + u32::try_from(took.as_secs()).unwrap_or(u32::MAX - 1));
            let mut state = self.head.0.lock();
            state.slow = if took > SLOW { state.slow.saturating_add(1) } else { 0 };
            let waits = took > VERY_SLOW || state.slow >= SLOW_LOOKS;
            state.full_from = waits.then(|| Instant::now() + pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    async fn look(head: &Head, took: Duration) -> i64 {
        let look = head.look();
        tokio::time::advance(took).await;
        look.from
    }

    #[tokio::test(start_paused = true)]
    async fn looks_are_full_as_long_as_they_are_fast() {
        let head = Head::default();
        for _ in 0..3 {
            assert_eq!(look(&head, SLOW).await, i64::MIN);
            head.reach(NOW);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_slow_one_they_begin_shortly_before_what_was_reached_for_a_while() {
        let head = Head::default();
        let took = Duration::from_millis(100);
        for _ in 0..SLOW_LOOKS {
            look(&head, took).await;
        }
        assert_eq!(look(&head, took).await, i64::MIN, "nothing was reached");
        head.reach(NOW);
        assert_eq!(look(&head, took * PAUSE).await, NOW.0 - 60_000);
        assert_eq!(look(&head, Duration::ZERO).await, i64::MIN, "the pause is over");
        assert_eq!(look(&head, Duration::ZERO).await, i64::MIN, "it was fast again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_is_slow_now_and_then_changes_nothing_and_one_of_seconds_does() {
        let head = Head::default();
        head.reach(NOW);
        for took in [SLOW * 2, SLOW * 2, Duration::ZERO, SLOW * 2, VERY_SLOW * 2] {
            assert_eq!(look(&head, took).await, i64::MIN);
        }
        assert_eq!(look(&head, Duration::ZERO).await, NOW.0 - 60_000);
    }
}
