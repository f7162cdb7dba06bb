//! Looking at jobs and queues.

use std::collections::HashMap;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::lane::{Failure, Tx};
use super::leases::lately;
use super::row::{self, count, get, job_id, maybe_job_id, parsed, time};
use super::{PostgresStore, QueueId};
use crate::job::{
    Ending, JobId, Lease, Payload, QueueName, Reason, State, Timestamp, UniqueKey, WorkerName,
};
use crate::limits;
use crate::store::columns::{parse_backoff, parse_settings, parse_tags, sql_id};
use crate::store::{Attempt, Counts, Job, JobFilter, JobPage, Progress, Queue};

/// All tables in the same columns; [`read`] reads them. No payload, no result.
macro_rules! live_columns {
    () => {
        "
        j.id, j.queue_id,
        CASE
            WHEN j.is_blocked THEN 'blocked'
            WHEN j.run_at IS NOT NULL THEN 'scheduled'
            WHEN (
                SELECT true FROM ready r
                WHERE r.queue_id = j.queue_id AND r.gate = coalesce(j.gate, '')
                AND r.priority = j.priority AND r.place = j.place AND r.job_id = j.id
                AND r.block IS NULL
                UNION ALL
                SELECT true FROM ready r WHERE r.block = j.place AND j.id = ANY(r.job_ids)
                LIMIT 1
            ) THEN 'ready'
            ELSE 'leased'
        END AS state,
        NULL::text AS reason, j.priority, j.created_at, NULL::bigint AS finished_at,
        j.max_attempts, j.attempts, j.delivery AS deliveries, j.crashes, j.run_at, j.expires_at,
        j.timeout_ms, j.replay_of, j.replayed_as, j.backoff, j.unique_key, j.tags, j.options,
        false AS is_dropped"
    };
}

macro_rules! finished_columns {
    () => {
        "
        j.id, j.queue_id, j.state, j.reason, j.priority, j.created_at, j.finished_at,
        j.max_attempts, j.attempts, j.deliveries, j.crashes, NULL::bigint AS run_at, j.expires_at,
        j.timeout_ms, j.replay_of, j.replayed_as, j.backoff, j.unique_key, j.tags, j.options,
        j.is_dropped"
    };
}

/// Several jobs, each of which is in one of the tables.
const JOBS: &str = concat!(
    "SELECT a.*, e.code AS error_code, e.message AS error_message
     FROM (
         SELECT o.*
         FROM unnest($1::bigint[]) AS u (wanted)
         CROSS JOIN LATERAL (
             SELECT ",
    live_columns!(),
    ", j.content_type, j.payload, NULL::bytea AS result, NULL::text AS node,
                 NULL::text AS worker, NULL::bigint AS started_at
             FROM job j
             WHERE j.id = u.wanted
             UNION ALL
             SELECT ",
    finished_columns!(),
    ", j.content_type, j.payload, j.result, j.node, j.worker, j.started_at
             FROM finished j
             WHERE j.id = u.wanted
             OFFSET 0
         ) o
         UNION ALL
         SELECT ",
    finished_columns!(),
    ", j.content_type, j.payload, j.result, j.node, j.worker, j.started_at
         FROM completed_in_runs($1) j
         UNION ALL
         SELECT ",
    live_columns!(),
    ", j.content_type, j.payload, NULL, NULL, NULL, NULL
         FROM live_in_runs($1) j
         OFFSET 0
     ) a
     LEFT JOIN LATERAL (
         SELECT code, message
         FROM attempt_log
         WHERE job_id = a.id AND ending NOT IN ('released', 'snoozed')
         ORDER BY delivery DESC
         LIMIT 1
     ) e ON true"
);

