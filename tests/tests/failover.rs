//! A leader that dies, freezes or is cut off is replaced soon, and writes nothing when it returns.
//!
//! Bounds are those of the default profile. They are promises, not measurements: a node that takes
//! longer has broken one.

use std::time::Duration;

use batonq_tests::harness::cluster::{is_ready, pull, push};
use batonq_tests::harness::{Cluster, Cut, eventually};
use serde_json::json;
use tokio::time::Instant;

const CRASH_MAX: Duration = Duration::from_secs(1);
const SILENCE_MAX: Duration = Duration::from_millis(3500);

/// Something for the leader to do all the time: jobs that become due every few milliseconds.
async fn keep_the_leader_busy(cluster: &Cluster, through: usize) -> tokio::task::JoinHandle<()> {
    let http = cluster.http(through);
    tokio::spawn(async move {
        loop {
            let body = json!({"payload": 1, "delay_ms": 50});
            // The node may be the one that is cut off.
            http.try_post("/v1/queues/q/jobs", body).await.ok();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
}

/// What leaders wrote, by token: once another has begun, the one before writes nothing.
async fn assert_one_leader_at_a_time(cluster: &Cluster) {
    // Where a token comes back after another one, its count of blocks is more than one.
    let blocks = "
        SELECT coalesce(max(blocks), 0)
        FROM (
            SELECT token, count(*) AS blocks
            FROM (
                SELECT token, lag(token) OVER (ORDER BY id) IS DISTINCT FROM token AS is_new
                FROM batonq.audit
            ) a
            WHERE is_new
            GROUP BY token
        ) b";
    let most = cluster.postgres.value(blocks).await;
    assert_eq!(most, "1", "a leader wrote after another had begun");
}

#[tokio::test]
async fn a_leader_that_is_killed_is_replaced_within_a_second_twenty_times() {
    let mut cluster = Cluster::of(3).await;
    for round in 0..20 {
        let leader = cluster.leader().await;
        let others = cluster.others(leader);
        let killed = Instant::now();
        cluster.nodes[leader].kill();
        cluster.leader_among(&others).await;
        let took = killed.elapsed();
        assert!(took <= CRASH_MAX, "round {round}: {took:?}");
        cluster.nodes[leader].resume();
        is_ready(&cluster.nodes[leader]).await;
    }
    let epoch: u64 =
        cluster.postgres.value("SELECT epoch FROM batonq.leader").await.parse().unwrap();
    assert_eq!(epoch, 21);
}

#[tokio::test]
async fn a_leader_that_is_frozen_is_replaced_and_writes_nothing_when_it_wakes() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let others = cluster.others(leader);
    let busy = keep_the_leader_busy(&cluster, others[0]).await;
    eventually("duties at work", || async {
        let count = cluster.postgres.value("SELECT count(*) FROM batonq.audit").await;
        (count.parse::<u32>().unwrap() > 3).then_some(())
    })
    .await;
    let frozen = Instant::now();
    cluster.nodes[leader].signal("-STOP");
    let (successor, _) = cluster.leader_among(&others).await;
    assert!(frozen.elapsed() <= SILENCE_MAX, "{:?}", frozen.elapsed());
    let epoch = cluster.postgres.value("SELECT epoch FROM batonq.leader").await;
    cluster.nodes[leader].signal("-CONT");
    eventually("the frozen one knows that it does not lead", || async {
        let health = cluster.http(leader).get("/health").await.json();
        (health["is_leader"] == false && health["status"] == "healthy").then_some(())
    })
    .await;
    assert_eq!(cluster.leader_among(&[successor]).await.0, successor);
    busy.abort();
    assert_eq!(cluster.postgres.value("SELECT epoch FROM batonq.leader").await, epoch);
    assert_one_leader_at_a_time(&cluster).await;
}

async fn a_cut_off_leader_is_replaced(cut: Cut) {
    let cluster = Cluster::of_separable(3).await;
    let leader = cluster.leader().await;
    let others = cluster.others(leader);
    let busy = keep_the_leader_busy(&cluster, others[0]).await;
    let started = Instant::now();
    cluster.ways[leader].cut(cut);
    cluster.leader_among(&others).await;
    assert!(started.elapsed() <= SILENCE_MAX, "{cut:?}: {:?}", started.elapsed());
    eventually("the one that is cut off knows it", || async {
        let health = cluster.http(leader).get("/health").await.json();
        (health["is_leader"] == false && health["status"] == "degraded").then_some(())
    })
    .await;
    assert_eq!(cluster.http(leader).get("/health/live").await.status, 200);
    assert_eq!(cluster.http(leader).get("/health/ready").await.status, 503);
    cluster.ways[leader].mend();
    is_ready(&cluster.nodes[leader]).await;
    busy.abort();
    assert_one_leader_at_a_time(&cluster).await;
}

#[tokio::test]
async fn a_leader_that_is_cut_off_is_replaced() {
    a_cut_off_leader_is_replaced(Cut::Both).await;
}

#[tokio::test]
async fn a_leader_that_hears_nothing_is_replaced() {
    a_cut_off_leader_is_replaced(Cut::Inwards).await;
}

#[tokio::test]
async fn a_leader_that_is_not_heard_is_replaced() {
    a_cut_off_leader_is_replaced(Cut::Outwards).await;
}

#[tokio::test]
async fn the_fast_profile_replaces_a_frozen_leader_within_a_second_and_a_half() {
    let postgres = std::sync::Arc::new(batonq_tests::harness::Postgres::start());
    let cluster = Cluster::on(postgres, 2, &[("BATONQ_LEADER_PROFILE", "fast")]).await;
    let leader = cluster.leader().await;
    let started = Instant::now();
    cluster.nodes[leader].signal("-STOP");
    cluster.leader_among(&cluster.others(leader)).await;
    assert!(started.elapsed() <= Duration::from_millis(1500), "{:?}", started.elapsed());
    cluster.nodes[leader].signal("-CONT");
}

#[tokio::test]
async fn a_leader_that_stops_hands_over_at_once() {
    let mut cluster = Cluster::of(2).await;
    let leader = cluster.leader().await;
    let started = Instant::now();
    cluster.nodes[leader].signal("-TERM");
    cluster.leader_among(&cluster.others(leader)).await;
    assert!(started.elapsed() <= CRASH_MAX, "{:?}", started.elapsed());
    assert_eq!(cluster.nodes[leader].wait(), 0);
}

#[tokio::test]
async fn jobs_of_workers_whose_node_died_go_round_again_in_seconds_and_once() {
    let mut cluster = Cluster::of(2).await;
    let leader = cluster.leader().await;
    let follower = 1 - leader;
    let client = cluster.nodes[follower].client().await;
    let mut pushed = Vec::new();
    for number in 0..20 {
        pushed.push(push(&cluster.http(leader), "q", json!(number)).await);
    }
    let held = client.pull(batonq_client::PullOptions::new("q").count(20)).await.unwrap();
    assert_eq!(held.len(), 20);
    // Node and workers are gone at once: nobody comes back to the leases.
    cluster.nodes[follower].kill();
    drop(client);
    let started = Instant::now();
    let mut again = Vec::new();
    while again.len() < 20 {
        let jobs = pull(&cluster.http(leader), "q", 20, 20_000).await;
        assert!(!jobs.is_empty(), "only {} came back", again.len());
        again.extend(jobs.iter().map(|job| job["id"].as_u64().unwrap()));
    }
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    again.sort_unstable();
    assert_eq!(again, pushed);
    assert!(pull(&cluster.http(leader), "q", 1, 0).await.is_empty());
    let job = cluster.http(leader).get(&format!("/v1/jobs/{}", pushed[0])).await.json();
    assert_eq!((&job["attempts"], &job["crashes"]), (&json!(0), &json!(0)), "nobody is charged");
}

#[tokio::test]
async fn jobs_of_a_worker_that_died_on_a_follower_go_round_again() {
    let cluster = Cluster::of(2).await;
    let leader = cluster.leader().await;
    let follower = 1 - leader;
    push(&cluster.http(leader), "q", json!(1)).await;
    let client = cluster.nodes[follower].client().await;
    assert_eq!(client.pull(batonq_client::PullOptions::new("q")).await.unwrap().len(), 1);
    drop(client);
    let jobs = pull(&cluster.http(leader), "q", 1, 15_000).await;
    assert_eq!(jobs.len(), 1);
    assert_eq!(jobs[0]["delivery"], 2);
}
