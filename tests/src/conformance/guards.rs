//! What a queue takes, and how long it keeps what is done.

use batonq_server::job::{Breach, Guard, JobId, NewJob, Payload, QueueName, Settings, State, When};
use batonq_server::store::{Changed, Decision, Duty, Edit, Pushed, Refusal};
use bytes::Bytes;

use super::given::{Given, SECOND, ack, in_time, job, named, queue};
use super::rules;
use crate::stores::Maker;

fn sized(bytes: usize) -> NewJob {
    NewJob { payload: Payload::new(Bytes::from(vec![b'1'; bytes])).expect("it is small"), ..job() }
}

fn refused(guard: Guard, max: u64) -> Pushed {
    Pushed::Refused(Refusal::Guard(Breach { guard, max }))
}

async fn set<M: Maker>(given: &Given<M>, settings: Settings) {
    given.store.set_settings(queue(), settings).await.expect("it works");
}

async fn decisions<M: Maker>(given: &Given<M>, queue: Option<QueueName>) -> Vec<Decision> {
    given.store.decisions(queue, 10).await.expect("it works")
}

async fn completed<M: Maker>(given: &Given<M>) -> JobId {
    let id = given.push(job()).await;
    given.end(given.lease().await, ack()).await;
    id
}

rules! {
    async fn a_payload_that_is_too_large_for_its_queue_is_refused(given: Given<M>) {
        set(&given, Settings { payload_bytes_max: Some(10), ..Settings::default() }).await;
        let pushed = given.store.push(vec![sized(10), sized(11), sized(1)]).await.unwrap();
        assert!(matches!(pushed[0], Pushed::Inserted { .. }));
        assert_eq!(pushed[1], refused(Guard::PayloadBytes, 10));
        assert!(matches!(pushed[2], Pushed::Inserted { .. }));
        assert_eq!(given.counts().await.ready, 2);
        let other = NewJob { queue: named("other"), ..sized(11) };
        given.push(other).await;
    }

    async fn so_many_jobs_are_taken_in_a_minute(given: Given<M>) {
        set(&given, Settings { pushes_per_minute: Some(3), ..Settings::default() }).await;
        let pushed = given.store.push(vec![job(); 2]).await.unwrap();
        assert!(pushed.iter().all(|pushed| matches!(pushed, Pushed::Inserted { .. })));
        let pushed = given.store.push(vec![job(); 2]).await.unwrap();
        assert!(matches!(pushed[0], Pushed::Inserted { .. }));
        assert_eq!(pushed[1], refused(Guard::PushesPerMinute, 3));
        given.pass(60 * SECOND);
        given.push(job()).await;
    }

    async fn no_more_jobs_wait_than_the_queue_bears(given: Given<M>) {
        set(&given, Settings { depth_max: Some(2), ..Settings::default() }).await;
        given.push(job()).await;
        given.push(in_time(SECOND)).await;
        assert_eq!(given.store.push(vec![job()]).await.unwrap(), [refused(Guard::Depth, 2)]);
        // A leased job does not wait.
        given.claim(1).await;
        given.push(job()).await;
        assert_eq!(given.store.push(vec![job()]).await.unwrap(), [refused(Guard::Depth, 2)]);
    }

    async fn no_more_bytes_wait_than_the_queue_bears(given: Given<M>) {
        set(&given, Settings { waiting_bytes_max: Some(20), ..Settings::default() }).await;
        given.push(sized(8)).await;
        given.push(NewJob { when: When::After(SECOND), ..sized(8) }).await;
        let pushed = given.store.push(vec![sized(5), sized(4)]).await.unwrap();
        assert_eq!(pushed[0], refused(Guard::WaitingBytes, 20));
        assert!(matches!(pushed[1], Pushed::Inserted { .. }));
        given.claim(1).await;
        given.push(sized(5)).await;
    }

    async fn jobs_that_wait_for_each_other_are_taken_together_or_not_at_all(given: Given<M>) {
        set(&given, Settings { depth_max: Some(1), pushes_per_minute: Some(9), ..<_>::default() }).await;
        let second = NewJob { waits_for: vec![0], is_part: true, ..job() };
        let pushed = given.store.push(vec![job(), second]).await.unwrap();
        assert_eq!(pushed, [refused(Guard::Depth, 1), refused(Guard::Depth, 1)]);
        assert_eq!(given.counts().await.ready, 0);
        given.push(job()).await;
    }

    async fn a_flow_whose_jobs_do_not_wait_is_taken_as_a_whole_too(given: Given<M>) {
        set(&given, Settings { payload_bytes_max: Some(5), ..<_>::default() }).await;
        let part = |bytes| NewJob { is_part: true, ..sized(bytes) };
        let pushed = given.store.push(vec![part(1), part(6)]).await.unwrap();
        assert_eq!(pushed, [refused(Guard::PayloadBytes, 5); 2]);
        assert_eq!(given.counts().await.ready, 0);
        let elsewhere = NewJob { queue: named("new"), ..part(1) };
        given.store.push(vec![elsewhere, part(6)]).await.unwrap();
        assert_eq!(given.store.queues(None).await.unwrap().len(), 2, "it was pushed to");
    }

    async fn what_is_refused_is_noted_by_the_minute(given: Given<M>) {
        set(&given, Settings { depth_max: Some(1), ..Settings::default() }).await;
        given.push(job()).await;
        given.store.push(vec![job(); 3]).await.unwrap();
        given.store.push(vec![job()]).await.unwrap();
        let noted = decisions(&given, Some(queue())).await;
        assert_eq!(noted.len(), 1);
        assert_eq!((noted[0].guard, noted[0].max, noted[0].count), (Guard::Depth, 1, 4));
        assert_eq!(noted[0].last_at, given.now());
        given.pass(60 * SECOND);
        given.store.push(vec![job()]).await.unwrap();
        let noted = decisions(&given, None).await;
        assert_eq!(noted.iter().map(|one| one.count).collect::<Vec<_>>(), [1, 4]);
        assert_eq!(decisions(&given, Some(named("other"))).await, []);
        given.pass(7 * 24 * 3600 * SECOND);
        given.duty(Duty::Retention).await;
        assert_eq!(decisions(&given, None).await, []);
    }

    async fn what_the_broker_pushes_itself_is_not_judged(given: Given<M>) {
        let dead = given.dead_job(job()).await;
        set(&given, Settings { depth_max: Some(0), ..Settings::default() }).await;
        assert_eq!(given.store.push(vec![job()]).await.unwrap(), [refused(Guard::Depth, 0)]);
        let copied = given.store.replay(dead, Edit::default()).await.unwrap();
        assert!(matches!(copied, Changed::Done(_)), "{copied:?}");
    }

    async fn a_guard_that_is_gone_refuses_nothing(given: Given<M>) {
        set(&given, Settings { depth_max: Some(0), ..Settings::default() }).await;
        given.store.push(vec![job()]).await.unwrap();
        set(&given, Settings::default()).await;
        given.push(job()).await;
    }

    async fn a_queue_keeps_its_jobs_as_long_as_its_settings_say(given: Given<M>) {
        let keep_completed = Some(5 * SECOND);
        set(&given, Settings { keep_completed, keep_dead: Some(9 * SECOND), ..<_>::default() }).await;
        let (done, dead) = (completed(&given).await, given.dead_job(job()).await);
        given.pass(5 * SECOND);
        given.duty(Duty::Retention).await;
        assert_eq!(given.store.job(done).await.unwrap(), None);
        assert_eq!(given.state(dead).await, State::Dead);
        given.pass(4 * SECOND);
        given.duty(Duty::Retention).await;
        assert_eq!(given.store.job(dead).await.unwrap(), None);
    }

    async fn a_queue_keeps_as_many_jobs_as_its_settings_say(given: Given<M>) {
        let (keep_completed_max, keep_dead_max) = (Some(2), Some(1));
        set(&given, Settings { keep_completed_max, keep_dead_max, ..<_>::default() }).await;
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push((completed(&given).await, given.dead_job(job()).await));
            given.pass(SECOND);
        }
        given.duty(Duty::Retention).await;
        let counts = given.counts().await;
        assert_eq!((counts.completed, counts.dead), (2, 1));
        assert_eq!(given.state(ids[1].0).await, State::Completed);
        assert_eq!(given.state(ids[2].1).await, State::Dead);
    }

    async fn payloads_may_go_before_their_jobs(given: Given<M>) {
        set(&given, Settings { keep_payload: Some(5 * SECOND), ..Settings::default() }).await;
        let (done, dead) = (completed(&given).await, given.dead_job(job()).await);
        given.pass(5 * SECOND);
        given.duty(Duty::Retention).await;
        let job = given.job(done).await;
        assert_eq!((job.state, job.payload, job.is_dropped), (State::Completed, None, true));
        assert!(given.job(dead).await.payload.is_some(), "a dead job may be wanted again");
        assert_eq!(given.store.replay(done, Edit::default()).await.unwrap(), Changed::Dropped);
        let payload = Payload::new(Bytes::from_static(b"1")).unwrap();
        let anew = Edit { payload: Some(payload), ..Edit::default() };
        assert!(matches!(given.store.replay(done, anew).await.unwrap(), Changed::Done(_)));
        // Jobs that finish later have their turn later.
        given.end(given.lease().await, ack()).await;
        let later = completed(&given).await;
        given.duty(Duty::Retention).await;
        assert!(given.job(later).await.payload.is_some());
        given.pass(5 * SECOND);
        given.duty(Duty::Retention).await;
        assert_eq!(given.job(later).await.payload, None);
    }
}