/// Where leased jobs stand, and how far their workers are. A job may stand in rows that are no longer
/// its own, with earlier deliveries.
macro_rules! leases {
    ($rows:expr) => {
        concat!(
            "SELECT h.*, p.percent, p.message, c.requested_at, c.force_at
             FROM (
                 SELECT a.job_id, a.delivery, l.node, l.worker, l.started_at, l.expires_at
                 FROM ",
            $rows,
            " l
                 CROSS JOIN LATERAL unnest(l.job_ids, l.deliveries) AS a (job_id, delivery)
                 WHERE a.job_id = ANY($1::bigint[])
                 OFFSET 0
             ) h
             LEFT JOIN LATERAL (
                 SELECT requested_at, force_at FROM cancel
                 WHERE job_id = h.job_id AND delivery = h.delivery
                 OFFSET 0
             ) c ON true
             LEFT JOIN LATERAL (
                 SELECT percent, message FROM progress
                 WHERE job_id = h.job_id AND delivery = h.delivery
                 OFFSET 0
             ) p ON true"
        )
    };
}

/// Of this node, which remembers the rows.
const LEASES: &str = leases!(
    "unnest($2::bigint[]) AS r (lease_id)
     CROSS JOIN LATERAL (SELECT * FROM lease WHERE id = r.lease_id OFFSET 0)"
);

/// Of other nodes. Without an index of jobs: there is one row for each claim that is being worked on.
const LEASES_ELSEWHERE: &str = leases!(concat!(
    "(
         SELECT * FROM lease
         WHERE job_ids && $1::bigint[] AND ",
    lately!(),
    "
         ORDER BY expires_at
     )"
));

/// The same of those that ran out long ago and nobody has taken back.
const LEASES_LEFT: &str = leases!("(SELECT * FROM lease WHERE job_ids && $1::bigint[] OFFSET 0)");

/// Jobs that are live and stand nowhere else are leased.
const LEASES_OF: &str = "
    WITH packed AS MATERIALIZED (
        SELECT id, queue_id, place, delivery FROM places_in_runs($1) WHERE run_at IS NULL
    )
    SELECT u.id, j.delivery
    FROM unnest($1::bigint[]) AS u (id)
    CROSS JOIN LATERAL (
        SELECT delivery, queue_id, coalesce(gate, '') AS gate, priority, place
        FROM job
        WHERE id = u.id AND run_at IS NULL AND NOT is_blocked
        UNION ALL
        SELECT delivery, queue_id, '', 0, place FROM packed WHERE id = u.id
        OFFSET 0
    ) j
    WHERE (
        SELECT true FROM ready
        WHERE queue_id = j.queue_id AND gate = j.gate AND priority = j.priority
        AND place = j.place AND job_id = u.id AND block IS NULL
        UNION ALL
        SELECT true FROM ready WHERE block = j.place AND u.id = ANY(job_ids)
        LIMIT 1
    ) IS NULL";

const ATTEMPTS: &str = "
    SELECT delivery, attempt, node, worker, started_at, ended_at, ending, code, message
    FROM attempt_log
    WHERE job_id = $1
    ORDER BY delivery DESC
    LIMIT $2";

