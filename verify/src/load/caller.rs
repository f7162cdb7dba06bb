//! One client of the run: asks, and writes down what came of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use batonq_client::{Job, Subscription};
use parking_lot::Mutex;

use super::answer::{Answer, Failure, outcome};
use super::jobs::Spec;
use super::run::Run;
use super::way::{Leased, Made, Token, Way};
use crate::history::{How, Outcome, What};
use crate::record::Pen;

/// How long a try to open a way that failed is waited after.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A client that asks one address, or whoever it finds.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) pen: Pen,
    pub(super) way: Way,
    /// Leases of its session, by job and delivery, that it has not ended itself.
    held: Mutex<BTreeSet<(u64, u32)>>,
}

/// Where a caller goes, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The node, from 1; 0: any.
    pub(super) node: u8,
    pub(super) address: Address,
}

/// An address of one transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(String),
    Http(String),
}

/// A lease that somebody had, and what is needed to use it.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) job: u64,
    pub(super) delivery: u32,
    pub(super) token: Token,
    /// By what it is known that it is lost; `None`: that is not known by itself.
    watched: Option<Arc<Job>>,
}

impl From<&Leased> for Held {
    fn from(leased: &Leased) -> Self {
        let Leased { job, delivery, token, watched, .. } = leased;
        let (token, watched) = (token.clone(), watched.clone());
        Self { job: *job, delivery: *delivery, token, watched }
    }
}

impl Caller {
    /// Goes to a place; fails if nobody is there.
    pub(super) async fn at(run: &Run, place: &Place, worker: &str) -> Answer<Self> {
        let token = run.targets.token.as_deref();
        let way = match &place.address {
            Address::Tcp(url) => Way::tcp(url, token, worker).await?,
            Address::Http(address) => Way::http(address.clone(), run.targets.token.clone()),
        };
        Ok(Self { pen: run.recorder.pen(place.node), way, held: Mutex::default() })
    }

    /// Goes to a place as soon as somebody is there.
    ///
    /// # Cancel safety
    ///
    /// Nobody was let in.
    pub(super) async fn at_last(run: &Run, place: &Place, worker: &str) -> Self {
        loop {
            match Self::at(run, place, worker).await {
                Ok(caller) => return caller,
                Err(_) => tokio::time::sleep(AGAIN_AFTER).await,
            }
        }
    }

    /// Pushes jobs of one queue; a flow if they have places in one. Answer `i` is that of job `i`.
    pub(super) async fn push(&self, run: &Run, jobs: &[Spec]) -> Vec<Answer<Made>> {
        let Some(first) = jobs.first() else { return Vec::new() };
        let queue = run.queue(first.kind);
        let open = self.pen.begin(jobs.iter().map(|job| pushed_as(job, None)));
        let pushed = match first.place {
            Some(_) => self.way.push_flow(queue, jobs).await,
            None => self.way.push(queue, jobs).await,
        };
        let answers = each(pushed, jobs.len());
        let calls = jobs.iter().zip(&answers);
        open.answered(calls.map(|(job, answer)| (pushed_as(job, answer.ok()), outcome(answer))));
        answers
    }

    /// Leases jobs.
    pub(super) async fn pull(
        &self,
        (number, queue): (u16, &str),
        count: u32,
        wait: Duration,
        lease: Option<Duration>,
    ) -> Answer<Vec<Leased>> {
        let start_ns = self.pen.now_ns();
        let pulled = self.way.pull((number, queue), count, wait, lease).await;
        match &pulled {
            Ok(jobs) if !jobs.is_empty() => self.note_leases(start_ns, jobs),
            other => self.pen.call(start_ns, [(What::Look, outcome(other))]),
        }
        pulled
    }

    /// All jobs that have come to a subscriber; waits for a first one. Empty: there are no more.
    pub(super) async fn next(&self, subscription: &mut Subscription, queue: u16) -> Vec<Leased> {
        let jobs = subscription.next_batch().await.into_iter();
        let jobs: Vec<Leased> = jobs.map(|job| Leased::of(job, queue, None)).collect();
        self.note_leases(self.pen.now_ns(), &jobs);
        jobs
    }

    fn note_leases(&self, start_ns: u64, jobs: &[Leased]) {
        let lease = |leased: &Leased| What::Lease {
            job: leased.job,
            key: leased.key,
            queue: leased.queue,
            delivery: leased.delivery,
            attempt: leased.attempt,
            begins_ms: leased.begins_ms,
            until_ms: leased.until_ms,
            is_timed: leased.is_timed,
        };
        self.pen.call(start_ns, jobs.iter().map(|leased| (lease(leased), Outcome::Ok)));
        let of_session = jobs.iter().filter(|leased| !leased.is_timed);
        self.held.lock().extend(of_session.map(|leased| (leased.job, leased.delivery)));
    }

