//! Jobs that are alike and were pushed, leased or acked together: each is still one by itself.

use batonq_server::job::{JobId, NewJob, Payload, Settings, State, Timestamp, When};
use batonq_server::store::{
    Cancelled, Changed, Claim, Counts, Destination, Discarded, Duty, Edit, Hold, Pushed, Refusal,
    Retry, Settled, Settlement, Verdict,
};
use bytes::Bytes;

use super::given::{self, Given, Jobs, SECOND, ack, fail_with, job, named, plain, queue};
use super::rules;
use crate::stores::Maker;

/// So many jobs of one push.
async fn together<M: Maker>(given: &Given<M>, count: usize) -> Vec<JobId> {
    given.together(plain(), count).await
}

fn acks(leases: impl IntoIterator<Item = batonq_server::job::Lease>) -> Vec<Settlement> {
    leases.into_iter().map(|lease| Settlement { lease, verdict: ack() }).collect()
}

rules! {
    async fn jobs_of_one_push_have_their_own_payloads_in_their_order(given: Given<M>) {
        let payload = |number: usize| Payload::new(Bytes::from(number.to_string())).unwrap();
        let jobs = (0..123).map(|number| NewJob { payload: payload(number), ..plain() }).collect();
        given.store.push(jobs).await.unwrap();
        let claimed = given.claim(1000).await;
        let payloads: Vec<_> = claimed.iter().map(|job| job.payload.clone()).collect();
        assert_eq!(payloads, (0..123).map(payload).collect::<Vec<_>>());
    }

    async fn other_jobs_between_them_keep_the_order(given: Given<M>) {
        let high = NewJob { priority: 1, ..plain() };
        let jobs = vec![plain(), plain(), job(), high.clone(), high, plain(), plain()];
        let pushed = given.store.push(jobs).await.unwrap();
        let ids: Vec<JobId> = pushed.iter().filter_map(|pushed| pushed.id()).collect();
        let expected = [3, 4, 0, 1, 2, 5, 6].map(|place| ids[place]);
        assert_eq!(given.claim(4).await.jobs(), expected[..4]);
        assert_eq!(given.claim(9).await.jobs(), expected[4..]);
    }

    async fn delayed_ones_among_them_come_in_time_and_in_their_order(given: Given<M>) {
        let later = |delay| NewJob { when: When::After(delay), ..plain() };
        let other = || NewJob { max_attempts: 7, ..later(2 * SECOND) };
        let past = || NewJob { when: When::At(Timestamp(1)), ..plain() };
        let mut jobs = vec![plain(), later(2 * SECOND), past(), later(SECOND), other()];
        jobs.extend([later(2 * SECOND), plain()]);
        jobs.extend(vec![later(3 * SECOND); 600]);
        let pushed = given.store.push(jobs).await.unwrap();
        let ids: Vec<JobId> = pushed.iter().filter_map(|pushed| pushed.id()).collect();
        let is_scheduled = |pushed: &Pushed| match pushed {
            Pushed::Inserted { state, run_at, .. } => {
                assert_eq!(run_at.is_some(), *state == State::Scheduled);
                run_at.is_some()
            }
            other => panic!("{other:?}"),
        };
        let scheduled: Vec<bool> = pushed.iter().take(7).map(is_scheduled).collect();
        assert_eq!(scheduled, [false, true, false, true, true, true, false]);
        let counts = Counts { ready: 3, scheduled: 604, ..Counts::default() };
        assert_eq!(given.counts().await, counts);
        assert_eq!(given.claim(9).await.jobs(), [0, 2, 6].map(|place| ids[place]));
        for (after, due) in [(1, vec![3]), (1, vec![1, 4, 5]), (1, (7..607).collect())] {
            given.pass(after * SECOND);
            while !given.duty(Duty::Due).await.effects.is_empty() {}
            let due: Vec<JobId> = due.iter().map(|place: &usize| ids[*place]).collect();
            assert_eq!(given.claim(1000).await.jobs(), due);
        }
    }

    async fn a_claim_takes_a_part_and_the_next_one_goes_on(given: Given<M>) {
        let ids = together(&given, 600).await;
        for part in [&ids[..3], &ids[3..4], &ids[4..510], &ids[510..]] {
            assert_eq!(given.claim(part.len()).await.jobs(), part);
        }
        assert_eq!(given.claim(1).await, []);
    }

    async fn who_is_content_with_less_gets_that_at_least_and_in_order(given: Given<M>) {
        let ids = together(&given, 900).await;
        let claim = |count| Claim { enough: count / 2, ..given::claim(count, Hold::Time(SECOND)) };
        let mut next = 0;
        while next < ids.len() {
            let claims = [300, 70, 500].map(claim);
            let claimed = given.store.claim(claims.to_vec()).await.unwrap();
            for (claim, jobs) in claims.iter().zip(claimed.jobs) {
                let until = next + jobs.len();
                assert_eq!(jobs.jobs(), ids[next..until]);
                assert!(jobs.len() >= claim.enough || until == ids.len(), "{}", jobs.len());
                next = until;
            }
        }
    }

    async fn one_of_them_leaves_the_line_and_the_others_stay(given: Given<M>) {
        for leaving in [0, 2, 99] {
            let ids = together(&given, 100).await;
            given.cancel(ids[leaving]).await;
            assert_eq!(given.counts().await.ready, 99);
            let left: Vec<JobId> = ids.iter().copied().filter(|id| *id != ids[leaving]).collect();
            for id in &left {
                assert_eq!(given.state(*id).await, State::Ready);
            }
            assert_eq!(given.state(ids[leaving]).await, State::Cancelled);
            assert_eq!(given.claim(999).await.jobs(), left);
        }
    }

    async fn one_of_them_may_be_moved_forward(given: Given<M>) {
        let ids = together(&given, 100).await;
        let edit = Edit { priority: Some(5), ..Edit::default() };
        given.store.edit(ids[2], edit).await.unwrap();
        let expected = [&ids[2..3], &ids[..2], &ids[3..]].concat();
        assert_eq!(given.claim(999).await.jobs(), expected);
    }

    async fn one_that_is_given_back_has_its_place_again(given: Given<M>) {
        let ids = together(&given, 100).await;
        let held = given.claim(4).await;
        for place in [2, 0] {
            assert_eq!(given.end(held[place].lease, Verdict::Release).await, Destination::Ready);
        }
        let expected = [&[ids[0], ids[2]], &ids[4..]].concat();
        assert_eq!(given.claim(999).await.jobs(), expected);
    }

    async fn those_that_are_held_are_not_taken_for_one_that_is_given_back(given: Given<M>) {
        let ids = together(&given, 100).await;
        let held = given.claim(30).await;
        given.end(held[0].lease, Verdict::Release).await;
        for (place, id) in ids.iter().enumerate() {
            let is_held = (1..30).contains(&place);
            let state = if is_held { State::Leased } else { State::Ready };
            assert_eq!(given.state(*id).await, state, "{place}");
        }
        assert!(matches!(given.cancel(ids[1]).await, Cancelled::Requested { .. }));
        let held = State::Leased;
        assert_eq!(given.store.discard(ids[2]).await.unwrap(), Discarded::WrongState(held));
        for edit in [
            Edit { priority: Some(1), ..Edit::default() },
            Edit { queue: Some(named("other")), ..Edit::default() },
        ] {
            let changed = given.store.edit(ids[3], edit).await.unwrap();
            assert_eq!(changed, Changed::WrongState(held));
        }
        assert_eq!(given.claim(999).await.jobs(), [&ids[..1], &ids[30..]].concat());
    }

    async fn several_hundred_keep_their_order_whatever_becomes_of_some(given: Given<M>) {
        let ids = together(&given, 600).await;
        let held = given.claim(100).await;
        for place in [70, 0, 99] {
            given.end(held[place].lease, Verdict::Release).await;
        }
        given.cancel(ids[120]).await;
        given.cancel(ids[400]).await;
        let parts = [&[ids[0], ids[70]], &ids[99..120], &ids[121..400], &ids[401..]];
        let expected = parts.concat();
        assert_eq!(given.standing(ids[500]).await.line.unwrap().ahead, 2 + 21 + 279 + 99);
        assert_eq!(given.counts().await.ready, expected.len() as u64);
        let mut claimed = Vec::new();
        for count in [1, 30, 300, 7, 999] {
            claimed.extend(given.claim(count).await.jobs());
        }
        assert_eq!(claimed, expected);
    }

    async fn each_is_told_how_many_stand_before_it(given: Given<M>) {
        let first = together(&given, 80).await;
        let second = together(&given, 80).await;
        let high = given.push(NewJob { priority: 1, ..plain() }).await;
        given.cancel(first[1]).await;
        for (id, ahead) in [(first[0], 0), (first[2], 1), (second[0], 79), (second[2], 81)] {
            let line = given.standing(id).await.line.unwrap();
            assert_eq!((line.higher, line.ahead), (1, ahead), "{id}");
        }
        assert_eq!(given.standing(high).await.line.unwrap().higher, 0);
    }

    async fn a_limit_serves_them_one_by_one(given: Given<M>) {
        let settings = Settings { concurrency: Some(2), ..Settings::default() };
        given.store.set_settings(queue(), settings).await.unwrap();
        let ids = together(&given, 100).await;
        let held = given.claim(9).await;
        assert_eq!(held.jobs(), ids[..2]);
        given.end(held[1].lease, ack()).await;
        assert_eq!(given.claim(9).await.jobs(), ids[2..3]);
        assert_eq!(given.counts().await.ready, 97);
    }

    async fn a_limit_that_comes_after_them_serves_them_one_by_one(given: Given<M>) {
        let ids = together(&given, 400).await;
        let held = given.claim(10).await;
        let settings = Settings { concurrency: Some(12), ..Settings::default() };
        given.store.set_settings(queue(), settings).await.unwrap();
        assert_eq!(given.claim(999).await.jobs(), ids[10..12]);
        for job in held {
            given.end(job.lease, ack()).await;
        }
        assert_eq!(given.claim(999).await.jobs(), ids[12..22]);
        given.store.set_settings(queue(), Settings::default()).await.unwrap();
        given.duty(Duty::Retention).await;
        assert_eq!(given.claim(1000).await.jobs(), ids[22..]);
    }

    async fn those_that_grow_old_stand_between_them(given: Given<M>) {
        let mortal = NewJob { ttl: Some(SECOND), ..plain() };
        let first = together(&given, 80).await;
        let live = given.push(mortal.clone()).await;
        let second = together(&given, 80).await;
        assert_eq!(given.claim(90).await.jobs(), [&first[..], &[live], &second[..9]].concat());
        let old = given.push(mortal).await;
        let third = together(&given, 80).await;
        given.pass(2 * SECOND);
        assert_eq!(given.claim(999).await.jobs(), [&second[9..], &third[..]].concat());
        assert_eq!(given.state(old).await, State::Dead);
    }

    async fn what_one_answer_can_not_hold_is_left_for_the_next(given: Given<M>) {
        let ids = together(&given, 100).await;
        let claim = |bytes_max| Claim { bytes_max, ..given::claim(999, Hold::Time(SECOND)) };
        let mut claimed = Vec::new();
        for bytes_max in [6, 9, 1000] {
            let answer = given.store.claim(vec![claim(bytes_max)]).await.unwrap();
            claimed.push(answer.jobs[0].jobs());
        }
        assert_eq!(claimed.iter().map(Vec::len).collect::<Vec<_>>(), [3, 4, 93]);
        assert_eq!(claimed.concat(), ids);
    }

    async fn claims_of_one_call_share_them_in_their_order(given: Given<M>) {
        let ids = together(&given, 300).await;
        let claims = [10, 1, 280, 90].map(|count| given::claim(count, Hold::Time(SECOND)));
        let claimed = given.store.claim(claims.to_vec()).await.unwrap().jobs;
        assert_eq!(claimed.iter().map(Vec::len).collect::<Vec<_>>(), [10, 1, 280, 9]);
        assert_eq!(claimed.concat().jobs(), ids);
    }

    async fn one_of_them_may_be_moved_to_another_queue(given: Given<M>) {
        let ids = together(&given, 100).await;
        let edit = Edit { queue: Some(named("other")), ..Edit::default() };
        given.store.edit(ids[7], edit).await.unwrap();
        assert_eq!(given.counts().await.ready, 99);
        let expected = [&ids[..7], &ids[8..]].concat();
        assert_eq!(given.claim(999).await.jobs(), expected);
    }

    async fn one_of_them_that_fails_comes_back_alone(given: Given<M>) {
        let ids = together(&given, 100).await;
        let held = given.claim(20).await;
        given.end(held[3].lease, fail_with(Retry::After(SECOND))).await;
        let low = given.push(NewJob { priority: -1, ..plain() }).await;
        assert_eq!(given.state(ids[3]).await, State::Scheduled);
        given.pass(2 * SECOND);
        given.duty(Duty::Due).await;
        let expected = [&ids[20..], &[ids[3], low]].concat();
        assert_eq!(given.claim(999).await.jobs(), expected);
    }

    async fn a_guard_counts_each_of_them(given: Given<M>) {
        together(&given, 100).await;
        given.claim(10).await;
        for settings in [
            Settings { depth_max: Some(91), ..Settings::default() },
            Settings { waiting_bytes_max: Some(183), ..Settings::default() },
        ] {
            given.store.set_settings(queue(), settings).await.unwrap();
            let one = given.push(plain()).await;
            let refused = given.store.push(vec![plain()]).await.unwrap();
            assert!(matches!(refused[0], Pushed::Refused(Refusal::Guard(_))), "{refused:?}");
            given.cancel(one).await;
        }
    }

    async fn they_stand_in_line_after_a_restart(given: Given<M>) {
        let ids = together(&given, 100).await;
        given.claim(2).await;
        let given = given.reopened().await;
        assert_eq!((given.counts().await.ready, given.counts().await.leased), (98, 2));
        assert_eq!(given.claim(999).await.jobs(), ids[2..]);
    }

    async fn acks_of_one_call_complete_each_of_them(given: Given<M>) {
        let ids = together(&given, 6).await;
        let held = given.claim(6).await;
        given.end(held[3].lease, Verdict::Release).await;
        let again = given.lease().await;
        assert_eq!(again.job, ids[3]);
        let leases: Vec<_> = held.iter().map(|job| job.lease).collect();
        let settled = given.store.settle(acks(leases.clone())).await.unwrap().settled;
        for (place, settled) in settled.into_iter().enumerate() {
            match settled {
                Settled::Done(effect) => assert_eq!(effect.job, ids[place]),
                other => assert_eq!((place, other), (3, Settled::LeaseLost)),
            }
        }
        let counts = given.counts().await;
        assert_eq!((counts.leased, counts.completed), (1, 5));
        let settled = given.store.settle(acks(leases)).await.unwrap().settled;
        assert!(settled.into_iter().enumerate().all(|(place, settled)| match place {
            3 => settled == Settled::LeaseLost,
            _ => settled == Settled::Repeated,
        }));
        let (job, attempts) = given.store.timeline(ids[4]).await.unwrap().unwrap();
        assert_eq!((job.deliveries, attempts.len()), (1, 1));
    }

    async fn parts_of_them_end_one_after_the_other_in_different_ways(given: Given<M>) {
        let ids = together(&given, 240).await;
        let held = given.claim(240).await;
        let lease = |place: usize| held[place].lease;
        let result = |place: usize| Some(Bytes::from(place.to_string()));
        let settle = async |places: std::ops::Range<usize>| {
            let settle = |place| {
                let result = result(place).filter(|_| place % 3 == 0);
                Settlement { lease: lease(place), verdict: Verdict::Ack { result } }
            };
            let settled = given.store.settle(places.map(settle).collect()).await.unwrap().settled;
            settled.into_iter().map(|settled| matches!(settled, Settled::Done(_))).collect::<Vec<_>>()
        };
        assert_eq!(settle(0..50).await, [true; 50]);
        given.end(lease(60), fail_with(Retry::After(SECOND))).await;
        assert_eq!(settle(61..150).await, [true; 89]);
        given.end(lease(155), Verdict::Release).await;
        assert_eq!(settle(50..51).await, [true]);
        assert!(matches!(given.cancel(ids[200]).await, Cancelled::Requested { .. }));
        let again = settle(148..240).await;
        let is_done = |place: &usize| *place > 149 && *place != 155;
        assert_eq!(again, (148..240).map(|place| is_done(&place)).collect::<Vec<_>>());
        assert_eq!(settle(51..61).await, [[true; 9].as_slice(), &[false]].concat());
        for place in [0, 3, 49, 50, 51, 57, 61, 63, 150, 200, 237, 239] {
            let job = given.job(ids[place]).await;
            let expected = (State::Completed, result(place).filter(|_| place % 3 == 0));
            assert_eq!((job.state, job.result), expected, "{place}");
        }
        let counts = Counts { scheduled: 1, ready: 1, completed: 238, ..Counts::default() };
        assert_eq!(given.counts().await, counts);
    }

    async fn jobs_that_ended_at_once_are_forgotten_oldest_first(given: Given<M>) {
        let (first, second) = (together(&given, 4).await, together(&given, 9).await);
        let held = given.claim(13).await;
        for leases in [&held[..4], &held[4..]] {
            given.store.settle(acks(leases.iter().map(|job| job.lease))).await.unwrap();
            given.pass(SECOND);
        }
        assert!(matches!(
            given.store.delete(first[2]).await.unwrap(),
            batonq_server::store::Changed::Done(_)
        ));
        // Ten are kept.
        given.duty(Duty::Retention).await;
        assert_eq!(given.counts().await, Counts { completed: 10, ..Counts::default() });
        assert_eq!(given.store.job(first[1]).await.unwrap(), None);
        assert_eq!(given.state(first[3]).await, State::Completed);
        given.pass(58 * SECOND);
        given.duty(Duty::Retention).await;
        assert_eq!(given.store.job(first[3]).await.unwrap(), None);
        assert_eq!(given.state(second[0]).await, State::Completed);
        given.pass(SECOND);
        given.duty(Duty::Retention).await;
        assert_eq!(given.counts().await, Counts::default());
    }
}
