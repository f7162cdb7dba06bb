//! Each promise that is broken is found, and nothing else.

use batonq_protocol::ErrorCode;
use batonq_verify::check::{Invariant, check};
use batonq_verify::history::{
    Call, Duty, End, History, How, JobEnd, LeaseEnd, Outcome, Record, Rule, Slot, State, Waits,
    What,
};

mod made;

/// A history that is about to be broken.
struct Broken {
    records: Vec<Record>,
}

/// A job with two leases: the first was received and lost, and nobody tried to use it; the second
/// was received and acked.
#[derive(Clone, Copy)]
struct Twice {
    job: u64,
    first: LeaseAt,
    second: LeaseAt,
    ack: usize,
}

/// Where a lease was received, and where its timeline is.
#[derive(Clone, Copy)]
struct LeaseAt {
    call: usize,
    told: usize,
}

const GIVEN: &str = "the history has some of each";

impl Broken {
    fn place(&self, is_it: impl FnMut(&Record) -> bool) -> usize {
        self.records.iter().position(is_it).expect(GIVEN)
    }

    fn places(&self, mut is_it: impl FnMut(&Record) -> bool) -> Vec<usize> {
        let all = self.records.iter().enumerate();
        all.filter(|(_, record)| is_it(record)).map(|(place, _)| place).collect()
    }

    fn call(&mut self, place: usize) -> &mut Call {
        let Record::Call(call) = &mut self.records[place] else { panic!("{GIVEN}") };
        call
    }

    fn told(&mut self, place: usize) -> &mut LeaseEnd {
        let Record::Lease(end) = &mut self.records[place] else { panic!("{GIVEN}") };
        end
    }

    fn job(&mut self, job: u64) -> &mut JobEnd {
        let place = self.place(|record| matches!(record, Record::Job(end) if end.job == job));
        let Record::Job(end) = &mut self.records[place] else { panic!("{GIVEN}") };
        end
    }

    fn end(&mut self) -> &mut End {
        let Some(Record::End(end)) = self.records.last_mut() else { panic!("{GIVEN}") };
        end
    }

    fn slots(&self) -> Vec<usize> {
        self.places(|record| matches!(record, Record::Slot(_)))
    }

    fn slot(&mut self, place: usize) -> &mut Slot {
        let Record::Slot(slot) = &mut self.records[place] else { panic!("{GIVEN}") };
        slot
    }

    fn duties(&self) -> Vec<usize> {
        self.places(|record| matches!(record, Record::Duty(_)))
    }

    /// A job of queue 0 that was pushed, leased once and acked, each answered ok at the first try:
    /// the places of these calls.
    fn plain(&self) -> (u64, [usize; 3]) {
        let is_plain = |place: &usize| {
            let Record::Job(end) = &self.records[*place] else { return None };
            let is_fit = end.state == State::Completed && end.deliveries == 1 && end.queue == 0;
            let calls = self.calls_of(end.job);
            let [push, lease, ack] = calls[..] else { return None };
            let is_ok = calls.iter().all(|place| self.outcome(*place) == Outcome::Ok)
                && matches!(self.what(lease), What::Lease { .. })
                && matches!(self.what(ack), What::Settle { how: How::Ack, .. });
            (is_fit && is_ok && end.key != 0).then_some((end.job, [push, lease, ack]))
        };
        let ends = self.places(|record| matches!(record, Record::Job(_)));
        ends.iter().find_map(is_plain).expect(GIVEN)
    }

    /// All calls that name a job, or its key.
    fn calls_of(&self, job: u64) -> Vec<usize> {
        self.places(|record| {
            let Record::Call(call) = record else { return false };
            match call.what {
                What::Push { job: of, key, .. } => of == job || key + 1_000_000_000 == job,
                What::Lease { job: of, .. }
                | What::Settle { job: of, .. }
                | What::Lost { job: of, .. }
                | What::Cancel { job: of } => of == job,
                What::Look => false,
            }
        })
    }

