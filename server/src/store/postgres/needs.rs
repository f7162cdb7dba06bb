//! Jobs that wait for other jobs.
//!
//! A waiting job has a row in `dependency` for each job that it still waits for. Who ends a job
//! has locked it, and so has who begins to wait for it: one of them sees what the other did. Two
//! that end at the same time meet on the row of the job that waits for both.

use std::collections::{HashMap, VecDeque};

use tokio_postgres::Row;

use super::lane::{Failure, Tx};
use super::live_runs::is_live;
use super::notes::Noted;
use super::row::{self, get, job_id, now};
use super::settle::{Note, finish_waiting};
use super::{PostgresStore, QueueId, live_runs};
use crate::job::{Depends, JobId, Options, Reason, State, Timestamp};
use crate::limits;
use crate::store::columns::sql_id;
use crate::store::{Destination, Effect, Need, NoteKind, fate};

/// Marks live jobs as waited for, in one order. What is not live any more is not answered. By id: a
/// row that somebody has changed while this waited for it stands elsewhere now.
const WATCH: &str = "
    WITH needed AS MATERIALIZED (
        SELECT id
        FROM job
        WHERE id = ANY($1::bigint[])
        ORDER BY id
        FOR UPDATE
    )
    UPDATE job
    SET is_watched = true
    WHERE id = ANY(ARRAY(SELECT id FROM needed))
    RETURNING id";

const INSERT: &str = "
    INSERT INTO dependency (job_id, needs_id)
    SELECT $1, needs_id
    FROM unnest($2::bigint[]) AS u (needs_id)";

/// Locks the jobs that wait for any of these.
const WAITING: &str = "
    SELECT j.id, j.queue_id, j.options, j.run_at
    FROM (
        SELECT DISTINCT d.job_id
        FROM unnest($1::bigint[]) AS u (id)
        CROSS JOIN LATERAL (SELECT job_id FROM dependency WHERE needs_id = u.id OFFSET 0) d
    ) w
    CROSS JOIN LATERAL (
        SELECT id, queue_id, options, run_at FROM job WHERE id = w.job_id
        OFFSET 0
        FOR UPDATE
    ) j
    ORDER BY j.id";

/// The answer: jobs that wait for nothing more.
const LET_GO: &str = "
    WITH gone AS (
        DELETE FROM dependency
        WHERE needs_id = $1 AND job_id = ANY($2::bigint[])
        RETURNING job_id
    )
    SELECT job_id
    FROM gone g
    WHERE (
        SELECT true FROM dependency d
        WHERE d.job_id = g.job_id AND d.needs_id <> $1
        LIMIT 1
    ) IS NULL
    ORDER BY job_id";

/// Jobs that wait for nothing more stand behind those that are ready.
const UNBLOCK_NOW: &str = "
    WITH free AS MATERIALIZED (
        SELECT u.id, j.*, nextval('number') AS new_place
        FROM unnest($1::bigint[]) WITH ORDINALITY AS u (id, ord)
        CROSS JOIN LATERAL (
            SELECT
                ctid AS tid, queue_id, priority, delivery, length(payload) AS bytes, expires_at,
                timeout_ms, coalesce(gate, '') AS gate
            FROM job
            WHERE id = u.id
            OFFSET 0
        ) j
        ORDER BY u.ord
    ),
    line AS (
        INSERT INTO ready (
            queue_id, gate, priority, place, job_id, delivery, bytes, ready_at, expires_at,
            timeout_ms
        )
        SELECT
            queue_id, gate, priority, new_place, id, delivery, bytes, $2, expires_at, timeout_ms
        FROM free
    ),
    moved AS (
        UPDATE job
        SET is_blocked = false, run_at = NULL, place = f.new_place
        FROM free f
        WHERE job.ctid = f.tid
    )
    SELECT id, queue_id, priority, new_place
    FROM free
    ORDER BY new_place";

const UNBLOCK_LATER: &str = "
    WITH free AS MATERIALIZED (
        SELECT j.*
        FROM unnest($1::bigint[]) AS u (id)
        CROSS JOIN LATERAL (
            SELECT ctid AS tid, id, queue_id, run_at FROM job WHERE id = u.id OFFSET 0
        ) j
    ),
    schedule AS (
        INSERT INTO scheduled (run_at, job_id, queue_id)
        SELECT run_at, id, queue_id
        FROM free
    )
    UPDATE job
    SET is_blocked = false
    FROM free f
    WHERE job.ctid = f.tid";

/// What is known of ended jobs, and whether they are live again.
const NEEDS: &str = concat!(
    "
    WITH packed AS MATERIALIZED (
        SELECT id, state, result FROM completed_in_runs($1)
    ),
    live_packed AS MATERIALIZED (
        SELECT id FROM places_in_runs($1)
    )
    SELECT u.id, f.state, CASE WHEN length(f.result) <= $2 THEN f.result END AS result, l.is_live
    FROM unnest($1::bigint[]) AS u (id)
    LEFT JOIN LATERAL (
        SELECT state, result FROM finished WHERE id = u.id
        UNION ALL
        SELECT state, result FROM packed WHERE id = u.id
        OFFSET 0
    ) f ON true
    CROSS JOIN LATERAL (",
    is_live!(),
    "
    ) l"
);

