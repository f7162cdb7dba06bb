//! What is recorded for those who listen.

use std::time::Duration;

use batonq_server::job::{JobId, Lease, NewJob, QueueName, Settings, State};
use batonq_server::limits::{EVENTS_PAGE_BYTES, PARTIAL_BYTES_MAX};
use batonq_server::store::events::{EVENTS_KEPT, Event};
use batonq_server::store::{
    Detail, Duty, EventId, EventKind, EventPage, EventsWanted, Extension, Hold, Partial, Pausing,
    Progress, Verdict, Watching,
};

use super::given::{Given, SECOND, ack, fail, job, named, queue};
use super::rules;
use crate::stores::Maker;

const MINUTE: Duration = Duration::from_secs(60);

impl<M: Maker> Given<M> {
    async fn watch(&self, queue: Option<QueueName>) -> Watching {
        self.store.watch(queue, MINUTE).await.expect("it works")
    }

    /// A page of events, once all that has been recorded is to be seen.
    async fn page(&self, queue: Option<QueueName>, after: EventId) -> EventPage {
        let all = self.watch(None).await.now;
        let mut upto = 0;
        while upto < all {
            upto = self.store.event_head().await.expect("it works");
        }
        let wanted = EventsWanted { queue, after, upto, limit: 1000 };
        self.store.events(wanted).await.expect("it works")
    }

    async fn events(&self) -> Vec<Event> {
        self.page(None, 0).await.events
    }

    async fn kinds(&self) -> Vec<EventKind> {
        self.events().await.into_iter().map(|event| event.kind).collect()
    }

    async fn details(&self) -> Vec<(EventKind, Detail)> {
        self.events().await.into_iter().map(|event| (event.kind, event.detail)).collect()
    }
}

fn detail(number: u32, word: &str, message: &str) -> Detail {
    let said = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Detail { number: Some(number), word: said(word), message: said(message) }
}

