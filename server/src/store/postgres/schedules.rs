//! Schedules.
//!
//! Any node changes them; only the leader fires them, behind its fence. The job of a slot, the
//! slot's row and the schedule's next slot are one transaction, so that a slot makes one job
//! whoever leads.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::lane::{Failure, Tx};
use super::row::{self, get, job_id, maybe_job_id, now, parsed, time};
use super::settle::Note;
use super::{PostgresStore, retrying};
use crate::job::{JobId, NewJob, QueueName, ScheduleName, ScheduleSpec, Timestamp};
use crate::limits;
use crate::mutants::{self, Mutant, altered};
use crate::store::columns::sql_id;
use crate::store::schedules::{
    Plan, SCHEDULES_AT_ONCE, effects_of, manual_job, parse_spec, sql_spec,
};
use crate::store::{
    DutyReport, Fire, FireOutcome, Pausing, Pushed, PutSchedule, Schedule, SchedulesWanted,
};

macro_rules! select {
    ($which:literal) => {
        concat!(
            "
    SELECT
        name, spec, payload, next_at, paused_at, runs, missed, last_slot, last_job, created_at
    FROM cron ",
            $which
        )
    };
}

const ONE: &str = select!("WHERE name = $1");

const AFTER: &str = select!("WHERE name > $1 ORDER BY name LIMIT $2");

const LOCK: &str = select!("WHERE name = $1 FOR UPDATE");

const DUE: &str = select!(
    "
    WHERE next_at IS NOT NULL AND next_at <= $1 AND paused_at IS NULL
    ORDER BY next_at, name
    LIMIT $2
    FOR UPDATE"
);

const WRITE: &str = "
    INSERT INTO cron (
        name, spec, payload, next_at, paused_at, runs, missed, last_slot, last_job, created_at
    )
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
    ON CONFLICT (name) DO UPDATE
    SET spec = excluded.spec,
        payload = excluded.payload,
        next_at = excluded.next_at,
        paused_at = excluded.paused_at,
        runs = excluded.runs,
        missed = excluded.missed,
        last_slot = excluded.last_slot,
        last_job = excluded.last_job";

const WRITE_FIRE: &str = "
    INSERT INTO cron_fire (name, slot, fired_at, outcome, job_id, count)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT DO NOTHING";

const FIRES: &str = "
    SELECT slot, fired_at, outcome, job_id, count
    FROM cron_fire
    WHERE name = $1
    ORDER BY slot DESC
    LIMIT $2";

const LIVE: &str = "SELECT id FROM job WHERE id = ANY($1::bigint[])";

const NEXT: &str = "
    SELECT next_at AS next
    FROM cron
    WHERE next_at IS NOT NULL AND paused_at IS NULL
    ORDER BY next_at, name
    LIMIT 1";

/// New schedules are counted one after the other.
const ONE_AT_A_TIME: &str =
    "SELECT pg_advisory_xact_lock(hashtextextended('batonq cron ' || current_schema(), 0))";

fn damaged() -> Failure {
    Failure::NotDone("the tables are damaged: a schedule".into())
}

fn read(row: &Row) -> Result<Schedule, Failure> {
    let name = parsed(row, "name", ScheduleName::parse)?.ok_or_else(damaged)?;
    let payload = row::bytes(row, "payload");
    let spec = parsed(row, "spec", |text| parse_spec(text, payload))?;
    let number = |column| u64::try_from(get::<i64>(row, column)).unwrap_or(0);
    Ok(Schedule {
        name,
        spec: spec.ok_or_else(damaged)?,
        next_at: time(row, "next_at"),
        paused_at: time(row, "paused_at"),
        runs: number("runs"),
        missed: number("missed"),
        last: time(row, "last_slot").zip(maybe_job_id(row, "last_job")),
        created_at: Timestamp(get(row, "created_at")),
    })
}

async fn write(tx: &mut Tx<'_>, schedule: &Schedule) -> Result<(), Failure> {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let payload = &schedule.spec.job.payload.bytes[..];
    let params: [&(dyn ToSql + Sync); 10] = [
        &schedule.name.as_str(),
        &sql_spec(&schedule.spec),
        &payload,
        &schedule.next_at.map(|at| at.0),
        &schedule.paused_at.map(|at| at.0),
        &number(schedule.runs),
        &number(schedule.missed),
        &schedule.last.map(|(slot, _)| slot.0),
        &schedule.last.map(|(_, job)| sql_id(job)),
        &schedule.created_at.0,
    ];
    tx.query(WRITE, &params).await.map(drop)
}

