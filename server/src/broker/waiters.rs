//! Those who wait for jobs of a queue, and jobs that are handed to them as they are pushed.
//!
//! A job that is pushed while somebody waits need not stand in line first: the push itself leases
//! it. That saves the place in line and the claim, half of what a job costs the store.
//!
//! # What is known of a line
//!
//! What makes jobs ready here (a push that handed nothing over, a retry, a schedule) *rings* for the
//! queue, with their number. So does what other nodes have *told*; but those jobs they claim as well,
//! and of most nothing is left when they are told of. Where nobody knows a number (a look has found
//! something, limits have changed, a gate may have opened) it is a *hint*. The line counts all.
//!
//! A claim gets what stands first. If it *comes short*, by getting less than it asked for, it has
//! seen all that the line had heard of when the claim began: what is ready now was heard of since.
//! A claim that got all that it asked for, or is content with less, has shown nothing: jobs that no node
//! has told of yet may have stood before those that are known. So a claim asks for more than is known, if
//! it may.
//!
//! # When
//!
//! A line is *clear* if all that is ready in it, as far as this node knows, is about to be taken:
//! there is no hint that nobody has seen to; the claims under way ask for as many jobs as have
//! become ready here, each for those that were heard of before it began; and if there is more that
//! was told, some claim is under way. While it waits for its batch a claim has not begun. Only where
//! the line is clear are jobs handed over; where it is, nobody else needs to claim.
//!
//! ```text
//!              claims under way ask for all that is known; or one came short, and
//!              nothing was heard of since it began
//!      open ──────────────────────────────────────────────────────▶ clear: pushes hand over
//!       ▲                                                             │
//!       └─────────────────────────────────────────────────────────────┘
//!              a ring beyond what claims ask for, a hint; or a claim failed, was given up, or
//!              got all that it asked for, and others do not make up for it
//! ```
//!
//! So order is kept as well as by claims: nothing that became ready here is passed over but what is
//! being claimed, and who gets jobs both ways at once puts them in order. What became ready
//! elsewhere may be passed over as long as claims go on, and until it is told: it is found within a
//! second, as for claims.
//!
//! # Who
//!
//! A waiter takes a *seat*, with as much credit as it has work for. Pushes take the credit of those
//! first who have waited longest; of their own jobs that are not delayed, those first that a claim
//! would take first. The store has the last word: it leases nothing while the queue is paused or has
//! limits.
//!
//! # Who is woken
//!
//! A ring wakes as many as there are jobs that no claim asks for, a hint as many as it is worth.
//! The line remembers what the bell was rung for, so nobody has to listen while they claim. Whoever
//! is awake where the line is open claims, or passes it on: without credit, or when they go. If a
//! claim fails, one other is woken to try; if that fails too, the next look wakes them.
//!
//! # When somebody goes away in between
//!
//! Jobs that are handed to a seat whose waiter has gone are released, as those of a claim that
//! nobody waits for. If nobody knows whether the push was committed, nobody is given its jobs, and
//! the store takes their leases back as soon as it can.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use super::bells::{Bell, Bells};
use super::pull::Given;
use super::{Broker, Pull};
use crate::job::{NewJob, QueueName, When};
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

#[derive(Debug)]
struct Line {
    heard: Heard,
    /// What of it claims that came short have seen.
    seen: Heard,
    claims: Claims,
    /// The last claim failed.
    is_failing: bool,
    seats: VecDeque<Seat>,
    /// Those who watch it: it is forgotten with the last one.
    watchers: usize,
}

/// What a line has heard of, up to some moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Heard {
    /// That have become ready here.
    jobs: usize,
    /// Jobs, by other nodes.
    told: usize,
    hints: u64,
}

/// The claims of a line that are under way, by the moment of their beginning.
#[derive(Debug, Default)]
struct Claims {
    begun: BTreeMap<u64, Batch>,
    /// Those that wait for their batch.
    waiting: Batch,
    /// The number that those in `waiting` have.
    next: u64,
}

