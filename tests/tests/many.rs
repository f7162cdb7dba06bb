//! The same to many jobs, and what queues take and keep: through both transports and the command
//! line.

use batonq_client::{Client, Edit, ErrorCode, Failure, NewJob, PullOptions};
use batonq_server::clock::ManualClock;
use batonq_server::job::{Payload, QueueName};
use batonq_server::store::{Duty, Retention};
use batonq_tests::harness::{Cluster, Http, Server, eventually};
use batonq_tests::stores::{Maker, Shared};
use hyper::Method;
use serde_json::{Value, json};

fn run(server: &Server, arguments: &[&str]) -> (i32, String, String) {
    let output = server.command(arguments).output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

async fn put(http: &Http, path: &str, body: &Value) -> u16 {
    let json = [("content-type", "application/json")];
    http.send(Method::PUT, path, Some(body.to_string().into()), &json).await.status
}

async fn count(client: &Client, queue: &str) -> (u64, u64, u64) {
    let queue = client.queue(queue).await.expect("it is there");
    (queue.ready, queue.dead, queue.cancelled)
}

/// Three dead jobs in this queue.
async fn three_dead(client: &Client, queue: &str) -> Vec<u64> {
    let mut ids = Vec::new();
    for n in 0..3 {
        let job = NewJob::new(queue, n.to_string()).max_attempts(1);
        ids.push(client.push(job).await.expect("it is taken").id.0);
        let leased = client.pull(PullOptions::new(queue)).await.expect("it is ready");
        let failure = Failure::new("NO", "no");
        client.fail(&leased[0], failure).await.expect("it is ours");
    }
    ids
}

#[tokio::test]
async fn a_bulk_counts_first_and_then_does_it_to_what_was_meant() {
    let server = Server::start();
    let (client, http) = (server.client().await, server.http());
    for n in 0..5 {
        client.push(NewJob::new("a", n.to_string()).tag("t")).await.unwrap();
        client.push(NewJob::new("b", n.to_string())).await.unwrap();
    }
    let wish = json!({ "action": "cancel", "filter": { "queue": "a" }, "dry_run": true });
    let counted = http.post("/v1/bulk", wish).await.json();
    assert_eq!((&counted["matched"], &counted["ids"]), (&json!(5), &json!([])));
    assert_eq!(count(&client, "a").await, (5, 0, 0));
    let wish = json!({ "action": "cancel", "filter": { "tag": "t" } });
    let done = client.bulk(&wish).await.unwrap();
    assert_eq!((done.ids.len(), done.passed_over, done.cursor), (5, 0, 0));
    assert_eq!(count(&client, "a").await, (0, 0, 5));
    assert_eq!(count(&client, "b").await, (5, 0, 0));
}

#[tokio::test]
async fn a_bulk_that_names_nothing_is_refused_unless_everything_is_meant() {
    let server = Server::start();
    let (client, http) = (server.client().await, server.http());
    client.push(NewJob::new("a", "1")).await.unwrap();
    for filter in [json!({}), json!({ "state": "ready" }), json!({ "older_than_ms": 0 })] {
        let wish = json!({ "action": "cancel", "filter": filter });
        let reply = http.post("/v1/bulk", wish.clone()).await;
        assert_eq!((reply.status, &reply.json()["field"]), (400, &json!("filter")));
        let refused = client.bulk(&wish).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::Invalid));
    }
    assert_eq!(count(&client, "a").await, (1, 0, 0));
    let wish = json!({ "action": "cancel", "everything": true });
    assert_eq!(client.bulk(&wish).await.unwrap().ids.len(), 1);
}

