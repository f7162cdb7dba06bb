//! Jobs pushed, cancelled and acked by SQL, in the application's own transaction.

#![allow(clippy::unwrap_used, reason = "everything here is a test, which fails by panicking")]

use std::sync::Arc;

use base64::Engine;
use batonq_client::{NewJob, PullOptions};
use batonq_server::store::postgres::{Dsn, connect, migrate};
use batonq_tests::harness::cluster::{ack, pull, push};
use batonq_tests::harness::{Cluster, Http, Postgres, SOON, batonq, eventually};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage};

/// The first column of the first row.
async fn value(client: &Client, sql: &str) -> String {
    let rows = client.simple_query(sql).await.expect("the statement is good");
    let row = rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row.unwrap_or_default().to_owned()
}

/// What a statement is refused with: the code, and the field to blame.
async fn refusal(client: &Client, sql: &str) -> (String, String) {
    let Err(error) = client.simple_query(sql).await else { panic!("not refused: {sql}") };
    let error = error.as_db_error().expect("an answer of the database");
    (error.code().code().to_owned(), error.column().unwrap_or_default().to_owned())
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.expect("the statements are good");
}

/// Pushes `1` with options. The job's number.
async fn push_with(client: &Client, options: &Value) -> u64 {
    let sql = format!("SELECT batonq.push('q', '1', '{options}')");
    value(client, &sql).await.parse().expect("a number")
}

async fn job(http: &Http, id: u64) -> Value {
    http.get(&format!("/v1/jobs/{id}")).await.json()
}

async fn state(http: &Http, id: u64) -> String {
    job(http, id).await["state"].as_str().unwrap_or("none").to_owned()
}

fn ack_sql(job: &Value) -> String {
    format!("SELECT batonq.ack({})", job["lease"].to_string().replace('"', "'"))
}

async fn one(http: &Http, queue: &str) -> Value {
    let mut jobs = pull(http, queue, 1, 20_000).await;
    assert_eq!(jobs.len(), 1, "one is ready");
    jobs.remove(0)
}

/// What nodes are told from now on.
async fn listen(postgres: &Postgres) -> mpsc::UnboundedReceiver<String> {
    let (client, mut connection) = tokio_postgres::connect(&postgres.dsn(), NoTls).await.unwrap();
    let (heard, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages =
            futures_util::stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(note) = message {
                heard.send(note.payload().to_owned()).ok();
            }
        }
    });
    run(&client, "LISTEN \"batonq batonq\"").await;
    // The session lives as long as the client does.
    tokio::spawn(async move {
        std::future::pending::<()>().await;
        drop(client);
    });
    told
}

#[tokio::test]
async fn a_push_is_there_with_the_commit_and_gone_with_a_rollback() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    run(&client, "CREATE TABLE orders (id bigint); BEGIN; INSERT INTO orders VALUES (7)").await;
    let id = push_with(&client, &json!({})).await;
    assert_eq!(state(&http, id).await, "none");
    assert!(pull(&http, "q", 1, 0).await.is_empty());
    run(&client, "COMMIT").await;
    assert_eq!(one(&http, "q").await["id"], id);

    run(&client, "BEGIN; INSERT INTO orders VALUES (8)").await;
    let options = json!({"unique": {"key": "k"}, "tags": ["t"], "ttl_ms": 60_000});
    let id = push_with(&client, &options).await;
    run(&client, "ROLLBACK").await;
    assert_eq!(state(&http, id).await, "none");
    for table in ["ready", "unique_key", "job_tag", "ttl", "pending"] {
        let count = value(&client, &format!("SELECT count(*) FROM batonq.{table}")).await;
        assert_eq!(count, "0", "{table}");
    }
    assert_eq!(value(&client, "SELECT count(*) FROM orders").await, "1");
}

#[tokio::test]
async fn nodes_are_told_once_for_each_line_and_only_at_the_commit() {
    let cluster = Cluster::of(1).await;
    let client = cluster.postgres.client().await;
    let mut told = listen(&cluster.postgres).await;
    run(&client, "BEGIN; SELECT batonq.push('q', '1'); ROLLBACK; BEGIN").await;
    let first = push_with(&client, &json!({})).await;
    for _ in 0..200 {
        push_with(&client, &json!({})).await;
    }
    push_with(&client, &json!({"run_at": "2030-01-01T00:00:00Z"})).await;
    run(&client, "COMMIT; SELECT pg_notify('batonq batonq', 'end')").await;
    let queue = value(&client, "SELECT id FROM batonq.queue").await;
    let message = told.recv().await.unwrap();
    let mut lines: Vec<&str> = message.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["0", "d 1893456000000", &format!("r {queue} 0 {first} 201")]);
    assert_eq!(told.recv().await.unwrap(), "end");
}

#[tokio::test]
async fn those_who_wait_get_it_after_the_commit() {
    let cluster = Cluster::of(2).await;
    let client = cluster.postgres.client().await;
    for queue in ["http", "tcp"] {
        push(&cluster.http(0), queue, json!(0)).await;
        let first = one(&cluster.http(1), queue).await;
        assert!(ack(&cluster.http(1), &first).await < 300);
    }
    let worker = cluster.nodes[0].client().await;
    let mut subscription = worker.subscribe("tcp", 5).await.unwrap();
    let http = cluster.http(1);
    let waiting = tokio::spawn(async move { one(&http, "http").await });
    run(&client, "BEGIN").await;
    let over_http = value(&client, "SELECT batonq.push('http', '{\"a\": 1}')").await;
    let over_tcp = value(&client, "SELECT batonq.push('tcp', '\\x00ff'::bytea)").await;
    run(&client, "COMMIT").await;
    let pulled = waiting.await.unwrap();
    assert_eq!((&pulled["id"].to_string(), &pulled["payload"]), (&over_http, &json!({"a": 1})));
    let job = tokio::time::timeout(SOON, subscription.next()).await.unwrap().unwrap();
    assert_eq!((job.id.to_string(), &job.payload[..]), (over_tcp, &b"\x00\xff"[..]));
    assert_eq!(job.content_type, "application/octet-stream");
    worker.ack(&job).await.unwrap();
}

