//! Storing new jobs.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::alike::{Alike, Leases, Stored};
use super::claim::hold;
use super::events::nobody_listens;
use super::keys::{
    Chance, Key, Wanted, chances, give_back, give_keys, keys, same, take_all, take_key,
};
use super::lane::{Failure, Tx};
use super::leases::{Given, Holding, Origin};
use super::needs::{self, Standing};
use super::row::{count, get, job_id, now, time};
use super::settle::finish_waiting;
use super::{PostgresStore, QueueId, retrying};
use crate::job::{
    Flow, JobId, Lease, NewJob, QueueName, Reason, SparseOptions, State, Timestamp, UniqueHold,
    When,
};
use crate::store::columns::{
    sql_backoff, sql_id, sql_kind, sql_millis, sql_options, sql_tags, sql_when,
};
use crate::store::{Claim, Edit, KeyKind, LeasedJob, Offer, Pushed, PushedTo, Refusal};

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
            $13::bytea[], $14::text[], $15::text[], $16::boolean[]
        ) WITH ORDINALITY AS u (
            queue_id, priority, delay_ms, at, ttl_ms, max_attempts,
            backoff, timeout_ms, unique_key, tags, replay_of, content_type,
            payload, options, gate, is_blocked, ord
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
            options, gate, is_blocked, payload
        )
        SELECT
            id, queue_id, priority, CASE WHEN run_at IS NULL THEN id ELSE 0 END, now, max_attempts,
            0, 1, 0,
            run_at, expires_at, timeout_ms, replay_of, content_type, backoff, unique_key, tags,
            options, gate, is_blocked, payload
        FROM new
    ),
    line AS (
        INSERT INTO ready (
            queue_id, gate, priority, place, job_id, delivery, bytes, ready_at, expires_at,
            timeout_ms
        )
        SELECT
            queue_id, coalesce(gate, ''), priority, id, id, 1, length(payload), now, expires_at,
            timeout_ms
        FROM new
        WHERE run_at IS NULL AND NOT is_blocked
    ),
    schedule AS (
        INSERT INTO scheduled (run_at, job_id, queue_id)
        SELECT run_at, id, queue_id
        FROM new
        WHERE run_at IS NOT NULL AND NOT is_blocked
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

/// The first text if the word is `yes`, else the other one.
macro_rules! either {
    (yes, $text:expr, $other:expr) => {
        $text
    };
    (no, $text:expr, $other:expr) => {
        $other
    };
}

/// The kinds of a push, one by one: as a function in `FROM` they would all be kept, with their payloads.
macro_rules! kinds {
    () => {
        "(
            SELECT
                unnest($2::payload_list[]) AS payloads, unnest($3::bigint[]) AS queue_id,
                unnest($4::integer[]) AS priority, unnest($5::integer[]) AS max_attempts,
                unnest($6::bigint[]) AS timeout_ms, unnest($7::text[]) AS backoff,
                unnest($8::text[]) AS content_type, unnest($9::integer[]) AS first,
                unnest($10::integer[]) AS last, unnest($12::boolean[]) AS is_run,
                generate_series(1, cardinality($9::integer[])) AS kind
            OFFSET 0
        ) k"
    };
}

