//! Carrying out a plan.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::plan::{Begins, Deed, Plan, Step, Target};
use super::watch::{Search, Watch};
use crate::clock::RunClock;
use crate::field::{Edition, Field, FieldError, Ground, Node, READY_IN, Verb};
use crate::history::Fault;

/// At least so long all is well between two faults that do not overlap.
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// How long a node may take to finish what it has begun.
const DRAIN_IN: Duration = Duration::from_secs(45);

/// How long a leader is looked for after all is healed.
const LEADER_IN: Duration = Duration::from_secs(20);

/// Between two rounds of ending sessions.
const CHURN_EVERY: Duration = Duration::from_millis(200);

/// A fault that was not survived, or could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{during}: {source}")]
pub struct NemesisError {
    /// During which fault, of whom.
    pub during: String,
    /// What happened.
    pub source: FieldError,
}

/// Breaks a field as planned.
pub struct Nemesis<'a> {
    field: &'a Field,
    clock: RunClock,
    watch: Watch,
    /// Nodes that something is being done to.
    broken: Mutex<BTreeSet<u8>>,
    tell: &'a (dyn Fn(Fault) + Sync),
}

/// A node that something is being done to, as long as this lives.
struct Broken<'a> {
    number: u8,
    all: &'a Mutex<BTreeSet<u8>>,
}

impl Drop for Broken<'_> {
    fn drop(&mut self) {
        self.all.lock().remove(&self.number);
    }
}

/// A fault that is under way.
struct UnderWay {
    start_ns: u64,
    was_leader: bool,
    search: Option<Arc<Search>>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(search) = &self.search {
            search.end();
        }
    }
}

/// Opens all ways and has frozen nodes go on, also if a run is dropped amid a fault.
struct Mender<'a>(&'a Field);

impl Drop for Mender<'_> {
    fn drop(&mut self) {
        // What can not be mended is found by whoever uses the field next.
        self.0.mend().ok();
    }
}

impl<'a> Nemesis<'a> {
    /// One for this field. Each fault is told when it is over.
    pub fn new(field: &'a Field, clock: RunClock, tell: &'a (dyn Fn(Fault) + Sync)) -> Self {
        let watch = Watch::of(field, clock);
        Self { field, clock, watch, broken: Mutex::default(), tell }
    }

    /// Carries out a plan, from now on, and makes the field whole. When that was, on the clock.
    ///
    /// # Cancel safety
    ///
    /// Ways are opened and frozen nodes go on; what is down stays down until [`Field::heal`].
    ///
    /// # Errors
    ///
    /// If a fault can not be made, or is not survived. What can be healed was.
    pub async fn run(&self, plan: &Plan) -> Result<u64, NemesisError> {
        let _mender = Mender(self.field);
        let done = self.all_steps(plan).await;
        let healed = self.field.heal(READY_IN).await;
        let healed_ns = self.clock.now_ns();
        let during = "healing all that was broken".into();
        done.and(healed.map_err(|source| NemesisError { during, source }))?;
        Ok(healed_ns)
    }

    async fn all_steps(&self, plan: &Plan) -> Result<(), NemesisError> {
        let begun = Instant::now();
        let mut well_since = begun;
        let mut steps = plan.steps.iter().peekable();
        while let Some(step) = steps.next() {
            let start = (begun + step.at).max(well_since + PAUSE_MIN);
            match steps.next_if(|next| next.begins == Begins::DuringPrevious) {
                Some(next) => {
                    let meets = start + next.at.saturating_sub(step.at);
                    tokio::try_join!(self.step(step, start), self.step(next, meets))?;
                }
                None => self.step(step, start).await?,
            }
            well_since = Instant::now();
        }
        Ok(())
    }

    async fn step(&self, step: &Step, start: Instant) -> Result<(), NemesisError> {
        tokio::time::sleep_until(start).await;
        let leader = self.field.leader().await;
        let broken = self.choose(step.target, leader);
        let number = broken.as_ref().map_or(0, |broken| broken.number);
        let name = if number == 0 { "all" } else { self.field.name(number) };
        let done = match step.deed {
            Deed::RollingRestart => self.restart_all().await,
            _ => self.fault(step, number, leader).await,
        };
        let during = || format!("{} of {name}", step.deed.name());
        done.and(self.others_run()).map_err(|source| NemesisError { during: during(), source })
    }