#[tokio::test]
async fn a_push_that_began_first_and_commits_last_is_delivered() {
    let cluster = Cluster::of(2).await;
    let client = cluster.postgres.client().await;
    push(&cluster.http(0), "q", json!(0)).await;
    run(&client, "BEGIN").await;
    let early = push_with(&client, &json!({})).await;
    for n in 0..20 {
        push(&cluster.http(n % 2), "q", json!(n)).await;
    }
    let mut pulled = 0;
    while pulled < 21 {
        pulled += pull(&cluster.http(pulled % 2), "q", 5, 5_000).await.len();
    }
    assert!(pull(&cluster.http(0), "q", 1, 0).await.is_empty());
    run(&client, "COMMIT").await;
    assert_eq!(one(&cluster.http(0), "q").await["id"], early);
}

#[tokio::test]
async fn a_handlers_writes_and_its_ack_commit_together() {
    let cluster = Cluster::of(2).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    run(&client, "CREATE TABLE done (job bigint)").await;
    let id = push(&http, "q", json!(1)).await;
    let leased = one(&http, "q").await;
    let work = format!("BEGIN; INSERT INTO done VALUES ({id}); {}", ack_sql(&leased));

    run(&client, &format!("{work}; ROLLBACK")).await;
    assert_eq!(state(&http, id).await, "leased", "a rollback keeps the lease");

    let waited = cluster.http(1);
    let waiting = tokio::spawn(async move {
        waited.get(&format!("/v1/jobs/{id}/wait?timeout_ms=20000")).await.json()
    });
    run(&client, &work).await;
    assert_eq!(state(&http, id).await, "leased", "nothing has happened before the commit");
    run(&client, "COMMIT").await;
    let done = job(&http, id).await;
    assert_eq!((&done["state"], &done["deliveries"]), (&json!("completed"), &json!(1)));
    assert_eq!(waiting.await.unwrap()["state"], "completed", "who waited is told");
    assert_eq!(value(&client, "SELECT count(*) FROM done").await, "1");
    assert!(ack(&http, &leased).await < 300, "an ack of the same lease is a repetition");
    assert_eq!(value(&client, "SELECT count(*) FROM batonq.lease").await, "0");
}

#[tokio::test]
async fn results_are_json_or_bytes() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    for (argument, field, expected) in [
        ("'{\"b\": [1]}'", "result", json!({"b": [1]})),
        ("'[2]'::jsonb", "result", json!([2])),
        ("'\\x00'::bytea", "result_base64", json!("AA==")),
        ("NULL", "result", Value::Null),
    ] {
        let id = push(&http, "q", json!(1)).await;
        let lease = one(&http, "q").await["lease"].as_str().unwrap().to_owned();
        run(&client, &format!("SELECT batonq.ack('{lease}', {argument})")).await;
        assert_eq!(job(&http, id).await[field], expected, "{argument}");
    }
}

#[tokio::test]
async fn a_lease_that_is_not_held_is_refused_and_the_transaction_with_it() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    let id = push(&http, "q", json!(1)).await;
    let first = one(&http, "q").await;
    let release = json!({"lease": first["lease"]});
    http.post(&format!("/v1/jobs/{id}/release"), release).await;
    let lost = refusal(&client, &ack_sql(&first)).await;
    assert_eq!(lost.0, "QB001");

    run(&client, "CREATE TABLE done ()").await;
    let second = one(&http, "q").await;
    run(&client, &format!("BEGIN; {}; INSERT INTO done DEFAULT VALUES", ack_sql(&second))).await;
    let release = json!({"lease": second["lease"]});
    http.post(&format!("/v1/jobs/{id}/release"), release).await;
    assert_eq!(refusal(&client, "COMMIT").await.0, "QB001", "lost between the ack and the commit");
    assert_eq!(value(&client, "SELECT count(*) FROM done").await, "0");

    let third = one(&http, "q").await;
    let twice = format!("BEGIN; {0}; {0}", ack_sql(&third));
    assert_eq!(refusal(&client, &twice).await.0, "QB002", "twice in a transaction");
    run(&client, "ROLLBACK").await;
    run(&client, &ack_sql(&third)).await;
    assert_eq!(refusal(&client, &ack_sql(&third)).await.0, "QB002", "it would be done twice");
    assert_eq!(state(&http, id).await, "completed");
}

#[tokio::test]
async fn a_guessed_token_settles_nothing() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    push(&http, "other", json!(1)).await;
    let known = one(&http, "other").await["lease"].as_str().unwrap().to_owned();
    let id = push(&http, "q", json!(1)).await;
    let base64 = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let mut token = base64.decode(&known).unwrap();
    token[..8].copy_from_slice(&id.to_be_bytes());
    for guess in [base64.encode(&token), "x".into(), "A".repeat(27), String::new()] {
        let refused = refusal(&client, &format!("SELECT batonq.ack('{guess}')")).await;
        assert_eq!(refused, ("22023".into(), "lease".into()), "{guess:?}");
    }
    assert_eq!(refusal(&client, "SELECT batonq.ack(NULL)").await.1, "lease");
    assert_eq!(state(&http, id).await, "ready");
}

#[tokio::test]
async fn jobs_that_were_leased_together_are_acked_one_by_one() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(push(&http, "q", json!(n)).await);
    }
    let worker = cluster.nodes[0].client().await;
    let mut jobs = worker.pull(PullOptions::new("q").count(5)).await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM batonq.lease").await, "1");
    let by_worker = jobs.split_off(3);
    for job in &jobs {
        let lease = base64::engine::general_purpose::STANDARD.encode(job.lease.as_bytes());
        run(&client, &format!("SELECT batonq.ack('{lease}')")).await;
    }
    assert_eq!(state(&http, ids[2]).await, "completed");
    assert_eq!(state(&http, ids[3]).await, "leased", "the others of the row are still held");
    for job in by_worker {
        worker.ack(&job).await.unwrap();
    }
    eventually("the row goes with the last of them", || async {
        let rows = value(&client, "SELECT count(*) FROM batonq.lease").await;
        (rows == "0").then_some(())
    })
    .await;
    for id in ids {
        assert_eq!(state(&http, id).await, "completed");
    }
    for job in jobs {
        worker.ack(&job).await.expect("a worker that acks once more is told that it is done");
    }
}

