//! Jobs that were pushed together and wait for one time: each is still one by itself, before its time,
//! when it comes, and after.

use batonq_server::job::{
    Depends, JobId, NewJob, OnFailure, Options, Payload, Settings, State, Timestamp, When,
};
use batonq_server::store::{
    Claim, Counts, Duty, Edit, Hold, Pushed, Refusal, Retry, Settled, Settlement, Verdict,
};
use bytes::Bytes;

use super::given::{self, Given, Jobs, SECOND, ack, fail_with, named, plain, queue};
use super::rules;
use crate::stores::Maker;

fn in_a_second() -> NewJob {
    NewJob { when: When::After(SECOND), ..plain() }
}

/// So many that are ready since their time has come.
async fn due<M: Maker>(given: &Given<M>, count: usize) -> Vec<JobId> {
    let ids = given.together(in_a_second(), count).await;
    assert_eq!(given.a_second_passes().await, ids);
    ids
}

/// All that is ready, by claims of these sizes and a last one.
async fn claimed<M: Maker>(given: &Given<M>, counts: &[usize]) -> Vec<JobId> {
    let mut claimed = Vec::new();
    for count in counts.iter().copied().chain([2000]) {
        claimed.extend(given.claim(count).await.jobs());
    }
    claimed
}

const THEIR_TIME_CAME: [(&str, String); 1] = [("due", String::new())];

