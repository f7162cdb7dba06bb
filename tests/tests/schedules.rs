//! Schedules whose leader dies again and again.

use std::time::Duration;

use batonq_client::{Client, Fire, JobFilter, NewJob, Schedule};
use batonq_tests::harness::cluster::is_ready;
use batonq_tests::harness::{Cluster, eventually};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How often the leader dies, and how long it leads before. Ten minutes of it:
/// `BATONQ_LONG=1 cargo nextest run -p batonq-tests --test schedules`.
fn deaths() -> (u32, Duration) {
    match std::env::var_os("BATONQ_LONG") {
        None => (5, Duration::from_secs(8)),
        Some(_) => (30, Duration::from_secs(20)),
    }
}

/// All that became of a schedule, oldest first.
async fn history(client: &Client, name: &str) -> Vec<Fire> {
    let mut fires = client.fires(name, 1000).await.expect("it is there");
    fires.reverse();
    fires
}

/// The jobs of a queue, oldest first.
async fn jobs(client: &Client, queue: &str) -> Vec<u64> {
    let filter = JobFilter { queue: queue.into(), limit: 1000, ..JobFilter::default() };
    let page = client.jobs(filter).await.expect("it can be listed");
    page.jobs.iter().rev().map(|job| job.id).collect()
}

#[tokio::test]
async fn each_second_makes_one_job_in_order_however_often_the_leader_dies() {
    let mut cluster = Cluster::of(3).await;
    let follower = cluster.others(cluster.leader().await)[0];
    let client = cluster.nodes[follower].client().await;
    let rules = [("every", "@every 1s"), ("hands", "* * * * * *")];
    for (name, rule) in rules {
        let schedule = Schedule::new(name, rule, NewJob::new(name, "{}"));
        client.put_schedule(schedule.catch_up_all(1000, DAY)).await.unwrap();
    }
    let (count, leads) = deaths();
    for _ in 0..count {
        let leader = cluster.leader().await;
        tokio::time::sleep(leads).await;
        cluster.nodes[leader].kill();
        cluster.leader_among(&cluster.others(leader)).await;
        cluster.nodes[leader].resume();
        is_ready(&cluster.nodes[leader]).await;
    }
    let client = cluster.nodes[0].client().await;
    for (name, _) in rules {
        let least = count * leads.as_secs() as u32;
        eventually("the last leader fires", async || {
            (history(&client, name).await.len() >= least as usize).then_some(())
        })
        .await;
        client.pause_schedule(name).await.unwrap();
        let (fires, jobs) = (history(&client, name).await, jobs(&client, name).await);
        assert!(fires.iter().all(|fire| (fire.outcome.as_str(), fire.count) == ("fired", 1)));
        assert_eq!(fires.iter().map(|fire| fire.job).collect::<Vec<_>>(), jobs);
        assert!(jobs.is_sorted_by(|one, next| one < next));
        for pair in fires.windows(2) {
            assert_eq!(pair[1].slot_ms - pair[0].slot_ms, 1000, "{pair:?}");
            assert!(pair[0].fired_at_ms <= pair[1].fired_at_ms, "{pair:?}");
        }
        assert!(fires.iter().all(|fire| fire.slot_ms <= fire.fired_at_ms), "none comes early");
    }
}
