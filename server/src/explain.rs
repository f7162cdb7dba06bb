//! Why a job does not run: all that keeps it from it, in plain words and for machines.
//!
//! Pure: what is known is handed in. The most obstinate cause comes first.

use std::time::Duration;

use crate::broker::Condition;
use crate::cluster::{NodeState, Sight};
use crate::job::{JobId, OnFailure, RateRule, Reason, State, Timestamp};
use crate::store::events::is_internal;
use crate::store::{InLine, Job, Limit, Standing};

/// What is known beside what the store says.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// What each node says of the job's queue.
    pub sights: Vec<Sight>,
    /// Since when nobody leads. `None`: somebody does.
    pub leaderless_since: Option<Timestamp>,
    /// How this node is.
    pub condition: Condition,
}

/// Why a job does not run.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The job, without its payload and result.
    pub job: Job,
    /// The store's time of all that is said.
    pub now: Timestamp,
    /// At least one. What has to change first comes first.
    pub causes: Vec<Cause>,
}

/// One thing that keeps a job from running; or that nothing does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// What to branch on.
    pub code: Code,
    /// A sentence for people.
    pub detail: String,
    /// Since when it is so.
    pub since: Option<Timestamp>,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
    /// Who has brought it about: a worker, or who paused the queue.
    pub who: Option<String>,
    /// The node that it is about.
    pub node: Option<String>,
    /// The key that it is about.
    pub key: Option<String>,
    /// How many: leases, pulls or jobs.
    pub count: Option<u64>,
    /// How many there may be.
    pub limit: Option<u64>,
    /// The jobs that it is about, and where they are, if that is known.
    pub jobs: Vec<(JobId, Option<State>)>,
}

/// What keeps a job from running. What comes first here comes first in an explanation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the sentences say it")]
pub enum Code {
    Completed,
    Dead,
    Cancelled,
    Leased,
    CancelRequested,
    BlockedForever,
    TtlOver,
    QueuePaused,
    Blocked,
    Scheduled,
    NoLeader,
    QueueFull,
    KeyFull,
    QueueRate,
    KeyRate,
    NodesDraining,
    NoPuller,
    WorkersBusy,
    Behind,
    NodeDegraded,
    Next,
}

impl Code {
    /// All of them, in their order.
    pub const ALL: [Self; 21] = [
        Self::Completed,
        Self::Dead,
        Self::Cancelled,
        Self::Leased,
        Self::CancelRequested,
        Self::BlockedForever,
        Self::TtlOver,
        Self::QueuePaused,
        Self::Blocked,
        Self::Scheduled,
        Self::NoLeader,
        Self::QueueFull,
        Self::KeyFull,
        Self::QueueRate,
        Self::KeyRate,
        Self::NodesDraining,
        Self::NoPuller,
        Self::WorkersBusy,
        Self::Behind,
        Self::NodeDegraded,
        Self::Next,
    ];

    /// The word for it in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "COMPLETED",
            Self::Dead => "DEAD",
            Self::Cancelled => "CANCELLED",
            Self::Leased => "LEASED",
            Self::CancelRequested => "CANCEL_REQUESTED",
            Self::BlockedForever => "BLOCKED_FOREVER",
            Self::TtlOver => "TTL_OVER",
            Self::QueuePaused => "QUEUE_PAUSED",
            Self::Blocked => "BLOCKED",
            Self::Scheduled => "SCHEDULED",
            Self::NoLeader => "NO_LEADER",
            Self::QueueFull => "QUEUE_FULL",
            Self::KeyFull => "KEY_FULL",
            Self::QueueRate => "QUEUE_RATE",
            Self::KeyRate => "KEY_RATE",
            Self::NodesDraining => "NODES_DRAINING",
            Self::NoPuller => "NO_PULLER",
            Self::WorkersBusy => "WORKERS_BUSY",
            Self::Behind => "BEHIND",
            Self::NodeDegraded => "NODE_DEGRADED",
            Self::Next => "NEXT",
        }
    }
}

impl Cause {
    fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            since: None,
            until: None,
            who: None,
            node: None,
            key: None,
            count: None,
            limit: None,
            jobs: Vec::new(),
        }
    }
}