/// Counts, where a state may be told of twice, and how long the first job of each priority has been ready.
const QUEUES: &str = "
    WITH asked AS MATERIALIZED (
        SELECT id, name, paused_at, settings
        FROM queue
        WHERE $1::text IS NULL OR name = $1
    ),
    counted AS (
        SELECT queue_id, 'scheduled' AS state, sum(count) AS count
        FROM scheduled
        WHERE queue_id = ANY(ARRAY(SELECT id FROM asked))
        GROUP BY queue_id
        UNION ALL
        SELECT queue_id, 'blocked', count(*)
        FROM job
        WHERE queue_id = ANY(ARRAY(SELECT id FROM asked)) AND is_blocked
        GROUP BY queue_id
        UNION ALL
        SELECT queue_id, 'ready', sum(count)
        FROM ready
        WHERE queue_id = ANY(ARRAY(SELECT id FROM asked))
        GROUP BY queue_id
        UNION ALL
        SELECT j.queue_id, 'leased', count(*)
        FROM lease l
        CROSS JOIN LATERAL unnest(l.job_ids, l.deliveries) AS u (job_id, delivery)
        CROSS JOIN LATERAL (
            SELECT queue_id FROM job WHERE id = u.job_id AND delivery = u.delivery OFFSET 0
        ) j
        WHERE j.queue_id = ANY(ARRAY(SELECT id FROM asked))
        GROUP BY j.queue_id
        UNION ALL
        SELECT j.queue_id, 'leased', count(*)
        FROM lease l
        CROSS JOIN LATERAL held_in_runs(l.job_ids, l.deliveries) j
        WHERE j.queue_id = ANY(ARRAY(SELECT id FROM asked))
        GROUP BY j.queue_id
        UNION ALL
        SELECT queue_id, state, count(*)
        FROM finished
        WHERE queue_id = ANY(ARRAY(SELECT id FROM asked))
        GROUP BY queue_id, state
        UNION ALL
        SELECT queue_id, 'completed', sum(count)
        FROM run
        WHERE queue_id = ANY(ARRAY(SELECT id FROM asked)) AND finished_at IS NOT NULL
        GROUP BY queue_id
    )
    SELECT
        q.id, q.name, q.paused_at, q.settings, now_ms() - o.ready_at AS waited,
        ARRAY(SELECT c.state FROM counted c WHERE c.queue_id = q.id ORDER BY c.state) AS states,
        ARRAY(SELECT c.count FROM counted c WHERE c.queue_id = q.id ORDER BY c.state) AS counts
    FROM asked q
    CROSS JOIN LATERAL (
        WITH RECURSIVE head AS (
            (
                SELECT r.gate, r.priority, r.ready_at
                FROM ready r
                WHERE r.queue_id = q.id
                ORDER BY r.gate, r.priority DESC, r.place
                LIMIT 1
            )
            UNION ALL
            SELECT n.gate, n.priority, n.ready_at
            FROM head
            CROSS JOIN LATERAL (
                SELECT r.gate, r.priority, r.ready_at
                FROM ready r
                WHERE r.queue_id = q.id AND (
                    r.gate = head.gate AND r.priority < head.priority OR r.gate > head.gate
                )
                ORDER BY r.gate, r.priority DESC, r.place
                LIMIT 1
            ) n
        )
        SELECT min(ready_at) AS ready_at
        FROM (SELECT ready_at FROM head LIMIT 1000) h
    ) o
    ORDER BY q.name";

