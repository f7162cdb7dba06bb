//! Several nodes, one queue: whatever node one asks, it is the same.

use batonq_client::{NewJob, PullOptions};
use batonq_protocol::messages as wire;
use batonq_protocol::{Message, PREFACE};
use batonq_tests::harness::cluster::{ack, pull, push};
use batonq_tests::harness::{Cluster, Http, SOON, Server, Wire, eventually, hello};
use serde_json::{Value, json};

async fn job(cluster: &Cluster, place: usize, id: u64) -> Value {
    cluster.http(place).get(&format!("/v1/jobs/{id}")).await.json()
}

#[tokio::test]
async fn a_job_is_pushed_pulled_extended_and_acked_on_four_nodes() {
    let cluster = Cluster::of(3).await;
    let id = push(&cluster.http(0), "q", json!({"to": "a"})).await;
    let jobs = pull(&cluster.http(1), "q", 1, 0).await;
    assert_eq!((jobs.len(), &jobs[0]["id"]), (1, &json!(id)));
    let body = json!({"lease": jobs[0]["lease"], "lease_ms": 60_000});
    let extended = cluster.http(2).post(&format!("/v1/jobs/{id}/extend"), body).await;
    assert_eq!(extended.status, 200, "{}", extended.text);
    let body = json!({"lease": jobs[0]["lease"], "percent": 50});
    let noted = cluster.http(0).post(&format!("/v1/jobs/{id}/progress"), body).await;
    assert!(noted.status < 300, "{}", noted.text);
    assert_eq!(job(&cluster, 1, id).await["progress"]["percent"], 50);
    assert!(ack(&cluster.http(0), &jobs[0]).await < 300);
    for place in 0..3 {
        assert_eq!(job(&cluster, place, id).await["state"], "completed");
    }
    assert!(ack(&cluster.http(1), &jobs[0]).await < 300, "the same call again is fine");
}

#[tokio::test]
async fn a_job_fails_and_is_released_on_other_nodes_than_it_was_pulled_from() {
    let cluster = Cluster::of(2).await;
    let id = push(&cluster.http(0), "q", json!(1)).await;
    let jobs = pull(&cluster.http(0), "q", 1, 0).await;
    let body = json!({"lease": jobs[0]["lease"]});
    let released = cluster.http(1).post(&format!("/v1/jobs/{id}/release"), body).await;
    assert!(released.status < 300, "{}", released.text);
    let jobs = pull(&cluster.http(1), "q", 1, 5_000).await;
    let error = json!({"code": "NO", "message": "no"});
    let body = json!({"lease": jobs[0]["lease"], "error": error, "retry_in_ms": 3_600_000});
    let failed = cluster.http(0).post(&format!("/v1/jobs/{id}/fail"), body.clone()).await;
    assert!(failed.status < 300, "{}", failed.text);
    assert_eq!(job(&cluster, 1, id).await["state"], "scheduled");
    assert_eq!(ack(&cluster.http(1), &jobs[0]).await, 409);
}

#[tokio::test]
async fn what_is_leased_over_tcp_is_acked_over_http_on_another_node() {
    let cluster = Cluster::of(2).await;
    let client = cluster.nodes[0].client().await;
    let id = client.push(NewJob::new("q", "1")).await.unwrap().id;
    let pulled = client.pull(PullOptions::new("q")).await.unwrap();
    assert_eq!(pulled[0].id, id);
    let nodes = cluster.nodes_seen_by(1).await;
    assert_eq!(nodes["nodes"][0]["instances_claimed"], 1);
    assert_eq!(nodes["nodes"][1]["instances_claimed"], 0);
}

/// A connection that begins a session, or goes on with one; and which leases it has.
async fn greet(node: &Server, session: u64) -> (Wire, wire::Welcome) {
    let mut wire = node.wire().await;
    wire.send(&PREFACE).await;
    let hello = Message::Hello(Box::new(wire::Hello { session, ..hello("") }));
    let Message::Welcome(welcome) = wire.ask(1, hello).await else { panic!("it is not welcome") };
    (wire, *welcome)
}

