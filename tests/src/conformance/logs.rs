//! The logs of jobs.

use batonq_server::job::{JobId, Settings};
use batonq_server::limits::LOGS_MAX;
use batonq_server::store::{Duty, Edit, StoredLine};
use bytes::Bytes;

use super::given::{Given, SECOND, ack, fail, job, queue};
use super::rules;
use crate::stores::Maker;

impl<M: Maker> Given<M> {
    /// Writes a line. False: there is no such job.
    async fn log(&self, job: JobId, message: &str) -> bool {
        let message = Bytes::copy_from_slice(message.as_bytes());
        self.store.log(job, "info".into(), message).await.expect("it works")
    }

    async fn logs(&self, job: JobId) -> Vec<StoredLine> {
        self.store.logs(job).await.expect("it works")
    }

    /// The messages of a log.
    async fn said(&self, job: JobId) -> Vec<String> {
        let lines = self.logs(job).await.into_iter();
        lines.map(|line| String::from_utf8(line.message.to_vec()).expect("it is text")).collect()
    }
}

rules! {
    async fn a_line_is_told_as_it_was_written_and_when(given: Given<M>) {
        let (id, other) = (given.push(job()).await, given.push(job()).await);
        let at = given.now();
        let message = Bytes::from_static(&[0, 255, 7]);
        assert!(given.store.log(id, "wärn".into(), message.clone()).await.unwrap());
        given.pass(SECOND);
        assert!(given.log(id, "more").await);
        let given = given.reopened().await;
        let (level, later) = ("wärn".to_owned(), given.now());
        let more = StoredLine { at: later, level: "info".into(), message: Bytes::from_static(b"more") };
        assert_eq!(given.logs(id).await, [StoredLine { at, level, message }, more]);
        assert_eq!(given.logs(other).await, []);
    }

    async fn a_job_has_a_log_in_every_state(given: Given<M>) {
        let id = given.push(job()).await;
        given.log(id, "ready").await;
        let lease = given.lease().await;
        given.log(id, "leased").await;
        given.end(lease, fail()).await;
        given.log(id, "scheduled").await;
        given.pass(10 * SECOND);
        given.duty(Duty::Due).await;
        given.end(given.lease().await, ack()).await;
        given.log(id, "completed").await;
        given.duty(Duty::Retention).await;
        assert_eq!(given.said(id).await, ["ready", "leased", "scheduled", "completed"]);
        given.store.replay(id, Edit::default()).await.unwrap();
        let copy = given.lease().await.job;
        assert_eq!(given.said(copy).await, [""; 0]);
    }

    async fn a_job_that_is_retried_keeps_its_log(given: Given<M>) {
        let id = given.dead_job(job()).await;
        given.log(id, "dead").await;
        given.store.retry(id).await.unwrap();
        given.duty(Duty::Retention).await;
        given.log(id, "ready").await;
        assert_eq!(given.said(id).await, ["dead", "ready"]);
    }

    async fn the_last_lines_are_kept(given: Given<M>) {
        let (id, other) = (given.push(job()).await, given.push(job()).await);
        given.log(other, "other").await;
        for number in 0..LOGS_MAX + 3 {
            given.log(id, &number.to_string()).await;
        }
        let expected: Vec<String> = (3..LOGS_MAX + 3).map(|number| number.to_string()).collect();
        assert_eq!(given.said(id).await, expected);
        assert_eq!(given.said(other).await, ["other"]);
    }

    async fn of_a_job_that_is_not_known_there_is_no_log(given: Given<M>) {
        let unknown = JobId(99);
        assert!(!given.log(unknown, "lost").await);
        assert_eq!(given.logs(unknown).await, []);
    }

    async fn a_log_goes_with_its_job(given: Given<M>) {
        let deleted = given.dead_job(job()).await;
        let forgotten = given.push(job()).await;
        given.end(given.lease().await, ack()).await;
        let kept = given.push(job()).await;
        for id in [deleted, forgotten, kept] {
            given.log(id, "here").await;
        }
        given.store.delete(deleted).await.unwrap();
        given.pass(120 * SECOND);
        assert_eq!(given.duty(Duty::Retention).await.next, None);
        for id in [deleted, forgotten] {
            assert_eq!(given.logs(id).await, []);
            assert!(!given.log(id, "gone").await);
        }
        assert_eq!(given.said(kept).await, ["here"]);
    }

    async fn the_log_of_a_job_that_is_not_kept_goes_with_its_ack(given: Given<M>) {
        let none = Settings { keep_completed_max: Some(0), ..Settings::default() };
        given.store.set_settings(queue(), none).await.unwrap();
        let id = given.push(job()).await;
        given.log(id, "here").await;
        given.end(given.lease().await, ack()).await;
        assert_eq!(given.logs(id).await, []);
        assert!(!given.log(id, "gone").await);
        given.duty(Duty::Retention).await;
        assert_eq!(given.logs(id).await, []);
    }
}