/// The same for jobs that ask for nothing that [`PUSH`] writes beside the job and its place or time:
/// most jobs of most users. What jobs of one kind have in common is said once, and each kind that is
/// ready is one row of the line, from one of its jobs to another. See [blocks](super::blocks).
///
/// `later`: kinds may have a delay or a time, which are the last two parameters. `to`: jobs are leased
/// at once, by each of these claims those from the number `$19` to `$20`, if its queue gives out
/// jobs. If not, they stand in line as well.
macro_rules! push_alike {
    (to $to:ident, later $later:ident $times:literal) => {
        concat!(
            "
    WITH clock AS MATERIALIZED (SELECT now_ms() AS now),",
            either!(
                $to,
                "
    open AS MATERIALIZED (
        SELECT ARRAY(
            SELECT id FROM queue
            WHERE id = ANY($3::bigint[]) AND paused_at IS NULL AND NOT is_gated
        ) AS ids
    ),",
                ""
            ),
            either!(
                $later,
                "
    due AS MATERIALIZED (
        SELECT ARRAY(
            SELECT CASE WHEN at > (SELECT now FROM clock) THEN at END
            FROM (
                SELECT kind, coalesce((SELECT now FROM clock) + delay, at) AS at
                FROM ",
                ""
            ),
            $times,
            either!(
                $later,
                " WITH ORDINALITY AS w (delay, at, kind)
            ) w
            ORDER BY kind
        ) AS run_at
    ),",
                ""
            ),
            "
    new AS MATERIALIZED (
        SELECT ARRAY(SELECT nextval('number') FROM generate_series(1, $1::integer)) AS ids
    ),
    packing AS MATERIALIZED (
        SELECT true = ANY($12::boolean[]) AND ",
            nobody_listens!(),
            " AS is_on
    ),
    runs AS (
        INSERT INTO run (
            id, bucket, queue_id, first, last, count, place, priority, created_at, max_attempts,
            content_type, backoff, ids, payloads, run_at
        )
        SELECT
            (SELECT ids FROM new)[b.low], (SELECT ids FROM new)[b.low] >> 10, queue_id,
            (SELECT ids FROM new)[b.low], (SELECT ids FROM new)[b.high], b.high - b.low + 1,
            (SELECT ids FROM new)[first], priority, (SELECT now FROM clock), max_attempts,
            content_type, backoff, (SELECT ids FROM new)[b.low:b.high],
            CASE
                WHEN b.low = first AND b.high = last THEN payloads
                ELSE payloads[b.low - first + 1:b.high - first + 1]
            END, ",
            either!($later, "(SELECT run_at FROM due)[kind]", "NULL::bigint"),
            "
        FROM ",
            kinds!(),
            "
        -- What lies in each bucket: the numbers of a push rise.
        CROSS JOIN LATERAL (
            SELECT
                greatest(first, width_bucket((bucket << 10) - 1, (SELECT ids FROM new)) + 1) AS low,
                least(last, width_bucket((bucket << 10) + 1023, (SELECT ids FROM new))) AS high
            FROM generate_series(
                (SELECT ids FROM new)[first] >> 10, (SELECT ids FROM new)[last] >> 10
            ) AS bucket
            OFFSET 0
        ) b
        WHERE is_run AND (SELECT is_on FROM packing) AND b.low <= b.high
    ),
    jobs AS (
        INSERT INTO job (
            id, queue_id, priority, created_at, max_attempts, attempts, delivery, crashes,
            timeout_ms, backoff, content_type, payload, place, run_at
        )
        SELECT
            (SELECT ids FROM new)[number], queue_id, priority, (SELECT now FROM clock), max_attempts,
            0, 1, 0, timeout_ms, backoff, content_type, payload,",
            either!(
                $later,
                "
            CASE
                WHEN (SELECT run_at FROM due)[kind] IS NULL THEN (SELECT ids FROM new)[first]
                ELSE 0
            END,
            (SELECT run_at FROM due)[kind]",
                "
            (SELECT ids FROM new)[first], NULL"
            ),
            "
        FROM (
            SELECT *, unnest(payloads) AS payload, generate_series(first, last) AS number
            FROM ",
            kinds!(),
            "
            WHERE NOT (is_run AND (SELECT is_on FROM packing))
            OFFSET 0
        ) u
        RETURNING id
    ),
    line AS (
        INSERT INTO ready (
            queue_id, gate, priority, place, job_id, block, job_ids, count, delivery, bytes,
            ready_at, timeout_ms
        )
        SELECT
            queue_id, '', priority, (SELECT ids FROM new)[first], (SELECT ids FROM new)[first],
            CASE WHEN first < last THEN (SELECT ids FROM new)[first] END,
            CASE WHEN first < last THEN (SELECT ids FROM new)[first:last] END,
            last - first + 1, 1, bytes, (SELECT now FROM clock), timeout_ms
        FROM unnest(
            $3::bigint[], $4::integer[], $6::bigint[], $9::integer[], $10::integer[],
            $11::integer[]
        ) WITH ORDINALITY AS r (queue_id, priority, timeout_ms, first, last, bytes, kind)
        WHERE true",
            either!($later, " AND (SELECT run_at FROM due)[kind] IS NULL", ""),
            either!(
                $to,
                "
        AND NOT (
            ($22::boolean[])[kind] AND queue_id = ANY((SELECT ids FROM open)::bigint[])
        )",
                ""
            ),
            "
    )",
            either!(
                $later,
                ",
    schedule AS (
        INSERT INTO scheduled (run_at, job_id, queue_id, count, bytes)
        SELECT
            run_at,
            (SELECT ids FROM new)[generate_series(first, CASE WHEN is_run THEN first ELSE last END)],
            queue_id, CASE WHEN is_run THEN last - first + 1 ELSE 1 END,
            CASE WHEN is_run THEN bytes END
        FROM (
            SELECT
                (SELECT run_at FROM due)[kind] AS run_at, queue_id, first, last, bytes,
                may_be_run AND (SELECT is_on FROM packing) AS is_run
            FROM unnest(
                $3::bigint[], $9::integer[], $10::integer[], $11::integer[], $12::boolean[]
            ) WITH ORDINALITY AS r (queue_id, first, last, bytes, may_be_run, kind)
            OFFSET 0
        ) r
        WHERE run_at IS NOT NULL
    )",
                ""
            ),
            either!(
                $to,
                concat!(
                    ",
    leases AS (
        INSERT INTO lease (
            id, node, incarnation, worker, session, started_at, expires_at, job_ids, deliveries
        )
        SELECT
            id, $13, $14, worker, session, (SELECT now FROM clock),
            (SELECT now FROM clock) + lasts, (SELECT ids FROM new)[first:last],
            array_fill(1, ARRAY[last - first + 1])
        FROM unnest(
            $15::bigint[], $16::text[], $17::bigint[], $18::bigint[], $19::integer[],
            $20::integer[], $21::bigint[]
        ) AS l (id, worker, session, lasts, first, last, queue_id)
        WHERE first <= last AND queue_id = ANY((SELECT ids FROM open)::bigint[])
        -- After the jobs, if somebody listens, so that they hear of a push before its lease.
        AND (",
                    nobody_listens!(),
                    " OR (SELECT count(*) FROM jobs) > 0)
    ),
    deadlines AS (
        INSERT INTO deadline (at, job_id, delivery)
        SELECT
            (SELECT now FROM clock) + timeout_ms,
            (SELECT ids FROM new)[generate_series(first, last)], 1
        FROM unnest(
            $3::bigint[], $6::bigint[], $9::integer[], $10::integer[], $22::boolean[]
        ) AS r (queue_id, timeout_ms, first, last, is_offered)
        WHERE timeout_ms IS NOT NULL AND is_offered
        AND queue_id = ANY((SELECT ids FROM open)::bigint[])
    )"
                ),
                ""
            ),
            "
    SELECT
        (SELECT now FROM clock) AS now, (SELECT ids FROM new) AS ids,
        (SELECT is_on FROM packing) AS is_packed, ",
            either!($later, "(SELECT run_at FROM due)", "NULL::bigint[]"),
            " AS run_at, ",
            either!($to, "(SELECT ids FROM open)", "NULL::bigint[]"),
            " AS open"
        )
    };
}

const PUSH_ALIKE: &str = push_alike!(to no, later no "");

const PUSH_ALIKE_LATER: &str = push_alike!(to no, later yes "unnest($13::bigint[], $14::bigint[])");

const PUSH_TO: &str = push_alike!(to yes, later no "");

const PUSH_TO_LATER: &str = push_alike!(to yes, later yes "unnest($23::bigint[], $24::bigint[])");

/// Where jobs are, live or ended.
const STATES: &str = "
    WITH packed AS MATERIALIZED (
        SELECT id, state FROM completed_in_runs($1)
    ),
    live_packed AS MATERIALIZED (
        SELECT id, queue_id, place, run_at FROM places_in_runs($1)
    )
    SELECT
        u.id, f.state, j.id IS NOT NULL AS is_live, j.is_blocked,
        j.run_at IS NOT NULL AS is_scheduled, r.is_ready
    FROM unnest($1::bigint[]) AS u (id)
    LEFT JOIN LATERAL (
        SELECT state FROM finished WHERE id = u.id
        UNION ALL
        SELECT state FROM packed WHERE id = u.id
        OFFSET 0
    ) f ON true
    LEFT JOIN LATERAL (
        SELECT id, is_blocked, run_at, queue_id, coalesce(gate, '') AS gate, priority, place
        FROM job
        WHERE id = u.id
        UNION ALL
        SELECT id, false, run_at, queue_id, '', 0, place FROM live_packed WHERE id = u.id
        OFFSET 0
    ) j ON true
    CROSS JOIN LATERAL (
        SELECT (
            SELECT true FROM ready
            WHERE queue_id = j.queue_id AND gate = j.gate AND priority = j.priority
            AND place = j.place AND job_id = u.id AND block IS NULL
            UNION ALL
            SELECT true FROM ready WHERE block = j.place AND u.id = ANY(job_ids)
            LIMIT 1
        ) IS NOT NULL AS is_ready
    ) r";

/// A queue has jobs with limits from now on. Locked against those who would say that it has none.
const SET_GATED: &str = "
    WITH queues AS MATERIALIZED (
        SELECT id, is_gated
        FROM queue
        WHERE id = ANY($1::bigint[])
        ORDER BY id
        FOR KEY SHARE
    )
    UPDATE queue
    SET is_gated = true
    WHERE id = ANY(ARRAY(SELECT id FROM queues WHERE NOT is_gated))";

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] = &[
    ("push::PUSH", PUSH),
    ("push::PUSH_ALIKE", PUSH_ALIKE),
    ("push::PUSH_ALIKE_LATER", PUSH_ALIKE_LATER),
    ("push::PUSH_TO", PUSH_TO),
    ("push::PUSH_TO_LATER", PUSH_TO_LATER),
    ("push::STATES", STATES),
];

