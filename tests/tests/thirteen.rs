//! What the only public attempt at such a cluster got wrong, one test for each defect.

#![allow(clippy::unwrap_used, reason = "everything here is a test, which fails by panicking")]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use batonq_client::{NewJob, PullOptions, Schedule};
use batonq_tests::harness::cluster::{ack, is_ready, pull, push};
use batonq_tests::harness::{Cluster, Postgres, SOON, Server, eventually};
use serde_json::json;

/// Ends sessions of a node's connections whose name ends like this. Their number.
async fn terminate(postgres: &Postgres, name: &str) -> u32 {
    let sql = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE application_name LIKE 'batonq/%/{name}'"
    );
    postgres.value(&sql).await.parse().unwrap()
}

async fn epoch(cluster: &Cluster) -> u64 {
    cluster.postgres.value("SELECT epoch FROM batonq.leader").await.parse().unwrap()
}

#[tokio::test]
async fn defect_1_the_leader_loses_its_lock_when_the_pool_churns() {
    let cluster = Cluster::of(2).await;
    let leader = cluster.leader().await;
    for round in 0..30 {
        push(&cluster.http(round % 2), "q", json!(round)).await;
        cluster.http(leader).get("/v1/queues").await;
        terminate(&cluster.postgres, "pool").await;
        // A request may meet the end of its connection; the next one gets a new one.
        eventually("the node goes on", || async {
            (cluster.http(leader).get("/v1/queues").await.status == 200).then_some(())
        })
        .await;
    }
    assert_eq!((cluster.leader().await, epoch(&cluster).await), (leader, 1));
}

#[tokio::test]
async fn defect_2_a_lost_lock_goes_unnoticed_and_nothing_fences_the_old_leader() {
    let cluster = Cluster::of(2).await;
    for round in 1..=5_u64 {
        assert!(terminate(&cluster.postgres, "election").await >= 1);
        eventually("another term", || async { (epoch(&cluster).await > round).then_some(()) })
            .await;
        cluster.leader().await;
    }
    let sql = "SELECT count(DISTINCT epoch) - count(DISTINCT token) FROM batonq.audit";
    assert_eq!(cluster.postgres.value(sql).await, "0");
}

#[tokio::test]
async fn defect_3_two_installs_in_one_database_share_a_lock() {
    let postgres = Arc::new(Postgres::start());
    let one = Cluster::on(Arc::clone(&postgres), 1, &[("BATONQ_SCHEMA", "one")]).await;
    let two = Cluster::on(postgres, 1, &[("BATONQ_SCHEMA", "two")]).await;
    push(&one.http(0), "q", json!(1)).await;
    assert!(pull(&two.http(0), "q", 1, 0).await.is_empty());
    assert_eq!((one.leader().await, two.leader().await), (0, 0));
}

#[tokio::test]
async fn defect_4_a_job_that_was_pulled_through_a_follower_never_times_out() {
    let cluster = Cluster::of(2).await;
    let follower = 1 - cluster.leader().await;
    let body =
        json!({"payload": 1, "timeout_ms": 1000, "backoff": {"type": "fixed", "delay_ms": 0}});
    cluster.http(follower).post("/v1/queues/q/jobs", body).await;
    let client = cluster.nodes[follower].client().await;
    let held = client.pull(PullOptions::new("q")).await.unwrap();
    let jobs = pull(&cluster.http(follower), "q", 1, 15_000).await;
    assert_eq!(jobs[0]["attempt"], 2, "its attempt was charged");
    assert!(client.ack(&held[0]).await.is_err());
}

#[tokio::test]
async fn defect_5_an_ack_on_another_node_finds_no_job() {
    let cluster = Cluster::of(2).await;
    push(&cluster.http(0), "q", json!(1)).await;
    let jobs = pull(&cluster.http(0), "q", 1, 0).await;
    assert!(ack(&cluster.http(1), &jobs[0]).await < 300);
}

