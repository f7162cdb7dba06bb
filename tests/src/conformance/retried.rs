//! Jobs that were pushed together and fail together: each goes on by itself.

use batonq_server::job::{JobId, Lease, NewJob, Settings, State, Tag};
use batonq_server::store::{
    Cancelled, Counts, Duty, Edit, LeasedJob, Pushed, Refusal, Retry, Settled, Settlement, Verdict,
};

use super::given::{Given, Jobs, SECOND, SESSION, ack, fail_with, plain, queue};
use super::rules;
use crate::stores::Maker;

/// All of them end in this way.
async fn end_all<M: Maker>(given: &Given<M>, held: &[LeasedJob], verdict: Verdict) {
    let settled = settle_all(given, held.iter().map(|job| job.lease), verdict).await;
    assert!(settled.iter().all(|settled| matches!(settled, Settled::Done(_))), "{settled:?}");
}

async fn settle_all<M: Maker>(
    given: &Given<M>,
    leases: impl Iterator<Item = Lease>,
    verdict: Verdict,
) -> Vec<Settled> {
    let settlement = |lease| Settlement { lease, verdict: verdict.clone() };
    given.store.settle(leases.map(settlement).collect()).await.expect("it works").settled
}

fn in_a_second() -> Verdict {
    fail_with(Retry::After(SECOND))
}

/// So many that have failed once, and wait.
async fn failed<M: Maker>(given: &Given<M>, count: usize) -> Vec<LeasedJob> {
    given.together(plain(), count).await;
    let held = given.claim(count).await;
    end_all(given, &held, in_a_second()).await;
    held
}

fn deliveries(held: &[LeasedJob]) -> Vec<(u32, u32)> {
    let mut all: Vec<_> = held.iter().map(|job| (job.lease.delivery, job.attempt)).collect();
    all.dedup();
    all
}

