//! What the jobs of a run are like. All of it follows from the seed and a job's key.

use std::time::Duration;

use batonq_client::{Backoff, NewJob, OnFailure};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::history::{Rule, Waits};

/// What is special about the jobs of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueKind {
    /// Nothing. Their pushes can not be repeated: whether one whose answer was lost was done is
    /// left open. They take the shortest way through a broker.
    Bare,
    /// They can be pushed again.
    Plain,
    /// Priorities, delays, times to live, tags.
    Mixed,
    /// Few of the queue may be leased at once.
    Slots,
    /// Few of a key may be leased at once.
    Keyed,
    /// Few may be leased in a second.
    Rated,
    /// Some have the same unique key.
    Unique,
    /// They wait for each other.
    Flow,
    /// Their attempts may last a short time only.
    Timed,
    /// A schedule makes them.
    Cron,
}

/// The queues of a run; a queue's number is its place.
pub const QUEUES: [QueueKind; 10] = [
    QueueKind::Bare,
    QueueKind::Plain,
    QueueKind::Mixed,
    QueueKind::Slots,
    QueueKind::Keyed,
    QueueKind::Rated,
    QueueKind::Unique,
    QueueKind::Flow,
    QueueKind::Timed,
    QueueKind::Cron,
];

/// Those with so many jobs that workers subscribe to them.
pub(super) const LARGE: [QueueKind; 3] = [QueueKind::Bare, QueueKind::Plain, QueueKind::Mixed];

const SLOTS_MAX: u32 = 24;
const KEYED_MAX: u32 = 12;
const RATE: (u32, u64, u32) = (200, 1000, 40);
/// Jobs in one flow.
pub(super) const FLOW_JOBS: u32 = 4;
/// So many jobs in succession have the same unique key.
const SAME_UNIQUE: u64 = 3;

impl QueueKind {
    /// How the queue's name ends.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Plain => "plain",
            Self::Mixed => "mixed",
            Self::Slots => "slots",
            Self::Keyed => "keyed",
            Self::Rated => "rated",
            Self::Unique => "unique",
            Self::Flow => "flow",
            Self::Timed => "timed",
            Self::Cron => "cron",
        }
    }

    /// The queue's number.
    pub fn number(self) -> u16 {
        let place = QUEUES.iter().position(|kind| *kind == self);
        place.and_then(|place| u16::try_from(place).ok()).expect("each kind is in the list")
    }

    /// How many of a thousand jobs are of this kind, and how many of them come in one call at most.
    const fn share(self) -> (u32, u32) {
        match self {
            Self::Bare => (390, 1000),
            Self::Plain => (450, 1000),
            Self::Mixed => (60, 20),
            Self::Slots => (30, 20),
            Self::Unique | Self::Timed => (15, 10),
            Self::Keyed => (15, 15),
            Self::Rated => (10, 10),
            Self::Flow => (15, FLOW_JOBS),
            Self::Cron => (0, 1),
        }
    }

    /// What is set for the queue: nothing of the run is forgotten before it is over.
    pub(super) fn settings(self) -> Value {
        let mut settings = json!({
            "keep_completed_ms": 24 * 3600 * 1000_u64,
            "keep_completed_max": 100_000_000_u64,
            "keep_dead_ms": 24 * 3600 * 1000_u64,
            "keep_payload_ms": 24 * 3600 * 1000_u64,
        });
        match self {
            Self::Slots => settings["concurrency"] = json!(SLOTS_MAX),
            Self::Rated => {
                let (limit, per_ms, burst) = RATE;
                settings["rate"] = json!({ "limit": limit, "per_ms": per_ms, "burst": burst });
            }
            _ => {}
        }
        settings
    }

    /// The limit that its jobs must keep to, if there is one.
    pub(super) fn rule(self) -> Option<Rule> {
        let queue = self.number();
        match self {
            Self::Slots => Some(Rule::Concurrency { queue, max: SLOTS_MAX }),
            Self::Keyed => Some(Rule::Concurrency { queue, max: KEYED_MAX }),
            Self::Rated => {
                let (limit, per_ms, burst) = RATE;
                Some(Rule::Rate { queue, limit, per_ms, burst })
            }
            _ => None,
        }
    }
}