impl PostgresStore {
    pub(super) async fn try_push(&self, jobs: &[NewJob]) -> Result<Vec<Pushed>, Failure> {
        let queues = self.queues.ids(&self.pool, jobs.iter().map(|job| &job.queue)).await?;
        let guarded = self.guarded(&queues).await?;
        if !guarded.is_empty() {
            return self.push_judged(jobs, &queues, &guarded).await;
        }
        if !jobs.is_empty() && jobs.iter().all(is_bare) {
            return self.push_alike(jobs, &queues).await;
        }
        if jobs.iter().all(is_plain) {
            let all: Vec<New<'_>> = jobs.iter().map(|job| New::of(job, &queues)).collect();
            let columns = Columns::of(&all);
            let rows = self.push_lane.once((PUSH, &columns.params())).await?;
            let pushed: Vec<Pushed> = rows.iter().map(inserted).collect();
            self.note_pushed(jobs, &queues, &pushed);
            return Ok(pushed);
        }
        let mut tx = self.push_lane.begin().await?;
        let pushed = self.push_in(&mut tx, jobs, &queues).await?;
        tx.commit(&[]).await?;
        self.note_pushed(jobs, &queues, &pushed);
        Ok(pushed)
    }

    /// Stores jobs that ask for little, by kind.
    async fn push_alike(
        &self,
        jobs: &[NewJob],
        queues: &HashMap<QueueName, QueueId>,
    ) -> Result<Vec<Pushed>, Failure> {
        let alike = Alike::of(jobs, queues, &[], &self.gated.read());
        let sql = if alike.has_delays() { PUSH_ALIKE_LATER } else { PUSH_ALIKE };
        let rows = self.push_lane.once((sql, &alike.params(&[]))).await?;
        let stored = Stored::of(&rows[0]);
        alike.note(self, &stored, |_| true);
        Ok(alike.pushed(&stored))
    }