    fn outcome(&self, place: usize) -> Outcome {
        let Record::Call(call) = &self.records[place] else { panic!("{GIVEN}") };
        call.outcome
    }

    fn what(&self, place: usize) -> What {
        let Record::Call(call) = &self.records[place] else { panic!("{GIVEN}") };
        call.what
    }

    fn twice(&self) -> Twice {
        let is_first = |record: &Record| {
            matches!(record, Record::Lease(end) if end.delivery == 1
                && matches!(end.ending.as_str(), "crashed" | "node_lost"))
        };
        let firsts = self.places(is_first);
        firsts.into_iter().find_map(|told| self.is_twice(told)).expect(GIVEN)
    }

    fn is_twice(&self, told: usize) -> Option<Twice> {
        let Record::Lease(first) = &self.records[told] else { return None };
        let job = first.job;
        let Record::Lease(second) = self.records.get(told + 1)? else { return None };
        if second.job != job || second.ending != "completed" {
            return None;
        }
        let calls = self.calls_of(job);
        let [push, one, two, ack] = calls[..] else { return None };
        let is_plain = matches!(
            &self.records[push],
            Record::Call(Call { what: What::Push { queue: 0 | 1, run_at_ms: 0, .. }, .. })
        );
        let is_ok = calls.iter().all(|place| self.outcome(*place) == Outcome::Ok)
            && matches!(self.what(one), What::Lease { delivery: 1, .. })
            && matches!(self.what(two), What::Lease { delivery: 2, .. })
            && matches!(self.what(ack), What::Settle { delivery: 2, how: How::Ack, .. });
        let (first, second) = (LeaseAt { call: one, told }, LeaseAt { call: two, told: told + 1 });
        (is_plain && is_ok).then_some(Twice { job, first, second, ack })
    }

    /// Adds a call for a lease, that long after another call was answered.
    fn use_after(&mut self, place: usize, ms: u64, (job, delivery): (u64, u32), how: How) {
        let mut call = *self.call(place);
        call.start_ns = call.end_ns + ms * 1_000_000;
        call.end_ns = call.start_ns + 1_000_000;
        call.outcome = Outcome::Ok;
        let until_ms = if how == How::Extend { i64::MAX } else { 0 };
        call.what = What::Settle { job, delivery, how, until_ms };
        self.records.insert(place + 1, Record::Call(call));
    }

    fn remove(&mut self, mut places: Vec<usize>) {
        places.sort_unstable();
        for place in places.into_iter().rev() {
            self.records.remove(place);
        }
    }

    /// Adds a job that nobody has seen.
    fn add_job(&mut self, key: u64, queue: u16) {
        let end = JobEnd {
            job: 7_000_000_000,
            key,
            queue,
            state: State::Dead,
            deliveries: 1,
            created_ms: 1,
            finished_ms: 2,
        };
        self.records.push(Record::Job(end));
    }
}

/// A way to break a promise.
type Break = fn(&mut Broken);

/// What is broken, how, and what is found of it; how often, or 0: at least once.
type Case = (&'static str, Break, &'static [(Invariant, u64)]);

use Invariant::{
    Alive, EndsAsTold, EverySlotOnce, Explained, NoOverlap, NoStaleLease, NotEarly,
    NothingFromNowhere, NothingLost, Numbered, OneJobForAKey, OneSuccess, OneTermAtATime,
    WithinLimits,
};

