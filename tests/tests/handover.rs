//! Jobs that are handed to those who wait as they are pushed: what users see of it is that nothing
//! is out of order, given twice, or lost.

use std::collections::HashSet;
use std::time::Duration;

use batonq_client::{Client, Job, JobId, NewJob, PullOptions, Subscription};
use batonq_tests::harness::cluster::{self, Cluster};
use batonq_tests::harness::eventually;

/// Long enough for anything; what is awaited comes at once.
const LONG: Duration = Duration::from_secs(20);

async fn push(client: &Client, priorities: &[i32]) -> Vec<JobId> {
    let job = |priority: &i32| NewJob::new("q", "{}").priority(*priority);
    let pushed =
        client.push_batch(priorities.iter().map(job).collect()).await.expect("they are stored");
    pushed.into_iter().map(|pushed| pushed.expect("it is stored").id).collect()
}

async fn next(subscription: &mut Subscription) -> Job {
    let job = tokio::time::timeout(LONG, subscription.next()).await.expect("a job comes");
    job.expect("the subscription goes on")
}

#[tokio::test]
async fn a_job_that_somebody_waits_for_stands_in_no_line() {
    let cluster = Cluster::of(1).await;
    let client = cluster.nodes[0].client().await;
    let mut subscription = client.subscribe("q", 4).await.unwrap();
    // Behind the first one the line is clear.
    push(&client, &[0]).await;
    client.ack(&next(&mut subscription).await).await.unwrap();
    cluster.postgres.execute("ALTER TABLE batonq.ready ADD CHECK (false) NOT VALID").await;
    for _ in 0..3 {
        let ids = push(&client, &[0, 0]).await;
        for id in ids {
            let job = next(&mut subscription).await;
            assert_eq!(job.id, id);
            client.ack(&job).await.unwrap();
        }
    }
    assert_eq!(client.queue("q").await.unwrap().completed, 7);
}

/// Stops claims while somebody holds the lock (7, 7), and counts the jobs that stand in line.
const STOPPING: &str = "
    CREATE SEQUENCE public.stood MINVALUE 0 START 0;
    CREATE FUNCTION public.stop() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared(7, 7);
        RETURN OLD;
    END $$;
    CREATE FUNCTION public.stand() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM nextval('public.stood');
        RETURN NEW;
    END $$;
    CREATE TRIGGER stop BEFORE DELETE ON batonq.ready
    FOR EACH ROW EXECUTE FUNCTION public.stop();
    CREATE TRIGGER stand BEFORE INSERT ON batonq.ready
    FOR EACH ROW EXECUTE FUNCTION public.stand()";

/// A look of the node, once a second, may fall into one of them: then pushes stand in line.
const ROUNDS: usize = 10;

#[tokio::test]
async fn while_a_claim_takes_what_stands_in_line_pushes_are_handed_over_behind_it() {
    let cluster = Cluster::of(1).await;
    let client = cluster.nodes[0].client().await;
    let producers = [cluster.nodes[0].client().await, cluster.nodes[0].client().await];
    let mut subscription = client.subscribe("q", 100).await.unwrap();
    push(&client, &[0]).await;
    client.ack(&next(&mut subscription).await).await.unwrap();
    cluster.postgres.execute(STOPPING).await;
    let stood = || cluster.postgres.value("SELECT nextval('public.stood')");
    for _ in 0..ROUNDS {
        let stop = cluster.postgres.client().await;
        stop.batch_execute("SELECT pg_advisory_lock(7, 7)").await.unwrap();
        // It stands in line when it is due.
        let delayed = NewJob::new("q", "{}").delay(Duration::from_millis(1));
        let mut ids = vec![client.push(delayed).await.unwrap().id];
        eventually("the claim is stopped", || async {
            let sql = "SELECT count(*) FROM pg_locks WHERE objid = 7 AND NOT granted";
            (cluster.postgres.value(sql).await == "1").then_some(())
        })
        .await;
        let before: u64 = stood().await.parse().unwrap();
        for producer in producers.iter().cycle().take(4) {
            ids.extend(push(producer, &[0, 0]).await);
        }
        let after: u64 = stood().await.parse().unwrap();
        stop.batch_execute("SELECT pg_advisory_unlock(7, 7)").await.unwrap();
        for id in ids {
            let job = next(&mut subscription).await;
            assert_eq!(job.id, id);
            client.ack(&job).await.unwrap();
        }
        if after == before + 1 {
            return;
        }
    }
    panic!("beside a claim, pushes stand in line");
}

