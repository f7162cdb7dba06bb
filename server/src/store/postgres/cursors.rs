//! Where claims begin: hints, so that a claim does not wade through what others have taken.
//!
//! A claimed row is dead, but the index keeps it until a vacuum, and as long as anybody holds an
//! old snapshot no vacuum may remove it. A claim that began at the head of a queue would read all
//! of them again each time. So a node remembers, for each queue and priority, the place behind
//! which jobs may be ready as far as it knows, and begins there.
//!
//! What it knows is: what it has committed itself ([`Cursors::note`]), what other nodes have told
//! it, and what a *look* found. Rows can commit behind a cursor (numbers are given before the commit)
//! and can come back behind it; what nobody has told is found by the next look. A queue that is
//! claimed from or waited for is looked at every [`LOOK_EVERY`], or less often if looks are slow:
//! they take up a tenth of the time at most.
//!
//! A push may commit after a claim was given its cursors and before it begins to look. Then the claim
//! sees those of its jobs whose priority was known. For the others not to be passed over by them, it
//! also looks at priorities that were gone through; only the first jobs of a new one may be late.
//!
//! A *full* look reads the true head of each priority, through all that is dead before it. Where a
//! snapshot has been held for long those are millions of rows, and more each second. So once full
//! looks have become slow they are nobody's to wait for: they are made beside the claims, on a
//! connection of their own, and claims rely on *near* ones. Those begin at the *floor* of a priority:
//! where the look before has found its head, though not beyond the horizon. Below the [`Horizon`]
//! nothing can appear any more but what comes back, which is told.

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

/// Full looks that take longer would be made more rarely than [`LOOK_EVERY`]: near ones are made
/// instead.
const SLOW: Duration = Duration::from_millis(100);

/// Slow queues that nobody claims from are not looked at after so long.
const USED_LATELY: Duration = Duration::from_secs(60);

/// Priorities of one queue that are known at a time. The others are found when these are empty.
pub(super) const PRIORITIES_MAX: usize = 32;

/// The cursors of this node.
#[derive(Debug, Default)]
pub(super) struct Cursors(Mutex<HashMap<QueueId, Queue>>);

#[derive(Debug, Default)]
struct Queue {
    /// By descending priority: jobs behind this place may be ready.
    places: BTreeMap<Reverse<i32>, i64>,
    /// Priorities that were gone through, up to this place: nobody has told of jobs there since.
    gone: BTreeMap<Reverse<i32>, i64>,
    /// There may be priorities below the known ones.
    is_partial: bool,
    /// Of known priorities: nobody has told of jobs at or before this place, and the last look found
    /// none.
    floors: BTreeMap<Reverse<i32>, i64>,
    /// The last look of each depth.
    full: Option<Look>,
    near: Option<Look>,
    used: Option<Instant>,
    /// What was noted since the claim that is under way began.
    noted: BTreeMap<Reverse<i32>, i64>,
    /// See [`Cursors::in_a_row`].
    in_a_row: usize,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    took: Duration,
}

/// How far a look goes back. See the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    Full,
    Near,
}

/// Queues to look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Looks {
    pub(super) full: Vec<QueueId>,
    pub(super) near: Vec<QueueId>,
}

impl Looks {
    pub(super) fn is_empty(&self) -> bool {
        self.full.is_empty() && self.near.is_empty()
    }

    pub(super) fn has(&self, queue: QueueId) -> bool {
        self.full.contains(&queue) || self.near.contains(&queue)
    }
}

/// Below this place nothing becomes ready any more that has not been ready before.
///
/// Places are numbers that a transaction takes before it commits. So of a number that had been given
/// out when one snapshot was taken, all is visible or gone once every transaction has ended that
/// began before a later snapshot was taken.
#[derive(Debug, Default)]
pub(super) struct Horizon {
    place: i64,
    /// The next one, and the first transaction that need not have ended for it, once that is known.
    next: Option<(i64, Option<i64>)>,
}