#[tokio::test]
async fn defect_6_a_schedule_that_was_made_on_a_follower_never_fires() {
    let cluster = Cluster::of(2).await;
    let leader = cluster.leader().await;
    let follower = cluster.nodes[1 - leader].client().await;
    let schedule = Schedule::new("tick", "* * * * * *", NewJob::new("q", "1"));
    follower.put_schedule(schedule).await.unwrap();
    assert_eq!(pull(&cluster.http(1 - leader), "q", 1, 15_000).await.len(), 1);
    let sql = "SELECT DISTINCT node FROM batonq.audit WHERE duty = 'cron'";
    assert_eq!(cluster.postgres.value(sql).await, format!("n{}", leader + 1), "the leader fired");
}

#[tokio::test]
async fn defect_7_a_starting_node_takes_the_jobs_of_others_and_a_dead_one_leaves_orphans() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.nodes[0].client().await;
    let all: Vec<NewJob> = (0..300).map(|number| NewJob::new("q", number.to_string())).collect();
    let ids: HashSet<u64> = client
        .push_batch(all)
        .await
        .unwrap()
        .into_iter()
        .map(|pushed| pushed.unwrap().id.0)
        .collect();
    let held = client.pull(PullOptions::new("q").count(100)).await.unwrap();
    assert_eq!(held.len(), 100);
    let mut seen: HashSet<u64> = held.iter().map(|job| job.id.0).collect();
    // It starts while a third of the jobs is leased.
    cluster.grow().await;
    for place in [3, 1, 2, 3] {
        for job in pull(&cluster.http(place), "q", 50, 0).await {
            assert!(seen.insert(job["id"].as_u64().unwrap()), "handed out twice: {job}");
            assert!(ack(&cluster.http(3), &job).await < 300);
        }
    }
    assert_eq!(seen, ids);
    cluster.nodes[0].kill();
    drop(client);
    let mut orphans = 0;
    while orphans < 100 {
        let jobs = pull(&cluster.http(3), "q", 100, 20_000).await;
        assert!(!jobs.is_empty(), "{orphans} of 100 came back");
        orphans += jobs.len();
    }
    assert_eq!(orphans, 100);
}

#[tokio::test]
async fn defect_8_http_and_tcp_hand_out_the_same_job() {
    let cluster = Cluster::of(3).await;
    let all: Vec<NewJob> = (0..600).map(|number| NewJob::new("q", number.to_string())).collect();
    cluster.nodes[0].client().await.push_batch(all).await.unwrap();
    let mut pulls = tokio::task::JoinSet::new();
    for place in 0..3 {
        let (http, client) = (cluster.http(place), cluster.nodes[place].client().await);
        pulls.spawn(async move {
            let mut got = Vec::new();
            loop {
                let jobs = pull(&http, "q", 10, 0).await;
                if jobs.is_empty() {
                    return got;
                }
                got.extend(jobs.iter().map(|job| job["id"].as_u64().unwrap()));
            }
        });
        pulls.spawn(async move {
            let mut got = Vec::new();
            loop {
                let jobs = client.pull(PullOptions::new("q").count(10)).await.unwrap();
                if jobs.is_empty() {
                    // The client holds what it has pulled until it is dropped.
                    std::mem::forget(client);
                    return got;
                }
                got.extend(jobs.iter().map(|job| job.id.0));
            }
        });
    }
    let all: Vec<u64> = pulls.join_all().await.into_iter().flatten().collect();
    let distinct: HashSet<u64> = all.iter().copied().collect();
    assert_eq!((all.len(), distinct.len()), (600, 600));
}

#[tokio::test]
async fn defect_9_a_starting_node_resets_the_numbers() {
    let mut cluster = Cluster::of(1).await;
    let http = cluster.http(0);
    let pushing = tokio::spawn(async move {
        let mut ids = Vec::new();
        for number in 0..400 {
            ids.push(push(&http, "q", json!(number)).await);
        }
        ids
    });
    cluster.grow().await;
    cluster.grow().await;
    let mut ids = pushing.await.unwrap();
    ids.push(push(&cluster.http(1), "q", json!(1)).await);
    assert!(ids.is_sorted_by(|a, b| a < b), "numbers only rise");
}