/// Which queue the next call is about, and how many jobs it brings: over many calls, each kind gets
/// its share of the jobs. `singles_permille` of all jobs come by calls of their own.
pub(super) fn next_part(dice: &mut StdRng, batch: u32, singles_permille: u32) -> (QueueKind, u32) {
    let part = |kind: QueueKind| f64::from(kind.share().1.min(batch).max(1));
    let single = f64::from(singles_permille.min(1000)) / 1000.0;
    // In so many calls of all the share of jobs in single calls is what it should be.
    let chance = |kind| match kind {
        QueueKind::Flow => 0.0,
        _ => single * part(kind) / (1.0 - single + single * part(kind)),
    };
    let jobs = |kind| chance(kind) + (1.0 - chance(kind)) * part(kind);
    let weight = |kind: QueueKind| f64::from(kind.share().0) / jobs(kind);
    let mut left = dice.random_range(0.0..QUEUES.into_iter().map(weight).sum());
    let kind = QUEUES.into_iter().find(|kind| {
        left -= weight(*kind);
        left < 0.0
    });
    let kind = kind.unwrap_or(QueueKind::Plain);
    match dice.random_bool(chance(kind)) {
        true => (kind, 1),
        false => (kind, kind.share().1.min(batch).max(1)),
    }
}

/// One job that is to be pushed, the same however often that is tried.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spec {
    pub(super) key: u64,
    pub(super) kind: QueueKind,
    /// Not before this time of the database, in any case; 0: at once.
    pub(super) run_at_ms: i64,
    when: When,
    priority: i32,
    ttl_ms: Option<u64>,
    max_attempts: Option<u32>,
    backoff: Option<Delays>,
    timeout_ms: Option<u64>,
    unique: Option<(String, Option<u64>)>,
    is_tagged: bool,
    /// Jobs that have been pushed before.
    needs: Vec<u64>,
    /// Whether it goes on if one of those has died.
    is_brave: bool,
    /// Its place in a flow, where each job waits for the one before.
    pub(super) place: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Now,
    AfterMs(u64),
    At,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delays {
    Exponential { base_ms: u64, max_ms: u64 },
    Fixed { delay_ms: u64 },
    List { first_ms: u64, second_ms: u64 },
}

