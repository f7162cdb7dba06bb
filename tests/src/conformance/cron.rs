//! Schedules, and the jobs that their slots make.

use std::time::Duration;

use batonq_server::job::{
    CatchUp, CronRule, JobId, NewJob, Overlap, ScheduleName, ScheduleSpec, Slot, State, Timestamp,
    UniqueKey, When,
};
use batonq_server::store::{
    Duty, Fire, FireOutcome, Pausing, Pushed, PutSchedule, Schedule, SchedulesWanted,
};

use super::given::{Given, Jobs, SECOND, ack, job};
use super::rules;
use crate::stores::Maker;

fn name(name: &str) -> ScheduleName {
    ScheduleName::parse(name).expect("a name")
}

/// Every ten seconds.
fn spec() -> ScheduleSpec {
    ScheduleSpec {
        rule: CronRule::parse("@every 10s", "").expect("a rule"),
        overlap: Overlap::Allow,
        catch_up: CatchUp::Last,
        jitter: Duration::ZERO,
        ends_at: None,
        runs_max: None,
        job: job(),
    }
}

impl<M: Maker> Given<M> {
    async fn schedule(&self, spec: ScheduleSpec) {
        let put = self.store.put_schedule(name("s"), spec).await.expect("it works");
        assert_eq!(put, PutSchedule::Created);
    }

    async fn shown(&self) -> Schedule {
        let found = self.store.schedules(SchedulesWanted::One(name("s"))).await;
        found.expect("it works").pop().expect("it is there")
    }

    /// Lets ten seconds pass, and the duty run.
    async fn next_slot(&self) -> Vec<JobId> {
        self.pass(10 * SECOND);
        self.duty(Duty::Cron).await.effects.jobs()
    }

    async fn fires(&self) -> Vec<(FireOutcome, u64)> {
        let fires = self.store.fires(name("s"), 100).await.expect("it works").expect("it is there");
        fires.into_iter().rev().map(|fire| (fire.outcome, fire.count)).collect()
    }
}