impl Horizon {
    /// A snapshot was taken when `last` had been given out: all transactions before `xmin` had ended,
    /// those from `xmax` on had not begun.
    pub(super) fn advance(&mut self, last: i64, xmin: i64, xmax: i64) {
        self.next = match self.next {
            Some((place, None)) => Some((place, Some(xmax))),
            Some((place, Some(first))) if xmin < first => Some((place, Some(first))),
            Some((place, Some(_))) => {
                self.place = place;
                Some((last, None))
            }
            None => Some((last, None)),
        };
    }

    pub(super) fn place(&self) -> i64 {
        self.place
    }
}

/// A place from which jobs may be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) priority: i32,
    /// Jobs behind this place.
    pub(super) after: i64,
}

impl Queue {
    /// Jobs behind this place may be ready.
    fn know(&mut self, priority: Reverse<i32>, after: i64) {
        self.gone.remove(&priority);
        let place = self.places.entry(priority).or_insert(after);
        *place = after.min(*place);
    }

    fn lower(&mut self, priority: i32, after: i64) {
        self.know(Reverse(priority), after);
        let noted = self.noted.entry(Reverse(priority)).or_insert(after);
        *noted = after.min(*noted);
        if self.places.len() > PRIORITIES_MAX {
            self.places.pop_last();
            self.is_partial = true;
        }
        let floor = self.floors.entry(Reverse(priority)).or_insert(after);
        *floor = after.min(*floor);
        if self.floors.len() > PRIORITIES_MAX {
            self.floors.pop_last();
        }
    }

    /// More than are known at a time.
    fn forget_gone(&mut self) {
        while self.gone.len() > PRIORITIES_MAX {
            self.gone.pop_last();
        }
    }

    fn is_slow(&self) -> bool {
        self.full.is_some_and(|look| look.took >= SLOW)
    }

    /// The look to wait for, if none of its depth was made for so long.
    fn look(&self, every: Duration) -> Option<Depth> {
        let (depth, last) = match self.is_slow() {
            true => (Depth::Near, self.near),
            false => (Depth::Full, self.full),
        };
        last.is_none_or(|look| look.is_over(every)).then_some(depth)
    }

    /// The look that is due before a claim.
    fn due(&self) -> Option<Depth> {
        match self.is_partial && self.places.is_empty() && !self.is_slow() {
            true => Some(Depth::Full),
            false => self.look(LOOK_EVERY),
        }
    }
}

