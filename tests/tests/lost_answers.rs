//! What is asked again because the answer was lost is done once, wherever on the way from the
//! database the answer was lost: also after the commit.

use std::sync::Arc;

use batonq_tests::harness::cluster::is_ready;
use batonq_tests::harness::{Cluster, Http, Postgres, Reply, Server};
use batonq_verify::field::{Direction, Proxy, Verb};
use serde_json::json;

/// Connections to the database end after so many bytes of its answers: before, within and after
/// those to a push or an ack.
fn places() -> impl Iterator<Item = u64> {
    (0..240).step_by(16)
}

/// A node whose answers from the database can be cut off.
struct Scene {
    cluster: Cluster,
    node: Server,
    way: Proxy,
}

impl Scene {
    async fn new() -> Self {
        let postgres = Arc::new(Postgres::start());
        let cluster = Cluster::on(Arc::clone(&postgres), 0, &[]).await;
        let way = Proxy::to(postgres.address().to_string()).await.expect("a free port");
        let dsn = format!("postgres://postgres@{}/postgres", way.address());
        let builder = cluster.builder(1).env("DATABASE_URL", &dsn);
        let node = builder.env("BATONQ_RECONNECT_GRACE", "100ms").start();
        is_ready(&node).await;
        Self { cluster, node, way }
    }

    fn http(&self) -> Http {
        self.node.http()
    }

    /// Asks once while answers are cut off after so many bytes, and then until there is an answer.
    /// That answer, and how often was asked.
    async fn insist(&self, place: u64, ask: impl AsyncFn() -> Reply) -> (Reply, u32) {
        self.way.set(Verb::CutAfter(Direction::ToClient, place));
        let mut reply = ask().await;
        self.way.set(Verb::Pass);
        let mut asked = 1;
        // Nothing was done, or nobody knows.
        while reply.status >= 500 {
            is_ready(&self.node).await;
            reply = ask().await;
            asked += 1;
        }
        (reply, asked)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_one_job() {
    let scene = Scene::new().await;
    let mut asked_again = 0;
    for place in places() {
        let body = json!({ "payload": place, "idempotency_key": format!("push-{place}") });
        let ask = async || scene.http().post("/v1/queues/pushed/jobs", body.clone()).await;
        let (reply, asked) = scene.insist(place, ask).await;
        assert!([200, 201].contains(&reply.status), "{place}: {}", reply.text);
        asked_again += asked - 1;
    }
    let jobs = scene.cluster.postgres.value("SELECT count(*)::text FROM batonq.job").await;
    assert_eq!(jobs, places().count().to_string());
    assert!(asked_again > 0, "no answer was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_completes_its_job_once() {
    let scene = Scene::new().await;
    let mut asked_again = 0;
    for place in places() {
        let pushed = scene.http().post("/v1/queues/acked/jobs", json!({ "payload": place })).await;
        assert_eq!(pushed.status, 201, "{}", pushed.text);
        let pull = json!({ "count": 1, "wait_ms": 5_000, "lease_ms": 600_000 });
        let pulled = scene.http().post("/v1/queues/acked/pull", pull).await.json();
        let job = &pulled["jobs"][0];
        let path = format!("/v1/jobs/{}/ack", job["id"]);
        let ack = json!({ "lease": job["lease"] });
        let ask = async || scene.http().post(&path, ack.clone()).await;
        // Who acks again what is acked is not told that the lease is lost.
        let (reply, asked) = scene.insist(place, ask).await;
        assert!([200, 204].contains(&reply.status), "{place}: {}", reply.text);
        let seen = scene.http().get(&format!("/v1/jobs/{}", job["id"])).await.json();
        assert_eq!(
            (&seen["state"], &seen["deliveries"]),
            (&json!("completed"), &json!(1)),
            "{seen}"
        );
        asked_again += asked - 1;
    }
    assert!(asked_again > 0, "no answer was lost");
}