impl Spec {
    /// The job of a key. `now_ms` is the database's time, or a little before it.
    pub(super) fn new(seed: u64, key: u64, kind: QueueKind, now_ms: i64) -> Self {
        let dice = &mut StdRng::seed_from_u64(seed ^ key.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let plain = Self {
            key,
            kind,
            run_at_ms: 0,
            when: When::Now,
            priority: 0,
            ttl_ms: None,
            max_attempts: None,
            backoff: Some(Delays::Fixed { delay_ms: dice.random_range(20..500) }),
            timeout_ms: None,
            unique: None,
            is_tagged: false,
            needs: Vec::new(),
            is_brave: false,
            place: None,
        };
        match kind {
            QueueKind::Bare => Self { backoff: None, ..plain },
            QueueKind::Mixed => plain.mixed(dice, now_ms),
            QueueKind::Unique => {
                let window_ms = dice.random_bool(0.2).then(|| dice.random_range(500..2000));
                Self { unique: Some(((key / SAME_UNIQUE).to_string(), window_ms)), ..plain }
            }
            QueueKind::Flow => Self { is_brave: dice.random_bool(0.5), ..plain },
            QueueKind::Timed => Self {
                timeout_ms: Some(dice.random_range(300..1500)),
                max_attempts: Some(dice.random_range(2..6)),
                ..plain
            },
            _ => Self { priority: dice.random_range(-1..2), ..plain },
        }
    }

    fn mixed(self, dice: &mut StdRng, now_ms: i64) -> Self {
        let delay_ms = dice.random_range(50..2000);
        let when = match dice.random_range(0..10) {
            0..4 => When::Now,
            4..7 => When::AfterMs(delay_ms),
            _ => When::At,
        };
        let run_at_ms =
            if when == When::Now { 0 } else { now_ms.saturating_add_unsigned(delay_ms) };
        Self {
            run_at_ms,
            when,
            priority: dice.random_range(-5..6),
            ttl_ms: dice.random_bool(0.1).then(|| delay_ms + dice.random_range(100..5000)),
            max_attempts: dice.random_bool(0.5).then(|| dice.random_range(1..8)),
            backoff: Some(match dice.random_range(0..3) {
                0 => Delays::Exponential { base_ms: dice.random_range(20..200), max_ms: 1500 },
                1 => Delays::Fixed { delay_ms: dice.random_range(0..800) },
                _ => Delays::List { first_ms: 0, second_ms: dice.random_range(100..900) },
            }),
            is_tagged: dice.random_bool(0.3),
            ..self
        }
    }

    /// It waits for another job.
    pub(super) fn after(mut self, job: u64) -> Self {
        self.needs.push(job);
        self
    }

    /// For what it waits before it is delivered.
    pub(super) fn waits(&self) -> Waits {
        let is_first = self.needs.is_empty() && self.place.unwrap_or(0) == 0;
        match self.ttl_ms {
            _ if !is_first => Waits::ForJobs,
            Some(ttl_ms) => Waits::AtMostMs(ttl_ms),
            None => Waits::ForWorkers,
        }
    }

    /// Whether its push may be repeated.
    pub(super) fn is_repeatable(&self) -> bool {
        self.kind != QueueKind::Bare
    }

    fn concurrency(&self) -> Option<(&'static str, u32)> {
        (self.kind == QueueKind::Keyed).then_some(("one", KEYED_MAX))
    }

    /// The job as the client takes it.
    pub(super) fn job(&self, queue: &str) -> NewJob {
        let ms = Duration::from_millis;
        let key = self.key.to_string();
        let mut job = NewJob::new(queue, Bytes::from(key.clone())).priority(self.priority);
        if self.is_repeatable() {
            job = job.idempotency_key(key);
        }
        job = match self.when {
            When::Now => job,
            When::AfterMs(delay_ms) => job.delay(ms(delay_ms)),
            When::At => job.run_at(std::time::UNIX_EPOCH + ms(self.run_at_ms.unsigned_abs())),
        };
        if let Some(ttl_ms) = self.ttl_ms {
            job = job.ttl(ms(ttl_ms));
        }
        if let Some(max_attempts) = self.max_attempts {
            job = job.max_attempts(max_attempts);
        }
        if let Some(delays) = self.backoff {
            job = job.backoff(delays.into());
        }
        if let Some(timeout_ms) = self.timeout_ms {
            job = job.timeout(ms(timeout_ms));
        }
        job = match &self.unique {
            Some((key, Some(window_ms))) => job.unique_for(key, ms(*window_ms)),
            Some((key, None)) => job.unique(key),
            None => job,
        };
        if self.is_tagged {
            job = job.tag("tagged");
        }
        if let Some((key, max)) = self.concurrency() {
            job = job.concurrency(key, max);
        }
        job = self.needs.iter().fold(job, |job, need| job.after(*need));
        if let Some(place @ 1..) = self.place {
            job = job.after_item(place - 1);
        }
        if self.is_brave { job.on_failure(OnFailure::Ignore) } else { job }
    }

    /// The job as HTTP takes it.
    pub(super) fn body(&self) -> Value {
        let mut body = json!({ "payload": self.key, "priority": self.priority });
        if self.is_repeatable() {
            body["idempotency_key"] = self.key.to_string().into();
        }
        match self.when {
            When::Now => {}
            When::AfterMs(delay_ms) => body["delay_ms"] = delay_ms.into(),
            When::At => {
                let at = jiff::Timestamp::from_millisecond(self.run_at_ms).unwrap_or_default();
                body["run_at"] = at.to_string().into();
            }
        }
        let numbers = [
            ("ttl_ms", self.ttl_ms),
            ("max_attempts", self.max_attempts.map(Into::into)),
            ("timeout_ms", self.timeout_ms),
        ];
        for (name, number) in numbers {
            if let Some(number) = number {
                body[name] = number.into();
            }
        }
        if let Some(delays) = self.backoff {
            body["backoff"] = delays.body();
        }
        if let Some((key, window_ms)) = &self.unique {
            body["unique"] = json!({ "key": key });
            if let Some(window_ms) = window_ms {
                body["unique"]["window_ms"] = (*window_ms).into();
            }
        }
        if self.is_tagged {
            body["tags"] = json!(["tagged"]);
        }
        if let Some((key, max)) = self.concurrency() {
            body["concurrency"] = json!({ "key": key, "max": max });
        }
        let mut needs: Vec<Value> = self.needs.iter().map(|need| json!(need)).collect();
        if let Some(place) = self.place {
            body["ref"] = place.to_string().into();
            needs.extend(place.checked_sub(1).map(|before| before.to_string().into()));
        }
        if !needs.is_empty() {
            body["depends_on"] = needs.into();
        }
        if self.is_brave {
            body["on_failure"] = "ignore".into();
        }
        body
    }
}

impl Delays {
    fn body(self) -> Value {
        match self {
            Self::Exponential { base_ms, max_ms } => {
                json!({ "type": "exponential", "base_ms": base_ms, "max_ms": max_ms })
            }
            Self::Fixed { delay_ms } => json!({ "type": "fixed", "delay_ms": delay_ms }),
            Self::List { first_ms, second_ms } => {
                json!({ "type": "list", "delays_ms": [first_ms, second_ms] })
            }
        }
    }
}

impl From<Delays> for Backoff {
    fn from(delays: Delays) -> Self {
        let ms = Duration::from_millis;
        match delays {
            Delays::Exponential { base_ms, max_ms } => {
                Self::exponential(ms(base_ms), ms(max_ms), 0.5)
            }
            Delays::Fixed { delay_ms } => Self::fixed(ms(delay_ms)),
            Delays::List { first_ms, second_ms } => Self::list([ms(first_ms), ms(second_ms)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_follows_from_its_key() {
        for key in 0..1000 {
            for kind in QUEUES {
                assert_eq!(Spec::new(1, key, kind, 5000), Spec::new(1, key, kind, 5000));
            }
        }
        let mixed = |key| Spec::new(1, key, QueueKind::Mixed, 5000);
        assert!((0..100).any(|key| mixed(key).when != mixed(key + 1).when));
    }

    #[test]
    fn kinds_get_their_shares_of_the_jobs() {
        let dice = &mut StdRng::seed_from_u64(7);
        let (mut jobs, mut singles, mut all) = ([0_u32; QUEUES.len()], 0, 0);
        while all < 1_000_000 {
            let (kind, count) = next_part(dice, 100, 20);
            jobs[usize::from(kind.number())] += count;
            singles += u32::from(count == 1);
            all += count;
        }
        for kind in QUEUES {
            let (is, should) = (jobs[usize::from(kind.number())], all / 1000 * kind.share().0);
            assert!(is.abs_diff(should) <= should / 5, "{kind:?}: {is} of {should}");
        }
        assert!(singles.abs_diff(all / 50) < all / 100, "{singles}");
    }

    #[test]
    fn shares_are_of_a_thousand() {
        assert_eq!(QUEUES.iter().map(|kind| kind.share().0).sum::<u32>(), 1000);
    }
}
