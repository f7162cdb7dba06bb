//! The ground of a run: nodes, what they keep jobs in, and the ways between them, all of which can
//! be broken and mended.
//!
//! ```text
//!   clients ──▶ ClientWay (proxies) ──▶ Node ──▶ DatabaseWay (wire or proxy) ──▶ Postgres
//!        └────▶ Nginx ──┘
//! ```
//!
//! There are three kinds of [`Ground`]: a cluster of our own on a Postgres of our own; one node on
//! its embedded database; and a cluster that is there already, of which only the ways of our own
//! clients can be broken.
//!
//! Nodes are named n1, n2, … and numbered from 1, as in the history. Everything is gone when the
//! field is dropped, and also when the process is killed.

mod error;
mod health;
mod janitor;
mod namespace;
mod nginx;
mod node;
mod ports;
mod postgres;
mod process;
mod programs;
mod proxy;
mod ways;

pub use error::FieldError;
pub use health::{Probe, Sight};
pub use namespace::Namespace;
pub use nginx::Nginx;
pub use node::{Edition, Node};
pub use postgres::{Postgres, Stop};
pub use proxy::{Cut, Direction, Proxy, Verb};
pub use ways::{ClientWay, DatabaseWay};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use batonq_client::Client;
use tempfile::TempDir;
use tokio::time::Instant;

pub(crate) use node::faketime;

use janitor::Janitor;
use node::Recipe;
use postgres::Making;

/// How long nodes may take to be ready when all is well.
pub const READY_IN: Duration = Duration::from_secs(60);

/// Nodes that a field has at most.
pub const NODES_MAX: u8 = 16;

/// What one question of ours to a node may take.
const ANSWER_IN: Duration = Duration::from_secs(1);

/// Between two questions who leads.
const PAUSE: Duration = Duration::from_millis(20);

/// The port of the binary protocol, if an address has none.
const PORT: u16 = 6789;

/// What a field stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// Nodes of our own on a Postgres of our own.
    Cluster,
    /// One node of our own on its embedded database.
    Embedded,
    /// Nodes that are there already.
    Named,
}

/// How nodes are kept apart from the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Apart {
    /// By network namespaces where this process may make them, by proxies otherwise.
    #[default]
    AsPossible,
    /// By network namespaces: packets are dropped, as by a broken switch.
    Namespaces,
    /// By proxies: bytes wait, or come late.
    Proxies,
}

/// Whether something stands in front of all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balancer {
    /// Clients choose a node.
    #[default]
    None,
    /// nginx chooses. Left out, with a note, if it is not installed.
    Nginx,
}

/// What a cluster of our own is made from.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// The program that nodes run, as `batonq`.
    pub program: PathBuf,
    /// Another release of it, which n2, n4, … run to begin with.
    pub other_program: Option<PathBuf>,
    /// How many nodes.
    pub nodes: u8,
    /// Settings of all nodes, as in their environment.
    pub settings: Vec<(String, String)>,
    /// Settings of Postgres, as `name=value`.
    pub postgres_settings: Vec<String>,
    /// How nodes are kept apart from the database.
    pub apart: Apart,
    /// What stands in front of the nodes.
    pub balancer: Balancer,
    /// Where all files are to be; where the system has temporary ones if not said. What that disk
    /// keeps is what is verified.
    pub parent: Option<PathBuf>,
}

/// What one node on its embedded database is made from.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// The program, as `batonq`.
    pub program: PathBuf,
    /// Its settings, as in its environment.
    pub settings: Vec<(String, String)>,
    /// Where its files are to be; where the system has temporary ones if not said.
    pub parent: Option<PathBuf>,
}

/// A cluster that is there already.
#[derive(Debug, Clone)]
pub struct NamedOptions {
    /// Its nodes, each as `tcp://host:port`.
    pub urls: Vec<String>,
    /// What the nodes let us in with.
    pub token: Option<String>,
    /// Whether nodes may be told to leave.
    pub drain: Drain,
}