#[tokio::test]
async fn a_lease_outlives_one_given_with_it_that_was_settled_elsewhere_unheard() {
    let cluster = Cluster::of(2).await;
    let (mut first, welcome) = greet(&cluster.nodes[0], 0).await;
    for payload in ["1", "2"] {
        push(&cluster.http(0), "q", json!(payload)).await;
    }
    let pull = |queue: &str, count| {
        let pull = wire::Pull { queue: queue.into(), count, wait_ms: 10_000, ..<_>::default() };
        Message::Pull(pull)
    };
    let Message::Pulled(pulled) = first.ask(2, pull("q", 2)).await else { panic!("no jobs") };
    let ack = |place: usize| {
        let lease = pulled.jobs[place].lease.clone();
        Message::Ack(wire::Ack { items: vec![wire::AckItem { lease, ..<_>::default() }] })
    };
    let done = |answer: &Message| match answer {
        Message::Settled(settled) => settled.results[0].status() == wire::SettleStatus::Ok,
        _ => false,
    };
    let (mut other, _) = greet(&cluster.nodes[1], 0).await;
    assert!(done(&other.ask(2, ack(1)).await));
    let (mut again, resumed) = greet(&cluster.nodes[0], welcome.session).await;
    assert_eq!(resumed.leases, [pulled.jobs[0].lease.clone()]);
    let heard = format!("SELECT pg_notify('batonq batonq', E'0\\ne {} 1')", pulled.jobs[1].id);
    cluster.postgres.execute(&heard).await;
    // What is told afterwards is heard afterwards.
    again.say(3, pull("later", 1)).await;
    cluster.postgres.execute("SELECT batonq.push('later', '3')").await;
    assert!(matches!(again.answer().await, Message::Pulled(_)));
    let rows = cluster.postgres.value("SELECT count(*) FROM batonq.lease").await;
    assert_eq!(rows, "2", "that of the job that is left, and that of the later one");
    assert!(done(&again.ask(4, ack(0)).await));
}

