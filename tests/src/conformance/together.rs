//! Many jobs that are completed by one call: a store may keep them as one, and nobody can tell.

use batonq_server::job::{
    Depends, JobId, Lease, NewJob, Options, Payload, Settings, State, Tag, UniqueKey,
};
use batonq_server::store::{
    Changed, Duty, Edit, EventKind, EventsWanted, JobFilter, Need, NoteKind, Pushed, Refused, Same,
    Settled, Settlement, Verdict,
};
use bytes::Bytes;

use super::given::{Given, SECOND, ack, fail, job, named, queue};
use super::rules;
use crate::stores::{Maker, NODE};

/// Enough to be kept as one.
const MANY: usize = 80;

fn payload(number: usize) -> Payload {
    Payload::new(Bytes::from(number.to_string())).expect("it is small")
}

/// Of every second job.
fn result(number: usize) -> Option<Bytes> {
    number.is_multiple_of(2).then(|| Bytes::from(format!("[{number}]")))
}

fn numbered(number: usize) -> NewJob {
    NewJob { payload: payload(number), ..job() }
}

fn ids(leases: &[Lease]) -> Vec<JobId> {
    leases.iter().map(|lease| lease.job).collect()
}

impl<M: Maker> Given<M> {
    /// Jobs that were pushed, leased and acked together. All completed jobs of the queue are kept for
    /// a minute.
    async fn completed(&self, count: usize) -> Vec<Lease> {
        self.keep(Settings { keep_completed_max: Some(10_000), ..Settings::default() }).await;
        self.complete((0..count).map(numbered).collect()).await
    }

    async fn complete(&self, jobs: Vec<NewJob>) -> Vec<Lease> {
        let count = jobs.len();
        self.store.push(jobs).await.expect("it works");
        let leases: Vec<Lease> = self.claim(count).await.iter().map(|job| job.lease).collect();
        assert_eq!(leases.len(), count);
        self.ack_all(&leases).await;
        leases
    }

    async fn ack_all(&self, leases: &[Lease]) {
        let verdict = |number| Verdict::Ack { result: result(number) };
        let acks = leases.iter().enumerate();
        let acks =
            acks.map(|(number, lease)| Settlement { lease: *lease, verdict: verdict(number) });
        let settled = self.store.settle(acks.collect()).await.expect("it works").settled;
        assert!(settled.iter().all(|settled| matches!(settled, Settled::Done(_))), "{settled:?}");
    }

    async fn keep(&self, settings: Settings) {
        self.store.set_settings(queue(), settings).await.expect("it works");
    }

    /// All jobs that a filter finds, by pages of seven.
    async fn listed(&self, filter: JobFilter) -> Vec<JobId> {
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let filter = JobFilter { limit: 7, cursor, ..filter.clone() };
            let page = self.store.jobs(filter).await.expect("it works");
            seen.extend(page.jobs.iter().map(|job| job.id));
            cursor = page.next;
            if cursor.is_none() {
                return seen;
            }
        }
    }

    /// The kinds of all events after one, once all that was recorded is to be seen.
    async fn heard(&self, after: u64) -> Vec<EventKind> {
        let all = self.store.watch(None, 60 * SECOND).await.expect("it works").now;
        let mut upto = 0;
        while upto < all {
            upto = self.store.event_head().await.expect("it works");
        }
        let wanted = EventsWanted { after, upto, queue: None, limit: 1000 };
        let events = self.store.events(wanted).await.expect("it works").events;
        events.into_iter().map(|event| event.kind).collect()
    }
}

