//! Those who wait for jobs of a queue, and jobs that are handed to them as they are pushed.
//!
//! A job that is pushed while somebody waits need not stand in line first: the push itself leases
//! it. That saves the place in line and the claim, half of what a job costs the store.
//!
//! # When
//!
//! A line is *clear* if nothing is ready in it as far as this node knows: somebody claimed and got
//! less than they asked for, and nothing was heard of the queue since. What makes a job ready
//! (a push that handed nothing over, a retry, a schedule, what other nodes tell, what a look finds)
//! *rings* for the queue, and that ends it. Only where the line is clear are jobs handed over. So
//! order is kept as well as by claims: nothing that this node knows of is passed over, and what
//! other nodes have not told yet is found within a second, as for claims.
//!
//! ```text
//!              a claim came back short, no ring since it began
//!      looking ─────────────────────────────────────────────▶ clear: pushes hand over
//!         ▲                                                     │
//!         └─────────────────────── a ring ──────────────────────┘
//! ```
//!
//! # Who
//!
//! A waiter takes a *seat*, with as much credit as it has work for. Pushes take the credit of those
//! first who have waited longest; of their own jobs those first that a claim would take first. The
//! store has the last word: it leases nothing while the queue is paused or has limits.
//!
//! # When somebody goes away in between
//!
//! Jobs that are handed to a seat whose waiter has gone are released, as those of a claim that
//! nobody waits for. If nobody knows whether the push was committed, nobody is given its jobs, and
//! the store takes their leases back as soon as it can.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use super::bells::{Bell, Bells};
use super::{Broker, Pull};
use crate::job::{NewJob, QueueName};
use crate::limits;
use crate::store::{Claim, LeasedJob};

/// The waiters of all queues.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    bells: Bells<QueueName>,
    lines: Mutex<HashMap<QueueName, Line>>,
    /// How many seats are taken.
    seats: AtomicUsize,
    /// The number of the next one.
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Line {
    /// Counts the rings.
    rings: u64,
    is_clear: bool,
    seats: VecDeque<Seat>,
    /// Those who watch it: it is forgotten with the last one.
    watchers: usize,
}

/// A place of somebody who waits.
#[derive(Debug)]
struct Seat {
    number: u64,
    claim: Claim,
    credit: Arc<Semaphore>,
    jobs: mpsc::UnboundedSender<Vec<LeasedJob>>,
}

/// Jobs of a push and who gets them.
#[derive(Debug, Default)]
pub(super) struct Handover {
    /// Of each job: the number of the claim that it goes to.
    pub(super) owners: Vec<Option<usize>>,
    /// At most one for each seat.
    pub(super) claims: Vec<Claim>,
    to: Vec<Receiver>,
}

#[derive(Debug)]
struct Receiver {
    count: usize,
    credit: Arc<Semaphore>,
    jobs: mpsc::UnboundedSender<Vec<LeasedJob>>,
}

impl Waiters {
    /// The bell of a queue.
    pub(super) fn bell(&self, queue: &QueueName) -> Bell<QueueName> {
        self.bells.bell(queue)
    }

    /// Jobs are ready: `count` of those who wait are woken to look.
    pub(super) fn ring(&self, queue: &QueueName, count: usize) {
        self.disturb(queue);
        self.bells.ring(queue, count);
    }

    /// Wakes all who wait for a queue.
    pub(super) fn ring_all(&self, queue: &QueueName) {
        self.disturb(queue);
        self.bells.ring_all(queue);
    }

    /// Wakes everybody.
    pub(super) fn ring_everywhere(&self) {
        self.lines.lock().values_mut().for_each(Line::disturb);
        self.bells.ring_everywhere();
    }

    /// The queues that somebody waits for.
    pub(super) fn waited_for(&self) -> Vec<QueueName> {
        self.bells.waited_for()
    }

    fn disturb(&self, queue: &QueueName) {
        if let Some(line) = self.lines.lock().get_mut(queue) {
            line.disturb();
        }
    }

    /// Who gets which of these jobs. The credit for them is taken.
    pub(super) fn assign(&self, jobs: &[NewJob]) -> Handover {
        let mut handover = Handover::default();
        if self.seats.load(Ordering::Relaxed) == 0 {
            return handover;
        }
        let mut lines = self.lines.lock();
        let mut by_queue: Vec<(&QueueName, Vec<usize>)> = Vec::new();
        for (place, job) in jobs.iter().enumerate() {
            // Mostly it is the same again.
            match by_queue.iter_mut().rev().find(|(queue, _)| *queue == &job.queue) {
                Some((_, places)) => places.push(place),
                None => by_queue.push((&job.queue, vec![place])),
            }
        }
        for (queue, mut places) in by_queue {
            let Some(line) = lines.get_mut(queue).filter(|line| line.is_clear) else { continue };
            places.sort_by_key(|place| Reverse(jobs[*place].priority));
            self.seats.fetch_sub(line.assign(jobs, &places, &mut handover), Ordering::Relaxed);
        }
        handover
    }
}

