//! Where claims begin: hints, so that a claim does not wade through what others have taken.
//!
//! A claimed row is dead, but the index keeps it until a vacuum, and as long as anybody holds an
//! old snapshot no vacuum may remove it. A claim that began at the head of a queue would read all
//! of them again each time. So a node remembers, for each queue and priority, the place behind
//! which jobs may be ready as far as it knows, and begins there.
//!
//! What it knows is: what it has committed itself ([`Cursors::note`]), what other nodes have told
//! it, and what a *look* found, which reads the true head of each priority. Rows can commit behind
//! a cursor (numbers are given before the commit) and can come back behind it; what nobody has
//! told is found by the next look. A queue that is claimed from or waited for is looked at every
//! [`LOOK_EVERY`], or less often if looks are slow: they take up a tenth of the time at most.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::QueueId;
use crate::mutants::{self, Mutant};

/// What nobody has told is found this much later at most, as long as looks are fast.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A look may be repeated after so many times its own duration.
const LOOK_SHARE: u32 = 10;

/// Priorities of one queue that are known at a time. The others are found when these are empty.
pub(super) const PRIORITIES_MAX: usize = 32;

/// The cursors of this node.
#[derive(Debug, Default)]
pub(super) struct Cursors(Mutex<HashMap<QueueId, Queue>>);

#[derive(Debug, Default)]
struct Queue {
    /// By descending priority: jobs behind this place may be ready.
    places: BTreeMap<Reverse<i32>, i64>,
    /// There may be priorities below the known ones.
    is_partial: bool,
    looked: Option<Look>,
    /// What was noted since the claim that is under way began.
    noted: BTreeMap<Reverse<i32>, i64>,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    took: Duration,
}

/// A place from which jobs may be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) priority: i32,
    /// Jobs behind this place.
    pub(super) after: i64,
}

impl Queue {
    fn lower(&mut self, priority: i32, after: i64) {
        let place = self.places.entry(Reverse(priority)).or_insert(after);
        *place = after.min(*place);
        let noted = self.noted.entry(Reverse(priority)).or_insert(after);
        *noted = after.min(*noted);
        if self.places.len() > PRIORITIES_MAX {
            self.places.pop_last();
            self.is_partial = true;
        }
    }

    fn is_look_allowed(&self) -> bool {
        self.looked.is_none_or(|look| look.at.elapsed() >= look.took * LOOK_SHARE)
    }

    fn is_look_due(&self) -> bool {
        let is_old = self.looked.is_none_or(|look| look.at.elapsed() >= LOOK_EVERY);
        (is_old && self.is_look_allowed()) || (self.is_partial && self.places.is_empty())
    }
}

impl Cursors {
    /// A job is ready at this place. Unknown queues are looked at anyway when they are first
    /// claimed from.
    pub(super) fn note(&self, queue: QueueId, priority: i32, place: i64) {
        if let Some(queue) = self.0.lock().get_mut(&queue) {
            queue.lower(priority, place - 1);
        }
    }

    /// Nothing is known of a queue any more: it will be looked at.
    pub(super) fn forget(&self, queue: QueueId) {
        self.0.lock().remove(&queue);
    }

    /// A claim begins: the cursors to begin with, by descending priority.
    pub(super) fn begin(&self, queue: QueueId) -> Vec<Cursor> {
        let mut queues = self.0.lock();
        let queue = queues.entry(queue).or_default();
        queue.noted.clear();
        let cursor = |(priority, after): (&Reverse<i32>, &i64)| Cursor {
            priority: priority.0,
            after: *after,
        };
        queue.places.iter().map(cursor).collect()
    }

    /// A claim has gone through the queue from its cursors on up to the places in `reached`, and,
    /// if `is_exhausted`, found nothing behind them.
    pub(super) fn end(&self, queue: QueueId, reached: &[Cursor], is_exhausted: bool) {
        let mut queues = self.0.lock();
        let Some(queue) = queues.get_mut(&queue) else { return };
        let lowest = reached.last().map(|cursor| Reverse(cursor.priority));
        let is_done = |priority: &Reverse<i32>| match lowest {
            _ if is_exhausted => true,
            Some(lowest) => *priority < lowest,
            None => false,
        };
        queue.places.retain(|priority, _| !is_done(priority));
        for cursor in reached {
            if let Some(place) = queue.places.get_mut(&Reverse(cursor.priority)) {
                *place = cursor.after.max(*place);
            }
        }
        for (priority, after) in std::mem::take(&mut queue.noted) {
            let place = queue.places.entry(priority).or_insert(after);
            *place = after.min(*place);
        }
    }

