//! Schedules.

use std::time::Duration;

use rusqlite::params;

use super::row;
use super::tables::Tables;
use crate::job::{JobId, ScheduleName, ScheduleSpec, Timestamp};
use crate::limits;
use crate::store::columns::sql_id;
use crate::store::schedules::{
    Plan, SCHEDULES_AT_ONCE, effects_of, manual_job, parse_spec, sql_spec,
};
use crate::store::{
    DUTY_ROWS_MAX, DutyReport, FIRES_KEPT, Fire, FireOutcome, Pausing, Pushed, PutSchedule,
    Schedule, SchedulesWanted,
};

const SELECT: &str = "
    SELECT
        name, spec, payload, next_at, paused_at, runs, missed, last_slot, last_job, created_at
    FROM cron";

const REPLACE: &str = "
    INSERT OR REPLACE INTO cron (
        name, spec, payload, next_at, paused_at, runs, missed, last_slot, last_job, created_at
    )
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

impl Tables {
    pub(super) fn put_schedule(
        &mut self,
        name: ScheduleName,
        spec: ScheduleSpec,
    ) -> rusqlite::Result<PutSchedule> {
        if let Some(schedule) = self.schedule(&name)? {
            self.write_schedule(&schedule.changed(spec, self.now))?;
            return Ok(PutSchedule::Updated);
        }
        let sql = "SELECT count(*) FROM cron";
        let count: Option<usize> = self.one(sql, [], |row| row.get(0))?;
        if count.unwrap_or(0) >= limits::SCHEDULES_MAX {
            return Ok(PutSchedule::TooMany);
        }
        self.write_schedule(&Schedule::new(name, spec, self.now))?;
        Ok(PutSchedule::Created)
    }

    fn schedule(&self, name: &ScheduleName) -> rusqlite::Result<Option<Schedule>> {
        Ok(self.list_schedules(&SchedulesWanted::One(name.clone()))?.pop())
    }

    pub(super) fn list_schedules(
        &self,
        which: &SchedulesWanted,
    ) -> rusqlite::Result<Vec<Schedule>> {
        match which {
            SchedulesWanted::One(name) => {
                self.all(&format!("{SELECT} WHERE name = ?1"), [name.as_str()], read)
            }
            SchedulesWanted::After(after, limit) => {
                let sql = format!("{SELECT} WHERE name > ?1 ORDER BY name LIMIT ?2");
                let after = after.as_ref().map_or("", |name| name.as_str());
                self.all(&sql, params![after, limit], read)
            }
        }
    }

    fn write_schedule(&self, schedule: &Schedule) -> rusqlite::Result<()> {
        self.execute(
            REPLACE,
            params![
                schedule.name.as_str(),
                sql_spec(&schedule.spec),
                &schedule.spec.job.payload.bytes[..],
                schedule.next_at.map(|at| at.0),
                schedule.paused_at.map(|at| at.0),
                schedule.runs,
                schedule.missed,
                schedule.last.map(|(slot, _)| slot.0),
                schedule.last.map(|(_, job)| sql_id(job)),
                schedule.created_at.0,
            ],
        )
    }

    pub(super) fn delete_schedule(&mut self, name: &ScheduleName) -> rusqlite::Result<bool> {
        self.execute("DELETE FROM cron_fire WHERE name = ?1", [name.as_str()])?;
        let sql = "DELETE FROM cron WHERE name = ?1 RETURNING 1";
        Ok(self.one(sql, [name.as_str()], |_| Ok(()))?.is_some())
    }

    pub(super) fn pause_schedule(
        &mut self,
        name: ScheduleName,
        pausing: Pausing,
    ) -> rusqlite::Result<bool> {
        let Some(schedule) = self.schedule(&name)? else { return Ok(false) };
        self.write_schedule(&schedule.paused(pausing, self.now))?;
        Ok(true)
    }

    pub(super) fn run_schedule(&mut self, name: ScheduleName) -> rusqlite::Result<Option<Pushed>> {
        let Some(mut schedule) = self.schedule(&name)? else { return Ok(None) };
        let now = self.now;
        let pushed = self.push(vec![manual_job(&schedule, now)])?[0];
        if let Pushed::Inserted { id, .. } = pushed {
            schedule.runs += 1;
            schedule.last = Some((now, id));
            self.write_schedule(&schedule)?;
        }
        let sql = "SELECT 1 FROM cron_fire WHERE name = ?1 AND slot = ?2";
        let mut slot = now;
        while self.one(sql, params![name.as_str(), slot.0], |_| Ok(()))?.is_some() {
            slot.0 += 1;
        }
        let (outcome, job) = (FireOutcome::Manual, pushed.id());
        self.write_fire(&name, &Fire { slot, fired_at: now, outcome, job, count: 1 })?;
        Ok(Some(pushed))
    }