/// Whether nodes that are not ours may be told to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Drain {
    /// No.
    #[default]
    Never,
    /// Yes: somebody sees to it that a node that has left is started again.
    Allowed,
}

/// Nodes, what they keep jobs in, and the ways between them.
#[derive(Debug)]
pub struct Field {
    ground: Ground,
    notes: Vec<String>,
    token: Option<String>,
    drain: Drain,
    // Who uses something is dropped before it.
    nginx: Option<Nginx>,
    places: Vec<Place>,
    postgres: Option<Postgres>,
    _dirs: Vec<TempDir>,
    _janitor: Option<Janitor>,
}

/// One node and its ways.
#[derive(Debug)]
struct Place {
    name: String,
    clients: ClientWay,
    node: Option<Node>,
    database: Option<DatabaseWay>,
}

impl ClusterOptions {
    /// Nodes, unless it is said otherwise.
    pub const NODES: u8 = 3;

    /// [`ClusterOptions::NODES`] nodes of this program, with default settings.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            other_program: None,
            nodes: Self::NODES,
            settings: Vec::new(),
            postgres_settings: Vec::new(),
            apart: Apart::default(),
            balancer: Balancer::default(),
            parent: None,
        }
    }
}

impl EmbeddedOptions {
    /// This program, with default settings.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), settings: Vec::new(), parent: None }
    }
}

/// The opening of fields.
impl Field {
    fn on(ground: Ground, janitor: Option<Janitor>) -> Self {
        Self {
            ground,
            notes: Vec::new(),
            token: None,
            drain: Drain::Never,
            nginx: None,
            places: Vec::new(),
            postgres: None,
            _dirs: Vec::new(),
            _janitor: janitor,
        }
    }

    /// A cluster of our own. Its nodes are ready, and one leads.
    ///
    /// # Cancel safety
    ///
    /// What was made is taken away.
    ///
    /// # Errors
    ///
    /// If something is not installed, does not start, or does not get ready.
    pub async fn cluster(options: ClusterOptions) -> Result<Self, FieldError> {
        if !(1..=NODES_MAX).contains(&options.nodes) {
            let (what, why) = (format!("{} nodes", options.nodes), format!("1 to {NODES_MAX} are"));
            return Err(FieldError::NotPossible { what, why });
        }
        let janitor = Janitor::start()?;
        let mut field = Self::on(Ground::Cluster, Some(janitor.clone()));
        let settings = options.postgres_settings.clone();
        let making = Making { settings, parent: options.parent.clone() };
        let mut postgres = Postgres::create(making, &janitor).await?;
        let ways = field.ways(&options, &mut postgres, &janitor).await?;
        postgres.start().await?;
        field.postgres = Some(postgres);
        for (number, way) in (1..).zip(ways) {
            field.settle(number, way, &options, &janitor).await?;
        }
        if options.balancer == Balancer::Nginx {
            field.balance(&janitor).await?;
        }
        field.ready(READY_IN).await?;
        Ok(field)
    }

    /// The way of each node to the database.
    async fn ways(
        &mut self,
        options: &ClusterOptions,
        postgres: &mut Postgres,
        janitor: &Janitor,
    ) -> Result<Vec<DatabaseWay>, FieldError> {
        let possible = match options.apart {
            Apart::Proxies => Err("proxies were asked for".to_owned()),
            Apart::AsPossible | Apart::Namespaces => namespace::are_possible().await,
        };
        let database = postgres.address();
        let mut ways = Vec::new();
        for _ in 0..options.nodes {
            ways.push(match (&possible, options.apart) {
                (Ok(()), _) => {
                    let namespace = Namespace::new(janitor, database.port()).await?;
                    postgres.admit(namespace.address(), namespace.host())?;
                    DatabaseWay::Namespace(namespace)
                }
                (Err(why), Apart::Namespaces) => {
                    let (what, why) = ("keeping nodes apart by network namespaces", why.clone());
                    return Err(FieldError::NotPossible { what: what.into(), why });
                }
                (Err(_), _) => DatabaseWay::Proxy(Proxy::to(database.to_string()).await?),
            });
        }
        if let (Err(why), Apart::AsPossible) = (possible, options.apart) {
            let note = "partitions are made by proxies, not by dropping packets";
            self.notes.push(format!("{note}: {why}"));
        }
        Ok(ways)
    }

