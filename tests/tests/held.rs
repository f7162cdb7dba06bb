//! What somebody holds who is frozen or cut off amid a transaction keeps those waiting who need it,
//! and nobody else.

use batonq_tests::harness::Cluster;
use batonq_tests::harness::cluster::{ack, pull, push};
use hyper::Method;
use serde_json::json;

/// How long a pull waits here: much longer than it should, and less than a lock is waited for.
const WAIT_MS: u64 = 2_500;

/// A session that has begun a transaction with this statement, and does not go on.
async fn hold(cluster: &Cluster, sql: &str) -> tokio_postgres::Client {
    let session = cluster.postgres.client().await;
    session.batch_execute(&format!("BEGIN; {sql}")).await.expect("the row is there");
    session
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_with_limits_that_somebody_holds_stops_no_other_queue() {
    let cluster = Cluster::of(1).await;
    let http = cluster.http(0);
    let limits = Some(json!({ "concurrency": 5 }).to_string().into());
    let is_json = [("content-type", "application/json")];
    let set = http.send(Method::PUT, "/v1/queues/limited/settings", limits, &is_json).await;
    assert!(set.status < 300, "{}", set.text);
    push(&http, "limited", json!(1)).await;
    let sql = "SELECT id FROM batonq.queue WHERE name = 'limited' FOR UPDATE";
    let held = hold(&cluster, sql).await;

    let limited = tokio::spawn({
        let http = cluster.http(0);
        async move { pull(&http, "limited", 1, 20_000).await }
    });
    for number in 0..5 {
        push(&http, "plain", json!(number)).await;
        let jobs = pull(&http, "plain", 1, WAIT_MS).await;
        assert_eq!(jobs.len(), 1, "job {number} waits for a lock that it has no need of");
        ack(&http, &jobs[0]).await;
    }
    assert!(!limited.is_finished(), "the lock is held");
    held.batch_execute("ROLLBACK").await.expect("it is there");
    assert_eq!(limited.await.expect("it did not panic").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_somebody_holds_keeps_no_other_from_coming_at_its_time() {
    let cluster = Cluster::of(1).await;
    let http = cluster.http(0);
    let late = json!({ "payload": 1, "timeout_ms": 300 });
    let late = http.post("/v1/queues/q/jobs", late).await.json();
    assert_eq!(pull(&http, "q", 1, WAIT_MS).await.len(), 1);
    let sql = format!("SELECT id FROM batonq.job WHERE id = {} FOR UPDATE", late["id"]);
    let held = hold(&cluster, &sql).await;

    // Its attempt is over meanwhile, and what is to be done then waits.
    for number in 0..3 {
        let later = json!({ "payload": number, "delay_ms": 500 });
        assert_eq!(http.post("/v1/queues/q/jobs", later).await.status, 201);
        let jobs = pull(&http, "q", 1, WAIT_MS).await;
        assert_eq!(jobs.len(), 1, "job {number} waits for a lock that it has no need of");
        ack(&http, &jobs[0]).await;
    }
    held.batch_execute("ROLLBACK").await.expect("it is there");
    let again = pull(&http, "q", 1, 20_000).await;
    assert_eq!(again[0]["id"], late["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_by_time_comes_behind_all_that_a_snapshot_keeps() {
    let cluster = Cluster::of(2).await;
    let (http, other) = (cluster.http(0), cluster.http(1));
    let _held = hold(&cluster, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1").await;
    // As minutes of many delayed jobs and short leases leave it: dead, and not to be removed.
    let dead = "BEGIN;
        INSERT INTO batonq.scheduled (run_at, job_id, queue_id)
        SELECT n, n, 0 FROM generate_series(1, 300000) AS n;
        INSERT INTO batonq.lease
        SELECT n, 'none', 0, '', NULL, 0, n, '{}', '{}' FROM generate_series(1, 300000) AS n;
        DELETE FROM batonq.scheduled;
        DELETE FROM batonq.lease;
        COMMIT";
    cluster.postgres.execute(dead).await;
    let pull = async |lease_ms: u64| {
        let body = json!({ "wait_ms": 20_000, "lease_ms": lease_ms });
        let reply = http.post("/v1/queues/q/pull", body).await.json();
        reply["jobs"][0].clone()
    };
    for number in 0..5 {
        let later = json!({ "payload": number, "delay_ms": 300 });
        assert_eq!(http.post("/v1/queues/q/jobs", later).await.status, 201);
        let first = pull(1000).await;
        assert_eq!(first["payload"], number, "it was due");
        let again = pull(20_000).await;
        assert_eq!(again["id"], first["id"], "its lease has run out");
        assert_eq!(ack(&other, &again).await, 200, "the other node finds the lease");
    }
}