impl Line {
    fn disturb(&mut self) {
        self.rings += 1;
        self.is_clear = false;
    }

    /// Gives places to seats, as far as their credit goes. The answer: seats that are used up.
    fn assign(&mut self, jobs: &[NewJob], places: &[usize], handover: &mut Handover) -> usize {
        let mut left = places.iter().copied().peekable();
        let mut used_up = 0;
        for _ in 0..self.seats.len() {
            if left.peek().is_none() {
                break;
            }
            let Some(seat) = self.seats.pop_front() else { break };
            let room = seat.credit.available_permits().min(limits::BATCH_MAX);
            let (mut bytes, mut own) = (0, Vec::new());
            while own.len() < room
                && let Some(place) = left.next_if(|place| {
                    bytes += jobs[*place].payload.bytes.len();
                    bytes <= seat.claim.bytes_max || own.is_empty()
                })
            {
                own.push(place);
            }
            let count = seat.credit.forget_permits(own.len());
            if count > 0 {
                handover.owners.resize(jobs.len(), None);
                // Who took the rest of the credit meanwhile gets no less for it.
                for place in &own[..count] {
                    handover.owners[*place] = Some(handover.claims.len());
                }
                handover.claims.push(Claim { count, ..seat.claim.clone() });
                let (credit, jobs) = (Arc::clone(&seat.credit), seat.jobs.clone());
                handover.to.push(Receiver { count, credit, jobs });
            }
            match seat.is_once() && count > 0 {
                true => used_up += 1,
                false => self.seats.push_back(seat),
            }
        }
        used_up
    }
}

impl Seat {
    /// A pull is over with the first jobs that it gets.
    fn is_once(&self) -> bool {
        self.claim.count > 0
    }
}

impl Handover {
    pub(super) fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// Gives the jobs over, those of each claim. What could not be given over comes back, and the
    /// credit of what was not leased with it.
    pub(super) fn hand_over(self, jobs: Vec<Vec<LeasedJob>>) -> Vec<LeasedJob> {
        let mut left = Vec::new();
        let mut jobs = jobs.into_iter();
        for Receiver { count, credit, jobs: seat } in self.to {
            let own = jobs.next().unwrap_or_default();
            credit.add_permits(count.saturating_sub(own.len()));
            // Also an empty hand-over is told: a pull whose seat is used up goes on otherwise.
            if let Err(mpsc::error::SendError(own)) = seat.send(own) {
                left.extend(own);
            }
        }
        left
    }
}

/// Somebody who waits for jobs of a queue.
pub(super) struct Waiter {
    broker: Broker,
    queue: QueueName,
    seat: Option<u64>,
    jobs: (mpsc::UnboundedSender<Vec<LeasedJob>>, mpsc::UnboundedReceiver<Vec<LeasedJob>>),
}

impl Broker {
    /// Begins to wait for jobs of a queue. Enlist with the bell before looking, or a job that is
    /// pushed in between would be missed.
    pub(super) fn wait_for(&self, queue: &QueueName) -> (Waiter, Bell<QueueName>) {
        let waiters = &self.0.core.waiters;
        waiters.lines.lock().entry(queue.clone()).or_default().watchers += 1;
        let (broker, queue) = (self.clone(), queue.clone());
        let bell = waiters.bell(&queue);
        (Waiter { broker, queue, seat: None, jobs: mpsc::unbounded_channel() }, bell)
    }
}

impl Waiter {
    /// How often it rang for the queue, to be asked before a claim.
    pub(super) fn rings(&self) -> u64 {
        self.in_line(|line| line.rings)
    }

    /// Whether nothing is known to be ready.
    pub(super) fn is_clear(&self) -> bool {
        self.in_line(|line| line.is_clear)
    }

    /// A claim got less than it asked for, before which it had rung so often.
    pub(super) fn came_short(&self, rings: u64) {
        self.in_line(|line| line.is_clear |= line.rings == rings);
    }

    /// Jobs may be handed over from now on, against this credit. `pull.count` is 0 if that goes on
    /// until this is dropped; else it ends with the first ones.
    pub(super) fn sit(&mut self, pull: &Pull, credit: &Arc<Semaphore>) {
        let waiters = &self.broker.0.core.waiters;
        if self.seat.is_some() || !self.broker.store().hands_over() {
            return;
        }
        let number = waiters.next.fetch_add(1, Ordering::Relaxed);
        let claim = Claim {
            queue: pull.queue.clone(),
            count: pull.count,
            bytes_max: limits::ANSWER_BYTES_MAX,
            worker: pull.worker.clone(),
            hold: pull.hold,
        };
        let seat = Seat { number, claim, credit: Arc::clone(credit), jobs: self.jobs.0.clone() };
        self.in_line(|line| line.seats.push_back(seat));
        waiters.seats.fetch_add(1, Ordering::Relaxed);
        self.seat = Some(number);
    }

