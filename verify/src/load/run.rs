//! What all tasks of a run share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::caller::{Address, Caller, Held, Place};
use super::http::Peer;
use super::jobs::{FLOW_JOBS, QUEUES, QueueKind, Spec, next_part};
use super::way::CALL_TIMEOUT;
use super::{Profile, Targets};
use crate::database::DatabaseClock;
use crate::history::How;
use crate::record::Recorder;

/// Jobs that are remembered to be cancelled, or waited for.
const RECENT_MAX: usize = 4096;
/// Those that may still be waiting for a worker.
const NEWEST_MAX: usize = 20;
/// Leases that are remembered to be used too late.
const OLD_MAX: usize = 1024;

/// A run: its names, its clock, and what its tasks know of each other's doings.
#[derive(Debug)]
pub struct Run {
    pub(crate) targets: Targets,
    pub(crate) profile: Profile,
    pub(crate) recorder: Recorder,
    /// The database's clock, as it was seen at the start.
    pub(crate) clock: DatabaseClock,
    /// What the schedule must make, if there is one.
    pub(crate) schedule: Option<Window>,
    prefix: String,
    queues: Vec<String>,
    pace: Pace,
    recent: Mutex<VecDeque<u64>>,
    old: Mutex<VecDeque<Old>>,
    /// Long-lived clients, one for each address.
    pub(super) pool: OnceLock<Vec<Arc<Caller>>>,
    /// No more is pushed, cancelled or paused; nobody vanishes any more.
    pub(super) quiet: CancellationToken,
    /// Workers stop.
    pub(super) over: CancellationToken,
}

/// The slots that must have been fired.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) from_ms: i64,
    /// 0: it has not ended.
    pub(crate) to_ms: Mutex<i64>,
}

/// A lease that is over, or soon will be.
#[derive(Debug, Clone)]
pub(super) struct Old {
    pub(super) held: Held,
    /// How it was settled, if it was: the same again would be answered by the same.
    pub(super) ended_by: Option<How>,
    pub(super) due: Instant,
}

/// Which keys are free, and when the next ones may be pushed.
#[derive(Debug)]
struct Pace {
    started_at: Instant,
    next: AtomicU64,
    answered: AtomicU64,
}

impl Run {
    pub(super) fn new(
        targets: Targets,
        profile: Profile,
        recorder: Recorder,
        (prefix, clock, schedule): (String, DatabaseClock, Option<Window>),
    ) -> Self {
        let queues = QUEUES.iter().map(|kind| queue_name(&prefix, *kind)).collect();
        let pace = Pace {
            started_at: Instant::now(),
            next: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        };
        Self {
            targets,
            profile,
            recorder,
            clock,
            schedule,
            prefix,
            queues,
            pace,
            recent: Mutex::default(),
            old: Mutex::default(),
            pool: OnceLock::new(),
            quiet: CancellationToken::new(),
            over: CancellationToken::new(),
        }
    }

    /// How the names of its queues and of its schedule begin.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The names of its queues, by their numbers.
    pub fn queues(&self) -> &[String] {
        &self.queues
    }

    pub(super) fn queue(&self, kind: QueueKind) -> &str {
        &self.queues[usize::from(kind.number())]
    }

    /// The database's time, or a little before it.
    pub(super) fn database_now_ms(&self) -> i64 {
        self.clock.earliest_ms(self.recorder.now_ns())
    }

    /// All addresses of a transport, those of the balancer last.
    pub(super) fn places(&self, is_http: bool) -> Vec<Place> {
        let nodes = (1_u8..).zip(&self.targets.nodes);
        let all = nodes.chain(self.targets.balancer.iter().map(|balancer| (0, balancer)));
        let place = |(node, target): (u8, &super::Target)| {
            let address = match is_http {
                true => Address::Http(target.http.clone()?),
                false => Address::Tcp(target.tcp.clone()),
            };
            Some(Place { node, address })
        };
        all.filter_map(place).collect()
    }

    /// All nodes at once: a client that is let go by one goes on with another.
    pub(super) fn anywhere(&self) -> Place {
        Place { node: 0, address: Address::Tcp(self.url()) }
    }

    /// All nodes, as the client takes them.
    pub(crate) fn url(&self) -> String {
        self.targets.url()
    }

    /// What a node says of itself; `None`: nothing.
    pub(crate) async fn health(&self, http: &str) -> Option<serde_json::Value> {
        let mut peer = Peer::new(http.to_owned(), self.targets.token.clone());
        peer.ask(hyper::Method::GET, "/health", None, CALL_TIMEOUT).await.ok()
    }

