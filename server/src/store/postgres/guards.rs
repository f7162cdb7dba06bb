//! Judging pushes.
//!
//! A push to a queue with guards locks the queue's row, so that pushes through all nodes are judged
//! one after the other.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::Row;

use super::lane::{Failure, Tx};
use super::row::{self, get, now, parsed};
use super::{PostgresStore, QueueId};
use crate::job::{Fill, Guard, NewJob, QueueName, Settings, Timestamp};
use crate::store::columns::parse_settings;
use crate::store::guards::{Judged, judge, minute_of};
use crate::store::{Decision, Pushed};

const LOCK: &str = "
    SELECT name, id, settings, now_ms() AS now
    FROM queue
    WHERE id = ANY($1::bigint[])
    ORDER BY id
    FOR NO KEY UPDATE";

const TAKEN: &str = "SELECT count FROM taken WHERE queue_id = $1 AND minute = $2";

const WAITING: &str = "
    SELECT sum(count)::bigint AS count, coalesce(sum(bytes), 0)::bigint AS bytes
    FROM (
        SELECT sum(count) AS count, sum(bytes) AS bytes
        FROM ready
        WHERE queue_id = $1
        UNION ALL
        SELECT
            sum(s.count),
            sum(coalesce(s.bytes, (SELECT length(payload) FROM job WHERE id = s.job_id)))
        FROM scheduled s
        WHERE s.queue_id = $1
        UNION ALL
        SELECT count(*), sum(length(payload))
        FROM job
        WHERE queue_id = $1 AND is_blocked
    ) w";

const TAKE: &str = "
    INSERT INTO taken (queue_id, minute, count)
    VALUES ($1, $2, $3)
    ON CONFLICT (queue_id) DO UPDATE
    SET minute = excluded.minute, count = excluded.count";

const REFUSE: &str = "
    INSERT INTO decision (minute, queue_id, guard, max, count, last_at)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (minute, queue_id, guard) DO UPDATE
    SET count = decision.count + excluded.count, max = excluded.max, last_at = excluded.last_at";

const DECISIONS: &str = "
    SELECT q.name, d.guard, d.max, d.count, d.minute, d.last_at
    FROM decision d
    JOIN queue q ON q.id = d.queue_id
    WHERE $1::text IS NULL OR q.name = $1
    ORDER BY d.minute DESC, q.name, d.guard
    LIMIT $2";

impl PostgresStore {
    pub(super) async fn push_judged(
        &self,
        jobs: &[NewJob],
        queues: &HashMap<QueueName, QueueId>,
        guarded: &[QueueId],
    ) -> Result<Vec<Pushed>, Failure> {
        let mut tx = self.push_lane.begin().await?;
        let judged = judge_in(&mut tx, jobs, queues, guarded).await?;
        let admitted = judged.admitted(jobs.to_vec());
        let pushed = match admitted.is_empty() {
            true => Vec::new(),
            false => self.push_in(&mut tx, &admitted, queues).await?,
        };
        tx.commit(&[]).await?;
        let answers = judged.answers(pushed);
        self.note_pushed(jobs, queues, &answers);
        Ok(answers)
    }

    pub(super) async fn list_decisions(
        &self,
        queue: Option<&QueueName>,
        limit: usize,
    ) -> Result<Vec<Decision>, Failure> {
        let name = queue.map(QueueName::as_str);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.pool.read((DECISIONS, &[&name, &limit])).await?;
        rows.iter().map(read_decision).collect()
    }
}

async fn judge_in(
    tx: &mut Tx<'_>,
    jobs: &[NewJob],
    queues: &HashMap<QueueName, QueueId>,
    guarded: &[QueueId],
) -> Result<Judged, Failure> {
    let mut guards = BTreeMap::new();
    let rows = tx.query(LOCK, &[&guarded]).await?;
    let Some(at) = rows.first().map(now) else { return Ok(judge(jobs, &mut guards)) };
    let minute = minute_of(at).0;
    for row in &rows {
        let settings = row::parsed(row, "settings", parse_settings)?.unwrap_or_default();
        let Some(name) = parsed(row, "name", QueueName::parse)? else { continue };
        if settings.is_guarded() {
            let fill = fill(tx, get(row, "id"), &settings, minute).await?;
            guards.insert(name, (settings, fill));
        }
    }
    let judged = judge(jobs, &mut guards);
    for queue in judged.taken.keys() {
        let (settings, fill) = &guards[queue];
        if settings.pushes_per_minute.is_some() {
            tx.query(TAKE, &[&queues[queue], &minute, &sql_count(fill.this_minute)]).await?;
        }
    }
    for ((queue, guard), (count, max)) in &judged.refused {
        let (count, max) = (sql_count(*count), sql_count(*max));
        let id = &queues[queue];
        tx.query(REFUSE, &[&minute, id, &guard.name(), &max, &count, &at.0]).await?;
    }
    Ok(judged)
}

async fn fill(
    tx: &mut Tx<'_>,
    queue: QueueId,
    settings: &Settings,
    minute: i64,
) -> Result<Fill, Failure> {
    let mut fill = Fill::default();
    if settings.pushes_per_minute.is_some() {
        let rows = tx.query(TAKEN, &[&queue, &minute]).await?;
        fill.this_minute = rows.first().map_or(0, |row| number(row, "count"));
    }
    if settings.depth_max.is_some() || settings.waiting_bytes_max.is_some() {
        let rows = tx.query(WAITING, &[&queue]).await?;
        fill.waiting = number(&rows[0], "count");
        fill.waiting_bytes = number(&rows[0], "bytes");
    }
    Ok(fill)
}

fn read_decision(row: &Row) -> Result<Decision, Failure> {
    let damaged = || Failure::NotDone("the tables are damaged: a decision".into());
    let guard = parsed(row, "guard", |name| Guard::parse(name).ok_or(()))?;
    Ok(Decision {
        queue: parsed(row, "name", QueueName::parse)?.ok_or_else(damaged)?,
        guard: guard.ok_or_else(damaged)?,
        max: number(row, "max"),
        count: number(row, "count"),
        minute: Timestamp(get(row, "minute")),
        last_at: Timestamp(get(row, "last_at")),
    })
}

fn number(row: &Row, column: &str) -> u64 {
    u64::try_from(get::<i64>(row, column)).unwrap_or(0)
}

fn sql_count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
