-- Jobs that are acked together are one row: a run.
--
-- A completed job has a row in `finished`, or is in one run; never both. Runs
-- are written by acks of plain jobs (settle.rs), read beside `finished` in the
-- same statement, and forgotten whole. Who changes one job of a run unpacks it
-- first: all its jobs have rows in `finished` then.

-- What a job does not share with its run. Only jobs that were completed by their
-- first lease are in runs, and that have no tags, no unique key, no time limit
-- and no replay: of those a row of `finished` has nothing more to say. (A type
-- that a table is made of gets no more fields: what comes later needs a column
-- beside `jobs`, or another table.)
CREATE TYPE packed AS (
    id bigint,
    priority integer,
    created_at bigint,
    max_attempts integer,
    expires_at bigint,
    replay_of bigint,
    content_type text,
    backoff text,
    options text,
    payload bytea,
    result bytea
);

CREATE TABLE completed_run (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Of all its jobs: the number of each is in bucket * 1024 .. + 1023. So whoever
    -- looks for a job by its number reads the jobs of one bucket at most.
    bucket bigint NOT NULL,
    queue_id bigint NOT NULL,
    finished_at bigint NOT NULL,
    -- Of the lease that completed them.
    started_at bigint NOT NULL,
    -- The lowest and the highest number. Others may lie in between.
    first bigint NOT NULL,
    last bigint NOT NULL,
    count integer NOT NULL,
    -- Payloads and results were dropped.
    is_dropped boolean NOT NULL DEFAULT false,
    node text NOT NULL,
    worker text NOT NULL,
    jobs packed[] NOT NULL
) WITH (
    toast_tuple_target = 8160,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 0
);

-- Written once and read seldom, as the jobs of a lease.
ALTER TABLE completed_run ALTER COLUMN jobs SET STORAGE EXTERNAL;

CREATE INDEX completed_run_bucket ON completed_run (bucket);
-- For retention: what to forget first, by queue.
CREATE INDEX completed_run_kept ON completed_run (queue_id, finished_at, id);

-- It was in a run before.
ALTER TABLE finished ADD COLUMN was_packed boolean NOT NULL DEFAULT false;

-- The jobs of runs, as `finished` would have them, behind what leads to them.
CREATE VIEW completed_job AS
SELECT
    r.bucket, r.first, r.last, j.id, r.queue_id, 'completed'::text AS state, NULL::text AS reason,
    j.priority, j.max_attempts, j.created_at, r.finished_at, 0 AS attempts, 1 AS deliveries,
    0 AS crashes, r.node, r.worker, r.started_at, j.expires_at, NULL::bigint AS timeout_ms,
    j.replay_of, NULL::bigint AS replayed_as, j.content_type, j.backoff, NULL::text AS unique_key,
    NULL::text AS tags, j.payload, j.result, j.options, r.is_dropped,
    true AS was_packed
FROM completed_run r
CROSS JOIN LATERAL unnest(r.jobs) j;

-- Those of these jobs that are in runs: each is looked for among those of its
-- bucket that are asked for. It must be such that the planner takes it
-- into the statement that asks; and whoever adds a column to `finished` adds it
-- here.
CREATE FUNCTION completed_in_runs(ids bigint[]) RETURNS SETOF finished
LANGUAGE sql STABLE
AS $$
    SELECT
        c.id, c.queue_id, c.state, c.reason, c.priority, c.max_attempts, c.created_at,
        c.finished_at, c.attempts, c.deliveries, c.crashes, c.node, c.worker, c.started_at,
        c.expires_at, c.timeout_ms, c.replay_of, c.replayed_as, c.content_type, c.backoff,
        c.unique_key, c.tags, c.payload, c.result, c.options, c.is_dropped,
        c.was_packed
    FROM (
        SELECT
            u.id >> 10 AS bucket, min(u.id) AS low, max(u.id) AS high, array_agg(u.id) AS wanted
        FROM unnest(ids) AS u (id)
        GROUP BY u.id >> 10
    ) b
    CROSS JOIN LATERAL (
        SELECT *
        FROM completed_job
        WHERE bucket = b.bucket AND first <= b.high AND last >= b.low
        OFFSET 0
    ) c
    WHERE c.id = ANY(b.wanted)
