//! Encrypted queues: what goes in comes out, on every node that has the key, and what is stored
//! tells nothing.

#![allow(clippy::unwrap_used, reason = "everything here is a test, which fails by panicking")]

use std::path::Path;
use std::sync::Arc;

use batonq_client::{Ack, ErrorCode, NewJob, PullOptions};
use batonq_tests::harness::{Cluster, Http, Postgres, Reply, Server, batonq, cluster, eventually};
use cluster::{pull, push};
use hyper::Method;
use serde_json::{Value, json};

const KEY: &str = "5ca1ab1e000102030405060708090a0b0c0d0e0f101112131415161718191a1b";
const OTHER: &str = "0ddba11e000102030405060708090a0b0c0d0e0f101112131415161718191a1b";

/// In all that must not be seen in a database.
const MARKER: &str = "HUSH-4711";

/// In what may be seen there, so that the search is known to work.
const OPEN: &str = "LOUD-4711";

fn hush(what: &str) -> Value {
    json!({ "what": what, "card": MARKER })
}

async fn set(http: &Http, queue: &str, settings: Value) -> Reply {
    let path = format!("/v1/queues/{queue}/settings");
    let json = ("content-type", "application/json");
    http.send(Method::PUT, &path, Some(settings.to_string().into()), &[json]).await
}