    pub(super) async fn push_jobs_to(
        &self,
        jobs: &[NewJob],
        to: &Offer,
    ) -> Result<PushedTo, Failure> {
        let queues = self.queues.ids(&self.pool, jobs.iter().map(|job| &job.queue)).await?;
        let mut all = jobs.iter().zip(&to.owners);
        let is_offered = !to.claims.is_empty()
            && all.all(|(job, owner)| is_bare(job) && (owner.is_none() || job.when == When::Now));
        if !is_offered || !self.guarded(&queues).await?.is_empty() {
            let leased = vec![Vec::new(); to.claims.len()];
            return Ok(PushedTo { pushed: self.push_jobs(jobs).await?, leased });
        }
        retrying!(self.try_push_to(jobs, to, &queues))
    }

    async fn try_push_to(
        &self,
        jobs: &[NewJob],
        to: &Offer,
        queues: &HashMap<QueueName, QueueId>,
    ) -> Result<PushedTo, Failure> {
        let alike = Alike::of(jobs, queues, &to.owners, &self.gated.read());
        let leases = Leases::of(to, &alike, queues);
        let node = &self.node;
        let params = alike.params(&[
            &node.id,
            &node.incarnation,
            &leases.id,
            &leases.worker,
            &leases.session,
            &leases.lasts,
            &leases.first,
            &leases.last,
            &leases.queue,
            &alike.is_offered,
        ]);
        let sql = if alike.has_delays() { PUSH_TO_LATER } else { PUSH_TO };
        let rows = match self.push_lane.once((sql, &params)).await {
            Err(failure @ Failure::InDoubt(_)) => {
                self.leases.doubt(leases.id);
                return Err(failure);
            }
            done => done?,
        };
        let (now, open): (_, Vec<QueueId>) = (now(&rows[0]), get(&rows[0], "open"));
        let stored = Stored::of(&rows[0]);
        alike.note(self, &stored, |kind| {
            !alike.is_offered[kind] || !open.contains(&alike.queue[kind])
        });
        let pushed = alike.pushed(&stored);
        let mut offered = vec![0; to.claims.len()];
        to.owners.iter().flatten().for_each(|owner| offered[*owner] += 1);
        let mut leased: Vec<Vec<LeasedJob>> =
            offered.iter().map(|count| Vec::with_capacity(*count)).collect();
        let mut held: Vec<Vec<Holding>> =
            offered.iter().map(|count| Vec::with_capacity(*count)).collect();
        let runs = alike.runs(&stored);
        for ((place, id), run) in alike.order.iter().zip(&stored.ids).zip(runs) {
            let job = &jobs[*place];
            if let Some(owner) = to.owners[*place].filter(|it| open.contains(&leases.queue[*it])) {
                let job = handed_over(job, *id, now, &to.claims[owner]);
                held[owner].push(Holding {
                    lease: job.lease,
                    is_plain: job.timeout.is_none(),
                    run,
                });
                leased[owner].push(job);
            }
        }
        let leases = leases.id.into_iter().zip(held);
        for ((claim, (id, held)), own) in to.claims.iter().zip(leases).zip(&mut leased) {
            // As a claim would bring them.
            own.sort_by_key(|job| Reverse(job.priority));
            if own.is_empty() {
                continue;
            }
            let (node, worker) = (self.node.id.as_str().into(), claim.worker.clone());
            let (lasts, session) = hold(claim);
            let given = Given { node, worker, session, started_at: now };
            let queue = Some((queues[&claim.queue], claim.queue.clone()));
            self.leases.insert(id, Origin { given, queue }, &held, lasts);
        }
        Ok(PushedTo { pushed, leased })
    }