/// Claims that begin together.
#[derive(Debug, Default)]
struct Batch {
    /// What the line had heard of when they began.
    heard: Heard,
    claims: usize,
    /// How many jobs they ask for.
    asked: usize,
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
    /// So many jobs have become ready here.
    pub(super) fn ring(&self, queue: &QueueName, count: usize) {
        self.ring_for(queue, count, |heard| heard.jobs += count);
    }

    /// So many have become ready elsewhere, as another node tells.
    pub(super) fn ring_told(&self, queue: &QueueName, count: usize) {
        self.ring_for(queue, count, |heard| heard.told = heard.told.saturating_add(count));
    }

    fn ring_for(&self, queue: &QueueName, count: usize, note: impl FnOnce(&mut Heard)) {
        let need = self.in_line(queue, |line| {
            note(&mut line.heard);
            line.need()
        });
        match need {
            Some(Need::Claims(left)) => self.bells.ring(queue, count.min(left)),
            Some(Need::Look) => self.bells.ring(queue, count),
            Some(Need::Nothing) | None => {}
        }
    }

    /// Jobs may be ready, nobody knows how many: `count` of those who wait are woken to look.
    pub(super) fn hint(&self, queue: &QueueName, count: usize) {
        self.in_line(queue, |line| line.heard.hints += 1);
        self.bells.ring(queue, count);
    }

    /// Jobs may be ready: all who wait for the queue are woken.
    pub(super) fn hint_all(&self, queue: &QueueName) {
        self.hint(queue, usize::MAX);
    }

    /// Wakes everybody.
    pub(super) fn hint_everywhere(&self) {
        self.lines.lock().values_mut().for_each(|line| line.heard.hints += 1);
        self.bells.ring_everywhere();
    }

    /// The queues that somebody waits for.
    pub(super) fn waited_for(&self) -> Vec<QueueName> {
        self.bells.waited_for()
    }

    /// The claims that wait for their batch begin, those of these queues.
    pub(super) fn begin(&self, queues: &[QueueName]) {
        let mut lines = self.lines.lock();
        for queue in queues {
            if let Some(line) = lines.get_mut(queue) {
                line.claims.begin(line.heard);
            }
        }
    }