const PUSHES: &[Case] = &[
    (
        "a job is lost",
        |it| {
            let (job, _) = it.plain();
            it.records.retain(|record| !matches!(record, Record::Job(end) if end.job == job));
        },
        &[(NothingLost, 1)],
    ),
    (
        "a job is dead that was never delivered",
        |it| {
            let (job, [_, lease, ack]) = it.plain();
            (it.job(job).state, it.job(job).deliveries) = (State::Dead, 0);
            it.remove(vec![lease, ack]);
        },
        &[(NothingLost, 1)],
    ),
    (
        "a job dies a millisecond before it has waited for as long as it may",
        |it| {
            let (job, [push, lease, ack]) = it.plain();
            let What::Push { waits, .. } = &mut it.call(push).what else { panic!("{GIVEN}") };
            *waits = Waits::AtMostMs(100);
            let end = it.job(job);
            (end.state, end.deliveries) = (State::Dead, 0);
            end.finished_ms = end.created_ms + 99;
            it.remove(vec![lease, ack]);
        },
        &[(NothingLost, 1)],
    ),
    (
        "a job comes to two ends",
        |it| {
            let (job, _) = it.plain();
            let mut end = *it.job(job);
            end.state = State::Dead;
            it.records.push(Record::Job(end));
        },
        &[(NothingLost, 1)],
    ),
    (
        "a job is delivered that nobody pushed",
        |it| {
            let (_, [_, lease, _]) = it.plain();
            let mut call = *it.call(lease);
            let What::Lease { job, key, .. } = &mut call.what else { panic!("{GIVEN}") };
            (*job, *key) = (7_000_000_000, 7_000_000_001);
            it.records.insert(lease, Record::Call(call));
        },
        &[(NothingFromNowhere, 1)],
    ),
    (
        "a job is there that nobody pushed",
        |it| it.add_job(7_000_000_001, 0),
        &[(NothingFromNowhere, 1)],
    ),
    (
        "a job is there, and delivered, whose push was refused",
        |it| {
            let (_, [push, ..]) = it.plain();
            it.call(push).outcome = Outcome::Rejected(ErrorCode::Overloaded);
        },
        &[(NothingFromNowhere, 2)],
    ),
    (
        "a job is delivered before it is pushed",
        |it| {
            let (_, [push, lease, _]) = it.plain();
            it.call(push).start_ns = it.call(lease).end_ns + 1;
            it.call(push).end_ns = it.call(lease).end_ns + 2;
        },
        &[(NothingFromNowhere, 1)],
    ),
    (
        "a job is delivered with the payload of another",
        |it| {
            let (_, [_, lease, _]) = it.plain();
            let first = it.place(|record| {
                matches!(record, Record::Call(Call { what: What::Push { .. }, outcome, .. })
                    if outcome.is_ok())
            });
            let What::Push { key: other, .. } = it.call(first).what else { panic!("{GIVEN}") };
            let What::Lease { key, .. } = &mut it.call(lease).what else { panic!("{GIVEN}") };
            *key = if *key == other { other + 1 } else { other };
        },
        &[(NothingFromNowhere, 1)],
    ),
    (
        "a job is delivered from another queue",
        |it| {
            let (_, [_, lease, _]) = it.plain();
            let What::Lease { queue, .. } = &mut it.call(lease).what else { panic!("{GIVEN}") };
            *queue = 1;
        },
        &[(NothingFromNowhere, 1)],
    ),
    (
        "a push makes two jobs",
        |it| {
            let (job, _) = it.plain();
            let key = it.job(job).key;
            it.add_job(key, 0);
        },
        &[(NothingFromNowhere, 1)],
    ),
    (
        "a push that is repeated makes another job",
        |it| {
            let (job, [push, ..]) = it.plain();
            let mut again = *it.call(push);
            let What::Push { key, job: made, .. } = &mut again.what else { panic!("{GIVEN}") };
            assert_eq!(std::mem::take(made), job);
            it.add_job(*key, 0);
            again.outcome = Outcome::Unknown;
            it.records.insert(push, Record::Call(again));
        },
        &[(OneJobForAKey, 1)],
    ),
    (
        "a push that is repeated is answered with another job",
        |it| {
            let again = it.place(|record| {
                matches!(record, Record::Call(Call { what: What::Push { repeated: true, .. }, .. }))
            });
            let What::Push { job, .. } = &mut it.call(again).what else { panic!("{GIVEN}") };
            *job = 7_000_000_000;
        },
        &[(OneJobForAKey, 1)],
    ),
    (
        "a push is done twice",
        |it| {
            let (_, [push, ..]) = it.plain();
            let call = *it.call(push);
            it.records.insert(push, Record::Call(call));
        },
        &[(OneJobForAKey, 1)],
    ),
    (
        "the first push of a key is answered as repeated",
        |it| {
            let (_, [push, ..]) = it.plain();
            let What::Push { repeated, .. } = &mut it.call(push).what else { panic!("{GIVEN}") };
            *repeated = true;
        },
        &[(OneJobForAKey, 1)],
    ),
];