    fn write_fire(&self, name: &ScheduleName, fire: &Fire) -> rusqlite::Result<()> {
        let sql = "INSERT OR IGNORE INTO cron_fire (name, slot, fired_at, outcome, job_id, count)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let (outcome, job) = (fire.outcome.name(), fire.job.map(sql_id));
        let (slot, fired_at) = (fire.slot.0, fire.fired_at.0);
        self.execute(sql, params![name.as_str(), slot, fired_at, outcome, job, fire.count])
    }

    pub(super) fn fires(
        &self,
        name: &ScheduleName,
        limit: usize,
    ) -> rusqlite::Result<Option<Vec<Fire>>> {
        if self.schedule(name)?.is_none() {
            return Ok(None);
        }
        let sql = "SELECT slot, fired_at, outcome, job_id, count FROM cron_fire
                   WHERE name = ?1 ORDER BY slot DESC LIMIT ?2";
        let read = |row: &rusqlite::Row<'_>| {
            let outcome = row::parsed(row, 2, |name| FireOutcome::parse(name).ok_or(()))?;
            Ok(Fire {
                slot: Timestamp(row.get(0)?),
                fired_at: Timestamp(row.get(1)?),
                outcome: outcome.ok_or(rusqlite::Error::InvalidQuery)?,
                job: row::maybe_job_id(row, 3)?,
                count: row.get(4)?,
            })
        };
        self.all(sql, params![name.as_str(), limit], read).map(Some)
    }

    pub(super) fn cron(&mut self) -> rusqlite::Result<DutyReport> {
        let sql = format!(
            "{SELECT} WHERE next_at <= ?1 AND paused_at IS NULL ORDER BY next_at, name LIMIT ?2"
        );
        let due = self.all(&sql, params![self.now.0, SCHEDULES_AT_ONCE], read)?;
        let count = due.len();
        let mut live: Vec<JobId> = Vec::new();
        for (_, job) in due.iter().filter_map(|schedule| schedule.last) {
            if self.state(job)?.is_some_and(|state| !state.is_final()) {
                live.push(job);
            }
        }
        let plan = Plan::new(due, self.now, |job| live.contains(&job));
        let jobs = plan.jobs.clone();
        let pushed = self.push(jobs.clone())?;
        let (schedules, fires) = plan.conclude(&pushed);
        for schedule in &schedules {
            self.write_schedule(schedule)?;
        }
        for (name, fire) in &fires {
            self.write_fire(name, fire)?;
        }
        let effects = effects_of(&jobs, &pushed);
        let next = match count >= SCHEDULES_AT_ONCE {
            true => Some(Duration::ZERO),
            false => {
                let sql = "SELECT min(next_at) FROM cron
                           WHERE next_at IS NOT NULL AND paused_at IS NULL";
                self.earliest(sql)?.map(|at| at.since(self.now))
            }
        };
        Ok(DutyReport { effects, lost: Vec::new(), next })
    }

    pub(super) fn forget_fires(&self) -> rusqlite::Result<()> {
        let sql = "DELETE FROM cron_fire WHERE (name, slot) IN (
                       SELECT name, slot FROM cron_fire WHERE fired_at <= ?1
                       ORDER BY fired_at LIMIT ?2
                   )";
        let until = self.now.0.saturating_sub(crate::store::columns::sql_millis(FIRES_KEPT));
        self.execute(sql, params![until, DUTY_ROWS_MAX])
    }
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Schedule> {
    let payload = row::bytes(row, 2)?;
    let spec = row::parsed(row, 1, |text| parse_spec(text, payload.clone()))?;
    let name = row::parsed(row, 0, ScheduleName::parse)?;
    let last = row::time(row, 7)?.zip(row::maybe_job_id(row, 8)?);
    Ok(Schedule {
        name: name.ok_or(rusqlite::Error::InvalidQuery)?,
        spec: spec.ok_or(rusqlite::Error::InvalidQuery)?,
        next_at: row::time(row, 3)?,
        paused_at: row::time(row, 4)?,
        runs: row.get(5)?,
        missed: row.get(6)?,
        last,
        created_at: Timestamp(row.get(9)?),
    })
}
