//! What can be seen.

use batonq_server::job::{JobId, NewJob, Payload, Reason, State, Tag};
use batonq_server::limits::TIMELINE_MAX;
use batonq_server::store::{Counts, Duty, Extension, JobFilter, Pausing, Progress, Verdict};

use bytes::Bytes;

use super::given::{SECOND, ack, fail, in_time, job, named};
use super::rules;
use crate::stores::NODE;

fn filter() -> JobFilter {
    JobFilter { limit: 100, ..JobFilter::default() }
}

rules! {
    async fn several_jobs_are_looked_at_as_each_by_itself(given: Given<M>) {
        let failed = given.push(job()).await;
        given.end(given.lease().await, fail()).await;
        let result = Verdict::Ack { result: Some(Bytes::from_static(b"[1]")) };
        let completed = given.push(job()).await;
        given.end(given.lease().await, result).await;
        let mut all = vec![failed, completed, given.dead_job(job()).await];
        all.extend(given.ready_jobs(3).await);
        let leased = given.claim(2).await;
        let progress = Progress { percent: 7, message: "on".into() };
        given.store.progress(leased[0].lease, progress).await.unwrap();
        given.cancel(leased[1].lease.job).await;
        let mut asked = [&all[..], &[JobId(99), all[3], JobId(u64::MAX)]].concat();
        asked.reverse();
        let found = given.store.jobs_by_id(asked.clone()).await.unwrap();
        let mut expected = Vec::new();
        for id in asked {
            expected.push(given.store.job(id).await.unwrap());
        }
        assert_eq!(found, expected);
        assert_eq!(found.iter().flatten().count(), 7);
        assert_eq!(given.store.jobs_by_id(vec![]).await.unwrap(), []);
    }

    async fn the_live_lease_of_a_job_is_told(given: Given<M>) {
        let waiting = given.push(in_time(SECOND)).await;
        let dead = given.dead_job(job()).await;
        let ids = given.ready_jobs(4).await;
        let first = given.claim(2).await;
        given.end(first[0].lease, Verdict::Release).await;
        let second = given.claim(1).await[0].lease;
        assert_eq!((second.job, second.delivery), (ids[0], 2));
        let held = given.claim(1).await[0].lease;
        given.store.extend(vec![Extension { lease: held, hold: 60 * SECOND }]).await.unwrap();
        let asked = vec![ids[3], held.job, waiting, ids[1], dead, JobId(99), ids[0], ids[0]];
        let leases = given.store.leases_of(asked).await.unwrap();
        let (first, second) = (Some(first[1].lease), Some(second));
        assert_eq!(leases, [None, Some(held), None, first, None, None, second, second]);
    }

    async fn jobs_are_listed_by_the_type_of_their_payloads(given: Given<M>) {
        let json = given.push(job()).await;
        let text = Payload::new(Bytes::from_static(b"hi")).unwrap();
        let text = text.with_content_type("text/plain").unwrap();
        let text = given.push(NewJob { payload: text, ..job() }).await;
        let listed = async |content_type: &str| {
            let content_type = Some(content_type.to_owned());
            let page = given.store.jobs(JobFilter { content_type, limit: 9, ..JobFilter::default() });
            page.await.unwrap().jobs.iter().map(|job| job.id).collect::<Vec<_>>()
        };
        for _ in 0..2 {
            assert_eq!(listed("application/json").await, [json]);
            assert_eq!(listed("text/plain").await, [text]);
            assert_eq!(listed("text/html").await, []);
            // Once they have ended, too.
            for leased in given.claim(2).await {
                given.end(leased.lease, ack()).await;
            }
        }
    }

    async fn a_timeline_tells_every_lease_and_how_it_ended(given: Given<M>) {
        let id = given.push(job()).await;
        let started = given.now();
        let first = given.lease().await;
        given.pass(SECOND);
        given.end(first, fail()).await;
        given.pass(10 * SECOND);
        given.duty(Duty::Due).await;
        given.end(given.lease().await, Verdict::Release).await;
        let last = given.lease().await;
        let (_, running) = given.store.timeline(id).await.unwrap().unwrap();
        assert_eq!((running[2].ended_at, running[2].ending.as_str()), (None, ""));
        given.end(last, ack()).await;
        let (job, attempts) = given.store.timeline(id).await.unwrap().unwrap();
        assert_eq!(job.state, State::Completed);
        let told: Vec<_> = attempts
            .iter()
            .map(|told| (told.delivery, told.attempt, told.ending.as_str(), told.code.as_str()))
            .collect();
        let expected =
            [(1, 1, "failed", "NO"), (2, 2, "released", ""), (3, 2, "completed", "")];
        assert_eq!(told, expected);
        assert_eq!((attempts[0].node.as_str(), attempts[0].worker.as_str()), (NODE, "w"));
        assert_eq!(attempts[0].started_at, started);
        assert_eq!(attempts[0].ended_at, Some(started + SECOND));
        assert_eq!(attempts[0].message, "it went wrong");
    }

    async fn nothing_is_told_of_a_job_that_never_was(given: Given<M>) {
        assert_eq!(given.store.job(JobId(9)).await.unwrap(), None);
        assert_eq!(given.store.timeline(JobId(9)).await.unwrap(), None);
    }

    async fn a_leased_job_says_who_has_it(given: Given<M>) {
        let id = given.push(job()).await;
        given.lease().await;
        let leased = given.job(id).await;
        assert_eq!(leased.worker.unwrap().as_str(), "w");
        assert!(leased.lease_until.is_some());
    }

    async fn counts_follow_the_jobs(given: Given<M>) {
        given.ready_jobs(4).await;
        given.push(in_time(SECOND)).await;
        let cancelled = given.push(job()).await;
        given.cancel(cancelled).await;
        let held = given.claim(3).await;
        given.end(held[0].lease, ack()).await;
        given.end(held[1].lease, fail()).await;
        let counts = given.counts().await;
        let expected =
            Counts { blocked: 0, scheduled: 2, ready: 1, leased: 1, completed: 1, dead: 0, cancelled: 1 };
        assert_eq!(counts, expected);
    }

    async fn the_oldest_ready_job_says_how_long_it_has_waited(given: Given<M>) {
        given.push(NewJob { priority: -1, ..job() }).await;
        given.pass(5 * SECOND);
        given.push(NewJob { priority: 1, ..job() }).await;
        given.pass(SECOND);
        assert_eq!(given.queue().await.oldest_ready, Some(6 * SECOND));
        given.claim(2).await;
        assert_eq!(given.queue().await.oldest_ready, None);
    }

    async fn lists_are_newest_first_and_come_in_pages(given: Given<M>) {
        let ids = given.ready_jobs(5).await;
        given.end(given.lease().await, ack()).await;
        let mut seen = Vec::new();
        let mut before = None;
        loop {
            let page = given.store.jobs(JobFilter { limit: 2, cursor: before, ..filter() }).await.unwrap();
            seen.extend(page.jobs.iter().map(|job| job.id));
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        assert!(seen.iter().eq(ids.iter().rev()), "{seen:?}");
    }

    async fn lists_are_filtered_by_everything_together(given: Given<M>) {
        let tag = || Tag::parse("t").unwrap();
        let tagged = || NewJob { tags: vec![tag()], ..job() };
        let wanted = given.push(tagged()).await;
        given.push(job()).await;
        given.push(NewJob { queue: named("other"), ..tagged() }).await;
        given.push(NewJob { when: in_time(SECOND).when, ..tagged() }).await;
        let both = JobFilter {
            queue: Some(super::given::queue()),
            state: Some(State::Ready),
            tag: Some(tag()),
            ..filter()
        };
        let page = given.store.jobs(both).await.unwrap();
        assert_eq!(page.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [wanted]);
        assert_eq!(page.jobs[0].payload, None, "lists leave payloads out");
    }

    async fn a_timeline_is_of_the_last_attempts(given: Given<M>) {
        let id = given.push(job()).await;
        for _ in 0..=TIMELINE_MAX {
            given.end(given.lease().await, Verdict::Release).await;
        }
        let (job, attempts) = given.store.timeline(id).await.unwrap().unwrap();
        assert_eq!((attempts.len(), attempts[0].delivery), (TIMELINE_MAX, 2));
        assert_eq!(job.deliveries as usize, TIMELINE_MAX + 1);
        given.end(given.lease().await, ack()).await;
        let (_, attempts) = given.store.timeline(id).await.unwrap().unwrap();
        assert_eq!((attempts.len(), attempts[0].delivery), (TIMELINE_MAX, 3));
    }

    async fn the_last_error_is_shown_until_there_is_another(given: Given<M>) {
        let id = given.push(job()).await;
        assert_eq!(given.job(id).await.error, None);
        given.end(given.lease().await, fail()).await;
        given.pass(10 * SECOND);
        given.duty(Duty::Due).await;
        given.end(given.lease().await, Verdict::Release).await;
        let said = Some(("NO".into(), "it went wrong".into()));
        assert_eq!(given.job(id).await.error, said);
        given.claim(1).await;
        given.store.give_back(super::given::SESSION).await.unwrap();
        assert_eq!(given.job(id).await.error.unwrap().0, "CRASH");
        given.end(given.lease().await, ack()).await;
        assert_eq!(given.job(id).await.error.unwrap().0, "CRASH");
    }

    async fn lists_leave_out_what_is_large_or_changes(given: Given<M>) {
        given.ready_jobs(2).await;
        let lease = given.lease().await;
        given.end(lease, Verdict::Ack { result: Some("{}".into()) }).await;
        let lease = given.lease().await;
        given.end(lease, Verdict::Release).await;
        given.claim(1).await;
        given.store.give_back(super::given::SESSION).await.unwrap();
        let lease = given.lease().await;
        let progress = Progress { percent: 1, message: String::new() };
        given.store.progress(lease, progress).await.unwrap();
        let jobs = given.store.jobs(filter()).await.unwrap().jobs;
        let states: Vec<State> = jobs.iter().map(|job| job.state).collect();
        assert_eq!(states, [State::Leased, State::Completed]);
        for job in jobs {
            assert_eq!((job.payload, job.result, job.error), (None, None, None));
            assert_eq!((job.worker, job.lease_until, job.progress), (None, None, None));
        }
    }

    async fn a_page_that_ends_with_the_last_job_says_so(given: Given<M>) {
        let ids = given.ready_jobs(4).await;
        let page = |before| given.store.jobs(JobFilter { limit: 2, cursor: before, ..filter() });
        assert_eq!(page(None).await.unwrap().next, Some(ids[2]));
        assert_eq!(page(Some(ids[2])).await.unwrap().next, None);
    }

    async fn lists_are_filtered_by_the_reason_of_death(given: Given<M>) {
        let rejected = given.dead_job(job()).await;
        let retried = given.dead_job(job()).await;
        given.store.retry(retried).await.unwrap();
        for (reason, expected) in [(Reason::Rejected, vec![rejected]), (Reason::Poison, vec![])] {
            let of_reason = JobFilter { reason: Some(reason), ..filter() };
            let page = given.store.jobs(of_reason).await.unwrap();
            assert_eq!(page.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), expected);
        }
    }

    async fn queues_come_by_name(given: Given<M>) {
        for name in ["b", "a:1", "B", "a"] {
            given.push(NewJob { queue: named(name), ..job() }).await;
        }
        let queues = given.store.queues(None).await.unwrap();
        let names: Vec<&str> = queues.iter().map(|queue| queue.name.as_str()).collect();
        assert_eq!(names, ["B", "a", "a:1", "b"]);
        let one = given.store.queues(Some(named("a"))).await.unwrap();
        assert_eq!(one, queues[1..2]);
        assert_eq!(given.store.queues(Some(named("c"))).await.unwrap(), []);
    }

    async fn a_queue_comes_into_being_when_it_is_paused_or_resumed(given: Given<M>) {
        for (name, pausing) in [("a", Pausing::Pause), ("b", Pausing::Resume)] {
            given.store.set_paused(named(name), pausing, "ada".into()).await.unwrap();
            let queues = given.store.queues(Some(named(name))).await.unwrap();
            assert_eq!(queues[0].counts, Counts::default());
        }
    }

    async fn a_job_that_comes_back_waits_anew(given: Given<M>) {
        given.ready_jobs(1).await;
        given.pass(5 * SECOND);
        given.end(given.lease().await, Verdict::Release).await;
        given.pass(SECOND);
        assert_eq!(given.queue().await.oldest_ready, Some(SECOND));
    }

    async fn of_each_priority_the_first_job_is_looked_at(given: Given<M>) {
        given.ready_jobs(2).await;
        given.pass(5 * SECOND);
        given.end(given.lease().await, Verdict::Release).await;
        // The second has waited for five seconds, but it is not the first.
        assert_eq!(given.queue().await.oldest_ready, Some(std::time::Duration::ZERO));
    }
}
