//! Limits, fair shares and cancelling over several nodes, as their users were promised them.

use std::collections::HashMap;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use batonq_client::{Client, Failure, JobContext, NewJob, PullOptions, Worker};
use batonq_tests::harness::cluster::is_ready;
use batonq_tests::harness::{Cluster, Http, Postgres, Server, batonq, eventually};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

async fn push_all(client: &Client, jobs: impl Iterator<Item = NewJob>) {
    let jobs: Vec<NewJob> = jobs.collect();
    for part in jobs.chunks(1000) {
        for pushed in client.push_batch(part.to_vec()).await.expect("it is stored") {
            pushed.expect("it is valid");
        }
    }
}

async fn count(http: &Http, queue: &str, state: &str) -> u64 {
    let queue = http.get(&format!("/v1/queues/{queue}")).await.json();
    queue["counts"][state].as_u64().expect("a number")
}

/// Live leases: who holds them, and how often their jobs have lost workers.
const HELD: &str = "
    SELECT l.worker, j.crashes
    FROM batonq.lease l
    CROSS JOIN LATERAL unnest(l.job_ids, l.deliveries) AS u (job_id, delivery)
    JOIN batonq.live_job j ON j.id = u.job_id AND j.delivery = u.delivery";

/// Looks at the live leases in a tight loop. How many there were at once at most, and how often
/// it has looked.
async fn watch_leases(postgres: Arc<Postgres>, mut stop: oneshot::Receiver<()>) -> (usize, usize) {
    let session = postgres.client().await;
    let held = session.prepare(HELD).await.expect("the tables are there");
    let (mut most, mut looks) = (0, 0);
    while stop.try_recv().is_err() {
        most = most.max(session.query(&held, &[]).await.expect("it answers").len());
        looks += 1;
    }
    (most, looks)
}

/// Worker processes, by number.
struct Crew {
    url: String,
    workers: HashMap<u32, Child>,
}

impl Crew {
    fn hire(&mut self) {
        let mut work = batonq();
        work.args(["work", "q", "--exec", "sleep 0.1"]).env("BATONQ_URL", &self.url);
        let work = work.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let work = work.expect("the program starts");
        self.workers.insert(work.id(), work);
    }

    /// Kills one that works on a job that has not lost a worker yet, hires another one, and waits
    /// until the job is taken from the dead.
    async fn replace_one(&mut self, postgres: &Postgres) {
        let session = postgres.client().await;
        let held = async || session.query(HELD, &[]).await.expect("it answers");
        let victim = eventually("somebody works", async || {
            let held = held().await;
            let fresh = held.iter().find(|row| row.get::<_, i32>("crashes") == 0)?;
            Some(fresh.get::<_, String>("worker"))
        })
        .await;
        let number = victim.rsplit('-').next().and_then(|end| end.parse().ok());
        let worker = number.and_then(|number| self.workers.remove(&number));
        dismiss(&mut worker.expect("it is one of ours"));
        self.hire();
        eventually("the dead holds nothing", async || {
            let held = held().await;
            held.iter().all(|row| row.get::<_, &str>("worker") != victim).then_some(())
        })
        .await;
    }
}

