//! Random operations on a store and on the model: every answer must be the same.

mod kv;

use std::sync::Arc;
use std::time::Duration;

use batonq_server::clock::ManualClock;
use batonq_server::error::Error;
use batonq_server::job::{
    Backoff, CatchUp, Concurrency, CronRule, Depends, FailureCode, Flow, FlowKey, JobId, KeyLimits,
    Lease, NewJob, OnFailure, Options, Overlap, Payload, QueueName, Rate, RateRule, Reason,
    ScheduleName, ScheduleSpec, Settings, State, Tag, Timestamp, UniqueHold, UniqueKey, When,
    WorkerName,
};
use batonq_server::leader::Term;
use batonq_server::store::{
    Claim, Duty, Edit, Extension, Hold, JobFilter, Partial, Pausing, Progress, Refused, Retention,
    Retry, Schedule, SchedulesWanted, SessionId, Settlement, Store, Verdict,
};
use bytes::Bytes;
use proptest::prelude::*;

pub use self::kv::KvStep;
use crate::stores::{Maker, Memory};

/// One call, or what happens in between. Jobs and leases are chosen among the few there are, so
/// that operations meet.
#[derive(Debug, Clone)]
pub enum Step {
    /// Jobs are pushed.
    Push(Vec<NewJob>),
    /// Jobs are claimed.
    Claim(Vec<Claim>),
    /// Leases are settled: the lease's place among those that were given, and the verdict.
    Settle(Vec<(usize, Verdict)>),
    /// A lease that may never have been given is settled.
    SettleAny(Lease, Verdict),
    /// A lease is extended.
    Extend(usize, Duration),
    /// A worker says how far it is.
    Progress(usize, u8),
    /// The worker of a lease that was given hands out a part of its result.
    Partial(usize, u32),
    /// Sessions are renewed.
    Renew(Vec<SessionId>),
    /// A worker is back.
    Adopt(SessionId),
    /// A worker is gone.
    GiveBack(SessionId),
    /// A duty runs.
    Duty(Duty),
    /// A queue is paused or resumed.
    Pause(QueueName, Pausing),
    /// A dead job goes round again.
    Retry(JobId),
    /// A job is copied.
    Replay(JobId, Edit),
    /// An ended job is deleted.
    Delete(JobId),
    /// What guards refused is looked at.
    Decisions,
    /// A job is taken back.
    Cancel(JobId, Duration),
    /// A waiting job is set aside.
    Discard(JobId),
    /// A waiting job is changed.
    Edit(JobId, Edit),
    /// A queue is given settings.
    Settings(QueueName, Settings),
    /// The keys of a queue are looked at.
    Keys(QueueName),
    /// A scheduled job becomes ready.
    Promote(JobId),
    /// Jobs are listed.
    List(JobFilter),
    /// A job is looked at.
    Look(JobId),
    /// A queue is looked at.
    LookAt(QueueName),
    /// A schedule is put.
    Schedule(ScheduleName, Box<ScheduleSpec>),
    /// A schedule is paused or resumed.
    PauseSchedule(ScheduleName, Pausing),
    /// A schedule's job is pushed out of turn.
    RunSchedule(ScheduleName),
    /// A schedule is deleted.
    DeleteSchedule(ScheduleName),
    /// A line is written into a job's log.
    Log(JobId, &'static str),
    /// Values by key.
    Kv(KvStep),
    /// Time passes.
    Pass(Duration),
    /// The store is closed and opened again.
    Reopen,
}

fn queue() -> impl Strategy<Value = QueueName> {
    prop_oneof![3 => Just("a"), 1 => Just("b")]
        .prop_map(|name| QueueName::parse(name).expect("a name"))
}

/// The names that jobs have over all queues.
const CUSTOM_IDS: [&str; 2] = ["c", "d"];

fn unique_key(name: &str) -> UniqueKey {
    UniqueKey::parse(name).expect("a key")
}

fn job_id() -> impl Strategy<Value = JobId> {
    (1..25_u64).prop_map(JobId)
}

fn session() -> impl Strategy<Value = SessionId> {
    (1..4_u64).prop_map(SessionId)
}

fn seconds(most: u64) -> impl Strategy<Value = Duration> {
    (0..most).prop_map(Duration::from_secs)
}

fn backoff() -> impl Strategy<Value = Backoff> {
    prop_oneof![
        seconds(5).prop_map(Backoff::Fixed),
        proptest::collection::vec(seconds(5), 1..3).prop_map(Backoff::List),
        (seconds(5), seconds(20), 0.0..1.0)
            .prop_map(|(base, max, jitter)| { Backoff::Exponential { base, max, jitter } }),
    ]
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![
        4 => Just(When::Now),
        1 => seconds(20).prop_map(When::After),
        1 => (1_789_999_990_000..1_790_000_030_000_i64)
            .prop_map(|at| When::At(batonq_server::job::Timestamp(at))),
    ]
}

prop_compose! {
    fn new_job()(
        queue in queue(),
        size in prop_oneof![Just(2_usize), 0..40_usize],
        priority in -1..2_i32,
        when in when(),
        ttl in proptest::option::weighted(0.2, (1..30_u64).prop_map(Duration::from_secs)),
        max_attempts in 1..4_u32,
        backoff in proptest::option::of(backoff()),
        timeout in proptest::option::weighted(0.2, (1..20_u64).prop_map(Duration::from_secs)),
        unique in proptest::option::weighted(0.3, prop_oneof![Just("k"), Just("l")]),
        tags in proptest::collection::vec(prop_oneof![Just("s"), Just("t")], 0..2),
        is_text in any::<bool>(),
        options in prop_oneof![3 => Just(Options::default()), 2 => options()],
    ) -> NewJob {
        let payload = Payload::new(Bytes::from(vec![b'1'; size])).expect("it is small");
        let payload = payload.with_content_type(if is_text { "text/plain" } else { "" });
        let tag = |tag: &str| Tag::parse(tag).expect("a tag");
        let mut job = NewJob::new(queue, payload.expect("a type"));
        job.priority = priority;
        job.when = when;
        job.ttl = ttl;
        job.max_attempts = max_attempts;
        job.backoff = backoff;
        job.timeout = timeout;
        job.unique = unique.map(unique_key);
        job.tags = tags.into_iter().map(tag).collect();
        job.options = options.into();
        if job.unique.is_none() {
            job.options.hold = UniqueHold::Live;
        }
        job.check().expect("it is valid")
    }
}

/// A few, and now and then so many that a store may keep them together.
fn how_many() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 1..7_usize, 1 => 16..40_usize, 2 => 64..90_usize]
}