    /// One of the long-lived clients.
    pub(super) fn someone(&self, dice: &mut StdRng) -> Option<Arc<Caller>> {
        let pool = self.pool.get()?;
        (!pool.is_empty()).then(|| Arc::clone(&pool[dice.random_range(0..pool.len())]))
    }

    /// How many jobs have been pushed, or given up.
    pub fn produced(&self) -> u64 {
        self.pace.answered.load(Ordering::Relaxed)
    }

    pub(super) fn answered(&self, count: usize) {
        self.pace.answered.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// The jobs of the next call, once it is time for them; `None`: all have been pushed.
    ///
    /// # Cancel safety
    ///
    /// The jobs are never pushed.
    pub(super) async fn next_jobs(&self, dice: &mut StdRng) -> Option<Vec<Spec>> {
        let Profile { seed, jobs, jobs_per_second, batch, singles_permille, .. } = self.profile;
        let (kind, count) = next_part(dice, batch, singles_permille);
        let first = self.pace.next.fetch_add(count.into(), Ordering::Relaxed);
        if first >= jobs {
            return None;
        }
        let after =
            Duration::from_secs(1).mul_f64(first as f64 / f64::from(jobs_per_second.max(1)));
        sleep_until(self.pace.started_at + after).await;
        let now_ms = self.database_now_ms();
        let keys = first + 1..=(first + u64::from(count)).min(jobs);
        let mut specs: Vec<Spec> = keys.map(|key| Spec::new(seed, key, kind, now_ms)).collect();
        if kind == QueueKind::Flow {
            self.link(&mut specs, dice);
        }
        Some(specs)
    }

    /// A job beside those of the profile.
    pub(super) fn one_more(&self) -> Spec {
        let key = self.pace.next.fetch_add(1, Ordering::Relaxed).max(self.profile.jobs) + 1;
        Spec::new(self.profile.seed, key, QueueKind::Plain, self.database_now_ms())
    }

    /// Has jobs wait for each other, or for one that was pushed before.
    fn link(&self, specs: &mut [Spec], dice: &mut StdRng) {
        if dice.random_bool(0.5) && specs.len() == FLOW_JOBS as usize {
            for (place, spec) in (0..).zip(specs) {
                spec.place = Some(place);
            }
            return;
        }
        for spec in specs {
            if let Some(job) = self.recent(dice) {
                *spec = spec.clone().after(job);
            }
        }
    }

    /// A job that was pushed not long ago.
    pub(super) fn recent(&self, dice: &mut StdRng) -> Option<u64> {
        let recent = self.recent.lock();
        (!recent.is_empty()).then(|| recent[dice.random_range(0..recent.len())])
    }

    /// One of the jobs that were pushed last: it has hardly ended yet.
    pub(super) fn newest(&self, dice: &mut StdRng) -> Option<u64> {
        let recent = self.recent.lock();
        let among = recent.len().min(NEWEST_MAX);
        (among > 0).then(|| recent[recent.len() - 1 - dice.random_range(0..among)])
    }

    pub(super) fn remember(&self, jobs: impl IntoIterator<Item = u64>) {
        let mut recent = self.recent.lock();
        for job in jobs {
            if recent.len() >= RECENT_MAX {
                recent.pop_front();
            }
            recent.push_back(job);
        }
    }

    /// Keeps a lease, to be used when it should not be.
    pub(super) fn keep_old(&self, old: Old) {
        let mut all = self.old.lock();
        if all.len() < OLD_MAX {
            all.push_back(old);
        }
    }

    /// A kept lease whose time has come.
    pub(super) fn next_old(&self) -> Option<Old> {
        let mut all = self.old.lock();
        let is_due = all.front().is_some_and(|old| old.due <= Instant::now());
        // Those behind it were kept later; that one of them may be due before matters to nobody.
        if is_due { all.pop_front() } else { None }
    }
}

pub(super) fn queue_name(prefix: &str, kind: QueueKind) -> String {
    format!("{prefix}.{}", kind.name())
}

impl Targets {
    /// All nodes, as the client takes them.
    pub(crate) fn url(&self) -> String {
        let nodes: Vec<&str> = self.nodes.iter().map(|node| node.tcp.as_str()).collect();
        format!("tcp://{}", nodes.join(","))
    }
}