    /// Starts a node.
    async fn settle(
        &mut self,
        number: u8,
        way: DatabaseWay,
        options: &ClusterOptions,
        janitor: &Janitor,
    ) -> Result<(), FieldError> {
        let dir = janitor.directory(options.parent.as_deref())?;
        let mut recipe = Recipe {
            name: format!("n{number}"),
            program: options.program.clone(),
            other_program: options.other_program.clone(),
            settings: options.settings.clone(),
            dir: dir.path().to_owned(),
            place: None,
        };
        recipe.set("DATABASE_URL", &postgres::dsn(way.database()));
        recipe.set("CLUSTER_MODE", "1");
        recipe.set("NODE_ID", &format!("n{number}"));
        if let DatabaseWay::Namespace(namespace) = &way {
            recipe.within(namespace);
        }
        let node = Node::new(recipe, janitor)?;
        if number.is_multiple_of(2) && options.other_program.is_some() {
            node.set_edition(Edition::Other)?;
        }
        node.start()?;
        self.place(node, Some(way), dir).await
    }

    async fn place(
        &mut self,
        node: Node,
        database: Option<DatabaseWay>,
        dir: TempDir,
    ) -> Result<(), FieldError> {
        let (tcp, http) = (node.tcp().to_string(), node.http().to_string());
        let clients = ClientWay::to(tcp, Some(http)).await?;
        let name = node.name().to_owned();
        self.places.push(Place { name, clients, node: Some(node), database });
        self._dirs.push(dir);
        Ok(())
    }

    async fn balance(&mut self, janitor: &Janitor) -> Result<(), FieldError> {
        if let Err(missing) = nginx::program() {
            self.notes.push(format!("clients choose their node themselves: {missing}"));
            return Ok(());
        }
        let ways = || self.places.iter().map(|place| &place.clients);
        let tcp: Vec<SocketAddr> = ways().map(|way| way.tcp().address()).collect();
        let http = ways().filter_map(|way| Some(way.http()?.address())).collect::<Vec<_>>();
        self.nginx = Some(Nginx::before(&tcp, &http, janitor).await?);
        Ok(())
    }

    /// One node of our own on its embedded database. It is ready.
    ///
    /// # Cancel safety
    ///
    /// What was made is taken away.
    ///
    /// # Errors
    ///
    /// If it does not start or does not get ready.
    pub async fn embedded(options: EmbeddedOptions) -> Result<Self, FieldError> {
        let janitor = Janitor::start()?;
        let mut field = Self::on(Ground::Embedded, Some(janitor.clone()));
        let dir = janitor.directory(options.parent.as_deref())?;
        let mut recipe = Recipe {
            name: "n1".into(),
            program: options.program,
            other_program: None,
            settings: options.settings,
            dir: dir.path().to_owned(),
            place: None,
        };
        recipe.set("NODE_ID", "n1");
        let node = Node::new(recipe, &janitor)?;
        node.start()?;
        field.place(node, None, dir).await?;
        field.ready(READY_IN).await?;
        Ok(field)
    }

    /// A cluster that is there already. What can be broken of it is the ways of our own clients.
    ///
    /// # Errors
    ///
    /// If an address can not be used, or a node does not let us in.
    pub async fn named(options: NamedOptions) -> Result<Self, FieldError> {
        let mut field = Self::on(Ground::Named, None);
        let addresses: Vec<String> = options.urls.iter().flat_map(|url| addresses(url)).collect();
        if addresses.is_empty() || addresses.len() > usize::from(NODES_MAX) {
            let (what, why) = ("a cluster by name".into(), format!("give 1 to {NODES_MAX} URLs"));
            return Err(FieldError::NotPossible { what, why });
        }
        (field.token, field.drain) = (options.token, options.drain);
        for address in addresses {
            let clients = ClientWay::to(address.clone(), None).await?;
            field.places.push(Place { name: address, clients, node: None, database: None });
        }
        field.ready(READY_IN).await?;
        Ok(field)
    }
}