    /// A claim of what this credit allows, whatever is known. `None`: it allows nothing.
    fn claim<'a>(&'a self, queue: &'a QueueName, credit: &'a Semaphore) -> Option<Claiming<'a>> {
        self.claim_if(queue, credit, |_| Some(limits::BATCH_MAX))
    }

    /// The same if the line is open, of as much as it needs.
    fn claim_open<'a>(
        &'a self,
        queue: &'a QueueName,
        credit: &'a Semaphore,
    ) -> Option<Claiming<'a>> {
        self.claim_if(queue, credit, |line| match line.need() {
            Need::Nothing => None,
            // By one more it shows that there are no others. The rest is left to pushes.
            Need::Claims(count) => {
                Some(count.saturating_add(1).max(credit.available_permits().div_ceil(2)))
            }
            Need::Look => Some(limits::BATCH_MAX),
        })
    }

    fn claim_if<'a>(
        &'a self,
        queue: &'a QueueName,
        credit: &'a Semaphore,
        wanted: impl FnOnce(&Line) -> Option<usize>,
    ) -> Option<Claiming<'a>> {
        let (batch, count) = self.in_line(queue, |line| {
            let count = credit.forget_permits(wanted(line)?.min(limits::BATCH_MAX));
            (count > 0).then(|| (line.claims.add(count), count))
        })??;
        let end = End::Dropped;
        Some(Claiming { waiters: self, queue, batch, credit, count, used: 0, end })
    }

    fn is_clear(&self, queue: &QueueName) -> bool {
        self.in_line(queue, |line| line.need()) == Some(Need::Nothing)
    }

    /// Waits until the line is open.
    ///
    /// # Cancel safety
    ///
    /// A ring that reached a dropped future is passed on.
    async fn opened(&self, queue: &QueueName, bell: &Bell<QueueName>) {
        loop {
            let mut rung = pin!(bell.rung());
            // Enlist before looking, or a ring in between would be missed.
            rung.as_mut().enable();
            if !self.is_clear(queue) {
                return;
            }
            rung.await;
        }
    }

    /// Wakes another one in place of somebody who was woken and does not claim.
    fn pass_on(&self, queue: &QueueName) {
        if self.in_line(queue, |line| line.wants_another()) == Some(true) {
            self.bells.ring(queue, 1);
        }
    }

    fn in_line<T>(&self, queue: &QueueName, work: impl FnOnce(&mut Line) -> T) -> Option<T> {
        self.lines.lock().get_mut(queue).map(work)
    }

    /// Who gets which of these jobs. The credit for them is taken.
    pub(super) fn assign(&self, jobs: &[NewJob]) -> Handover {
        let mut handover = Handover::default();
        if self.seats.load(Ordering::Relaxed) == 0 {
            return handover;
        }
        let mut lines = self.lines.lock();
        let mut by_queue: Vec<(&QueueName, Vec<usize>)> = Vec::new();
        for (place, job) in jobs.iter().enumerate().filter(|(_, job)| job.when == When::Now) {
            // Mostly it is the same again.
            match by_queue.iter_mut().rev().find(|(queue, _)| *queue == &job.queue) {
                Some((_, places)) => places.push(place),
                None => by_queue.push((&job.queue, vec![place])),
            }
        }
        for (queue, mut places) in by_queue {
            let Some(line) = lines.get_mut(queue) else { continue };
            if !line.hands_over(jobs, &places) {
                continue;
            }
            places.sort_by_key(|place| Reverse(jobs[*place].priority));
            self.seats.fetch_sub(line.assign(jobs, &places, &mut handover), Ordering::Relaxed);
        }
        handover
    }
}

/// What a line needs that nobody does yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// It is clear.
    Nothing,
    /// Claims of so many jobs.
    Claims(usize),
    /// A claim of as many as may be: nobody knows what is ready.
    Look,
}

impl Default for Line {
    /// A line of which nothing is known.
    fn default() -> Self {
        Self {
            heard: Heard { hints: 1, ..Heard::default() },
            seen: Heard::default(),
            claims: Claims::default(),
            is_failing: false,
            seats: VecDeque::new(),
            watchers: 0,
        }
    }
}

impl Line {
    fn need(&self) -> Need {
        if self.heard.hints > self.seen.hints {
            return Need::Look;
        }
        let told = self.heard.told - self.seen.told;
        match self.claims.leave(self.seen.jobs, self.heard.jobs) {
            // Who claims claims again, until they come short.
            0 if told == 0 || !self.claims.is_empty() => Need::Nothing,
            count => Need::Claims(count.saturating_add(told)),
        }
    }

    /// Beside claims it is all of a push or nothing. Else one of them might claim the rest, and
    /// give it to its waiter before the push hands over what comes first.
    fn hands_over(&self, jobs: &[NewJob], places: &[usize]) -> bool {
        if self.need() != Need::Nothing {
            return false;
        }
        let credit = |seat: &Seat| seat.credit.available_permits().min(limits::BATCH_MAX);
        let bytes = |place: &usize| jobs[*place].payload.bytes.len();
        self.claims.is_empty()
            || places.len() <= self.seats.iter().map(credit).sum()
                && places.iter().map(bytes).sum::<usize>() <= limits::ANSWER_BYTES_MAX
    }

    fn wants_another(&self) -> bool {
        self.need() != Need::Nothing && !self.is_failing
    }