/// How jobs have ended, in one sight of all tables; without a state: they live. Those that nobody knows
/// are not answered.
const ENDED: &str = "
    SELECT id, state FROM finished WHERE id = ANY($1::bigint[])
    UNION ALL
    SELECT id, state FROM completed_in_runs($1)
    UNION ALL
    SELECT id, NULL FROM job WHERE id = ANY($1)
    UNION ALL
    SELECT id, NULL FROM places_in_runs($1)";

/// How often jobs are looked for that others move meanwhile.
const LOOKS_MAX: usize = 5;

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] = &[
    ("needs::WATCH", WATCH),
    ("needs::WAITING", WAITING),
    ("needs::LET_GO", LET_GO),
    ("needs::UNBLOCK_NOW", UNBLOCK_NOW),
    ("needs::UNBLOCK_LATER", UNBLOCK_LATER),
    ("needs::NEEDS", NEEDS),
    ("needs::ENDED", ENDED),
];

/// How a new job stands to those that it waits for.
pub(super) enum Standing {
    /// All of them have been completed.
    Free,
    /// It waits for these.
    Blocked(Vec<i64>),
    /// One of them has failed.
    Failed,
}

/// Looks at the jobs that a new one waits for, and marks those that have not ended.
pub(super) async fn look(tx: &mut Tx<'_>, depends: &Depends) -> Result<Standing, Failure> {
    if depends.on.is_empty() {
        return Ok(Standing::Free);
    }
    let ids: Vec<i64> = depends.on.iter().map(|id| sql_id(*id)).collect();
    for _ in 0..LOOKS_MAX {
        live_runs::take_out(tx, &ids).await?;
        let rows = tx.query(WATCH, &[&ids]).await?;
        let live: Vec<i64> = rows.iter().map(|row| get(row, "id")).collect();
        let others: Vec<i64> = ids.iter().copied().filter(|id| !live.contains(id)).collect();
        let ended = tx.query(ENDED, &[&others]).await?;
        // Who had one of them locked may have put it elsewhere: it lives there.
        if ended.iter().all(|row| get::<Option<&str>>(row, "state").is_some()) {
            return Ok(standing(depends, live, &ended));
        }
    }
    Err(Failure::Conflict("a job that is waited for is on its way".into()))
}

/// If these live, and the others have ended.
fn standing(depends: &Depends, live: Vec<i64>, ended: &[Row]) -> Standing {
    let (mut blocked, mut has_failed) = (live, false);
    for row in ended {
        let state = State::parse(get(row, "state")).unwrap_or(State::Completed);
        match fate(state, depends.on_failure) {
            None => blocked.push(get(row, "id")),
            Some(is_good) => has_failed |= !is_good,
        }
    }
    match (has_failed, blocked.is_empty()) {
        (true, _) => Standing::Failed,
        (false, true) => Standing::Free,
        (false, false) => Standing::Blocked(blocked),
    }
}

/// Notes what a new job waits for.
pub(super) async fn block(tx: &mut Tx<'_>, job: i64, needs: &[i64]) -> Result<(), Failure> {
    tx.query(INSERT, &[&job, &needs]).await.map(drop)
}

/// Jobs have ended, as these effects say: those that wait for them go on, or end too.
pub(super) async fn release_dependents<'a>(
    store: &PostgresStore,
    tx: &mut Tx<'_>,
    effects: impl Iterator<Item = &'a Effect>,
) -> Result<(Vec<Effect>, Vec<Note>), Failure> {
    let ended = effects.filter_map(|effect| match effect.to {
        Destination::Finished(state) => Some((effect.job, state)),
        _ => None,
    });
    let mut ended: Vec<(JobId, State)> = ended.collect();
    ended.sort_unstable();
    let mut round = Round { store, ended: ended.into(), effects: Vec::new(), notes: Vec::new() };
    while !round.ended.is_empty() {
        round.run(tx).await?;
    }
    Ok((round.effects, round.notes))
}

struct Round<'a> {
    store: &'a PostgresStore,
    ended: VecDeque<(JobId, State)>,
    effects: Vec<Effect>,
    notes: Vec<Note>,
}

/// A job that waits, locked.
struct Waiting {
    queue: QueueId,
    options: Options,
    run_at: Option<Timestamp>,
}