rules! {
    async fn nothing_is_recorded_that_nobody_watches(given: Given<M>) {
        given.ready_jobs(3).await;
        given.end(given.lease().await, ack()).await;
        assert_eq!(given.events().await, []);
    }

    async fn a_job_is_told_of_from_its_push_to_its_completion(given: Given<M>) {
        given.watch(None).await;
        let id = given.push(job()).await;
        let lease = given.lease().await;
        given.end(lease, fail()).await;
        given.pass(10 * SECOND);
        given.duty(Duty::Due).await;
        let lease = given.lease().await;
        let progress = Progress { percent: 40, message: "half".into() };
        assert!(given.store.progress(lease, progress).await.unwrap());
        given.end(lease, ack()).await;
        let events = given.events().await;
        assert!(events.iter().all(|event| event.job == Some(id) && event.queue == queue()));
        assert!(events.is_sorted_by(|one, next| one.id < next.id && one.at <= next.at));
        let expected = [
            (EventKind::Pushed, Detail::default()),
            (EventKind::Leased, detail(1, "w", "")),
            (EventKind::Failed, detail(1, "NO", "it went wrong")),
            (EventKind::Leased, detail(2, "w", "")),
            (EventKind::Progress, detail(40, "", "half")),
            (EventKind::Completed, detail(2, "", "")),
        ];
        assert_eq!(given.details().await, expected);
    }

    async fn a_part_of_a_result_is_told_of_while_the_lease_lives(given: Given<M>) {
        let part = |index, data: &'static str| Partial { index, data: data.as_bytes().into() };
        let id = given.push(job()).await;
        let lease = given.lease().await;
        assert!(given.store.partial(lease, part(None, "0")).await.unwrap(), "nobody watches");
        given.watch(None).await;
        assert!(given.store.partial(lease, part(None, "{\n\"n\": 1\r\n}")).await.unwrap());
        assert!(given.store.partial(lease, part(Some(u32::MAX), "\"two\"")).await.unwrap());
        let other = Lease { delivery: lease.delivery + 1, ..lease };
        assert!(!given.store.partial(other, part(None, "3")).await.unwrap());
        let given = given.reopened().await;
        assert!(given.store.partial(lease, part(Some(0), "[]")).await.unwrap());
        given.end(lease, ack()).await;
        assert!(!given.store.partial(lease, part(None, "4")).await.unwrap());
        let events = given.events().await;
        assert!(events.iter().all(|event| event.job == Some(id) && event.queue == queue()));
        let first = Detail { message: Some("{ \"n\": 1  }".into()), ..Detail::default() };
        let expected = [
            (EventKind::Partial, first),
            (EventKind::Partial, detail(u32::MAX, "", "\"two\"")),
            (EventKind::Partial, detail(0, "", "[]")),
            (EventKind::Completed, detail(1, "", "")),
        ];
        assert_eq!(given.details().await, expected);
    }

    async fn the_death_of_a_job_comes_after_the_failure_that_it_died_of(given: Given<M>) {
        given.watch(None).await;
        given.dead_job(job()).await;
        let expected = [
            (EventKind::Pushed, Detail::default()),
            (EventKind::Leased, detail(1, "w", "")),
            (EventKind::Failed, detail(1, "NO", "it went wrong")),
            (EventKind::Dead, detail(1, "REJECTED", "")),
        ];
        assert_eq!(given.details().await, expected);
    }

    async fn a_dead_job_that_goes_round_again_is_pushed(given: Given<M>) {
        let id = given.dead_job(job()).await;
        given.watch(None).await;
        given.store.retry(id).await.unwrap();
        given.lease().await;
        let expected =
            [(EventKind::Pushed, Detail::default()), (EventKind::Leased, detail(2, "w", ""))];
        assert_eq!(given.details().await, expected);
    }

    async fn what_comes_back_unharmed_is_released(given: Given<M>) {
        given.watch(None).await;
        given.push(job()).await;
        given.end(given.lease().await, Verdict::Release).await;
        given.end(given.lease().await, Verdict::Snooze(SECOND)).await;
        let expected = [
            EventKind::Pushed,
            EventKind::Leased,
            EventKind::Released,
            EventKind::Leased,
            EventKind::Released,
        ];
        assert_eq!(given.kinds().await, expected);
    }

    async fn what_happens_by_time_is_recorded(given: Given<M>) {
        given.watch(None).await;
        given.push(NewJob { ttl: Some(SECOND), ..job() }).await;
        given.pass(SECOND);
        given.duty(Duty::Ttl).await;
        given.push(job()).await;
        given.claim_as(1, Hold::Time(SECOND)).await;
        given.pass(SECOND);
        given.duty(Duty::Expiry).await;
        let ran_out = "the lease ran out and was not extended";
        let expected = [
            (EventKind::Pushed, Detail::default()),
            (EventKind::Dead, Detail { word: Some("EXPIRED".into()), ..Detail::default() }),
            (EventKind::Pushed, Detail::default()),
            (EventKind::Leased, detail(1, "w", "")),
            (EventKind::Failed, detail(1, "LEASE_EXPIRED", ran_out)),
        ];
        assert_eq!(given.details().await, expected);
    }

    async fn what_is_cancelled_is_recorded(given: Given<M>) {
        given.watch(None).await;
        let id = given.push(job()).await;
        given.cancel(id).await;
        assert_eq!(given.state(id).await, State::Cancelled);
        assert_eq!(given.kinds().await, [EventKind::Pushed, EventKind::Cancelled]);
    }

    async fn a_lease_begins_once_however_often_it_is_extended(given: Given<M>) {
        given.watch(None).await;
        given.ready_jobs(2).await;
        for leased in given.claim(2).await {
            let extension = Extension { lease: leased.lease, hold: MINUTE };
            given.store.extend(vec![extension, extension]).await.unwrap();
        }
        let leased = |kind: &EventKind| *kind == EventKind::Leased;
        assert_eq!(given.kinds().await.into_iter().filter(leased).count(), 2);
    }

    async fn queues_are_told_of_when_they_change(given: Given<M>) {
        given.watch(None).await;
        for pausing in [Pausing::Resume, Pausing::Pause, Pausing::Pause, Pausing::Resume] {
            given.store.set_paused(queue(), pausing, "me".into()).await.unwrap();
        }
        let settings = Settings { concurrency: Some(3), ..Settings::default() };
        for settings in [Settings::default(), settings.clone(), settings] {
            given.store.set_settings(queue(), settings).await.unwrap();
        }
        let events = given.events().await;
        assert!(events.iter().all(|event| event.job.is_none() && event.queue == queue()));
        assert_eq!(
            given.kinds().await,
            [EventKind::Paused, EventKind::Resumed, EventKind::Settings]
        );
    }

    async fn one_queue_can_be_watched_alone(given: Given<M>) {
        given.watch(Some(queue())).await;
        given.push(job()).await;
        given.push(NewJob { queue: named("other"), ..job() }).await;
        assert_eq!(given.events().await.len(), 1);
    }

    async fn one_queue_can_be_read_alone(given: Given<M>) {
        given.watch(None).await;
        given.push(job()).await;
        given.push(NewJob { queue: named("other"), ..job() }).await;
        let read = given.page(Some(named("other")), 0).await;
        assert_eq!(read.events.len(), 1);
        assert_eq!(read.events[0].queue, named("other"));
    }

    async fn our_own_queues_are_never_told_of(given: Given<M>) {
        given.watch(None).await;
        given.push(NewJob { queue: named("batonq.own"), ..job() }).await;
        assert_eq!(given.events().await, []);
    }

    async fn who_begins_to_watch_hears_what_comes_and_nothing_else(given: Given<M>) {
        given.watch(None).await;
        given.push(job()).await;
        let watching = given.watch(None).await;
        let second = given.push(job()).await;
        let read = given.page(None, watching.now).await;
        let jobs: Vec<Option<JobId>> = read.events.iter().map(|event| event.job).collect();
        assert_eq!(jobs, [Some(second)]);
        assert!(read.since <= watching.now);
    }

    async fn a_page_ends_where_it_is_asked_to(given: Given<M>) {
        given.watch(None).await;
        given.ready_jobs(5).await;
        let all = given.events().await;
        let wanted = EventsWanted { queue: None, after: all[0].id, upto: all[3].id, limit: 2 };
        let page = given.store.events(wanted.clone()).await.unwrap();
        assert_eq!((&page.events[..], page.upto), (&all[1..3], all[2].id));
        let wanted = EventsWanted { limit: 9, ..wanted };
        let page = given.store.events(wanted).await.unwrap();
        assert_eq!((&page.events[..], page.upto), (&all[1..4], all[3].id));
    }

    async fn a_page_of_large_events_ends_earlier(given: Given<M>) {
        given.watch(None).await;
        given.push(job()).await;
        let lease = given.lease().await;
        let part = format!("\"{}\"", "x".repeat(PARTIAL_BYTES_MAX - 2));
        let count = EVENTS_PAGE_BYTES / PARTIAL_BYTES_MAX + 1;
        for _ in 0..count {
            let partial = Partial { index: None, data: part.clone().into() };
            assert!(given.store.partial(lease, partial).await.unwrap());
        }
        let page = given.page(None, 0).await;
        let last = page.events.last().map(|event| event.id);
        assert_eq!((page.events.len(), Some(page.upto)), (2 + count - 1, last));
        let rest = given.page(None, page.upto).await;
        assert_eq!(rest.events.len(), 1);
        assert!(rest.upto >= rest.events[0].id);
    }

    async fn a_watch_that_is_renewed_has_no_gap(given: Given<M>) {
        let first = given.watch(None).await;
        given.pass(50 * SECOND);
        given.watch(None).await;
        given.pass(50 * SECOND);
        given.duty(Duty::Retention).await;
        given.push(job()).await;
        let read = given.page(None, first.now).await;
        assert_eq!(read.events.len(), 1);
        assert_eq!(read.since, first.since);
    }

    async fn nothing_is_recorded_once_a_watch_is_over(given: Given<M>) {
        let first = given.watch(None).await;
        given.pass(MINUTE);
        given.duty(Duty::Retention).await;
        given.push(job()).await;
        let again = given.watch(None).await;
        assert!(again.since > first.now, "who comes back then has missed something");
        assert_eq!(given.events().await, []);
        given.push(job()).await;
        assert_eq!(given.events().await.len(), 1);
    }

    async fn old_events_are_forgotten_and_that_is_known(given: Given<M>) {
        let first = given.watch(None).await;
        given.push(job()).await;
        given.pass(50 * SECOND);
        given.store.watch(None, 2 * EVENTS_KEPT).await.unwrap();
        given.pass(EVENTS_KEPT - 20 * SECOND);
        given.push(job()).await;
        assert_eq!(given.events().await.len(), 2);
        given.store.watch(None, 2 * EVENTS_KEPT).await.unwrap();
        given.duty(Duty::Retention).await;
        let read = given.page(None, first.now).await;
        assert_eq!(read.events.len(), 1);
        assert!(read.since > first.now);
        assert!(read.since < read.events[0].id, "the rest is still there");
    }

    async fn what_is_watched_outlives_a_restart(given: Given<M>) {
        let first = given.watch(Some(queue())).await;
        given.push(job()).await;
        let given = given.reopened().await;
        given.push(job()).await;
        let read = given.page(Some(queue()), first.now).await;
        assert_eq!((read.events.len(), read.since), (2, first.since));
        assert!(read.events.is_sorted_by_key(|event| event.id));
    }
}