#[tokio::test]
async fn what_is_wrong_with_a_bulk_is_named() {
    let server = Server::start();
    let (client, http) = (server.client().await, server.http());
    for (wish, field) in [
        (json!({ "action": "burn", "everything": true }), "action"),
        (json!({ "action": "move", "everything": true }), "to"),
        (json!({ "action": "retry", "everything": true, "to": "q" }), "to"),
        (json!({ "action": "replay", "everything": true, "per_second": 0 }), "per_second"),
        (json!({ "action": "delete", "everything": true, "limit": 0 }), "limit"),
        (json!({ "action": "cancel", "everything": true, "grace_ms": 86_400_001 }), "grace_ms"),
        (json!({ "action": "cancel", "filter": { "state": "lost" } }), "state"),
        (json!({ "action": "cancel", "filter": { "reason": "none" } }), "reason"),
        (json!({ "action": "cancel", "filter": { "queue": "" , "sort": 1 } }), "filter.sort"),
    ] {
        let reply = http.post("/v1/bulk", wish.clone()).await;
        assert_eq!((reply.status, &reply.json()["field"]), (400, &json!(field)), "{wish}");
        let refused = client.bulk(&wish).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::Invalid), "{wish}");
    }
}

#[tokio::test]
async fn a_bulk_goes_on_from_its_cursor() {
    let server = Server::start();
    let client = server.client().await;
    for n in 0..7 {
        client.push(NewJob::new("a", n.to_string())).await.unwrap();
    }
    let mut wish = json!({ "action": "move", "filter": { "queue": "a" }, "to": "b", "limit": 3 });
    let mut moved = Vec::new();
    loop {
        let done = client.bulk(&wish).await.unwrap();
        assert!(done.ids.len() <= 3);
        moved.extend(done.ids);
        if done.cursor == 0 {
            break;
        }
        wish["cursor"] = json!(done.cursor);
    }
    assert_eq!(moved.len(), 7);
    let order: Vec<u64> = client
        .pull(PullOptions::new("b").count(7))
        .await
        .unwrap()
        .iter()
        .map(|job| job.id.0)
        .collect();
    assert_eq!(order, moved, "they stand in line as they did");
}

#[tokio::test]
async fn dead_jobs_are_retried_replayed_once_and_deleted() {
    let server = Server::start();
    let (client, http) = (server.client().await, server.http());
    let dead = three_dead(&client, "a").await;
    let of_queue = json!({ "queue": "a" });
    let wish = json!({ "action": "replay", "filter": of_queue, "priority": 7, "to": "b" });
    let copies = client.bulk(&wish).await.unwrap().ids;
    assert_eq!(copies.len(), 3);
    let copy = client.job(copies[0]).await.unwrap();
    assert_eq!((copy.replay_of, copy.priority, &*copy.queue), (dead[0], 7, "b"));
    assert_eq!(client.job(dead[0]).await.unwrap().replayed_as, copies[0]);
    assert_eq!(client.bulk(&wish).await.unwrap().matched, 0, "each has its copy");
    let wish = json!({ "action": "retry", "filter": { "queue": "a", "reason": "POISON" } });
    assert_eq!(client.bulk(&wish).await.unwrap().matched, 0);
    let reply = http.send(Method::DELETE, &format!("/v1/jobs/{}", dead[0]), None, &[]).await;
    assert_eq!(reply.status, 200);
    let gone = client.job(dead[0]).await.unwrap_err();
    assert_eq!(gone.code(), Some(ErrorCode::NotFound));
    let refused = client.delete(copies[0]).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::WrongState));
    let wish = json!({ "action": "delete", "filter": of_queue });
    assert_eq!(client.bulk(&wish).await.unwrap().ids, dead[1..]);
}

#[tokio::test]
async fn a_replay_with_a_rate_spreads_its_copies() {
    let server = Server::start();
    let client = server.client().await;
    three_dead(&client, "a").await;
    let wish = json!({ "action": "replay", "filter": { "queue": "a" }, "per_second": 1 });
    let copies = client.bulk(&wish).await.unwrap().ids;
    let mut times = Vec::new();
    for copy in &copies {
        times.push(client.job(*copy).await.unwrap().run_at_ms);
    }
    assert_eq!(times[0], None);
    let gap = times[2].unwrap() - times[1].unwrap();
    assert!(gap >= 1000, "{times:?}");
}