    /// Stores jobs of which some ask for more than others.
    pub(super) async fn push_in(
        &self,
        tx: &mut Tx<'_>,
        jobs: &[NewJob],
        queues: &HashMap<QueueName, QueueId>,
    ) -> Result<Vec<Pushed>, Failure> {
        let gated = jobs.iter().filter(|job| job.options.flow.gate().is_some());
        let gated: BTreeSet<QueueId> = gated.map(|job| queues[&job.queue]).collect();
        if !gated.is_empty() {
            self.set_gated(tx, gated.into_iter().collect()).await?;
        }
        match jobs.iter().all(is_simple) {
            true => push_with_keys(tx, jobs, queues).await,
            false => self.push_one_by_one(tx, jobs, queues).await,
        }
    }

    pub(super) async fn set_gated(
        &self,
        tx: &mut Tx<'_>,
        queues: Vec<QueueId>,
    ) -> Result<(), Failure> {
        tx.query(SET_GATED, &[&queues]).await?;
        self.gated.write().extend(queues);
        Ok(())
    }

    async fn push_one_by_one(
        &self,
        tx: &mut Tx<'_>,
        jobs: &[NewJob],
        queues: &HashMap<QueueName, QueueId>,
    ) -> Result<Vec<Pushed>, Failure> {
        let mut refusals = refusals(tx, jobs).await?;
        // Jobs that wait for each other are stored together or not at all.
        if jobs.iter().any(|job| job.is_part)
            && let Some(refusal) = refusals.iter().flatten().next().copied()
        {
            refusals.fill(Some(refusal));
        }
        let mut pushed: Vec<Pushed> = Vec::with_capacity(jobs.len());
        for (job, refusal) in jobs.iter().zip(refusals) {
            let id = |place: usize| pushed.get(place).and_then(Pushed::id);
            let one = match refusal {
                Some(refusal) => Pushed::Refused(refusal),
                None => self.push_one(tx, &job.clone().resolved(id), queues[&job.queue]).await?,
            };
            pushed.push(one);
        }
        Ok(pushed)
    }

