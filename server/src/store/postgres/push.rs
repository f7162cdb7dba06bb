//! Storing new jobs.

use std::collections::{BTreeSet, HashMap};

use tokio_postgres::Row;

use super::lane::{Failure, Tx};
use super::row::{get, job_id, time};
use super::{PostgresStore, QueueId, retrying};
use crate::job::{JobId, NewJob, QueueName, State, When};
use crate::store::Pushed;
use crate::store::columns::{sql_backoff, sql_id, sql_millis, sql_tags};

/// One statement for all that a push writes. Numbers are given in the order of the jobs.
const PUSH: &str = "
    WITH clock AS MATERIALIZED (SELECT now_ms() AS now),
    due AS MATERIALIZED (
        SELECT
            u.*,
            (SELECT now FROM clock) AS now,
            CASE WHEN delay_ms IS NULL THEN at ELSE (SELECT now FROM clock) + delay_ms END AS due
        FROM unnest(
            $1::bigint[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[], $6::integer[],
            $7::text[], $8::bigint[], $9::text[], $10::text[], $11::bigint[], $12::text[],
            $13::bytea[]
        ) WITH ORDINALITY AS u (
            queue_id, priority, delay_ms, at, ttl_ms, max_attempts,
            backoff, timeout_ms, unique_key, tags, replay_of, content_type,
            payload, ord
        )
    ),
    new AS MATERIALIZED (
        SELECT
            *,
            nextval('number') AS id,
            CASE WHEN due > now THEN due END AS run_at,
            now + ttl_ms AS expires_at
        FROM due
    ),
    jobs AS (
        INSERT INTO job (
            id, queue_id, priority, place, created_at, max_attempts, attempts, delivery, crashes,
            run_at, expires_at, timeout_ms, replay_of, content_type, backoff, unique_key, tags,
            payload
        )
        SELECT
            id, queue_id, priority, CASE WHEN run_at IS NULL THEN id ELSE 0 END, now, max_attempts,
            0, 1, 0,
            run_at, expires_at, timeout_ms, replay_of, content_type, backoff, unique_key, tags,
            payload
        FROM new
    ),
    line AS (
        INSERT INTO ready (
            queue_id, priority, place, job_id, delivery, bytes, ready_at, expires_at, timeout_ms
        )
        SELECT queue_id, priority, id, id, 1, length(payload), now, expires_at, timeout_ms
        FROM new
        WHERE run_at IS NULL
    ),
    schedule AS (
        INSERT INTO scheduled (run_at, job_id, queue_id)
        SELECT run_at, id, queue_id
        FROM new
        WHERE run_at IS NOT NULL
    ),
    ttls AS (
        INSERT INTO ttl (expires_at, job_id)
        SELECT expires_at, id
        FROM new
        WHERE expires_at IS NOT NULL
    ),
    tagged AS (
        INSERT INTO job_tag (tag, job_id)
        SELECT tag, id
        FROM new
        CROSS JOIN LATERAL string_to_table(tags, E'\\n') AS tag
        WHERE tags IS NOT NULL
    )
    SELECT id, run_at
    FROM new
    ORDER BY ord";

/// Of two nodes that insert the same key, one waits for the other's commit.
const TAKE_KEYS: &str = "
    INSERT INTO unique_key (queue_id, key, job_id)
    SELECT queue_id, key, 0
    FROM unnest($1::bigint[], $2::text[]) AS u (queue_id, key)
    ON CONFLICT DO NOTHING
    RETURNING queue_id, key";

const GIVE_KEYS: &str = "
    UPDATE unique_key
    SET job_id = u.job_id
    FROM (
        SELECT k.tid, g.job_id
        FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS g (queue_id, key, job_id)
        CROSS JOIN LATERAL (
            SELECT ctid AS tid FROM unique_key WHERE queue_id = g.queue_id AND key = g.key OFFSET 0
        ) k
    ) u
    WHERE unique_key.ctid = u.tid";

const HOLDERS: &str = "
    SELECT u.queue_id, u.key, k.job_id, j.run_at IS NOT NULL AS is_scheduled, r.is_ready
    FROM unnest($1::bigint[], $2::text[]) AS u (queue_id, key)
    CROSS JOIN LATERAL (
        SELECT job_id FROM unique_key WHERE queue_id = u.queue_id AND key = u.key OFFSET 0
    ) k
    CROSS JOIN LATERAL (
        SELECT run_at, queue_id, priority, place FROM job WHERE id = k.job_id OFFSET 0
    ) j
    CROSS JOIN LATERAL (
        SELECT (
            SELECT true FROM ready
            WHERE queue_id = j.queue_id AND priority = j.priority AND place = j.place
            LIMIT 1
        ) IS NOT NULL AS is_ready
    ) r";

/// A key may be given back between the look at who has it and the next try to take it.
const KEY_TRIES: usize = 10;

type Key = (QueueId, String);

/// What a job with a unique key comes to.
enum Chance {
    /// It is the first with its key, or has none.
    Insert,
    /// Job i of the same call has the key.
    Same(usize),
    /// Another job has it.
    Taken(JobId, State),
}

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] = &[
    ("push::PUSH", PUSH),
    ("push::TAKE_KEYS", TAKE_KEYS),
    ("push::GIVE_KEYS", GIVE_KEYS),
    ("push::HOLDERS", HOLDERS),
];

