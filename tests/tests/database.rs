//! What a node does when Postgres is not as it should be.

#![allow(clippy::unwrap_used, reason = "everything here is a test, which fails by panicking")]

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use batonq_client::{Ack, NewJob, PullOptions};
use batonq_tests::harness::cluster::{ack, is_ready, pull, push};
use batonq_tests::harness::{Cluster, Http, Pooler, Postgres, Server, eventually};
use hyper::Method;
use serde_json::json;

/// Starts a node that must refuse to go on. What it logged.
fn refused(dsn: &str, settings: &[(&str, &str)]) -> String {
    let builder = Server::with().env("DATABASE_URL", dsn);
    let builder = settings.iter().fold(builder, |builder, (name, value)| builder.env(name, value));
    let mut node = builder.start();
    assert_ne!(node.wait(), 0);
    node.log()
}

fn dsn(postgres: &Postgres, user: &str, database: &str) -> String {
    format!("postgres://{user}:secret-7531@{}/{database}", postgres.address())
}

#[tokio::test]
async fn what_will_not_get_better_by_itself_is_refused_with_the_fix() {
    let postgres = Postgres::start();
    postgres.execute("CREATE ROLE poor LOGIN").await;
    postgres.execute("REVOKE CREATE ON DATABASE postgres FROM public").await;
    for (dsn, part) in [
        (dsn(&postgres, "postgres", "nowhere"), "create the database"),
        (dsn(&postgres, "nobody", "postgres"), "check the user"),
        (dsn(&postgres, "poor", "postgres"), "batonq migrate up"),
    ] {
        let log = refused(&dsn, &[]);
        assert!(log.contains("DATABASE_URL") && log.contains(part), "{log}");
        assert!(!log.contains("secret-7531"), "{log}");
    }
}

#[tokio::test]
async fn tables_of_a_newer_batonq_are_refused_once_they_no_longer_serve_this_one() {
    let cluster = Cluster::of(1).await;
    let newer = "INSERT INTO batonq.migration (version, name, serves_from) VALUES";
    cluster.postgres.execute(&format!("{newer} (900, 'later', 1)")).await;
    let second = cluster.builder(2).start();
    is_ready(&second).await;
    cluster.postgres.execute(&format!("{newer} (901, 'later still', 900)")).await;
    let log = refused(&cluster.postgres.dsn(), &[]);
    assert!(log.contains("use a newer batonq") && log.contains("900"), "{log}");
}

#[tokio::test]
async fn a_standby_is_waited_for_until_it_is_promoted() {
    let postgres = Postgres::start();
    let standby = postgres.standby("copy");
    let node = Server::with().env("DATABASE_URL", &standby.dsn()).start();
    eventually("it says why it waits", || async {
        let ready = node.http().get("/health/ready").await;
        (ready.status == 503 && node.log().contains("waiting for postgres")).then_some(())
    })
    .await;
    standby.promote();
    is_ready(&node).await;
    push(&node.http(), "q", json!(1)).await;
}