/// Jobs with nothing but a payload, which differ in little and may wait for one time.
fn alike() -> impl Strategy<Value = Vec<NewJob>> {
    let of = (queue(), 0..2_i32, how_many(), when());
    of.prop_map(|(queue, priority, count, when)| {
        let payload = Payload::new(Bytes::from_static(b"1")).expect("it is small");
        vec![NewJob { priority, when, ..NewJob::new(queue, payload) }; count]
    })
}

/// The acks of the latest leases, oldest first.
fn acks() -> impl Strategy<Value = Vec<(usize, Verdict)>> {
    how_many().prop_map(|count| {
        (0..count).rev().map(|back| (back, Verdict::Ack { result: None })).collect()
    })
}

fn rate_rule() -> impl Strategy<Value = RateRule> {
    (1..3_u32, 1..15_u64, proptest::option::of(1..4_u32)).prop_map(|(limit, per, burst)| RateRule {
        limit,
        per: Duration::from_secs(per),
        burst,
    })
}

prop_compose! {
    fn options()(
        hold in prop_oneof![
            2 => Just(UniqueHold::Live),
            1 => (1..30_u64).prop_map(|time| UniqueHold::WindowMs(Duration::from_secs(time))),
            1 => Just(UniqueHold::Debounce),
        ],
        idempotency in proptest::option::weighted(0.2, prop_oneof![Just("i"), Just("j")]),
        custom_id in proptest::option::weighted(0.2, proptest::sample::select(&CUSTOM_IDS[..])),
        extra in proptest::option::weighted(0.2, Just("{}")),
        concurrency in proptest::option::weighted(0.4, (
            prop_oneof![Just("x"), Just("y")],
            proptest::option::of(1..3_u32),
        )),
        rate in proptest::option::weighted(0.3, (prop_oneof![Just("x"), Just("r")], rate_rule())),
        on in proptest::option::weighted(0.3, proptest::collection::vec(job_id(), 1..3)),
        on_failure in proptest::sample::select(&OnFailure::ALL[..]),
    ) -> Options {
        let key = |key: &str| FlowKey::parse(key).expect("a key");
        let flow = Flow {
            concurrency: concurrency.map(|(name, max)| Concurrency { key: key(name), max }),
            rate: rate.map(|(name, rule)| Rate { key: key(name), rule }),
        };
        let idempotency = idempotency.map(unique_key);
        let custom_id = custom_id.map(unique_key);
        let on = on.unwrap_or_default();
        let on_failure = if on.is_empty() { OnFailure::Fail } else { on_failure };
        let depends = Depends { on, on_failure };
        let extra = extra.map(Box::from);
        Options { hold, idempotency, custom_id, flow, depends, slot: None, extra }
    }
}