#[tokio::test]
async fn an_ack_has_all_effects_that_it_has_through_a_node() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    let slot = json!({"key": "k", "max": 1});
    let options = json!({
        "unique": {"key": "u"}, "concurrency": slot, "timeout_ms": 600_000, "ttl_ms": 600_000,
    });
    let first = push_with(&client, &options).await;
    let second = push_with(&client, &json!({"concurrency": slot})).await;
    let child = push_with(&client, &json!({"depends_on": [first], "priority": 5})).await;
    let grandchild = push_with(&client, &json!({"depends_on": [child]})).await;
    let leased = one(&http, "q").await;
    assert_eq!(leased["id"], first);
    assert!(pull(&http, "q", 1, 0).await.is_empty(), "the slot is taken, the child is blocked");
    let progress = json!({"lease": leased["lease"], "percent": 5});
    http.post(&format!("/v1/jobs/{first}/progress"), progress).await;

    run(&client, &ack_sql(&leased)).await;
    for table in ["deadline", "slot", "unique_key", "progress", "ttl", "lease"] {
        let count = value(&client, &format!("SELECT count(*) FROM batonq.{table}")).await;
        assert_eq!(count, "0", "{table}");
    }
    assert_eq!(state(&http, grandchild).await, "blocked");
    let next = one(&http, "q").await;
    assert_eq!(next["id"], child, "it waits for nothing more");
    assert_eq!(next["needs"][0]["state"], "completed");
    assert_eq!(one(&http, "q").await["id"], second, "the slot is free");
    run(&client, &ack_sql(&next)).await;
    assert_eq!(one(&http, "q").await["id"], grandchild);
}

/// An update of `job` by the session `app` waits for the lock 7, with what it saw before.
const LINGER: &str = "
    CREATE FUNCTION public.linger() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF current_setting('application_name') = 'app' THEN
            PERFORM pg_advisory_xact_lock(7);
        END IF;
        RETURN NULL;
    END
    $$;
    CREATE TRIGGER linger BEFORE UPDATE ON batonq.job
    FOR EACH STATEMENT EXECUTE FUNCTION public.linger();
    SELECT pg_advisory_lock(7);";

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_job_that_goes_round_again_just_now_is_not_taken_for_a_completed_one() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    let need = push_with(&client, &json!({"max_attempts": 1})).await;
    let leased = one(&http, "q").await;
    let failed = json!({"lease": leased["lease"], "error": {"code": "NO", "message": "no"}});
    assert_eq!(http.post(&format!("/v1/jobs/{need}/fail"), failed).await.status, 200);
    assert_eq!(state(&http, need).await, "dead");

    let app = cluster.postgres.client().await;
    run(&app, "SET application_name = 'app'").await;
    run(&client, LINGER).await;
    let sql = format!("SELECT batonq.push('q', '1', '{{\"depends_on\": [{need}]}}')");
    let pushing = tokio::spawn(async move { refusal(&app, &sql).await });
    cluster.postgres.somebody_waits().await;
    assert_eq!(http.post(&format!("/v1/jobs/{need}/retry"), json!({})).await.status, 200);
    run(&client, "SELECT pg_advisory_unlock(7)").await;

    assert_eq!(pushing.await.unwrap().0, "40001", "to be done again");
    let child = push_with(&client, &json!({"depends_on": [need]})).await;
    assert_eq!(state(&http, child).await, "blocked");
}

#[tokio::test]
async fn a_handler_pushes_its_successor_with_the_same_unique_key() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    let unique = json!({"unique": {"key": "u"}});
    let first = push_with(&client, &unique).await;
    let leased = one(&http, "q").await;
    assert_eq!(push_with(&client, &unique).await, first, "it is live");
    run(&client, &format!("BEGIN; {}", ack_sql(&leased))).await;
    let second = push_with(&client, &unique).await;
    assert_ne!(second, first);
    run(&client, "COMMIT").await;
    assert_eq!(push_with(&client, &unique).await, second, "the key has moved to it");
    let over_http =
        http.post("/v1/queues/q/jobs", json!({"payload": 1, "unique": {"key": "u"}})).await;
    assert_eq!(over_http.json()["id"], second);
}

#[tokio::test]
async fn cancel_says_what_it_has_done() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    let cancel = async |id: u64| value(&client, &format!("SELECT batonq.cancel({id})")).await;
    let ready = push(&http, "q", json!(1)).await;
    run(&client, "BEGIN").await;
    assert_eq!(cancel(ready).await, "cancelled");
    assert!(pull(&http, "q", 1, 0).await.is_empty(), "nobody gets it meanwhile");
    run(&client, "ROLLBACK").await;
    assert_eq!(state(&http, ready).await, "ready");
    assert_eq!(cancel(ready).await, "cancelled");
    assert_eq!(state(&http, ready).await, "cancelled");
    assert_eq!(cancel(ready).await, "cancelled", "it is so already");

    let scheduled = push_with(&client, &json!({"delay_ms": 60_000})).await;
    let child = push_with(&client, &json!({"depends_on": [scheduled]})).await;
    let patient =
        push_with(&client, &json!({"depends_on": [scheduled], "on_failure": "ignore"})).await;
    assert_eq!(cancel(scheduled).await, "cancelled");
    assert_eq!(job(&http, child).await["reason"], "DEPENDENCY_FAILED");
    assert_eq!(one(&http, "q").await["id"], patient);

    let leased = push(&http, "leased", json!(1)).await;
    let held = one(&http, "leased").await;
    assert_eq!(cancel(leased).await, "requested");
    assert!(job(&http, leased).await["cancel"]["force_at"].is_string());
    assert!(ack(&http, &held).await < 300);
    assert_eq!(cancel(leased).await, "completed");
    assert_eq!(cancel(999_999).await, "not_found");

    let parent = push_with(&client, &json!({"delay_ms": 60_000})).await;
    let blocked = push_with(&client, &json!({"depends_on": [parent]})).await;
    assert_eq!(cancel(blocked).await, "requested");
    assert_eq!(state(&http, blocked).await, "cancelled");
}

