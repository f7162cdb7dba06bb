//! Jobs that are alike and were pushed, leased or acked together: each is still one by itself.

use batonq_server::job::{JobId, NewJob, Payload, Settings, State};
use batonq_server::store::{Counts, Destination, Duty, Edit, Settled, Settlement, Verdict};
use bytes::Bytes;

use super::given::{Given, Jobs, SECOND, ack, job, queue};
use super::rules;
use crate::stores::Maker;

fn plain() -> NewJob {
    NewJob::new(queue(), Payload::new(Bytes::from_static(b"{}")).expect("it is small"))
}

/// So many jobs of one push.
async fn together<M: Maker>(given: &Given<M>, count: usize) -> Vec<JobId> {
    let pushed = given.store.push(vec![plain(); count]).await.expect("it works");
    pushed.iter().map(|pushed| pushed.id().expect("it is stored")).collect()
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

    async fn a_claim_takes_a_part_and_the_next_one_goes_on(given: Given<M>) {
        let ids = together(&given, 10).await;
        for part in [&ids[..3], &ids[3..4], &ids[4..]] {
            assert_eq!(given.claim(part.len()).await.jobs(), part);
        }
        assert_eq!(given.claim(1).await, []);
    }

    async fn one_of_them_leaves_the_line_and_the_others_stay(given: Given<M>) {
        for leaving in [0, 2, 4] {
            let ids = together(&given, 5).await;
            given.cancel(ids[leaving]).await;
            assert_eq!(given.counts().await.ready, 4);
            let left: Vec<JobId> = ids.iter().copied().filter(|id| *id != ids[leaving]).collect();
            for id in &left {
                assert_eq!(given.state(*id).await, State::Ready);
            }
            assert_eq!(given.state(ids[leaving]).await, State::Cancelled);
            assert_eq!(given.claim(9).await.jobs(), left);
        }
    }

    async fn one_of_them_may_be_moved_forward(given: Given<M>) {
        let ids = together(&given, 4).await;
        let edit = Edit { priority: Some(5), ..Edit::default() };
        given.store.edit(ids[2], edit).await.unwrap();
        assert_eq!(given.claim(9).await.jobs(), [ids[2], ids[0], ids[1], ids[3]]);
    }

    async fn one_that_is_given_back_has_its_place_again(given: Given<M>) {
        let ids = together(&given, 6).await;
        let held = given.claim(4).await;
        for place in [2, 0] {
            assert_eq!(given.end(held[place].lease, Verdict::Release).await, Destination::Ready);
        }
        assert_eq!(given.claim(9).await.jobs(), [ids[0], ids[2], ids[4], ids[5]]);
    }

    async fn each_is_told_how_many_stand_before_it(given: Given<M>) {
        let first = together(&given, 3).await;
        let second = together(&given, 3).await;
        let high = given.push(NewJob { priority: 1, ..plain() }).await;
        given.cancel(first[1]).await;
        for (id, ahead) in [(first[0], 0), (first[2], 1), (second[0], 2), (second[2], 4)] {
            let line = given.standing(id).await.line.unwrap();
            assert_eq!((line.higher, line.ahead), (1, ahead), "{id}");
        }
        assert_eq!(given.standing(high).await.line.unwrap().higher, 0);
    }

    async fn a_limit_serves_them_one_by_one(given: Given<M>) {
        let settings = Settings { concurrency: Some(2), ..Settings::default() };
        given.store.set_settings(queue(), settings).await.unwrap();
        let ids = together(&given, 12).await;
        let held = given.claim(9).await;
        assert_eq!(held.jobs(), ids[..2]);
        given.end(held[1].lease, ack()).await;
        assert_eq!(given.claim(9).await.jobs(), ids[2..3]);
        assert_eq!(given.counts().await.ready, 9);
    }

    async fn they_stand_in_line_after_a_restart(given: Given<M>) {
        let ids = together(&given, 5).await;
        given.claim(2).await;
        let given = given.reopened().await;
        assert_eq!((given.counts().await.ready, given.counts().await.leased), (3, 2));
        assert_eq!(given.claim(9).await.jobs(), ids[2..]);
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