fn dismiss(worker: &mut Child) {
    worker.kill().expect("it can be killed");
    worker.wait().expect("it has ended");
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.workers.values_mut().for_each(dismiss);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_never_has_more_leases_than_it_may_while_workers_and_a_node_are_killed() {
    let settings = [("BATONQ_RECONNECT_GRACE", "500ms")];
    let mut cluster = Cluster::on(Arc::new(Postgres::start()), 3, &settings).await;
    let addresses: Vec<String> = cluster.nodes.iter().map(|node| node.tcp.to_string()).collect();
    let mut crew = Crew { url: format!("tcp://{}", addresses.join(",")), workers: HashMap::new() };
    let jobs = (0..200).map(|number| NewJob::new("q", number.to_string()).concurrency("key", 3));
    push_all(&cluster.nodes[0].client().await, jobs).await;
    let (stop, stopped) = oneshot::channel();
    let watch = tokio::spawn(watch_leases(Arc::clone(&cluster.postgres), stopped));
    (0..9).for_each(|_| crew.hire());
    for _ in 0..3 {
        crew.replace_one(&cluster.postgres).await;
    }
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill();
    for _ in 0..2 {
        crew.replace_one(&cluster.postgres).await;
    }
    cluster.nodes[leader].resume();
    is_ready(&cluster.nodes[leader]).await;
    crew.replace_one(&cluster.postgres).await;
    let http = cluster.http(leader);
    eventually("all are completed", async || {
        (count(&http, "q", "completed").await == 200).then_some(())
    })
    .await;
    stop.send(()).expect("it watches");
    let (most, looks) = watch.await.unwrap();
    assert_eq!(most, 3, "seen in {looks} looks");
    assert!(looks > 1000, "{looks}");
    assert_eq!(http.get("/v1/queues/q/keys").await.json()["keys"], json!([]));
}

/// When the leases of a queue's finished jobs began, by the database's clock.
async fn starts(postgres: &Postgres, queue: &str) -> Vec<i64> {
    let sql = "
        SELECT f.started_at
        FROM (
            SELECT queue_id, started_at FROM batonq.finished
            UNION ALL
            SELECT queue_id, started_at FROM batonq.completed_job
        ) f
        JOIN batonq.queue q ON q.id = f.queue_id
        WHERE q.name = $1
        ORDER BY f.started_at";
    let rows = postgres.client().await.query(sql, &[&queue]).await.expect("it answers");
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept_by_three_nodes_together_and_used_up() {
    let cluster = Cluster::of(3).await;
    let rule = json!({ "limit": 10, "per_ms": 1000, "burst": 1 });
    let client = cluster.nodes[0].client().await;
    client.set_settings("queue", &json!({ "rate": rule })).await.unwrap();
    push_all(&client, (0..400).map(|_| NewJob::new("queue", "1"))).await;
    let mut rate = rule.clone();
    rate["key"] = "api".into();
    let jobs = vec![json!({ "payload": 1, "rate": rate }); 400];
    let pushed = cluster.http(1).post("/v1/queues/key/jobs/batch", json!({ "jobs": jobs })).await;
    assert_eq!(pushed.status, 200, "{}", pushed.text);
    let mut workers = tokio::task::JoinSet::new();
    for queue in ["queue", "key"] {
        for node in &cluster.nodes {
            let worker = Worker::new(node.client().await, queue);
            workers.spawn(worker.run(|_: JobContext| async { Ok(()) }));
        }
    }
    tokio::time::sleep(Duration::from_secs(22)).await;
    workers.shutdown().await;
    for queue in ["queue", "key"] {
        let starts = starts(&cluster.postgres, queue).await;
        let last = starts.last().expect("jobs were done");
        let windows: Vec<usize> = starts
            .iter()
            .filter(|start| *start + 10_000 <= *last)
            .map(|from| starts.iter().filter(|at| (*from..from + 10_000).contains(*at)).count())
            .collect();
        assert!(windows.len() > 90, "{queue}: {} windows", windows.len());
        let range = (windows.iter().min().unwrap(), windows.iter().max().unwrap());
        assert!(*range.0 >= 95 && *range.1 <= 105, "{queue}: {range:?} jobs in ten seconds");
    }
}

const SMALL: usize = 50;

/// How many jobs of the large tenant were given out when those of all small ones were done.
async fn given_out_meanwhile(node: &Server) -> usize {
    let client = node.client().await;
    push_all(&client, (0..100_000).map(|_| NewJob::new("q", "\"large\"").fair_share("large")))
        .await;
    let small = |number: usize| {
        let key = format!("small-{}", number % SMALL);
        NewJob::new("q", "\"small\"").fair_share(key)
    };
    push_all(&client, (0..SMALL * 10).map(small)).await;
    let (mut large, mut left) = (0, SMALL * 10);
    while left > 0 {
        let jobs = client.pull(PullOptions::new("q").count(100)).await.expect("there are more");
        let small = jobs.iter().filter(|job| &job.payload[..] == b"\"small\"").count();
        left -= small;
        large += jobs.len() - small;
        client.ack_batch(jobs).await.expect("it is settled");
    }
    large
}

#[tokio::test]
async fn small_tenants_do_not_wait_for_a_large_one_on_an_embedded_store() {
    let large = given_out_meanwhile(&Server::start()).await;
    assert!(large * 20 <= 100_500, "{large} jobs of the large tenant came first");
}

#[tokio::test]
async fn small_tenants_do_not_wait_for_a_large_one_in_a_cluster() {
    let cluster = Cluster::of(2).await;
    let large = given_out_meanwhile(&cluster.nodes[0]).await;
    assert!(large * 20 <= 100_500, "{large} jobs of the large tenant came first");
}

/// A job at work on one of two nodes whose end the other one is asked for. What the handler says.
async fn cancelled_at_work(obeys: bool) -> (Cluster, mpsc::UnboundedReceiver<&'static str>, u64) {
    let cluster = Cluster::of(2).await;
    let client = cluster.nodes[0].client().await;
    let id = client.push(NewJob::new("q", "{}")).await.expect("it is stored").id.0;
    let (say, mut said) = mpsc::unbounded_channel();
    let handler = move |job: JobContext| {
        let say = say.clone();
        async move {
            say.send("begun").expect("the test listens");
            job.cancel_requested().await;
            assert!(job.is_cancel_requested() && job.is_aborted());
            say.send("asked").expect("the test listens");
            if !obeys {
                job.lost().await;
                say.send("lost").expect("the test listens");
            }
            Err::<(), _>(Failure::new("STOPPED", "as you wish"))
        }
    };
    tokio::spawn(Worker::new(client, "q").run(handler));
    assert_eq!(said.recv().await, Some("begun"));
    cancel(&cluster.http(1), id, 60_000).await;
    assert_eq!(said.recv().await, Some("asked"));
    (cluster, said, id)
}

/// Asks for the end of a leased job. When it will be forced.
async fn cancel(http: &Http, id: u64, grace_ms: u64) -> Value {
    let path = format!("/v1/jobs/{id}/cancel");
    let answer = http.post(&path, json!({ "grace_ms": grace_ms })).await;
    assert_eq!((answer.status, &answer.json()["state"]), (202, &json!("leased")));
    answer.json()["force_at"].clone()
}

async fn ended(http: &Http, id: u64) -> (Value, Value) {
    let job = http.get(&format!("/v1/jobs/{id}/wait?timeout_ms=20000")).await.json();
    let timeline = http.get(&format!("/v1/jobs/{id}/timeline")).await.json();
    (job, timeline["attempts"][0]["ending"].clone())
}

#[tokio::test]
async fn a_wish_to_cancel_reaches_a_worker_on_another_node_which_ends_the_job() {
    let (cluster, _said, id) = cancelled_at_work(true).await;
    let (job, ending) = ended(&cluster.http(1), id).await;
    assert_eq!((&job["state"], &job["attempts"]), (&json!("cancelled"), &json!(1)), "{job}");
    assert_eq!(ending, "failed");
}

#[tokio::test]
async fn a_worker_that_does_not_heed_a_wish_to_cancel_loses_the_job_after_the_grace() {
    let (cluster, mut said, id) = cancelled_at_work(false).await;
    let http = cluster.http(1);
    let shown = http.get(&format!("/v1/jobs/{id}")).await.json();
    assert_eq!(shown["state"], "leased");
    assert!(shown["cancel"]["requested_at"].is_string(), "{shown}");
    let force_at = cancel(&http, id, 500).await;
    assert!(force_at.as_str() < shown["cancel"]["force_at"].as_str(), "it can be shortened");
    assert_eq!(said.recv().await, Some("lost"));
    let (job, ending) = ended(&http, id).await;
    assert_eq!((&job["state"], ending), (&json!("cancelled"), json!("cancelled")), "{job}");
    assert!(job["finished_at"].as_str() >= force_at.as_str(), "{job} {force_at}");
}
