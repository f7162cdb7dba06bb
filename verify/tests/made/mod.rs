//! Makes up histories of a broker that keeps its promises, with all that clients can live to see:
//! calls that nobody answers, jobs that come again, leases that end in every way.

use std::collections::BTreeMap;

use batonq_protocol::ErrorCode;
use batonq_verify::history::{
    Call, Duty, End, Fault, How, JobEnd, LeaseEnd, Outcome, Record, Rule, Slot, State, Waits, What,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// What to make up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) jobs: u64,
    /// How likely it is that something does not go as it mostly does, from 0 to 1.
    pub(crate) trouble: f64,
}

/// The queue with a limit of leases at once, that with a rate, and that of the schedule.
const LIMITED: u16 = 2;
const RATED: u16 = 3;
const SCHEDULED: u16 = 9;

const LEASES_MAX: usize = 4;
const RATE: u32 = 500;
const BURST: u32 = 20;
const EVERY_MS: i64 = 1000;
const MAX_ATTEMPTS: u32 = 3;
const CRASHES_MAX: u32 = 5;

/// The database's time when the clock of the calls was at 0.
const OFFSET_MS: i64 = 1_800_000_000_000;
/// The first push.
const BEGIN_MS: i64 = OFFSET_MS + 1000;

const OK: Outcome = Outcome::Ok;
const UNKNOWN: Outcome = Outcome::Unknown;
const LOST: Outcome = Outcome::Rejected(ErrorCode::LeaseLost);

/// The clock of the calls at a time of the database.
fn nanos(at_ms: i64) -> u64 {
    let since_ms = u64::try_from(at_ms - OFFSET_MS).expect("nothing is before the beginning");
    since_ms * 1_000_000
}

/// A history with an end.
pub(crate) fn history(plan: Plan) -> Vec<Record> {
    let mut maker = Maker::new(plan);
    for number in 0..plan.jobs {
        // Close enough for limits to be used up at times.
        maker.job(number + 1, BEGIN_MS + number.cast_signed() * 2);
    }
    maker.schedule();
    maker.faults();
    maker.terms();
    maker.finish()
}

struct Maker {
    rng: SmallRng,
    trouble: f64,
    until_ms: i64,
    last_ms: i64,
    calls: Vec<(u64, Record)>,
    ends: Vec<JobEnd>,
    told: Vec<LeaseEnd>,
    others: Vec<Record>,
    lanes: [i64; LEASES_MAX],
    full_at_us: i64,
}

/// A job that goes round.
struct Life {
    job: u64,
    key: u64,
    queue: u16,
    created_ms: i64,
    ready_ms: i64,
    delivery: u32,
    attempts: u32,
    crashes: u32,
    told: Vec<LeaseEnd>,
}

/// A lease that was given.
#[derive(Clone, Copy)]
struct Given {
    begins_ms: i64,
    lane: Option<usize>,
    is_received: bool,
    is_timed: bool,
    until_ms: i64,
}

/// How a lease is to end.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Completed,
    Failed,
    Rejected,
    TimedOut,
    Released,
    Snoozed,
    GivenBack,
    Crashed,
    NodeLost,
    Expired,
    Cancelled,
    CancelledByWorker,
}

impl Fate {
    const UNUSUAL: [Self; 12] = [
        Self::Completed,
        Self::Failed,
        Self::Rejected,
        Self::TimedOut,
        Self::Released,
        Self::Snoozed,
        Self::GivenBack,
        Self::Crashed,
        Self::NodeLost,
        Self::Expired,
        Self::Cancelled,
        Self::CancelledByWorker,
    ];