#[tokio::test]
async fn a_claim_amid_which_jobs_are_committed_takes_those_of_the_highest_priority_first() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    // The node has gone through the high priority, and not through the other one.
    let mut lows = Vec::new();
    for priority in [5, 0, 0] {
        lows.push(push_with(&client, &json!({"priority": priority})).await);
    }
    for id in &lows[..2] {
        assert_eq!(one(&http, "q").await["id"], *id);
    }
    run(&client, "BEGIN; LOCK TABLE batonq.ready").await;
    let claim = tokio::spawn({
        let http = http.clone();
        async move { one(&http, "q").await }
    });
    let other = cluster.postgres.client().await;
    eventually("the claim has been given its cursors", || async {
        let sql = "SELECT count(*) FROM pg_locks
                   WHERE relation = 'batonq.ready'::regclass AND mode <> 'AccessShareLock'
                   AND NOT granted";
        (value(&other, sql).await == "1").then_some(())
    })
    .await;
    let high = push_with(&client, &json!({"priority": 5})).await;
    run(&client, "COMMIT").await;
    assert_eq!(claim.await.unwrap()["id"], high);
}

#[tokio::test]
async fn jobs_that_are_one_row_are_known_one_by_one() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    run(&client, "SELECT batonq.push_many('q', array_fill('1'::jsonb, ARRAY[20]))").await;
    let jobs = pull(&http, "q", 20, 20_000).await;
    let acks: Vec<Value> =
        jobs.iter().map(|job| json!({"id": job["id"], "lease": job["lease"]})).collect();
    assert_eq!(http.post("/v1/ack", json!({ "acks": acks })).await.status, 200);
    let rows = "SELECT (SELECT count(*) FROM batonq.run) || ' ' || \
                (SELECT count(*) FROM batonq.finished)";
    assert_eq!(value(&client, rows).await, "1 0");

    let (id, other) = (&jobs[3]["id"], &jobs[4]["id"]);
    assert_eq!(value(&client, &format!("SELECT batonq.cancel({id})")).await, "completed");
    assert_eq!(refusal(&client, &ack_sql(&jobs[3])).await.0, "QB002", "it would be done twice");
    let child = push_with(&client, &json!({"depends_on": [id, other]})).await;
    assert_eq!(state(&http, child).await, "ready");
    let unknown = "SELECT batonq.push('q', '1', '{\"depends_on\": [999]}')";
    assert_eq!(refusal(&client, unknown).await.1, "depends_on");
    assert_eq!(value(&client, rows).await, "1 0");

    let path = format!("/v1/jobs/{id}");
    assert_eq!(http.send(hyper::Method::DELETE, &path, None, &[]).await.status, 200);
    assert_eq!(value(&client, rows).await, "0 19");
    assert_eq!(value(&client, &format!("SELECT batonq.cancel({id})")).await, "not_found");
    assert_eq!(value(&client, &format!("SELECT batonq.cancel({other})")).await, "completed");
    assert_eq!(refusal(&client, &ack_sql(&jobs[4])).await.0, "QB002");
}

const IN_RUNS_AND_ROWS: &str = "
    SELECT (SELECT coalesce(sum(count), 0) FROM batonq.run) || ' ' ||
    (SELECT count(*) FROM batonq.job)";

/// A hundred of them.
async fn push_together(http: &Http, job: &Value) -> Vec<u64> {
    let jobs = vec![job; 100];
    let pushed = http.post("/v1/queues/q/jobs/batch", json!({ "jobs": jobs })).await.json();
    let results = pushed["results"].as_array().unwrap().iter();
    results.map(|job| job["id"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn jobs_that_wait_for_one_time_are_known_one_by_one() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    let cancel = |id: u64| format!("SELECT batonq.cancel({id}, 0)");
    let ids = push_together(&http, &json!({"payload": 1, "delay_ms": 3_600_000})).await;
    assert_eq!(value(&client, IN_RUNS_AND_ROWS).await, "100 0");
    run(&client, "BEGIN").await;
    assert_eq!(value(&client, &cancel(ids[3])).await, "requested");
    let promoted = http.post(&format!("/v1/jobs/{}/promote", ids[5]), json!({})).await;
    assert_eq!(promoted.status, 200, "it is in nobody's way before the commit");
    run(&client, "COMMIT").await;
    assert_eq!(state(&http, ids[3]).await, "cancelled");
    assert_eq!(one(&http, "q").await["id"], ids[5]);
    assert_eq!(value(&client, IN_RUNS_AND_ROWS).await, "0 99");

    let ids = push_together(&http, &json!({"payload": 1, "delay_ms": 3_600_000})).await;
    let child = push_with(&client, &json!({"depends_on": [ids[7]]})).await;
    assert_eq!(state(&http, child).await, "blocked");
    assert_eq!(value(&client, &cancel(ids[7])).await, "cancelled");
    assert_eq!(job(&http, child).await["reason"], "DEPENDENCY_FAILED");
}

#[tokio::test]
async fn one_that_was_given_back_keeps_nobody_from_those_that_became_due_with_it() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    push_together(&http, &json!({"payload": 1, "delay_ms": 50})).await;
    let held = one(&http, "q").await;
    let release = json!({"lease": held["lease"]});
    assert!(http.post(&format!("/v1/jobs/{}/release", held["id"]), release).await.status < 300);
    run(&client, "BEGIN").await;
    let cancelled = value(&client, &format!("SELECT batonq.cancel({})", held["id"])).await;
    assert_eq!(cancelled, "cancelled");
    assert_eq!(pull(&http, "q", 99, 20_000).await.len(), 99);
    run(&client, "COMMIT").await;
    assert_eq!(state(&http, held["id"].as_u64().unwrap()).await, "cancelled");
}

#[tokio::test]
async fn jobs_that_were_pushed_together_are_known_one_by_one() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    let ids = push_together(&http, &json!({"payload": 1})).await;
    assert_eq!(value(&client, IN_RUNS_AND_ROWS).await, "100 0");

    // One that waits: with others, for whom it is not to be in the way before the commit.
    let cancel = |id: u64| format!("SELECT batonq.cancel({id}, 0)");
    run(&client, "BEGIN").await;
    assert_eq!(value(&client, &cancel(ids[3])).await, "requested");
    assert_eq!(pull(&http, "q", 2, 20_000).await.len(), 2);
    run(&client, "COMMIT").await;
    assert_eq!(state(&http, ids[3]).await, "cancelled");
    let child = push_with(&client, &json!({"depends_on": [ids[7]]})).await;
    assert_eq!(state(&http, child).await, "blocked");

    let held = pull(&http, "q", 97, 20_000).await;
    assert_eq!(held.len(), 97);
    let of = |id: u64| held.iter().find(|job| job["id"] == id).unwrap();
    run(&client, &ack_sql(of(ids[7]))).await;
    assert_eq!(state(&http, child).await, "ready");
    assert_eq!(refusal(&client, &ack_sql(of(ids[7]))).await.0, "QB002");
    assert_eq!(value(&client, &cancel(ids[9])).await, "requested");
    assert_eq!(state(&http, ids[8]).await, "leased");
    let acks: Vec<Value> = held
        .iter()
        .filter(|job| job["id"] != ids[7])
        .map(|job| json!({"id": job["id"], "lease": job["lease"]}))
        .collect();
    assert_eq!(http.post("/v1/ack", json!({ "acks": acks })).await.status, 200);
    let states = "SELECT string_agg(state || ' ' || count, ', ' ORDER BY state) FROM (
        SELECT state, count(*) FROM (
            SELECT state FROM batonq.finished UNION ALL SELECT state FROM batonq.completed_job
        ) f GROUP BY state) c";
    assert_eq!(value(&client, states).await, "cancelled 1, completed 97");
    assert_eq!(value(&client, "SELECT count(*) FROM batonq.live_job").await, "3");
}