/// Jobs of which some wait for others before them.
fn flow() -> impl Strategy<Value = Vec<NewJob>> {
    let job = (new_job(), proptest::collection::vec(0..3_usize, 0..3));
    proptest::collection::vec(job, 2..5).prop_map(|jobs| {
        let earlier = |(place, (job, waits_for)): (usize, (NewJob, Vec<usize>))| {
            let waits_for = waits_for.into_iter().filter(|need| *need < place).collect();
            NewJob { waits_for, is_part: true, ..job }
        };
        jobs.into_iter().enumerate().map(earlier).collect()
    })
}

prop_compose! {
    fn edit()(
        priority in proptest::option::of(-1..2_i32),
        size in proptest::option::of(0..40_usize),
        when in proptest::option::of(when()),
        queue in proptest::option::weighted(0.3, queue()),
    ) -> Edit {
        let payload = |size| Payload::new(Bytes::from(vec![b'2'; size])).expect("it is small");
        Edit { priority, payload: size.map(payload), when, queue, was: None }
    }
}

prop_compose! {
    /// What a queue takes and keeps.
    fn guards()(
        payload_bytes_max in proptest::option::weighted(0.1, 1..40_u64),
        pushes_per_minute in proptest::option::weighted(0.1, 0..5_u64),
        depth_max in proptest::option::weighted(0.1, 0..6_u64),
        waiting_bytes_max in proptest::option::weighted(0.1, 0..90_u64),
        keep_completed in proptest::option::weighted(0.2, seconds(20)),
        keep_completed_max in proptest::option::weighted(0.2, 0..4_u64),
        keep_dead in proptest::option::weighted(0.2, seconds(20)),
        keep_dead_max in proptest::option::weighted(0.2, 0..4_u64),
        keep_payload in proptest::option::weighted(0.2, seconds(20)),
    ) -> Settings {
        Settings {
            payload_bytes_max,
            pushes_per_minute,
            depth_max,
            waiting_bytes_max,
            keep_completed,
            keep_completed_max,
            keep_dead,
            keep_dead_max,
            keep_payload,
            ..Settings::default()
        }
    }
}

prop_compose! {
    fn settings()(
        concurrency in proptest::option::weighted(0.3, 1..4_u32),
        rate in proptest::option::weighted(0.3, rate_rule()),
        of_key in proptest::option::weighted(0.3, (1..4_u32, rate_rule())),
        kept in guards(),
    ) -> Settings {
        let limits = |(max, rule)| KeyLimits { concurrency: Some(max), rate: Some(rule) };
        let keys = of_key.map(|of_key| ("x".to_owned(), limits(of_key)));
        Settings { concurrency, rate, keys: keys.into_iter().collect(), ..kept }
    }
}

