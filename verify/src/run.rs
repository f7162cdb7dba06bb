//! A run from its first node to its verdict.
//!
//! ```text
//!   field ──▶ clients ──▶ faults by plan, while clients push ──▶ healed ──▶ served again
//!     ──▶ drained ──▶ what the database holds ──▶ the verdict on what stands in the file
//! ```
//!
//! All that is recorded goes to a file as it comes; the file is what is judged. A run that is
//! stopped, or can not go on, is judged as far as it went.

mod writing;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use batonq_client::ClusterNode;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::field::{
    ClusterOptions, EmbeddedOptions, Field, FieldError, Ground, NamedOptions, Postgres,
};
use crate::history::file::FileError;
use crate::history::{History, Record};
use crate::load::{self, Load, Target, Targets};
use crate::nemesis::{self, Nemesis, Plan};
use crate::record::Recorder;
use crate::summary::{Course, NodeFacts, Summary};
use crate::{check, database, ending};
use writing::{Tally, Writing};

/// How long all may take to be served, and all work to be done, once all is healed.
const FINISH_IN: Duration = Duration::from_secs(60);

/// If not one job is pushed in this time although all is healed, no more are.
const STUCK_AFTER: Duration = Duration::from_secs(20);

/// How long what is only told, and not judged, may take to be asked for.
const ASK_IN: Duration = Duration::from_secs(5);

/// Between two tellings how it goes.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// Jobs in a second at most. Clients, nodes and the database share the machine.
const JOBS_PER_SECOND_MAX: f64 = 1500.0;

/// What a run is to be.
#[derive(Debug, Clone)]
pub struct Order {
    /// What it is called.
    pub name: String,
    /// Decides what is done when.
    pub seed: u64,
    /// What to type to have the same again.
    pub repeat: String,
    /// What it stands on.
    pub stand: Stand,
    /// What clients ask. Its jobs are spread over the time of the faults.
    pub load: load::Profile,
    /// What is broken. What is not possible is left out.
    pub faults: nemesis::Profile,
    /// Where the history is written.
    pub history: PathBuf,
}

/// What a run stands on.
#[derive(Debug, Clone)]
pub enum Stand {
    /// A cluster of our own.
    Cluster(ClusterOptions),
    /// A node of our own on its embedded database.
    Embedded(EmbeddedOptions),
    /// A cluster that is there already.
    Named(NamedOptions, Option<TheirDatabase>),
}

/// The Postgres of a cluster that is there already.
#[derive(Debug, Clone)]
pub struct TheirDatabase {
    /// Where it is.
    pub url: String,
    /// The schema of the nodes' tables.
    pub schema: String,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// Nodes are started.
    #[default]
    Building,
    /// Clients work, and things break.
    Running,
    /// Nothing breaks any more: all must be served, and all work done.
    Settling,
    /// What the database holds is read.
    Reading,
    /// What was recorded is judged.
    Judging,
}

/// How it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// How far it is.
    pub stage: Stage,
    /// Jobs that were pushed, or given up.
    pub jobs: u64,
    /// Of so many.
    pub jobs_planned: u64,
    /// Faults that are over.
    pub faults: u64,
    /// Of so many.
    pub faults_planned: u64,
    /// Calls of which nobody knows what came of them.
    pub unknown: u64,
    /// The node that leads; `None`: it is not known.
    pub leader: Option<u8>,
}