$$;

-- The runs that have any of these jobs.
CREATE FUNCTION runs_of(ids bigint[]) RETURNS SETOF bigint
LANGUAGE sql STABLE
AS $$
    SELECT r.id
    FROM (
        SELECT
            u.id >> 10 AS bucket, min(u.id) AS low, max(u.id) AS high, array_agg(u.id) AS wanted
        FROM unnest(ids) AS u (id)
        GROUP BY u.id >> 10
    ) b
    CROSS JOIN LATERAL (
        SELECT id, jobs
        FROM completed_run
        WHERE bucket = b.bucket AND first <= b.high AND last >= b.low
        OFFSET 0
    ) r
    WHERE (SELECT true FROM unnest(r.jobs) j WHERE j.id = ANY(b.wanted) LIMIT 1)
$$;

-- The jobs of these runs have rows in `finished` from now on. Those that others
-- unpack at this moment are waited for, by their numbers.
CREATE FUNCTION unpack_runs(runs bigint[]) RETURNS void
LANGUAGE sql
AS $$
    WITH gone AS (
        DELETE FROM completed_run
        WHERE id = ANY(ARRAY(
            SELECT id FROM completed_run WHERE id = ANY(runs) ORDER BY id FOR UPDATE
        ))
        RETURNING *
    )
    INSERT INTO finished (
        id, queue_id, state, priority, created_at, finished_at, max_attempts, attempts,
        deliveries, crashes, node, worker, started_at, expires_at, replay_of, content_type,
        backoff, options, payload, result, is_dropped, was_packed
    )
    SELECT
        j.id, r.queue_id, 'completed', j.priority, j.created_at, r.finished_at, j.max_attempts, 0,
        1, 0, r.node, r.worker, r.started_at, j.expires_at, j.replay_of, j.content_type,
        j.backoff, j.options, j.payload, j.result, r.is_dropped, true
    FROM gone r
    CROSS JOIN LATERAL unnest(r.jobs) j
$$;

-- As in 0008_events.sql; and of jobs that are unpacked it is no news that they are
-- completed.
CREATE OR REPLACE FUNCTION tell_finished() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    queues bigint[] := watched(ARRAY(SELECT DISTINCT queue_id FROM added));
BEGIN
    IF queues <> '{}' THEN
        INSERT INTO event (at, kind, queue_id, job_id, number, word)
        SELECT now_ms(), state, queue_id, id, nullif(deliveries, 0), reason
        FROM added
        WHERE queue_id = ANY(queues) AND NOT was_packed;
    END IF;
    RETURN NULL;
END
$$;

-- As in 0005_sql.sql; and they look into runs. (The others ask only for what has
-- ended in their own transaction, or take what they do not find for completed.)

CREATE OR REPLACE FUNCTION field_needs(options jsonb) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    needs bigint[];
    unknown bigint;
BEGIN
    FOR place IN 0 .. coalesce(field_count(options, 'depends_on', 0, 100), 0) - 1 LOOP
        needs := needs || field_number(options, 'depends_on.' || place, 1, 9007199254740991);
    END LOOP;
    SELECT u.id INTO unknown
    FROM unnest(needs) AS u (id)
    WHERE NOT EXISTS (SELECT 1 FROM job WHERE id = u.id)
    AND NOT EXISTS (SELECT 1 FROM finished WHERE id = u.id)
    AND u.id <> ALL(ARRAY(SELECT id FROM completed_in_runs(needs)))
    LIMIT 1;
    IF unknown IS NOT NULL THEN
        PERFORM refuse('depends_on', format('there is no job %s', unknown));
    END IF;
    RETURN (SELECT array_agg(DISTINCT id ORDER BY id) FROM unnest(needs) AS u (id));