    async fn push_one(
        &self,
        tx: &mut Tx<'_>,
        job: &NewJob,
        queue: QueueId,
    ) -> Result<Pushed, Failure> {
        let mut taken: Vec<Key> = Vec::new();
        for wanted in keys(job, queue) {
            let key = wanted.key.clone();
            let Some(holder) = take_key(tx, wanted).await? else {
                taken.push(key);
                continue;
            };
            let met = match key.1 == sql_kind(KeyKind::Debounce) {
                true => self.debounce(tx, holder, job).await?,
                false => Some(duplicate(tx, holder, key.1).await?),
            };
            if let Some(pushed) = met {
                give_back(tx, &taken.iter().collect::<Vec<_>>()).await?;
                return Ok(pushed);
            }
            taken.push(key);
        }
        let standing = needs::look(tx, &job.options.depends).await?;
        let is_held = !matches!(standing, Standing::Free);
        let gate = job.options.flow.gate();
        let new = New { job, queue, gate, is_held };
        let rows = tx.query(PUSH, &Columns::of(std::slice::from_ref(&new)).params()).await?;
        let pushed = inserted(&rows[0]);
        let (id, run_at) = (job_id(&rows[0], "id"), time(&rows[0], "run_at"));
        let given: Vec<(&Key, JobId)> = taken.iter().map(|key| (key, id)).collect();
        give_keys(tx, &given).await?;
        match standing {
            Standing::Free => Ok(pushed),
            Standing::Blocked(on) => {
                needs::block(tx, sql_id(id), &on).await?;
                Ok(Pushed::Inserted { id, state: State::Blocked, run_at })
            }
            Standing::Failed => {
                let now = now(&tx.query("SELECT now_ms() AS now", &[]).await?[0]);
                let (state, reason) = (State::Dead, Some(Reason::DependencyFailed));
                finish_waiting(self, tx, &[id], state, reason, now).await?;
                Ok(Pushed::Inserted { id, state, run_at })
            }
        }
    }

    /// A waiting job takes over what the later push says. `None`: it waits no longer.
    async fn debounce(
        &self,
        tx: &mut Tx<'_>,
        holder: JobId,
        job: &NewJob,
    ) -> Result<Option<Pushed>, Failure> {
        let sql = "SELECT delivery FROM job WHERE id = $1";
        let rows = tx.query(sql, &[&sql_id(holder)]).await?;
        if rows.first().is_none_or(|row| count(row, "delivery") != 1) {
            return Ok(None);
        }
        let (payload, when) = (Some(job.payload.clone()), Some(job.when));
        let edit = Edit { payload, when, ..Edit::default() };
        let Some(row) = self.apply(tx, holder, &edit).await? else { return Ok(None) };
        let run_at = time(&row, "run_at");
        let state = match (get(&row, "is_blocked"), run_at) {
            (true, _) => State::Blocked,
            (false, Some(_)) => State::Scheduled,
            (false, None) => State::Ready,
        };
        Ok(Some(Pushed::Replaced { id: holder, state, run_at }))
    }