const LEASES: &[Case] = &[
    (
        "a job is acked with two leases",
        |it| {
            let Twice { job, first, .. } = it.twice();
            it.use_after(first.call, 0, (job, 1), How::Ack);
        },
        &[(OneSuccess, 1), (NoStaleLease, 1)],
    ),
    (
        "a stale ack is accepted",
        |it| {
            let Twice { job, second, ack, .. } = it.twice();
            it.call(ack).outcome = Outcome::Unknown;
            it.use_after(second.call, 1, (job, 1), How::Ack);
        },
        &[(NoStaleLease, 1)],
    ),
    (
        "a stale extend is accepted",
        |it| {
            let Twice { job, second, .. } = it.twice();
            it.use_after(second.call, 1, (job, 1), How::Extend);
        },
        &[(NoStaleLease, 1)],
    ),
    (
        "a stale fail is accepted",
        |it| {
            let Twice { job, second, .. } = it.twice();
            it.use_after(second.call, 1, (job, 1), How::Fail);
        },
        &[(NoStaleLease, 1)],
    ),
    (
        "a stale fail is accepted, and recorded as the end of its lease",
        |it| {
            let Twice { job, first, second, .. } = it.twice();
            it.told(first.told).ending = "failed".to_owned();
            it.told(second.told).attempt = 2;
            let What::Lease { attempt, .. } = &mut it.call(second.call).what else {
                panic!("{GIVEN}")
            };
            *attempt = 2;
            it.use_after(second.call, 1, (job, 1), How::Fail);
        },
        &[(NoStaleLease, 1)],
    ),
    (
        "progress is accepted after the job is completed",
        |it| {
            let (job, [.., ack]) = it.plain();
            it.use_after(ack, 50, (job, 1), How::Progress);
        },
        &[(NoStaleLease, 1)],
    ),
    (
        "a lease is used that nobody was given",
        |it| {
            let (job, [.., ack]) = it.plain();
            it.use_after(ack, 0, (job, 77), How::Extend);
        },
        &[(NoStaleLease, 1)],
    ),
    (
        "a lease begins during the one before",
        |it| {
            let Twice { first, second, .. } = it.twice();
            let early_ms = it.told(first.told).ended_ms - 1;
            it.told(second.told).begins_ms = early_ms;
            let What::Lease { begins_ms, .. } = &mut it.call(second.call).what else {
                panic!("{GIVEN}")
            };
            *begins_ms = early_ms;
        },
        &[(NoOverlap, 1)],
    ),
    (
        "a lease begins and the one before never ended",
        |it| {
            let first = it.twice().first;
            it.told(first.told).ended_ms = 0;
        },
        &[(NoOverlap, 1)],
    ),
    (
        "a lease expires before its time",
        |it| {
            let Twice { first, second, .. } = it.twice();
            let begins_next_ms = it.told(second.told).begins_ms;
            it.told(first.told).ending = "expired".to_owned();
            let What::Lease { is_timed, until_ms, .. } = &mut it.call(first.call).what else {
                panic!("{GIVEN}")
            };
            (*is_timed, *until_ms) = (true, begins_next_ms + 1);
        },
        &[(NoOverlap, 1)],
    ),
    (
        "a lease with a time of its own ends with its session",
        |it| {
            let Twice { first, second, .. } = it.twice();
            let begins_next_ms = it.told(second.told).begins_ms;
            let What::Lease { is_timed, until_ms, .. } = &mut it.call(first.call).what else {
                panic!("{GIVEN}")
            };
            (*is_timed, *until_ms) = (true, begins_next_ms + 1);
        },
        &[(NoOverlap, 1)],
    ),
    (
        "a lease expires before the time it was extended to",
        |it| {
            let Twice { job, first, .. } = it.twice();
            it.told(first.told).ending = "expired".to_owned();
            it.use_after(first.call, 0, (job, 1), How::Extend);
        },
        &[(NoOverlap, 1)],
    ),
];