async fn write_fire(tx: &mut Tx<'_>, name: &ScheduleName, fire: &Fire) -> Result<(), Failure> {
    let count = i64::try_from(fire.count).unwrap_or(i64::MAX);
    let params: [&(dyn ToSql + Sync); 6] = [
        &name.as_str(),
        &fire.slot.0,
        &fire.fired_at.0,
        &fire.outcome.name(),
        &fire.job.map(sql_id),
        &count,
    ];
    tx.query(WRITE_FIRE, &params).await.map(drop)
}

async fn lock(tx: &mut Tx<'_>, name: &ScheduleName) -> Result<Option<Schedule>, Failure> {
    tx.query(LOCK, &[&name.as_str()]).await?.first().map(read).transpose()
}

async fn clock(tx: &mut Tx<'_>) -> Result<Timestamp, Failure> {
    Ok(now(&tx.query("SELECT now_ms() AS now", &[]).await?[0]))
}

/// What a part of the duty has done.
pub(super) struct Fired {
    pub(super) report: DutyReport,
    pub(super) count: usize,
    pub(super) notes: Vec<Note>,
}

impl PostgresStore {
    pub(super) async fn put_cron(
        &self,
        name: ScheduleName,
        spec: ScheduleSpec,
    ) -> Result<PutSchedule, Failure> {
        let mut tx = self.pool.begin().await?;
        tx.query(ONE_AT_A_TIME, &[]).await?;
        let now = clock(&mut tx).await?;
        if let Some(schedule) = lock(&mut tx, &name).await? {
            write(&mut tx, &schedule.changed(spec, now)).await?;
            tx.commit(&[]).await?;
            return Ok(PutSchedule::Updated);
        }
        let count: i64 =
            get(&tx.query("SELECT count(*) AS count FROM cron", &[]).await?[0], "count");
        if count >= limits::SCHEDULES_MAX as i64 {
            return Ok(PutSchedule::TooMany);
        }
        write(&mut tx, &Schedule::new(name, spec, now)).await?;
        tx.commit(&[]).await?;
        Ok(PutSchedule::Created)
    }

    pub(super) async fn list_cron(
        &self,
        which: &SchedulesWanted,
    ) -> Result<Vec<Schedule>, Failure> {
        let rows = match which {
            SchedulesWanted::One(name) => self.pool.read((ONE, &[&name.as_str()])).await?,
            SchedulesWanted::After(after, limit) => {
                let after = after.as_ref().map_or("", |name| name.as_str());
                let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
                self.pool.read((AFTER, &[&after, &limit])).await?
            }
        };
        rows.iter().map(read).collect()
    }

    pub(super) async fn delete_cron(&self, name: &ScheduleName) -> Result<bool, Failure> {
        let name = name.as_str();
        let tx = self.pool.begin().await?;
        let gone = tx
            .commit(&[
                ("DELETE FROM cron WHERE name = $1 RETURNING name", &[&name]),
                ("DELETE FROM cron_fire WHERE name = $1", &[&name]),
            ])
            .await?;
        Ok(!gone[0].is_empty())
    }

    pub(super) async fn pause_cron(
        &self,
        name: &ScheduleName,
        pausing: Pausing,
    ) -> Result<bool, Failure> {
        let mut tx = self.pool.begin().await?;
        let Some(schedule) = lock(&mut tx, name).await? else { return Ok(false) };
        let now = clock(&mut tx).await?;
        write(&mut tx, &schedule.paused(pausing, now)).await?;
        tx.commit(&[]).await?;
        Ok(true)
    }

    pub(super) async fn run_cron(&self, name: &ScheduleName) -> Result<Option<Pushed>, Failure> {
        retrying!(self.try_run_cron(name))
    }