impl Look {
    fn is_over(&self, every: Duration) -> bool {
        self.at.elapsed() >= every.max(self.took * LOOK_SHARE)
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

    /// A job has been handed over. It is at this place, and does not stand there.
    pub(super) fn pass(&self, queue: QueueId, priority: i32, place: i64) {
        let mut queues = self.0.lock();
        let queue = queues.entry(queue).or_default();
        if !queue.places.contains_key(&Reverse(priority)) {
            queue.gone.insert(Reverse(priority), place);
            queue.forget_gone();
        }
    }

    /// Nothing is known of what is ready in a queue any more: it will be looked at.
    pub(super) fn forget(&self, queue: QueueId) {
        let mut queues = self.0.lock();
        match queues.get_mut(&queue).filter(|queue| queue.is_slow()) {
            // What was passed over is not below its floors.
            Some(queue) => {
                queue.places.clear();
                queue.gone.clear();
                queue.near = None;
            }
            None => drop(queues.remove(&queue)),
        }
    }

    /// A claim begins: the cursors to begin with, by descending priority. None: nothing is ready.
    pub(super) fn begin(&self, queue: QueueId) -> Vec<Cursor> {
        let mut queues = self.0.lock();
        let queue = queues.entry(queue).or_default();
        queue.noted.clear();
        queue.used = Some(Instant::now());
        let Some((lowest, _)) = queue.places.last_key_value() else { return Vec::new() };
        let cursor = |(priority, after): (&Reverse<i32>, &i64)| Cursor {
            priority: priority.0,
            after: *after,
        };
        let mut cursors: Vec<Cursor> =
            queue.places.iter().chain(queue.gone.range(..lowest)).map(cursor).collect();
        cursors.sort_by_key(|cursor| Reverse(cursor.priority));
        cursors
    }

    /// How many jobs stood in a row, on average, where the last claim has been.
    pub(super) fn in_a_row(&self, queue: QueueId) -> usize {
        self.0.lock().get(&queue).map_or(1, |queue| queue.in_a_row)
    }

    /// A claim has found so many jobs in so many rows.
    pub(super) fn found(&self, queue: QueueId, jobs: usize, rows: usize) {
        if let Some(queue) = self.0.lock().get_mut(&queue)
            && rows > 0
        {
            queue.in_a_row = jobs / rows;
        }
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
        for cursor in reached {
            let priority = Reverse(cursor.priority);
            let before = queue.gone.remove(&priority).unwrap_or(cursor.after);
            let place = queue.places.entry(priority).or_insert(before);
            *place = cursor.after.max(*place);
        }
        let places = std::mem::take(&mut queue.places).into_iter();
        let (gone, left): (BTreeMap<_, _>, _) = places.partition(|(priority, _)| is_done(priority));
        queue.gone.extend(gone);
        queue.places = left;
        for (priority, after) in std::mem::take(&mut queue.noted) {
            queue.know(priority, after);
        }
        queue.forget_gone();
    }

    /// Which of these queues should be looked at before they are claimed from.
    pub(super) fn due(&self, queues: impl Iterator<Item = QueueId>) -> Looks {
        self.choose(queues, Queue::due)
    }

    /// Which of these queues, that seem empty, may be looked at.
    pub(super) fn allowed(&self, queues: impl Iterator<Item = QueueId>) -> Looks {
        self.choose(queues, |queue| queue.look(Duration::ZERO))
    }

    fn choose(
        &self,
        queues: impl Iterator<Item = QueueId>,
        rule: impl Fn(&Queue) -> Option<Depth>,
    ) -> Looks {
        let mut known = self.0.lock();
        let mut looks = Looks::default();
        for id in queues {
            match rule(known.entry(id).or_default()) {
                Some(Depth::Full) => looks.full.push(id),
                Some(Depth::Near) => looks.near.push(id),
                None => {}
            }
        }
        looks
    }

    /// Which queues should be looked at in full beside the claims: those in use whose looks are slow.
    pub(super) fn due_beside(&self, waited: &[QueueId]) -> Vec<QueueId> {
        let queues = self.0.lock();
        let is_due = |(id, queue): &(&QueueId, &Queue)| {
            let is_used = queue.used.is_some_and(|used| used.elapsed() < USED_LATELY);
            queue.is_slow()
                && (is_used || waited.contains(id))
                && queue.full.is_some_and(|look| look.is_over(LOOK_EVERY))
        };
        queues.iter().filter(is_due).map(|(id, _)| *id).collect()
    }

    /// Where near looks begin: queues, priorities and places, side by side.
    pub(super) fn floors(&self, queues: &[QueueId]) -> (Vec<QueueId>, Vec<i32>, Vec<i64>) {
        let known = self.0.lock();
        let mut floors = (Vec::new(), Vec::new(), Vec::new());
        for id in queues {
            for (priority, place) in known.get(id).into_iter().flat_map(|queue| &queue.floors) {
                floors.0.push(*id);
                floors.1.push(priority.0);
                floors.2.push(*place);
            }
        }
        floors
    }

    /// A look at `queues` found these heads, when `horizon` was known before.
    pub(super) fn looked(
        &self,
        depth: Depth,
        queues: &[QueueId],
        heads: &[(QueueId, i32, i64)],
        horizon: i64,
        took: Duration,
    ) {
        let mut known = self.0.lock();
        let mut found: HashMap<QueueId, BTreeMap<Reverse<i32>, i64>> = HashMap::new();
        for (id, priority, place) in heads {
            found.entry(*id).or_default().insert(Reverse(*priority), place - 1);
        }
        for id in queues {
            let queue = known.entry(*id).or_default();
            let found = found.remove(id).unwrap_or_default();
            let is_blind = mutants::is(Mutant::CursorWithoutFullLook) && queue.full.is_some();
            for (priority, after) in found.iter().filter(|_| !is_blind) {
                queue.lower(priority.0, *after);
            }
            let is_whole = depth == Depth::Near || found.len() < PRIORITIES_MAX;
            for (priority, floor) in &mut queue.floors {
                let nothing = is_whole.then_some(i64::MAX);
                if let Some(head) = found.get(priority).copied().or(nothing) {
                    *floor = horizon.min(head).max(*floor);
                }
            }
            let look = Some(Look { at: Instant::now(), took });
            match depth {
                Depth::Near => queue.near = look,
                Depth::Full => {
                    queue.full = look;
                    queue.is_partial = found.len() >= PRIORITIES_MAX;
                }
            }
        }
    }

    /// Looks took so long that they were given up.
    pub(super) fn gave_up(&self, looks: &Looks, took: Duration) {
        let mut known = self.0.lock();
        let look = Some(Look { at: Instant::now(), took: took.max(SLOW) });
        for id in &looks.full {
            known.entry(*id).or_default().full = look;
        }
        for id in &looks.near {
            known.entry(*id).or_default().near = look;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: QueueId = 7;

    const HORIZON: i64 = 1000;

    fn looked(cursors: &Cursors, depth: Depth, heads: &[(QueueId, i32, i64)], took: Duration) {
        cursors.looked(depth, &[QUEUE], heads, HORIZON, took);
    }

    fn known() -> Cursors {
        let cursors = Cursors::default();
        looked(&cursors, Depth::Full, &[(QUEUE, 0, 10), (QUEUE, 5, 20)], Duration::ZERO);
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
        assert_eq!(cursors.begin(QUEUE), [cursor(5, 25), cursor(0, 11)]);
    }

    #[test]
    fn what_is_exhausted_is_forgotten() {
        let cursors = known();
        cursors.begin(QUEUE);
        cursors.end(QUEUE, &[cursor(5, 25)], true);
        assert_eq!(cursors.begin(QUEUE), []);
        cursors.note(QUEUE, 0, 40);
        assert_eq!(cursors.begin(QUEUE), [cursor(5, 25), cursor(0, 39)], "what was found there");
        cursors.end(QUEUE, &[], true);
        cursors.note(QUEUE, 5, 50);
        assert_eq!(cursors.begin(QUEUE), [cursor(5, 49)], "the other one is lower");
    }

    #[test]
    fn what_was_handed_over_has_been_gone_through() {
        let cursors = known();
        cursors.pass(QUEUE, 9, 30);
        cursors.pass(QUEUE, 5, 31);
        cursors.pass(QUEUE, -1, 32);
        assert_eq!(cursors.begin(QUEUE), [cursor(9, 30), cursor(5, 19), cursor(0, 9)]);
    }

    #[test]
    fn of_priorities_that_were_gone_through_the_highest_are_remembered() {
        let cursors = known();
        for priority in 0..40 {
            cursors.note(QUEUE, priority, 30);
            cursors.begin(QUEUE);
            cursors.end(QUEUE, &[], true);
        }
        cursors.note(QUEUE, -1, 30);
        let begun = cursors.begin(QUEUE);
        assert_eq!((begun.len(), begun[0].priority), (PRIORITIES_MAX + 1, 39));
        assert_eq!(begun[PRIORITIES_MAX], cursor(-1, 29));
    }

    #[test]
    fn what_is_noted_while_a_claim_is_under_way_is_not_passed_over() {
        let cursors = known();
        cursors.begin(QUEUE);
        cursors.note(QUEUE, 0, 12);
        cursors.note(QUEUE, 9, 50);
        cursors.end(QUEUE, &[cursor(0, 30)], false);
        assert_eq!(cursors.begin(QUEUE), [cursor(9, 49), cursor(5, 19), cursor(0, 11)]);
    }

    #[test]
    fn many_priorities_are_known_in_part_and_the_rest_is_looked_for() {
        let cursors = Cursors::default();
        let heads: Vec<_> = (0..40).map(|priority| (QUEUE, priority, 1)).collect();
        looked(&cursors, Depth::Full, &heads, Duration::ZERO);
        let begun = cursors.begin(QUEUE);
        assert_eq!((begun.len(), begun[0].priority), (PRIORITIES_MAX, 39));
        cursors.end(QUEUE, &[], true);
        assert_eq!(cursors.due([QUEUE].into_iter()).full, [QUEUE]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_is_looked_at_every_second() {
        let cursors = known();
        let due = || cursors.due([QUEUE].into_iter());
        assert!(due().is_empty());
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(due(), Looks { full: vec![QUEUE], near: vec![] });
    }

    #[tokio::test(start_paused = true)]
    async fn slow_looks_are_made_beside_the_claims_which_look_near() {
        let cursors = known();
        let due = || cursors.due([QUEUE].into_iter());
        cursors.begin(QUEUE);
        looked(&cursors, Depth::Full, &[(QUEUE, 0, 30)], Duration::from_secs(1));
        assert_eq!(due(), Looks { full: vec![], near: vec![QUEUE] });
        looked(&cursors, Depth::Near, &[], Duration::from_millis(200));
        tokio::time::advance(LOOK_EVERY).await;
        assert!(due().is_empty(), "a tenth of the time at most");
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(due().near, [QUEUE]);
        assert!(cursors.due_beside(&[]).is_empty());
        tokio::time::advance(Duration::from_secs(8)).await;
        assert_eq!(cursors.due_beside(&[]), [QUEUE]);
        looked(&cursors, Depth::Full, &[], Duration::ZERO);
        assert!(cursors.due_beside(&[]).is_empty());
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(due().full, [QUEUE], "they are fast again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_was_given_up_is_slow() {
        let cursors = Cursors::default();
        let full = cursors.due([QUEUE].into_iter());
        assert_eq!(full.full, [QUEUE]);
        cursors.gave_up(&full, Duration::from_secs(5));
        assert_eq!(cursors.due([QUEUE].into_iter()).near, [QUEUE]);
        tokio::time::advance(Duration::from_secs(50)).await;
        assert!(cursors.due_beside(&[]).is_empty(), "nobody claims from it");
        assert_eq!(cursors.due_beside(&[QUEUE]), [QUEUE]);
    }

    #[test]
    fn a_floor_rises_to_the_head_that_was_found_and_not_beyond_the_horizon() {
        let cursors = known();
        let floors = || cursors.floors(&[QUEUE]);
        assert_eq!(floors(), (vec![QUEUE; 2], vec![5, 0], vec![19, 9]));
        looked(&cursors, Depth::Near, &[(QUEUE, 0, 70)], Duration::ZERO);
        assert_eq!(floors().2, [HORIZON, 69]);
        cursors.note(QUEUE, 5, 40);
        assert_eq!(floors().2, [39, 69], "it came back");
    }

    #[test]
    fn a_number_is_below_the_horizon_when_all_have_ended_who_may_have_taken_it() {
        let mut horizon = Horizon::default();
        for (last, xmin, xmax) in [(100, 5, 9), (200, 7, 12), (300, 11, 15)] {
            horizon.advance(last, xmin, xmax);
            assert_eq!(horizon.place(), 0);
        }
        horizon.advance(400, 12, 20);
        assert_eq!(horizon.place(), 100);
    }
}
