//! Looking at jobs and queues.

use std::collections::HashMap;
use std::sync::LazyLock;

use rusqlite::types::ToSql;
use rusqlite::{Connection, Row, params};

use super::row;
use super::tables::{QueueId, Tables};
use crate::job::{JobId, Payload, QueueName, Reason, State, Timestamp, UniqueKey, WorkerName};
use crate::limits;
use crate::store::columns::{json, sql_id};
use crate::store::{Attempt, Job, JobFilter, JobPage, Progress, Queue};

/// Both tables in the same columns; [`read_job`] reads them. No payload, no result.
const LIVE_COLUMNS: &str = "
    j.id, j.queue_id,
    CASE
        WHEN j.is_blocked THEN 'blocked'
        WHEN j.run_at IS NOT NULL THEN 'scheduled'
        WHEN j.place <= (
            SELECT r.place + r.more FROM ready r
            WHERE r.queue_id = j.queue_id AND r.gate = j.gate AND r.rank = -j.priority
            AND r.place <= j.place
            ORDER BY r.place DESC LIMIT 1
        ) THEN 'ready'
        ELSE 'leased'
    END AS state,
    NULL AS reason, j.priority, j.created_at, NULL AS finished_at, j.max_attempts, j.attempts,
    j.delivery, j.crashes, j.run_at, j.expires_at, j.timeout_ms, j.replay_of, j.replayed_as,
    j.backoff, j.unique_key, j.tags, j.options, 0 AS is_dropped";
const FINISHED_COLUMNS: &str = "
    j.id, j.queue_id, j.state, j.reason, j.priority, j.created_at, j.finished_at, j.max_attempts,
    j.attempts, j.deliveries, j.crashes, NULL AS run_at, j.expires_at, j.timeout_ms, j.replay_of,
    j.replayed_as, j.backoff, j.unique_key, j.tags, j.options, j.is_dropped";
const COLUMNS: usize = 21;

/// The jobs of a list with their payloads and results, from both tables.
static WHOLE: LazyLock<[String; 2]> = LazyLock::new(|| {
    let wanted = "FROM json_each(?1) w CROSS JOIN";
    [
        format!(
            "SELECT {LIVE_COLUMNS}, j.content_type, j.payload, NULL
             {wanted} job j ON j.id = w.value"
        ),
        format!(
            "SELECT {FINISHED_COLUMNS}, j.content_type, j.payload, j.result
             {wanted} finished j ON j.id = w.value"
        ),
    ]
});

const LAST_ERRORS: &str = "
    SELECT a.job_id, a.code, a.message
    FROM json_each(?1) w
    CROSS JOIN attempt_log a ON a.job_id = w.value AND a.delivery = (
        SELECT delivery FROM attempt_log
        WHERE job_id = w.value AND ending NOT IN ('released', 'snoozed')
        ORDER BY delivery DESC
        LIMIT 1
    )";

const PROGRESSES: &str = "
    SELECT p.job_id, p.percent, p.message
    FROM json_each(?1) w
    CROSS JOIN progress p ON p.job_id = w.value";

const CANCELS: &str = "
    SELECT c.job_id, c.requested_at, c.force_at
    FROM json_each(?1) w
    CROSS JOIN cancel c ON c.job_id = w.value";

/// Earlier versions wrote it to the job's own row.
const COMPLETED_BY: &str = "
    SELECT coalesce(k.node, f.node), coalesce(k.worker, f.worker),
        coalesce(k.started_at, f.started_at)
    FROM finished f
    LEFT JOIN kept k
    ON k.queue_id = f.queue_id AND k.finished_at = f.finished_at
    AND k.first_id <= f.id AND k.last_id >= f.id
    WHERE f.id = ?1";

impl Tables {
    /// Where a job is; `None`: there is no such job.
    pub(super) fn state(&self, id: JobId) -> rusqlite::Result<Option<State>> {
        let sql = "SELECT state FROM finished WHERE id = ?1";
        let finished = self.one(sql, [sql_id(id)], |row| row::parsed(row, 0, parse_state))?;
        if let Some(state) = finished {
            return Ok(state);
        }
        let is_live = self.one("SELECT 1 FROM job WHERE id = ?1", [sql_id(id)], |_| Ok(()))?;
        is_live.map(|()| self.live_state(id)).transpose()
    }