END
$$;

CREATE OR REPLACE FUNCTION cancel(job_id bigint, grace_ms bigint DEFAULT 30000) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    wanted CONSTANT bigint := job_id;
    held job;
    noted text;
BEGIN
    IF wanted IS NULL THEN
        PERFORM refuse('job_id', 'is missing');
    ELSIF coalesce(grace_ms NOT BETWEEN 0 AND 86400000, true) THEN
        PERFORM refuse('grace_ms', 'must be a whole number from 0 to 86400000');
    END IF;
    SELECT p.kind INTO noted
    FROM pending p
    WHERE p.tx = pg_current_xact_id() AND p.kind <> 'pushed' AND p.job_ids[1] = wanted
    LIMIT 1;
    IF noted IS NOT NULL THEN
        RETURN CASE noted WHEN 'ack' THEN 'completed' WHEN 'cancel' THEN 'requested' ELSE noted END;
    END IF;
    FOR try IN 1 .. 10 LOOP
        SELECT * INTO held FROM job j WHERE j.id = wanted;
        IF NOT FOUND THEN
            SELECT f.state INTO noted
            FROM (
                SELECT id, state FROM finished WHERE id = wanted
                UNION ALL
                SELECT id, state FROM completed_in_runs(ARRAY[wanted])
            ) f;
            RETURN coalesce(noted, 'not_found');
        END IF;
        IF held.is_blocked OR (lease_of(held)).id IS NOT NULL THEN
            INSERT INTO pending (kind, job_ids, grace_ms)
            VALUES ('cancel', ARRAY[wanted], cancel.grace_ms);
            RETURN 'requested';
        ELSIF leave_place(wanted) THEN
            INSERT INTO pending (kind, job_ids) VALUES ('cancelled', ARRAY[wanted]);
            RETURN 'cancelled';
        END IF;
    END LOOP;
    PERFORM try_again();
END
$$;

CREATE OR REPLACE FUNCTION ack_bytes(token text, result bytea) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    held record := open_lease(token);
BEGIN
    PERFORM check_bytes('result', result);
    IF EXISTS (
        SELECT 1 FROM pending p
        WHERE p.tx = pg_current_xact_id() AND p.kind = 'ack' AND p.job_ids[1] = held.job_id
    ) OR EXISTS (
        SELECT 1 FROM finished f
        WHERE f.id = held.job_id AND f.state = 'completed' AND f.deliveries = held.delivery
    ) OR EXISTS (
        SELECT 1 FROM completed_in_runs(ARRAY[held.job_id]) f
        WHERE f.deliveries = held.delivery
    ) THEN
        -- What is written beside it would be written twice.
        RAISE EXCEPTION 'job % has been acked with this lease before', held.job_id USING
            ERRCODE = 'QB002',
            HINT = 'Roll back: it is done.';
    ELSIF NOT EXISTS (
        SELECT 1 FROM job j WHERE j.id = held.job_id AND j.delivery = held.delivery
    ) THEN
        PERFORM refuse_lease(held.job_id, 'it has ended');
    END IF;
    INSERT INTO pending (kind, job_ids, delivery, result)
    VALUES ('ack', ARRAY[held.job_id], held.delivery, ack_bytes.result);
END
$$;

-- As the functions of 0005_sql.sql.
DO $$
DECLARE
    setting text;
BEGIN
    EXECUTE format(
        'ALTER FUNCTION cancel(bigint, bigint) SET search_path = %I, pg_temp', current_schema()
    );
    FOREACH setting IN ARRAY '{
        enable_seqscan, enable_bitmapscan, enable_hashjoin, enable_mergejoin, jit
    }'::text[] LOOP
        EXECUTE format('ALTER FUNCTION cancel(bigint, bigint) SET %I = off', setting);
    END LOOP;
    ALTER FUNCTION cancel(bigint, bigint) SET plan_cache_mode = force_generic_plan;
END
$$;