const DELIVERIES: &[Case] = &[
    (
        "an attempt is left out",
        |it| {
            let second = it.twice().second;
            it.told(second.told).attempt = 2;
            let What::Lease { attempt, .. } = &mut it.call(second.call).what else {
                panic!("{GIVEN}")
            };
            *attempt = 2;
        },
        &[(Numbered, 1)],
    ),
    (
        "a client is told another attempt than the timeline",
        |it| {
            let (_, [_, lease, _]) = it.plain();
            let What::Lease { attempt, .. } = &mut it.call(lease).what else { panic!("{GIVEN}") };
            *attempt = 2;
        },
        &[(Numbered, 1)],
    ),
    (
        "one delivery is received twice",
        |it| {
            let (_, [_, lease, _]) = it.plain();
            let call = *it.call(lease);
            it.records.insert(lease, Record::Call(call));
        },
        &[(Numbered, 1)],
    ),
    (
        "a delivery is left out",
        |it| {
            let Twice { first, .. } = it.twice();
            it.remove(vec![first.call, first.told]);
        },
        &[(Numbered, 1), (Explained, 1)],
    ),
    (
        "a timeline leaves a delivery out",
        |it| {
            let Twice { first, .. } = it.twice();
            it.remove(vec![first.told]);
        },
        &[(Numbered, 1), (Explained, 1)],
    ),
    (
        "a delivery comes about nobody knows why",
        |it| {
            let first = it.twice().first;
            it.told(first.told).ending.clear();
        },
        &[(Explained, 1)],
    ),
    (
        "a job is delivered again after it was completed",
        |it| {
            let first = it.twice().first;
            it.told(first.told).ending = "completed".to_owned();
        },
        &[(Explained, 1)],
    ),
    (
        "a lease is given back that nobody gave back",
        |it| {
            let first = it.twice().first;
            it.told(first.told).ending = "released".to_owned();
        },
        &[(Explained, 1)],
    ),
    (
        "a job that was delivered twice has no timeline",
        |it| {
            let Twice { first, second, .. } = it.twice();
            it.remove(vec![first.told, second.told]);
        },
        &[(Explained, 1)],
    ),
    (
        "a job is delivered before its time",
        |it| {
            let (_, [push, ..]) = it.plain();
            let What::Push { run_at_ms, .. } = &mut it.call(push).what else { panic!("{GIVEN}") };
            *run_at_ms = i64::MAX;
        },
        &[(NotEarly, 1)],
    ),
    (
        "more are leased at once than may be",
        |it| {
            let is_rule =
                |record: &Record| matches!(record, Record::Rule(Rule::Concurrency { .. }));
            let place = it.place(is_rule);
            it.records[place] = Record::Rule(Rule::Concurrency { queue: 2, max: 2 });
        },
        &[(WithinLimits, 0)],
    ),
    (
        "more are leased in a time than may be",
        |it| {
            let is_rule = |record: &Record| matches!(record, Record::Rule(Rule::Rate { .. }));
            let place = it.place(is_rule);
            it.records[place] =
                Record::Rule(Rule::Rate { queue: 3, limit: 20, per_ms: 1000, burst: 5 });
        },
        &[(WithinLimits, 0)],
    ),
];