    /// Which of these queues should be looked at before they are claimed from.
    pub(super) fn due(&self, queues: impl Iterator<Item = QueueId>) -> Vec<QueueId> {
        let mut known = self.0.lock();
        queues.filter(|queue| known.entry(*queue).or_default().is_look_due()).collect()
    }

    /// Whether a queue that seems empty may be looked at.
    pub(super) fn is_look_allowed(&self, queue: QueueId) -> bool {
        self.0.lock().get(&queue).is_none_or(Queue::is_look_allowed)
    }

    /// A look at `queues` found these heads.
    pub(super) fn looked(&self, queues: &[QueueId], heads: &[(QueueId, i32, i64)], took: Duration) {
        let mut known = self.0.lock();
        let mut count: HashMap<QueueId, usize> = HashMap::new();
        for (id, priority, place) in heads {
            *count.entry(*id).or_default() += 1;
            let queue = known.entry(*id).or_default();
            if mutants::is(Mutant::CursorWithoutFullLook) && queue.looked.is_some() {
                continue;
            }
            queue.lower(*priority, place - 1);
        }
        for id in queues {
            let queue = known.entry(*id).or_default();
            queue.looked = Some(Look { at: Instant::now(), took });
            queue.is_partial = count.get(id).is_some_and(|count| *count >= PRIORITIES_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: QueueId = 7;

    fn known() -> Cursors {
        let cursors = Cursors::default();
        cursors.looked(&[QUEUE], &[(QUEUE, 0, 10), (QUEUE, 5, 20)], Duration::ZERO);
        cursors
    }

    fn cursor(priority: i32, after: i64) -> Cursor {
        Cursor { priority, after }
    }

    #[test]
    fn claims_begin_with_the_highest_priority_before_its_head() {
        assert_eq!(known().begin(QUEUE), [cursor(5, 19), cursor(0, 9)]);
    }

    #[test]
    fn a_claim_that_was_served_goes_on_where_it_ended() {
        let cursors = known();
        cursors.begin(QUEUE);
        cursors.end(QUEUE, &[cursor(5, 25), cursor(0, 11)], false);
        assert_eq!(cursors.begin(QUEUE), [cursor(0, 11)], "the higher one was gone through");
    }

    #[test]
    fn what_is_exhausted_is_forgotten() {
        let cursors = known();
        cursors.begin(QUEUE);
        cursors.end(QUEUE, &[cursor(5, 25)], true);
        assert_eq!(cursors.begin(QUEUE), []);
        cursors.note(QUEUE, 0, 40);
        assert_eq!(cursors.begin(QUEUE), [cursor(0, 39)]);
    }

    #[test]
    fn what_is_noted_while_a_claim_is_under_way_is_not_passed_over() {
        let cursors = known();
        cursors.begin(QUEUE);
        cursors.note(QUEUE, 0, 12);
        cursors.note(QUEUE, 9, 50);
        cursors.end(QUEUE, &[cursor(0, 30)], false);
        assert_eq!(cursors.begin(QUEUE), [cursor(9, 49), cursor(0, 11)]);
    }

    #[test]
    fn many_priorities_are_known_in_part_and_the_rest_is_looked_for() {
        let cursors = Cursors::default();
        let heads: Vec<_> = (0..40).map(|priority| (QUEUE, priority, 1)).collect();
        cursors.looked(&[QUEUE], &heads, Duration::ZERO);
        let begun = cursors.begin(QUEUE);
        assert_eq!((begun.len(), begun[0].priority), (PRIORITIES_MAX, 39));
        cursors.end(QUEUE, &[], true);
        assert_eq!(cursors.due([QUEUE].into_iter()), [QUEUE]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_is_looked_at_every_second_and_slow_looks_are_rarer() {
        let cursors = known();
        let due = || cursors.due([QUEUE].into_iter());
        assert!(due().is_empty());
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(due(), [QUEUE]);
        cursors.looked(&[QUEUE], &[], Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(due().is_empty());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(due(), [QUEUE]);
    }
}
