//! Looking: what is ready, has ended or was lost, in case nobody has told.
//!
//! Where the heads of lines are is read for claims, which begin there ([`cursors`](super::cursors) says
//! when it is worth it), and for those who wait. What a look finds is a hint: claims ask the tables.

use std::collections::{HashMap, HashSet};

use tokio::time::Instant;
use tokio_postgres::Row;

use super::cursors::{Depth, Looks};
use super::lane::{Call, Failure, Tx};
use super::leases::lately;
use super::row::{count, get, job_id};
use super::{PostgresStore, QueueId};
use crate::job::{JobId, Lease, QueueName};
use crate::store::columns::sql_id;
use crate::store::{News, SessionId};

/// The true heads of queues, for [`super::cursors`]: a full look. From each priority it hops to the
/// next. A queue with limits has one row more, without a place.
const LOOK: &str = "
    SELECT q.id, NULL::integer AS priority, NULL::bigint AS place, r.is_ready
    FROM unnest($1::bigint[]) AS q (id)
    CROSS JOIN LATERAL (SELECT is_gated FROM queue WHERE id = q.id OFFSET 0) k
    CROSS JOIN LATERAL (
        SELECT (SELECT true FROM ready WHERE queue_id = q.id LIMIT 1) IS NOT NULL AS is_ready
    ) r
    WHERE k.is_gated
    UNION ALL
    SELECT q.id, h.priority, h.place, true
    FROM unnest($1::bigint[]) AS q (id)
    CROSS JOIN LATERAL (
        WITH RECURSIVE head AS (
            (
                SELECT r.priority, r.place
                FROM ready r
                WHERE r.queue_id = q.id AND r.gate = ''
                ORDER BY r.priority DESC, r.place
                LIMIT 1
            )
            UNION ALL
            SELECT n.priority, n.place
            FROM head
            CROSS JOIN LATERAL (
                SELECT r.priority, r.place
                FROM ready r
                WHERE r.queue_id = q.id AND r.gate = '' AND r.priority < head.priority
                ORDER BY r.priority DESC, r.place
                LIMIT 1
            ) n
        )
        SELECT priority, place
        FROM head
        LIMIT 32
    ) h";

/// The heads of priorities behind their floors: a near look.
const NEAR: &str = "
    SELECT f.queue_id AS id, f.priority, h.place, true AS is_ready
    FROM unnest($1::bigint[], $2::integer[], $3::bigint[]) AS f (queue_id, priority, place)
    CROSS JOIN LATERAL (
        SELECT r.place
        FROM ready r
        WHERE r.queue_id = f.queue_id AND r.gate = '' AND r.priority = f.priority
        AND r.place > f.place
        ORDER BY r.place
        LIMIT 1
    ) h";

/// For [`super::cursors::Horizon`].
const HORIZON: &str = "
    SELECT
        coalesce(pg_sequence_last_value('number'), 0) AS last,
        pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS xmin,
        pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS xmax";

/// Leases of this node's sessions whose end is asked for.
const CANCELLED: &str = concat!(
    "
    SELECT c.job_id, c.delivery, l.session
    FROM cancel c
    CROSS JOIN LATERAL (
        SELECT session FROM lease
        WHERE node = $1 AND incarnation = $2 AND coalesce(session, 0) <> 0
        AND job_ids @> ARRAY[c.job_id] AND ",
    lately!(),
    "
        ORDER BY expires_at
    ) l"
);

/// Those that are not live any more.
const ENDED: &str = "
    SELECT u.id
    FROM unnest($1::bigint[]) AS u (id)
    WHERE (SELECT true FROM job WHERE id = u.id LIMIT 1) IS NULL
    AND u.id <> ALL(ARRAY(SELECT id FROM places_in_runs($1)))";

/// Those that have ended: each change of a job's delivery ends the lease of the one before.
const LOST: &str = "
    WITH packed AS MATERIALIZED (
        SELECT array_agg(id ORDER BY id) AS ids FROM held_in_runs($1, $2)
    )
    SELECT u.job_id, u.delivery
    FROM unnest($1::bigint[], $2::integer[]) AS u (job_id, delivery)
    CROSS JOIN packed p
    WHERE (SELECT true FROM job WHERE id = u.job_id AND delivery = u.delivery LIMIT 1) IS NULL
    AND (p.ids[width_bucket(u.job_id, p.ids)] = u.job_id) IS NOT TRUE";

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] =
    &[("look::LOOK", LOOK), ("look::NEAR", NEAR), ("look::ENDED", ENDED), ("look::LOST", LOST)];