impl PostgresStore {
    pub(super) async fn try_push(&self, jobs: &[NewJob]) -> Result<Vec<Pushed>, Failure> {
        let queues = self.queues.ids(&self.pool, jobs.iter().map(|job| &job.queue)).await?;
        let queue_of = |job: &NewJob| queues[&job.queue];
        if jobs.iter().all(|job| job.unique.is_none()) {
            let all: Vec<(&NewJob, QueueId)> =
                jobs.iter().map(|job| (job, queue_of(job))).collect();
            let columns = Columns::of(&all);
            let rows = self.push_lane.once((PUSH, &columns.params())).await?;
            let pushed = rows.iter().map(inserted).collect();
            self.note_pushed(jobs, &queues, &pushed);
            return Ok(pushed);
        }
        let mut tx = self.push_lane.begin().await?;
        let pushed = push_with_keys(&mut tx, jobs, &queues).await?;
        tx.commit(&[]).await?;
        self.note_pushed(jobs, &queues, &pushed);
        Ok(pushed)
    }

    /// To be called once it is durable, and not before: a claim in between would find nothing and
    /// pass.
    pub(super) fn note_pushed(
        &self,
        jobs: &[NewJob],
        queues: &HashMap<QueueName, QueueId>,
        pushed: &Vec<Pushed>,
    ) {
        for (job, pushed) in jobs.iter().zip(pushed) {
            match pushed {
                Pushed::Inserted { id, run_at: None } => {
                    self.note_ready(queues[&job.queue], job.priority, sql_id(*id));
                }
                Pushed::Inserted { run_at: Some(at), .. } => self.outbox.due(*at),
                Pushed::Duplicate { .. } => {}
            }
        }
    }

    pub(super) async fn push_jobs(&self, jobs: &[NewJob]) -> Result<Vec<Pushed>, Failure> {
        retrying!(self.try_push(jobs))
    }
}

fn inserted(row: &Row) -> Pushed {
    Pushed::Inserted { id: job_id(row, "id"), run_at: time(row, "run_at") }
}

/// Stores jobs of which some have unique keys.
pub(super) async fn push_with_keys(
    tx: &mut Tx<'_>,
    jobs: &[NewJob],
    queues: &HashMap<QueueName, QueueId>,
) -> Result<Vec<Pushed>, Failure> {
    let chances = chances(tx, jobs, queues).await?;
    let new: Vec<(&NewJob, QueueId)> = jobs
        .iter()
        .zip(&chances)
        .filter(|(_, chance)| matches!(chance, Chance::Insert))
        .map(|(job, _)| (job, queues[&job.queue]))
        .collect();
    let columns = Columns::of(&new);
    let rows = tx.query(PUSH, &columns.params()).await?;
    let mut given = (Vec::new(), Vec::new(), Vec::new());
    for ((job, queue), row) in new.iter().zip(&rows) {
        if let Some(key) = &job.unique {
            given.0.push(*queue);
            given.1.push(key.as_str());
            given.2.push(get::<i64>(row, "id"));
        }
    }
    tx.query(GIVE_KEYS, &[&given.0, &given.1, &given.2]).await?;
    let mut rows = rows.iter();
    let mut pushed: Vec<Pushed> = Vec::with_capacity(jobs.len());
    for chance in chances {
        let outcome = match chance {
            Chance::Insert => inserted(rows.next().expect("one row for each new job")),
            Chance::Taken(id, state) => Pushed::Duplicate { id, state },
            Chance::Same(place) => match pushed[place] {
                Pushed::Inserted { id, run_at: None } => {
                    Pushed::Duplicate { id, state: State::Ready }
                }
                Pushed::Inserted { id, run_at: Some(_) } => {
                    Pushed::Duplicate { id, state: State::Scheduled }
                }
                duplicate @ Pushed::Duplicate { .. } => duplicate,
            },
        };
        pushed.push(outcome);
    }
    Ok(pushed)
}