    /// A claim of this batch is over. The answer: whether another one is to be woken for it.
    fn end(&mut self, batch: u64, count: usize, end: End) -> bool {
        let heard = self.claims.remove(batch, count).unwrap_or(self.seen);
        match end {
            End::Short => {
                self.seen.jobs = self.seen.jobs.max(heard.jobs);
                self.seen.told = self.seen.told.max(heard.told);
                self.seen.hints = self.seen.hints.max(heard.hints);
                self.is_failing = false;
                false
            }
            // Who has claimed it goes on, or passes it on.
            End::Full => {
                self.is_failing = false;
                false
            }
            End::Dropped => self.wants_another(),
            End::Failed => {
                let wants_another = self.wants_another();
                self.is_failing = true;
                wants_another
            }
        }
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

impl Claims {
    fn is_empty(&self) -> bool {
        self.waiting.claims == 0 && self.begun.is_empty()
    }

    /// The answer: the number of the batch that the claim will begin with.
    fn add(&mut self, count: usize) -> u64 {
        self.waiting.claims += 1;
        self.waiting.asked += count;
        self.next
    }

    fn begin(&mut self, heard: Heard) {
        if self.waiting.claims > 0 {
            let batch = Batch { heard, ..std::mem::take(&mut self.waiting) };
            self.begun.insert(self.next, batch);
            self.next += 1;
        }
    }

    /// What had been heard of when it began, if it did.
    fn remove(&mut self, number: u64, count: usize) -> Option<Heard> {
        if number == self.next {
            self.waiting.take(count);
            return None;
        }
        let batch = self.begun.get_mut(&number)?;
        let heard = batch.heard;
        batch.take(count);
        if batch.claims == 0 {
            self.begun.remove(&number);
        }
        Some(heard)
    }

    /// How many jobs of those heard of from `seen` to `heard` no claim asks for: none for those
    /// that were heard of after it began.
    fn leave(&self, seen: usize, heard: usize) -> usize {
        let (mut left, mut until) = (0, seen);
        for batch in self.begun.values() {
            let before = batch.heard.jobs.max(until);
            left = (left + (before - until)).saturating_sub(batch.asked);
            until = before;
        }
        (left + (heard - until)).saturating_sub(self.waiting.asked)
    }
}

impl Batch {
    fn take(&mut self, count: usize) {
        self.claims -= 1;
        self.asked -= count;
    }
}

/// A claim under way. It is over when this is dropped; before, [say](Claiming::end) how it ended.
#[derive(Debug)]
pub(super) struct Claiming<'a> {
    waiters: &'a Waiters,
    queue: &'a QueueName,
    batch: u64,
    credit: &'a Semaphore,
    count: usize,
    used: usize,
    end: End,
}

#[derive(Debug, Clone, Copy)]
enum End {
    /// Nobody knows what became of it.
    Dropped,
    Failed,
    /// It got less than it asked for.
    Short,
    /// It got all that it asked for, or all that fits into an answer; or there may be more.
    Full,
}

impl Claiming<'_> {
    /// How many jobs it asks for.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn fail(&mut self) {
        self.end = End::Failed;
    }

    /// So many jobs are given to who waits: the credit for the others comes back.
    pub(super) fn uses(&mut self, count: usize) {
        self.used = count;
    }

    /// It got these jobs.
    pub(super) fn end(&mut self, given: &Given) {
        let Given { jobs, has_more } = given;
        let bytes: usize = jobs.iter().map(|job| job.payload.bytes.len()).sum();
        // The largest job is a third of an answer: below half of it none was left out.
        let has_room = jobs.len() < self.count && bytes < limits::ANSWER_BYTES_MAX / 2;
        self.end = match has_room && !has_more {
            true => End::Short,
            false => End::Full,
        };
    }
}

impl Drop for Claiming<'_> {
    fn drop(&mut self) {
        let end = |line: &mut Line| {
            self.credit.add_permits(self.count.saturating_sub(self.used));
            line.end(self.batch, self.count, self.end)
        };
        if self.waiters.in_line(self.queue, end) == Some(true) {
            self.waiters.bells.ring(self.queue, 1);
        }
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
    bell: Bell<QueueName>,
    seat: Option<u64>,
    jobs: (mpsc::UnboundedSender<Vec<LeasedJob>>, mpsc::UnboundedReceiver<Vec<LeasedJob>>),
}