    /// Nothing more is handed over. What was, until now, can still be received.
    pub(super) fn stand_up(&mut self) {
        let Some(number) = self.seat.take() else { return };
        let is_taken = self.in_line(|line| {
            let before = line.seats.len();
            line.seats.retain(|seat| seat.number != number);
            line.seats.len() < before
        });
        if is_taken {
            self.broker.0.core.waiters.seats.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// What is handed over.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: what is not received is released when this is dropped.
    pub(super) async fn handed_over(&mut self) -> Vec<LeasedJob> {
        self.jobs.1.recv().await.expect("it holds a sender itself")
    }

    /// The same, if there is something already.
    pub(super) fn try_handed_over(&mut self) -> Option<Vec<LeasedJob>> {
        self.jobs.1.try_recv().ok()
    }

    fn in_line<T>(&self, work: impl FnOnce(&mut Line) -> T) -> T {
        let mut lines = self.broker.0.core.waiters.lines.lock();
        work(lines.entry(self.queue.clone()).or_default())
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.stand_up();
        self.jobs.1.close();
        let mut left = Vec::new();
        while let Some(jobs) = self.try_handed_over() {
            left.extend(jobs.into_iter().map(|job| job.lease));
        }
        self.broker.take_back(left);
        let mut lines = self.broker.0.core.waiters.lines.lock();
        if let Some(line) = lines.get_mut(&self.queue) {
            line.watchers -= 1;
            if line.watchers == 0 {
                lines.remove(&self.queue);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::job::{Payload, WorkerName};
    use crate::store::{Hold, SessionId};

    fn queue() -> QueueName {
        QueueName::parse("q").unwrap()
    }

    fn job(bytes: usize) -> NewJob {
        NewJob::new(queue(), Payload::new(Bytes::from(vec![b'1'; bytes])).unwrap())
    }

    /// A seat with so much credit; of a pull, if it is for so many at once.
    fn seat(number: u64, credit: usize, once: usize) -> Seat {
        let claim = Claim {
            queue: queue(),
            count: once,
            bytes_max: 100,
            worker: WorkerName::parse("w").unwrap(),
            hold: Hold::Session(SessionId(number)),
        };
        let jobs = mpsc::unbounded_channel().0;
        Seat { number, claim, credit: Arc::new(Semaphore::new(credit)), jobs }
    }

    fn waiters(seats: Vec<Seat>) -> Waiters {
        let waiters = Waiters::default();
        waiters.seats.store(seats.len(), Ordering::Relaxed);
        let line = Line { is_clear: true, seats: seats.into(), ..Line::default() };
        waiters.lines.lock().insert(queue(), line);
        waiters
    }

    /// Whose session gets how many.
    fn assigned(waiters: &Waiters, jobs: &[NewJob]) -> Vec<(Hold, usize)> {
        let handover = waiters.assign(jobs);
        handover.claims.iter().map(|claim| (claim.hold, claim.count)).collect()
    }

    fn session(number: u64) -> Hold {
        Hold::Session(SessionId(number))
    }

    #[test]
    fn jobs_go_to_those_who_have_waited_longest_as_far_as_their_credit_goes() {
        let waiters = waiters(vec![seat(1, 2, 0), seat(2, 9, 0)]);
        assert_eq!(assigned(&waiters, &vec![job(1); 3]), [(session(1), 2), (session(2), 1)]);
        assert_eq!(assigned(&waiters, &[job(1)]), [(session(2), 1)], "the first has no credit");
    }

    #[test]
    fn those_who_wait_take_turns() {
        let waiters = waiters(vec![seat(1, 9, 0), seat(2, 9, 0)]);
        let got: Vec<_> = (0..3).flat_map(|_| assigned(&waiters, &[job(1)])).collect();
        assert_eq!(got, [(session(1), 1), (session(2), 1), (session(1), 1)]);
    }

    #[test]
    fn a_pull_is_served_once() {
        let waiters = waiters(vec![seat(1, 3, 3)]);
        assert_eq!(assigned(&waiters, &[job(1)]), [(session(1), 1)]);
        assert_eq!(assigned(&waiters, &[job(1)]), []);
    }

    #[test]
    fn nobody_gets_more_bytes_than_fit_into_an_answer_but_one_job_always() {
        let waiters = waiters(vec![seat(1, 9, 0), seat(2, 9, 0)]);
        let jobs = [job(60), job(60), job(400)];
        assert_eq!(assigned(&waiters, &jobs), [(session(1), 1), (session(2), 1)]);
    }

    #[test]
    fn after_a_ring_nothing_is_handed_over() {
        let waiters = waiters(vec![seat(1, 9, 0)]);
        waiters.ring(&queue(), 1);
        assert_eq!(assigned(&waiters, &[job(1)]), []);
    }

    #[test]
    fn credit_that_was_not_used_comes_back() {
        let waiters = waiters(vec![seat(1, 5, 0)]);
        let credit = Arc::clone(&waiters.lines.lock()[&queue()].seats[0].credit);
        waiters.assign(&vec![job(1); 3]).hand_over(Vec::new());
        assert_eq!(credit.available_permits(), 5);
    }
}