prop_compose! {
    fn claim()(
        queue in queue(),
        count in how_many(),
        bytes_max in prop_oneof![Just(1_000_000_usize), 1..60_usize],
        hold in prop_oneof![
            session().prop_map(Hold::Session),
            (1..20_u64).prop_map(|time| Hold::Time(Duration::from_secs(time))),
        ],
        worker in prop_oneof![Just("w1"), Just("")],
    ) -> Claim {
        let worker = WorkerName::parse(worker).expect("a name");
        Claim { queue, count, enough: count, bytes_max, worker, hold }
    }
}

fn verdict() -> impl Strategy<Value = Verdict> {
    let retry = prop_oneof![
        3 => Just(Retry::Backoff),
        1 => seconds(5).prop_map(Retry::After),
        1 => Just(Retry::Reject),
    ];
    prop_oneof![
        3 => proptest::option::of(Just(Bytes::from_static(b"{}")))
            .prop_map(|result| Verdict::Ack { result }),
        3 => (retry, 0.0..1.0).prop_map(|(retry, chance)| Verdict::Fail {
            code: FailureCode::parse("NO").expect("a code"),
            message: "no".into(),
            retry,
            chance,
        }),
        1 => Just(Verdict::Release),
        1 => seconds(9).prop_map(Verdict::Snooze),
    ]
}

prop_compose! {
    fn filter()(
        queue in proptest::option::of(queue()),
        state in proptest::option::of(proptest::sample::select(&State::ALL[..])),
        tag in proptest::option::weighted(0.3, Just(Tag::parse("t").expect("a tag"))),
        reason in proptest::option::weighted(0.2, proptest::sample::select(&Reason::ALL[..])),
        content_type in proptest::option::weighted(0.1, prop_oneof![
            Just("application/json"),
            Just("text/plain"),
        ]),
        (from, to) in (
            proptest::option::weighted(0.2, 0..60_i64),
            proptest::option::weighted(0.2, 0..60_i64),
        ),
        (is_replayed, is_live) in (
            proptest::option::weighted(0.2, proptest::bool::ANY),
            proptest::option::weighted(0.2, proptest::bool::ANY),
        ),
        oldest_first in proptest::bool::ANY,
        limit in 1..6_usize,
        cursor in proptest::option::of(job_id()),
    ) -> JobFilter {
        let second = |second: i64| Timestamp(1_790_000_000_000 + 1000 * second);
        JobFilter {
            queue,
            state,
            tag,
            reason,
            content_type: content_type.map(str::to_owned),
            created_from: from.map(second),
            created_to: to.map(second),
            is_replayed,
            is_live,
            oldest_first,
            limit,
            cursor,
        }
    }
}

fn lease() -> impl Strategy<Value = Lease> {
    (job_id(), 1..4_u32).prop_map(|(job, delivery)| Lease { job, delivery })
}

fn schedule_name() -> impl Strategy<Value = ScheduleName> {
    prop_oneof![Just("s"), Just("t")].prop_map(|name| ScheduleName::parse(name).expect("a name"))
}

prop_compose! {
    fn schedule()(
        rule in prop_oneof![Just("@every 7s"), Just("*/5 * * * * *"), Just("* * * * *")],
        overlap in proptest::sample::select(&Overlap::ALL[..]),
        catch_up in prop_oneof![
            Just(CatchUp::None),
            Just(CatchUp::Last),
            (1..4_u32, 1..60_u64).prop_map(|(cap, window)| CatchUp::All {
                cap,
                window: Duration::from_secs(window),
            }),
        ],
        jitter in prop_oneof![2 => Just(Duration::ZERO), 1 => seconds(9)],
        ends_at in proptest::option::weighted(0.2, 1_790_000_010_000..1_790_000_100_000_i64),
        runs_max in proptest::option::weighted(0.2, 1..5_u64),
        job in new_job(),
    ) -> ScheduleSpec {
        let mut job = NewJob { when: When::Now, ..job };
        job.options.depends = Depends::default();
        ScheduleSpec {
            rule: CronRule::parse(rule, "").expect("a rule"),
            overlap,
            catch_up,
            jitter,
            ends_at: ends_at.map(Timestamp),
            runs_max,
            job,
        }
    }
}