/// `host:port` of each node in a URL.
fn addresses(url: &str) -> Vec<String> {
    let list = url.strip_prefix("tcp://").unwrap_or(url).trim_end_matches('/');
    let addresses = list.split(',').map(str::trim).filter(|address| !address.is_empty());
    let has_port = |address: &str| {
        address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
    };
    addresses
        .map(|address| match has_port(address) && !address.ends_with(']') {
            true => address.to_owned(),
            false => format!("{address}:{PORT}"),
        })
        .collect()
}

/// What there is.
impl Field {
    /// What it stands on.
    pub fn ground(&self) -> Ground {
        self.ground
    }

    /// What could not be had as it was asked for, and why: to be told to whoever started the run.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// How many nodes there are.
    pub fn count(&self) -> u8 {
        u8::try_from(self.places.len()).expect("there are 16 at most")
    }

    /// The numbers of all nodes, from 1.
    pub fn numbers(&self) -> std::ops::RangeInclusive<u8> {
        1..=self.count()
    }

    fn at(&self, number: u8) -> &Place {
        let place = usize::from(number).checked_sub(1).and_then(|place| self.places.get(place));
        place.expect("a field has the nodes it says it has")
    }

    /// What a node is called: as in the cluster if it is ours, by its address otherwise.
    ///
    /// # Panics
    ///
    /// As all that takes the number of a node: if there is no such node.
    pub fn name(&self, number: u8) -> &str {
        &self.at(number).name
    }

    /// A node of our own.
    ///
    /// # Errors
    ///
    /// If nodes are not ours.
    pub fn node(&self, number: u8) -> Result<&Node, FieldError> {
        let not_ours = || FieldError::NotPossible {
            what: format!("doing something to node {}", self.name(number)),
            why: "it is not ours".into(),
        };
        self.at(number).node.as_ref().ok_or_else(not_ours)
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.places.iter().filter_map(|place| place.node.as_ref())
    }

    /// The way of clients to a node.
    pub fn clients(&self, number: u8) -> &ClientWay {
        &self.at(number).clients
    }

    /// The way of a node to the database.
    ///
    /// # Errors
    ///
    /// If there is none that we could cut.
    pub fn database_way(&self, number: u8) -> Result<&DatabaseWay, FieldError> {
        let none = || FieldError::NotPossible {
            what: "cutting a node off from the database".into(),
            why: self.no_postgres().into(),
        };
        self.at(number).database.as_ref().ok_or_else(none)
    }

    /// The database.
    ///
    /// # Errors
    ///
    /// If there is none of ours.
    pub fn postgres(&self) -> Result<&Postgres, FieldError> {
        let none = || FieldError::NotPossible {
            what: "doing something to the database".into(),
            why: self.no_postgres().into(),
        };
        self.postgres.as_ref().ok_or_else(none)
    }