/// Says why a job does not run.
pub fn explain(standing: Standing, around: &Surroundings) -> Explanation {
    let mut causes = match standing.job.state {
        State::Completed | State::Dead | State::Cancelled => vec![ended(&standing)],
        State::Leased => leased(&standing, around),
        State::Scheduled | State::Blocked | State::Ready => waiting(&standing, around),
    };
    if let Condition::Degraded(reason) = &around.condition
        && !standing.job.state.is_final()
    {
        let detail = format!("this node can not work with its store: {reason}");
        causes.push(Cause::new(Code::NodeDegraded, detail));
    }
    if causes.is_empty() {
        let pulls = pulls(around);
        let detail = format!("nothing keeps it: it is next for whoever has asked; {pulls} wait");
        causes.push(Cause { count: Some(pulls), ..Cause::new(Code::Next, detail) });
    }
    causes.sort_by_key(|cause| cause.code);
    Explanation { now: standing.now, job: standing.job, causes }
}

fn ended(standing: &Standing) -> Cause {
    let job = &standing.job;
    let at = job.finished_at.unwrap_or(standing.now);
    let (code, mut detail) = match job.state {
        State::Completed => (Code::Completed, format!("completed at {at}")),
        State::Cancelled => (Code::Cancelled, format!("cancelled at {at}")),
        _ => (Code::Dead, format!("dead since {at}: {}", died(job))),
    };
    if let Some(attempt) = &standing.attempt {
        let took = length(at.since(attempt.started_at));
        let (worker, node) = (named(attempt.worker.as_str()), &attempt.node);
        detail += &format!(" in {took} by {worker} through node {node}");
    }
    if let Some((error, message)) = job.error.as_ref().filter(|_| job.state != State::Completed) {
        detail += &format!("; the last error was {error}: {message}");
    }
    if let Some(copy) = job.replayed_as {
        detail += &format!("; replayed as job {copy}");
    }
    let attempt = standing.attempt.as_ref();
    Cause {
        since: Some(at),
        who: attempt.map(|attempt| attempt.worker.as_str().into()),
        node: attempt.map(|attempt| attempt.node.clone()),
        ..Cause::new(code, detail)
    }
}

/// Why a job is dead.
fn died(job: &Job) -> String {
    match job.reason {
        Some(Reason::MaxAttemptsExceeded) => {
            format!("MAX_ATTEMPTS_EXCEEDED, {} of {} attempts", job.attempts, job.max_attempts)
        }
        Some(Reason::Poison) => format!("POISON, {} workers vanished over it", job.crashes),
        Some(Reason::Expired) => "EXPIRED, its time to live was over".into(),
        Some(Reason::Rejected) => "REJECTED, its worker will not have it tried again".into(),
        Some(Reason::DependencyFailed) => {
            "DEPENDENCY_FAILED, a job that it waited for was dead or cancelled".into()
        }
        None => "for a reason that is not known".into(),
    }
}

fn leased(standing: &Standing, around: &Surroundings) -> Vec<Cause> {
    let job = &standing.job;
    let attempt = standing.attempt.as_ref();
    let who = attempt.map(|attempt| attempt.worker.as_str().to_owned());
    let node = attempt.map(|attempt| attempt.node.clone());
    let since = attempt.map(|attempt| attempt.started_at);
    let mut detail = match attempt {
        Some(attempt) => format!(
            "{} has it, through node {}, for {}",
            named(attempt.worker.as_str()),
            attempt.node,
            length(standing.now.since(attempt.started_at)),
        ),
        None => "a worker has it".into(),
    };
    if let Some(until) = job.lease_until {
        detail += &format!("; its lease lasts until {until} unless it is kept alive");
    }
    let until = job.lease_until;
    let mut causes = vec![Cause { since, until, who, node, ..Cause::new(Code::Leased, detail) }];
    if let Some((since, force_at)) = job.cancel {
        let detail = format!("its end was asked for at {since} and is forced at {force_at}");
        let (since, until) = (Some(since), Some(force_at));
        causes.push(Cause { since, until, ..Cause::new(Code::CancelRequested, detail) });
    }
    if job.lease_until.is_some_and(|until| until <= standing.now) {
        causes.extend(no_leader(around, "takes back leases that have run out"));
    }
    causes
}