/// A step, as often as such steps come in life.
pub fn step() -> impl Strategy<Value = Step> {
    let held = || 0..8_usize;
    prop_oneof![
        8 => proptest::collection::vec(new_job(), 1..4).prop_map(Step::Push),
        2 => flow().prop_map(Step::Push),
        5 => alike().prop_map(Step::Push),
        3 => acks().prop_map(Step::Settle),
        8 => proptest::collection::vec(claim(), 1..3).prop_map(Step::Claim),
        8 => proptest::collection::vec((held(), verdict()), 1..4).prop_map(Step::Settle),
        1 => (lease(), verdict()).prop_map(|(lease, verdict)| Step::SettleAny(lease, verdict)),
        2 => (held(), seconds(20)).prop_map(|(lease, hold)| Step::Extend(lease, hold)),
        1 => (held(), 0..100_u8).prop_map(|(lease, percent)| Step::Progress(lease, percent)),
        1 => (held(), 0..3_u32).prop_map(|(lease, index)| Step::Partial(lease, index)),
        2 => proptest::collection::vec(session(), 1..3).prop_map(Step::Renew),
        1 => session().prop_map(Step::Adopt),
        2 => session().prop_map(Step::GiveBack),
        8 => proptest::sample::select(&Duty::ALL[..]).prop_map(Step::Duty),
        2 => (queue(), prop_oneof![1 => Just(Pausing::Pause), 2 => Just(Pausing::Resume)])
            .prop_map(|(queue, pausing)| Step::Pause(queue, pausing)),
        2 => job_id().prop_map(Step::Retry),
        1 => (job_id(), proptest::option::of(edit()))
            .prop_map(|(id, edit)| Step::Replay(id, edit.unwrap_or_default())),
        1 => job_id().prop_map(Step::Delete),
        1 => Just(Step::Decisions),
        2 => (job_id(), seconds(10)).prop_map(|(id, grace)| Step::Cancel(id, grace)),
        1 => job_id().prop_map(Step::Discard),
        2 => (job_id(), edit()).prop_map(|(id, edit)| Step::Edit(id, edit)),
        1 => (queue(), settings()).prop_map(|(queue, settings)| Step::Settings(queue, settings)),
        1 => queue().prop_map(Step::Keys),
        1 => job_id().prop_map(Step::Promote),
        2 => filter().prop_map(Step::List),
        1 => job_id().prop_map(Step::Look),
        1 => queue().prop_map(Step::LookAt),
        6 => prop_oneof![
            (1..9_000_u64).prop_map(Duration::from_millis),
            seconds(40),
        ]
        .prop_map(Step::Pass),
        2 => (schedule_name(), schedule()).prop_map(|(name, spec)| Step::Schedule(name, spec.into())),
        1 => (schedule_name(), prop_oneof![1 => Just(Pausing::Pause), 2 => Just(Pausing::Resume)])
            .prop_map(|(name, pausing)| Step::PauseSchedule(name, pausing)),
        1 => schedule_name().prop_map(Step::RunSchedule),
        1 => schedule_name().prop_map(Step::DeleteSchedule),
        1 => (job_id(), prop_oneof![Just("one"), Just("two")])
            .prop_map(|(id, message)| Step::Log(id, message)),
        3 => kv::step().prop_map(Step::Kv),
        1 => Just(Step::Reopen),
    ]
}

/// Keeps few finished jobs for a short time, so that they go within a run.
pub(crate) const RETENTION: Retention = Retention {
    completed: Duration::from_secs(30),
    completed_max: 4,
    dead: Duration::from_secs(60),
};

/// What a store answered.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    /// All of it.
    pub(crate) text: String,
    /// The leases that it gave.
    pub(crate) leased: Vec<Lease>,
}

/// The leases that were given so far.
#[derive(Debug, Default, Clone)]
pub(crate) struct Given(Vec<Lease>);

impl Given {
    pub(crate) fn add(&mut self, answer: &Answer) {
        self.0.extend(&answer.leased);
    }

    /// The lease that was given so many leases ago, if any was.
    fn lease(&self, back: usize) -> Lease {
        let none = Lease { job: JobId(1), delivery: 1 };
        self.0.iter().rev().nth(back).copied().unwrap_or(none)
    }
}