/// Takes the keys that can be had.
async fn chances(
    tx: &mut Tx<'_>,
    jobs: &[NewJob],
    queues: &HashMap<QueueName, QueueId>,
) -> Result<Vec<Chance>, Failure> {
    let mut first: HashMap<Key, usize> = HashMap::new();
    let mut chances: Vec<Chance> = Vec::with_capacity(jobs.len());
    for (place, job) in jobs.iter().enumerate() {
        let key = job.unique.as_ref().map(|key| (queues[&job.queue], key.as_str().to_owned()));
        let same = key.and_then(|key| match *first.entry(key).or_insert(place) {
            earlier if earlier < place => Some(earlier),
            _ => None,
        });
        chances.push(same.map_or(Chance::Insert, Chance::Same));
    }
    let mut wanted: BTreeSet<Key> = first.keys().cloned().collect();
    for _ in 0..KEY_TRIES {
        if wanted.is_empty() {
            return Ok(chances);
        }
        take_keys(tx, &mut wanted).await?;
        let taken = holders(tx, &wanted).await?;
        for (key, (id, state)) in taken {
            chances[first[&key]] = Chance::Taken(id, state);
            wanted.remove(&key);
        }
    }
    Err(Failure::Conflict("a unique key changes hands too often".into()))
}

/// Takes keys in one order, so that two calls that want the same do not wait for each other in a
/// ring. What is left in `wanted` somebody else has.
async fn take_keys(tx: &mut Tx<'_>, wanted: &mut BTreeSet<Key>) -> Result<(), Failure> {
    let queues: Vec<QueueId> = wanted.iter().map(|(queue, _)| *queue).collect();
    let keys: Vec<&str> = wanted.iter().map(|(_, key)| key.as_str()).collect();
    for row in tx.query(TAKE_KEYS, &[&queues, &keys]).await? {
        wanted.remove(&(get(&row, "queue_id"), get(&row, "key")));
    }
    Ok(())
}

async fn holders(
    tx: &mut Tx<'_>,
    keys: &BTreeSet<Key>,
) -> Result<Vec<(Key, (JobId, State))>, Failure> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let queues: Vec<QueueId> = keys.iter().map(|(queue, _)| *queue).collect();
    let names: Vec<&str> = keys.iter().map(|(_, key)| key.as_str()).collect();
    let rows = tx.query(HOLDERS, &[&queues, &names]).await?;
    let holder = |row: &Row| {
        let state = match (get(row, "is_scheduled"), get(row, "is_ready")) {
            (true, _) => State::Scheduled,
            (false, true) => State::Ready,
            (false, false) => State::Leased,
        };
        ((get(row, "queue_id"), get(row, "key")), (job_id(row, "job_id"), state))
    };
    Ok(rows.iter().map(holder).collect())
}

/// Jobs as columns.
#[derive(Default)]
struct Columns<'a> {
    queue_id: Vec<i64>,
    priority: Vec<i32>,
    delay_ms: Vec<Option<i64>>,
    at: Vec<Option<i64>>,
    ttl_ms: Vec<Option<i64>>,
    max_attempts: Vec<i32>,
    backoff: Vec<Option<String>>,
    timeout_ms: Vec<Option<i64>>,
    unique_key: Vec<Option<&'a str>>,
    tags: Vec<Option<String>>,
    replay_of: Vec<Option<i64>>,
    content_type: Vec<Option<&'a str>>,
    payload: Vec<&'a [u8]>,
}

impl<'a> Columns<'a> {
    fn of(jobs: &[(&'a NewJob, QueueId)]) -> Self {
        let mut columns = Self::default();
        for (job, queue) in jobs {
            let (delay, at) = match job.when {
                When::Now => (None, None),
                When::After(delay) => (Some(sql_millis(delay)), None),
                When::At(at) => (None, Some(at.0)),
            };
            columns.queue_id.push(*queue);
            columns.priority.push(job.priority);
            columns.delay_ms.push(delay);
            columns.at.push(at);
            columns.ttl_ms.push(job.ttl.map(sql_millis));
            columns.max_attempts.push(job.max_attempts.cast_signed());
            columns.backoff.push(job.backoff.as_ref().map(sql_backoff));
            columns.timeout_ms.push(job.timeout.map(sql_millis));
            columns.unique_key.push(job.unique.as_ref().map(|key| key.as_str()));
            columns.tags.push(sql_tags(&job.tags));
            columns.replay_of.push(job.replay_of.map(sql_id));
            columns.content_type.push(job.payload.content_type.as_deref());
            columns.payload.push(&job.payload.bytes);
        }
        columns
    }

    fn params(&self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 13] {
        [
            &self.queue_id,
            &self.priority,
            &self.delay_ms,
            &self.at,
            &self.ttl_ms,
            &self.max_attempts,
            &self.backoff,
            &self.timeout_ms,
            &self.unique_key,
            &self.tags,
            &self.replay_of,
            &self.content_type,
            &self.payload,
        ]
    }
}