fn waiting(standing: &Standing, around: &Surroundings) -> Vec<Cause> {
    let (job, queue) = (&standing.job, &standing.job.queue);
    let mut causes = Vec::new();
    if let Some(paused) = &standing.paused {
        let by = if paused.by.is_empty() { String::new() } else { format!(" by {}", paused.by) };
        let detail = format!("queue {queue} has been paused since {}{by}", paused.since);
        let who = (!paused.by.is_empty()).then(|| paused.by.clone());
        causes.push(Cause {
            since: Some(paused.since),
            who,
            ..Cause::new(Code::QueuePaused, detail)
        });
    }
    if let Some(over) = job.expires_at.filter(|at| *at <= standing.now) {
        let detail = format!("its time to live was over at {over}: it is given out no more");
        causes.push(Cause { since: Some(over), ..Cause::new(Code::TtlOver, detail) });
    }
    causes.extend(blocked(standing));
    if let Some(run_at) = job.run_at {
        causes.extend(scheduled(run_at, standing, around));
    }
    if let Some(line) = &standing.line {
        causes.extend(line.limits.iter().map(limited));
        causes.extend(behind(line));
    }
    if !is_internal(queue) {
        causes.extend(unasked(queue.as_str(), standing.now, around));
    }
    causes
}

/// What it waits for, and whether that can come.
fn blocked(standing: &Standing) -> Option<Cause> {
    if standing.needs.is_empty() {
        return None;
    }
    let policy = standing.job.options.depends.on_failure;
    let is_lost =
        |state: Option<State>| matches!(state, None | Some(State::Dead | State::Cancelled));
    let (lost, open): (Vec<_>, Vec<_>) =
        standing.needs.iter().copied().partition(|(_, state)| is_lost(*state));
    let list = |jobs: &[(JobId, Option<State>)]| {
        let one = |(id, state): &(JobId, Option<State>)| {
            format!("{id} ({})", state.map_or("forgotten", State::name))
        };
        jobs.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    if !lost.is_empty() && policy == OnFailure::Wait {
        let can_be_retried = lost.iter().all(|(_, state)| *state == Some(State::Dead));
        let hope = match can_be_retried {
            true => "unless they are retried and then completed",
            false => "since not all of these can come back",
        };
        let detail = format!("it waits for ever for {}, policy wait, {hope}", list(&lost));
        return Some(Cause { jobs: lost, ..Cause::new(Code::BlockedForever, detail) });
    }
    let then = match policy {
        OnFailure::Fail => "if one of them dies or is cancelled, it dies too",
        OnFailure::Ignore => "it goes on however they end",
        OnFailure::Wait => "if one of them dies or is cancelled, it waits on",
    };
    let jobs = if open.is_empty() { lost } else { open };
    let detail = format!("it waits for {} to be completed: {}; {then}", jobs.len(), list(&jobs));
    let count = Some(jobs.len() as u64);
    Some(Cause { count, jobs, ..Cause::new(Code::Blocked, detail) })
}

fn scheduled(run_at: Timestamp, standing: &Standing, around: &Surroundings) -> Vec<Cause> {
    let detail = match standing.job.state {
        State::Blocked => format!("also then it does not run before {run_at}"),
        _ if run_at <= standing.now => format!("it has been due since {run_at}"),
        _ => {
            let left = length(run_at.since(standing.now));
            format!("it is scheduled for {run_at}, in {left}")
        }
    };
    let scheduled = Cause { until: Some(run_at), ..Cause::new(Code::Scheduled, detail) };
    let mut causes = vec![scheduled];
    causes.extend(no_leader(around, "makes scheduled jobs ready"));
    causes
}

fn no_leader(around: &Surroundings, work: &str) -> Option<Cause> {
    let since = around.leaderless_since?;
    let detail = format!("nobody has led since {since}, and only the leader {work}");
    Some(Cause { since: Some(since), ..Cause::new(Code::NoLeader, detail) })
}

/// A limit that is reached.
fn limited(limit: &Limit) -> Cause {
    match limit {
        Limit::Queue { max, leased } => {
            let detail = format!("{leased} jobs of its queue are leased, of {max} at once");
            let (count, limit) = (Some((*leased).into()), Some((*max).into()));
            Cause { count, limit, ..Cause::new(Code::QueueFull, detail) }
        }
        Limit::Key { key, max, holders } => {
            let ids: Vec<String> = holders.iter().map(JobId::to_string).collect();
            let ids = ids.join(", ");
            let detail = format!("key {key} allows {max} at once, and is held by {ids}");
            let leased = |id: &JobId| (*id, Some(State::Leased));
            Cause {
                key: Some(key.as_str().into()),
                count: Some(holders.len() as u64),
                limit: Some((*max).into()),
                jobs: holders.iter().map(leased).collect(),
                ..Cause::new(Code::KeyFull, detail)
            }
        }
        Limit::QueueRate { rule, opens_at } => {
            let detail = format!("the rate of its queue is used up, {}", rate(*rule, *opens_at));
            let limit = Some(rule.limit.into());
            Cause { until: Some(*opens_at), limit, ..Cause::new(Code::QueueRate, detail) }
        }
        Limit::KeyRate { key, rule, opens_at } => {
            let detail = format!("the rate of key {key} is used up, {}", rate(*rule, *opens_at));
            Cause {
                key: Some(key.as_str().into()),
                until: Some(*opens_at),
                limit: Some(rule.limit.into()),
                ..Cause::new(Code::KeyRate, detail)
            }
        }
    }
}

fn rate(rule: RateRule, opens_at: Timestamp) -> String {
    let per = length(rule.per);
    format!("{} in {per}: the next one may start at {opens_at}", rule.limit)
}

fn behind(line: &InLine) -> Option<Cause> {
    let count = line.higher + line.ahead;
    if count == 0 {
        return None;
    }
    let most = crate::limits::AHEAD_MAX;
    let shown =
        |count: usize| if count < most { count.to_string() } else { format!("{most} or more") };
    let detail = format!(
        "it stands behind {} ready jobs: {} of higher priority, {} before it in its line",
        shown(count.min(most)),
        shown(line.higher),
        shown(line.ahead),
    );
    Some(Cause { count: Some(count as u64), ..Cause::new(Code::Behind, detail) })
}

/// Pulls that wait for a job of the queue, in the cluster.
fn pulls(around: &Surroundings) -> u64 {
    let asked = living(around).filter_map(|sight| sight.pulled.as_ref());
    asked.map(|pulled| u64::from(pulled.now.saturating_sub(pulled.busy))).sum()
}

fn living(around: &Surroundings) -> impl Iterator<Item = &Sight> {
    around.sights.iter().filter(|sight| sight.state != NodeState::Stale)
}

/// Nobody is there to be given the job. Our own queues are the leader's.
fn unasked(queue: &str, now: Timestamp, around: &Surroundings) -> Option<Cause> {
    let count = living(around).count() as u64;
    if living(around).all(|sight| sight.state == NodeState::Draining) {
        let detail = format!("all {count} nodes are draining: none gives out jobs");
        return Some(Cause { count: Some(count), ..Cause::new(Code::NodesDraining, detail) });
    }
    let asked = || living(around).filter_map(|sight| sight.pulled.as_ref());
    let (all, busy): (u64, u64) = asked()
        .fold((0, 0), |(all, busy), one| (all + u64::from(one.now), busy + u64::from(one.busy)));
    if all > busy {
        return None;
    }
    if all > 0 {
        let detail =
            format!("all {all} subscriptions of queue {queue} are busy: no credit is left");
        return Some(Cause { count: Some(all), ..Cause::new(Code::WorkersBusy, detail) });
    }
    let last = around.sights.iter().filter_map(|sight| {
        sight.pulled.as_ref().map(|pulled| (pulled.last_at, sight.node.clone()))
    });
    if let Some((at, node)) = last.max() {
        let ago = length(now.since(at));
        let detail = format!(
            "nobody pulls from queue {queue}: the last pull ended {ago} ago, on node {node}"
        );
        return Some(Cause {
            since: Some(at),
            node: Some(node),
            count: Some(0),
            ..Cause::new(Code::NoPuller, detail)
        });
    }
    // A node that has forgotten other queues may have forgotten this one.
    if living(around).any(|sight| sight.is_full) {
        return None;
    }
    let detail = format!(
        "nobody has pulled from queue {queue} on any of {count} nodes since they were started"
    );
    Some(Cause { count: Some(0), ..Cause::new(Code::NoPuller, detail) })
}

fn named(worker: &str) -> String {
    if worker.is_empty() { "a worker without a name".into() } else { format!("worker {worker}") }
}

/// A length of time in a unit that suits it.
fn length(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::clock::ManualClock;
    use crate::cluster::Pulled;
    use crate::job::{NewJob, Payload, QueueName, Settings, When, WorkerName};
    use crate::store::memory::MemoryStore;
    use crate::store::{Claim, Hold, Pushed, Retention, Store};

    const SECOND: Duration = Duration::from_secs(1);

    fn queue() -> QueueName {
        QueueName::parse("q").unwrap()
    }

    fn job() -> NewJob {
        NewJob::new(queue(), Payload::new(Bytes::from_static(b"1")).unwrap())
    }

    struct Given {
        store: MemoryStore,
        clock: Arc<ManualClock>,
        around: Surroundings,
    }

    impl Given {
        /// One healthy node that leads, and through which somebody waits for a job.
        fn new() -> Self {
            let clock = ManualClock::new();
            let store = MemoryStore::new("n", clock.clone(), Retention::default());
            let last_at = Timestamp::default();
            let pulled = Pulled { queue: queue(), now: 1, busy: 0, last_at };
            let sight = Sight {
                node: "n".into(),
                state: NodeState::Active,
                pulled: Some(pulled),
                is_full: false,
            };
            let condition = Condition::Healthy;
            let around = Surroundings { sights: vec![sight], leaderless_since: None, condition };
            Self { store, clock, around }
        }

        async fn push(&self, job: NewJob) -> JobId {
            let pushed = self.store.push(vec![job]).await.unwrap();
            let Pushed::Inserted { id, .. } = pushed[0] else { panic!("{pushed:?}") };
            id
        }

        async fn claim(&self) {
            let claim = Claim {
                queue: queue(),
                count: 1,
                enough: 1,
                bytes_max: usize::MAX,
                worker: WorkerName::parse("w").unwrap(),
                hold: Hold::Time(SECOND),
            };
            assert_eq!(self.store.claim(vec![claim]).await.unwrap().jobs[0].len(), 1);
        }

        async fn set(&self, settings: Settings) {
            self.store.set_settings(queue(), settings).await.unwrap();
        }

        async fn codes(&self, id: JobId) -> Vec<Code> {
            let standing = self.store.standing(id).await.unwrap().unwrap();
            explain(standing, &self.around).causes.iter().map(|cause| cause.code).collect()
        }
    }

    #[tokio::test]
    async fn a_job_that_nothing_keeps_is_next() {
        let given = Given::new();
        let id = given.push(job()).await;
        assert_eq!(given.codes(id).await, [Code::Next]);
    }

    #[tokio::test]
    async fn what_only_a_leader_does_waits_for_one() {
        let mut given = Given::new();
        given.around.leaderless_since = Some(Timestamp::default());
        let id = given.push(NewJob { when: When::After(SECOND), ..job() }).await;
        assert_eq!(given.codes(id).await, [Code::Scheduled, Code::NoLeader]);
        let ready = given.push(job()).await;
        assert_eq!(given.codes(ready).await, [Code::Next]);
    }

    #[tokio::test]
    async fn nodes_that_drain_give_out_nothing() {
        let mut given = Given::new();
        given.around.sights[0].state = NodeState::Draining;
        let id = given.push(job()).await;
        assert_eq!(given.codes(id).await, [Code::NodesDraining]);
    }

    #[tokio::test]
    async fn a_node_without_its_store_says_so() {
        let mut given = Given::new();
        given.around.condition = Condition::Degraded("no disk".into());
        let id = given.push(job()).await;
        assert_eq!(given.codes(id).await, [Code::NodeDegraded]);
    }

    #[tokio::test]
    async fn a_time_to_live_that_is_over_comes_first() {
        let given = Given::new();
        let id = given.push(NewJob { ttl: Some(SECOND), ..job() }).await;
        given.clock.advance(SECOND);
        assert_eq!(given.codes(id).await, [Code::TtlOver]);
    }

    #[tokio::test]
    async fn limits_of_the_queue_are_told() {
        let given = Given::new();
        let rate = RateRule { limit: 1, per: 60 * SECOND, burst: Some(1) };
        given.set(Settings { concurrency: Some(1), ..Settings::default() }).await;
        given.push(job()).await;
        let id = given.push(job()).await;
        given.claim().await;
        assert_eq!(given.codes(id).await, [Code::QueueFull]);
        given.set(Settings { rate: Some(rate), ..Settings::default() }).await;
        let last = given.push(job()).await;
        given.claim().await;
        assert_eq!(given.codes(last).await, [Code::QueueRate]);
    }

    #[tokio::test]
    async fn a_leased_job_says_that_its_end_is_asked_for() {
        let given = Given::new();
        let id = given.push(job()).await;
        given.claim().await;
        assert_eq!(given.codes(id).await, [Code::Leased]);
        given.store.cancel(id, SECOND).await.unwrap();
        assert_eq!(given.codes(id).await, [Code::Leased, Code::CancelRequested]);
    }

    #[test]
    fn codes_are_ranked_in_the_order_in_which_they_are_listed() {
        assert!(Code::ALL.is_sorted());
    }
}