#[tokio::test]
async fn defect_10_a_node_without_its_database_runs_without_it() {
    let postgres = Postgres::start();
    postgres.stop("fast");
    let node = Server::with().env("DATABASE_URL", &postgres.dsn()).start();
    let http = node.http();
    assert_eq!(http.get("/health/live").await.status, 200);
    let ready = http.get("/health/ready").await;
    assert_eq!((ready.status, &ready.json()["status"]), (503, &json!("degraded")));
    let refused = http.post("/v1/queues/q/jobs", json!({"payload": 1})).await;
    assert_eq!(refused.problem(), (503, "UNAVAILABLE".into()));
    assert_eq!(refused.json()["retryable"], true);
    eventually("it says what it waits for", || async {
        node.log().contains("waiting for postgres").then_some(())
    })
    .await;
    postgres.resume();
    is_ready(&node).await;
    push(&http, "q", json!(1)).await;
}

#[tokio::test]
async fn defect_11_health_is_always_healthy() {
    let cluster = Cluster::of(2).await;
    cluster.postgres.stop("fast");
    for place in 0..2 {
        let http = cluster.http(place);
        eventually("it knows", || async {
            let health = http.get("/health").await;
            (health.status == 200 && health.json()["status"] == "degraded").then_some(())
        })
        .await;
        assert_eq!(http.get("/health/live").await.status, 200);
        let ready = http.get("/health/ready").await;
        assert_eq!(ready.status, 503);
        assert!(!ready.json()["reason"].is_null(), "{}", ready.text);
        let pushed = http.post("/v1/queues/q/jobs", json!({"payload": 1})).await;
        assert_eq!(pushed.problem(), (503, "UNAVAILABLE".into()));
    }
    cluster.postgres.resume();
    cluster.ready().await;
    push(&cluster.http(0), "q", json!(1)).await;
}

#[tokio::test]
async fn defect_12_a_push_is_answered_before_it_is_stored() {
    let postgres = Arc::new(Postgres::start_with(&[]));
    let mut cluster = Cluster::on(postgres, 1, &[]).await;
    let mut ids = Vec::new();
    for round in 0..3 {
        ids.push(push(&cluster.http(0), "q", json!(round)).await);
        cluster.nodes[0].kill();
        cluster.postgres.kill();
        cluster.postgres.resume();
        cluster.nodes[0].resume();
        cluster.ready().await;
    }
    let jobs = pull(&cluster.http(0), "q", 10, 0).await;
    let found: Vec<u64> = jobs.iter().map(|job| job["id"].as_u64().unwrap()).collect();
    assert_eq!(found, ids);
}

/// Over all connections of all nodes. Statements of the test itself are few.
async fn transactions(postgres: &Postgres) -> u64 {
    let sql = "SELECT sum(xact_commit + xact_rollback)::bigint FROM pg_stat_database";
    postgres.value(sql).await.parse().unwrap()
}

#[tokio::test]
async fn defect_13_each_waiting_client_polls_the_database() {
    let cluster = Cluster::of(3).await;
    let mut clients = Vec::new();
    let mut pulls = tokio::task::JoinSet::new();
    for place in 0..12 {
        clients.push(cluster.nodes[place % 3].client().await);
    }
    for number in 0..1000 {
        let client = clients[number % 12].clone();
        let queue = format!("q-{number}");
        pulls.spawn(async move {
            client.pull(PullOptions::new(queue).wait(Duration::from_secs(50))).await
        });
    }
    eventually("all of them wait", || async {
        let mut waiting = 0;
        for place in 0..3 {
            let metrics = cluster.http(place).get("/metrics").await.text;
            let line = metrics.lines().find(|line| line.starts_with("batonq_waiting_pulls "));
            waiting +=
                line.map_or(0, |line| line["batonq_waiting_pulls ".len()..].parse().unwrap());
        }
        (waiting == 1000).then_some(())
    })
    .await;
    let before = transactions(&cluster.postgres).await;
    // What is measured is a rate, so this must take its time.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let after = transactions(&cluster.postgres).await;
    let per_second = (after - before) / 10;
    // Elections, heartbeats, health and duties of three nodes, and one poll a second each.
    assert!(per_second <= 40, "{per_second} transactions a second");
    let id = push(&cluster.http(0), "q-7", json!(1)).await;
    let first = tokio::time::timeout(SOON, async {
        while let Some(jobs) = pulls.join_next().await {
            let jobs = jobs.unwrap().unwrap();
            if let Some(job) = jobs.first() {
                return job.id.0;
            }
        }
        0
    });
    assert_eq!(first.await.unwrap(), id);
}