    const fn ending(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed | Self::CancelledByWorker => "failed",
            Self::Rejected => "rejected",
            Self::TimedOut => "timed_out",
            Self::Released | Self::GivenBack => "released",
            Self::Snoozed => "snoozed",
            Self::Crashed => "crashed",
            Self::NodeLost => "node_lost",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Maker {
    fn new(plan: Plan) -> Self {
        Self {
            rng: SmallRng::seed_from_u64(plan.seed),
            trouble: plan.trouble,
            until_ms: BEGIN_MS + plan.jobs.cast_signed() * 2 + 5 * EVERY_MS,
            last_ms: BEGIN_MS,
            calls: Vec::new(),
            ends: Vec::new(),
            told: Vec::new(),
            others: Vec::new(),
            lanes: [0; LEASES_MAX],
            full_at_us: 0,
        }
    }

    fn is_trouble(&mut self) -> bool {
        let trouble = self.trouble;
        self.rng.random_bool(trouble)
    }

    /// A call that does what it does at this time of the database, within two milliseconds.
    fn call(&mut self, at_ms: i64, what: What, outcome: Outcome) {
        self.last_ms = self.last_ms.max(at_ms);
        let at_ns = nanos(at_ms);
        let start_ns = at_ns - self.rng.random_range(0..1_000_000);
        let end_ns = at_ns + self.rng.random_range(0..1_000_000);
        let (client, node) = (self.rng.random_range(0..8), self.rng.random_range(1..=3));
        let call = Call { start_ns, end_ns, client, node, what, outcome };
        self.calls.push((end_ns, Record::Call(call)));
    }

    fn job(&mut self, key: u64, pushed_ms: i64) {
        let queue = match self.rng.random_range(0..20) {
            0 | 1 => LIMITED,
            2..4 => RATED,
            4..10 => 0,
            _ => 1,
        };
        let has_time = self.rng.random_bool(0.05);
        let run_at_ms = if has_time { pushed_ms + self.rng.random_range(60..2000) } else { 0 };
        // Jobs have other numbers than keys, so that nobody mistakes one for the other.
        let job = key + 1_000_000_000;
        let waits = Waits::ForWorkers;
        let push = |job: u64, repeated| What::Push { key, queue, job, run_at_ms, waits, repeated };
        let later_ms = pushed_ms + 50;
        let way = if self.is_trouble() { self.rng.random_range(0..5) } else { 5 };
        match way {
            0..=3 => self.call(pushed_ms, push(0, false), UNKNOWN),
            4 => {
                let refused = Outcome::Rejected(ErrorCode::Unavailable);
                self.call(pushed_ms, push(0, false), refused);
            }
            _ => self.call(pushed_ms, push(job, false), OK),
        }
        let created_ms = match way {
            0 => pushed_ms,
            // It has never come to be.
            1 => return,
            2 => {
                self.call(later_ms, push(job, true), OK);
                pushed_ms
            }
            3 | 4 => {
                self.call(later_ms, push(job, false), OK);
                later_ms
            }
            _ => pushed_ms,
        };
        self.live(job, key, queue, created_ms, created_ms.max(run_at_ms));
    }

    /// All that happens to a job once it is there.
    fn live(&mut self, job: u64, key: u64, queue: u16, created_ms: i64, ready_ms: i64) {
        let mut life = Life {
            job,
            key,
            queue,
            created_ms,
            ready_ms: ready_ms + 1,
            delivery: 0,
            attempts: 0,
            crashes: 0,
            told: Vec::new(),
        };
        if self.is_trouble() && self.rng.random_bool(0.1) {
            self.call(created_ms + 5, What::Cancel { job }, OK);
            return self.end(life, State::Cancelled, created_ms + 5);
        }
        loop {
            let fate = if self.is_trouble() {
                Fate::UNUSUAL[self.rng.random_range(0..Fate::UNUSUAL.len())]
            } else {
                Fate::Completed
            };
            let given = self.give(&mut life, fate);
            let ended_ms = self.work(&mut life, given, fate);
            if let Some(lane) = given.lane {
                self.lanes[lane] = ended_ms;
            }
            if let Some(state) = state_after(&life, fate) {
                return self.end(life, state, ended_ms);
            }
        }
    }

    /// When a job of a queue may start: at once, or when its limit lets it.
    fn start(&mut self, queue: u16, ready_ms: i64) -> (i64, Option<usize>) {
        match queue {
            LIMITED => {
                let lane = (0..LEASES_MAX).min_by_key(|lane| self.lanes[*lane]).unwrap_or(0);
                (ready_ms.max(self.lanes[lane]), Some(lane))
            }
            RATED => {
                let interval_us = 1_000_000 / i64::from(RATE);
                let opens_us = self.full_at_us + interval_us - i64::from(BURST) * interval_us;
                let now_ms = ready_ms.max((opens_us + 999) / 1000);
                self.full_at_us = self.full_at_us.max(now_ms * 1000) + interval_us;
                (now_ms, None)
            }
            _ => (ready_ms, None),
        }
    }

    fn give(&mut self, life: &mut Life, fate: Fate) -> Given {
        life.delivery += 1;
        let (begins_ms, lane) = self.start(life.queue, life.ready_ms);
        // Leases with a time of their own do not end with a session.
        let is_timed = match fate {
            Fate::Expired => true,
            Fate::Crashed | Fate::NodeLost => false,
            _ => self.rng.random_bool(0.1),
        };
        let until_ms = begins_ms + if is_timed { 8000 } else { 30_000 };
        let is_received = match fate {
            Fate::GivenBack => false,
            Fate::Crashed | Fate::NodeLost => self.rng.random_bool(0.5),
            _ => true,
        };
        if is_received {
            let Life { job, key, queue, delivery, .. } = *life;
            let attempt = life.attempts + 1;
            let what =
                What::Lease { job, key, queue, delivery, attempt, begins_ms, until_ms, is_timed };
            self.call(begins_ms, what, OK);
        }
        Given { begins_ms, lane, is_received, is_timed, until_ms }
    }

    /// What comes of a lease. The answer: when it ended.
    fn work(&mut self, life: &mut Life, given: Given, fate: Fate) -> i64 {
        let attempt = life.attempts + 1;
        let ends_ms = given.begins_ms + self.rng.random_range(4..30);
        let ended_ms = match fate {
            Fate::Completed => {
                self.complete(life, given, ends_ms);
                ends_ms
            }
            Fate::Failed => self.settle(life, How::Fail, ends_ms),
            Fate::Rejected => self.settle(life, How::Reject, ends_ms),
            Fate::Released | Fate::Snoozed => self.settle(life, How::Release, ends_ms),
            Fate::GivenBack => given.begins_ms + 2,
            Fate::TimedOut | Fate::Crashed => self.vanish(life, given, ends_ms),
            Fate::NodeLost => self.vanish(life, given, given.begins_ms + 5000),
            Fate::Expired => {
                let until_ms = self.extend(life, given, given.begins_ms + 3);
                self.vanish(life, given, until_ms + 2)
            }
            Fate::Cancelled => {
                self.call(given.begins_ms + 3, What::Cancel { job: life.job }, OK);
                self.vanish(life, given, ends_ms)
            }
            Fate::CancelledByWorker => {
                self.call(given.begins_ms + 3, What::Cancel { job: life.job }, OK);
                self.settle(life, How::Fail, ends_ms)
            }
        };
        match fate {
            Fate::Failed | Fate::Rejected | Fate::TimedOut | Fate::CancelledByWorker => {
                life.attempts += 1;
            }
            Fate::Crashed | Fate::Expired => life.crashes += 1,
            _ => {}
        }
        life.ready_ms = match fate {
            Fate::Failed | Fate::TimedOut => ended_ms + 20,
            Fate::Snoozed => ended_ms + 200,
            _ => ended_ms,
        };
        life.told.push(LeaseEnd {
            job: life.job,
            delivery: life.delivery,
            attempt,
            begins_ms: given.begins_ms,
            ended_ms,
            ending: fate.ending().to_owned(),
        });
        ended_ms
    }

    fn using(life: &Life, how: How, until_ms: i64) -> What {
        What::Settle { job: life.job, delivery: life.delivery, how, until_ms }
    }

    /// The worker ends its lease, and may never learn of it, or ask again.
    fn settle(&mut self, life: &Life, how: How, at_ms: i64) -> i64 {
        let using = Self::using(life, how, 0);
        let way = if self.is_trouble() { self.rng.random_range(0..3) } else { 3 };
        match way {
            0 => self.call(at_ms, using, UNKNOWN),
            1 => {
                self.call(at_ms, using, Outcome::Rejected(ErrorCode::OutcomeUnknown));
                // By then the job may be elsewhere.
                let again_ms = at_ms + self.rng.random_range(3..100);
                self.call(again_ms, using, OK);
            }
            2 => {
                self.call(at_ms, using, OK);
                self.call(at_ms + 3, using, OK);
            }
            _ => self.call(at_ms, using, OK),
        }
        at_ms
    }

    fn complete(&mut self, life: &Life, given: Given, at_ms: i64) {
        if self.is_trouble() {
            match self.rng.random_range(0..3) {
                0 => drop(self.extend(life, given, at_ms - 1)),
                1 => self.call(at_ms - 1, Self::using(life, How::Extend, 0), UNKNOWN),
                _ => self.call(at_ms - 1, Self::using(life, How::Progress, 0), OK),
            }
        }
        self.settle(life, How::Ack, at_ms);
    }

    /// The answer: until when the lease has been granted.
    fn extend(&mut self, life: &Life, given: Given, at_ms: i64) -> i64 {
        if given.is_timed && self.rng.random_bool(0.3) {
            return given.until_ms;
        }
        // It may be less than it was.
        let until_ms = at_ms + self.rng.random_range(4000..9000);
        self.call(at_ms, Self::using(life, How::Extend, until_ms), OK);
        until_ms
    }

    /// The worker loses its lease. It may notice.
    fn vanish(&mut self, life: &Life, given: Given, ended_ms: i64) -> i64 {
        if given.is_received {
            let ack = Self::using(life, How::Ack, 0);
            let later_ms = ended_ms + self.rng.random_range(2..500);
            match self.rng.random_range(0..4) {
                0 => self.call(later_ms, ack, LOST),
                1 => {
                    self.call(ended_ms - 1, ack, UNKNOWN);
                    self.call(later_ms, ack, LOST);
                }
                2 => {
                    let (job, delivery) = (life.job, life.delivery);
                    self.call(later_ms, What::Lost { job, delivery }, OK);
                    self.call(later_ms + 3, Self::using(life, How::Extend, 0), LOST);
                }
                _ => {}
            }
        }
        ended_ms
    }

    fn end(&mut self, life: Life, state: State, finished_ms: i64) {
        let Life { job, key, queue, delivery: deliveries, created_ms, .. } = life;
        self.last_ms = self.last_ms.max(finished_ms);
        self.ends.push(JobEnd { job, key, queue, state, deliveries, created_ms, finished_ms });
        if deliveries > 1 || state != State::Completed {
            self.told.extend(life.told);
        }
    }

    fn schedule(&mut self) {
        let schedule = 4;
        let mut slot_ms = BEGIN_MS;
        while slot_ms < self.until_ms {
            let fired_ms = slot_ms + self.rng.random_range(0..80);
            let job = 5_000_000_000 + (slot_ms - BEGIN_MS).cast_unsigned();
            self.others.push(Record::Slot(Slot { schedule, slot_ms, fired_ms, job }));
            self.live(job, 0, SCHEDULED, fired_ms, fired_ms);
            slot_ms += EVERY_MS;
        }
    }

    fn faults(&mut self) {
        for (kind, lasts_ms) in [("kill", 600), ("freeze", 2500), ("partition_both", 2900)] {
            let start_ns = nanos(self.rng.random_range(BEGIN_MS..self.until_ms));
            let end_ns = start_ns + 5_000_000_000;
            let node = self.rng.random_range(1..=3);
            let was_leader = self.rng.random_bool(0.5);
            let led_again_ns = if was_leader { start_ns + lasts_ms * 1_000_000 } else { 0 };
            let kind = kind.to_owned();
            let fault = Fault { start_ns, end_ns, kind, node, was_leader, led_again_ns };
            self.calls.push((end_ns, Record::Fault(fault)));
            self.last_ms = self.last_ms.max(OFFSET_MS + (end_ns / 1_000_000).cast_signed());
        }
    }

    fn terms(&mut self) {
        let mut at_ms = BEGIN_MS;
        for epoch in 1..self.rng.random_range(3..9) {
            let token = self.rng.random();
            let node = format!("node-{}", self.rng.random_range(1..=3));
            for _ in 0..self.rng.random_range(1..6) {
                at_ms += self.rng.random_range(0..9);
                let (name, node) = ("due".to_owned(), node.clone());
                self.others.push(Record::Duty(Duty { at_ms, epoch, token, node, name, count: 1 }));
            }
            // Not every number has a term that does something.
            at_ms += 300;
        }
    }

    fn finish(mut self) -> Vec<Record> {
        let per_ms = 1000;
        let (limit, burst) = (RATE, BURST);
        let mut records = vec![
            Record::Rule(Rule::Concurrency { queue: LIMITED, max: LEASES_MAX as u32 }),
            Record::Rule(Rule::Rate { queue: RATED, limit, per_ms, burst }),
            Record::Rule(Rule::Schedule {
                schedule: 4,
                queue: SCHEDULED,
                every_ms: EVERY_MS as u64,
                from_ms: BEGIN_MS,
                to_ms: self.until_ms - EVERY_MS,
            }),
        ];
        self.calls.sort_by_key(|(end_ns, _)| *end_ns);
        self.ends.sort_by_key(|end| end.job);
        let told: BTreeMap<_, _> =
            self.told.into_iter().map(|end| ((end.job, end.delivery), end)).collect();
        records.extend(self.calls.into_iter().map(|(_, record)| record));
        records.extend(self.ends.into_iter().map(Record::Job));
        records.extend(told.into_values().map(Record::Lease));
        records.append(&mut self.others);
        let second_ns = 1_000_000_000;
        let healed_ns = nanos(self.last_ms) + second_ns;
        records.push(Record::End(End {
            healed_ns,
            served_ns: healed_ns + second_ns,
            drained_ns: healed_ns + 20 * second_ns,
            leaders: 1,
            database_offset_ms: OFFSET_MS,
            offset_error_ms: 2,
        }));
        records
    }
}

/// `None`: it goes round again.
fn state_after(life: &Life, fate: Fate) -> Option<State> {
    match fate {
        Fate::Completed => Some(State::Completed),
        Fate::Rejected => Some(State::Dead),
        Fate::Cancelled | Fate::CancelledByWorker => Some(State::Cancelled),
        Fate::Failed | Fate::TimedOut if life.attempts >= MAX_ATTEMPTS => Some(State::Dead),
        Fate::Crashed | Fate::Expired if life.crashes >= CRASHES_MAX => Some(State::Dead),
        _ => None,
    }
}