/// Why nothing can be said of a broker.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There are no nodes to be verified.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The clients could not begin.
    #[error("clients could not begin: {0}")]
    Load(#[from] load::Error),
    /// The history could not be written, or read again.
    #[error("history: {0}")]
    History(#[from] FileError),
    /// It was stopped before it had begun.
    #[error("stopped before anything was asked")]
    Stopped,
    /// A part of this program has failed.
    #[error("{0}")]
    Failed(String),
}

/// Who is told how it goes: often, and never from two tasks at once.
pub type Tell<'a> = &'a (dyn Fn(Progress) + Sync);

/// Carries out a run and judges what its file holds: its history, and the verdict. When `stop` is cancelled it ends in good order.
///
/// # Cancel safety
///
/// What is ours is taken away; what was asked of a cluster that is not ours stays behind.
///
/// # Errors
///
/// If it can not begin, or its history can not be kept. Whatever happens to the nodes later is no
/// error: see [`Course`].
pub async fn run(
    order: Order,
    tell: Tell<'_>,
    stop: &CancellationToken,
) -> Result<(History, Summary), Error> {
    let (begun, started) = (Instant::now(), Timestamp::now());
    tell(Progress::default());
    let opening = stop.run_until_cancelled(open(order.stand.clone()));
    let field = opening.await.ok_or(Error::Stopped)??;
    let (faults, left_out) = order.faults.on(&field);
    let plan = Plan::new(order.seed, &faults, field.count());
    let facts = carry_out(&order, (&field, &plan), tell, stop).await?;
    let notes = field.notes().to_vec();
    drop(field);
    tell(Progress { stage: Stage::Judging, ..Progress::default() });
    let path = order.history;
    let judge = move || {
        History::open(&path).map(|history| {
            let verdict = check::check(&history);
            (history, verdict)
        })
    };
    let judged = tokio::task::spawn_blocking(judge).await;
    let (history, verdict) = judged.map_err(|error| Error::Failed(error.to_string()))??;
    let summary = Summary {
        profile: order.name,
        seed: Some(order.seed),
        repeat: Some(order.repeat),
        started: Some(started),
        duration: begun.elapsed(),
        nodes: facts.nodes,
        postgres: facts.postgres,
        jobs: order.load.jobs,
        faults_planned: faults.count(),
        left_out,
        notes,
        cores: cores(),
        course: facts.course,
        verdict,
    };
    Ok((history, summary))
}

/// Judges a history again.
///
/// # Errors
///
/// If it can not be read.
pub fn replay(path: &Path) -> Result<(History, Summary), FileError> {
    let begun = Instant::now();
    let history = History::open(path)?;
    let verdict = check::check(&history);
    let has_end = history.records.iter().any(|record| matches!(record, Record::End(_)));
    let is_whole = has_end && !history.is_cut;
    let course = if is_whole { Course::AsPlanned } else { Course::Interrupted };
    let summary = Summary {
        profile: "replay".to_owned(),
        seed: None,
        repeat: None,
        started: None,
        duration: begun.elapsed(),
        nodes: Vec::new(),
        postgres: None,
        jobs: 0,
        faults_planned: 0,
        left_out: Vec::new(),
        notes: Vec::new(),
        cores: cores(),
        course,
        verdict,
    };
    Ok((history, summary))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

async fn open(stand: Stand) -> Result<Field, FieldError> {
    match stand {
        Stand::Cluster(options) => Field::cluster(options).await,
        Stand::Embedded(options) => Field::embedded(options).await,
        Stand::Named(options, _) => Field::named(options).await,
    }
}

/// Where clients of a field go: through the ways that can be cut.
fn targets(field: &Field, stand: &Stand) -> Targets {
    let node = |number| Target {
        tcp: field.clients(number).tcp().address().to_string(),
        http: field.client_http(number).map(|http| http.to_string()),
    };
    let balancer = field
        .nginx()
        .map(|nginx| Target { tcp: nginx.tcp().to_string(), http: Some(nginx.http().to_string()) });
    let nodes = field.numbers().map(node).collect();
    let targets = Targets { nodes, balancer, ..Targets::default() };
    match stand {
        Stand::Cluster(_) => {
            let database = field.postgres().ok().map(Postgres::dsn);
            Targets { database, ..targets }
        }
        Stand::Embedded(_) => targets,
        Stand::Named(options, theirs) => {
            let (database, schema) = match theirs.clone() {
                Some(theirs) => (Some(theirs.url), theirs.schema),
                None => (None, String::new()),
            };
            Targets { token: options.token.clone(), database, schema, ..targets }
        }
    }
}

/// As many jobs as asked for, over the time that the faults take.
fn paced(load: &load::Profile, faults: Duration) -> load::Profile {
    if faults.is_zero() {
        return load.clone();
    }
    let rate = (load.jobs as f64 / faults.as_secs_f64()).clamp(1.0, JOBS_PER_SECOND_MAX);
    // It is between the two.
    load::Profile { jobs_per_second: rate.ceil() as u32, ..load.clone() }
}

/// What is told of a run beside its verdict.
struct Facts {
    course: Course,
    nodes: Vec<NodeFacts>,
    postgres: Option<String>,
}

/// From the first call to the last record.
async fn carry_out(
    order: &Order,
    (field, plan): (&Field, &Plan),
    tell: Tell<'_>,
    stop: &CancellationToken,
) -> Result<Facts, Error> {
    let (recorder, recording) = Recorder::begin();
    let writing = Writing::begin(&order.history, recording)?;
    let profile = paced(&order.load, plan.length(field.count()));
    let start = Load::start(targets(field, &order.stand), profile, recorder.clone());
    let mut load = stop.run_until_cancelled(start).await.ok_or(Error::Stopped)??;
    let (run, tally) = (Arc::clone(load.run()), writing.tally());
    let under_way = UnderWay { field, plan, recorder, run, tally, stage: Mutex::default() };
    let course = tokio::select! {
        course = under_way.to_its_end(&mut load) => course,
        never = under_way.tell(tell, order.load.jobs) => match never {},
        () = stop.cancelled() => Course::Interrupted,
        () = tally.failed.cancelled() => Course::Interrupted,
    };
    drop(under_way);
    let facts = Facts { course, nodes: nodes(field, &load).await, postgres: postgres(&load).await };
    if field.ground() == Ground::Named {
        // It is theirs; what can not be cleared goes when its time is over.
        timeout(ASK_IN, load.clear()).await.ok();
    }
    drop(load);
    writing.end().await?;
    Ok(facts)
}

/// A run while it goes on.
struct UnderWay<'a> {
    field: &'a Field,
    plan: &'a Plan,
    recorder: Recorder,
    run: Arc<load::Run>,
    tally: &'a Tally,
    stage: Mutex<Stage>,
}

impl UnderWay<'_> {
    fn stage(&self, stage: Stage) {
        *self.stage.lock() = stage;
    }

    /// All that is planned, until what is left has been read.
    async fn to_its_end(&self, load: &mut Load) -> Course {
        self.stage(Stage::Running);
        let record = |fault| self.recorder.record(Record::Fault(fault));
        let nemesis = Nemesis::new(self.field, self.recorder.clock(), &record);
        let healed = nemesis.run(self.plan).await;
        drop(nemesis);
        let healed_ns = match healed {
            Ok(healed_ns) => healed_ns,
            Err(_) => self.recorder.now_ns(),
        };
        if healed.is_ok() {
            load.serve(FINISH_IN).await;
            self.produce_the_rest(load).await;
        }
        self.stage(Stage::Settling);
        let finish = load.finish(healed_ns, FINISH_IN).await;
        self.stage(Stage::Reading);
        let gathered = ending::gather(load, finish).await;
        match (healed, gathered) {
            (Err(error), _) => Course::Broken(error.to_string()),
            (_, Err(error)) => Course::Broken(format!("what is left can not be read: {error}")),
            (Ok(_), Ok(())) => Course::AsPlanned,
        }
    }

    /// Waits until all is pushed, or nothing is any more.
    async fn produce_the_rest(&self, load: &mut Load) {
        loop {
            let before = load.produced();
            let is_done = timeout(STUCK_AFTER, load.all_produced()).await.is_ok();
            if is_done || load.produced() == before {
                return;
            }
        }
    }

    async fn tell(&self, tell: Tell<'_>, jobs_planned: u64) -> Infallible {
        loop {
            let leader = self.field.leader().await;
            let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            tell(Progress {
                stage: *self.stage.lock(),
                jobs: self.run.produced().min(jobs_planned),
                jobs_planned,
                faults: count(&self.tally.faults),
                faults_planned: self.plan.steps.len() as u64,
                unknown: count(&self.tally.unknown),
                leader,
            });
            sleep(TELL_EVERY).await;
        }
    }
}

/// What nodes say that they are, as far as they do.
async fn nodes(field: &Field, load: &Load) -> Vec<NodeFacts> {
    let asked = timeout(ASK_IN, load.admin().nodes()).await;
    let known = asked.ok().and_then(Result::ok).unwrap_or_default();
    let facts = |number| {
        let name = field.name(number).to_owned();
        let is_it = |node: &&ClusterNode| {
            node.id == name || format!("{}:{}", node.host, node.tcp_port) == name
        };
        let version = known.iter().find(is_it).map(|node| node.version.clone());
        NodeFacts { name, version }
    };
    field.numbers().map(facts).collect()
}

/// What their Postgres says that it is, if there is one.
async fn postgres(load: &Load) -> Option<String> {
    let targets = &load.run().targets;
    targets.database.as_ref()?;
    let ask = async {
        let session = database::connect(targets).await.ok()?;
        Some(session.query_one("SHOW server_version", &[]).await.ok()?.get(0))
    };
    timeout(ASK_IN, ask).await.ok().flatten()
}