#[tokio::test]
async fn the_worker_of_a_cancelled_job_is_asked() {
    let cluster = Cluster::of(1).await;
    let client = cluster.postgres.client().await;
    let worker = cluster.nodes[0].client().await;
    let id = worker.push(NewJob::new("q", "1")).await.unwrap().id;
    let job = worker.pull(PullOptions::new("q")).await.unwrap().remove(0);
    let mut told = listen(&cluster.postgres).await;
    assert_eq!(value(&client, &format!("SELECT batonq.cancel({id}, 0)")).await, "requested");
    let message = told.recv().await.unwrap();
    assert!(message.starts_with("0\nc ") && message.ends_with(&format!(" {id} 1")), "{message}");
    eventually("the grace is over", || async {
        (state(&cluster.http(0), id.0).await == "cancelled").then_some(())
    })
    .await;
    drop(job);
}

/// A transaction that has done everything and is still open holds up nobody.
#[tokio::test]
async fn an_open_transaction_holds_up_no_node() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    let holder = push_with(&client, &json!({"unique": {"key": "u"}})).await;
    let held = one(&http, "q").await;
    let asked = push(&http, "other", json!(1)).await;
    let acked = push(&http, "other", json!(1)).await;
    let [first, second] = [one(&http, "other").await, one(&http, "other").await];
    run(&client, &format!("BEGIN; {}", ack_sql(&second))).await;
    assert_eq!(push_with(&client, &json!({"unique": {"key": "u"}})).await, holder);
    let limited = json!({"concurrency": {"key": "c", "max": 1}, "depends_on": [holder, asked]});
    let dependent = push_with(&client, &limited).await;
    assert_eq!(value(&client, &format!("SELECT batonq.cancel({asked})")).await, "requested");

    assert!(ack(&http, &held).await < 300, "the job whose key was met");
    assert!(ack(&http, &first).await < 300, "the job whose end is to be asked for");
    let body = json!({"lease": second["lease"], "lease_ms": 60_000});
    let extended = http.post(&format!("/v1/jobs/{acked}/extend"), body).await;
    assert_eq!(extended.status, 200, "the job that is about to be acked: {}", extended.text);
    let body = json!({"payload": 1, "concurrency": {"key": "c"}});
    assert_eq!(http.post("/v1/queues/q/jobs", body).await.status, 201);
    assert!(ack(&http, &one(&http, "q").await).await < 300);

    run(&client, "COMMIT").await;
    assert_eq!(state(&http, acked).await, "completed");
    assert_eq!(one(&http, "q").await["id"], dependent, "what it waited for has ended meanwhile");
}

#[tokio::test]
async fn a_job_that_is_about_to_be_cancelled_holds_up_none_that_were_pushed_with_it() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    let producer = cluster.nodes[0].client().await;
    let pushed = producer.push_batch(vec![NewJob::new("q", "1"); 300]).await.unwrap();
    let ids: Vec<u64> = pushed.into_iter().map(|pushed| pushed.unwrap().id.0).collect();
    let held = one(&http, "q").await;
    assert_eq!(held["id"], ids[0]);
    run(&client, "BEGIN").await;
    for (place, word) in [(2, "requested"), (250, "requested"), (251, "requested")] {
        assert_eq!(value(&client, &format!("SELECT batonq.cancel({})", ids[place])).await, word);
    }
    let body = json!({"lease": held["lease"]});
    let released = http.post(&format!("/v1/jobs/{}/release", ids[0]), body).await;
    assert!(released.status < 300, "{}", released.text);
    // With the first of those: it is not cancelled before the commit.
    let taken = pull(&http, "q", 3, 0).await;
    let taken: Vec<&Value> = taken.iter().map(|job| &job["id"]).collect();
    assert_eq!(taken, [ids[0], ids[1], ids[2]]);
    run(&client, "COMMIT").await;
    let left = pull(&http, "q", 1000, 0).await;
    let left: Vec<u64> = left.iter().map(|job| job["id"].as_u64().unwrap()).collect();
    assert_eq!(left, [&ids[3..250], &ids[252..]].concat());
    assert_eq!(state(&http, ids[250]).await, "cancelled");
    assert_eq!(state(&http, ids[2]).await, "leased");
}

#[tokio::test]
async fn many_jobs_are_pushed_at_once_in_order() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    let sql = "SELECT array_agg(n) FROM batonq.push_many(
                   'q', ARRAY(SELECT to_jsonb(n) FROM generate_series(1, 1000) n), '{\"tags\": [\"t\"]}'
               ) AS n";
    let ids = value(&client, sql).await;
    assert_eq!(ids.split(',').count(), 1000);
    let jobs = pull(&http, "q", 1000, 5_000).await;
    let payloads: Vec<u64> = jobs.iter().map(|job| job["payload"].as_u64().unwrap()).collect();
    assert_eq!(payloads, (1..=1000).collect::<Vec<u64>>());
    for (arguments, field) in [
        ("ARRAY[]::jsonb[]", "payloads"),
        ("NULL", "payloads"),
        ("ARRAY['1', NULL]::jsonb[]", "payloads"),
        ("ARRAY(SELECT to_jsonb(n) FROM generate_series(1, 1001) n)", "payloads"),
        ("ARRAY['1']::jsonb[], '{\"unique\": {\"key\": \"k\"}}'", "unique"),
        ("ARRAY['1']::jsonb[], '{\"idempotency_key\": \"k\"}'", "idempotency_key"),
    ] {
        let sql = format!("SELECT batonq.push_many('q', {arguments})");
        assert_eq!(refusal(&client, &sql).await.1, field, "{arguments}");
    }
}