async fn encrypt(http: &Http, queue: &str) {
    let reply = set(http, queue, json!({ "encrypted": true })).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

async fn pull_one(http: &Http, queue: &str) -> Value {
    let mut jobs = pull(http, queue, 1, 5000).await;
    assert_eq!(jobs.len(), 1, "{queue}");
    jobs.remove(0)
}

async fn ack(http: &Http, job: &Value, result: Value) {
    let body = json!({ "lease": job["lease"], "result": result });
    let reply = http.post(&format!("/v1/jobs/{}/ack", job["id"]), body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

async fn job(http: &Http, id: &Value) -> Value {
    http.get(&format!("/v1/jobs/{id}")).await.json()
}

async fn patch(http: &Http, id: u64, edit: Value) {
    let json = ("content-type", "application/json");
    let body = edit.to_string().into();
    let reply = http.send(Method::PATCH, &format!("/v1/jobs/{id}"), Some(body), &[json]).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

async fn put_schedule(http: &Http, queue: &str) {
    let body = json!({ "schedule": "0 0 1 1 *", "queue": queue, "payload": hush("cron") });
    let json = ("content-type", "application/json");
    let text = body.to_string().into();
    let reply = http.send(Method::PUT, "/v1/cron/yearly", Some(text), &[json]).await;
    assert_eq!((reply.status, &reply.json()["payload"]), (201, &hush("cron")), "{}", reply.text);
}

/// Everything that a payload or a result can go through, on two nodes, or twice on one. `front`
/// and `back` have asked about queues before, so that they must learn what is new.
async fn everything_comes_out_as_it_went_in(front: &Http, back: &Http) {
    for http in [front, back] {
        push(http, "open", json!({ "card": OPEN })).await;
    }
    for queue in ["hush", "hush2", "parent"] {
        encrypt(front, queue).await;
    }
    // Right after the answer, at the other node.
    let id = push(back, "hush", hush("first")).await;
    assert_eq!(job(front, &json!(id)).await["payload"], hush("first"));
    let first = pull_one(front, "hush").await;
    assert_eq!(first["payload"], hush("first"));
    // Not at the node that gave it out.
    ack(back, &first, hush("result")).await;
    let done = job(front, &first["id"]).await;
    assert_eq!((&done["payload"], &done["result"]), (&hush("first"), &hush("result")));

    replays_and_edits(front, back).await;
    moves(front, back).await;
    flows(front, back).await;
    schedules(front, back).await;
    // What stays in the queue, for those who look at the tables.
    push(back, "hush", hush("waiting")).await;
}

async fn replays_and_edits(front: &Http, back: &Http) {
    let id = push(back, "hush", hush("before")).await;
    patch(front, id, json!({ "payload": hush("edited") })).await;
    let edited = pull_one(back, "hush").await;
    assert_eq!(edited["payload"], hush("edited"));
    let fail = json!({ "lease": edited["lease"], "reject": true });
    let reply = front.post(&format!("/v1/jobs/{id}/fail"), fail).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let reply = front.post(&format!("/v1/jobs/{id}/replay"), json!({})).await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    let copy = pull_one(back, "hush").await;
    assert_eq!(copy["payload"], hush("edited"));
    ack(back, &copy, hush("done")).await;
    // Elsewhere, and with something else.
    for (edit, expected) in [
        (json!({ "queue": "hush2" }), "edited"),
        (json!({ "queue": "hush2", "payload": hush("other") }), "other"),
    ] {
        let reply = front.post(&format!("/v1/jobs/{id}/replay"), edit).await;
        assert_eq!(reply.status, 201, "{}", reply.text);
        let copy = pull_one(back, "hush2").await;
        assert_eq!(copy["payload"], hush(expected));
        ack(back, &copy, Value::Null).await;
    }
}

async fn moves(front: &Http, back: &Http) {
    let id = push(front, "hush", hush("moved")).await;
    patch(back, id, json!({ "queue": "hush2" })).await;
    assert_eq!(job(front, &json!(id)).await["payload"], hush("moved"));
    let moved = pull_one(front, "hush2").await;
    assert_eq!(moved["payload"], hush("moved"));
    ack(front, &moved, Value::Null).await;
    // Many at once.
    push(front, "hush", hush("one of many")).await;
    let bulk = json!({ "action": "move", "filter": { "queue": "hush" }, "to": "hush2" });
    assert_eq!(back.post("/v1/bulk", bulk).await.json()["matched"], 1);
    let moved = pull_one(front, "hush2").await;
    assert_eq!(moved["payload"], hush("one of many"));
    ack(front, &moved, Value::Null).await;
    // In and out of what is encrypted.
    let open = json!({ "card": OPEN });
    let id = push(front, "way", open.clone()).await;
    patch(back, id, json!({ "queue": "hush2" })).await;
    patch(front, id, json!({ "queue": "way2" })).await;
    assert_eq!(pull_one(back, "way2").await["payload"], open);
}

async fn flows(front: &Http, back: &Http) {
    let flow = json!({ "jobs": [
        { "ref": "child", "queue": "hush", "payload": hush("child") },
        { "queue": "parent", "payload": hush("parent"), "depends_on": ["child"] },
    ]});
    let reply = front.post("/v1/flows", flow).await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    let child = pull_one(back, "hush").await;
    ack(back, &child, hush("of the child")).await;
    let parent = pull_one(front, "parent").await;
    assert_eq!(parent["payload"], hush("parent"));
    assert_eq!(parent["needs"][0]["result"], hush("of the child"));
    ack(front, &parent, Value::Null).await;
}

async fn schedules(front: &Http, back: &Http) {
    put_schedule(front, "hush").await;
    assert_eq!(back.get("/v1/cron").await.json()["schedules"][0]["payload"], hush("cron"));
    assert_eq!(back.post("/v1/cron/yearly/run", json!({})).await.status, 201);
    let fired = pull_one(front, "hush").await;
    assert_eq!(fired["payload"], hush("cron"));
    ack(front, &fired, Value::Null).await;
}

/// All bytes of the files in a directory, as text.
fn files(dir: &Path) -> String {
    let files = std::fs::read_dir(dir).unwrap().flatten();
    let texts = files.filter_map(|file| std::fs::read(file.path()).ok());
    texts.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
}

fn tells_nothing(stored: &str) {
    assert!(stored.contains(OPEN), "the search finds nothing at all");
    let place = stored.find(MARKER);
    let around = |place: usize| stored[place..].chars().take(100).collect::<String>();
    assert!(place.is_none(), "{:?}", place.map(around));
}

#[tokio::test]
async fn on_the_embedded_store_everything_comes_out_and_the_files_tell_nothing() {
    let mut server = Server::with().env("BATONQ_MASTER_KEY", KEY).start();
    everything_comes_out_as_it_went_in(&server.http(), &server.http()).await;
    tells_nothing(&files(&server.dir()));
    server.kill();
    tells_nothing(&files(&server.dir()));
    server.resume();
    let left = pull_one(&server.http(), "hush").await;
    assert_eq!(left["payload"], hush("waiting"));
    assert!(!server.log().contains(MARKER) && !server.log().contains(&KEY[..8]));
}

#[tokio::test]
async fn on_two_nodes_everything_comes_out_and_a_dump_tells_nothing() {
    let postgres = Arc::new(Postgres::start());
    let cluster = Cluster::on(postgres, 2, &[("BATONQ_MASTER_KEY", KEY)]).await;
    everything_comes_out_as_it_went_in(&cluster.http(0), &cluster.http(1)).await;
    tells_nothing(&cluster.postgres.dump());
    let info = cluster.http(0).get("/cluster/info").await.json();
    assert_eq!(info["differing"], json!([]));
}

#[tokio::test]
async fn over_the_binary_protocol_too() {
    let server = Server::with().env("BATONQ_MASTER_KEY", KEY).start();
    let client = server.client().await;
    client.set_settings("hush", &json!({ "encrypted": true })).await.unwrap();
    let bytes = |n: usize| vec![u8::try_from(n % 251).unwrap(); 10_000 * n];
    let jobs = (0..5).map(|n| NewJob::new("hush", bytes(n))).collect();
    client.push_batch(jobs).await.unwrap();
    let jobs = client.pull(PullOptions::new("hush").count(5)).await.unwrap();
    for (n, job) in jobs.iter().enumerate() {
        assert_eq!(job.payload, bytes(n));
        client.ack(Ack::new(job).result(bytes(n + 1))).await.unwrap();
        let done = client.job(job.id).await.unwrap();
        assert_eq!(done.result, bytes(n + 1));
    }
}

#[tokio::test]
async fn what_looks_sealed_comes_out_as_it_went_in() {
    let server = Server::with().env("BATONQ_MASTER_KEY", KEY).start();
    let client = server.client().await;
    let mark = [0xb7, 0x0e, 0xd3, 0x5a, 0x91, 0xc4, 0x2f, 0xe8];
    let forms = [&[][..], &[0], &[1], &[1; 60], &[2]];
    encrypt(&server.http(), "hush").await;
    for queue in ["open", "hush"] {
        for form in forms {
            let bytes = [&mark, form].concat();
            client.push(NewJob::new(queue, bytes.clone())).await.unwrap();
            let job = client.pull(PullOptions::new(queue)).await.unwrap().remove(0);
            assert_eq!(job.payload, bytes);
            client.ack(Ack::new(&job).result(bytes.clone())).await.unwrap();
            assert_eq!(client.job(job.id).await.unwrap().result, bytes);
        }
    }
}

#[tokio::test]
async fn what_was_stored_before_and_after_stays_readable() {
    let server = Server::with().env("BATONQ_MASTER_KEY", KEY).start();
    let http = server.http();
    push(&http, "q", json!("before")).await;
    encrypt(&http, "q").await;
    push(&http, "q", json!("sealed")).await;
    assert_eq!(set(&http, "q", json!({})).await.status, 200);
    push(&http, "q", json!("after")).await;
    for expected in ["before", "sealed", "after"] {
        let job = pull_one(&http, "q").await;
        assert_eq!(job["payload"], expected);
        ack(&http, &job, json!(expected)).await;
    }
}

#[tokio::test]
async fn a_payload_may_be_as_large_as_any_other() {
    let server = Server::with().env("BATONQ_MASTER_KEY", KEY).start();
    encrypt(&server.http(), "hush").await;
    let client = server.client().await;
    let largest = vec![7; batonq_server::limits::PAYLOAD_BYTES_MAX];
    client.push(NewJob::new("hush", largest.clone())).await.unwrap();
    let job = client.pull(PullOptions::new("hush")).await.unwrap().remove(0);
    assert_eq!(job.payload, largest);
    client.ack(Ack::new(&job).result(largest)).await.unwrap();
    let guarded = json!({ "encrypted": true, "payload_bytes_max": 100 });
    client.set_settings("hush", &guarded).await.unwrap();
    for (bytes, is_taken) in [(100, true), (101, false)] {
        assert_eq!(client.push(NewJob::new("hush", vec![7; bytes])).await.is_ok(), is_taken);
    }
}

#[tokio::test]
async fn a_new_key_takes_over_and_the_old_one_can_go() {
    let server = Server::with().env("BATONQ_MASTER_KEY", KEY).start();
    encrypt(&server.http(), "hush").await;
    put_schedule(&server.http(), "hush").await;
    let old = push(&server.http(), "hush", hush("old")).await;

    let both = [("BATONQ_MASTER_KEY", OTHER), ("BATONQ_MASTER_KEY_OLD", KEY)];
    let server = server.restart_with(&both);
    let http = server.http();
    assert_eq!(job(&http, &json!(old)).await["payload"], hush("old"));
    push(&http, "hush", hush("new")).await;
    // Turned on again, it renews what makes copies for ever.
    encrypt(&http, "hush").await;

    let server = server.restart_with(&[("BATONQ_MASTER_KEY_OLD", "")]);
    let http = server.http();
    assert_eq!(http.get("/v1/cron/yearly").await.json()["payload"], hush("cron"));
    let refused = http.get(&format!("/v1/jobs/{old}")).await;
    assert_eq!(refused.problem(), (503, "UNAVAILABLE".into()));
    assert!(refused.text.contains("key c158629b"), "{}", refused.text);
    // It is in front, and keeps nobody waiting.
    assert_eq!(pull_one(&http, "hush").await["payload"], hush("new"));
    let aside = http.get(&format!("/v1/jobs/{old}/timeline")).await.json();
    assert_eq!(
        (&aside["job"]["state"], &aside["job"]["attempts"]),
        (&json!("scheduled"), &json!(0))
    );

    let server = server.restart_with(&both);
    let promote = format!("/v1/jobs/{old}/promote");
    assert_eq!(server.http().post(&promote, json!({})).await.status, 200);
    assert_eq!(pull_one(&server.http(), "hush").await["payload"], hush("old"));
}

#[tokio::test]
async fn turning_encryption_on_seals_the_schedules_that_are_there() {
    let postgres = Arc::new(Postgres::start());
    let cluster = Cluster::on(postgres, 1, &[("BATONQ_MASTER_KEY", KEY)]).await;
    let http = cluster.http(0);
    push(&http, "open", json!({ "card": OPEN })).await;
    put_schedule(&http, "hush").await;
    assert!(cluster.postgres.dump().contains(MARKER));
    encrypt(&http, "hush").await;
    assert_eq!(http.post("/v1/cron/yearly/run", json!({})).await.status, 201);
    tells_nothing(&cluster.postgres.dump());
    assert_eq!(pull_one(&http, "hush").await["payload"], hush("cron"));
}

#[tokio::test]
async fn a_node_without_the_key_leaves_encrypted_queues_to_others() {
    let postgres = Arc::new(Postgres::start());
    let mut cluster = Cluster::on(postgres, 1, &[("BATONQ_MASTER_KEY", KEY)]).await;
    let keyless = cluster.builder(2).env("BATONQ_MASTER_KEY", "").start();
    cluster.nodes.push(keyless);
    cluster.ready().await;
    let (keyed, keyless) = (cluster.http(0), cluster.http(1));
    let subscriber = cluster.nodes[1].client().await;
    push(&keyless, "open", json!(1)).await;
    encrypt(&keyed, "hush").await;

    let unavailable = (503, "UNAVAILABLE".to_owned());
    let refused = keyless.post("/v1/queues/hush/jobs", json!({ "payload": hush("no") })).await;
    assert_eq!(refused.problem(), unavailable);
    assert!(refused.text.contains("BATONQ_MASTER_KEY"), "{}", refused.text);
    let jobs = ["open", "hush", "open"].map(|queue| NewJob::new(queue, "2"));
    let pushed = subscriber.push_batch(jobs.to_vec()).await.unwrap();
    let codes: Vec<Option<ErrorCode>> =
        pushed.into_iter().map(|pushed| pushed.err().and_then(|error| error.code())).collect();
    assert_eq!(codes, [None, Some(ErrorCode::Unavailable), None], "others are not to blame");
    let refused = keyless.post("/v1/queues/hush/pull", json!({})).await;
    assert_eq!(refused.problem(), unavailable);
    let refused = subscriber.subscribe("hush", 5).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::Unavailable));

    let id = push(&keyed, "hush", hush("yes")).await;
    assert_eq!(keyless.get(&format!("/v1/jobs/{id}")).await.problem(), unavailable);
    let leased = pull_one(&keyed, "hush").await;
    // It must not store the result either, whoever asks it to.
    let body = json!({ "lease": leased["lease"], "result": hush("result") });
    let refused = keyless.post(&format!("/v1/jobs/{id}/ack"), body).await;
    assert_eq!(refused.problem(), unavailable);
    ack(&keyed, &leased, hush("result")).await;

    // All else works, and the difference is seen.
    ack(&keyless, &pull_one(&keyless, "open").await, json!("fine")).await;
    assert_eq!(keyless.get("/v1/jobs?queue=hush").await.status, 200);
    let replayed = keyless.post(&format!("/v1/jobs/{id}/replay"), json!({})).await;
    assert_eq!(replayed.status, 201, "{}", replayed.text);
    assert_eq!(pull_one(&keyed, "hush").await["payload"], hush("yes"));
    let info = keyed.get("/cluster/info").await.json();
    assert_eq!(info["differing"][0]["id"], "n2");
}

#[tokio::test]
async fn what_was_tampered_with_is_dead_and_keeps_nobody_waiting() {
    let postgres = Arc::new(Postgres::start());
    let cluster = Cluster::on(postgres, 1, &[("BATONQ_MASTER_KEY", KEY)]).await;
    let http = cluster.http(0);
    encrypt(&http, "hush").await;
    encrypt(&http, "hush2").await;
    let damaged = push(&http, "hush", hush("damaged")).await;
    let elsewhere = push(&http, "hush", hush("elsewhere")).await;
    let source = push(&http, "hush2", hush("of another queue")).await;
    push(&http, "hush", hush("whole")).await;
    let tamper = format!(
        "UPDATE batonq.job SET payload = set_byte(payload, 60, get_byte(payload, 60) # 1)
         WHERE id = {damaged};
         UPDATE batonq.job SET payload = (SELECT payload FROM batonq.job WHERE id = {source})
         WHERE id = {elsewhere}"
    );
    cluster.postgres.execute(&tamper).await;
    assert_eq!(http.get(&format!("/v1/jobs/{damaged}")).await.problem(), (500, "INTERNAL".into()));
    assert_eq!(pull_one(&http, "hush").await["payload"], hush("whole"));
    for id in [damaged, elsewhere] {
        let path = format!("/v1/jobs/{id}/timeline");
        eventually("it is dead", || async {
            let timeline = http.get(&path).await.json();
            let attempt = &timeline["attempts"][0];
            let is_dead = timeline["job"]["state"] == "dead";
            (is_dead && attempt["code"] == "UNREADABLE").then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn what_sql_can_not_seal_it_does_not_store() {
    let postgres = Arc::new(Postgres::start());
    let cluster = Cluster::on(postgres, 1, &[("BATONQ_MASTER_KEY", KEY)]).await;
    let http = cluster.http(0);
    encrypt(&http, "hush").await;
    push(&http, "hush", hush("one")).await;
    let leased = pull_one(&http, "hush").await;
    push(&http, "open", json!({ "card": OPEN })).await;
    let sql = cluster.postgres.client().await;
    let lease = leased["lease"].to_string().replace('"', "'");
    for refused in [
        format!("SELECT batonq.push('hush', '\"{MARKER}\"')"),
        format!("SELECT batonq.ack({lease}, '\"{MARKER}\"')"),
    ] {
        let error = sql.batch_execute(&refused).await.unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "0A000", "{}", error.message());
        assert!(error.message().contains("hush"), "{}", error.message());
    }
    sql.batch_execute("SELECT batonq.push('open', '1')").await.unwrap();
    sql.batch_execute(&format!("SELECT batonq.ack({lease})")).await.unwrap();
    tells_nothing(&cluster.postgres.dump());
}

#[tokio::test]
async fn without_a_key_encryption_can_not_be_turned_on() {
    let server = Server::start();
    let refused = set(&server.http(), "q", json!({ "encrypted": true })).await;
    assert_eq!(refused.problem(), (400, "INVALID".into()));
    assert_eq!(refused.json()["field"], "encrypted");
    assert!(refused.text.contains("BATONQ_MASTER_KEY"), "{}", refused.text);
    let refused = set(&server.http(), "q", json!({ "encrypted": "yes" })).await;
    assert_eq!(refused.problem(), (400, "INVALID".into()));
    let client = server.client().await;
    let refused = client.set_settings("q", &json!({ "encrypted": true })).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::Invalid));
}

#[test]
fn what_is_no_key_stops_the_start_and_is_not_shown() {
    for (name, value) in [
        ("BATONQ_MASTER_KEY", "5ca1ab1e"),
        ("BATONQ_MASTER_KEY", &KEY.replace('a', "g")),
        ("BATONQ_MASTER_KEY_OLD", KEY),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut serve = batonq();
        serve.args(["serve", "--port", "0", "--http-port", "0", "--data-dir"]).arg(dir.path());
        let out = serve.env(name, value).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && said.contains(name), "{said}");
        assert!(!said.contains(value), "{said}");
    }
}

#[test]
fn the_command_line_turns_it_on_and_off_and_leaves_the_rest() {
    let server = Server::with().env("BATONQ_MASTER_KEY", KEY).start();
    let run = |arguments: &[&str]| {
        let out = server.command(arguments).args(["-o", "json"]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice::<Value>(&out.stdout).unwrap()
    };
    assert_eq!(run(&["settings", "q", "--encrypted", "on"]), json!({ "encrypted": true }));
    run(&["settings", "q", r#"{"concurrency":3,"encrypted":true}"#]);
    assert_eq!(run(&["settings", "q", "--encrypted", "off"]), json!({ "concurrency": 3 }));
}