    fn no_postgres(&self) -> &'static str {
        match self.ground {
            Ground::Cluster => "it is not there yet",
            Ground::Embedded => "the node has its database in itself",
            Ground::Named => "it is not ours",
        }
    }

    /// Whether nodes may be told to leave, if they are not ours.
    pub fn may_drain(&self) -> bool {
        self.ground != Ground::Named || self.drain == Drain::Allowed
    }

    /// nginx in front of all nodes, if it was asked for and is installed.
    pub fn nginx(&self) -> Option<&Nginx> {
        self.nginx.as_ref()
    }

    /// For clients of one node: through the way that can be cut.
    pub fn client_url(&self, number: u8) -> String {
        format!("tcp://{}", self.clients(number).tcp().address())
    }

    /// For clients that choose their node: through the ways that can be cut.
    pub fn client_urls(&self) -> String {
        let addresses = self.places.iter().map(|place| place.clients.tcp().address().to_string());
        format!("tcp://{}", addresses.collect::<Vec<_>>().join(","))
    }

    /// HTTP of one node, through the way that can be cut, if it is known.
    pub fn client_http(&self, number: u8) -> Option<SocketAddr> {
        Some(self.clients(number).http()?.address())
    }

    /// A client of one node, through the way that can be cut.
    ///
    /// # Errors
    ///
    /// If it is not let in.
    pub async fn client(&self, number: u8) -> Result<Client, FieldError> {
        let mut config = Client::builder().url(&self.client_url(number)).worker("verify");
        if let Some(token) = &self.token {
            config = config.token(token);
        }
        let failed = |source| FieldError::Client {
            what: format!("connecting to {}", self.name(number)),
            source,
        };
        config.connect().await.map_err(failed)
    }
}

/// How it is, and making it whole.
impl Field {
    /// Who says that it leads; `None` also if nodes are not ours.
    pub async fn leader(&self) -> Option<u8> {
        let mut asked = tokio::task::JoinSet::new();
        for number in self.numbers() {
            let Ok(node) = self.node(number) else { continue };
            let mut probe = Probe::new(node.http());
            asked.spawn(async move { (number, probe.look(ANSWER_IN).await) });
        }
        while let Some(answered) = asked.join_next().await {
            if let Ok((number, Sight::Leads)) = answered {
                return Some(number);
            }
        }
        None
    }

    /// Waits until all nodes can do their work, and one of them leads.
    ///
    /// # Errors
    ///
    /// If they can not in time, or one is not there.
    pub async fn ready(&self, within: Duration) -> Result<(), FieldError> {
        let until = Instant::now() + within;
        for number in self.numbers() {
            match self.at(number).node.as_ref() {
                Some(node) => node.ready(until - Instant::now()).await?,
                None => self.lets_us_in(number, until - Instant::now()).await?,
            }
        }
        while self.ground != Ground::Named && self.leader().await.is_none() {
            if Instant::now() > until {
                let (what, log) = ("a node leads".into(), String::new());
                return Err(FieldError::NotInTime { what, within, log });
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn lets_us_in(&self, number: u8, within: Duration) -> Result<(), FieldError> {
        let until = Instant::now() + within;
        loop {
            match self.client(number).await {
                Ok(client) => {
                    client.close().await;
                    return Ok(());
                }
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Opens all ways and has frozen nodes go on. What is down stays down: see [`Field::heal`].
    ///
    /// # Errors
    ///
    /// The first thing that could not be mended; the others were.
    pub fn mend(&self) -> Result<(), FieldError> {
        let mut result = Ok(());
        for place in &self.places {
            place.clients.set(Verb::Pass);
            let mended = place.database.as_ref().map_or(Ok(()), DatabaseWay::mend);
            let thawed = match &place.node {
                Some(node) if node.is_there() => node.thaw(),
                _ => Ok(()),
            };
            result = result.and(mended).and(thawed);
        }
        result
    }

    /// Makes it whole: all ways open, the database and all nodes up, all clocks right, everybody
    /// ready.
    ///
    /// # Cancel safety
    ///
    /// Some of it is done.
    ///
    /// # Errors
    ///
    /// If something can not be mended or does not come up, or a node had ended by itself; it is
    /// started all the same.
    pub async fn heal(&self, within: Duration) -> Result<(), FieldError> {
        let mut result = self.mend();
        if let Ok(postgres) = self.postgres()
            && !postgres.is_there()
        {
            result = result.and(postgres.start().await);
        }
        for node in self.nodes() {
            if node.is_there() {
                result = result.and(node.still_runs());
            }
            if node.clock_offset_seconds() != 0 {
                node.set_clock_offset(0)?;
                if node.is_there() {
                    node.kill().await?;
                }
            }
            if !node.is_there() {
                result = result.and(node.start());
            }
        }
        result.and(self.ready(within).await)
    }
}