    /// Where a job is that has a row in `job`.
    pub(super) fn live_state(&self, id: JobId) -> rusqlite::Result<State> {
        if self.leases.held(id).is_some() {
            return Ok(State::Leased);
        }
        let sql = "SELECT is_blocked, run_at IS NOT NULL FROM job WHERE id = ?1";
        let found = self.one(sql, [sql_id(id)], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(match found {
            Some((true, _)) => State::Blocked,
            Some((false, true)) => State::Scheduled,
            _ => State::Ready,
        })
    }

    pub(super) fn job(&self, id: JobId) -> rusqlite::Result<Option<Job>> {
        Ok(self.jobs_by_id(&[id])?.pop().flatten())
    }

    /// Several jobs, in the order of `ids`: one statement for each table, however many they are.
    pub(super) fn jobs_by_id(&self, ids: &[JobId]) -> rusqlite::Result<Vec<Option<Job>>> {
        let wanted = json(&ids);
        let mut found: HashMap<JobId, Job> = HashMap::with_capacity(ids.len());
        for sql in &*WHOLE {
            let jobs = self.all(sql, [&wanted], |row| self.read_whole(row))?;
            found.extend(jobs.into_iter().map(|job| (job.id, job)));
        }
        let read = |row: &Row<'_>| Ok((row::job_id(row, 0)?, (row.get(1)?, row.get(2)?)));
        for (id, error) in self.all(LAST_ERRORS, [&wanted], read)? {
            found.entry(id).and_modify(|job| job.error = Some(error));
        }
        self.add_leases(&mut found)?;
        // One may be asked for twice.
        Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
    }

    fn read_whole(&self, row: &Row<'_>) -> rusqlite::Result<Job> {
        let mut job = read_job(row, |queue| self.details(queue).name.clone())?;
        if !job.is_dropped {
            job.payload = Some(row::payload(row, COLUMNS, COLUMNS + 1)?);
        }
        let has_result = row.get_ref(COLUMNS + 2)?.as_blob().is_ok();
        job.result = has_result.then(|| row::bytes(row, COLUMNS + 2)).transpose()?;
        Ok(job)
    }

    /// Adds what belongs to the leases of those that are leased.
    fn add_leases(&self, jobs: &mut HashMap<JobId, Job>) -> rusqlite::Result<()> {
        let mut leased: Vec<JobId> = Vec::new();
        for job in jobs.values_mut() {
            let Some(held) = self.leases.held(job.id) else { continue };
            let lease = self.leases.row(held.row);
            job.lease_until = Some(lease.expires_at);
            job.worker = Some(lease.worker.clone());
            leased.push(job.id);
        }
        if leased.is_empty() {
            return Ok(());
        }
        let leased = json(&leased);
        let read = |row: &Row<'_>| {
            let progress = Progress { percent: row.get(1)?, message: row.get(2)? };
            Ok((row::job_id(row, 0)?, progress))
        };
        for (id, progress) in self.all(PROGRESSES, [&leased], read)? {
            jobs.entry(id).and_modify(|job| job.progress = Some(progress));
        }
        let read = |row: &Row<'_>| {
            let times = (Timestamp(row.get(1)?), Timestamp(row.get(2)?));
            Ok((row::job_id(row, 0)?, times))
        };
        for (id, times) in self.all(CANCELS, [&leased], read)? {
            jobs.entry(id).and_modify(|job| job.cancel = Some(times));
        }
        Ok(())
    }

    pub(super) fn timeline(&self, id: JobId) -> rusqlite::Result<Option<(Job, Vec<Attempt>)>> {
        let Some(job) = self.job(id)? else { return Ok(None) };
        let sql = "SELECT delivery, attempt, node, worker, started_at, ended_at, ending, code,
                          message
                   FROM attempt_log WHERE job_id = ?1 ORDER BY delivery DESC LIMIT ?2";
        let mut attempts: Vec<Attempt> = self.last_attempt(&job)?.into_iter().collect();
        let earlier = limits::TIMELINE_MAX - attempts.len();
        attempts.extend(self.all(sql, params![sql_id(id), earlier], read_attempt)?);
        attempts.reverse();
        Ok(Some((job, attempts)))
    }

    /// The attempt that runs, or that completed the job.
    pub(super) fn last_attempt(&self, job: &Job) -> rusqlite::Result<Option<Attempt>> {
        let attempt = Attempt {
            delivery: job.deliveries,
            attempt: job.attempts + 1,
            node: String::new(),
            worker: WorkerName::parse("").expect("it may be empty"),
            started_at: job.created_at,
            ended_at: job.finished_at,
            ending: String::new(),
            code: String::new(),
            message: String::new(),
        };
        if let Some(held) = self.leases.held(job.id) {
            let lease = self.leases.row(held.row);
            let (node, worker) = (lease.node.clone(), lease.worker.clone());
            return Ok(Some(Attempt { node, worker, started_at: lease.started_at, ..attempt }));
        }
        if job.state != State::Completed {
            return Ok(None);
        }
        self.one(COMPLETED_BY, [sql_id(job.id)], |row| {
            Ok(Attempt {
                node: row.get(0)?,
                worker: row::parsed(row, 1, WorkerName::parse)?.unwrap_or(attempt.worker),
                started_at: Timestamp(row.get(2)?),
                ending: crate::job::Ending::Completed.name().into(),
                ..attempt
            })
        })
    }

    pub(super) fn queues(&self, only: Option<&QueueName>) -> rusqlite::Result<Vec<Queue>> {
        let all = self.queue_ids().into_iter();
        all.filter(|(name, _)| only.is_none_or(|only| only == *name))
            .map(|(_, id)| self.read_queue(id))
            .collect()
    }

    fn read_queue(&self, id: QueueId) -> rusqlite::Result<Queue> {
        let details = self.details(id);
        let sql = "SELECT rank, ready_at FROM ready
                   WHERE queue_id = ?1 AND gate = ?2 AND rank > ?3
                   ORDER BY rank, place LIMIT 1";
        let mut oldest: Option<i64> = None;
        let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
        for gate in self.gates(id)? {
            let mut rank = i64::MIN;
            while let Some((next, ready_at)) = self.one(sql, params![id, gate, rank], read)? {
                rank = next;
                oldest = Some(oldest.map_or(ready_at, |oldest| oldest.min(ready_at)));
            }
        }
        Ok(Queue {
            name: details.name.clone(),
            paused_at: details.paused.as_ref().map(|paused| paused.since),
            settings: details.settings.clone(),
            counts: details.counts,
            oldest_ready: oldest.map(|at| self.now.since(Timestamp(at))),
        })
    }

    pub(super) fn encrypted_queues(&self) -> Vec<QueueName> {
        let queues = self.queue_ids().into_iter();
        let encrypted = queues.filter(|(_, id)| self.details(*id).settings.encrypted);
        encrypted.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn queues_of(&self, jobs: &[JobId]) -> rusqlite::Result<Vec<Option<QueueName>>> {
        let sql = "SELECT queue_id FROM job WHERE id = ?1";
        let queue_of = |job: &JobId| {
            let queue = self.one(sql, [sql_id(*job)], |row| row.get(0))?;
            Ok(queue.map(|queue| self.details(queue).name.clone()))
        };
        jobs.iter().map(queue_of).collect()
    }
}