rules! {
    async fn they_come_behind_those_that_are_ready(given: Given<M>) {
        let late = given.together(in_a_second(), 600).await;
        let before = given.together(plain(), 70).await;
        assert_eq!(given.counts().await, Counts { ready: 70, scheduled: 600, ..Counts::default() });
        assert_eq!(given.a_second_passes().await, late);
        let after = given.together(plain(), 70).await;
        assert_eq!(given.counts().await, Counts { ready: 740, ..Counts::default() });
        let expected = [before, late, after].concat();
        assert_eq!(claimed(&given, &[3, 80, 1, 300]).await, expected);
    }

    async fn they_come_in_the_order_of_their_times(given: Given<M>) {
        let at = |millis| {
            let at = Timestamp(given.now().0 + millis);
            NewJob { when: When::At(at), ..plain() }
        };
        let last = given.together(at(900), 100).await;
        let single = given.push(at(500)).await;
        let first = given.together(at(100), 100).await;
        let high = given.together(NewJob { priority: 1, ..at(900) }, 100).await;
        given.a_second_passes().await;
        let expected = [&high, &first, &vec![single], &last].map(Vec::as_slice).concat();
        assert_eq!(claimed(&given, &[150]).await, expected);
    }

    async fn each_waits_with_its_own_payload(given: Given<M>) {
        let payload = |number: usize| Payload::new(Bytes::from(number.to_string())).unwrap();
        let jobs = (0..300).map(|number| NewJob { payload: payload(number), ..in_a_second() });
        let pushed = given.store.push(jobs.collect()).await.unwrap();
        let job = given.job(pushed[271].id().unwrap()).await;
        assert_eq!((job.state, job.payload), (State::Scheduled, Some(payload(271))));
        assert_eq!(job.run_at, Some(given.now() + SECOND));
        given.a_second_passes().await;
        let claimed = given.claim(999).await;
        let payloads: Vec<_> = claimed.iter().map(|job| job.payload.clone()).collect();
        assert_eq!(payloads, (0..300).map(payload).collect::<Vec<_>>());
        assert!(claimed.iter().all(|job| (job.attempt, job.lease.delivery) == (1, 1)));
    }

    async fn one_of_them_is_cancelled_and_the_others_wait_on(given: Given<M>) {
        for leaving in [0, 2, 99] {
            let ids = given.together(in_a_second(), 100).await;
            given.cancel(ids[leaving]).await;
            assert_eq!(given.counts().await.scheduled, 99);
            assert_eq!(given.state(ids[leaving]).await, State::Cancelled);
            let left: Vec<JobId> = ids.iter().copied().filter(|id| *id != ids[leaving]).collect();
            assert_eq!(given.a_second_passes().await, left);
            assert_eq!(claimed(&given, &[]).await, left);
        }
    }

    async fn one_of_them_is_changed_and_the_others_wait_on(given: Given<M>) {
        let ids = given.together(in_a_second(), 100).await;
        given.store.promote(ids[3]).await.unwrap();
        assert_eq!(given.claim(9).await.jobs(), ids[3..4]);
        let later = Edit { when: Some(When::After(3 * SECOND)), ..Edit::default() };
        given.store.edit(ids[0], later).await.unwrap();
        let elsewhere = Edit { queue: Some(named("other")), ..Edit::default() };
        given.store.edit(ids[50], elsewhere).await.unwrap();
        let first = Edit { priority: Some(1), ..Edit::default() };
        given.store.edit(ids[99], first).await.unwrap();
        assert_eq!(given.counts().await.scheduled, 98);
        given.a_second_passes().await;
        let expected = [&ids[99..], &ids[1..3], &ids[4..50], &ids[51..99]].concat();
        assert_eq!(claimed(&given, &[10]).await, expected);
        given.pass(SECOND);
        assert_eq!(given.a_second_passes().await, ids[..1]);
    }

    async fn in_line_one_of_them_is_changed_and_the_others_stay(given: Given<M>) {
        for taken in [0, 20] {
            let before = given.push(plain()).await;
            let ids = due(&given, 100).await;
            let after = given.push(plain()).await;
            assert_eq!(given.claim(1 + taken).await.jobs()[0], before);
            given.cancel(ids[50]).await;
            let high = Edit { priority: Some(1), ..Edit::default() };
            given.store.edit(ids[70], high).await.unwrap();
            assert_eq!(given.standing(ids[90]).await.line.unwrap().ahead, 90 - taken - 2);
            assert_eq!(given.standing(after).await.line.unwrap().ahead, 100 - taken - 2);
            let expected = [&ids[70..71], &ids[taken..50], &ids[51..70], &ids[71..], &[after]];
            assert_eq!(claimed(&given, &[7, 1]).await, expected.concat());
        }
    }

    async fn those_that_are_given_back_have_their_places_again(given: Given<M>) {
        let before = given.push(plain()).await;
        let ids = due(&given, 100).await;
        let after = given.push(plain()).await;
        let held = given.claim(31).await;
        for place in [13, 1, 30, 0] {
            given.end(held[place].lease, Verdict::Release).await;
        }
        let given_back = [before, ids[0], ids[12], ids[29]];
        let expected = [&given_back, &ids[30..], &[after]].concat();
        for (ahead, id) in expected.iter().enumerate() {
            assert_eq!(given.standing(*id).await.line.unwrap().ahead, ahead, "{id}");
        }
        assert_eq!(claimed(&given, &[1, 1, 1, 5, 50]).await, expected);
    }

    async fn those_that_are_held_are_not_taken_for_one_that_is_given_back(given: Given<M>) {
        let ids = due(&given, 100).await;
        let held = given.claim(30).await;
        given.end(held[0].lease, Verdict::Release).await;
        for (place, id) in ids.iter().enumerate() {
            let state = if (1..30).contains(&place) { State::Leased } else { State::Ready };
            assert_eq!(given.state(*id).await, state, "{place}");
        }
        let counts = Counts { ready: 71, leased: 29, ..Counts::default() };
        assert_eq!(given.counts().await, counts);
    }

    async fn they_are_acked_in_parts_and_their_stories_tell_when_their_time_came(given: Given<M>) {
        let ids = due(&given, 100).await;
        assert_eq!(given.noted(ids[0]).await, THEIR_TIME_CAME);
        let held = given.claim(100).await;
        let result = |place: usize| Some(Bytes::from(place.to_string()));
        let ack = |place: usize| Settlement {
            lease: held[place].lease,
            verdict: Verdict::Ack { result: result(place) },
        };
        for places in [(0..60).collect::<Vec<_>>(), vec![61, 63], (70..100).collect()] {
            let settled = given.store.settle(places.into_iter().map(ack).collect()).await.unwrap();
            assert!(settled.settled.iter().all(|it| matches!(it, Settled::Done(_))));
        }
        given.end(held[60].lease, Verdict::Release).await;
        given.end(held[62].lease, fail_with(Retry::After(SECOND))).await;
        let counts = Counts { ready: 1, scheduled: 1, leased: 6, completed: 92, ..Counts::default() };
        assert_eq!(given.counts().await, counts);
        for place in [0, 59, 60, 61, 62, 64, 69, 70, 99] {
            assert_eq!(given.noted(ids[place]).await, THEIR_TIME_CAME, "{place}");
        }
        assert_eq!(given.job(ids[99]).await.result, result(99));
        assert_eq!(given.a_second_passes().await, ids[62..63]);
        assert_eq!(given.noted(ids[62]).await, [THEIR_TIME_CAME, THEIR_TIME_CAME].concat());
        let kinds = |id| async move {
            given.story(id).await.iter().map(|event| event.kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(ids[99]).await, ["pushed", "due", "leased", "lease_ended", "ended"]);
    }

    async fn completed_ones_are_known_by_themselves(given: Given<M>) {
        let ids = due(&given, 20).await;
        let leases: Vec<_> = given.claim(20).await.iter().map(|job| job.lease).collect();
        let acks = leases.iter().map(|lease| Settlement { lease: *lease, verdict: ack() });
        given.store.settle(acks.collect()).await.unwrap();
        given.store.delete(ids[7]).await.unwrap();
        assert_eq!(given.store.job(ids[7]).await.unwrap(), None);
        assert_eq!(given.noted(ids[7]).await, []);
        assert_eq!(given.noted(ids[8]).await, THEIR_TIME_CAME);
    }

    async fn a_limit_serves_them_in_their_order(given: Given<M>) {
        let ids = due(&given, 200).await;
        let settings = Settings { concurrency: Some(90), ..Settings::default() };
        given.store.set_settings(queue(), settings).await.unwrap();
        assert_eq!(given.claim(3).await.jobs(), ids[..3]);
        assert_eq!(given.claim(999).await.jobs(), ids[3..90]);
        given.store.set_settings(queue(), Settings::default()).await.unwrap();
        given.duty(Duty::Retention).await;
        assert_eq!(claimed(&given, &[5]).await, ids[90..]);
    }

    async fn what_one_answer_can_not_hold_is_left_for_the_next(given: Given<M>) {
        let ids = due(&given, 100).await;
        let claim = |bytes_max| Claim { bytes_max, ..given::claim(5, Hold::Time(SECOND)) };
        let mut claimed = Vec::new();
        for bytes_max in [6, 9, 1000] {
            let answer = given.store.claim(vec![claim(bytes_max), claim(4)]).await.unwrap();
            claimed.push(answer.jobs.iter().map(Vec::len).collect::<Vec<_>>());
            let taken = answer.jobs.concat().jobs();
            let from = ids.iter().position(|id| *id == taken[0]).unwrap();
            assert_eq!(taken, ids[from..from + taken.len()]);
        }
        assert_eq!(claimed, [[3, 2], [4, 2], [5, 2]]);
        assert_eq!(given.claim(999).await.jobs(), ids[18..]);
    }

    async fn a_guard_counts_each_of_them(given: Given<M>) {
        given.together(in_a_second(), 100).await;
        for settings in [
            Settings { depth_max: Some(101), ..Settings::default() },
            Settings { waiting_bytes_max: Some(203), ..Settings::default() },
        ] {
            given.store.set_settings(queue(), settings).await.unwrap();
            let one = given.push(plain()).await;
            let refused = given.store.push(vec![plain()]).await.unwrap();
            assert!(matches!(refused[0], Pushed::Refused(Refusal::Guard(_))), "{refused:?}");
            given.cancel(one).await;
        }
    }

    async fn others_may_wait_for_one_of_them(given: Given<M>) {
        let ids = given.together(in_a_second(), 100).await;
        let depends = Depends { on: vec![ids[40]], on_failure: OnFailure::Fail };
        let waits = NewJob { options: Options { depends, ..Options::default() }.into(), ..plain() };
        let waits = given.push(waits).await;
        assert_eq!(given.state(waits).await, State::Blocked);
        assert_eq!(given.a_second_passes().await, ids);
        let held = given.claim(999).await;
        given.end(held[40].lease, ack()).await;
        assert_eq!(given.claim(9).await.jobs(), [waits]);
    }

    async fn they_wait_and_stand_in_line_after_a_restart(given: Given<M>) {
        let ids = due(&given, 100).await;
        given.claim(2).await;
        let late = given.together(in_a_second(), 100).await;
        let given = given.reopened().await;
        let counts = Counts { ready: 98, leased: 2, scheduled: 100, ..Counts::default() };
        assert_eq!(given.counts().await, counts);
        assert_eq!(given.a_second_passes().await, late);
        assert_eq!(claimed(&given, &[4]).await, [&ids[2..], &late].concat());
    }
}