rules! {
    async fn each_is_shown_by_itself(given: Given<M>) {
        let leases = given.completed(MANY).await;
        for (number, lease) in leases.iter().enumerate() {
            let job = given.job(lease.job).await;
            assert_eq!((job.state, &job.queue), (State::Completed, &queue()));
            assert_eq!((job.payload, job.result), (Some(payload(number)), result(number)));
            assert_eq!((job.deliveries, job.attempts, job.crashes), (1, 0, 0));
            assert_eq!((job.finished_at, job.created_at), (Some(given.now()), given.now()));
            assert_eq!(job.backoff, self::job().backoff);
        }
        let found = given.store.jobs_by_id(ids(&leases)).await.unwrap();
        assert_eq!(found.iter().flatten().count(), MANY);
        for (lease, found) in leases.iter().zip(found) {
            assert_eq!(given.store.job(lease.job).await.unwrap(), found);
        }
    }

    async fn each_has_its_timeline(given: Given<M>) {
        let leases = given.completed(MANY).await;
        let (job, attempts) = given.store.timeline(leases[7].job).await.unwrap().unwrap();
        assert_eq!((job.id, attempts.len()), (leases[7].job, 1));
        let only = &attempts[0];
        assert_eq!((only.delivery, only.attempt, only.ending.as_str()), (1, 1, "completed"));
        assert_eq!((only.node.as_str(), only.worker.as_str()), (NODE, "w"));
        assert_eq!((only.started_at, only.ended_at), (given.now(), Some(given.now())));
    }

    async fn they_are_listed_among_the_others(given: Given<M>) {
        let mut all = given.ready_jobs(2).await;
        let held: Vec<Lease> = given.claim(2).await.iter().map(|job| job.lease).collect();
        all.extend(ids(&given.completed(MANY).await));
        all.extend(ids(&given.complete(vec![job(); 3]).await));
        all.extend(given.ready_jobs(3).await);
        given.end(held[0], ack()).await;
        let elsewhere = given.push(NewJob { queue: named("other"), ..job() }).await;
        let of_queue = JobFilter { queue: Some(queue()), ..JobFilter::default() };
        all.sort_unstable();
        let upwards = JobFilter { oldest_first: true, ..of_queue.clone() };
        assert_eq!(given.listed(upwards).await, all);
        all.reverse();
        assert_eq!(given.listed(of_queue.clone()).await, all);
        let completed = JobFilter { state: Some(State::Completed), ..of_queue };
        assert_eq!(given.listed(completed).await.len(), MANY + 4);
        let newest = given.listed(JobFilter::default()).await;
        assert_eq!((newest.len(), newest[0]), (MANY + 9, elsewhere));
    }

    async fn they_are_found_by_every_filter_that_fits_them(given: Given<M>) {
        let early = given.now();
        let all = ids(&given.completed(MANY).await);
        given.pass(SECOND);
        let later = ids(&given.complete((0..MANY).map(numbered).collect()).await);
        let any = JobFilter { oldest_first: true, ..JobFilter::default() };
        let content_type = Some(Payload::JSON.to_owned());
        for (filter, expected) in [
            (JobFilter { created_to: Some(early + SECOND), ..any.clone() }, all.clone()),
            (JobFilter { created_from: Some(early + SECOND), ..any.clone() }, later.clone()),
            (JobFilter { content_type, ..any.clone() }, [all.clone(), later.clone()].concat()),
            (JobFilter { is_replayed: Some(false), ..any.clone() }, [all, later].concat()),
            (JobFilter { is_replayed: Some(true), ..any.clone() }, vec![]),
            (JobFilter { is_live: Some(true), ..any.clone() }, vec![]),
            (JobFilter { state: Some(State::Dead), ..any.clone() }, vec![]),
            (JobFilter { tag: Some(Tag::parse("t").unwrap()), ..any.clone() }, vec![]),
            (JobFilter { queue: Some(named("other")), ..any.clone() }, vec![]),
        ] {
            assert_eq!(given.listed(filter.clone()).await, expected, "{filter:?}");
        }
    }

    async fn they_are_counted_with_the_others(given: Given<M>) {
        given.completed(MANY).await;
        given.complete(vec![job(); 2]).await;
        given.dead_job(job()).await;
        let counts = given.counts().await;
        assert_eq!((counts.completed, counts.dead), (MANY as u64 + 2, 1));
    }

    async fn a_thousand_and_more_are_known_as_few_are(given: Given<M>) {
        let leases = given.completed(1500).await;
        assert_eq!(given.counts().await.completed, 1500);
        for lease in leases.iter().step_by(97) {
            assert_eq!(given.state(lease.job).await, State::Completed);
        }
        let cursor = Some(leases[1400].job);
        let page = JobFilter { limit: 1000, cursor, ..JobFilter::default() };
        let page = given.store.jobs(page).await.unwrap();
        assert!(page.jobs.iter().map(|job| job.id).eq(ids(&leases[400..1400]).into_iter().rev()));
        let found = given.store.jobs_by_id(ids(&leases[500..1200])).await.unwrap();
        assert_eq!(found.iter().flatten().count(), 700);
    }

    async fn the_same_ack_again_is_fine_and_another_is_not(given: Given<M>) {
        let leases = given.completed(MANY).await;
        let again = leases.iter().map(|lease| Settlement { lease: *lease, verdict: ack() });
        let settled = given.store.settle(again.collect()).await.unwrap().settled;
        assert_eq!(settled, vec![Settled::Repeated; MANY]);
        assert_eq!(given.settle(leases[3], fail()).await, Settled::LeaseLost);
        let later = Lease { delivery: 2, ..leases[3] };
        assert_eq!(given.settle(later, ack()).await, Settled::LeaseLost);
    }

    async fn of_too_many_just_the_oldest_go(given: Given<M>) {
        let first = ids(&given.completed(MANY).await);
        given.pass(SECOND);
        let second = ids(&given.complete((0..MANY).map(numbered).collect()).await);
        for (max, left) in [(MANY + 11, 11), (MANY + 10, 10), (MANY, 0)] {
            let keep_completed_max = Some(max as u64);
            given.keep(Settings { keep_completed_max, ..Settings::default() }).await;
            given.duty(Duty::Retention).await;
            let kept = JobFilter { oldest_first: true, ..JobFilter::default() };
            let expected = [&first[MANY - left..], &second].concat();
            assert_eq!(given.listed(kept).await, expected, "{max}");
            assert_eq!(given.counts().await.completed, max as u64);
        }
        assert_eq!(given.store.job(first[0]).await.unwrap(), None);
        assert_eq!(given.store.timeline(first[39]).await.unwrap(), None);
    }

    async fn of_those_that_ended_at_once_the_lowest_numbers_go(given: Given<M>) {
        given.keep(Settings { keep_completed_max: Some(50), ..Settings::default() }).await;
        let jobs: Vec<NewJob> = (0..3 * MANY).map(numbered).collect();
        let pushed = given.store.push(jobs).await.unwrap();
        let all: Vec<JobId> = pushed.iter().filter_map(Pushed::id).collect();
        let leases: Vec<Lease> = given.claim(3 * MANY).await.iter().map(|job| job.lease).collect();
        // Three calls whose jobs lie between each other.
        for part in 0..3 {
            let mine: Vec<Lease> = leases.iter().skip(part).step_by(3).copied().collect();
            given.ack_all(&mine).await;
        }
        given.duty(Duty::Retention).await;
        let kept = JobFilter { oldest_first: true, ..JobFilter::default() };
        assert_eq!(given.listed(kept).await, all[3 * MANY - 50..]);
    }

    async fn they_are_forgotten_in_time(given: Given<M>) {
        let old = given.completed(MANY).await;
        given.pass(SECOND);
        let late = given.complete(vec![job(); MANY]).await;
        given.pass(59 * SECOND);
        assert_eq!(given.duty(Duty::Retention).await.next, Some(60 * SECOND));
        assert_eq!(given.counts().await.completed, MANY as u64);
        for (lease, settled) in [(old[0], Settled::Unknown), (late[0], Settled::Repeated)] {
            assert_eq!(given.settle(lease, ack()).await, settled);
        }
        given.pass(SECOND);
        assert_eq!(given.duty(Duty::Retention).await.next, None);
        assert_eq!(given.listed(JobFilter::default()).await, []);
    }

    async fn what_was_noted_of_one_goes_with_it_and_with_no_other(given: Given<M>) {
        given.completed(1).await;
        let pushed = given.store.push(vec![job(); 2 * MANY]).await.unwrap();
        let all: Vec<JobId> = pushed.iter().filter_map(Pushed::id).collect();
        let leases: Vec<Lease> = given.claim(2 * MANY).await.iter().map(|job| job.lease).collect();
        let (mine, others): (Vec<_>, Vec<_>) =
            leases.into_iter().partition(|lease| lease.job.0.is_multiple_of(2));
        given.ack_all(&mine).await;
        let refused = [mine[0], others[0]].map(|lease| {
            let lease = Lease { delivery: 9, ..lease };
            Refused { lease, who: "w".into(), what: "ack" }
        });
        given.store.note_refused(refused.to_vec()).await.unwrap();
        for lease in [mine[0], others[0]] {
            assert_eq!(given.noted(lease.job).await, [(NoteKind::Refused.name(), "ack".into())]);
        }
        given.pass(60 * SECOND);
        given.duty(Duty::Retention).await;
        assert_eq!(given.store.notes(mine[0].job).await.unwrap(), []);
        assert_eq!(given.store.notes(others[0].job).await.unwrap().len(), 1);
        assert_eq!(given.listed(JobFilter::default()).await.len(), all.len() / 2);
    }

    async fn one_may_be_deleted_alone(given: Given<M>) {
        let leases = given.completed(MANY).await;
        let gone = leases[5];
        assert!(matches!(given.store.delete(gone.job).await.unwrap(), Changed::Done(_)));
        assert_eq!(given.store.delete(gone.job).await.unwrap(), Changed::NotFound);
        assert_eq!(given.store.job(gone.job).await.unwrap(), None);
        assert_eq!(given.settle(gone, ack()).await, Settled::Unknown);
        assert_eq!(given.counts().await.completed, MANY as u64 - 1);
        assert_eq!(given.listed(JobFilter::default()).await.len(), MANY - 1);
        for (number, lease) in leases.iter().enumerate().filter(|(_, lease)| **lease != gone) {
            let job = given.job(lease.job).await;
            assert_eq!((job.payload, job.result), (Some(payload(number)), result(number)));
            assert_eq!(job.finished_at, Some(given.now()));
        }
        given.pass(60 * SECOND);
        given.duty(Duty::Retention).await;
        assert_eq!(given.listed(JobFilter::default()).await, []);
    }

    async fn one_may_be_replayed_and_none_retried(given: Given<M>) {
        let leases = given.completed(MANY).await;
        let original = leases[6].job;
        let done = given.store.replay(original, Edit::default()).await.unwrap();
        let Changed::Done(effect) = done else { panic!("{done:?}") };
        let copy = given.job(effect.job).await;
        assert_eq!((copy.payload, copy.replay_of), (Some(payload(6)), Some(original)));
        assert_eq!(given.job(original).await.replayed_as, Some(effect.job));
        assert_eq!(given.job(leases[7].job).await.replayed_as, None);
        let replayed = JobFilter { is_replayed: Some(true), ..JobFilter::default() };
        assert_eq!(given.listed(replayed).await, [original]);
        let retried = given.store.retry(leases[8].job).await.unwrap();
        assert_eq!(retried, Changed::WrongState(State::Completed));
    }

    async fn copies_that_are_completed_together_point_to_their_originals(given: Given<M>) {
        let originals = ids(&given.completed(MANY).await);
        for id in &originals {
            given.store.replay(*id, Edit::default()).await.unwrap();
        }
        let leases: Vec<Lease> = given.claim(MANY).await.iter().map(|job| job.lease).collect();
        given.ack_all(&leases).await;
        for (lease, original) in leases.iter().zip(originals) {
            assert_eq!(given.job(lease.job).await.replay_of, Some(original));
        }
    }

    async fn whoever_needs_one_does_not_wait_and_gets_its_result(given: Given<M>) {
        let leases = given.completed(MANY).await;
        let (with, without) = (leases[4].job, leases[5].job);
        let depends = Depends { on: vec![with, without], ..Depends::default() };
        let waits = NewJob { options: Options { depends, ..Options::default() }.into(), ..job() };
        let id = given.push(waits).await;
        assert_eq!(given.state(id).await, State::Ready);
        let need = |id, result| Need { id, state: Some(State::Completed), result };
        let needs = given.claim(1).await.remove(0).needs;
        assert_eq!(needs, [need(with, result(4)), need(without, None)]);
    }

    async fn a_push_that_is_repeated_after_them_is_known(given: Given<M>) {
        let once = |number: usize| {
            let idempotency = Some(UniqueKey::parse(&number.to_string()).unwrap());
            NewJob { options: Options { idempotency, ..Options::default() }.into(), ..numbered(number) }
        };
        given.keep(Settings { keep_completed_max: Some(100), ..Settings::default() }).await;
        let leases = given.complete((0..MANY).map(once).collect()).await;
        let again = given.store.push(vec![once(3)]).await.unwrap();
        let id = leases[3].job;
        assert_eq!(again, [Pushed::Duplicate { id, state: State::Completed, of: Same::Push }]);
        assert_eq!(given.job(id).await.options, *once(3).options);
    }

    async fn jobs_with_more_to_them_keep_it_among_plain_ones(given: Given<M>) {
        given.keep(Settings { keep_completed_max: Some(100), ..Settings::default() }).await;
        let tag = Tag::parse("t").unwrap();
        let mut jobs: Vec<NewJob> = (0..MANY).map(numbered).collect();
        jobs[3].tags = vec![tag.clone()];
        jobs[5].ttl = Some(60 * SECOND);
        jobs[7].payload = Payload::new(Bytes::from(vec![b'1'; 50_000])).unwrap();
        jobs[9].payload = payload(9).with_content_type("text/plain").unwrap();
        jobs[11].timeout = Some(5 * SECOND);
        let expected = jobs.clone();
        given.store.push(jobs).await.unwrap();
        let first = given.claim(MANY).await;
        given.end(first[1].lease, Verdict::Release).await;
        let mut leases: Vec<Lease> = first.iter().map(|job| job.lease).collect();
        leases[1] = given.lease().await;
        given.ack_all(&leases).await;
        for ((number, lease), new) in leases.iter().enumerate().zip(expected) {
            let job = given.job(lease.job).await;
            assert_eq!((job.state, job.deliveries), (State::Completed, lease.delivery));
            assert_eq!((job.payload, job.result), (Some(new.payload), result(number)), "{number}");
            assert_eq!((job.tags, job.timeout), (new.tags, new.timeout), "{number}");
            assert_eq!(job.expires_at.is_some(), new.ttl.is_some(), "{number}");
        }
        let tagged = JobFilter { tag: Some(tag), ..JobFilter::default() };
        assert_eq!(given.listed(tagged).await, [leases[3].job]);
        let (_, attempts) = given.store.timeline(leases[1].job).await.unwrap().unwrap();
        assert_eq!(attempts.len(), 2);
        assert_eq!(given.counts().await.completed, MANY as u64);
    }

    async fn their_payloads_may_go_before_them(given: Given<M>) {
        given.completed(1).await;
        let keep = Settings { keep_completed_max: Some(2 * MANY as u64), ..Settings::default() };
        given.keep(Settings { keep_payload: Some(5 * SECOND), ..keep }).await;
        let old = given.complete((0..MANY).map(numbered).collect()).await;
        given.pass(2 * SECOND);
        let late = given.complete((0..MANY).map(numbered).collect()).await;
        given.pass(3 * SECOND);
        given.duty(Duty::Retention).await;
        for lease in &old {
            let job = given.job(lease.job).await;
            assert_eq!((job.payload, job.result, job.is_dropped), (None, None, true));
        }
        let kept = given.job(late[4].job).await;
        assert_eq!((kept.payload, kept.result, kept.is_dropped), (Some(payload(4)), result(4), false));
        let replayed = given.store.replay(old[4].job, Edit::default()).await.unwrap();
        assert_eq!(replayed, Changed::Dropped);
        given.store.delete(late[5].job).await.unwrap();
        given.pass(2 * SECOND);
        given.duty(Duty::Retention).await;
        let job = given.job(late[4].job).await;
        assert_eq!((job.payload, job.is_dropped), (None, true));
    }

    async fn each_has_a_log(given: Given<M>) {
        let leases = given.completed(MANY).await;
        let (one, other) = (leases[4].job, leases[5].job);
        let line = Bytes::from_static(b"late");
        assert!(given.store.log(one, "info".into(), line.clone()).await.unwrap());
        given.duty(Duty::Retention).await;
        let said = given.store.logs(one).await.unwrap();
        assert_eq!(said.iter().map(|said| &said.message).collect::<Vec<_>>(), [&line]);
        assert_eq!(given.store.logs(other).await.unwrap(), []);
        given.pass(60 * SECOND);
        given.duty(Duty::Retention).await;
        assert_eq!(given.store.logs(one).await.unwrap(), []);
        assert!(!given.store.log(one, "info".into(), line).await.unwrap());
    }

    async fn whoever_listens_hears_of_each_of_them(given: Given<M>) {
        let watching = given.store.watch(None, 60 * SECOND).await.unwrap();
        given.completed(MANY).await;
        let heard = given.heard(watching.now).await;
        let completed = heard.iter().filter(|kind| **kind == EventKind::Completed);
        assert_eq!(completed.count(), MANY);
    }

    async fn nobody_hears_of_them_later(given: Given<M>) {
        let leases = given.completed(MANY).await;
        let watching = given.store.watch(None, 60 * SECOND).await.unwrap();
        given.store.delete(leases[2].job).await.unwrap();
        given.store.replay(leases[3].job, Edit::default()).await.unwrap();
        given.keep(Settings { keep_completed_max: Some(7), ..Settings::default() }).await;
        given.duty(Duty::Retention).await;
        assert_eq!(given.counts().await.completed, 7);
        let heard = given.heard(watching.now).await;
        assert_eq!(heard, [EventKind::Pushed, EventKind::Settings]);
        given.end(given.lease().await, ack()).await;
        assert_eq!(given.heard(watching.now).await.last(), Some(&EventKind::Completed));
    }

    async fn they_outlive_a_restart(given: Given<M>) {
        let leases = given.completed(MANY).await;
        let given = given.reopened().await;
        let job = given.job(leases[4].job).await;
        assert_eq!((job.payload, job.result), (Some(payload(4)), result(4)));
        assert_eq!(given.counts().await.completed, MANY as u64);
        assert_eq!(given.settle(leases[4], ack()).await, Settled::Repeated);
    }
}