    /// To be called once it is durable, and not before: a claim in between would find nothing and
    /// pass.
    pub(super) fn note_pushed(
        &self,
        jobs: &[NewJob],
        queues: &HashMap<QueueName, QueueId>,
        pushed: &[Pushed],
    ) {
        for (job, pushed) in jobs.iter().zip(pushed) {
            match pushed {
                Pushed::Inserted { id, state: State::Ready, .. } => {
                    self.note_ready(queues[&job.queue], job.priority, sql_id(*id));
                }
                // Where it stands now, the next look finds.
                Pushed::Replaced { state: State::Ready, .. } => {
                    self.note_resumed(queues[&job.queue]);
                    self.outbox.ready(queues[&job.queue], job.priority, 0, 1);
                }
                Pushed::Inserted { state: State::Scheduled, run_at: Some(at), .. }
                | Pushed::Replaced { state: State::Scheduled, run_at: Some(at), .. } => {
                    self.outbox.due(*at);
                }
                _ => {}
            }
        }
    }

    pub(super) async fn push_jobs(&self, jobs: &[NewJob]) -> Result<Vec<Pushed>, Failure> {
        retrying!(self.try_push(jobs))
    }
}

/// A job that was leased as it was stored.
fn handed_over(job: &NewJob, id: i64, now: Timestamp, claim: &Claim) -> LeasedJob {
    LeasedJob {
        lease: Lease { job: JobId(id.cast_unsigned()), delivery: 1 },
        payload: job.payload.clone(),
        attempt: 1,
        max_attempts: job.max_attempts,
        priority: job.priority,
        created_at: now,
        lease_until: now + hold(claim).0,
        timeout: job.timeout,
        tags: Vec::new(),
        needs: Vec::new(),
        options: SparseOptions::default(),
    }
}

/// It needs a row, and a place in line or a time, only.
fn is_bare(job: &NewJob) -> bool {
    is_plain(job)
        && job.options.is_default()
        && job.ttl.is_none()
        && job.tags.is_empty()
        && job.replay_of.is_none()
}

/// One statement stores it.
fn is_plain(job: &NewJob) -> bool {
    let options = &job.options;
    let has_key =
        job.unique.is_some() || options.idempotency.is_some() || options.custom_id.is_some();
    !has_key && options.flow == Flow::default() && is_free(job)
}

/// It waits for nobody, and its keys are such that whichever of two jobs has one has it for the same
/// time.
fn is_simple(job: &NewJob) -> bool {
    let options = &job.options;
    let is_alike = match options.hold {
        UniqueHold::Live => true,
        // The first that wants the key has it, unless another key keeps it out.
        UniqueHold::WindowMs(_) => options.idempotency.is_none() && options.custom_id.is_none(),
        UniqueHold::Debounce => false,
    };
    is_alike && is_free(job)
}

/// It waits for nobody.
fn is_free(job: &NewJob) -> bool {
    job.options.depends.on.is_empty() && job.waits_for.is_empty()
}

async fn duplicate(tx: &mut Tx<'_>, id: JobId, kind: i16) -> Result<Pushed, Failure> {
    let states = states(tx, &[id]).await?;
    Ok(Pushed::Duplicate { id, state: state_of(&states, id), of: same(kind) })
}

fn state_of(states: &HashMap<JobId, State>, id: JobId) -> State {
    states.get(&id).copied().unwrap_or(State::Completed)
}

/// Where jobs are. Those of which nothing is known are left out.
async fn states(tx: &mut Tx<'_>, jobs: &[JobId]) -> Result<HashMap<JobId, State>, Failure> {
    let ids: Vec<i64> = jobs.iter().map(|id| sql_id(*id)).collect();
    let rows = tx.query(STATES, &[&ids]).await?;
    let state = |row: &Row| {
        if let Some(state) = get::<Option<&str>>(row, "state") {
            return State::parse(state);
        }
        get::<bool>(row, "is_live").then(|| {
            match (get(row, "is_blocked"), get(row, "is_scheduled"), get(row, "is_ready")) {
                (true, ..) => State::Blocked,
                (false, true, _) => State::Scheduled,
                (false, false, true) => State::Ready,
                (false, false, false) => State::Leased,
            }
        })
    };
    Ok(rows.iter().filter_map(|row| Some((job_id(row, "id"), state(row)?))).collect())
}

