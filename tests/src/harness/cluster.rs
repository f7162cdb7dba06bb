//! Nodes that share a Postgres.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::namespace::{self, Namespace};
use super::proxy::{Cut, Proxy};
use super::{Http, Nginx, Postgres, SOON, Server, ServerBuilder, free_port};

/// A Postgres and nodes on it, named n1, n2, …
#[derive(Debug)]
pub struct Cluster {
    /// What they share.
    pub postgres: Arc<Postgres>,
    /// In the order of their names.
    pub nodes: Vec<Server>,
    /// The way of each node to the database, if it can be cut.
    pub ways: Vec<Way>,
    settings: Vec<(String, String)>,
}

/// How a node reaches the database.
#[derive(Debug)]
pub enum Way {
    /// Through a proxy.
    Proxy(Proxy),
    /// Over a wire of its own.
    Namespace(Namespace),
}

impl Way {
    fn database(&self) -> std::net::SocketAddr {
        match self {
            Self::Proxy(proxy) => proxy.address(),
            Self::Namespace(namespace) => namespace.database(),
        }
    }

    /// Nothing passes any more.
    pub fn cut(&self, cut: Cut) {
        match self {
            Self::Proxy(proxy) => proxy.cut(cut),
            Self::Namespace(namespace) => namespace.cut(cut),
        }
    }

    /// Everything passes.
    pub fn mend(&self) {
        match self {
            Self::Proxy(proxy) => proxy.mend(),
            Self::Namespace(namespace) => namespace.mend(),
        }
    }
}

impl Cluster {
    /// So many nodes on a Postgres of their own.
    pub async fn of(count: usize) -> Self {
        Self::on(Arc::new(Postgres::start()), count, &[]).await
    }

    /// Nodes with settings, on a Postgres that is there.
    pub async fn on(postgres: Arc<Postgres>, count: usize, settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let (nodes, ways) = (Vec::new(), Vec::new());
        let mut cluster = Self { postgres, nodes, ways, settings: settings.collect() };
        for number in 1..=count {
            cluster.nodes.push(cluster.builder(number).start());
        }
        cluster.ready().await;
        cluster
    }

    /// Nodes each of which can be cut off from the database: in network namespaces where this
    /// process may make them, behind proxies otherwise.
    pub async fn of_separable(count: usize) -> Self {
        let postgres = Postgres::start_with(&["fsync=off", "listen_addresses=*"]);
        postgres.trust_namespaces();
        let mut cluster = Self::on(Arc::new(postgres), 0, &[]).await;
        let address = cluster.postgres.address();
        for number in 1..=count {
            let builder = cluster.builder(number);
            let (builder, way) = match namespace::are_possible() {
                true => {
                    let namespace = Namespace::new(address.port());
                    (builder.within(&namespace), Way::Namespace(namespace))
                }
                false => (builder, Way::Proxy(Proxy::to(address).await)),
            };
            let dsn = format!("postgres://postgres@{}/postgres", way.database());
            cluster.nodes.push(builder.env("DATABASE_URL", &dsn).start());
            cluster.ways.push(way);
        }
        cluster.ready().await;
        cluster
    }

    /// What node `number` is started with; its ports stay the same over restarts.
    pub fn builder(&self, number: usize) -> ServerBuilder {
        let builder = Server::with()
            .env("DATABASE_URL", &self.postgres.dsn())
            .env("CLUSTER_MODE", "1")
            .env("NODE_ID", &format!("n{number}"))
            .ports(free_port(), free_port());
        let settings = self.settings.iter();
        settings.fold(builder, |builder, (name, value)| builder.env(name, value))
    }

    /// nginx in front of all nodes.
    pub fn nginx(&self) -> Nginx {
        let ports = |node: &Server| (node.tcp.port(), node.http().address.port());
        Nginx::before(&self.nodes.iter().map(ports).collect::<Vec<_>>())
    }

    /// One more node.
    pub async fn grow(&mut self) -> &Server {
        let node = self.builder(self.nodes.len() + 1).start();
        self.nodes.push(node);
        self.ready().await;
        self.nodes.last().expect("it was just pushed")
    }

    /// HTTP of node `place`, from 0.
    pub fn http(&self, place: usize) -> Http {
        self.nodes[place].http()
    }

    /// Waits until every node is ready and one leads.
    pub async fn ready(&self) {
        for node in &self.nodes {
            is_ready(node).await;
        }
        if !self.nodes.is_empty() {
            self.leader().await;
        }
    }

    /// Waits until a node says that it leads. Its place.
    ///
    /// # Panics
    ///
    /// If none does in time.
    pub async fn leader(&self) -> usize {
        self.leader_among(&(0..self.nodes.len()).collect::<Vec<_>>()).await.0
    }

    /// Waits until one of these nodes says that it leads. Its place, and how long it took.
    ///
    /// # Panics
    ///
    /// If none does in time.
    pub async fn leader_among(&self, places: &[usize]) -> (usize, Duration) {
        let started = Instant::now();
        while started.elapsed() < SOON {
            for place in places {
                let health = self.http(*place).try_get("/health").await;
                if health.is_ok_and(|health| health.json()["is_leader"] == true) {
                    return (*place, started.elapsed());
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no leader among {places:?}");
    }

    /// The places of all nodes but this one.
    pub fn others(&self, place: usize) -> Vec<usize> {
        (0..self.nodes.len()).filter(|other| *other != place).collect()
    }

    /// The nodes as node `place` sees them.
    pub async fn nodes_seen_by(&self, place: usize) -> Value {
        self.http(place).get("/cluster/nodes").await.json()
    }
}

/// Waits until a node is ready.
///
/// # Panics
///
/// If it is not in time.
pub async fn is_ready(node: &Server) {
    let started = Instant::now();
    loop {
        let ready = node.http().try_get("/health/ready").await;
        match ready {
            Ok(ready) if ready.status == 200 => return,
            other if started.elapsed() > SOON => panic!("not ready: {other:?}\n{}", node.log()),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Pushes a job over HTTP. Its id.
///
/// # Panics
///
/// If it is refused.
pub async fn push(http: &Http, queue: &str, payload: Value) -> u64 {
    let reply = http.post(&format!("/v1/queues/{queue}/jobs"), json!({ "payload": payload })).await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    reply.json()["id"].as_u64().expect("an id")
}

/// Pulls jobs over HTTP, waiting for a first one.
///
/// # Panics
///
/// If it is refused.
pub async fn pull(http: &Http, queue: &str, count: u64, wait_ms: u64) -> Vec<Value> {
    let body = json!({ "count": count, "wait_ms": wait_ms });
    let reply = http.post(&format!("/v1/queues/{queue}/pull"), body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()["jobs"].as_array().expect("a list").clone()
}

/// Acks a pulled job over HTTP. The status.
pub async fn ack(http: &Http, job: &Value) -> u16 {
    let path = format!("/v1/jobs/{}/ack", job["id"]);
    http.post(&path, json!({ "lease": job["lease"] })).await.status
}