/// A job's view without what differs from job to job. Times become distances from the push.
fn comparable(mut view: Value) -> Value {
    let created: i64 = millis(&view["created_at"]);
    for field in ["run_at", "expires_at"] {
        if view[field].is_string() {
            view[field] = json!(millis(&view[field]) - created);
        }
    }
    let fields = view.as_object_mut().expect("a job");
    for field in ["id", "created_at"] {
        fields.remove(field);
    }
    view
}

fn millis(time: &Value) -> i64 {
    let time: jiff::Timestamp = time.as_str().expect("a time").parse().expect("RFC 3339");
    time.as_millisecond()
}

#[tokio::test]
async fn every_option_means_what_it_means_over_http() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    let parent = push_with(&client, &json!({"delay_ms": 600_000})).await;
    for options in [
        json!({}),
        json!({"priority": -7, "max_attempts": 3}),
        json!({"delay_ms": 60_000}),
        json!({"delay_ms": 0}),
        json!({"run_at": "2020-01-01T00:00:00.5+02:00"}),
        json!({"ttl_ms": 60_000, "timeout_ms": 100}),
        json!({"tags": ["b", "ä", "a", "b"]}),
        json!({"backoff": {"type": "exponential", "base_ms": 5}}),
        json!({"backoff": {"type": "exponential", "base_ms": 5, "max_ms": 9, "jitter": 0.25}}),
        json!({"backoff": {"type": "exponential", "base_ms": 5, "jitter": 1.0}}),
        json!({"backoff": {"type": "fixed", "delay_ms": 0}}),
        json!({"backoff": {"type": "list", "delays_ms": [1, 2, 315_360_000_000_i64]}}),
        json!({"unique": {"key": "live"}}),
        json!({"unique": {"key": "live", "debounce": false}}),
        json!({"unique": {"key": "window", "window_ms": 60_000}}),
        json!({"idempotency_key": "once"}),
        json!({"concurrency": {"key": "c"}}),
        json!({"concurrency": {"key": "c", "max": 5}, "rate": {"key": "r", "limit": 2, "per_ms": 9}}),
        json!({"rate": {"key": "r", "limit": 2, "per_ms": 9, "burst": 1}}),
        json!({"depends_on": [parent, parent], "on_failure": "wait"}),
        json!({"depends_on": [parent], "delay_ms": 60_000}),
        json!({"on_failure": "ignore"}),
    ] {
        let mut body = options.clone();
        body["payload"] = json!(1);
        // Each in a queue of its own, so that keys do not meet.
        run(&client, "BEGIN").await;
        let by_sql = push_with(&client, &options).await;
        run(&client, "COMMIT").await;
        let by_sql = comparable(job(&http, by_sql).await);
        let reply = http.post("/v1/queues/r/jobs", body).await;
        let id = reply.json()["id"].as_u64().unwrap_or_else(|| panic!("{}", reply.text));
        let mut over_http = comparable(job(&http, id).await);
        over_http["queue"] = json!("q");
        assert_eq!(by_sql, over_http, "{options}");
        run(&client, "DELETE FROM batonq.unique_key").await;
    }
}

#[tokio::test]
async fn keys_are_shared_with_pushes_over_http() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    for options in [
        json!({"unique": {"key": "live"}}),
        json!({"unique": {"key": "window", "window_ms": 60_000}}),
        json!({"idempotency_key": "once"}),
        json!({"idempotency_key": "both", "unique": {"key": "live"}}),
    ] {
        let mut body = options.clone();
        body["payload"] = json!(1);
        let by_sql = push_with(&client, &options).await;
        assert_eq!(http.post("/v1/queues/q/jobs", body).await.json()["id"], by_sql, "{options}");
        assert_eq!(push_with(&client, &options).await, by_sql, "{options}");
    }
    assert_eq!(value(&client, "SELECT count(*) FROM batonq.job").await, "3");
}