#[tokio::test]
async fn a_node_that_may_not_migrate_waits_until_somebody_has() {
    let postgres = Postgres::start();
    let settings = [("DATABASE_URL", postgres.dsn())];
    let node =
        Server::with().env("DATABASE_URL", &settings[0].1).env("BATONQ_MIGRATE", "off").start();
    eventually("it says what it waits for", || async {
        let reason = node.http().get("/health/ready").await.json()["reason"].to_string();
        reason.contains("batonq migrate up").then_some(())
    })
    .await;
    let migrate = |what: &str| {
        let mut command = batonq_tests::harness::batonq();
        let out = command.args(["migrate", what]).env("DATABASE_URL", &settings[0].1).output();
        let out = out.unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    assert!(migrate("status").contains("0"), "nothing is applied yet");
    assert!(migrate("sql").contains("CREATE TABLE job"));
    let version = batonq_server::store::postgres::migrate::SCHEMA_VERSION;
    assert!(migrate("up").contains(&version.to_string()));
    is_ready(&node).await;
    assert!(migrate("status").contains("first"));
    migrate("up");
}

#[tokio::test]
async fn a_node_that_may_only_use_the_tables_does_all_that_is_asked_of_it() {
    let postgres = Postgres::start();
    let url = batonq_server::store::postgres::Dsn::parse(&postgres.dsn(), None).unwrap();
    let mut owner = batonq_server::store::postgres::connect(&url, "test").await.unwrap();
    batonq_server::store::postgres::migrate::up(&mut owner, "batonq").await.unwrap();
    for grant in [
        "CREATE ROLE plain LOGIN",
        "GRANT USAGE ON SCHEMA batonq TO plain",
        "GRANT ALL ON ALL TABLES IN SCHEMA batonq TO plain",
        "GRANT ALL ON ALL SEQUENCES IN SCHEMA batonq TO plain",
    ] {
        postgres.execute(grant).await;
    }
    let plain = dsn(&postgres, "plain", "postgres");
    let node = Server::with().env("DATABASE_URL", &plain).env("BATONQ_MIGRATE", "off").start();
    is_ready(&node).await;
    let http = node.http();
    let client = node.client().await;
    client.push_batch(vec![NewJob::new("q", "1"); 40]).await.unwrap();
    let jobs = client.pull(PullOptions::new("q").count(40)).await.unwrap();
    for _ in 0..2 {
        let acked = client.ack_batch(jobs.iter().map(Ack::from)).await.unwrap();
        assert!(acked.iter().all(Result::is_ok), "{acked:?}");
    }
    let path = |place: usize| format!("/v1/jobs/{}", jobs[place].id.0);
    assert_eq!(http.get(&path(0)).await.json()["state"], "completed");
    assert_eq!(http.get("/v1/jobs?queue=q&tag=none").await.json()["jobs"], json!([]));
    assert_eq!(http.post(&format!("{}/retry", path(1)), json!({})).await.status, 409);
    assert_eq!(http.post(&format!("{}/replay", path(2)), json!({})).await.status, 201);
    assert_eq!(http.send(Method::DELETE, &path(3), None, &[]).await.status, 200);
    assert_eq!(http.get(&path(3)).await.status, 404);
    assert_eq!(http.get("/v1/queues/q").await.json()["counts"]["completed"], 39);
}

#[tokio::test]
async fn three_nodes_start_at_once_on_an_empty_schema_fifty_times() {
    let postgres = Postgres::start();
    let dsn = batonq_server::store::postgres::Dsn::parse(&postgres.dsn(), None).unwrap();
    for round in 0..50 {
        let mut migrations = tokio::task::JoinSet::new();
        for _ in 0..3 {
            let (dsn, schema) = (dsn.clone(), format!("round_{round}"));
            migrations.spawn(async move {
                let mut client = batonq_server::store::postgres::connect(&dsn, "test").await?;
                batonq_server::store::postgres::migrate::up(&mut client, &schema).await
            });
        }
        let applied: Vec<usize> =
            migrations.join_all().await.into_iter().map(|done| done.unwrap().len()).collect();
        let all = batonq_server::store::postgres::migrate::MIGRATIONS.len();
        assert_eq!(applied.iter().sum::<usize>(), all, "round {round}: {applied:?}");
        assert_eq!(applied.iter().filter(|count| **count > 0).count(), 1, "by one of them");
    }
}

/// Pushes one job after the other until it is told to stop, asking again when that is said to be
/// safe. The ids that were answered.
async fn push_through(http: Vec<Http>, stop: Arc<AtomicBool>) -> Vec<u64> {
    let mut ids = Vec::new();
    let mut turn = 0;
    while !stop.load(Ordering::SeqCst) {
        turn += 1;
        let http = &http[turn % http.len()];
        if let Ok(reply) = http.try_post("/v1/queues/q/jobs", json!({"payload": turn})).await {
            assert!(matches!(reply.status, 201 | 503 | 500), "{}", reply.text);
            if reply.status == 201 {
                ids.push(reply.json()["id"].as_u64().unwrap());
            }
        }
    }
    ids
}

/// Every acknowledged job is there and is delivered.
async fn assert_all_there(http: &Http, ids: Vec<u64>) {
    let mut missing: HashSet<u64> = ids.into_iter().collect();
    while !missing.is_empty() {
        let jobs = pull(http, "q", 500, 2_000).await;
        assert!(!jobs.is_empty(), "lost: {missing:?}");
        for job in jobs {
            missing.remove(&job["id"].as_u64().unwrap());
            assert!(ack(http, &job).await < 300);
        }
    }
}

async fn survives(fault: impl AsyncFn(&Cluster)) {
    let postgres = Arc::new(Postgres::start_with(&[]));
    let cluster = Cluster::on(postgres, 2, &[]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let nodes = vec![cluster.http(0), cluster.http(1)];
    let pushing = tokio::spawn(push_through(nodes, Arc::clone(&stop)));
    eventually("jobs flow", || async {
        let count = cluster.postgres.value("SELECT count(*) FROM batonq.job").await;
        (count.parse::<u32>().unwrap() > 20).then_some(())
    })
    .await;
    fault(&cluster).await;
    cluster.ready().await;
    push(&cluster.http(0), "q", json!("after")).await;
    stop.store(true, Ordering::SeqCst);
    assert_all_there(&cluster.http(1), pushing.await.unwrap()).await;
}

#[tokio::test]
async fn a_backend_that_is_killed_loses_nothing() {
    survives(async |cluster: &Cluster| {
        let sql = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'batonq/n1/push'";
        let pid = cluster.postgres.value(sql).await;
        let killed = std::process::Command::new("kill").args(["-9", &pid]).status();
        assert!(killed.unwrap().success());
        // Postgres recovers by itself.
        tokio::time::sleep(Duration::from_millis(100)).await;
    })
    .await;
}

#[tokio::test]
async fn a_fast_restart_loses_nothing() {
    survives(async |cluster: &Cluster| {
        cluster.postgres.stop("fast");
        cluster.postgres.resume();
    })
    .await;
}

#[tokio::test]
async fn an_immediate_restart_loses_nothing() {
    survives(async |cluster: &Cluster| {
        cluster.postgres.stop("immediate");
        cluster.postgres.resume();
    })
    .await;
}

#[tokio::test]
async fn a_postmaster_that_is_killed_loses_nothing() {
    survives(async |cluster: &Cluster| {
        cluster.postgres.kill();
        cluster.postgres.resume();
    })
    .await;
}

#[tokio::test]
async fn when_there_are_no_connections_left_nodes_wait_and_go_on_by_themselves() {
    let postgres = Arc::new(Postgres::start_with(&["max_connections=30", "fsync=off"]));
    let mut taken = Vec::new();
    while let Ok((client, connection)) =
        tokio_postgres::connect(&postgres.dsn(), tokio_postgres::NoTls).await
    {
        tokio::spawn(connection);
        taken.push(client);
    }
    let node = Server::with().env("DATABASE_URL", &postgres.dsn()).start();
    eventually("it says why it waits", || async {
        let reason = node.http().get("/health/ready").await.json()["reason"].to_string();
        (reason.contains("clients") || reason.contains("slots")).then_some(())
    })
    .await;
    drop(taken);
    is_ready(&node).await;
    push(&node.http(), "q", json!(1)).await;
}

#[tokio::test]
async fn a_promotion_loses_nothing_that_was_acknowledged_if_replication_is_synchronous() {
    let primary = Arc::new(Postgres::start_with(&["wal_level=replica"]));
    let standby = primary.standby("copy");
    primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'copy'").await;
    primary.execute("SELECT pg_reload_conf()").await;
    let both = format!("postgres://postgres@{},{}/postgres", primary.address(), standby.address());
    let cluster = Cluster::on(Arc::clone(&primary), 2, &[("DATABASE_URL", &both)]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let nodes = vec![cluster.http(0), cluster.http(1)];
    let pushing = tokio::spawn(push_through(nodes, Arc::clone(&stop)));
    eventually("jobs flow", || async {
        let count = primary.value("SELECT count(*) FROM batonq.job").await;
        (count.parse::<u32>().unwrap() > 20).then_some(())
    })
    .await;
    primary.kill();
    standby.promote();
    cluster.ready().await;
    push(&cluster.http(0), "q", json!("after")).await;
    stop.store(true, Ordering::SeqCst);
    assert_all_there(&cluster.http(1), pushing.await.unwrap()).await;
}

#[tokio::test]
async fn a_node_keeps_to_its_budget_of_connections() {
    let postgres = Arc::new(Postgres::start());
    let cluster = Cluster::on(postgres, 1, &[("BATONQ_DATABASE_CONNECTIONS", "16")]).await;
    let mut looks = tokio::task::JoinSet::new();
    for number in 0..60 {
        let http = cluster.http(0);
        looks.spawn(async move {
            push(&http, "q", json!(number)).await;
            http.get("/v1/queues").await.status
        });
    }
    assert!(looks.join_all().await.iter().all(|status| *status == 200));
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'batonq/n1/%'";
    let count: u32 = cluster.postgres.value(sql).await.parse().unwrap();
    assert!(count <= 14, "{count} connections");
}

/// Two nodes that can not notify.
async fn quiet() -> Cluster {
    let postgres = Arc::new(Postgres::start());
    postgres
        .execute(
            "CREATE ROLE quiet LOGIN; GRANT CREATE ON DATABASE postgres TO quiet;
             REVOKE EXECUTE ON FUNCTION pg_notify(text, text) FROM public",
        )
        .await;
    let quiet = dsn(&postgres, "quiet", "postgres");
    Cluster::on(postgres, 2, &[("DATABASE_URL", &quiet)]).await
}

#[tokio::test]
async fn when_notifications_are_cut_only_latency_suffers() {
    let cluster = quiet().await;
    for round in 0..3 {
        let http = cluster.http(1);
        let waiting = tokio::spawn(async move { pull(&http, "q", 1, 20_000).await });
        let id = push(&cluster.http(0), "q", json!(round)).await;
        let jobs = waiting.await.unwrap();
        assert_eq!(jobs[0]["id"], id);
        assert!(ack(&cluster.http(0), &jobs[0]).await < 300);
    }
}

#[tokio::test]
async fn a_worker_learns_that_its_lease_is_lost_when_notifications_are_cut() {
    let cluster = quiet().await;
    // One of them is on the node that does not take the leases away.
    for node in &cluster.nodes {
        let client = node.client().await;
        client.push_batch(vec![NewJob::new("q", "1"), NewJob::new("q", "2")]).await.unwrap();
        let jobs = client.pull(PullOptions::new("q").count(2)).await.unwrap();
        let cancel = format!("/v1/jobs/{}/cancel", jobs[0].id.0);
        assert_eq!(node.http().post(&cancel, json!({ "grace_ms": 1 })).await.status, 202);
        jobs[0].lost().await;
        assert!(!jobs[1].is_lost(), "it was given with the other one");
        client.ack_batch(jobs.into_iter().skip(1)).await.unwrap();
    }
    eventually("no lease is left", || async {
        let sql = "SELECT count(*) FROM batonq.lease";
        (cluster.postgres.value(sql).await == "0").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_transaction_pooler_is_refused_unless_there_is_a_way_around_it() {
    let postgres = Postgres::start();
    let pooler = Pooler::before(&postgres);
    let log = refused(&pooler.dsn(), &[]);
    assert!(log.contains("pooler") && log.contains("BATONQ_DIRECT_DATABASE_URL"), "{log}");
    let log = refused(&pooler.dsn(), &[("BATONQ_DIRECT_DATABASE_URL", &pooler.dsn())]);
    assert!(log.contains("BATONQ_DIRECT_DATABASE_URL: leads through a pooler"), "{log}");
    let node = Server::with()
        .env("DATABASE_URL", &pooler.dsn())
        .env("BATONQ_DIRECT_DATABASE_URL", &postgres.dsn())
        .start();
    is_ready(&node).await;
    push(&node.http(), "q", json!(1)).await;
}

#[tokio::test]
async fn the_way_to_postgres_is_as_safe_as_it_was_asked_for() {
    let postgres = Postgres::with_tls();
    let (port, root) = (postgres.address().port(), postgres.certificate());
    let root = root.display();
    let certified = |host: &str, mode: &str| {
        format!("postgres://postgres@{host}:{port}/postgres?sslmode={mode}&sslrootcert={root}")
    };
    let plain = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    for dsn in [
        plain.clone(),
        format!("{plain}?sslmode=require"),
        certified("127.0.0.1", "verify-ca"),
        certified("localhost", "verify-full"),
        format!(
            "host=localhost port={port} user=postgres dbname=postgres sslmode=verify-full \
                 sslrootcert={root}"
        ),
    ] {
        let node = Server::with().env("DATABASE_URL", &dsn).start();
        is_ready(&node).await;
    }
    let log = refused(&format!("{plain}?sslmode=disable"), &[]);
    assert!(log.contains("no encryption"), "{log}");
    // A certificate that can not be trusted may be replaced: it is waited for.
    let node = Server::with().env("DATABASE_URL", &certified("127.0.0.1", "verify-full")).start();
    eventually("it says why it waits", || async {
        let reason = node.http().get("/health/ready").await.json()["reason"].to_string();
        reason.contains("certificate").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_whose_clock_is_an_hour_off_treats_jobs_like_all_others() {
    let mut cluster = Cluster::of(1).await;
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
    assert!(std::path::Path::new(library).exists(), "install the package faketime");
    for (name, offset) in [("fast", "+3600"), ("slow", "-3600")] {
        let node = cluster
            .builder(cluster.nodes.len() + 1)
            .env("NODE_ID", name)
            .env("LD_PRELOAD", library)
            .env("FAKETIME", offset)
            .env("DONT_FAKE_MONOTONIC", "1")
            .start();
        cluster.nodes.push(node);
    }
    cluster.ready().await;
    for (place, queue) in [(0, "q-0"), (1, "q-1"), (2, "q-2")] {
        let http = cluster.http(place);
        let delayed = json!({"payload": 1, "delay_ms": 1000});
        http.post(&format!("/v1/queues/{queue}/jobs"), delayed).await;
        assert!(pull(&http, queue, 1, 0).await.is_empty(), "not before its time");
        let started = tokio::time::Instant::now();
        let jobs = pull(&http, queue, 1, 15_000).await;
        assert_eq!(jobs.len(), 1, "{}", cluster.nodes[place].log());
        assert!(started.elapsed() < Duration::from_secs(5));
        assert!(ack(&cluster.http(0), &jobs[0]).await < 300);
    }
    // What they say of the time is the database's, too.
    let nodes = cluster.nodes_seen_by(1).await;
    let hours: HashSet<String> = nodes["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["last_heartbeat"].as_str().unwrap()[..13].to_owned())
        .collect();
    assert!(hours.len() <= 2, "{nodes}");
}

#[tokio::test]
async fn the_leader_keeps_the_hot_tables_small() {
    let cluster = Cluster::of(1).await;
    let client = cluster.nodes[0].client().await;
    for _ in 0..25 {
        // Those with a time limit have rows of their own.
        let new = NewJob::new("q", "{}").timeout(Duration::from_secs(60));
        let pushed = client.push_batch(vec![new; 1000]).await.unwrap();
        assert!(pushed.iter().all(Result::is_ok));
        let jobs = client.pull(PullOptions::new("q").count(1000)).await.unwrap();
        client.ack_batch(jobs.iter().map(Ack::from)).await.unwrap();
    }
    vacuumed(&cluster, "job").await;
}

#[tokio::test]
async fn somebody_at_work_on_one_hot_table_does_not_keep_the_leader_from_the_others() {
    let cluster = Cluster::of(1).await;
    let other = cluster.postgres.client().await;
    let lock = "BEGIN; LOCK TABLE batonq.lease IN SHARE UPDATE EXCLUSIVE MODE";
    other.batch_execute(lock).await.unwrap();
    // What is rolled back is dead.
    let dead = "BEGIN;
        INSERT INTO batonq.lease
        SELECT n, 'none', 0, '', NULL, 0, 0, '{}', '{}' FROM generate_series(1, 60000) AS n;
        INSERT INTO batonq.ready (queue_id, place, job_id, priority, delivery, bytes, ready_at)
        SELECT 0, n, n, 0, 1, 0, 0 FROM generate_series(1, 30000) AS n;
        ROLLBACK";
    cluster.postgres.client().await.batch_execute(dead).await.unwrap();
    vacuumed(&cluster, "ready").await;
    other.batch_execute("ROLLBACK").await.unwrap();
    vacuumed(&cluster, "lease").await;
}

async fn vacuumed(cluster: &Cluster, table: &str) {
    let vacuums = format!(
        "SELECT vacuum_count FROM pg_stat_all_tables
         WHERE schemaname = 'batonq' AND relname = '{table}'"
    );
    let is_vacuumed = async || (cluster.postgres.value(&vacuums).await != "0").then_some(());
    eventually(&format!("a vacuum of {table}"), is_vacuumed).await;
}
