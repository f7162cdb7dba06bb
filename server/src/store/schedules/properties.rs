//! What holds of every schedule, however late its duty comes and whatever becomes of its jobs.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

/// A whole minute.
const START: i64 = 1_790_000_040_000;

/// A schedule and a course of things: how long after each other the duty comes, in ms, and whether
/// the job of the last slot has ended by then.
#[derive(Debug, Clone)]
struct Case {
    spec: ScheduleSpec,
    visits: Vec<(i64, bool)>,
}

fn specs() -> impl Strategy<Value = ScheduleSpec> {
    let rule = prop_oneof![
        Just("* * * * * *"),
        Just("*/7 * * * * *"),
        Just("* * * * *"),
        Just("*/5 * * * *"),
        Just("@every 3s"),
        Just("@every 90s"),
    ];
    let catch_up = prop_oneof![
        Just(CatchUp::None),
        Just(CatchUp::Last),
        (1_u32..6, 1_u64..600)
            .prop_map(|(cap, seconds)| CatchUp::All { cap, window: Duration::from_secs(seconds) }),
    ];
    let ends_at = proptest::option::weighted(0.2, 0_i64..900_000);
    let runs_max = proptest::option::weighted(0.3, 1_u64..20);
    let overlap = (0_usize..3).prop_map(|at| Overlap::ALL[at]);
    (rule, overlap, catch_up, ends_at, runs_max).prop_map(
        |(rule, overlap, catch_up, ends_at, runs_max)| ScheduleSpec {
            rule: CronRule::parse(rule, "").expect("a good rule"),
            overlap,
            catch_up,
            jitter: Duration::ZERO,
            ends_at: ends_at.map(|after| Timestamp(START + after)),
            runs_max,
            job: NewJob::new(
                QueueName::parse("q").expect("a good name"),
                Payload::new(Bytes::from_static(b"{}")).expect("a small payload"),
            ),
        },
    )
}

fn cases() -> impl Strategy<Value = Case> {
    let wait = prop_oneof![3 => 100_i64..3_000, 1 => 10_000_i64..400_000];
    let visits = proptest::collection::vec((wait, any::<bool>()), 1..30);
    (specs(), visits).prop_map(|(spec, visits)| Case { spec, visits })
}

/// All that became of the slots of a case, and the schedule in the end, with the slot that it began
/// with.
struct Course {
    first: Option<Timestamp>,
    schedule: Schedule,
    fires: Vec<Fire>,
    /// Each job with the jobs that it waits for.
    jobs: Vec<(JobId, Vec<JobId>)>,
}

fn run(case: &Case) -> Course {
    let name = ScheduleName::parse("s").expect("a good name");
    let mut schedule = Schedule::new(name, case.spec.clone(), Timestamp(START));
    let first = schedule.next_at;
    let (mut now, mut fires, mut jobs) = (START, Vec::new(), Vec::new());
    for (wait, has_ended) in &case.visits {
        now += wait;
        if schedule.next_at.is_none_or(|next| next.0 > now) {
            continue;
        }
        let plan = Plan::new(vec![schedule], Timestamp(now), |_| !has_ended);
        let known = jobs.len();
        let id = |item: usize| JobId((known + item + 1) as u64);
        let waits = plan.jobs.iter().map(|job| {
            let on = job.options.depends.on.iter().copied();
            on.chain(job.waits_for.iter().map(|item| id(*item))).collect()
        });
        let made: Vec<(JobId, Vec<JobId>)> =
            waits.enumerate().map(|(item, on)| (id(item), on)).collect();
        let pushed: Vec<Pushed> = made
            .iter()
            .map(|(id, _)| Pushed::Inserted { id: *id, state: State::Ready, run_at: None })
            .collect();
        jobs.extend(made);
        let (mut schedules, became) = plan.conclude(&pushed);
        schedule = schedules.remove(0);
        fires.extend(became.into_iter().map(|(_, fire)| fire));
    }
    Course { first, schedule, fires, jobs }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..<_>::default() })]

    #[test]
    fn every_slot_is_decided_once(case in cases()) {
        let Course { first, schedule, fires, .. } = run(&case);
        let Some(first) = first else { return Ok(()) };
        let mut slots: Vec<Timestamp> = fires
            .iter()
            .filter(|fire| fire.outcome != FireOutcome::Missed)
            .map(|fire| fire.slot)
            .collect();
        let decided = slots.len();
        slots.sort_unstable();
        slots.dedup();
        prop_assert_eq!(slots.len(), decided, "a slot was decided twice");
        for slot in &slots {
            let is_slot = case.spec.rule.next(Timestamp(slot.0 - 1)) == Some(*slot);
            prop_assert!(is_slot, "{slot:?} is none");
        }
        // Until the slot that comes next, none is left out.
        if let Some(next) = schedule.next_at {
            let all = std::iter::successors(Some(first), |slot| case.spec.rule.next(*slot))
                .take_while(|slot| *slot < next)
                .count() as u64;
            let told: u64 = fires.iter().map(|fire| fire.count).sum();
            prop_assert_eq!(told, all);
        }
        let missed: u64 = fires
            .iter()
            .filter(|fire| fire.outcome == FireOutcome::Missed)
            .map(|fire| fire.count)
            .sum();
        prop_assert_eq!(schedule.missed, missed);
    }

    #[test]
    fn a_schedule_makes_as_many_jobs_as_it_may_and_none_from_its_end_on(case in cases()) {
        let Course { schedule, fires, jobs, .. } = run(&case);
        let fired: Vec<&Fire> =
            fires.iter().filter(|fire| fire.outcome == FireOutcome::Fired).collect();
        prop_assert_eq!(fired.len(), jobs.len());
        prop_assert_eq!(schedule.runs, jobs.len() as u64);
        if let Some(max) = case.spec.runs_max {
            prop_assert!(schedule.runs <= max);
            prop_assert!(schedule.runs < max || schedule.next_at.is_none());
        }
        if let Some(end) = case.spec.ends_at {
            prop_assert!(fires.iter().all(|fire| fire.slot < end));
            prop_assert!(schedule.next_at.is_none_or(|next| next < end));
        }
    }

    #[test]
    fn overlapping_jobs_are_treated_as_the_schedule_says(case in cases()) {
        let Course { fires, jobs, .. } = run(&case);
        let skips = fires.iter().filter(|fire| fire.outcome == FireOutcome::Skipped).count();
        match case.spec.overlap {
            Overlap::Allow => {
                prop_assert_eq!(skips, 0);
                prop_assert!(jobs.iter().all(|(_, on)| on.is_empty()));
            }
            Overlap::Skip => prop_assert!(jobs.iter().all(|(_, on)| on.is_empty())),
            Overlap::Queue => {
                prop_assert_eq!(skips, 0);
                for (job, on) in &jobs {
                    prop_assert!(on.iter().all(|before| before.0 + 1 == job.0), "{job:?} {on:?}");
                }
            }
        }
    }
}
