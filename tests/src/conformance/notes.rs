//! What happens to a job beside its leases, and the story that it makes with them.

use std::time::Duration;

use batonq_server::job::{Depends, Lease, OnFailure, When};
use batonq_server::limits::NOTES_MAX;
use batonq_server::store::{Changed, Duty, Edit, Event, Refused, Retry, Verdict};

use super::given::{SECOND, ack, fail, fail_with, in_time, job, named};
use super::rules;

fn kinds(story: &[Event]) -> Vec<&'static str> {
    story.iter().map(|event| event.kind).collect()
}

fn refused(lease: Lease) -> Refused {
    Refused { lease, who: "ada".into(), what: "ack" }
}

rules! {
    async fn of_a_plain_job_nothing_is_noted(given: Given<M>) {
        let id = given.push(job()).await;
        given.pass(SECOND);
        let lease = given.lease().await;
        given.pass(2 * SECOND);
        given.end(lease, ack()).await;
        assert_eq!(given.noted(id).await, []);
        let story = given.story(id).await;
        assert_eq!(kinds(&story), ["pushed", "leased", "lease_ended", "ended"]);
        assert_eq!((story[1].waited, story[2].ran), (Some(SECOND), Some(2 * SECOND)));
        assert_eq!((story[1].delivery, story[1].who.as_str()), (Some(1), "w"));
        assert_eq!((story[2].ending.as_str(), story[3].ending.as_str()), ("completed", "completed"));
    }

    async fn a_job_that_fails_and_comes_back_tells_when_it_became_due(given: Given<M>) {
        let id = given.push(in_time(5 * SECOND)).await;
        given.pass(5 * SECOND);
        given.duty(Duty::Due).await;
        given.end(given.lease().await, fail()).await;
        given.pass(11 * SECOND);
        given.duty(Duty::Due).await;
        given.pass(2 * SECOND);
        given.end(given.lease().await, ack()).await;
        let story = given.story(id).await;
        let expected = [
            "pushed", "due", "leased", "lease_ended", "due", "leased", "lease_ended", "ended",
        ];
        assert_eq!(kinds(&story), expected);
        let waited: Vec<_> = story.iter().filter_map(|event| event.waited).collect();
        assert_eq!(waited, [Duration::ZERO, 2 * SECOND]);
        assert_eq!((story[3].code.as_str(), story[3].message.as_str()), ("NO", "it went wrong"));
    }

    async fn what_people_change_is_noted(given: Given<M>) {
        let id = given.push(in_time(SECOND)).await;
        let queue = Some(named("other"));
        let edit = Edit { priority: Some(5), queue, ..Edit::default() };
        given.store.edit(id, edit).await.unwrap();
        given.store.edit(id, Edit { when: Some(When::After(SECOND)), ..Edit::default() }).await.unwrap();
        given.store.promote(id).await.unwrap();
        let expected = [
            ("moved", "from q to other".to_owned()),
            ("edited", "priority 5".to_owned()),
            ("edited", "to run in 1000 ms".to_owned()),
            ("promoted", String::new()),
        ];
        assert_eq!(given.noted(id).await, expected);
    }

    async fn a_retried_job_keeps_the_story_of_its_death(given: Given<M>) {
        let id = given.push(job()).await;
        given.end(given.lease().await, fail_with(Retry::Reject)).await;
        let died_at = given.now();
        given.pass(SECOND);
        given.store.retry(id).await.unwrap();
        given.end(given.lease().await, ack()).await;
        let story = given.story(id).await;
        let expected = [
            "pushed", "leased", "lease_ended", "ended", "retried", "leased", "lease_ended", "ended",
        ];
        assert_eq!(kinds(&story), expected);
        assert_eq!((story[3].at, story[3].code.as_str()), (died_at, "REJECTED"));
    }

    async fn a_replay_is_told_on_both_sides(given: Given<M>) {
        let id = given.dead_job(job()).await;
        let mut copies = Vec::new();
        for _ in 0..2 {
            let Changed::Done(effect) = given.store.replay(id, Edit::default()).await.unwrap() else { panic!("no") };
            copies.push(effect.job);
        }
        let expected = copies.iter().map(|copy| ("replayed", copy.to_string()));
        assert_eq!(given.noted(id).await, expected.collect::<Vec<_>>());
        assert_eq!(given.story(copies[1]).await[0].job, Some(id));
        assert_eq!(given.story(id).await.last().unwrap().job, Some(copies[1]));
    }

    async fn a_cancel_is_acknowledged_or_forced(given: Given<M>) {
        let id = given.push(job()).await;
        let lease = given.lease().await;
        given.cancel(id).await;
        given.end(lease, Verdict::Release).await;
        let expected = ["pushed", "leased", "cancel_requested", "lease_ended", "cancel_acknowledged", "ended"];
        assert_eq!(kinds(&given.story(id).await), expected);
        let id = given.push(job()).await;
        given.lease().await;
        given.cancel(id).await;
        given.pass(11 * SECOND);
        given.duty(Duty::Cancels).await;
        let expected = ["pushed", "leased", "cancel_requested", "lease_ended", "cancel_forced", "ended"];
        assert_eq!(kinds(&given.story(id).await), expected);
    }

    async fn whoever_comes_too_late_is_noted_with_the_lease(given: Given<M>) {
        let id = given.push(job()).await;
        let stale = given.lease().await;
        given.end(stale, Verdict::Release).await;
        given.lease().await;
        given.store.note_refused(vec![refused(stale)]).await.unwrap();
        let notes = given.store.notes(id).await.unwrap();
        assert_eq!((notes[0].delivery, notes[0].who.as_str(), notes[0].detail.as_str()), (1, "ada", "ack"));
        let unknown = Lease { job: batonq_server::job::JobId(99), delivery: 1 };
        given.store.note_refused(vec![refused(unknown)]).await.unwrap();
        assert_eq!(given.noted(unknown.job).await, []);
    }

    async fn a_job_that_waited_for_another_tells_when_it_went_on(given: Given<M>) {
        let need = given.push(job()).await;
        let mut after = job();
        after.options.depends = Depends { on: vec![need], on_failure: OnFailure::Fail };
        let id = given.push(after).await;
        given.pass(SECOND);
        given.end(given.lease().await, ack()).await;
        given.pass(SECOND);
        given.lease().await;
        let story = given.story(id).await;
        assert_eq!(kinds(&story), ["pushed", "unblocked", "leased"]);
        assert_eq!(story[2].waited, Some(SECOND));
    }

    async fn the_last_notes_are_kept(given: Given<M>) {
        let id = given.push(job()).await;
        let edit = |priority| Edit { priority: Some(priority), ..Edit::default() };
        for priority in 0..=i32::try_from(NOTES_MAX).unwrap() {
            given.store.edit(id, edit(priority)).await.unwrap();
        }
        let notes = given.noted(id).await;
        assert_eq!((notes.len(), notes[0].1.as_str()), (NOTES_MAX, "priority 1"));
        let lease = given.lease().await;
        let many = vec![refused(lease); NOTES_MAX + 3];
        given.store.note_refused(many).await.unwrap();
        let notes = given.noted(id).await;
        assert!(notes.len() == NOTES_MAX && notes.iter().all(|(kind, _)| *kind == "refused"));
    }

    async fn notes_are_forgotten_with_their_job(given: Given<M>) {
        let id = given.push(in_time(SECOND)).await;
        given.store.promote(id).await.unwrap();
        given.end(given.lease().await, ack()).await;
        given.pass(120 * SECOND);
        given.duty(Duty::Retention).await;
        assert_eq!(given.store.timeline(id).await.unwrap(), None);
        assert_eq!(given.noted(id).await, []);
    }

    async fn notes_survive_a_restart(given: Given<M>) {
        let id = given.push(in_time(SECOND)).await;
        given.store.promote(id).await.unwrap();
        let given = given.reopened().await;
        assert_eq!(given.noted(id).await, [("promoted", String::new())]);
    }
}