#[tokio::test]
async fn one_consumer_gets_the_jobs_of_one_producer_in_order_whichever_way_they_come() {
    let cluster = Cluster::of(1).await;
    let (client, producer) = (cluster.nodes[0].client().await, cluster.nodes[0].client().await);
    let mut subscription = client.subscribe("q", 30).await.unwrap();
    let counts = [1, 40, 3, 17, 2, 29, 60, 5];
    let pushing = async {
        let mut ids = Vec::new();
        for count in counts.into_iter().cycle().take(200) {
            ids.extend(push(&producer, &vec![0; count]).await);
        }
        ids
    };
    let count = counts.iter().sum::<usize>() * 200 / counts.len();
    let working = async {
        let mut order = Vec::new();
        while order.len() < count {
            let job = next(&mut subscription).await;
            order.push(job.id);
            client.ack(&job).await.unwrap();
        }
        order
    };
    let (ids, order) = tokio::join!(pushing, working);
    assert_eq!(order, ids);
}

#[tokio::test]
async fn of_one_push_the_highest_priorities_are_handed_over_and_the_rest_follows_in_order() {
    let cluster = Cluster::of(1).await;
    let client = cluster.nodes[0].client().await;
    let mut subscription = client.subscribe("q", 2).await.unwrap();
    for _ in 0..20 {
        let ids = push(&client, &[0, 5, 1, 5, 9]).await;
        let mut order = Vec::new();
        while order.len() < ids.len() {
            let job = next(&mut subscription).await;
            order.push(job.id);
            client.ack(&job).await.unwrap();
        }
        assert_eq!(order, [4, 1, 3, 2, 0].map(|place: usize| ids[place]));
    }
}

#[tokio::test]
async fn what_is_handed_to_one_who_has_gone_comes_to_another() {
    let cluster = Cluster::of(1).await;
    let producer = cluster.nodes[0].client().await;
    for _ in 0..10 {
        let gone = cluster.nodes[0].client().await;
        let subscription = gone.subscribe("q", 100).await.unwrap();
        let pulling = tokio::spawn({
            let client = gone.clone();
            async move { client.pull(PullOptions::new("q").count(3).wait(LONG)).await }
        });
        let (pushed, ()) = tokio::join!(push(&producer, &[0; 20]), async {
            drop(subscription);
            pulling.abort();
            gone.close().await;
        });
        let mut left: HashSet<JobId> = pushed.into_iter().collect();
        let mut subscription = producer.subscribe("q", 100).await.unwrap();
        while !left.is_empty() {
            let job = next(&mut subscription).await;
            assert!(left.remove(&job.id), "job {} again", job.id);
            producer.ack(&job).await.unwrap();
        }
        subscription.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_paused_queue_hands_nothing_over_until_it_is_resumed() {
    let cluster = Cluster::of(1).await;
    let client = cluster.nodes[0].client().await;
    let mut subscription = client.subscribe("q", 10).await.unwrap();
    push(&client, &[0]).await;
    client.ack(&next(&mut subscription).await).await.unwrap();
    client.pause("q").await.unwrap();
    let ids = push(&client, &[0, 0]).await;
    assert_eq!(client.queue("q").await.unwrap().ready, 2);
    client.resume("q").await.unwrap();
    for id in ids {
        assert_eq!(next(&mut subscription).await.id, id);
    }
}

#[tokio::test]
async fn a_long_poll_over_http_is_served_by_the_push_through_another_node() {
    let cluster = Cluster::of(2).await;
    let (here, there) = (cluster.http(0), cluster.http(1));
    for _ in 0..5 {
        let waiting = tokio::spawn({
            let here = here.clone();
            async move { cluster::pull(&here, "q", 1, 20_000).await }
        });
        let id = cluster::push(&there, "q", serde_json::json!(1)).await;
        let jobs = waiting.await.unwrap();
        assert_eq!(jobs[0]["id"], id);
        assert_eq!(cluster::ack(&here, &jobs[0]).await, 200);
    }
}

/// Producers and consumers at two nodes; some consumers leave in the middle of it.
#[tokio::test]
async fn every_job_is_done_once_while_consumers_come_and_go() {
    let cluster = Cluster::of(2).await;
    let producer = cluster.nodes[0].client().await;
    let (first, second) = (cluster.nodes[0].client().await, cluster.nodes[1].client().await);
    let mut steady = first.subscribe("q", 7).await.unwrap();
    let mut other = second.subscribe("q", 5).await.unwrap();
    let mut left = HashSet::new();
    for round in 0..30 {
        left.extend(push(&producer, &[0; 10]).await);
        if round % 3 == 0 {
            let passing = cluster.nodes[round % 2].client().await;
            let subscription = passing.subscribe("q", 9).await.unwrap();
            left.extend(push(&producer, &[0; 10]).await);
            drop(subscription);
            passing.close().await;
        }
    }
    while !left.is_empty() {
        let (client, job) = tokio::select! {
            job = next(&mut steady) => (&first, job),
            job = next(&mut other) => (&second, job),
        };
        assert!(left.remove(&job.id), "job {} again", job.id);
        client.ack(&job).await.unwrap();
    }
    let queue = producer.queue("q").await.unwrap();
    assert_eq!((queue.ready, queue.leased, queue.completed), (0, 0, 400));
}