/// Which jobs can not be stored.
async fn refusals(tx: &mut Tx<'_>, jobs: &[NewJob]) -> Result<Vec<Option<Refusal>>, Failure> {
    let needs: Vec<JobId> =
        jobs.iter().flat_map(|job| job.options.depends.on.iter().copied()).collect();
    let known = if needs.is_empty() { HashMap::new() } else { states(tx, &needs).await? };
    let refusal = |job: &NewJob| {
        let unknown = job.options.depends.on.iter().find(|id| !known.contains_key(id));
        unknown.map(|id| Refusal::NoSuchJob(*id))
    };
    Ok(jobs.iter().map(refusal).collect())
}

fn inserted(row: &Row) -> Pushed {
    let run_at = time(row, "run_at");
    let state = if run_at.is_some() { State::Scheduled } else { State::Ready };
    Pushed::Inserted { id: job_id(row, "id"), state, run_at }
}

/// Stores jobs of which some have keys.
async fn push_with_keys(
    tx: &mut Tx<'_>,
    jobs: &[NewJob],
    queues: &HashMap<QueueName, QueueId>,
) -> Result<Vec<Pushed>, Failure> {
    let wanted: Vec<Vec<Wanted>> = jobs.iter().map(|job| keys(job, queues[&job.queue])).collect();
    let others = take_all(tx, &wanted).await?;
    let chances = chances(&wanted, &others);
    let new: Vec<New<'_>> = jobs
        .iter()
        .zip(&chances)
        .filter(|(_, chance)| matches!(chance, Chance::Insert))
        .map(|(job, _)| New::of(job, queues))
        .collect();
    let columns = Columns::of(&new);
    let rows = tx.query(PUSH, &columns.params()).await?;
    let first = wanted.iter().zip(&chances).filter(|(_, it)| matches!(it, Chance::Insert));
    let given = first.zip(&rows).flat_map(|((wanted, _), row)| {
        let id = job_id(row, "id");
        wanted.iter().map(move |Wanted { key, .. }| (key, id))
    });
    let given: Vec<(&Key, JobId)> = given.collect();
    give_keys(tx, &given).await?;
    let used: HashSet<&Key> = given.iter().map(|(key, _)| *key).collect();
    let all = wanted.iter().flatten().map(|Wanted { key, .. }| key);
    let left = all.filter(|key| !used.contains(key) && !others.contains_key(*key));
    let left: Vec<&Key> = left.collect();
    give_back(tx, &left).await?;
    let holders: Vec<JobId> = chances.iter().filter_map(Chance::holder).collect();
    let states = if holders.is_empty() { HashMap::new() } else { states(tx, &holders).await? };
    let mut rows = rows.iter();
    let mut pushed: Vec<Pushed> = Vec::with_capacity(jobs.len());
    for chance in chances {
        let outcome = match chance {
            Chance::Insert => inserted(rows.next().expect("one row for each new job")),
            Chance::Taken(id, of) => Pushed::Duplicate { id, state: state_of(&states, id), of },
            Chance::Earlier(place, of) => match pushed[place] {
                Pushed::Inserted { id, state, .. } => Pushed::Duplicate { id, state, of },
                other => other,
            },
        };
        pushed.push(outcome);
    }
    Ok(pushed)
}

/// A job and where it goes.
struct New<'a> {
    job: &'a NewJob,
    queue: QueueId,
    gate: Option<String>,
    /// It stands nowhere yet.
    is_held: bool,
}

impl<'a> New<'a> {
    fn of(job: &'a NewJob, queues: &HashMap<QueueName, QueueId>) -> Self {
        Self { job, queue: queues[&job.queue], gate: job.options.flow.gate(), is_held: false }
    }
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
    options: Vec<Option<String>>,
    gate: Vec<Option<&'a str>>,
    is_blocked: Vec<bool>,
}

impl<'a> Columns<'a> {
    fn of(jobs: &'a [New<'a>]) -> Self {
        let mut columns = Self::default();
        for New { job, queue, gate, is_held } in jobs {
            let (delay, at) = sql_when(job.when);
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
            columns.options.push(sql_options(&job.options));
            columns.gate.push(gate.as_deref());
            columns.is_blocked.push(*is_held);
        }
        columns
    }

    fn params(&self) -> [&(dyn ToSql + Sync); 16] {
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
            &self.options,
            &self.gate,
            &self.is_blocked,
        ]
    }
}