#[tokio::test]
async fn a_job_is_replayed_with_another_payload() {
    let server = Server::start();
    let (client, http) = (server.client().await, server.http());
    let dead = three_dead(&client, "a").await[0];
    let path = format!("/v1/jobs/{dead}/replay");
    let copy = http.post(&path, json!({ "payload": { "fixed": 1 } })).await.json();
    let shown = http.get(&format!("/v1/jobs/{}", copy["id"])).await.json();
    assert_eq!((&shown["payload"], &shown["replay_of"]), (&json!({ "fixed": 1 }), &json!(dead)));
    let copy = client.replay_edited(dead, Edit::default().payload("2").queue("b")).await.unwrap();
    assert_eq!(&*client.job(copy).await.unwrap().payload, b"2");
}

#[tokio::test]
async fn a_dead_job_whose_key_is_taken_can_not_come_back() {
    let server = Server::start();
    let (client, http) = (server.client().await, server.http());
    let keyed = || NewJob::new("a", "1").unique("k").max_attempts(1);
    let dead = client.push(keyed()).await.unwrap().id;
    let leased = client.pull(PullOptions::new("a")).await.unwrap();
    client.fail(&leased[0], Failure::new("NO", "no")).await.unwrap();
    client.push(keyed()).await.unwrap();
    for verb in ["retry", "replay"] {
        let refused = http.post(&format!("/v1/jobs/{}/{verb}", dead.0), json!({})).await;
        assert_eq!(refused.problem(), (409, "DUPLICATE".into()), "{verb}");
    }
    assert_eq!(client.retry(dead).await.unwrap_err().code(), Some(ErrorCode::Duplicate));
}

#[tokio::test]
async fn a_guard_says_no_with_its_code_and_notes_it() {
    let server = Server::start();
    let (client, http) = (server.client().await, server.http());
    let settings = json!({ "payload_bytes_max": 10, "depth_max": 2 });
    assert_eq!(put(&http, "/v1/queues/a/settings", &settings).await, 200);
    let large = client.push(NewJob::new("a", "\"12345678901\"")).await.unwrap_err();
    assert_eq!(large.code(), Some(ErrorCode::PayloadTooLarge));
    let large = http.post("/v1/queues/a/jobs", json!({ "payload": "12345678901" })).await;
    assert_eq!((large.status, &large.json()["field"]), (413, &json!("payload")));
    let batch = json!({ "jobs": [{ "payload": 1 }, { "payload": 2 }, { "payload": 3 }] });
    let results = http.post("/v1/queues/a/jobs/batch", batch).await.json();
    assert_eq!(results["results"][1]["outcome"], "inserted");
    assert_eq!(results["results"][2]["error"]["code"], "RATE_LIMITED", "{results}");
    let full = http.post("/v1/queues/a/jobs", json!({ "payload": 1 })).await;
    let problem = full.json();
    assert_eq!((full.status, &problem["retryable"]), (429, &json!(true)), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("depth_max"), "{problem}");
    let full = client.push(NewJob::new("a", "1")).await.unwrap_err();
    assert_eq!(full.code(), Some(ErrorCode::RateLimited));
    let refused = |guard: &str, decisions: &Value| -> u64 {
        let of_guard = decisions.as_array().unwrap().iter().filter(|one| one["guard"] == guard);
        of_guard.map(|one| one["count"].as_u64().unwrap()).sum()
    };
    let decisions = http.get("/v1/decisions?queue=a").await.json()["decisions"].take();
    assert_eq!(refused("payload_bytes_max", &decisions), 2, "{decisions}");
    assert_eq!(refused("depth_max", &decisions), 3, "{decisions}");
    let over_tcp: u64 = client.decisions("a", 0).await.unwrap().iter().map(|one| one.count).sum();
    assert_eq!(over_tcp, 5);
    assert_eq!(http.get("/v1/decisions?queue=b").await.json()["decisions"], json!([]));
}