const LEADERS: &[Case] = &[
    (
        "a slot is fired twice",
        |it| {
            let place = it.slots()[1];
            it.add_job(0, 9);
            let mut slot = *it.slot(place);
            slot.job = 7_000_000_000;
            it.records.push(Record::Slot(slot));
            let last = it.records.len() - 3;
            let end = it.records.remove(last);
            it.records.push(end);
        },
        &[(EverySlotOnce, 1)],
    ),
    (
        "a slot is missing, and its job is there",
        |it| {
            let place = it.slots()[1];
            it.remove(vec![place]);
        },
        &[(EverySlotOnce, 2)],
    ),
    (
        "a slot makes no job",
        |it| {
            let place = it.slots()[1];
            let job = std::mem::take(&mut it.slot(place).job);
            it.job(job).queue = 9;
        },
        &[(EverySlotOnce, 2)],
    ),
    (
        "the job of a slot is lost",
        |it| {
            let place = it.slots()[1];
            let job = it.slot(place).job;
            it.records.retain(|record| !matches!(record, Record::Job(end) if end.job == job));
        },
        &[(EverySlotOnce, 1)],
    ),
    ("a schedule makes a job for no slot", |it| it.add_job(0, 9), &[(EverySlotOnce, 1)]),
    (
        "a slot is fired early",
        |it| {
            let place = it.slots()[1];
            it.slot(place).fired_ms = it.slot(place).slot_ms - 1;
        },
        &[(EverySlotOnce, 1)],
    ),
    (
        "a schedule fires between its slots",
        |it| {
            let place = it.slots()[1];
            it.slot(place).slot_ms += 1;
            it.slot(place).fired_ms += 1;
        },
        &[(EverySlotOnce, 2)],
    ),
    (
        "an old leader does something after a new one",
        |it| {
            let duties = it.duties();
            let first = it.records[duties[0]].clone();
            it.records.insert(duties[duties.len() - 1] + 1, first);
        },
        &[(OneTermAtATime, 1)],
    ),
    (
        "two terms have one number",
        |it| {
            let duties = it.duties();
            let Record::Duty(last) = &it.records[duties[duties.len() - 1]] else {
                panic!("{GIVEN}")
            };
            let other = Duty { token: last.token ^ 1, ..last.clone() };
            it.records.insert(duties[duties.len() - 1] + 1, Record::Duty(other));
        },
        &[(OneTermAtATime, 1)],
    ),
    (
        "two nodes have one term",
        |it| {
            let duties = it.duties();
            let Record::Duty(last) = &it.records[duties[duties.len() - 1]] else {
                panic!("{GIVEN}")
            };
            let other = Duty { node: "another".to_owned(), ..last.clone() };
            it.records.insert(duties[duties.len() - 1] + 1, Record::Duty(other));
        },
        &[(OneTermAtATime, 1)],
    ),
];