impl Broker {
    /// Begins to wait for jobs of a queue.
    pub(super) fn wait_for(&self, queue: &QueueName) -> Waiter {
        let waiters = &self.0.core.waiters;
        waiters.lines.lock().entry(queue.clone()).or_default().watchers += 1;
        let (broker, queue) = (self.clone(), queue.clone());
        let bell = waiters.bells.bell(&queue);
        Waiter { broker, queue, bell, seat: None, jobs: mpsc::unbounded_channel() }
    }
}

impl Waiter {
    /// A claim of what this credit allows, whatever is known. `None`: it allows nothing.
    pub(super) fn claim<'a>(&'a self, credit: &'a Semaphore) -> Option<Claiming<'a>> {
        self.waiters().claim(&self.queue, credit)
    }

    /// The same if the line is open, of as much as it needs.
    pub(super) fn claim_open<'a>(&'a self, credit: &'a Semaphore) -> Option<Claiming<'a>> {
        self.waiters().claim_open(&self.queue, credit)
    }

    /// To be called by who does not claim for want of credit.
    pub(super) fn pass_on(&self) {
        self.waiters().pass_on(&self.queue);
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
            enough: pull.count,
            bytes_max: limits::ANSWER_BYTES_MAX,
            worker: pull.worker.clone(),
            hold: pull.hold,
        };
        let seat = Seat { number, claim, credit: Arc::clone(credit), jobs: self.jobs.0.clone() };
        waiters.in_line(&self.queue, |line| line.seats.push_back(seat));
        waiters.seats.fetch_add(1, Ordering::Relaxed);
        self.seat = Some(number);
    }

    /// Nothing more is handed over. What was, until now, can still be received.
    pub(super) fn stand_up(&mut self) {
        let Some(number) = self.seat.take() else { return };
        let was_taken = self.waiters().in_line(&self.queue, |line| {
            let before = line.seats.len();
            line.seats.retain(|seat| seat.number != number);
            line.seats.len() < before
        });
        if was_taken == Some(true) {
            self.waiters().seats.fetch_sub(1, Ordering::Relaxed);
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

    /// The same, or `None` once the line is open and there is credit.
    ///
    /// # Cancel safety
    ///
    /// As for [`Waiter::handed_over`].
    pub(super) async fn handed_over_or_open(
        &mut self,
        credit: &Semaphore,
    ) -> Option<Vec<LeasedJob>> {
        // What took the credit hands something over: that wakes it.
        let has_credit = credit.available_permits() > 0;
        tokio::select! {
            biased;
            jobs = self.jobs.1.recv() => jobs,
            () = self.broker.0.core.waiters.opened(&self.queue, &self.bell), if has_credit => None,
        }
    }

    /// What is handed over, if there is something already.
    pub(super) fn try_handed_over(&mut self) -> Option<Vec<LeasedJob>> {
        self.jobs.1.try_recv().ok()
    }

    fn waiters(&self) -> &Waiters {
        &self.broker.0.core.waiters
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
        self.pass_on();
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
            enough: once,
            bytes_max: 100,
            worker: WorkerName::parse("w").unwrap(),
            hold: Hold::Session(SessionId(number)),
        };
        let jobs = mpsc::unbounded_channel().0;
        Seat { number, claim, credit: Arc::new(Semaphore::new(credit)), jobs }
    }

    /// With a clear line.
    fn waiters(seats: Vec<Seat>) -> Waiters {
        let waiters = Waiters::default();
        waiters.seats.store(seats.len(), Ordering::Relaxed);
        let line = Line { heard: Heard::default(), seats: seats.into(), ..Line::default() };
        waiters.lines.lock().insert(queue(), line);
        waiters
    }

    fn is_clear(waiters: &Waiters) -> bool {
        waiters.is_clear(&queue())
    }

    /// How many a claim under way asks for.
    fn count(claiming: Option<&Claiming<'_>>) -> Option<usize> {
        claiming.map(Claiming::count)
    }

    fn come_short(mut claiming: Claiming<'_>) {
        claiming.end(&Given::default());
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
    fn beside_what_is_ready_nothing_is_handed_over() {
        let waiters = waiters(vec![seat(1, 9, 0)]);
        waiters.ring(&queue(), 1);
        assert_eq!(assigned(&waiters, &[job(1)]), []);
    }

    #[test]
    fn while_claims_take_all_that_is_ready_pushes_hand_over() {
        let (waiters, queue) = (waiters(vec![seat(1, 9, 0)]), queue());
        let credit = Semaphore::new(2);
        waiters.ring(&queue, 3);
        let _first = waiters.claim(&queue, &credit);
        waiters.begin(std::slice::from_ref(&queue));
        assert_eq!(assigned(&waiters, &[job(1)]), []);
        credit.add_permits(1);
        let _second = waiters.claim(&queue, &credit);
        assert_eq!(assigned(&waiters, &[job(1)]), [(session(1), 1)]);
    }

    #[test]
    fn a_claim_takes_what_was_heard_of_before_it_begins() {
        let (waiters, queue, credit) = (waiters(Vec::new()), queue(), Semaphore::new(9));
        let _claiming = waiters.claim(&queue, &credit);
        waiters.ring(&queue, 8);
        assert!(is_clear(&waiters), "it waits for its batch");
        waiters.begin(std::slice::from_ref(&queue));
        assert!(is_clear(&waiters));
        waiters.ring(&queue, 1);
        assert!(!is_clear(&waiters));
    }

    #[test]
    fn what_an_earlier_claim_leaves_a_later_one_may_take() {
        let (waiters, queue) = (waiters(Vec::new()), queue());
        let (some, more) = (Semaphore::new(2), Semaphore::new(4));
        waiters.ring(&queue, 3);
        let _first = waiters.claim(&queue, &some);
        waiters.begin(std::slice::from_ref(&queue));
        waiters.ring(&queue, 3);
        assert_eq!(waiters.in_line(&queue, |line| line.need()), Some(Need::Claims(4)));
        let _second = waiters.claim(&queue, &more);
        waiters.begin(std::slice::from_ref(&queue));
        assert!(is_clear(&waiters));
    }

    #[test]
    fn a_claim_that_came_short_has_seen_what_was_heard_of_before_it_began() {
        let (waiters, queue, credit) = (waiters(Vec::new()), queue(), Semaphore::new(1));
        waiters.ring(&queue, 5);
        waiters.hint(&queue, 1);
        let claiming = waiters.claim(&queue, &credit).unwrap();
        waiters.begin(std::slice::from_ref(&queue));
        waiters.ring(&queue, 2);
        come_short(claiming);
        assert_eq!(waiters.in_line(&queue, |line| line.need()), Some(Need::Claims(2)));
    }

    #[test]
    fn while_some_claim_is_under_way_what_other_nodes_tell_holds_nothing_up() {
        let (waiters, queue, credit) = (waiters(vec![seat(1, 9, 0)]), queue(), Semaphore::new(2));
        waiters.ring_told(&queue, 5);
        assert_eq!(assigned(&waiters, &[job(1)]), []);
        let claiming = waiters.claim_open(&queue, &credit).unwrap();
        waiters.begin(std::slice::from_ref(&queue));
        waiters.ring_told(&queue, 5);
        assert_eq!(assigned(&waiters, &[job(1)]), [(session(1), 1)]);
        come_short(claiming);
        assert_eq!(waiters.in_line(&queue, |line| line.need()), Some(Need::Claims(5)));
    }

    #[test]
    fn a_hint_is_seen_to_by_a_claim_that_began_later_and_came_short() {
        let (waiters, queue, credit) = (waiters(vec![seat(1, 9, 0)]), queue(), Semaphore::new(99));
        let early = waiters.claim(&queue, &credit).unwrap();
        waiters.begin(std::slice::from_ref(&queue));
        waiters.hint(&queue, 1);
        credit.add_permits(9);
        let late = waiters.claim_open(&queue, &credit).unwrap();
        waiters.begin(std::slice::from_ref(&queue));
        come_short(early);
        assert_eq!(assigned(&waiters, &[job(1)]), []);
        come_short(late);
        assert_eq!(assigned(&waiters, &[job(1)]), [(session(1), 1)]);
    }

    #[test]
    fn a_claim_that_got_all_it_asked_for_has_shown_nothing() {
        let (waiters, queue, credit) = (waiters(Vec::new()), queue(), Semaphore::new(0));
        waiters.ring(&queue, 1);
        credit.add_permits(1);
        let mut claiming = waiters.claim_open(&queue, &credit).unwrap();
        waiters.begin(std::slice::from_ref(&queue));
        claiming.end = End::Full;
        drop(claiming);
        assert!(!is_clear(&waiters), "it may have got what nobody has told of");
    }

    #[test]
    fn claims_ask_for_more_than_is_known_and_leave_credit_to_pushes() {
        let (waiters, queue, credit) = (waiters(Vec::new()), queue(), Semaphore::new(100));
        assert_eq!(count(waiters.claim_open(&queue, &credit).as_ref()), None, "it is clear");
        waiters.ring(&queue, 3);
        assert_eq!(count(waiters.claim_open(&queue, &credit).as_ref()), Some(50));
        waiters.ring(&queue, 57);
        assert_eq!(count(waiters.claim_open(&queue, &credit).as_ref()), Some(61));
        waiters.ring(&queue, 57);
        assert_eq!(count(waiters.claim_open(&queue, &credit).as_ref()), Some(100));
        waiters.hint(&queue, 1);
        assert_eq!(count(waiters.claim_open(&queue, &credit).as_ref()), Some(100));
        assert_eq!(credit.available_permits(), 100, "what was not used came back");
    }

    #[tokio::test]
    async fn if_a_claim_is_given_up_another_is_woken() {
        let (waiters, queue, credit) = (waiters(Vec::new()), queue(), Semaphore::new(9));
        let bell = waiters.bells.bell(&queue);
        waiters.ring(&queue, 2);
        let claiming = waiters.claim_open(&queue, &credit);
        let mut waiting = pin!(waiters.opened(&queue, &bell));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending(), "somebody claims already");
        drop(claiming);
        waiting.await;
    }

    #[tokio::test]
    async fn if_claims_fail_one_other_is_woken_to_try() {
        let (waiters, queue, credit) = (waiters(Vec::new()), queue(), Semaphore::new(9));
        let bell = waiters.bells.bell(&queue);
        for is_woken in [true, false] {
            waiters.ring(&queue, 2);
            let mut claiming = waiters.claim_open(&queue, &credit).unwrap();
            let mut waiting = pin!(waiters.opened(&queue, &bell));
            assert!(futures_util::poll!(waiting.as_mut()).is_pending());
            claiming.fail();
            drop(claiming);
            assert_eq!(futures_util::poll!(waiting.as_mut()).is_ready(), is_woken);
        }
    }

    #[tokio::test]
    async fn who_cannot_claim_wakes_another() {
        let (waiters, queue, credit) = (waiters(Vec::new()), queue(), Semaphore::new(2));
        let bell = waiters.bells.bell(&queue);
        waiters.ring(&queue, 2);
        let mut claiming = waiters.claim_open(&queue, &credit).unwrap();
        let mut waiting = pin!(waiters.opened(&queue, &bell));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        claiming.end = End::Full;
        drop(claiming);
        waiters.pass_on(&queue);
        waiting.await;
    }

    #[test]
    fn credit_that_was_not_used_comes_back() {
        let waiters = waiters(vec![seat(1, 5, 0)]);
        let credit = Arc::clone(&waiters.lines.lock()[&queue()].seats[0].credit);
        waiters.assign(&vec![job(1); 3]).hand_over(Vec::new());
        assert_eq!(credit.available_permits(), 5);
    }
}
