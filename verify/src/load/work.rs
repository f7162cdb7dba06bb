//! Clients that work on jobs, well and badly.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::answer::{Answer, Failure};
use super::caller::{Caller, Held, Place};
use super::jobs::{LARGE, QUEUES, QueueKind};
use super::profile::{Behaviour, SPREAD_FROM};
use super::run::{Old, Run};
use super::way::{Leased, Way};
use crate::history::How;

/// Jobs that a subscriber holds at once, and all of them together: what they hold at a node goes
/// round again when it is lost.
const CREDIT_MAX: u32 = 400;
const CREDIT_OF_ALL: u32 = 1600;
/// Jobs in one pull.
const PULL_MAX: u32 = 60;
/// How long a pull waits for a first job.
const PULL_WAIT: Duration = Duration::from_millis(150);
/// Between two tries of the same call.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// A settlement that is not answered so often is tried through another node.
const SETTLE_TRIES_HERE: u32 = 2;
/// Jobs that a worker takes its time for at once.
const SLOW_MAX: usize = 16;
/// A worker that gets no answer so often in a row goes elsewhere.
const FAILURES_MAX: u32 = 3;
/// How long a worker may take to leave in good order.
const LEAVE_MAX: Duration = Duration::from_secs(3);
/// Of a hundred leases that ended otherwise than by an ack, so many are used again later.
const KEPT_PERCENT: u32 = 20;

/// What a worker does with one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Ack,
    AckAlone,
    Fail,
    Reject,
    Release,
    Progress,
    Extend,
    Elsewhere,
    Twice,
    Slow,
    Leak,
}

/// Works on jobs that come by themselves until the run is over. On three nodes and more the first
/// ones stay where they are, one for each large queue at each node. Of the others every second one
/// comes and goes.
pub(super) async fn subscribe(run: Arc<Run>, number: u32) {
    let kind = LARGE[number as usize % LARGE.len()];
    let credit = CREDIT_MAX.min(CREDIT_OF_ALL / run.profile.subscribers.max(1));
    let mut worker = Worker::new(&run, number, false);
    let (node, nodes) = (number as usize / LARGE.len(), run.targets.nodes.len());
    if nodes >= SPREAD_FROM && node < nodes {
        worker.stay_at(node);
    }
    while !run.over.is_cancelled() {
        let Some(caller) = worker.arrive("subscriber").await else { return };
        let shift = match number % 2 {
            1 if worker.places.len() > 1 => {
                Duration::from_millis(worker.dice.random_range(3_000..12_000))
            }
            _ => Duration::MAX,
        };
        worker.shift(&caller, (kind, credit), shift).await;
        worker.leave(&caller).await;
        worker.turn();
    }
}

/// Works on jobs that it asks for, of one queue after the other, until the run is over.
pub(super) async fn pull(run: Arc<Run>, number: u32) {
    let mut worker = Worker::new(&run, number + 1000, number % 2 == 1);
    let mut kinds = QUEUES.into_iter().cycle().skip(number as usize);
    while !run.over.is_cancelled() {
        let Some(caller) = worker.arrive("puller").await else { return };
        let mut failures = 0;
        while !run.over.is_cancelled() && failures < FAILURES_MAX {
            let Some(kind) = kinds.next() else { return };
            match worker.pull_once(&caller, kind).await {
                Ok(()) => failures = 0,
                Err(_) => {
                    failures += 1;
                    sleep(AGAIN_AFTER).await;
                }
            }
        }
        worker.leave(&caller).await;
        worker.turn();
    }
}