#[tokio::test]
async fn every_node_lists_all_nodes_and_one_leader_alike() {
    let cluster = Cluster::of(3).await;
    let first = cluster.nodes_seen_by(0).await;
    let ids: Vec<&str> = first["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["n1", "n2", "n3"]);
    for field in [
        "hostname",
        "host",
        "is_leader",
        "state",
        "started_at",
        "last_heartbeat",
        "instances_claimed",
        "version",
    ] {
        assert!(!first["nodes"][0][field].is_null(), "{field}");
    }
    for place in 1..3 {
        assert_eq!(cluster.nodes_seen_by(place).await, first);
    }
    let leader = format!("n{}", cluster.leader().await + 1);
    assert_eq!(first["leader"], *leader);
    let array = cluster.http(0).get("/cluster/nodes?format=array").await.json();
    assert_eq!(array.as_array().unwrap().len(), 3);
    let told = cluster.http(1).get("/cluster/leader").await.json();
    assert_eq!((&told["node"], &told["epoch"]), (&json!(leader), &json!(1)));
    let info = cluster.http(2).get("/cluster/info").await.json();
    let version = batonq_server::store::postgres::migrate::SCHEMA_VERSION;
    assert_eq!((&info["schema"]["version"], &info["differing"]), (&json!(version), &json!([])));
}

#[tokio::test]
async fn a_pull_that_waits_on_one_node_is_woken_by_a_push_on_another() {
    let cluster = Cluster::of(2).await;
    let http = cluster.http(1);
    let waiting = tokio::spawn(async move { pull(&http, "q", 1, 20_000).await });
    let id = push(&cluster.http(0), "q", json!(1)).await;
    let jobs = tokio::time::timeout(SOON, waiting).await.unwrap().unwrap();
    assert_eq!(jobs[0]["id"], id);
}

#[tokio::test]
async fn a_wait_on_one_node_ends_with_the_job_on_another() {
    let cluster = Cluster::of(2).await;
    let id = push(&cluster.http(0), "q", json!(1)).await;
    let jobs = pull(&cluster.http(0), "q", 1, 0).await;
    let http = cluster.http(1);
    let path = format!("/v1/jobs/{id}/wait?timeout_ms=20000");
    let waiting = tokio::spawn(async move { http.get(&path).await.json() });
    ack(&cluster.http(0), &jobs[0]).await;
    let waited = tokio::time::timeout(SOON, waiting).await.unwrap().unwrap();
    assert_eq!(waited["state"], "completed", "{waited}");
}

#[tokio::test]
async fn a_node_leaves_when_any_node_is_asked_to_have_it_leave() {
    let mut cluster = Cluster::of(3).await;
    let reply = cluster.http(0).post("/cluster/nodes/n2/drain", json!({})).await;
    assert_eq!((reply.status, reply.text.as_str()), (200, ""));
    assert_eq!(cluster.nodes[1].wait(), 0);
    let seen = cluster.nodes_seen_by(2).await;
    let ids: Vec<&Value> = seen["nodes"].as_array().unwrap().iter().map(|it| &it["id"]).collect();
    assert_eq!(ids, ["n1", "n3"]);
    let unknown = cluster.http(0).post("/cluster/nodes/n9/drain", json!({})).await;
    assert_eq!(unknown.problem(), (404, "NOT_FOUND".into()));
}

#[tokio::test]
async fn a_drained_node_may_stay() {
    let cluster = Cluster::of(2).await;
    let reply = cluster.http(0).post("/cluster/nodes/n2/drain?exit=false", json!({})).await;
    assert_eq!(reply.status, 200);
    eventually("n2 drains", || async {
        (cluster.http(1).get("/health/ready").await.status == 503).then_some(())
    })
    .await;
    assert_eq!(cluster.http(1).get("/health/live").await.status, 200);
    eventually("n1 sees it", || async {
        (cluster.nodes_seen_by(0).await["nodes"][1]["state"] == "draining").then_some(())
    })
    .await;
    assert_eq!(cluster.leader().await, 0, "it gives up the leadership");
    // Pushes and acks are still taken.
    push(&cluster.http(1), "q", json!(1)).await;
}

#[tokio::test]
async fn a_second_node_of_the_same_name_refuses_to_start_and_says_why() {
    let cluster = Cluster::of(1).await;
    let mut second = cluster.builder(1).start();
    assert_eq!(second.wait(), 1);
    let log = second.log();
    assert!(log.contains("has the id n1") && log.contains("NODE_ID"), "{log}");
    push(&cluster.http(0), "q", json!(1)).await;
}

#[tokio::test]
async fn a_node_that_was_killed_comes_back_under_its_name_at_once() {
    let mut cluster = Cluster::of(2).await;
    let before = cluster.nodes_seen_by(0).await["nodes"][1]["incarnation"].clone();
    cluster.nodes[1].kill();
    cluster.nodes[1].resume();
    cluster.ready().await;
    let after = cluster.nodes_seen_by(0).await["nodes"][1].clone();
    assert_ne!(after["incarnation"], before);
    assert_eq!(after["state"], "active");
}

#[tokio::test]
async fn nodes_that_were_told_otherwise_are_shown() {
    let mut cluster = Cluster::of(1).await;
    cluster.nodes.push(cluster.builder(2).env("BATONQ_KEEP_DEAD", "7d").start());
    cluster.ready().await;
    let info = cluster.http(0).get("/cluster/info").await.json();
    assert_eq!(info["differing"][0]["id"], "n2", "{info}");
}

#[tokio::test]
async fn the_command_line_lists_nodes_and_drains_them() {
    let mut cluster = Cluster::of(2).await;
    let run = |arguments: &[&str]| {
        let out = cluster.nodes[0].command(arguments).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let table = run(&["nodes"]);
    assert!(table.contains("n1") && table.contains("n2") && table.contains("leader"), "{table}");
    let nodes: Value = serde_json::from_str(&run(&["nodes", "-o", "json"])).unwrap();
    assert_eq!((&nodes[1]["id"], &nodes[1]["state"]), (&json!("n2"), &json!("active")));
    assert_eq!(run(&["drain", "n2"]).trim(), "n2 drains");
    assert_eq!(cluster.nodes[1].wait(), 0);
    let unknown = cluster.nodes[0].command(&["drain", "n9"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(3));
}

#[tokio::test]
async fn a_node_that_has_been_silent_for_too_long_is_shown_as_stale() {
    let settings = [("BATONQ_NODE_HEARTBEAT_INTERVAL", "1s"), ("BATONQ_NODE_STALE_AFTER", "3s")];
    let postgres = std::sync::Arc::new(batonq_tests::harness::Postgres::start());
    let mut cluster = Cluster::on(postgres, 2, &settings).await;
    let before = cluster.nodes_seen_by(0).await["nodes"][0]["last_heartbeat"].clone();
    cluster.nodes[1].kill();
    eventually("n2 is stale", || async {
        let nodes = cluster.nodes_seen_by(0).await;
        (nodes["nodes"][1]["state"] == "stale").then_some(())
    })
    .await;
    let own = cluster.nodes_seen_by(0).await["nodes"][0].clone();
    assert_eq!(own["state"], "active");
    assert_ne!(own["last_heartbeat"], before);
}

#[tokio::test]
async fn the_password_comes_from_a_file_and_is_nowhere_to_be_read() {
    let postgres = batonq_tests::harness::Postgres::start();
    postgres.execute("CREATE ROLE careful LOGIN PASSWORD 's3cret-7531'").await;
    postgres.execute("GRANT CREATE ON DATABASE postgres TO careful").await;
    postgres.demand_passwords("careful");
    let file = postgres.dir().join("password");
    std::fs::write(&file, "s3cret-7531\n").unwrap();
    let dsn = format!("postgres://careful@{}/postgres", postgres.address());
    let node = batonq_tests::harness::Server::with()
        .env("DATABASE_URL", &dsn)
        .env("BATONQ_DATABASE_PASSWORD_FILE", file.to_str().unwrap())
        .env("BATONQ_LOG", "trace")
        .start();
    batonq_tests::harness::cluster::is_ready(&node).await;
    push(&node.http(), "q", json!(1)).await;
    assert!(!node.log().contains("s3cret-7531"));
}

#[tokio::test]
async fn jobs_that_are_pushed_at_once_through_two_nodes_wait_for_the_same_job() {
    let cluster = Cluster::of(2).await;
    let nodes = [cluster.http(0), cluster.http(1)];
    for round in 0..25 {
        let parent = push(&nodes[0], "parents", json!(round)).await;
        let child = async |http: &Http| {
            let body = json!({ "payload": 1, "depends_on": [parent] });
            http.post("/v1/queues/children/jobs", body).await.json()
        };
        let four = [child(&nodes[0]), child(&nodes[1]), child(&nodes[0]), child(&nodes[1])];
        for pushed in futures_util::future::join_all(four).await {
            assert_eq!(pushed["state"], "blocked", "round {round}: {pushed}");
        }
    }
    assert!(pull(&nodes[1], "children", 1, 0).await.is_empty());
}

#[tokio::test]
async fn a_claim_that_has_waited_for_its_queue_begins_when_the_lease_before_has_ended() {
    let cluster = Cluster::of(1).await;
    let client = cluster.nodes[0].client().await;
    client.set_settings("q", &json!({"concurrency": 10})).await.expect("it is good");
    let (http, id) = (cluster.http(0), push(&cluster.http(0), "q", json!(1)).await);
    let first = pull(&http, "q", 1, 5_000).await;
    let session = cluster.postgres.client().await;
    let lock = "BEGIN; SELECT FROM batonq.queue FOR NO KEY UPDATE";
    session.batch_execute(lock).await.expect("nobody else has it");

    let waits_and_is_given_back = async {
        cluster.postgres.somebody_waits().await;
        let body = json!({"lease": first[0]["lease"]});
        let released = http.post(&format!("/v1/jobs/{id}/release"), body).await;
        assert!(released.status < 300, "{}", released.text);
        session.batch_execute("COMMIT").await.expect("it is still there");
    };
    let (second, ()) = tokio::join!(pull(&http, "q", 1, 5_000), waits_and_is_given_back);

    assert_eq!(second[0]["delivery"], 2);
    let attempts = client.timeline(id).await.expect("it is there").attempts;
    let ended = attempts[0].ended_at_ms.expect("it was given back");
    assert!(ended <= attempts[1].started_at_ms, "{attempts:?}");
}

#[tokio::test]
async fn nodes_that_claim_parts_of_what_was_pushed_together_share_each_job_once() {
    const JOBS: usize = 20_000;
    let cluster = Cluster::of(2).await;
    let producer = cluster.nodes[0].client().await;
    for _ in 0..JOBS / 500 {
        producer.push_batch(vec![NewJob::new("q", "1"); 500]).await.unwrap();
    }
    // Four workers that take a few jobs at a time, each a different number.
    let workers = (0..4).map(|worker| {
        let node = &cluster.nodes[worker % 2];
        async move {
            let (client, mut jobs) = (node.client().await, Vec::new());
            for count in (1..=30).map(|count| count * (worker as u32 + 3) % 31 + 1).cycle() {
                let pulled = client.pull(PullOptions::new("q").count(count)).await.unwrap();
                if pulled.is_empty() && client.queue("q").await.unwrap().ready == 0 {
                    return (client, jobs);
                }
                jobs.extend(pulled.iter().map(|job| job.id));
            }
            unreachable!("it goes round for ever")
        }
    });
    let shares = futures_util::future::join_all(workers).await;
    let mut jobs: Vec<_> = shares.iter().flat_map(|(_, jobs)| jobs.iter().copied()).collect();
    jobs.sort_unstable();
    assert_eq!(jobs.len(), JOBS);
    jobs.dedup();
    assert_eq!(jobs.len(), JOBS, "no job was leased twice");
}
