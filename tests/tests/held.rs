//! What somebody holds who is frozen or cut off amid a transaction keeps those waiting who need it,
//! and nobody else.

use batonq_tests::harness::cluster::{ack, pull, push};
use batonq_tests::harness::{Cluster, Http, Reply};
use hyper::Method;
use serde_json::{Value, json};

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

/// What the node answers to this call, which must wait for what `held` holds; then that commits.
async fn answer_after(
    cluster: &Cluster,
    held: tokio_postgres::Client,
    call: impl Future<Output = Reply>,
) -> Reply {
    tokio::pin!(call);
    tokio::select! {
        reply = &mut call => panic!("it did not wait: {} {}", reply.status, reply.text),
        () = cluster.postgres.somebody_waits() => held.batch_execute("COMMIT").await.expect("it is there"),
    }
    call.await
}

async fn tell_progress(http: &Http, job: &Value) -> Reply {
    let body = json!({ "lease": job["lease"], "percent": 50 });
    http.post(&format!("/v1/jobs/{}/progress", job["id"]), body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_of_a_lease_that_is_just_ending_is_refused() {
    let cluster = Cluster::of(1).await;
    let http = cluster.http(0);
    push(&http, "q", json!(1)).await;
    let job = &pull(&http, "q", 1, WAIT_MS).await[0];
    let sql = format!("UPDATE batonq.job SET delivery = 2 WHERE id = {}", job["id"]);
    let held = hold(&cluster, &sql).await;
    let reply = answer_after(&cluster, held, tell_progress(&http, job)).await;
    assert_eq!(reply.problem(), (409, "LEASE_LOST".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_of_a_job_that_was_pushed_with_others_is_noted_wherever_it_stands() {
    let cluster = Cluster::of(1).await;
    let http = cluster.http(0);
    let jobs = vec![json!({ "payload": 1 }); 100];
    let pushed = http.post("/v1/queues/q/jobs/batch", json!({ "jobs": jobs })).await;
    assert!(pushed.status < 300, "{}", pushed.text);
    let pulled = pull(&http, "q", 100, WAIT_MS).await;
    assert_eq!(cluster.postgres.value("SELECT count(*) FROM batonq.run").await, "1");
    for job in [&pulled[7], &pulled[99]] {
        let sql = format!("SET search_path = batonq; SELECT * FROM take_out(ARRAY[{}])", job["id"]);
        let held = hold(&cluster, &sql).await;
        let reply = answer_after(&cluster, held, tell_progress(&http, job)).await;
        assert!(reply.status < 300, "it has its lease: {}", reply.text);
    }
    let held = hold(&cluster, "UPDATE batonq.run SET finished_at = 1, started_at = 1").await;
    let reply = answer_after(&cluster, held, tell_progress(&http, &pulled[8])).await;
    assert_eq!(reply.problem(), (409, "LEASE_LOST".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_end_had_to_wait_ended_after_that() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.nodes[0].client().await);
    let late = json!({ "payload": 1, "timeout_ms": 2_000 });
    let late = http.post("/v1/queues/q/jobs", late).await.json();
    let job = &pull(&http, "q", 1, WAIT_MS).await[0];
    let sql = format!("SELECT FROM batonq.job WHERE id = {} FOR SHARE", late["id"]);
    let held = hold(&cluster, &sql).await;
    cluster.postgres.somebody_waits().await;
    assert!(tell_progress(&http, job).await.status < 300, "nobody has ended it");
    let after = cluster.postgres.value("SELECT batonq.now_ms()").await;
    held.batch_execute("COMMIT").await.expect("it is there");
    assert_eq!(pull(&http, "q", 1, 20_000).await[0]["delivery"], 2);
    let id = late["id"].as_u64().expect("an id");
    let attempts = client.timeline(id).await.expect("it is there").attempts;
    let ended = attempts[0].ended_at_ms.expect("it ran too long").to_string();
    assert!(ended >= after, "it ended at {ended}, when progress was noted at {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_while_somebody_cancels_it_is_not_tried_again() {
    let cluster = Cluster::of(1).await;
    let http = cluster.http(0);
    let id = push(&http, "q", json!(1)).await;
    let job = &pull(&http, "q", 1, WAIT_MS).await[0];
    let sql = format!(
        "UPDATE batonq.job SET is_watched = true WHERE id = {id};
        INSERT INTO batonq.cancel (job_id, delivery, requested_at, force_at)
        SELECT id, delivery, batonq.now_ms(), batonq.now_ms() + 600000 FROM batonq.job"
    );
    let held = hold(&cluster, &sql).await;
    let path = format!("/v1/jobs/{id}/fail");
    let fail = http.post(&path, json!({ "lease": job["lease"] }));
    let failed = answer_after(&cluster, held, fail).await;
    assert!(failed.status < 300, "{}", failed.text);
    assert_eq!(http.get(&format!("/v1/jobs/{id}")).await.json()["state"], "cancelled");
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