/// Someone who works.
pub(super) struct Worker<'a> {
    run: &'a Run,
    pub(super) dice: StdRng,
    places: Vec<Place>,
    at: usize,
    /// What it takes its time for.
    slow: JoinSet<()>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(run: &'a Run, number: u32, is_http: bool) -> Self {
        let mut places = run.places(is_http);
        if places.is_empty() || !is_http {
            places = run.places(false);
            places.push(run.anywhere());
        }
        let at = number as usize % places.len();
        let dice = StdRng::seed_from_u64(!run.profile.seed.wrapping_add(number.into()));
        Self { run, dice, places, at, slow: JoinSet::new() }
    }

    /// Knows no other place from now on.
    fn stay_at(&mut self, place: usize) {
        self.places = vec![self.places.swap_remove(place)];
        self.at = 0;
    }

    pub(super) fn turn(&mut self) {
        self.at = (self.at + 1) % self.places.len();
    }

    /// Goes to where somebody is; `None`: the run is over.
    pub(super) async fn arrive(&mut self, name: &str) -> Option<Arc<Caller>> {
        while !self.run.over.is_cancelled() {
            let place = &self.places[self.at];
            if let Ok(caller) = Caller::at(self.run, place, name).await {
                return Some(Arc::new(caller));
            }
            self.turn();
            sleep(AGAIN_AFTER).await;
        }
        None
    }

    async fn leave(&mut self, caller: &Caller) {
        let leaving = async {
            while self.slow.join_next().await.is_some() {}
            caller.leave().await;
        };
        // What it holds then is missed by the node, as with those that vanish.
        timeout(LEAVE_MAX, leaving).await.ok();
        self.slow.abort_all();
    }

    /// Works on the jobs of one queue for a time, and holds at most so many at once.
    pub(super) async fn shift(
        &mut self,
        caller: &Arc<Caller>,
        (kind, credit): (QueueKind, u32),
        lasts: Duration,
    ) {
        let Way::Tcp(client) = &caller.way else { return };
        let Ok(mut subscription) = client.subscribe(self.run.queue(kind), credit).await else {
            return sleep(AGAIN_AFTER).await;
        };
        let ends = Instant::now().checked_add(lasts);
        let over = self.run.over.clone();
        while ends.is_none_or(|ends| Instant::now() < ends) {
            let next = caller.next(&mut subscription, kind.number());
            let next = timeout(Duration::from_secs(1), next);
            match over.run_until_cancelled(next).await {
                Some(Ok(jobs)) if jobs.is_empty() => break,
                Some(Ok(jobs)) => self.work(caller, jobs).await,
                Some(Err(_)) => {}
                None => break,
            }
        }
        // What came last goes round again with the connection.
        subscription.close().await.ok();
    }

    pub(super) async fn pull_once(&mut self, caller: &Arc<Caller>, kind: QueueKind) -> Answer<()> {
        let is_timed = matches!(caller.way, Way::Http(_)) || self.dice.random_bool(0.5);
        let lease = is_timed.then(|| Duration::from_millis(self.dice.random_range(1000..4000)));
        let count = self.dice.random_range(1..=PULL_MAX);
        let queue = (kind.number(), self.run.queue(kind));
        let jobs = caller.pull(queue, count, PULL_WAIT, lease).await?;
        if !jobs.is_empty() {
            self.work(caller, jobs).await;
        }
        Ok(())
    }

    fn fate(&mut self, job: &Leased) -> Fate {
        let Behaviour { fail, reject, release, progress, extend, elsewhere, twice, slow, leak } =
            self.run.profile.behaviour;
        let timed = |permille| if job.is_timed { permille } else { 0 };
        let mut left = self.dice.random_range(0..1000);
        for (fate, permille) in [
            (Fate::Fail, fail),
            (Fate::Reject, reject),
            (Fate::Release, release),
            (Fate::Progress, progress),
            (Fate::Extend, timed(extend)),
            (Fate::Elsewhere, elsewhere),
            (Fate::Twice, twice),
            (Fate::Slow, slow),
            (Fate::Leak, timed(leak)),
            (Fate::AckAlone, self.run.profile.singles_permille),
        ] {
            if left < permille {
                return fate;
            }
            left -= permille;
        }
        Fate::Ack
    }

    /// Does with each job what is its fate.
    pub(super) async fn work(&mut self, caller: &Arc<Caller>, jobs: Vec<Leased>) {
        let mut fates: BTreeMap<Fate, Vec<Leased>> = BTreeMap::new();
        for job in jobs {
            let fate = self.fate(&job);
            fates.entry(fate).or_default().push(job);
        }
        for (fate, jobs) in fates {
            let held: Vec<Held> = jobs.iter().map(Held::from).collect();
            match fate {
                Fate::Ack => self.settle(caller, How::Ack, held).await,
                Fate::Fail => self.settle(caller, How::Fail, held).await,
                Fate::Reject => self.settle(caller, How::Reject, held).await,
                Fate::Release => self.settle(caller, How::Release, held).await,
                Fate::Slow => jobs.into_iter().for_each(|job| self.take_time(caller, job)),
                Fate::Leak => jobs.iter().for_each(|job| self.leak(job)),
                Fate::Twice => {
                    self.settle(caller, How::Ack, held.clone()).await;
                    self.settle(caller, How::Ack, held).await;
                }
                _ => self.work_alone(caller, fate, held).await,
            }
        }
    }

    /// What is done job by job.
    async fn work_alone(&mut self, caller: &Arc<Caller>, fate: Fate, held: Vec<Held>) {
        for held in held {
            let mut through = Arc::clone(caller);
            // Whatever the answer is: the ack says whether the lease is still held.
            match fate {
                Fate::Progress => drop(caller.progress(&held).await),
                Fate::Extend => drop(caller.extend(&held, Duration::from_secs(3)).await),
                Fate::Elsewhere => {
                    through = self.run.someone(&mut self.dice).unwrap_or(through);
                }
                _ => {}
            }
            self.settle(&through, How::Ack, vec![held]).await;
        }
    }

    /// Settles, again and again while nobody knows whether it is done. Who lives and gives up keeps
    /// the jobs of its session from all others.
    async fn settle(&mut self, caller: &Arc<Caller>, how: How, mut held: Vec<Held>) {
        let mut through = Arc::clone(caller);
        for tries in 1_u32.. {
            let answers = through.settle(how, &held).await;
            let (again, done): (Vec<_>, Vec<_>) =
                held.into_iter().zip(answers).partition(|(_, answer)| may_repeat(answer));
            if how != How::Ack {
                self.keep(done.into_iter().filter(|(_, answer)| answer.is_ok()), how);
            }
            held = again.into_iter().map(|(held, _)| held).collect();
            if held.is_empty() || self.run.over.is_cancelled() {
                return;
            }
            sleep(AGAIN_AFTER).await;
            if tries >= SETTLE_TRIES_HERE {
                through = self.run.someone(&mut self.dice).unwrap_or(through);
            }
        }
    }

    /// Remembers leases that are over.
    fn keep(&mut self, done: impl Iterator<Item = (Held, Answer<()>)>, how: How) {
        for (held, _) in done {
            if self.dice.random_ratio(KEPT_PERCENT, 100) {
                let due = Instant::now() + Duration::from_millis(self.dice.random_range(0..2000));
                self.run.keep_old(Old { held, ended_by: Some(how), due });
            }
        }
    }

    /// Nobody settles it, until somebody does after its time.
    fn leak(&mut self, job: &Leased) {
        let lasts = u64::try_from(job.until_ms - job.begins_ms).unwrap_or(0);
        let after = Duration::from_millis(lasts + self.dice.random_range(500..2000));
        let old = Old { held: job.into(), ended_by: None, due: Instant::now() + after };
        self.run.keep_old(old);
    }

    /// Works on a job for a while, unless the lease is lost.
    fn take_time(&mut self, caller: &Arc<Caller>, job: Leased) {
        while self.slow.try_join_next().is_some() {}
        let lasts = match self.slow.len() < SLOW_MAX {
            true => Duration::from_millis(self.dice.random_range(100..2000)),
            false => Duration::ZERO,
        };
        let caller = Arc::clone(caller);
        self.slow.spawn(async move {
            let held = [Held::from(&job)];
            if let Some(watched) = &job.watched
                && timeout(lasts, watched.lost()).await.is_ok()
            {
                return caller.note_lost(&held[0]);
            }
            if job.watched.is_none() {
                sleep(lasts).await;
            }
            loop {
                let answers = caller.settle(How::Ack, &held).await;
                if !answers.iter().any(may_repeat) {
                    return;
                }
                sleep(AGAIN_AFTER).await;
            }
        });
    }
}

fn may_repeat(answer: &Answer<()>) -> bool {
    answer.is_err_and(Failure::may_repeat)
}