rules! {
    async fn they_come_back_in_their_order_and_tell_their_attempts(given: Given<M>) {
        let ids = given.together(plain(), 300).await;
        let held = given.claim(300).await;
        end_all(&given, &held[20..280], in_a_second()).await;
        end_all(&given, &held[..20], ack()).await;
        let counts = Counts { scheduled: 260, leased: 20, completed: 20, ..Counts::default() };
        assert_eq!(given.counts().await, counts);
        let before = given.push(plain()).await;
        given.a_second_passes().await;
        let after = given.push(plain()).await;
        let again = given.claim(999).await;
        assert_eq!(again.jobs(), [&[before], &ids[20..280], &[after]].concat());
        assert_eq!(deliveries(&again[1..261]), [(2, 2)]);
        let again = &again[1..261];
        end_all(&given, &again[100..], in_a_second()).await;
        end_all(&given, &again[..100], ack()).await;
        given.a_second_passes().await;
        let last = given.claim(999).await;
        assert_eq!((last.jobs(), deliveries(&last)), (ids[120..280].to_vec(), vec![(3, 3)]));
        end_all(&given, &last, ack()).await;
        for (place, attempts) in [(0, 0), (20, 1), (119, 1), (120, 2), (279, 2)] {
            let (job, told) = given.store.timeline(ids[place]).await.unwrap().unwrap();
            assert_eq!((job.state, job.attempts), (State::Completed, attempts), "{place}");
            assert_eq!((job.deliveries, told.len()), (attempts + 1, attempts as usize + 1));
            let endings: Vec<&str> = told.iter().map(|told| told.ending.as_str()).collect();
            let expected = [&vec!["failed"; attempts as usize][..], &["completed"]].concat();
            assert_eq!(endings, expected);
            assert_eq!(given.noted(ids[place]).await.len(), attempts as usize);
        }
        let expected = [
            "pushed", "leased", "lease_ended", "due", "leased", "lease_ended", "due", "leased",
            "lease_ended", "ended",
        ];
        let story = given.story(ids[279]).await;
        assert_eq!(story.iter().map(|event| event.kind).collect::<Vec<_>>(), expected);
    }

    async fn a_lease_that_has_ended_stays_so(given: Given<M>) {
        let first = failed(&given, 100).await;
        let leases = || first.iter().map(|job| job.lease);
        let lost = vec![Settled::LeaseLost; 100];
        assert_eq!(settle_all(&given, leases(), ack()).await, lost);
        given.a_second_passes().await;
        assert_eq!(settle_all(&given, leases(), ack()).await, lost);
        let second = given.claim(100).await;
        assert_eq!(settle_all(&given, leases(), ack()).await, lost);
        assert_eq!(settle_all(&given, leases(), in_a_second()).await, vec![Settled::Repeated; 100]);
        let counts = Counts { leased: 100, ..Counts::default() };
        assert_eq!(given.counts().await, counts);
        end_all(&given, &second, ack()).await;
        let leases = second.iter().map(|job| job.lease);
        assert_eq!(settle_all(&given, leases, ack()).await, vec![Settled::Repeated; 100]);
    }

    async fn one_of_them_is_changed_and_the_others_go_on(given: Given<M>) {
        let ids = failed(&given, 100).await.jobs();
        given.cancel(ids[3]).await;
        given.store.promote(ids[5]).await.unwrap();
        assert_eq!(deliveries(&given.claim(9).await), [(2, 2)]);
        given.a_second_passes().await;
        let high = Edit { priority: Some(1), ..Edit::default() };
        given.store.edit(ids[7], high).await.unwrap();
        let again = given.claim(9).await;
        assert_eq!(again.jobs(), [7, 0, 1, 2, 4, 6, 8, 9, 10].map(|place| ids[place]));
        for place in [2, 4] {
            given.end(again[place].lease, Verdict::Release).await;
        }
        let rest = given.claim(999).await;
        assert_eq!(rest.jobs(), [&[ids[1], ids[4]], &ids[11..]].concat());
        assert_eq!(deliveries(&rest), [(3, 2), (2, 2)]);
    }

    async fn those_that_become_ready_together_are_given_back_to_their_places(given: Given<M>) {
        let ids = failed(&given, 100).await.jobs();
        given.a_second_passes().await;
        let held = given.claim(30).await;
        given.push(plain()).await;
        assert_eq!(given.store.give_back(SESSION).await.unwrap().len(), 30);
        assert_eq!(held.jobs(), ids[..30]);
        assert_eq!(given.claim(100).await.jobs(), ids);
    }

    async fn others_between_them_keep_the_order(given: Given<M>) {
        let of = |place: usize| match place {
            10 => NewJob { tags: vec![Tag::parse("t").unwrap()], ..plain() },
            30..60 => NewJob { max_attempts: 3 + (place % 2) as u32, ..plain() },
            _ => plain(),
        };
        let pushed = given.store.push((0..90).map(of).collect()).await.unwrap();
        let ids: Vec<JobId> = pushed.iter().filter_map(Pushed::id).collect();
        end_all(&given, &given.claim(90).await, in_a_second()).await;
        given.a_second_passes().await;
        assert_eq!(given.claim(99).await.jobs(), ids);
    }

    async fn those_that_they_stood_in_line_with_are_served_without_them(given: Given<M>) {
        for way in 0..4 {
            let ids = given.together(plain(), 250).await;
            let held = given.claim(100).await;
            end_all(&given, &held, fail_with(Retry::After(3600 * SECOND))).await;
            let mut left = ids[100..].to_vec();
            match way {
                0 => {
                    assert!(matches!(given.cancel(left.remove(70)).await, Cancelled::Done(_)));
                }
                1 => left.push(given.push(NewJob { ttl: Some(SECOND), ..plain() }).await),
                2 => {
                    let high = Edit { priority: Some(1), ..Edit::default() };
                    given.store.edit(left[70], high).await.unwrap();
                    left[..=70].rotate_right(1);
                }
                _ => {
                    let settings = Settings { concurrency: Some(999), ..Settings::default() };
                    given.store.set_settings(queue(), settings).await.unwrap();
                }
            }
            let mut claimed = given.claim(20).await.jobs();
            claimed.extend(given.claim(999).await.jobs());
            assert_eq!(claimed, left, "{way}");
        }
    }

    async fn they_die_when_there_is_no_attempt_left(given: Given<M>) {
        given.together(NewJob { max_attempts: 2, ..plain() }, 100).await;
        end_all(&given, &given.claim(100).await, in_a_second()).await;
        given.a_second_passes().await;
        let last = given.claim(100).await;
        end_all(&given, &last, in_a_second()).await;
        let counts = Counts { dead: 100, ..Counts::default() };
        assert_eq!(given.counts().await, counts);
        let job = given.job(last[42].lease.job).await;
        assert_eq!((job.attempts, job.deliveries), (2, 2));
    }

    async fn a_guard_counts_each_of_them(given: Given<M>) {
        failed(&given, 100).await;
        let settings = Settings { depth_max: Some(100), ..Settings::default() };
        given.store.set_settings(queue(), settings).await.unwrap();
        let refused = given.store.push(vec![plain()]).await.unwrap();
        assert!(matches!(refused[0], Pushed::Refused(Refusal::Guard(_))), "{refused:?}");
    }

    async fn of_those_that_are_completed_nothing_is_left_in_the_end(given: Given<M>) {
        let ids = failed(&given, 100).await.jobs();
        given.a_second_passes().await;
        end_all(&given, &given.claim(100).await, ack()).await;
        given.store.delete(ids[7]).await.unwrap();
        assert_eq!(given.store.timeline(ids[7]).await.unwrap(), None);
        assert_eq!(given.store.timeline(ids[8]).await.unwrap().unwrap().1.len(), 2);
        given.pass(61 * SECOND);
        while given.counts().await != Counts::default() {
            given.duty(Duty::Retention).await;
        }
        assert_eq!(given.store.timeline(ids[8]).await.unwrap(), None);
        assert_eq!(given.noted(ids[8]).await, []);
    }

    async fn they_go_on_after_a_restart(given: Given<M>) {
        let ids = failed(&given, 100).await.jobs();
        given.a_second_passes().await;
        let held = given.claim(50).await;
        let given = given.reopened().await;
        let counts = Counts { ready: 50, leased: 50, ..Counts::default() };
        assert_eq!(given.counts().await, counts);
        end_all(&given, &held, in_a_second()).await;
        given.a_second_passes().await;
        let again = given.claim(999).await;
        assert_eq!(again.jobs(), [&ids[50..], &ids[..50]].concat());
        assert_eq!(deliveries(&again), [(2, 2), (3, 3)]);
    }
}