rules! {
    async fn each_slot_makes_one_job(given: Given<M>) {
        given.schedule(spec()).await;
        assert_eq!(given.duty(Duty::Cron).await.effects, []);
        let first = given.next_slot().await;
        assert_eq!(first.len(), 1);
        assert_eq!(given.duty(Duty::Cron).await.effects, []);
        let made = given.job(first[0]).await;
        let at = Timestamp(given.now().0 / 10_000 * 10_000);
        assert_eq!(made.options.slot, Some(Slot { schedule: name("s"), at }));
        assert_eq!(made.state, State::Ready);
        assert_eq!(given.next_slot().await.len(), 1);
        let shown = given.shown().await;
        assert_eq!((shown.runs, shown.missed), (2, 0));
        assert_eq!(shown.next_at, Some(at + 20 * SECOND));
        assert_eq!(given.fires().await, [(FireOutcome::Fired, 1); 2]);
    }

    async fn the_duty_says_when_the_next_slot_comes(given: Given<M>) {
        assert_eq!(given.duty(Duty::Cron).await.next, None);
        given.schedule(spec()).await;
        let next = given.shown().await.next_at.unwrap();
        assert_eq!(given.duty(Duty::Cron).await.next, Some(next.since(given.now())));
    }

    async fn jobs_are_made_as_the_schedule_says(given: Given<M>) {
        given.schedule(ScheduleSpec { job: NewJob { priority: 7, ..job() }, ..spec() }).await;
        let made = given.job(given.next_slot().await[0]).await;
        assert_eq!((made.priority, made.payload), (7, Some(job().payload)));
    }

    async fn missed_slots_are_made_up_for_by_the_last(given: Given<M>) {
        given.schedule(spec()).await;
        given.pass(3600 * SECOND);
        assert!((1..=2).contains(&given.duty(Duty::Cron).await.effects.len()));
        assert!(given.shown().await.missed >= 358);
        assert_eq!(given.fires().await[0].0, FireOutcome::Missed);
        assert_eq!(given.next_slot().await.len(), 1);
    }

    async fn all_missed_slots_within_a_window_are_made_up_for(given: Given<M>) {
        let catch_up = CatchUp::All { cap: 5, window: 600 * SECOND };
        given.schedule(ScheduleSpec { catch_up, ..spec() }).await;
        given.pass(3600 * SECOND);
        let made = given.duty(Duty::Cron).await.effects.len();
        assert!((5..=7).contains(&made), "{made}");
    }

    async fn a_slot_is_skipped_while_the_job_before_has_not_ended(given: Given<M>) {
        given.schedule(ScheduleSpec { overlap: Overlap::Skip, ..spec() }).await;
        assert_eq!(given.next_slot().await.len(), 1);
        assert_eq!(given.next_slot().await, []);
        given.end(given.lease().await, ack()).await;
        assert_eq!(given.next_slot().await.len(), 1);
        let outcomes: Vec<_> = given.fires().await.into_iter().map(|fire| fire.0).collect();
        assert_eq!(outcomes, [FireOutcome::Fired, FireOutcome::Skipped, FireOutcome::Fired]);
    }

    async fn a_slot_waits_in_line_while_the_job_before_has_not_ended(given: Given<M>) {
        given.schedule(ScheduleSpec { overlap: Overlap::Queue, ..spec() }).await;
        let first = given.next_slot().await[0];
        let second = given.next_slot().await[0];
        assert_eq!((given.state(first).await, given.state(second).await), (State::Ready, State::Blocked));
        given.end(given.lease().await, ack()).await;
        assert_eq!(given.state(second).await, State::Ready);
    }

    async fn a_paused_schedule_fires_nothing_and_makes_up_for_nothing(given: Given<M>) {
        given.schedule(spec()).await;
        assert!(given.store.pause_schedule(name("s"), Pausing::Pause).await.unwrap());
        assert_eq!(given.next_slot().await, []);
        assert_eq!(given.duty(Duty::Cron).await.next, None);
        given.pass(600 * SECOND);
        assert!(given.store.pause_schedule(name("s"), Pausing::Resume).await.unwrap());
        assert_eq!(given.duty(Duty::Cron).await.effects, []);
        assert_eq!(given.next_slot().await.len(), 1);
        assert_eq!(given.shown().await.missed, 0);
    }

    async fn a_schedule_ends_after_so_many_jobs(given: Given<M>) {
        given.schedule(ScheduleSpec { runs_max: Some(2), ..spec() }).await;
        for expected in [1, 1, 0] {
            assert_eq!(given.next_slot().await.len(), expected);
        }
        assert_eq!(given.shown().await.next_at, None);
    }

    async fn a_slot_whose_job_was_not_stored_is_none_of_so_many_jobs(given: Given<M>) {
        let unique = Some(UniqueKey::parse("k").unwrap());
        let job = NewJob { unique, ..job() };
        given.push(job.clone()).await;
        given.schedule(ScheduleSpec { runs_max: Some(1), job, ..spec() }).await;
        assert_eq!(given.next_slot().await, []);
        let holder = given.lease().await;
        given.end(holder, ack()).await;
        for expected in [1, 0] {
            assert_eq!(given.next_slot().await.len(), expected);
        }
        assert_eq!((given.shown().await.runs, given.shown().await.next_at), (1, None));
    }

    async fn a_schedule_ends_at_its_end(given: Given<M>) {
        let ends_at = Some(given.now() + 15 * SECOND);
        given.schedule(ScheduleSpec { ends_at, ..spec() }).await;
        let made = given.next_slot().await.len() + given.next_slot().await.len();
        assert!((1..=2).contains(&made));
        assert_eq!((given.shown().await.next_at, given.next_slot().await), (None, vec![]));
    }

    async fn its_job_can_be_pushed_out_of_turn(given: Given<M>) {
        given.schedule(spec()).await;
        let pushed = given.store.run_schedule(name("s")).await.unwrap().unwrap();
        assert!(matches!(pushed, Pushed::Inserted { state: State::Ready, .. }));
        given.store.run_schedule(name("s")).await.unwrap();
        assert_eq!(given.fires().await, [(FireOutcome::Manual, 1); 2]);
        assert_eq!(given.next_slot().await.len(), 1);
        assert_eq!(given.shown().await.runs, 3);
    }

    async fn a_changed_schedule_keeps_what_it_has_done(given: Given<M>) {
        given.schedule(spec()).await;
        given.next_slot().await;
        let faster = CronRule::parse("@every 5s", "").unwrap();
        let put = given.store.put_schedule(name("s"), ScheduleSpec { rule: faster, ..spec() }).await;
        assert_eq!(put.unwrap(), PutSchedule::Updated);
        assert_eq!(given.shown().await.runs, 1);
        given.pass(5 * SECOND);
        assert_eq!(given.duty(Duty::Cron).await.effects.len(), 1);
    }

    async fn a_change_that_leaves_the_rule_loses_no_slot(given: Given<M>) {
        given.schedule(spec()).await;
        given.pass(10 * SECOND);
        let changed = ScheduleSpec { overlap: Overlap::Skip, ..spec() };
        given.store.put_schedule(name("s"), changed).await.unwrap();
        assert_eq!(given.duty(Duty::Cron).await.effects.len(), 1);
    }

    async fn schedules_are_listed_by_name_in_pages(given: Given<M>) {
        for each in ["c", "a", "b"] {
            given.store.put_schedule(name(each), spec()).await.unwrap();
        }
        let page = async |after: Option<&str>, limit| {
            let wanted = SchedulesWanted::After(after.map(name), limit);
            let found = given.store.schedules(wanted).await.unwrap();
            found.iter().map(|schedule| schedule.name.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(page(None, 2).await, ["a", "b"]);
        assert_eq!(page(Some("b"), 2).await, ["c"]);
    }

    async fn a_deleted_schedule_fires_no_more_and_its_jobs_stay(given: Given<M>) {
        given.schedule(spec()).await;
        let made = given.next_slot().await[0];
        assert!(given.store.delete_schedule(name("s")).await.unwrap());
        assert!(!given.store.delete_schedule(name("s")).await.unwrap());
        assert_eq!(given.next_slot().await, []);
        assert_eq!(given.state(made).await, State::Ready);
        assert_eq!(given.store.fires(name("s"), 9).await.unwrap(), None);
    }

    async fn nothing_is_done_to_a_schedule_that_is_not_there(given: Given<M>) {
        let store = &given.store;
        assert!(!store.pause_schedule(name("s"), Pausing::Pause).await.unwrap());
        assert_eq!(store.run_schedule(name("s")).await.unwrap(), None);
        let one = SchedulesWanted::One(name("s"));
        assert_eq!(store.schedules(one).await.unwrap(), []);
    }

    async fn a_schedule_and_its_next_slot_outlive_a_restart(given: Given<M>) {
        let unique = Some(UniqueKey::parse("k").unwrap());
        let jitter = 5 * SECOND;
        let ends_at = Some(given.now() + 3600 * SECOND);
        let job = NewJob { unique, tags: vec![], when: When::Now, ..job() };
        let catch_up = CatchUp::All { cap: 3, window: 60 * SECOND };
        given.schedule(ScheduleSpec { job, jitter, ends_at, catch_up, ..spec() }).await;
        let before = given.shown().await;
        let given = given.reopened().await;
        assert_eq!(given.shown().await, before);
        given.pass(10 * SECOND);
        assert_eq!(given.duty(Duty::Cron).await.effects.len(), 1);
    }

    async fn the_history_is_forgotten_in_time(given: Given<M>) {
        given.schedule(spec()).await;
        given.next_slot().await;
        let fires: Vec<Fire> = given.store.fires(name("s"), 9).await.unwrap().unwrap();
        assert_eq!(fires.len(), 1);
        given.store.pause_schedule(name("s"), Pausing::Pause).await.unwrap();
        given.pass(7 * 86_400 * SECOND);
        given.duty(Duty::Retention).await;
        assert_eq!(given.store.fires(name("s"), 9).await.unwrap().unwrap(), []);
    }
}