/// Lists jobs. On a connection of its own, since it may have to read a lot.
pub(super) fn list(conn: &Connection, filter: &JobFilter) -> rusqlite::Result<JobPage> {
    let (live, finished) = (conditions(filter, true), conditions(filter, false));
    let order = if filter.oldest_first { "ASC" } else { "DESC" };
    let sql = format!(
        "SELECT * FROM (SELECT {LIVE_COLUMNS} FROM job j WHERE {live}
         UNION ALL SELECT {FINISHED_COLUMNS} FROM finished j WHERE {finished})
         ORDER BY 1 {order} LIMIT :limit"
    );
    let cursor = filter.cursor.map(sql_id);
    let queue = filter.queue.as_ref().map(QueueName::as_str);
    let tag = filter.tag.as_ref().map(|tag| tag.as_str());
    let (state, reason) = (filter.state.map(State::name), filter.reason.map(Reason::name));
    let (from, to) = (filter.created_from.map(|at| at.0), filter.created_to.map(|at| at.0));
    let limit = filter.limit + 1;
    let content_type = filter.content_type.as_deref();
    let all: [(&str, &dyn ToSql); 9] = [
        (":cursor", &cursor),
        (":queue", &queue),
        (":tag", &tag),
        (":state", &state),
        (":reason", &reason),
        (":from", &from),
        (":to", &to),
        (":type", &content_type),
        (":limit", &limit),
    ];
    let mut statement = conn.prepare_cached(&sql)?;
    let used: Vec<_> = all.into_iter().filter(|(name, _)| sql.contains(name)).collect();
    let mut rows = statement.query(&used[..])?;
    let mut page = JobPage::default();
    while let Some(row) = rows.next()? {
        if page.jobs.len() == filter.limit {
            page.next = page.jobs.last().map(|job| job.id);
            break;
        }
        let name = queue_name(conn, row.get(1)?)?;
        page.jobs.push(read_job(row, |_| name.clone())?);
    }
    Ok(page)
}