impl Round<'_> {
    async fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), Failure> {
        let ended = std::mem::take(&mut self.ended);
        let ids: Vec<i64> = ended.iter().map(|(id, _)| sql_id(*id)).collect();
        let rows = tx.query(WAITING, &[&ids]).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut waiting: HashMap<i64, Waiting> = HashMap::new();
        for row in &rows {
            let (queue, options) = (get(row, "queue_id"), row::options(row)?);
            let run_at = row::time(row, "run_at");
            waiting.insert(get(row, "id"), Waiting { queue, options, run_at });
        }
        for (need, state) in ended {
            self.release(tx, need, state, &mut waiting).await?;
        }
        Ok(())
    }

    /// What the end of one job means for those that wait for it.
    async fn release(
        &mut self,
        tx: &mut Tx<'_>,
        need: JobId,
        state: State,
        waiting: &mut HashMap<i64, Waiting>,
    ) -> Result<(), Failure> {
        let sql = "SELECT job_id FROM dependency WHERE needs_id = $1 ORDER BY job_id";
        let rows = tx.query(sql, &[&sql_id(need)]).await?;
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for id in rows.iter().map(|row| get::<i64>(row, "job_id")) {
            let Some(job) = waiting.get(&id) else { continue };
            match fate(state, job.options.depends.on_failure) {
                None => {}
                Some(true) => good.push(id),
                Some(false) => bad.push(id),
            }
        }
        let from = self.effects.len();
        if !good.is_empty() {
            let free = tx.query(LET_GO, &[&sql_id(need), &good]).await?;
            let free: Vec<i64> = free.iter().map(|row| get(row, "job_id")).collect();
            self.unblock(tx, &free, waiting).await?;
        }
        if !bad.is_empty() {
            let jobs: Vec<JobId> = bad.iter().map(|id| JobId(id.cast_unsigned())).collect();
            let now = now(&tx.query("SELECT now_ms() AS now", &[]).await?[0]);
            let reason = Some(Reason::DependencyFailed);
            let dead = finish_waiting(self.store, tx, &jobs, State::Dead, reason, now).await?;
            for effect in dead {
                waiting.remove(&sql_id(effect.job));
                self.ended.push_back((effect.job, State::Dead));
                self.effects.push(effect);
            }
        }
        self.effects[from..].sort_by_key(|effect| effect.job);
        Ok(())
    }

    async fn unblock(
        &mut self,
        tx: &mut Tx<'_>,
        free: &[i64],
        waiting: &HashMap<i64, Waiting>,
    ) -> Result<(), Failure> {
        if free.is_empty() {
            return Ok(());
        }
        let time = now(&tx.query("SELECT now_ms() AS now", &[]).await?[0]);
        let later = |id: &&i64| waiting[*id].run_at.is_some_and(|at| at > time);
        let (later, at_once): (Vec<i64>, Vec<i64>) = {
            let (later, at_once): (Vec<&i64>, Vec<&i64>) = free.iter().partition(later);
            (later.into_iter().copied().collect(), at_once.into_iter().copied().collect())
        };
        let jobs = free.iter().map(|id| JobId(id.cast_unsigned()));
        Noted::each(jobs, NoteKind::Unblocked).write(tx).await?;
        let placed = tx.query(UNBLOCK_NOW, &[&at_once, &time.0]).await?;
        tx.query(UNBLOCK_LATER, &[&later]).await?;
        let placed: HashMap<JobId, &Row> =
            placed.iter().map(|row| (job_id(row, "id"), row)).collect();
        for id in free {
            let (job, of) = (JobId(id.cast_unsigned()), &waiting[id]);
            let to = match (placed.get(&job), of.run_at) {
                (None, Some(at)) => Destination::Scheduled(at),
                (Some(row), _) => {
                    self.notes.push((of.queue, get(row, "priority"), get(row, "new_place")));
                    Destination::Ready
                }
                (None, None) => continue,
            };
            let queue = self.store.queues.name(&self.store.pool, of.queue).await?;
            self.effects.push(Effect { job, queue, to });
        }
        Ok(())
    }
}

/// What is known of the jobs that others waited for.
pub(super) async fn needs(store: &PostgresStore, depends: &Depends) -> Result<Vec<Need>, Failure> {
    let ids: Vec<i64> = depends.on.iter().map(|id| sql_id(*id)).collect();
    let bytes_max = i32::try_from(limits::NEED_STORED_BYTES_MAX).unwrap_or(i32::MAX);
    let rows = store.pool.read((NEEDS, &[&ids, &bytes_max])).await?;
    let rows: HashMap<JobId, &Row> = rows.iter().map(|row| (job_id(row, "id"), row)).collect();
    let mut needs = Vec::with_capacity(ids.len());
    for id in &depends.on {
        let Some(row) = rows.get(id) else { continue };
        let state = row::parsed(row, "state", |name| State::parse(name).ok_or(()))?;
        let result = get::<Option<&[u8]>>(row, "result").map(bytes::Bytes::copy_from_slice);
        let mut need = Need { id: *id, state, result };
        if need.state.is_none() && get(row, "is_live") {
            let mut tx = store.pool.begin().await?;
            need.state = super::inspect::state(&mut tx, *id).await?;
            tx.commit(&[]).await?;
        }
        needs.push(need);
    }
    Ok(needs)
}