    async fn try_run_cron(&self, name: &ScheduleName) -> Result<Option<Pushed>, Failure> {
        let mut tx = self.pool.begin().await?;
        let Some(mut schedule) = lock(&mut tx, name).await? else { return Ok(None) };
        let now = clock(&mut tx).await?;
        let jobs = [manual_job(&schedule, now)];
        let queues = self.queues.ids(&self.pool, jobs.iter().map(|job| &job.queue)).await?;
        let pushed = self.push_in(&mut tx, &jobs, &queues).await?;
        if let Pushed::Inserted { id, .. } = pushed[0] {
            schedule.runs += 1;
            schedule.last = Some((now, id));
            write(&mut tx, &schedule).await?;
        }
        let sql = "SELECT slot FROM cron_fire WHERE name = $1 AND slot >= $2 ORDER BY slot";
        let taken = tx.query(sql, &[&name.as_str(), &now.0]).await?;
        let mut slot = now;
        for row in &taken {
            if get::<i64>(row, "slot") == slot.0 {
                slot.0 += 1;
            }
        }
        let (outcome, job) = (FireOutcome::Manual, pushed[0].id());
        write_fire(&mut tx, name, &Fire { slot, fired_at: now, outcome, job, count: 1 }).await?;
        tx.commit(&[]).await?;
        self.note_pushed(&jobs, &queues, &pushed);
        Ok(Some(pushed[0]))
    }

    pub(super) async fn list_fires(
        &self,
        name: &ScheduleName,
        limit: usize,
    ) -> Result<Option<Vec<Fire>>, Failure> {
        if self.list_cron(&SchedulesWanted::One(name.clone())).await?.is_empty() {
            return Ok(None);
        }
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.pool.read((FIRES, &[&name.as_str(), &limit])).await?;
        let fire = |row: &Row| {
            let outcome = parsed(row, "outcome", |name| FireOutcome::parse(name).ok_or(()))?;
            Ok(Fire {
                slot: Timestamp(get(row, "slot")),
                fired_at: Timestamp(get(row, "fired_at")),
                outcome: outcome.ok_or_else(damaged)?,
                job: maybe_job_id(row, "job_id"),
                count: u64::try_from(get::<i64>(row, "count")).unwrap_or(0),
            })
        };
        rows.iter().map(fire).collect::<Result<_, _>>().map(Some)
    }

    /// Fires the schedules whose slots have come, in the leader's transaction.
    pub(super) async fn fire(&self, tx: &mut Tx<'_>, now: Timestamp) -> Result<Fired, Failure> {
        let most = SCHEDULES_AT_ONCE as i64;
        let sql = altered(Mutant::FollowerFiresCron, DUE, "FOR UPDATE", "");
        let rows = tx.query(sql, &[&now.0, &most]).await?;
        let due: Vec<Schedule> = rows.iter().map(read).collect::<Result<_, _>>()?;
        let count = due.len();
        let last: Vec<i64> =
            due.iter().filter_map(|schedule| schedule.last).map(|(_, job)| sql_id(job)).collect();
        let live: Vec<JobId> =
            tx.query(LIVE, &[&last]).await?.iter().map(|row| job_id(row, "id")).collect();
        let plan = Plan::new(due, now, |job| live.contains(&job));
        let jobs: Vec<NewJob> = plan.jobs.clone();
        let names = jobs.iter().map(|job| &job.queue);
        let queues = self.queues.ids(&self.pool, names.collect::<Vec<&QueueName>>().into_iter());
        let queues = queues.await?;
        let pushed =
            if jobs.is_empty() { Vec::new() } else { self.push_in(tx, &jobs, &queues).await? };
        let (schedules, fires) = plan.conclude(&pushed);
        for schedule in &schedules {
            write(tx, schedule).await?;
        }
        for (name, fire) in &fires {
            write_fire(tx, name, fire).await?;
        }
        let next = match count >= SCHEDULES_AT_ONCE {
            true => Some(Duration::ZERO),
            false => {
                let rows = tx.query(NEXT, &[]).await?;
                rows.first().map(|row| Timestamp(get(row, "next")).since(now))
            }
        };
        let ready = jobs.iter().zip(&pushed).filter_map(|(job, pushed)| match pushed {
            Pushed::Inserted { id, state: crate::job::State::Ready, .. } => {
                Some((queues[&job.queue], job.priority, sql_id(*id)))
            }
            _ => None,
        });
        let notes = ready.collect();
        let effects = effects_of(&jobs, &pushed);
        let next = mutants::sooner(Mutant::FollowerFiresCron, next);
        let report = DutyReport { effects, lost: Vec::new(), next };
        Ok(Fired { report, count: fires.len(), notes })
    }
}