fn conditions(filter: &JobFilter, is_live: bool) -> String {
    let mut conditions = vec!["TRUE"];
    if filter.cursor.is_some() {
        conditions.push(if filter.oldest_first { "j.id > :cursor" } else { "j.id < :cursor" });
    }
    if filter.queue.is_some() {
        conditions.push("j.queue_id = (SELECT id FROM queue WHERE name = :queue)");
    }
    if filter.tag.is_some() {
        conditions.push("j.id IN (SELECT job_id FROM job_tag WHERE tag = :tag)");
    }
    if let Some(state) = filter.state {
        // A state that the table can not hold lets the other one be read alone.
        conditions.push(match state.is_final() != is_live {
            true => "state = :state",
            false => "FALSE",
        });
    }
    if filter.reason.is_some() {
        conditions.push(if is_live { "FALSE" } else { "j.reason = :reason" });
    }
    if filter.is_live.is_some_and(|wanted| wanted != is_live) {
        conditions.push("FALSE");
    }
    match filter.content_type.as_deref() {
        // It is not written down of most jobs.
        Some(Payload::JSON) => conditions.push("j.content_type IS NULL"),
        Some(_) => conditions.push("j.content_type = :type"),
        None => {}
    }
    if filter.created_from.is_some() {
        conditions.push("j.created_at >= :from");
    }
    if filter.created_to.is_some() {
        conditions.push("j.created_at < :to");
    }
    match filter.is_replayed {
        Some(true) => conditions.push("j.replayed_as IS NOT NULL"),
        Some(false) => conditions.push("j.replayed_as IS NULL"),
        None => {}
    }
    conditions.join(" AND ")
}

fn queue_name(conn: &Connection, id: QueueId) -> rusqlite::Result<QueueName> {
    let sql = "SELECT name FROM queue WHERE id = ?1";
    let read = |row: &Row<'_>| row::parsed(row, 0, QueueName::parse);
    let name = conn.prepare_cached(sql)?.query_row([id], read)?;
    name.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

fn parse_state(name: &str) -> Result<State, ()> {
    State::parse(name).ok_or(())
}

fn read_job(row: &Row<'_>, name: impl Fn(QueueId) -> QueueName) -> rusqlite::Result<Job> {
    let state = row::parsed(row, 2, parse_state)?.ok_or(rusqlite::Error::InvalidQuery)?;
    let delivery: u32 = row.get(9)?;
    let is_waiting = matches!(state, State::Blocked | State::Scheduled | State::Ready);
    Ok(Job {
        id: row::job_id(row, 0)?,
        queue: name(row.get(1)?),
        state,
        reason: row::parsed(row, 3, |name| Reason::parse(name).ok_or(()))?,
        priority: row.get(4)?,
        created_at: Timestamp(row.get(5)?),
        finished_at: row::time(row, 6)?,
        max_attempts: row.get(7)?,
        attempts: row.get(8)?,
        // A waiting job has the number of its next lease.
        deliveries: if is_waiting { delivery - 1 } else { delivery },
        crashes: row.get(10)?,
        run_at: row::time(row, 11)?,
        expires_at: row::time(row, 12)?,
        timeout: row::duration(row, 13)?,
        replay_of: row::maybe_job_id(row, 14)?,
        replayed_as: row::maybe_job_id(row, 15)?,
        backoff: row::backoff(row, 16)?,
        unique: row::parsed(row, 17, UniqueKey::parse)?,
        tags: row::tags(row, 18)?,
        options: row::options(row, 19)?,
        payload: None,
        is_dropped: row.get(20)?,
        lease_until: None,
        worker: None,
        progress: None,
        cancel: None,
        result: None,
        error: None,
    })
}

fn read_attempt(row: &Row<'_>) -> rusqlite::Result<Attempt> {
    let worker = row::parsed(row, 3, WorkerName::parse)?;
    Ok(Attempt {
        delivery: row.get(0)?,
        attempt: row.get(1)?,
        node: row.get(2)?,
        worker: worker.ok_or(rusqlite::Error::InvalidQuery)?,
        started_at: Timestamp(row.get(4)?),
        ended_at: row::time(row, 5)?,
        ending: row.get(6)?,
        code: row.get(7)?,
        message: row.get(8)?,
    })
}
