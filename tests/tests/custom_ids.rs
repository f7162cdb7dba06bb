//! Custom ids where several are at work at once: nodes that share a store, and SQL.

#![allow(clippy::unwrap_used, reason = "everything here is a test, which fails by panicking")]

use std::sync::Arc;

use batonq_server::clock::ManualClock;
use batonq_server::job::{NewJob, Payload, QueueName, State, UniqueKey, WorkerName};
use batonq_server::store::{Claim, Hold, Pushed, Retention, SessionId, Settlement, Store, Verdict};
use batonq_tests::stores::{Maker, Schema, Shared};
use bytes::Bytes;

/// Two nodes on new tables.
async fn two_nodes() -> (Schema, [Arc<dyn Store>; 2]) {
    let (home, clock) = (Shared::home(), ManualClock::new());
    let one = Shared::open(&home, &clock, Retention::default()).await;
    let other = Shared::open(&home, &clock, Retention::default()).await;
    (home, [one, other])
}

fn called(queue: &str, name: &str) -> NewJob {
    let payload = Payload::new(Bytes::from_static(b"{}")).unwrap();
    let mut job = NewJob::new(QueueName::parse(queue).unwrap(), payload);
    job.options.custom_id = Some(UniqueKey::parse(name).unwrap());
    job
}

#[tokio::test]
async fn of_nodes_that_push_the_same_custom_ids_one_has_each_of_them() {
    let (_home, [one, other]) = two_nodes().await;
    for round in 0..20 {
        let jobs = |queue: &str| -> Vec<NewJob> {
            (0..50).map(|number| called(queue, &format!("{round}-{number}"))).collect()
        };
        // To different queues, and in opposite orders.
        let reversed: Vec<NewJob> = jobs("b").into_iter().rev().collect();
        let (these, those) = tokio::join!(one.push(jobs("a")), other.push(reversed));
        let (these, those) = (these.unwrap(), those.unwrap());
        for (this, that) in these.iter().zip(those.iter().rev()) {
            assert_eq!(this.id(), that.id());
            let is_new = |pushed: &Pushed| matches!(pushed, Pushed::Inserted { .. });
            assert_ne!(is_new(this), is_new(that), "{this:?} {that:?}");
        }
    }
}

#[tokio::test]
async fn a_node_finds_by_its_custom_id_what_another_has_pushed_and_given_out() {
    let (_home, [one, other]) = two_nodes().await;
    let id = one.push(vec![called("a", "c")]).await.unwrap()[0].id().unwrap();
    let worker = WorkerName::parse("w").unwrap();
    let claim = Claim {
        queue: QueueName::parse("a").unwrap(),
        count: 1,
        enough: 1,
        bytes_max: usize::MAX,
        worker: worker.clone(),
        hold: Hold::Session(SessionId(1)),
    };
    let lease = one.claim(vec![claim]).await.unwrap().jobs[0][0].lease;
    for node in [&one, &other] {
        let found = node.job_by_custom_id(UniqueKey::parse("c").unwrap()).await.unwrap().unwrap();
        assert_eq!((found.id, found.worker.as_ref()), (id, Some(&worker)));
        assert_eq!(node.leases_of(vec![id]).await.unwrap(), [Some(lease)]);
    }
    // What it had it gives back, whoever says that it is done.
    let settlement = Settlement { lease, verdict: Verdict::Ack { result: None } };
    other.settle(vec![settlement]).await.unwrap();
    let again = one.push(vec![called("b", "c")]).await.unwrap();
    assert!(matches!(again[..], [Pushed::Inserted { .. }]), "{again:?}");
}

#[tokio::test]
async fn a_job_that_ends_in_sql_gives_its_custom_id_back() {
    let (home, [node, _]) = two_nodes().await;
    let id = node.push(vec![called("a", "c")]).await.unwrap()[0].id().unwrap();
    let client = home.server.client().await;
    let sql = format!("SELECT {}.cancel({id})", home.name);
    client.batch_execute(&sql).await.unwrap();
    assert_eq!(node.job(id).await.unwrap().unwrap().state, State::Cancelled);
    let again = node.push(vec![called("b", "c")]).await.unwrap();
    assert!(matches!(again[..], [Pushed::Inserted { .. }]), "{again:?}");
}