const ENDS: &[Case] = &[
    (
        "a job is leased when all is over",
        |it| {
            let (job, _) = it.plain();
            (it.job(job).state, it.job(job).finished_ms) = (State::Leased, 0);
        },
        &[(EndsAsTold, 1)],
    ),
    (
        "a job that was acked is dead",
        |it| {
            let (job, _) = it.plain();
            it.job(job).state = State::Dead;
        },
        &[(EndsAsTold, 1)],
    ),
    (
        "a job is completed that nobody acked",
        |it| {
            let (_, [.., ack]) = it.plain();
            it.remove(vec![ack]);
        },
        &[(EndsAsTold, 1)],
    ),
    (
        "a job is completed whose ack was refused",
        |it| {
            let (_, [.., ack]) = it.plain();
            it.call(ack).outcome = Outcome::Rejected(ErrorCode::LeaseLost);
        },
        &[(EndsAsTold, 1)],
    ),
    (
        "a job is cancelled that nobody cancelled",
        |it| {
            let (job, [.., ack]) = it.plain();
            it.job(job).state = State::Cancelled;
            it.call(ack).outcome = Outcome::Unknown;
        },
        &[(EndsAsTold, 1)],
    ),
    (
        "a job has more deliveries than the database knows",
        |it| {
            let job = it.twice().job;
            it.job(job).deliveries = 1;
        },
        &[(EndsAsTold, 1)],
    ),
    (
        "a job is in another queue than it was pushed to",
        |it| {
            let (job, _) = it.plain();
            it.job(job).queue = 1;
        },
        &[(EndsAsTold, 1)],
    ),
    (
        "the timeline says that a lease began at another time",
        |it| {
            let first = it.twice().first;
            it.told(first.told).begins_ms += 1;
        },
        &[(EndsAsTold, 1)],
    ),
    (
        "the timeline says that an acked lease was lost",
        |it| {
            let second = it.twice().second;
            it.told(second.told).ending = "crashed".to_owned();
        },
        &[(EndsAsTold, 1)],
    ),
    ("two nodes lead", |it| it.end().leaders = 2, &[(Alive, 1)]),
    ("no node leads", |it| it.end().leaders = 0, &[(Alive, 1)]),
    ("work is left", |it| it.end().drained_ns = 0, &[(Alive, 1)]),
    ("work takes too long", |it| it.end().drained_ns += 50_000_000_000, &[(Alive, 1)]),
    ("clients are not served again", |it| it.end().served_ns = 0, &[(Alive, 1)]),
    ("clients are served late", |it| it.end().served_ns += 5_000_000_000, &[(Alive, 1)]),
    (
        "a call is refused when all should be well",
        |it| {
            let start_ns = it.end().healed_ns + 6_000_000_000;
            let (_, [push, ..]) = it.plain();
            let mut call = *it.call(push);
            (call.start_ns, call.end_ns) = (start_ns, start_ns + 1);
            call.what = What::Look;
            call.outcome = Outcome::Rejected(ErrorCode::Unavailable);
            it.records.insert(push, Record::Call(call));
        },
        &[(Alive, 1)],
    ),
];

#[test]
fn each_promise_that_is_broken_is_found_and_nothing_else() {
    for seed in 0..3 {
        let whole = made::history(made::Plan { seed, jobs: 3000, trouble: 0.25 });
        for (name, break_it, expected) in [PUSHES, LEASES, DELIVERIES, LEADERS, ENDS].concat() {
            let mut broken = Broken { records: whole.clone() };
            break_it(&mut broken);
            let verdict = check(&History::from(broken.records));
            let found: Vec<(Invariant, u64)> =
                verdict.violated().map(|it| (it.invariant, it.broken)).collect();
            let is_it = |(found, expected): (&(Invariant, u64), &(Invariant, u64))| {
                found.0 == expected.0 && (found.1 == expected.1 || expected.1 == 0)
            };
            let is_exact = found.len() == expected.len() && found.iter().zip(expected).all(is_it);
            let sentences: Vec<_> =
                verdict.violated().flat_map(|it| &it.findings).map(|it| &it.sentence).collect();
            assert!(is_exact, "{name}, seed {seed}: {found:?} {sentences:#?}");
            assert!(!verdict.is_good());
        }
    }
}

#[test]
fn who_gave_a_lease_up_for_lost_may_give_it_back() {
    let mut it =
        Broken { records: made::history(made::Plan { seed: 0, jobs: 3000, trouble: 0.25 }) };
    let Twice { job, first, .. } = it.twice();
    it.told(first.told).ending = "released".to_owned();
    it.use_after(first.call, 1, (job, 1), How::Progress);
    it.call(first.call + 1).what = What::Lost { job, delivery: 1 };
    let verdict = check(&History::from(it.records));
    assert_eq!(verdict.violated().count(), 0);
}

#[test]
fn findings_are_all_counted_and_the_first_are_kept() {
    let mut records = made::history(made::Plan { seed: 1, jobs: 100, trouble: 0.0 });
    records.retain(|record| !matches!(record, Record::Job(end) if end.key != 0));
    let verdict = check(&History::from(records));
    let lost = &verdict.invariants[NothingLost as usize];
    assert_eq!((lost.broken, lost.findings.len()), (100, 20));
    assert_eq!(lost.findings[0].sentence, "job 1000000001 with key 1 was pushed and is not there");
    assert_eq!(lost.findings[0].records.len(), 1);
}