    /// Whom it is done to: nobody to whom something else is being done.
    fn choose(&self, target: Target, leader: Option<u8>) -> Option<Broken<'_>> {
        let mut broken = self.broken.lock();
        let whole = self.field.numbers().filter(|number| !broken.contains(number));
        let whole: Vec<u8> = whole.collect();
        let place = |pick: u32| pick as usize % whole.len().max(1);
        let number = match target {
            Target::All => return None,
            Target::Leader => {
                leader.filter(|leader| whole.contains(leader)).or(whole.first().copied())?
            }
            Target::Node(pick) => *whole.get(place(pick))?,
        };
        broken.insert(number);
        Some(Broken { number, all: &self.broken })
    }

    /// Nodes to which nothing is being done must be there.
    fn others_run(&self) -> Result<(), FieldError> {
        let broken = self.broken.lock().clone();
        let whole = self.field.numbers().filter(|number| !broken.contains(number));
        for node in whole.filter_map(|number| self.field.node(number).ok()) {
            node.still_runs()?;
        }
        Ok(())
    }

    /// Before something is done to `number`, or to all if it is 0.
    fn begin(&self, deed: Deed, number: u8, leader: Option<u8>) -> UnderWay {
        // A node that is alone is not replaced by another.
        let hit = leader.filter(|leader| number == 0 || number == *leader);
        let hit = hit.filter(|_| self.field.ground() == Ground::Cluster);
        let deposed = hit.filter(|_| deed.may_depose());
        let search = deposed.map(|leader| self.watch.search(leader));
        UnderWay { start_ns: self.clock.now_ns(), was_leader: hit.is_some(), search }
    }

    /// When it is over: waits for a leader, if the leader was hit, and tells of the fault.
    async fn end(&self, name: String, number: u8, under_way: UnderWay, end_ns: u64) {
        let led_again_ns = match &under_way.search {
            Some(search) => search.led_again_ns(LEADER_IN).await,
            None => 0,
        };
        let UnderWay { start_ns, was_leader, .. } = under_way;
        (self.tell)(Fault { start_ns, end_ns, kind: name, node: number, was_leader, led_again_ns });
    }

    /// One fault, from its begin until all is well.
    async fn fault(&self, step: &Step, number: u8, leader: Option<u8>) -> Result<(), FieldError> {
        let under_way = self.begin(step.deed, number, leader);
        let mut done = self.strike(step, number).await;
        if done.is_ok() {
            done = self.undo(step, number).await;
        }
        let end_ns = self.clock.now_ns();
        if let Some(search) = &under_way.search {
            search.healed();
        }
        let well = match (&done, self.field.node(number.max(1))) {
            (Err(_), _) => Ok(()),
            (Ok(()), Ok(node)) if number > 0 => node.ready(READY_IN).await,
            (Ok(()), _) => self.field.ready(READY_IN).await,
        };
        self.end(step.deed.name(), number, under_way, end_ns).await;
        done.and(well)
    }

    /// Breaks it, and leaves it broken for as long as planned.
    async fn strike(&self, step: &Step, number: u8) -> Result<(), FieldError> {
        let field = self.field;
        match step.deed {
            Deed::Kill => field.node(number)?.kill().await?,
            Deed::Freeze => field.node(number)?.freeze().await?,
            Deed::Partition(cut) => field.database_way(number)?.cut(cut).await?,
            Deed::DatabaseDelay(delay) => field.database_way(number)?.delay(delay)?,
            Deed::ClientPartition(cut) => field.clients(number).set(Verb::Hold(cut)),
            Deed::ClientDelay(delay) => field.clients(number).set(Verb::Delay(delay)),
            Deed::ClientReset => field.clients(number).reset(),
            Deed::ClientHalfClose(direction) => field.clients(number).half_close(direction),
            Deed::ClientCut(direction, bytes) => {
                field.clients(number).set(Verb::CutAfter(direction, bytes));
            }
            Deed::BackendKill(pick) => field.postgres()?.kill_backend(pick as usize).await?,
            Deed::PostgresRestart(stop) => field.postgres()?.stop(stop).await?,
            Deed::PostmasterKill => field.postgres()?.kill().await?,
            Deed::LeaderTerminate => field.postgres()?.terminate_leader().await.map(drop)?,
            Deed::PoolChurn => return self.churn(step.lasts).await,
            Deed::RowLock => return field.postgres()?.lock_ready_rows(step.lasts).await,
            Deed::ClockOffset(seconds) => self.restart_with_clock(number, seconds).await?,
            Deed::Drain => return self.drain(number).await,
            // It is a fault of each node in turn.
            Deed::RollingRestart => {}
        }
        tokio::time::sleep(step.lasts).await;
        Ok(())
    }

    /// Makes whole what was broken. It need not be well yet.
    async fn undo(&self, step: &Step, number: u8) -> Result<(), FieldError> {
        let field = self.field;
        match step.deed {
            Deed::Kill => field.node(number)?.start(),
            Deed::Freeze => field.node(number)?.thaw(),
            Deed::Partition(_) | Deed::DatabaseDelay(_) => field.database_way(number)?.mend(),
            Deed::ClientPartition(_) | Deed::ClientDelay(_) | Deed::ClientCut(..) => {
                field.clients(number).set(Verb::Pass);
                Ok(())
            }
            Deed::PostgresRestart(_) | Deed::PostmasterKill => field.postgres()?.start().await,
            Deed::ClockOffset(_) => self.restart_with_clock(number, 0).await,
            Deed::ClientReset
            | Deed::ClientHalfClose(_)
            | Deed::BackendKill(_)
            | Deed::LeaderTerminate
            | Deed::PoolChurn
            | Deed::RowLock
            | Deed::RollingRestart
            | Deed::Drain => Ok(()),
        }
    }

    async fn churn(&self, lasts: Duration) -> Result<(), FieldError> {
        let until = Instant::now() + lasts;
        while Instant::now() < until {
            self.field.postgres()?.churn().await?;
            tokio::time::sleep(CHURN_EVERY).await;
        }
        Ok(())
    }

    async fn restart_with_clock(&self, number: u8, seconds: i64) -> Result<(), FieldError> {
        let node = self.field.node(number)?;
        node.set_clock_offset(seconds)?;
        restart(node).await?;
        node.ready(READY_IN).await
    }

    /// Each node in turn, with the other release if there is one.
    async fn restart_all(&self) -> Result<(), FieldError> {
        for number in self.field.numbers() {
            let node = self.field.node(number)?;
            let under_way = self.begin(Deed::RollingRestart, number, self.field.leader().await);
            if node.has_other_edition() {
                node.set_edition(match node.edition() {
                    Edition::First => Edition::Other,
                    Edition::Other => Edition::First,
                })?;
            }
            let done = restart(node).await;
            let end_ns = self.clock.now_ns();
            let done = match done {
                Ok(()) => node.ready(READY_IN).await,
                Err(error) => Err(error),
            };
            let name = Deed::RollingRestart.name();
            self.end(name, number, under_way, end_ns).await;
            done?;
        }
        Ok(())
    }

    /// Tells a node that is not ours to leave, and waits until it is there in another life.
    async fn drain(&self, number: u8) -> Result<(), FieldError> {
        let (id, life) = self.life(number).await?;
        let client = self.field.client(number).await?;
        let failed = |source| FieldError::Client { what: format!("draining {id}"), source };
        client.drain(id.clone()).await.map_err(failed)?;
        client.close().await;
        let within = DRAIN_IN + READY_IN;
        let until = Instant::now() + within;
        while self.life(number).await.is_ok_and(|(_, now)| now == life) {
            if Instant::now() > until {
                let what = format!("{id} leaves, and somebody starts it again");
                return Err(FieldError::NotInTime { what, within, log: String::new() });
            }
            tokio::time::sleep(PAUSE_MIN).await;
        }
        Ok(())
    }

    /// Of a node that is not ours: what it is called, and which life of it this is.
    async fn life(&self, number: u8) -> Result<(String, i64), FieldError> {
        let client = self.field.client(number).await?;
        let id = client.node().node_id;
        let nodes = client.nodes().await;
        client.close().await;
        let failed =
            |source| FieldError::Client { what: format!("asking {id} who is there"), source };
        let nodes = nodes.map_err(failed)?;
        let life = nodes.iter().find(|node| node.id == id).map_or(0, |node| node.incarnation);
        Ok((id, life))
    }
}

/// Has a node finish what it has begun, and starts it again.
async fn restart(node: &Node) -> Result<(), FieldError> {
    node.stop(DRAIN_IN).await?;
    node.start()
}