#[tokio::test]
async fn options_that_are_wrong_are_refused_by_name() {
    let cluster = Cluster::of(1).await;
    let client = cluster.postgres.client().await;
    for (options, field) in [
        (json!([]), "options"),
        (json!({"prio": 1}), "prio"),
        (json!({"priority": 1.5}), "priority"),
        (json!({"priority": 2_147_483_648_i64}), "priority"),
        (json!({"priority": "1"}), "priority"),
        (json!({"delay_ms": -1}), "delay_ms"),
        (json!({"delay_ms": 315_360_000_001_i64}), "delay_ms"),
        (json!({"delay_ms": 1, "run_at": "2030-01-01T00:00:00Z"}), "run_at"),
        (json!({"run_at": "tomorrow"}), "run_at"),
        (json!({"run_at": "2030-13-01T00:00:00Z"}), "run_at"),
        (json!({"run_at": "1969-12-31T00:00:00Z"}), "run_at"),
        (json!({"ttl_ms": 0}), "ttl_ms"),
        (json!({"max_attempts": 0}), "max_attempts"),
        (json!({"max_attempts": 1001}), "max_attempts"),
        (json!({"timeout_ms": 99}), "timeout_ms"),
        (json!({"backoff": 1}), "backoff"),
        (json!({"backoff": {}}), "backoff.type"),
        (json!({"backoff": {"type": "none"}}), "backoff.type"),
        (json!({"backoff": {"type": "fixed"}}), "backoff.delay_ms"),
        (json!({"backoff": {"type": "fixed", "base_ms": 1}}), "backoff.base_ms"),
        (json!({"backoff": {"type": "exponential"}}), "backoff.base_ms"),
        (
            json!({"backoff": {"type": "exponential", "base_ms": 1, "jitter": 1.1}}),
            "backoff.jitter",
        ),
        (
            json!({"backoff": {"type": "exponential", "base_ms": 1, "jitter": "x"}}),
            "backoff.jitter",
        ),
        (json!({"backoff": {"type": "list", "delays_ms": []}}), "backoff.delays_ms"),
        (json!({"backoff": {"type": "list", "delays_ms": ["x"]}}), "backoff.delays_ms.0"),
        (json!({"unique": {"window_ms": 1}}), "unique.key"),
        (json!({"unique": {"key": ""}}), "unique.key"),
        (json!({"unique": {"key": "k", "window_ms": 0}}), "unique.window_ms"),
        (json!({"unique": {"key": "k", "debounce": true}}), "unique.debounce"),
        (json!({"unique": {"kee": "k"}}), "unique.kee"),
        (json!({"tags": "t"}), "tags"),
        (json!({"tags": vec!["t"; 17]}), "tags"),
        (json!({"tags": ["a\nb"]}), "tags.0"),
        (json!({"tags": ["t".repeat(129)]}), "tags.0"),
        (json!({"idempotency_key": "k".repeat(257)}), "idempotency_key"),
        (json!({"concurrency": {"max": 1}}), "concurrency.key"),
        (json!({"concurrency": {"key": "k", "max": 0}}), "concurrency.max"),
        (json!({"rate": {"key": "k", "limit": 1}}), "rate.per_ms"),
        (json!({"rate": {"key": "k", "per_ms": 1}}), "rate.limit"),
        (json!({"rate": {"key": "k", "limit": 2000, "per_ms": 1}}), "rate"),
        (json!({"depends_on": [999_999]}), "depends_on"),
        (json!({"depends_on": ["ref"]}), "depends_on.0"),
        (json!({"on_failure": "hope"}), "on_failure"),
        (json!({"content_type": "text/plain"}), "content_type"),
    ] {
        let sql = format!("SELECT batonq.push('q', '1', '{options}')");
        assert_eq!(refusal(&client, &sql).await, ("22023".into(), field.into()), "{options}");
    }
    assert_eq!(value(&client, "SELECT count(*) FROM batonq.job").await, "0");
}

#[tokio::test]
async fn names_and_payloads_have_the_limits_that_they_have_over_http() {
    let cluster = Cluster::of(1).await;
    let client = cluster.postgres.client().await;
    let nested = |levels: usize| format!("'{}{}'", "[".repeat(levels), "]".repeat(levels));
    run(&client, &format!("SELECT batonq.push('q', {})", nested(99))).await;
    for (arguments, field) in [
        ("'', '1'".to_owned(), "queue"),
        ("NULL, '1'".to_owned(), "queue"),
        ("'a b', '1'".to_owned(), "queue"),
        (format!("'{}', '1'", "q".repeat(257)), "queue"),
        ("'q', NULL".to_owned(), "payload"),
        ("'q', '{'".to_owned(), "payload"),
        (format!("'q', {}", nested(100)), "payload"),
        ("'q', '\\x00'::bytea, '{\"content_type\": \"a\\nb\"}'".to_owned(), "content_type"),
    ] {
        let sql = format!("SELECT batonq.push({arguments})");
        assert_eq!(refusal(&client, &sql).await, ("22023".into(), field.into()), "{arguments}");
    }
    let large =
        |bytes: usize| format!("SELECT batonq.push('q', convert_to(repeat('x', {bytes}), 'UTF8'))");
    run(&client, &large(1024 * 1024)).await;
    let refused = refusal(&client, &large(1024 * 1024 + 1)).await;
    assert_eq!(refused, ("54000".into(), "payload".into()));
    for arguments in ["1, -1", "1, 86400001", "1, NULL"] {
        let refused = refusal(&client, &format!("SELECT batonq.cancel({arguments})")).await;
        assert_eq!(refused.1, "grace_ms", "{arguments}");
    }
    assert_eq!(refusal(&client, "SELECT batonq.cancel(NULL)").await.1, "job_id");
    assert_eq!(value(&client, "SELECT count(*) FROM batonq.job").await, "2");
}

#[tokio::test]
async fn a_producer_can_push_cancel_and_ack_and_nothing_else() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    let leased = push(&http, "q", json!(1)).await;
    let held = one(&http, "q").await;
    run(&client, "CREATE ROLE app; GRANT batonq_producer TO app; SET ROLE app").await;
    let id = push_with(&client, &json!({"priority": 1})).await;
    run(&client, "SELECT batonq.push_many('q', ARRAY['1']::jsonb[])").await;
    assert_eq!(value(&client, &format!("SELECT batonq.cancel({id})")).await, "cancelled");
    run(&client, &ack_sql(&held)).await;
    assert_eq!(state(&http, leased).await, "completed");

    let denied = "42501";
    let tables = "SELECT string_agg(tablename, ' ') FROM pg_tables WHERE schemaname = 'batonq'";
    let tables = value(&client, tables).await;
    assert!(tables.contains("meta") && tables.contains("pending"), "{tables}");
    for table in tables.split(' ') {
        let sql = format!("SELECT * FROM batonq.{table}");
        assert_eq!(refusal(&client, &sql).await.0, denied, "{table}");
        let sql = format!("DELETE FROM batonq.{table}");
        assert_eq!(refusal(&client, &sql).await.0, denied, "{table}");
    }
    for call in [
        "tell('x')",
        "open_lease('x')",
        "lease_proof('', '')",
        "allow_producer()",
        "push_one('q', '', true, '{}')",
        "leave_place(1)",
    ] {
        assert_eq!(refusal(&client, &format!("SELECT batonq.{call}")).await.0, denied, "{call}");
    }
    assert_eq!(refusal(&client, "CREATE TABLE batonq.mine ()").await.0, denied);
    run(&client, "RESET ROLE; CREATE ROLE stranger; SET ROLE stranger").await;
    assert_eq!(refusal(&client, "SELECT batonq.push('q', '1')").await.0, denied);
}