/// Asks a store, for the text of its answer.
macro_rules! ask {
    ($call:expr) => {
        format!("{:?}", $call.await?)
    };
}

/// Does a step on a store, unless it is about the time or the store itself.
pub(crate) async fn perform(
    store: &dyn Store,
    term: &Term,
    given: &Given,
    step: &Step,
) -> Result<Answer, Error> {
    let text = match step {
        Step::Claim(claims) => {
            let mut claimed = store.claim(claims.clone()).await?;
            // Queues with limits may be served after the others.
            claimed.expired.sort_by_key(|effect| effect.job);
            // In no order that means anything.
            claimed.closed.sort();
            let leased = claimed.jobs.iter().flatten().map(|job| job.lease).collect();
            return Ok(Answer { text: format!("{claimed:?}"), leased });
        }
        Step::Push(jobs) => ask!(store.push(jobs.clone())),
        Step::Settle(settlements) => {
            let settlement = |(back, verdict): &(usize, Verdict)| Settlement {
                lease: given.lease(*back),
                verdict: verdict.clone(),
            };
            ask!(store.settle(settlements.iter().map(settlement).collect()))
        }
        Step::SettleAny(lease, verdict) => {
            let settlement = Settlement { lease: *lease, verdict: verdict.clone() };
            let settled = ask!(store.settle(vec![settlement]));
            let refused = Refused { lease: *lease, who: "ada".into(), what: "ack" };
            settled + &ask!(store.note_refused(vec![refused]))
        }
        Step::Extend(back, hold) => {
            let extension = Extension { lease: given.lease(*back), hold: *hold };
            ask!(store.extend(vec![extension]))
        }
        Step::Progress(back, percent) => {
            let progress = Progress { percent: *percent, message: "on".into() };
            ask!(store.progress(given.lease(*back), progress))
        }
        Step::Partial(back, index) => {
            let partial = Partial { index: Some(*index), data: "1".into() };
            ask!(store.partial(given.lease(*back), partial))
        }
        Step::Renew(sessions) => ask!(store.renew(sessions.clone())),
        Step::Adopt(session) => ask!(store.adopt(*session)),
        Step::GiveBack(session) => ask!(store.give_back(*session)),
        Step::Duty(duty) => ask!(store.run_duty(term, *duty)),
        step => perform_for_people(store, step).await?,
    };
    Ok(Answer { text, leased: Vec::new() })
}

async fn perform_for_people(store: &dyn Store, step: &Step) -> Result<String, Error> {
    Ok(match step {
        Step::Pause(queue, pausing) => {
            ask!(store.set_paused(queue.clone(), *pausing, "ada".into()))
        }
        Step::Retry(id) => ask!(store.retry(*id)),
        Step::Replay(id, edit) => ask!(store.replay(*id, edit.clone())),
        Step::Delete(id) => ask!(store.delete(*id)),
        Step::Decisions => ask!(store.decisions(None, 50)),
        Step::Cancel(id, grace) => ask!(store.cancel(*id, *grace)),
        Step::Discard(id) => ask!(store.discard(*id)),
        Step::Edit(id, edit) => ask!(store.edit(*id, edit.clone())),
        Step::Settings(queue, settings) => {
            ask!(store.set_settings(queue.clone(), settings.clone()))
        }
        Step::Keys(queue) => ask!(store.key_uses(queue.clone())),
        Step::Promote(id) => ask!(store.promote(*id)),
        Step::Schedule(name, spec) => ask!(store.put_schedule(name.clone(), (**spec).clone())),
        Step::PauseSchedule(name, pausing) => ask!(store.pause_schedule(name.clone(), *pausing)),
        Step::RunSchedule(name) => ask!(store.run_schedule(name.clone())),
        Step::DeleteSchedule(name) => ask!(store.delete_schedule(name.clone())),
        Step::List(filter) => ask!(store.jobs(filter.clone())),
        Step::Look(id) => ask!(store.job(*id)),
        Step::LookAt(queue) => ask!(store.queues(Some(queue.clone()))),
        Step::Log(id, message) => {
            ask!(store.log(*id, "info".into(), Bytes::from_static(message.as_bytes())))
        }
        Step::Kv(step) => kv::perform(store, step).await?,
        other => unreachable!("{other:?} is no call of a store"),
    })
}