    /// Settles leases. Answer `i` is that of lease `i`.
    pub(super) async fn settle(&self, how: How, held: &[Held]) -> Vec<Answer<()>> {
        let is_lost = |held: &&Held| held.watched.as_ref().is_some_and(|job| job.is_lost());
        held.iter().filter(is_lost).for_each(|held| self.note_lost(held));
        let open = self.pen.begin(held.iter().map(|held| settled(held, how, 0)));
        let answers = match held {
            [] => return Vec::new(),
            [one] => vec![self.way.settle_one(how, one.job, &one.token).await],
            _ => {
                let tokens: Vec<Token> = held.iter().map(|held| held.token.clone()).collect();
                each(self.way.settle(how, &tokens).await, held.len())
            }
        };
        let calls = held.iter().zip(&answers);
        open.answered(calls.clone().map(|(held, answer)| (settled(held, how, 0), outcome(answer))));
        let mut of_session = self.held.lock();
        for (held, _) in calls.filter(|(_, answer)| !answer.is_err_and(Failure::may_repeat)) {
            of_session.remove(&(held.job, held.delivery));
        }
        answers
    }

    /// Leaves in good order: what its session holds is given back by that.
    pub(super) async fn leave(&self) {
        let held = std::mem::take(&mut *self.held.lock());
        let (how, until_ms) = (How::Release, 0);
        let given_back =
            held.into_iter().map(|(job, delivery)| What::Settle { job, delivery, how, until_ms });
        // There is no answer for each of them.
        let _open = self.pen.begin(given_back);
        self.way.close().await;
    }

    /// Extends a lease.
    pub(super) async fn extend(&self, held: &Held, lasts: Duration) -> Answer<()> {
        let open = self.pen.begin([settled(held, How::Extend, 0)]);
        let answer = self.way.extend(held.job, &held.token, lasts).await;
        let what = settled(held, How::Extend, answer.unwrap_or(0));
        open.answered([(what, outcome(&answer))]);
        answer.map(drop)
    }

    /// Tells how far a job is.
    pub(super) async fn progress(&self, held: &Held) -> Answer<()> {
        let what = settled(held, How::Progress, 0);
        let open = self.pen.begin([what]);
        let answer = self.way.progress(held.job, &held.token).await;
        open.answered([(what, outcome(&answer))]);
        answer
    }

    /// Notes that a lease is known to be lost, by who may try to use it all the same.
    pub(super) fn note_lost(&self, held: &Held) {
        let what = What::Lost { job: held.job, delivery: held.delivery };
        self.pen.call(self.pen.now_ns(), [(what, Outcome::Ok)]);
    }

    /// Asks for the end of a job.
    pub(super) async fn cancel(&self, job: u64, grace: Duration) -> Answer<()> {
        let what = What::Cancel { job };
        let open = self.pen.begin([what]);
        let answer = self.way.cancel(job, grace).await;
        open.answered([(what, outcome(&answer))]);
        answer
    }

    /// Stops a queue, or lets it go on.
    pub(super) async fn set_paused(&self, queue: &str, is_paused: bool) -> Answer<()> {
        let start_ns = self.pen.now_ns();
        let answer = self.way.set_paused(queue, is_paused).await;
        self.pen.call(start_ns, [(What::Look, outcome(&answer))]);
        answer
    }

    /// Looks whether anybody is there.
    pub(super) async fn look(&self) -> Answer<()> {
        let start_ns = self.pen.now_ns();
        let answer = self.way.look().await;
        self.pen.call(start_ns, [(What::Look, outcome(&answer))]);
        answer
    }
}

fn pushed_as(job: &Spec, made: Option<Made>) -> What {
    What::Push {
        key: job.key,
        queue: job.kind.number(),
        job: made.map_or(0, |made| made.job),
        run_at_ms: job.run_at_ms,
        waits: job.waits(),
        repeated: made.is_some_and(|made| made.is_repeated),
    }
}

fn settled(held: &Held, how: How, until_ms: i64) -> What {
    What::Settle { job: held.job, delivery: held.delivery, how, until_ms }
}

/// What became of each, if all failed together.
fn each<T>(answers: Answer<Vec<Answer<T>>>, count: usize) -> Vec<Answer<T>> {
    let failed = match answers {
        Ok(answers) if answers.len() == count => return answers,
        Ok(_) => Failure::Unknown,
        Err(failure) => failure,
    };
    std::iter::repeat_with(|| Err(failed)).take(count).collect()
}