#[tokio::test]
async fn nothing_in_a_callers_session_changes_what_is_done() {
    let cluster = Cluster::of(1).await;
    let (http, client) = (cluster.http(0), cluster.postgres.client().await);
    run(
        &client,
        "CREATE ROLE app; GRANT batonq_producer TO app; CREATE SCHEMA evil AUTHORIZATION app;
         SET ROLE app;
         CREATE FUNCTION evil.now_ms() RETURNS bigint LANGUAGE sql AS 'SELECT 1/0::bigint';
         CREATE FUNCTION evil.refuse(text, text) RETURNS void LANGUAGE sql AS 'SELECT';
         CREATE FUNCTION evil.length(bytea) RETURNS integer LANGUAGE sql AS 'SELECT 1/0';
         CREATE FUNCTION evil.eq(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT 1/0 = 1';
         CREATE OPERATOR evil.= (leftarg = bigint, rightarg = bigint, function = evil.eq);
         CREATE TEMP TABLE job (id bigint); CREATE TEMP TABLE queue (id bigint, name text);
         CREATE TEMP TABLE pending (tx xid8, id bigint); CREATE TEMP TABLE meta (key text, value bytea);
         SET search_path = evil, pg_temp, pg_catalog; SET enable_indexscan = off;
         SET DateStyle = 'German'; SET TimeZone = 'Asia/Kathmandu'; SET bytea_output = 'escape'",
    )
    .await;
    let at = json!({"run_at": "2030-01-02T00:00:00Z"});
    let id = push_with(&client, &at).await;
    assert_eq!(job(&http, id).await["run_at"], "2030-01-02T00:00:00.000Z");
    assert_eq!(refusal(&client, "SELECT batonq.push('a b', '1')").await.1, "queue");
    let leased = push(&http, "other", json!(1)).await;
    let held = one(&http, "other").await;
    run(&client, &ack_sql(&held)).await;
    assert_eq!(state(&http, leased).await, "completed");
    assert_eq!(value(&client, &format!("SELECT batonq.cancel({id})")).await, "cancelled");
    run(&client, "RESET ROLE").await;
    assert_eq!(value(&client, "SELECT count(*) FROM pg_temp.job").await, "0");
}

fn migrate_up(dsn: &str, schema: &str) -> String {
    let out = batonq()
        .args(["migrate", "up"])
        .env("DATABASE_URL", dsn)
        .env("BATONQ_SCHEMA", schema)
        .output()
        .expect("the program runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[tokio::test]
async fn who_may_not_make_roles_migrates_all_the_same_and_is_told() {
    let postgres = Postgres::start();
    let client = postgres.client().await;
    run(&client, "CREATE ROLE owner LOGIN; GRANT CREATE ON DATABASE postgres TO owner").await;
    let dsn = format!("postgres://owner@{}/postgres", postgres.address());
    let told = migrate_up(&dsn, "batonq");
    assert!(told.contains("CREATE ROLE batonq_producer"), "{told}");
    run(&client, "CREATE ROLE batonq_producer").await;
    let told = migrate_up(&dsn, "batonq");
    assert!(told.contains("may push, cancel and ack in schema batonq"), "{told}");
    run(&client, "SET ROLE batonq_producer; SELECT batonq.push('q', '1')").await;
    run(&client, "RESET ROLE; CREATE SCHEMA open; GRANT ALL ON SCHEMA open TO public").await;
    let told = migrate_up(&postgres.dsn(), "open");
    assert!(told.contains("everybody may create in schema open"), "{told}");
}

#[tokio::test]
async fn tables_of_the_version_before_are_upgraded_and_schemas_stay_apart() {
    let postgres = Arc::new(Postgres::start());
    let dsn = Dsn::parse(&postgres.dsn(), None).unwrap();
    let mut client = connect(&dsn, "test").await.unwrap();
    migrate::up(&mut client, "Other 1").await.unwrap();
    let before = migrate::MIGRATIONS.iter().filter(|migration| migration.version < 5);
    let before: String = before.map(|migration| migration.sql).collect();
    let old = format!(
        "CREATE SCHEMA batonq; SET search_path = batonq, pg_temp; {before};
         CREATE TABLE migration (version integer PRIMARY KEY, name text NOT NULL,
             serves_from integer NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());
         INSERT INTO migration VALUES (4, 'guards', 2);
         INSERT INTO queue (name) VALUES ('q');
         INSERT INTO job (id, queue_id, priority, max_attempts, place, created_at, attempts,
             delivery, crashes, payload)
         SELECT nextval('number'), id, 0, 25, 1, 0, 0, 1, 0, '1' FROM queue;
         INSERT INTO ready (queue_id, place, job_id, priority, delivery, bytes, ready_at)
         SELECT queue_id, 1, id, 0, 1, 1, 0 FROM job; RESET search_path"
    );
    run(&client, &old).await;
    let cluster = Cluster::on(Arc::clone(&postgres), 1, &[]).await;
    let old = one(&cluster.http(0), "q").await;
    run(&client, &ack_sql(&old)).await;
    assert_eq!(state(&cluster.http(0), 1).await, "completed");
    assert_eq!(value(&client, "SELECT \"Other 1\".push('q', '1')").await, "1");
    assert!(pull(&cluster.http(0), "q", 1, 0).await.is_empty());
    assert_eq!(value(&client, "SELECT count(*) FROM \"Other 1\".ready").await, "1");
}

#[tokio::test]
async fn guards_of_queues_hold_for_sql_as_well() {
    let cluster = Cluster::of(1).await;
    let (client, node) = (cluster.postgres.client().await, cluster.nodes[0].client().await);
    let settings = json!({ "payload_bytes_max": 10, "pushes_per_minute": 9, "depth_max": 2 });
    node.set_settings("q", &settings).await.unwrap();
    let refused_by = async |sql: &str| {
        let Err(error) = client.simple_query(sql).await else { panic!("not refused: {sql}") };
        let error = error.as_db_error().expect("an answer of the database").clone();
        assert_eq!(error.code().code(), "54000", "{error}");
        error.constraint().unwrap_or_default().to_owned()
    };
    let large = "SELECT batonq.push('q', '12345678901')";
    assert_eq!(refused_by(large).await, "payload_bytes_max");
    let many = "SELECT batonq.push_many('q', array_fill('1'::jsonb, '{3}'))";
    assert_eq!(refused_by(many).await, "depth_max");
    run(&client, "SELECT batonq.push_many('q', array_fill('1'::jsonb, '{2}'))").await;
    assert_eq!(refused_by("SELECT batonq.push('q', '1')").await, "depth_max");
    run(&client, "SELECT batonq.push('other', '12345678901')").await;
    assert_eq!(node.queue("q").await.unwrap().ready, 2);
}