/// All that can be seen of a store, thing by thing. `newest` is the newest job that was ever seen:
/// those that are forgotten must be so everywhere.
pub(crate) async fn visible(store: &dyn Store, newest: &mut u64) -> Result<Vec<String>, Error> {
    let mut seen = vec![ask!(store.queues(None)), kv::visible(store).await?];
    let schedules = store.schedules(SchedulesWanted::After(None, 10)).await?;
    seen.push(format!("{schedules:?}"));
    for Schedule { name, .. } in schedules {
        seen.push(ask!(store.fires(name, 1000)));
    }
    let page = store.jobs(JobFilter { limit: 10_000, ..JobFilter::default() }).await?;
    *newest = page.jobs.first().map_or(*newest, |job| job.id.0.max(*newest));
    seen.push(format!("{page:?}"));
    // One more than there are.
    let all: Vec<JobId> = (1..=*newest + 1).map(JobId).collect();
    seen.push(ask!(store.jobs_by_id(all.clone())));
    seen.push(ask!(store.leases_of(all)));
    for name in CUSTOM_IDS {
        seen.push(ask!(store.job_by_custom_id(unique_key(name))));
    }
    for id in (1..=*newest).map(JobId) {
        let told = store.timeline(id).await?;
        seen.push(format!("{told:?} {} {}", ask!(store.notes(id)), ask!(store.logs(id))));
        if told.is_some_and(|(job, _)| !job.state.is_final()) {
            seen.push(ask!(store.standing(id)));
        }
    }
    Ok(seen)
}

/// A store under test beside the model.
struct Run<M: Maker> {
    clock: Arc<ManualClock>,
    model: Arc<dyn Store>,
    home: M::Home,
    /// `None` only while it is opened again.
    store: Option<Arc<dyn Store>>,
    given: Given,
    /// The newest job that has been seen.
    newest: u64,
}

/// Does the steps on both.
///
/// # Panics
///
/// If they do not answer the same.
pub async fn run<M: Maker>(steps: Vec<Step>) {
    let clock = ManualClock::new();
    let home = M::home();
    let mut run = Run::<M> {
        model: Memory::open(&Memory::home(), &clock, RETENTION).await,
        store: Some(M::open(&home, &clock, RETENTION).await),
        home,
        clock,
        given: Given::default(),
        newest: 0,
    };
    for (number, step) in steps.into_iter().enumerate() {
        let what = format!("step {number}: {step:?}");
        run.step(step, &what).await;
        run.look(&what).await;
    }
}

impl<M: Maker> Run<M> {
    fn store(&self) -> &dyn Store {
        self.store.as_deref().expect("it is open")
    }

    async fn step(&mut self, step: Step, what: &str) {
        match step {
            Step::Pass(time) => M::pass(&self.home, &self.clock, time),
            Step::Reopen => {
                let key = self.store.take().map(|store| store.lease_key());
                let store = M::open(&self.home, &self.clock, RETENTION).await;
                assert_eq!(Some(store.lease_key()), key, "{what}");
                self.store = Some(store);
            }
            step => {
                let term = M::term(&self.home);
                let model = perform(&*self.model, &term, &self.given, &step).await;
                let model = model.expect("the model does not fail");
                let other = perform(self.store(), &term, &self.given, &step).await;
                assert_eq!(other.expect("the store does not fail"), model, "{what}");
                self.given.add(&model);
            }
        }
    }

    /// After each step, everything that can be seen must be the same.
    async fn look(&mut self, what: &str) {
        let model = visible(&*self.model, &mut self.newest).await;
        let model = model.expect("the model does not fail");
        let mut newest = self.newest;
        let other = visible(self.store(), &mut newest).await.expect("the store does not fail");
        for (other, model) in other.iter().zip(&model) {
            assert_eq!(other, model, "{what}");
        }
        assert_eq!(other.len(), model.len(), "{what}");
    }
}