#[tokio::test]
async fn a_guard_that_is_set_on_one_node_holds_on_all() {
    let cluster = Cluster::of(2).await;
    let (here, there) = (cluster.nodes[0].client().await, cluster.nodes[1].client().await);
    there.push(NewJob::new("a", "1")).await.unwrap();
    here.set_settings("a", &json!({ "depth_max": 3 })).await.unwrap();
    here.push(NewJob::new("a", "1")).await.unwrap();
    let refuses = async || there.push(NewJob::new("a", "1")).await.err();
    let refused = eventually("the other node refuses", refuses).await;
    assert_eq!(refused.code(), Some(ErrorCode::RateLimited));
    let decisions = here.decisions("a", 0).await.unwrap();
    assert_eq!((&*decisions[0].guard, decisions[0].max), ("depth_max", 3));
}

#[test]
fn the_command_line_counts_unless_it_is_told_to_do_it() {
    let server = Server::start();
    for _ in 0..3 {
        assert_eq!(run(&server, &["push", "a", "{}"]).0, 0);
    }
    let (code, _, err) = run(&server, &["bulk", "cancel"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("--queue") && err.contains("--all"), "{err}");
    let (code, out, _) = run(&server, &["bulk", "cancel", "--queue", "a"]);
    assert_eq!((code, &*out), (0, "3 jobs match; nothing was done"));
    let (code, out, _) = run(&server, &["bulk", "cancel", "--queue", "a", "--yes"]);
    assert_eq!((code, &*out), (0, "cancel: 3 jobs, 0 passed over"));
    let (code, out, _) = run(&server, &["dlq", "replay", "--queue", "a", "--dry-run"]);
    assert_eq!((code, &*out), (0, "0 jobs match; nothing was done"));
    let (code, out, _) = run(&server, &["jobs", "rm", "1"]);
    assert_eq!((code, &*out), (0, "1 deleted"));
    assert_eq!(run(&server, &["settings", "a", r#"{"depth_max":0}"#]).0, 0);
    let (code, _, err) = run(&server, &["push", "a", "{}"]);
    assert!(code != 0 && err.contains("RATE_LIMITED"), "{code} {err}");
    let (_, out, _) = run(&server, &["decisions", "--queue", "a"]);
    assert!(out.contains("depth_max"), "{out}");
    let (code, out, err) = run(&server, &["replay", "2", "--queue", "b", "--priority", "3"]);
    assert_eq!((code, out.contains("copy of job 2")), (0, true), "{err}");
}

#[tokio::test]
async fn lines_of_jobs_that_are_gone_leave_the_tables_in_parts() {
    let (home, clock) = (Shared::home(), ManualClock::new());
    let store = Shared::open(&home, &clock, Retention::default()).await;
    let payload = Payload::new("1".into()).expect("it is small");
    let job = batonq_server::job::NewJob::new(QueueName::parse("q").expect("a name"), payload);
    let id = store.push(vec![job]).await.expect("it works")[0].id().expect("it is stored");
    assert!(store.log(id, "info".into(), "here".into()).await.expect("it works"));
    let log = format!("{}.job_log", home.name);
    let lines = "SELECT 1000000 + number % 7, 0, 'info', '' FROM generate_series(1, 2500) number";
    let sql = format!("INSERT INTO {log} (job_id, at, level, message) {lines}");
    home.server.execute(&sql).await;
    let term = Shared::term(&home);
    let part = async || store.run_duty(&term, Duty::Retention).await.expect("it works").next;
    assert_eq!(part().await, Some(std::time::Duration::ZERO));
    assert_eq!(part().await, None);
    let left = home.server.value(&format!("SELECT count(*) FROM {log}")).await;
    assert_eq!(left, "1");
    // It begins anew.
    assert_eq!(part().await, None);
    assert_eq!(store.logs(id).await.expect("it works").len(), 1);
}