const STATE: &str = concat!(
    "SELECT state FROM finished WHERE id = $1
     UNION ALL
     SELECT state FROM completed_in_runs(ARRAY[$1])
     UNION ALL
     SELECT state FROM (SELECT ",
    live_columns!(),
    " FROM job j WHERE j.id = $1) l
     UNION ALL
     SELECT state FROM (SELECT ",
    live_columns!(),
    " FROM live_in_runs(ARRAY[$1::bigint]) j) l"
);

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] = &[
    ("inspect::JOBS", JOBS),
    ("inspect::LEASES", LEASES),
    ("inspect::LEASES_ELSEWHERE", LEASES_ELSEWHERE),
    ("inspect::LEASES_OF", LEASES_OF),
];

pub(super) fn damaged(what: &str) -> Failure {
    Failure::NotDone(format!("the tables are damaged: {what}"))
}

fn parse_state(name: &str) -> Result<State, ()> {
    State::parse(name).ok_or(())
}

/// Where a job is; `None`: there is no such job.
pub(super) async fn state(tx: &mut Tx<'_>, id: JobId) -> Result<Option<State>, Failure> {
    let rows = tx.query(STATE, &[&sql_id(id)]).await?;
    rows.first().map_or(Ok(None), |row| parsed(row, "state", parse_state))
}

/// A job, and the attempt that runs or that completed it.
type Known = (Job, Option<Attempt>);

/// A job with everything but what belongs to its lease.
pub(super) async fn read_job(
    store: &PostgresStore,
    tx: &mut Tx<'_>,
    id: JobId,
) -> Result<Option<Job>, Failure> {
    Ok(read_jobs(store, tx, &[id]).await?.remove(&id).map(|(job, _)| job))
}

/// Jobs with everything but what belongs to their leases.
async fn read_jobs(
    store: &PostgresStore,
    tx: &mut Tx<'_>,
    ids: &[JobId],
) -> Result<HashMap<JobId, Known>, Failure> {
    let ids: Vec<i64> = ids.iter().map(|id| sql_id(*id)).collect();
    let rows = tx.query(JOBS, &[&ids]).await?;
    let mut jobs = HashMap::with_capacity(rows.len());
    for row in &rows {
        let queue = store.queues.name(&store.pool, get(row, "queue_id")).await?;
        let known = read_known(row, queue)?;
        jobs.insert(known.0.id, known);
    }
    Ok(jobs)
}

fn read_known(row: &Row, queue: QueueName) -> Result<Known, Failure> {
    let mut job = read(row, queue)?;
    job.payload = (!job.is_dropped).then(|| row::payload(row));
    job.result = get::<Option<&[u8]>>(row, "result").map(bytes::Bytes::copy_from_slice);
    let code: Option<&str> = get(row, "error_code");
    job.error = code.map(|code| (code.to_owned(), get(row, "error_message")));
    let last = (job.state == State::Completed).then(|| last_attempt(&job, row));
    let last = last.transpose()?.map(|last| Attempt {
        ended_at: job.finished_at,
        ending: Ending::Completed.name().into(),
        ..last
    });
    Ok((job, last))
}

/// Adds what belongs to the leases of those that are leased.
async fn add_leases(
    store: &PostgresStore,
    tx: &mut Tx<'_>,
    jobs: &mut HashMap<JobId, Known>,
) -> Result<(), Failure> {
    let leased = missing(jobs);
    let remembered = store.leases.rows_of(&leased);
    if !remembered.is_empty() {
        for row in tx.query(LEASES, &[&ids_of(&leased), &remembered]).await? {
            add_lease(&row, jobs)?;
        }
    }
    for sql in [LEASES_ELSEWHERE, LEASES_LEFT] {
        let left = missing(jobs);
        if left.is_empty() {
            break;
        }
        for row in tx.query(sql, &[&ids_of(&left)]).await? {
            add_lease(&row, jobs)?;
        }
    }
    Ok(())
}

/// The leases of which nothing has been added.
fn missing(jobs: &HashMap<JobId, Known>) -> Vec<Lease> {
    let jobs = jobs.values().map(|(job, _)| job);
    let leased = jobs.filter(|job| job.state == State::Leased && job.worker.is_none());
    leased.map(|job| Lease { job: job.id, delivery: job.deliveries }).collect()
}

fn ids_of(leases: &[Lease]) -> Vec<i64> {
    leases.iter().map(|lease| sql_id(lease.job)).collect()
}

fn add_lease(row: &Row, jobs: &mut HashMap<JobId, Known>) -> Result<(), Failure> {
    let Some((job, last)) = jobs.get_mut(&job_id(row, "job_id")) else { return Ok(()) };
    if job.deliveries != count(row, "delivery") {
        return Ok(());
    }
    let running = last_attempt(job, row)?;
    job.lease_until = time(row, "expires_at");
    job.worker = Some(running.worker.clone());
    job.progress = get::<Option<i16>>(row, "percent").map(|percent| Progress {
        percent: u8::try_from(percent).unwrap_or(0),
        message: get(row, "message"),
    });
    job.cancel = time(row, "requested_at").zip(time(row, "force_at"));
    *last = Some(running);
    Ok(())
}

/// The attempt of a job's latest lease, from a row that says who had it.
fn last_attempt(job: &Job, row: &Row) -> Result<Attempt, Failure> {
    let worker = parsed(row, "worker", WorkerName::parse)?;
    Ok(Attempt {
        delivery: job.deliveries,
        attempt: job.attempts + 1,
        node: get(row, "node"),
        worker: worker.ok_or_else(|| damaged("no worker"))?,
        started_at: time(row, "started_at").ok_or_else(|| damaged("no start"))?,
        ended_at: None,
        ending: String::new(),
        code: String::new(),
        message: String::new(),
    })
}

fn read(row: &Row, queue: QueueName) -> Result<Job, Failure> {
    let state = parsed(row, "state", parse_state)?.ok_or_else(|| damaged("no state"))?;
    let deliveries = count(row, "deliveries");
    let is_waiting = matches!(state, State::Blocked | State::Scheduled | State::Ready);
    Ok(Job {
        id: job_id(row, "id"),
        queue,
        state,
        reason: parsed(row, "reason", |name| Reason::parse(name).ok_or(()))?,
        priority: get(row, "priority"),
        created_at: Timestamp(get(row, "created_at")),
        finished_at: time(row, "finished_at"),
        max_attempts: count(row, "max_attempts"),
        attempts: count(row, "attempts"),
        // A waiting job has the number of its next lease.
        deliveries: if is_waiting { deliveries - 1 } else { deliveries },
        crashes: count(row, "crashes"),
        run_at: time(row, "run_at"),
        expires_at: time(row, "expires_at"),
        timeout: row::duration(row, "timeout_ms"),
        replay_of: maybe_job_id(row, "replay_of"),
        replayed_as: maybe_job_id(row, "replayed_as"),
        backoff: parsed(row, "backoff", parse_backoff)?,
        unique: parsed(row, "unique_key", UniqueKey::parse)?,
        tags: parsed(row, "tags", parse_tags)?.unwrap_or_default(),
        options: row::options(row)?,
        payload: None,
        is_dropped: get(row, "is_dropped"),
        lease_until: None,
        worker: None,
        progress: None,
        cancel: None,
        result: None,
        error: None,
    })
}

fn read_attempt(row: &Row) -> Result<Attempt, Failure> {
    let worker = parsed(row, "worker", WorkerName::parse)?;
    Ok(Attempt {
        delivery: count(row, "delivery"),
        attempt: count(row, "attempt"),
        node: get(row, "node"),
        worker: worker.ok_or_else(|| damaged("no worker"))?,
        started_at: Timestamp(get(row, "started_at")),
        ended_at: time(row, "ended_at"),
        ending: get(row, "ending"),
        code: get(row, "code"),
        message: get(row, "message"),
    })
}

impl PostgresStore {
    pub(super) async fn find_job(&self, id: JobId) -> Result<Option<Job>, Failure> {
        let mut tx = self.pool.begin().await?;
        let found = self.find_with_last(&mut tx, id).await?;
        tx.commit(&[]).await?;
        Ok(found.map(|(job, _)| job))
    }

    /// Several jobs, in the order of `ids`: a statement for the jobs, and one or two for their leases,
    /// however many they are.
    pub(super) async fn find_jobs(&self, ids: &[JobId]) -> Result<Vec<Option<Job>>, Failure> {
        let mut tx = self.pool.begin().await?;
        let mut jobs = read_jobs(self, &mut tx, ids).await?;
        add_leases(self, &mut tx, &mut jobs).await?;
        tx.commit(&[]).await?;
        // One may be asked for twice.
        Ok(ids.iter().map(|id| jobs.get(id).map(|(job, _)| job.clone())).collect())
    }

    pub(super) async fn find_leases_of(
        &self,
        ids: &[JobId],
    ) -> Result<Vec<Option<Lease>>, Failure> {
        let wanted: Vec<i64> = ids.iter().map(|id| sql_id(*id)).collect();
        let rows = self.pool.read((LEASES_OF, &[&wanted])).await?;
        let lease = |row: &Row| {
            let job = job_id(row, "id");
            (job, Lease { job, delivery: count(row, "delivery") })
        };
        let leases: HashMap<JobId, Lease> = rows.iter().map(lease).collect();
        Ok(ids.iter().map(|id| leases.get(id).copied()).collect())
    }

    /// A job, and the attempt that runs or that completed it.
    pub(super) async fn find_with_last(
        &self,
        tx: &mut Tx<'_>,
        id: JobId,
    ) -> Result<Option<Known>, Failure> {
        let mut jobs = read_jobs(self, tx, &[id]).await?;
        add_leases(self, tx, &mut jobs).await?;
        Ok(jobs.remove(&id))
    }

    pub(super) async fn find_timeline(
        &self,
        id: JobId,
    ) -> Result<Option<(Job, Vec<Attempt>)>, Failure> {
        let mut tx = self.pool.begin().await?;
        let found = self.find_with_last(&mut tx, id).await?;
        let Some((job, last)) = found else { return Ok(None) };
        let mut attempts: Vec<Attempt> = last.into_iter().collect();
        let earlier = i64::try_from(limits::TIMELINE_MAX - attempts.len()).unwrap_or(i64::MAX);
        let id = sql_id(id);
        let rows = tx.commit(&[(ATTEMPTS, &[&id, &earlier])]).await?;
        for row in &rows[0] {
            attempts.push(read_attempt(row)?);
        }
        attempts.reverse();
        Ok(Some((job, attempts)))
    }

    pub(super) async fn list_queues(
        &self,
        only: Option<&QueueName>,
    ) -> Result<Vec<Queue>, Failure> {
        let only = only.map(QueueName::as_str);
        let rows = self.pool.read((QUEUES, &[&only])).await?;
        rows.iter().map(read_queue).collect()
    }

    pub(super) async fn list_jobs(&self, filter: &JobFilter) -> Result<JobPage, Failure> {
        let sql = list_sql(filter);
        let queue: Option<QueueId> = match &filter.queue {
            None => None,
            Some(name) => match self.queues.find_all(&self.pool, std::iter::once(name)).await? {
                found if found.is_empty() => return Ok(JobPage::default()),
                found => Some(found[name]),
            },
        };
        let first = if filter.oldest_first { 0 } else { i64::MAX };
        let cursor = filter.cursor.map_or(first, sql_id);
        let content_type = filter.content_type.as_deref();
        let (from, to) = (filter.created_from.map(|at| at.0), filter.created_to.map(|at| at.0));
        let limit = i64::try_from(filter.limit + 1).unwrap_or(i64::MAX);
        let tag = filter.tag.as_ref().map(|tag| tag.as_str());
        let (state, reason) = (filter.state.map(State::name), filter.reason.map(Reason::name));
        let params: [&(dyn ToSql + Sync); 9] =
            [&cursor, &limit, &queue, &tag, &state, &reason, &from, &to, &content_type];
        let mut tx = self.pool.begin().await?;
        let rows = tx.query_text(&sql, &params).await?;
        tx.commit(&[]).await?;
        let mut page = JobPage::default();
        for row in &rows {
            if page.jobs.len() == filter.limit {
                page.next = page.jobs.last().map(|job| job.id);
                break;
            }
            let name = self.queues.name(&self.pool, get(row, "queue_id")).await?;
            page.jobs.push(read(row, name)?);
        }
        Ok(page)
    }
}

fn read_queue(row: &Row) -> Result<Queue, Failure> {
    let name = parsed(row, "name", QueueName::parse)?;
    let mut counts = Counts::default();
    let (states, numbers): (Vec<&str>, Vec<i64>) = (get(row, "states"), get(row, "counts"));
    for (state, number) in states.iter().zip(numbers) {
        if let Some(state) = State::parse(state) {
            *counts.of(state) += u64::try_from(number).unwrap_or(0);
        }
    }
    Ok(Queue {
        name: name.ok_or_else(|| damaged("a queue without a name"))?,
        paused_at: time(row, "paused_at"),
        settings: parsed(row, "settings", parse_settings)?.unwrap_or_default(),
        counts,
        oldest_ready: row::duration(row, "waited"),
    })
}

/// All tables, by id: of the runs no more buckets are looked into than it takes. All parameters are
/// named in it, used or not, so that their types are known.
fn list_sql(filter: &JobFilter) -> String {
    let (live, finished) = (conditions(filter, true), conditions(filter, false));
    // Jobs with tags are in no run.
    let in_run = |conditions| if filter.tag.is_some() { "FALSE" } else { conditions };
    let (live_packed, packed) = (in_run(live.as_str()), in_run(finished.as_str()));
    let (order, beyond) = if filter.oldest_first { ("ASC", ">=") } else { ("DESC", "<=") };
    format!(
        "SELECT *
         FROM (
             (SELECT * FROM (SELECT {}, j.content_type, 0::bigint AS bucket FROM job j) j WHERE {live}
              ORDER BY id {order} LIMIT $2)
             UNION ALL
             (SELECT * FROM (SELECT {}, j.content_type, 0::bigint FROM finished j) j WHERE {finished}
              ORDER BY id {order} LIMIT $2)
             UNION ALL
             (SELECT * FROM (
                  SELECT {}, j.content_type, j.bucket FROM live_in_run j
                  WHERE j.bucket {beyond} $1::bigint >> 10
              ) j
              WHERE {live_packed}
              ORDER BY j.bucket {order}, j.id {order} LIMIT $2)
             UNION ALL
             (SELECT {}, j.content_type, j.bucket FROM completed_job j
              WHERE j.bucket {beyond} $1::bigint >> 10 AND {packed}
              AND coalesce(j.finished_at, 0) <> 0
              ORDER BY j.bucket {order}, j.id {order} LIMIT $2)
         ) a
         WHERE ($3::bigint, $4::text, $5::text, $6::text, $7::bigint, $8::bigint, $9::text)
         IS NOT DISTINCT FROM ($3, $4, $5, $6, $7, $8, $9)
         ORDER BY id {order}
         LIMIT $2::bigint",
        live_columns!(),
        finished_columns!(),
        live_columns!(),
        finished_columns!(),
    )
}

fn conditions(filter: &JobFilter, is_live: bool) -> String {
    let mut conditions = vec![match filter.oldest_first {
        true => "j.id > $1::bigint",
        false => "j.id < $1::bigint",
    }];
    if filter.queue.is_some() {
        conditions.push("j.queue_id = $3");
    }
    if filter.tag.is_some() {
        conditions.push("j.id = ANY(ARRAY(SELECT job_id FROM job_tag WHERE tag = $4))");
    }
    if let Some(state) = filter.state {
        // A state that the table can not hold lets the other one be read alone.
        conditions.push(match state.is_final() != is_live {
            true => "j.state = $5",
            false => "FALSE",
        });
    }
    if filter.reason.is_some() {
        conditions.push(if is_live { "FALSE" } else { "j.reason = $6" });
    }
    if filter.is_live.is_some_and(|wanted| wanted != is_live) {
        conditions.push("FALSE");
    }
    match filter.content_type.as_deref() {
        // It is not written down of most jobs.
        Some(Payload::JSON) => conditions.push("j.content_type IS NULL"),
        Some(_) => conditions.push("j.content_type = $9"),
        None => {}
    }
    if filter.created_from.is_some() {
        conditions.push("j.created_at >= $7");
    }
    if filter.created_to.is_some() {
        conditions.push("j.created_at < $8");
    }
    match filter.is_replayed {
        Some(true) => conditions.push("j.replayed_as IS NOT NULL"),
        Some(false) => conditions.push("j.replayed_as IS NULL"),
        None => {}
    }
    conditions.join(" AND ")
}