impl PostgresStore {
    /// Looks, for those who wait, whether there is something that nobody has told.
    pub(super) async fn look_around(
        &self,
        queues: &[QueueName],
        jobs: &[JobId],
    ) -> Result<News, Failure> {
        let ids = self.queues.find_all(&self.pool, queues.iter()).await?;
        let looks = self.cursors.allowed(ids.values().copied());
        let waited: Vec<i64> = jobs.iter().map(|job| sql_id(*job)).collect();
        let held = self.leases.to_ask();
        let held_jobs: Vec<i64> = held.iter().map(|lease| sql_id(lease.job)).collect();
        let deliveries: Vec<i32> = held.iter().map(|lease| lease.delivery.cast_signed()).collect();
        let mut tx = self.keep_lane.begin().await?;
        let node = &self.node;
        let mut found = self.look_in(&mut tx, &looks).await?;
        let told = tx
            .commit(&[
                (ENDED, &[&waited]),
                (CANCELLED, &[&node.id, &node.incarnation]),
                (HORIZON, &[]),
                (LOST, &[&held_jobs, &deliveries]),
            ])
            .await?;
        if let Some(row) = told[2].first() {
            let [last, xmin, xmax] = ["last", "xmin", "xmax"].map(|name| get::<i64>(row, name));
            self.horizon.lock().advance(last, xmin, xmax);
        }
        found.retain(|row| get(row, "is_ready"));
        let ended = told[0].iter().map(|row| job_id(row, "id"));
        let lease =
            |row: &Row| Lease { job: job_id(row, "job_id"), delivery: count(row, "delivery") };
        let cancelled = told[1]
            .iter()
            .map(|row| (SessionId(get::<i64>(row, "session").cast_unsigned()), lease(row)));
        let missing = told[3].iter().map(lease).collect();
        let lost = self.leases.are_missing(missing);
        let empty = self.leases.end(lost.iter().map(|(_, lease)| *lease));
        self.delete_empty(&empty).await;
        let ready = named(ids, &found);
        Ok(News { ready, ended: ended.collect(), cancelled: cancelled.collect(), lost })
    }

    /// Looks in full where that takes long. The answer: of these queues, those that have ready jobs.
    pub(super) async fn look_beside(
        &self,
        queues: &[QueueName],
    ) -> Result<Vec<QueueName>, Failure> {
        let ids = self.queues.find_all(&self.pool, queues.iter()).await?;
        let waited: Vec<QueueId> = ids.values().copied().collect();
        let full = self.cursors.due_beside(&waited);
        if full.is_empty() {
            return Ok(Vec::new());
        }
        let (horizon, started) = (self.horizon.lock().place(), Instant::now());
        let looked = self.look_lane.once((LOOK, &[&full])).await;
        let took = started.elapsed();
        match looked {
            Ok(mut rows) => {
                self.cursors.looked(Depth::Full, &full, &self.heads(&rows), horizon, took);
                rows.retain(|row| get(row, "is_ready"));
                Ok(named(ids, &rows))
            }
            Err(failure) => {
                self.cursors.gave_up(&Looks { full, near: Vec::new() }, took);
                Err(failure)
            }
        }
    }

    /// Reads the heads of queues. If that takes too long, claims go on with what is known.
    pub(super) async fn look_at(&self, looks: &Looks) -> Result<(), Failure> {
        if looks.is_empty() {
            return Ok(());
        }
        let mut tx = self.claim_lane.begin().await?;
        match self.look_in(&mut tx, looks).await {
            Ok(_) => tx.commit(&[]).await.map(drop),
            Err(Failure::TooLong(error)) => {
                tracing::info!(error, "a look at a queue was given up");
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    /// The same in a transaction. The answer: what was found.
    pub(super) async fn look_in(
        &self,
        tx: &mut Tx<'_>,
        looks: &Looks,
    ) -> Result<Vec<Row>, Failure> {
        let (queues, priorities, places) = self.cursors.floors(&looks.near);
        let near: Call<'_> = (NEAR, &[&queues, &priorities, &places]);
        let full: Call<'_> = (LOOK, &[&looks.full]);
        let depths = [(Depth::Full, full, &looks.full), (Depth::Near, near, &looks.near)];
        let mut found = Vec::new();
        for (depth, call, queues) in depths.into_iter().filter(|(_, _, at)| !at.is_empty()) {
            let (horizon, started) = (self.horizon.lock().place(), Instant::now());
            let looked = tx.all(&[call]).await;
            let took = started.elapsed();
            let rows = looked.inspect_err(|failure| {
                if matches!(failure, Failure::TooLong(_)) {
                    self.cursors.gave_up(looks, took);
                }
            })?;
            let rows = rows.into_iter().next().unwrap_or_default();
            self.cursors.looked(depth, queues, &self.heads(&rows), horizon, took);
            found.extend(rows);
        }
        Ok(found)
    }

    /// The heads that a look has found. It also tells which queues have limits.
    fn heads(&self, rows: &[Row]) -> Vec<(QueueId, i32, i64)> {
        let mut heads = Vec::with_capacity(rows.len());
        for row in rows {
            match get(row, "priority") {
                Some(priority) => heads.push((get(row, "id"), priority, get(row, "place"))),
                None => drop(self.gated.write().insert(get(row, "id"))),
            }
        }
        heads
    }
}

/// Which of these queues the rows are about.
fn named(queues: HashMap<QueueName, QueueId>, rows: &[Row]) -> Vec<QueueName> {
    let found: HashSet<QueueId> = rows.iter().map(|row| get(row, "id")).collect();
    queues.into_iter().filter(|(_, id)| found.contains(id)).map(|(name, _)| name).collect()
}
