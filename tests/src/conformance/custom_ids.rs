//! Custom ids: names that jobs have over all queues.

use batonq_server::job::{
    Depends, JobId, NewJob, Options, Settings, State, Timestamp, UniqueHold, UniqueKey,
};
use batonq_server::store::{Changed, Destination, Duty, Edit, Effect, Pushed, Retry, Same};

use super::given::{Given, SECOND, ack, fail, fail_with, job, named, queue};
use super::rules;
use crate::stores::Maker;

fn key(name: &str) -> UniqueKey {
    UniqueKey::parse(name).expect("a key")
}

fn called(name: &str) -> NewJob {
    NewJob { options: Options { custom_id: Some(key(name)), ..Options::default() }.into(), ..job() }
}

fn duplicate(id: JobId, state: State) -> Pushed {
    Pushed::Duplicate { id, state, of: Same::CustomId }
}

async fn pushed<M: Maker>(given: &Given<M>, jobs: Vec<NewJob>) -> Vec<Pushed> {
    given.store.push(jobs).await.expect("it works")
}

async fn found<M: Maker>(given: &Given<M>, name: &str) -> Option<JobId> {
    given.store.job_by_custom_id(key(name)).await.expect("it works").map(|job| job.id)
}

rules! {
    async fn one_live_job_of_all_queues_has_a_custom_id(given: Given<M>) {
        let id = given.push(called("c")).await;
        let elsewhere = NewJob { queue: named("other"), ..called("c") };
        for state in [State::Ready, State::Leased] {
            let again = pushed(&given, vec![called("c"), elsewhere.clone(), called("c")]).await;
            assert_eq!(again, [duplicate(id, state); 3]);
            given.claim(1).await;
        }
        given.push(called("d")).await;
        let others = given.store.queues(Some(named("other"))).await.unwrap();
        assert_eq!(others[0].counts.ready, 0);
    }

    async fn the_first_of_a_call_has_its_custom_id(given: Given<M>) {
        let elsewhere = NewJob { queue: named("other"), ..called("c") };
        let all = pushed(&given, vec![called("d"), elsewhere, called("c"), called("d")]).await;
        let ids: Vec<JobId> = all.iter().filter_map(Pushed::id).collect();
        assert!(matches!(all[..2], [Pushed::Inserted { .. }, Pushed::Inserted { .. }]), "{all:?}");
        assert_eq!(all[2..], [duplicate(ids[1], State::Ready), duplicate(ids[0], State::Ready)]);
    }

    async fn every_end_gives_a_custom_id_back(given: Given<M>) {
        given.push(called("c")).await;
        given.end(given.lease().await, ack()).await;
        given.push(called("c")).await;
        given.end(given.lease().await, fail_with(Retry::Reject)).await;
        let cancelled = given.push(called("c")).await;
        given.cancel(cancelled).await;
        let discarded = given.push(called("c")).await;
        given.store.discard(discarded).await.unwrap();
        given.push(NewJob { ttl: Some(SECOND), ..called("c") }).await;
        given.pass(SECOND);
        assert_eq!(given.claim(1).await, []);
        let on = vec![given.push(job()).await];
        given.store.discard(on[0]).await.unwrap();
        let mut blocked = called("c");
        blocked.options.depends = Depends { on, ..Depends::default() };
        let all = pushed(&given, vec![blocked]).await;
        assert!(matches!(all[..], [Pushed::Inserted { state: State::Dead, .. }]), "{all:?}");
        given.push(called("c")).await;
    }

    async fn a_job_that_comes_back_keeps_its_custom_id(given: Given<M>) {
        let id = given.push(called("c")).await;
        given.end(given.lease().await, fail()).await;
        assert_eq!(pushed(&given, vec![called("c")]).await, [duplicate(id, State::Scheduled)]);
        given.pass(10 * SECOND);
        given.duty(Duty::Due).await;
        given.store.edit(id, Edit { queue: Some(named("other")), ..Edit::default() }).await.unwrap();
        assert_eq!(pushed(&given, vec![called("c")]).await, [duplicate(id, State::Ready)]);
    }

    async fn the_last_job_of_a_custom_id_is_found_by_it(given: Given<M>) {
        assert_eq!(found(&given, "c").await, None);
        let first = given.push(called("c")).await;
        assert_eq!(found(&given, "c").await, Some(first));
        given.end(given.lease().await, ack()).await;
        let job = given.store.job_by_custom_id(key("c")).await.unwrap().unwrap();
        assert_eq!((job.id, job.state), (first, State::Completed));
        assert_eq!(job, given.job(first).await);
        let second = given.push(called("c")).await;
        assert_eq!(found(&given, "c").await, Some(second));
        given.cancel(second).await;
        given.store.delete(first).await.unwrap();
        assert_eq!(found(&given, "c").await, Some(second));
        given.store.delete(second).await.unwrap();
        assert_eq!(found(&given, "c").await, None);
    }

    async fn a_custom_id_is_forgotten_with_its_job(given: Given<M>) {
        given.push(called("c")).await;
        given.end(given.lease().await, ack()).await;
        given.pass(61 * SECOND);
        given.duty(Duty::Retention).await;
        assert_eq!(found(&given, "c").await, None);
        let kept = Settings { keep_completed_max: Some(0), ..Settings::default() };
        given.store.set_settings(queue(), kept).await.unwrap();
        let id = given.push(called("c")).await;
        assert_eq!(found(&given, "c").await, Some(id));
        given.end(given.lease().await, ack()).await;
        assert_eq!(found(&given, "c").await, None);
        given.push(called("c")).await;
    }

    async fn a_job_may_have_keys_of_all_kinds(given: Given<M>) {
        let all = |unique: &str, push: &str, name: &str| {
            let mut new = NewJob { unique: Some(key(unique)), ..called(name) };
            new.options.idempotency = Some(key(push));
            new
        };
        let id = given.push(all("u", "i", "c")).await;
        let of = |of| Pushed::Duplicate { id, state: State::Ready, of };
        let met = pushed(&given, vec![
            all("u", "i", "c"),
            all("u", "j", "c"),
            all("u", "j", "d"),
            all("v", "j", "c"),
        ]).await;
        let met_by = [Same::Push, Same::CustomId, Same::Unique, Same::CustomId].map(of);
        assert_eq!(met, met_by);
        // Those that were refused have taken nothing.
        let other = given.push(all("v", "j", "d")).await;
        for _ in 0..2 {
            given.end(given.lease().await, ack()).await;
        }
        let again = pushed(&given, vec![all("u", "k", "d"), all("v", "l", "c")]).await;
        assert!(again.iter().all(|one| one.id() > Some(other)), "{again:?}");
        assert_eq!(found(&given, "c").await, again[1].id());
    }

    async fn a_job_of_a_call_that_is_refused_takes_nothing_from_the_next(given: Given<M>) {
        let holder = given.push(called("c")).await;
        let throttled = |name: Option<&str>| {
            let hold = UniqueHold::WindowMs(10 * SECOND);
            let custom_id = name.map(key);
            let options = Options { hold, custom_id, ..Options::default() };
            NewJob { unique: Some(key("u")), options: options.into(), ..job() }
        };
        let unique = NewJob { unique: Some(key("u")), ..called("c") };
        let next = NewJob { unique: Some(key("u")), ..called("d") };
        let calls = [[throttled(Some("c")), throttled(None)], [unique, next]];
        for call in calls {
            let all = pushed(&given, call.to_vec()).await;
            assert_eq!(all[0], duplicate(holder, State::Ready));
            assert!(matches!(all[1], Pushed::Inserted { .. }), "{all:?}");
        }
    }

    async fn who_loses_a_key_is_still_found_by_the_custom_id(given: Given<M>) {
        let ended = given.push(called("c")).await;
        given.end(given.lease().await, ack()).await;
        given.push(NewJob { unique: Some(key("u")), ..job() }).await;
        let refused = NewJob { unique: Some(key("u")), ..called("c") };
        let all = pushed(&given, vec![refused]).await;
        assert!(matches!(all[..], [Pushed::Duplicate { of: Same::Unique, .. }]), "{all:?}");
        assert_eq!(found(&given, "c").await, Some(ended));
    }

    async fn a_debounced_job_gives_its_custom_id_to_nobody(given: Given<M>) {
        let debounced = |name| {
            let mut new = NewJob { unique: Some(key("u")), ..called(name) };
            new.options.hold = UniqueHold::Debounce;
            new
        };
        let id = given.push(debounced("c")).await;
        let replaced = Pushed::Replaced { id, state: State::Ready, run_at: None };
        assert_eq!(pushed(&given, vec![debounced("d")]).await, [replaced]);
        assert_eq!(pushed(&given, vec![debounced("c")]).await, [duplicate(id, State::Ready)]);
        assert_eq!(found(&given, "d").await, None);
        given.push(called("d")).await;
    }

    async fn a_dead_job_comes_back_with_its_custom_id_or_not_at_all(given: Given<M>) {
        let both = NewJob { unique: Some(key("u")), ..called("c") };
        let dead = given.dead_job(both).await;
        let holder = given.push(called("c")).await;
        assert_eq!(given.store.retry(dead).await.unwrap(), Changed::Duplicate(holder));
        assert_eq!(given.store.replay(dead, Edit::default()).await.unwrap(), Changed::Duplicate(holder));
        // It has not taken its other key either.
        let unique = given.push(NewJob { unique: Some(key("u")), ..job() }).await;
        given.cancel(holder).await;
        assert_eq!(given.store.retry(dead).await.unwrap(), Changed::Duplicate(unique));
        assert_eq!(found(&given, "c").await, Some(holder));
        given.cancel(unique).await;
        let effect = Effect { job: dead, queue: queue(), to: Destination::Ready };
        assert_eq!(given.store.retry(dead).await.unwrap(), Changed::Done(effect));
        assert_eq!(found(&given, "c").await, Some(dead));
        assert_eq!(pushed(&given, vec![called("c")]).await, [duplicate(dead, State::Ready)]);
    }

    async fn a_store_that_is_opened_again_knows_custom_ids(given: Given<M>) {
        let id = given.push(called("c")).await;
        let lease = given.lease().await;
        let given = given.reopened().await;
        assert_eq!(found(&given, "c").await, Some(id));
        given.end(lease, ack()).await;
        given.push(called("c")).await;
    }

    async fn what_a_transport_adds_comes_back_with_the_job(given: Given<M>) {
        let extra: Option<Box<str>> = Some("{\"lifo\":true,\"\\u0000\":\"\n\"}".into());
        let with = |when| {
            let options = Options { extra: extra.clone(), ..Options::default() };
            NewJob { options: options.into(), when, ..job() }
        };
        let now = given.push(with(batonq_server::job::When::Now)).await;
        let past = batonq_server::job::When::At(Timestamp(1));
        let keyed = NewJob { unique: Some(key("u")), ..with(past) };
        let keyed = given.push(keyed).await;
        for id in [now, keyed] {
            assert_eq!(given.job(id).await.options.extra, extra);
            given.end(given.lease().await, ack()).await;
            assert_eq!(given.job(id).await.options.extra, extra);
        }
    }
}
