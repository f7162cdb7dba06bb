-- Jobs that are pushed together are one row from the beginning: a run that lives.
--
-- Until now each of them had a row in `job`, which the push wrote and the ack
-- deleted, and which the ack wrote once more for history. A job that lives has a
-- row in `job`, or is in one run that has not finished; never both. Such a run
-- is never changed: an ack of all its jobs says when they were completed, and
-- the row stays where it is; an ack of many of them makes two of it. Whoever wants
-- anything else of some of its jobs takes them out first, and it is another run
-- then, or none.
--
-- So a run that lives has only jobs that were pushed together, of which nothing is
-- known but what the push said, and how often they have been tried: all of them wait for
-- one time, or are ready or leased.
LOCK TABLE job, ready, scheduled, lease, completed_run IN ACCESS EXCLUSIVE MODE;

ALTER TABLE completed_run RENAME TO run;
ALTER INDEX completed_run_pkey RENAME TO run_pkey;
DROP INDEX completed_run_bucket;
DROP INDEX completed_run_kept;

-- id: from now on the number of its first job; of those that were there before, less than
-- nothing. place: of all its jobs, as in
-- `job`; several runs may have it if the numbers lie in several buckets. run_at: its jobs
-- wait for that time; due_at, due_note: they did, and then it came, which is that note of theirs in
-- `job_note`, once they have rows. attempts, delivery: as in `job`; of those that are completed, the
-- last delivery. ids,
-- payloads, results: of its jobs, in order; what else they have is the same for all
-- of them. A run that was made of completed jobs has `jobs` instead.
ALTER TABLE run
    ALTER COLUMN id DROP IDENTITY,
    ALTER COLUMN finished_at DROP NOT NULL,
    ALTER COLUMN started_at DROP NOT NULL,
    ALTER COLUMN node DROP NOT NULL,
    ALTER COLUMN worker DROP NOT NULL,
    ALTER COLUMN jobs DROP NOT NULL,
    ADD COLUMN place bigint,
    ADD COLUMN priority integer,
    ADD COLUMN created_at bigint,
    ADD COLUMN run_at bigint,
    ADD COLUMN due_at bigint,
    ADD COLUMN due_note bigint,
    ADD COLUMN max_attempts integer,
    ADD COLUMN attempts integer NOT NULL DEFAULT 0,
    ADD COLUMN delivery integer NOT NULL DEFAULT 1,
    ADD COLUMN content_type text,
    ADD COLUMN backoff text,
    ADD COLUMN ids bigint[],
    ADD COLUMN payloads bytea[],
    ADD COLUMN results bytea[];

UPDATE run SET id = -id;

ALTER TABLE run
    ALTER COLUMN ids SET STORAGE EXTERNAL,
    ALTER COLUMN payloads SET STORAGE EXTERNAL,
    ALTER COLUMN results SET STORAGE EXTERNAL;

-- How payloads come to a push: a list for each row that it may write.
CREATE DOMAIN payload_list AS bytea[];

-- Whether a run lives is asked for in several ways, each of which leads to one of these
-- indexes, so that the planner takes none for another, whatever it believes of the table.
CREATE INDEX run_live ON run (bucket) WHERE finished_at IS NULL;
CREATE INDEX run_place ON run (place) WHERE coalesce(finished_at, 0) = 0;
CREATE INDEX run_bucket ON run (bucket) WHERE coalesce(finished_at, 0) <> 0;
CREATE INDEX run_kept ON run (queue_id, finished_at, id) WHERE finished_at IS NOT NULL;

-- It was in a run before: that it is there is no news.
ALTER TABLE job ADD COLUMN was_packed boolean;

-- A row may be of all jobs of the runs whose place is `job_id`, the first of them: so many,
-- with so many bytes. A job that has a row of its own is one, and its bytes stand there.
ALTER TABLE scheduled
    ADD COLUMN count integer NOT NULL DEFAULT 1,
    ADD COLUMN bytes integer;

-- Those that have become due together are one block, which has a new number and keeps it as
-- its place. They share that place, in the order of their numbers, when they come to stand
-- there one by one.
DROP INDEX ready_order;
CREATE UNIQUE INDEX ready_order ON ready (queue_id, gate, priority DESC, place, job_id);

CREATE OR REPLACE VIEW completed_job AS
SELECT
    r.bucket, r.first, r.last, j.id, r.queue_id, 'completed'::text AS state, NULL::text AS reason,
    j.priority, j.max_attempts, j.created_at, r.finished_at, r.attempts, r.delivery AS deliveries,
    0 AS crashes, r.node, r.worker, r.started_at, j.expires_at, NULL::bigint AS timeout_ms,
    j.replay_of, NULL::bigint AS replayed_as, j.content_type, j.backoff, NULL::text AS unique_key,
    NULL::text AS tags, j.payload, j.result, j.options, r.is_dropped,
    true AS was_packed
FROM run r
CROSS JOIN LATERAL (
    SELECT * FROM unnest(r.jobs)
    UNION ALL
    SELECT
        u.id, r.priority, r.created_at, r.max_attempts, NULL, NULL, r.content_type, r.backoff,
        NULL, coalesce(u.payload, ''), u.result
    FROM unnest(r.ids, r.payloads, r.results) AS u (id, payload, result)
) j
WHERE r.finished_at > 0;

-- The jobs of runs that live, as `job` would have them, behind what leads to them.
CREATE VIEW live_in_run AS
SELECT
    r.bucket, r.first, r.last, u.id, r.queue_id, r.priority, r.max_attempts, r.place,
    r.created_at, r.attempts, r.delivery, 0 AS crashes, r.run_at,
    NULL::bigint AS expires_at, NULL::bigint AS timeout_ms, NULL::bigint AS replay_of,
    NULL::bigint AS replayed_as, r.content_type, r.backoff, NULL::text AS unique_key,
    NULL::text AS tags, u.payload, NULL::text AS options, NULL::text COLLATE "C" AS gate,
    false AS is_blocked, false AS is_watched, true AS was_packed
FROM run r
CROSS JOIN LATERAL unnest(r.ids, r.payloads) AS u (id, payload)
WHERE r.finished_at IS NULL;

-- Those of these jobs that are in runs that live. As completed_in_runs: the planner
-- must take it into the statement that asks, and whoever adds a column to `job`
-- adds it here.
CREATE FUNCTION live_in_runs(ids bigint[]) RETURNS SETOF job
LANGUAGE sql STABLE
AS $$
    SELECT
        c.id, c.queue_id, c.priority, c.max_attempts, c.place, c.created_at, c.attempts,
        c.delivery, c.crashes, c.run_at, c.expires_at, c.timeout_ms, c.replay_of,
        c.replayed_as, c.content_type, c.backoff, c.unique_key, c.tags, c.payload, c.options,
        c.gate, c.is_blocked, c.is_watched, c.was_packed
    FROM (
        SELECT
            u.id >> 10 AS bucket, min(u.id) AS low, max(u.id) AS high,
            array_agg(u.id ORDER BY u.id) AS wanted
        FROM unnest(ids) AS u (id)
        GROUP BY u.id >> 10
    ) b
    CROSS JOIN LATERAL (
        SELECT *
        FROM live_in_run
        WHERE bucket = b.bucket AND first <= b.high AND last >= b.low
        OFFSET 0
    ) c
    WHERE b.wanted[width_bucket(c.id, b.wanted)] = c.id
$$;

-- The same, and no more than where they are: their payloads are not read.
CREATE FUNCTION places_in_runs(ids bigint[])
RETURNS TABLE (
    id bigint, queue_id bigint, place bigint, delivery integer, run_at bigint, run_id bigint
)
LANGUAGE sql STABLE
AS $$
    SELECT u.id, r.queue_id, r.place, r.delivery, r.run_at, r.id
    FROM (
        SELECT
            u.id >> 10 AS bucket, min(u.id) AS low, max(u.id) AS high,
            array_agg(u.id ORDER BY u.id) AS wanted
        FROM unnest(ids) AS u (id)
        GROUP BY u.id >> 10
    ) b
    CROSS JOIN LATERAL (
        SELECT r.id, r.queue_id, r.place, r.delivery, r.run_at, r.ids
        FROM run r
        WHERE r.bucket = b.bucket AND r.first <= b.high AND r.last >= b.low
        AND r.finished_at IS NULL
        OFFSET 0
    ) r
    CROSS JOIN LATERAL unnest(r.ids) AS u (id)
    WHERE b.wanted[width_bucket(u.id, b.wanted)] = u.id
$$;

-- Those of these leases, of different jobs, that live in runs.
CREATE FUNCTION held_in_runs(ids bigint[], deliveries integer[])
RETURNS TABLE (id bigint, queue_id bigint, delivery integer)
LANGUAGE sql STABLE
AS $$
    SELECT p.id, p.queue_id, p.delivery
    FROM (
        SELECT
            array_agg(u.id ORDER BY u.id) AS ids, array_agg(u.delivery ORDER BY u.id) AS deliveries
        FROM unnest(ids, deliveries) AS u (id, delivery)
    ) s
    CROSS JOIN LATERAL places_in_runs(s.ids) p
    WHERE s.deliveries[width_bucket(p.id, s.ids)] = p.delivery
$$;

-- Those of these jobs that live, wherever they are.
CREATE FUNCTION live_jobs(ids bigint[]) RETURNS SETOF job
LANGUAGE sql STABLE
AS $$
    SELECT j.*
    FROM unnest(ids) AS u (id)
    CROSS JOIN LATERAL (SELECT * FROM job WHERE id = u.id OFFSET 0) j
    UNION ALL
    SELECT * FROM live_in_runs(ids)
$$;

-- For those who look by hand.
CREATE VIEW live_job AS
SELECT * FROM job
UNION ALL
SELECT
    id, queue_id, priority, max_attempts, place, created_at, attempts, delivery, crashes, run_at,
    expires_at, timeout_ms, replay_of, replayed_as, content_type, backoff, unique_key, tags,
    payload, options, gate, is_blocked, is_watched, was_packed
FROM live_in_run;

-- The jobs of blocks of these places that are in runs have rows in `job` from now on. Those
-- that others change at this moment are waited for, by their numbers, and what they
-- have left is looked for again.
CREATE FUNCTION unpack_places(places bigint[]) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    all_runs bigint[];
BEGIN
    LOOP
        all_runs := ARRAY(
            SELECT id
            FROM run
            WHERE place = ANY(places) AND coalesce(finished_at, 0) = 0 AND run_at IS NULL
        );
        EXIT WHEN all_runs = '{}';
        WITH gone AS (
            DELETE FROM run
            WHERE id = ANY(ARRAY(
                SELECT id
                FROM run
                WHERE id = ANY(all_runs) AND (finished_at > 0) IS NOT TRUE AND run_at IS NULL
                ORDER BY id
                FOR UPDATE
            ))
            RETURNING *
        ),
        notes AS (
            INSERT INTO job_note (job_id, number, at, kind, delivery, who, detail)
            OVERRIDING SYSTEM VALUE
            SELECT unnest(ids), due_note, due_at, 'due', delivery, '', ''
            FROM gone
            WHERE due_at IS NOT NULL
        )
        INSERT INTO job (
            id, queue_id, priority, place, created_at, max_attempts, attempts, delivery, crashes,
            content_type, backoff, payload, was_packed
        )
        SELECT
            u.id, r.queue_id, r.priority, r.place, r.created_at, r.max_attempts, r.attempts,
            r.delivery, 0, r.content_type, r.backoff, u.payload, true
        FROM gone r
        CROSS JOIN LATERAL unnest(r.ids, r.payloads) AS u (id, payload);
    END LOOP;
END
$$;

-- Those of these jobs that wait for their time in runs have rows in `job` and in `scheduled`
-- from now on, as have all that wait there with them. Whoever makes them ready locks the row
-- in `scheduled` before the runs, and so is waited for here.
CREATE FUNCTION unpack_scheduled(wanted bigint[]) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    places bigint[];
BEGIN
    LOOP
        WITH waiting AS MATERIALIZED (
            SELECT DISTINCT p.run_at, p.place
            FROM places_in_runs(wanted) p
            WHERE p.run_at IS NOT NULL
            ORDER BY p.run_at, p.place
        ),
        opened AS (
            DELETE FROM scheduled
            WHERE ctid = ANY(ARRAY(
                SELECT s.ctid
                FROM waiting w
                CROSS JOIN LATERAL (
                    SELECT ctid FROM scheduled WHERE run_at = w.run_at AND job_id = w.place OFFSET 0
                ) s
            ))
            RETURNING job_id
        )
        SELECT ARRAY(SELECT job_id FROM opened) INTO places WHERE EXISTS (SELECT 1 FROM waiting);
        EXIT WHEN places IS NULL;
        WITH gone AS (
            DELETE FROM run
            WHERE place = ANY(places) AND coalesce(finished_at, 0) = 0 AND run_at IS NOT NULL
            RETURNING *
        ),
        jobs AS (
            INSERT INTO job (
                id, queue_id, priority, place, created_at, run_at, max_attempts, attempts,
                delivery, crashes, content_type, backoff, payload, was_packed
            )
            SELECT
                u.id, g.queue_id, g.priority, 0, g.created_at, g.run_at, g.max_attempts, g.attempts,
                g.delivery, 0, g.content_type, g.backoff, u.payload, true
            FROM gone g
            CROSS JOIN LATERAL unnest(g.ids, g.payloads) AS u (id, payload)
        )
        INSERT INTO scheduled (run_at, job_id, queue_id)
        SELECT run_at, unnest(ids), queue_id FROM gone;
    END LOOP;
END
$$;

-- Claims that are laid end to end share out what stands in line: behind how many jobs
-- each row begins. counts, bases: of the rows, how many jobs they have, and where the
-- line begins that they stand in. ends, enough: where the claims end, and with how many
-- jobs each is content. A row of 64 jobs or more (as many make a run) that would be
-- divided goes to the next claim as a whole, if the one before is content: so runs are
-- acked as wholes. What begins behind the last claim of its line goes to nobody.
CREATE FUNCTION share_out(counts integer[], bases integer[], ends integer[], enough integer[])
RETURNS integer[]
LANGUAGE plpgsql IMMUTABLE STRICT
AS $$
DECLARE
    starts integer[] := '{}';
    base integer := -1;
    start integer;
    claim integer;
BEGIN
    FOR n IN 1 .. cardinality(counts) LOOP
        IF bases[n] <> base THEN
            base := bases[n];
            start := base;
            claim := width_bucket(start, ends) + 1;
        END IF;
        WHILE ends[claim] <= start LOOP
            claim := claim + 1;
        END LOOP;
        IF counts[n] >= 64 AND start + counts[n] > ends[claim]
            AND start - coalesce(ends[claim - 1], 0) >= greatest(enough[claim], 1)
        THEN
            start := ends[claim];
        END IF;
        starts[n] := start;
        start := start + counts[n];
    END LOOP;
    RETURN starts;
END
$$;

-- These jobs are taken out of the runs that live and have any of them: they have
-- rows in `job` from now on. Of jobs that wait for their time nothing is left. Else what is
-- left of a run is a new one, if there are 16 at least, and if
-- no more than two kilobytes are written again for each job that is taken out;
-- else those have rows as well. Runs that others change at this moment are waited
-- for, by their numbers, and what they have left is looked for again.
-- The answer: the runs that are gone, and what is left of each as a run, if it is one.
--
-- So a run that has the same number and the same delivery as another had has fewer jobs.
CREATE FUNCTION take_out(wanted bigint[])
RETURNS TABLE (
    run_id bigint, run_count integer, run_delivery integer, left_id bigint, left_count integer
)
LANGUAGE plpgsql
AS $$
DECLARE
    all_runs bigint[];
    are_some boolean;
    taken bigint;
BEGIN
    LOOP
        -- Those that were waited for may be runs again that wait for a time.
        PERFORM unpack_scheduled(wanted);
        SELECT array_agg(DISTINCT p.run_id) FILTER (WHERE p.run_at IS NULL), count(*) > 0
        INTO all_runs, are_some
        FROM places_in_runs(wanted) p;
        EXIT WHEN NOT are_some;
        RETURN QUERY
        WITH asked AS MATERIALIZED (
            -- Not in a variable, which each search would copy.
            SELECT array_agg(DISTINCT u.id ORDER BY u.id) AS ids FROM unnest(wanted) AS u (id)
        ),
        gone AS (
            DELETE FROM run
            WHERE id = ANY(ARRAY(
                SELECT id
                FROM run
                WHERE id = ANY(all_runs) AND (finished_at > 0) IS NOT TRUE AND run_at IS NULL
                ORDER BY id
                FOR UPDATE
            ))
            RETURNING *, pg_column_size(payloads) AS bytes
        ),
        split AS MATERIALIZED (
            SELECT
                g.*, s.*,
                coalesce(
                    cardinality(s.left_ids) >= 16 AND g.bytes <= 2048 * cardinality(s.out_ids),
                    -- It has none of them any more.
                    s.out_ids IS NULL
                ) AS is_left
            FROM gone g
            CROSS JOIN LATERAL (
                SELECT
                    array_agg(u.id) FILTER (WHERE u.is_asked) AS out_ids,
                    array_agg(u.payload) FILTER (WHERE u.is_asked) AS out_payloads,
                    array_agg(u.id) FILTER (WHERE NOT u.is_asked) AS left_ids,
                    array_agg(u.payload) FILTER (WHERE NOT u.is_asked) AS left_payloads
                FROM (
                    SELECT
                        p.id, p.payload,
                        coalesce(a.ids[width_bucket(p.id, a.ids)] = p.id, false) AS is_asked
                    FROM unnest(g.ids, g.payloads) AS p (id, payload)
                    CROSS JOIN asked a
                ) u
            ) s
        ),
        runs AS (
            INSERT INTO run (
                id, bucket, queue_id, first, last, count, place, priority, created_at, due_at,
                due_note, max_attempts, attempts, delivery, content_type, backoff, ids, payloads
            )
            SELECT
                s.left_ids[1], s.bucket, s.queue_id, s.left_ids[1],
                s.left_ids[cardinality(s.left_ids)], cardinality(s.left_ids), s.place, s.priority,
                s.created_at, s.due_at, s.due_note, s.max_attempts, s.attempts, s.delivery,
                s.content_type, s.backoff, s.left_ids, s.left_payloads
            FROM split s
            WHERE s.is_left
        ),
        notes AS (
            INSERT INTO job_note (job_id, number, at, kind, delivery, who, detail)
            OVERRIDING SYSTEM VALUE
            SELECT
                unnest(CASE WHEN s.is_left THEN s.out_ids ELSE s.out_ids || s.left_ids END),
                s.due_note, s.due_at, 'due', s.delivery, '', ''
            FROM split s
            WHERE s.due_at IS NOT NULL
        ),
        jobs AS (
            INSERT INTO job (
                id, queue_id, priority, place, created_at, max_attempts, attempts, delivery, crashes,
                content_type, backoff, payload, was_packed
            )
            SELECT
                u.id, s.queue_id, s.priority, s.place, s.created_at, s.max_attempts, s.attempts,
                s.delivery, 0, s.content_type, s.backoff, u.payload, true
            FROM split s
            CROSS JOIN LATERAL (
                SELECT * FROM unnest(s.out_ids, s.out_payloads)
                UNION ALL
                SELECT * FROM unnest(s.left_ids, s.left_payloads) WHERE NOT s.is_left
            ) AS u (id, payload)
        )
        SELECT
            s.id, s.count, s.delivery, CASE WHEN s.is_left THEN s.left_ids[1] END,
            CASE WHEN s.is_left THEN cardinality(s.left_ids) END
        FROM split s;
        GET DIAGNOSTICS taken = ROW_COUNT;
        EXIT WHEN taken = cardinality(all_runs);
    END LOOP;
END
$$;

-- As in 0012_runs.sql, of both kinds of runs: those that have finished.

CREATE OR REPLACE FUNCTION completed_in_runs(ids bigint[]) RETURNS SETOF finished
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
            u.id >> 10 AS bucket, min(u.id) AS low, max(u.id) AS high,
            array_agg(u.id ORDER BY u.id) AS wanted
        FROM unnest(ids) AS u (id)
        GROUP BY u.id >> 10
    ) b
    CROSS JOIN LATERAL (
        SELECT *
        FROM completed_job
        WHERE bucket = b.bucket AND first <= b.high AND last >= b.low
        AND coalesce(finished_at, 0) <> 0
        OFFSET 0
    ) c
    WHERE b.wanted[width_bucket(c.id, b.wanted)] = c.id
$$;


CREATE OR REPLACE FUNCTION runs_of(ids bigint[]) RETURNS SETOF bigint
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
        SELECT id, jobs, ids
        FROM run
        WHERE bucket = b.bucket AND first <= b.high AND last >= b.low
        AND coalesce(finished_at, 0) <> 0
        OFFSET 0
    ) r
    WHERE (
        SELECT true FROM unnest(r.jobs) j WHERE j.id = ANY(b.wanted)
        UNION ALL
        SELECT true FROM unnest(r.ids) AS u (id) WHERE u.id = ANY(b.wanted)
        LIMIT 1
    )
$$;

CREATE OR REPLACE FUNCTION unpack_runs(runs bigint[]) RETURNS void
LANGUAGE sql
AS $$
    WITH gone AS (
        DELETE FROM run
        WHERE id = ANY(ARRAY(
            SELECT id FROM run WHERE id = ANY(runs) ORDER BY id FOR UPDATE
        ))
        RETURNING *
    ),
    notes AS (
        INSERT INTO job_note (job_id, number, at, kind, delivery, who, detail)
        OVERRIDING SYSTEM VALUE
        SELECT unnest(ids), due_note, due_at, 'due', delivery, '', ''
        FROM gone
        WHERE due_at IS NOT NULL
    )
    INSERT INTO finished (
        id, queue_id, state, priority, created_at, finished_at, max_attempts, attempts,
        deliveries, crashes, node, worker, started_at, expires_at, replay_of, content_type,
        backoff, options, payload, result, is_dropped, was_packed
    )
    SELECT
        j.id, r.queue_id, 'completed', j.priority, j.created_at, r.finished_at, j.max_attempts,
        r.attempts, r.delivery, 0, r.node, r.worker, r.started_at, j.expires_at, j.replay_of,
        j.content_type,
        j.backoff, j.options, j.payload, j.result, r.is_dropped, true
    FROM gone r
    CROSS JOIN LATERAL (
        SELECT * FROM unnest(r.jobs)
        UNION ALL
        SELECT
            u.id, r.priority, r.created_at, r.max_attempts, NULL, NULL, r.content_type, r.backoff,
            NULL, coalesce(u.payload, ''), u.result
        FROM unnest(r.ids, r.payloads, r.results) AS u (id, payload, result)
    ) j
$$;

-- As in 0008_events.sql; and of jobs that are unpacked it is no news that they are there.

CREATE OR REPLACE FUNCTION tell_pushed() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    queues bigint[] := watched(ARRAY(SELECT DISTINCT queue_id FROM added));
BEGIN
    IF queues <> '{}' THEN
        INSERT INTO event (at, kind, queue_id, job_id)
        SELECT now_ms(), 'pushed', queue_id, id
        FROM added
        WHERE queue_id = ANY(queues) AND was_packed IS NULL
        ORDER BY id;
    END IF;
    RETURN NULL;
END
$$;

-- As in 0008_events.sql; and a job may be in a run.

CREATE OR REPLACE FUNCTION tell_leased() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
BEGIN
    WITH leased AS MATERIALIZED (
        SELECT u.job_id, u.delivery, l.worker, j.queue_id
        FROM added l
        CROSS JOIN LATERAL unnest(l.job_ids, l.deliveries) AS u (job_id, delivery)
        CROSS JOIN LATERAL (
            SELECT queue_id FROM job WHERE id = u.job_id
            UNION ALL
            SELECT queue_id FROM places_in_runs(ARRAY[u.job_id])
            OFFSET 0
        ) j
        WHERE NOT l.is_moved
    ),
    queues AS MATERIALIZED (
        SELECT watched(ARRAY(SELECT DISTINCT queue_id FROM leased)) AS ids
    )
    INSERT INTO event (at, kind, queue_id, job_id, number, word)
    SELECT now_ms(), 'leased', queue_id, job_id, delivery, worker
    FROM leased
    WHERE queue_id = ANY((SELECT ids FROM queues)::bigint[]);
    RETURN NULL;
END
$$;

-- As in 0008_events.sql; and the job may be in a run.
CREATE OR REPLACE FUNCTION tell_progress() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
BEGIN
    INSERT INTO event (at, kind, queue_id, job_id, number, message)
    SELECT now_ms(), 'progress', queue_id, id, NEW.percent, nullif(NEW.message, '')
    FROM (
        SELECT id, queue_id FROM job WHERE id = NEW.job_id
        UNION ALL
        SELECT id, queue_id FROM places_in_runs(ARRAY[NEW.job_id])
    ) j
    WHERE watched(ARRAY[queue_id]) <> '{}';
    RETURN NULL;
END
$$;

-- A run that lives is completed as a whole.
CREATE FUNCTION tell_completed() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    queues bigint[] := watched(ARRAY(SELECT DISTINCT queue_id FROM changed));
BEGIN
    IF queues <> '{}' THEN
        INSERT INTO event (at, kind, queue_id, job_id, number)
        SELECT now_ms(), 'completed', c.queue_id, u.id, c.delivery
        FROM changed c
        JOIN before b ON b.id = c.id
        CROSS JOIN LATERAL unnest(c.ids) AS u (id)
        WHERE c.queue_id = ANY(queues) AND b.finished_at IS NULL AND c.finished_at IS NOT NULL
        ORDER BY u.id;
    END IF;
    RETURN NULL;
END
$$;

-- As in 0008_events.sql; and of runs.

CREATE OR REPLACE FUNCTION begin_telling() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '100ms'
AS $$
BEGIN
    CREATE TRIGGER tell AFTER INSERT ON job
        REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION tell_pushed();
    CREATE TRIGGER tell AFTER INSERT ON lease
        REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION tell_leased();
    CREATE TRIGGER tell AFTER INSERT ON attempt_log
        REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION tell_ended();
    CREATE TRIGGER tell AFTER INSERT ON finished
        REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION tell_finished();
    CREATE TRIGGER tell AFTER UPDATE ON run
        REFERENCING OLD TABLE AS before NEW TABLE AS changed
        FOR EACH STATEMENT EXECUTE FUNCTION tell_completed();
    CREATE TRIGGER tell AFTER INSERT OR UPDATE ON progress
        FOR EACH ROW EXECUTE FUNCTION tell_progress();
    CREATE TRIGGER tell AFTER UPDATE ON queue
        FOR EACH ROW EXECUTE FUNCTION tell_queue();
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;

CREATE OR REPLACE FUNCTION end_telling() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '100ms'
AS $$
BEGIN
    DROP TRIGGER tell ON job;
    DROP TRIGGER tell ON lease;
    DROP TRIGGER tell ON attempt_log;
    DROP TRIGGER tell ON finished;
    -- Of one that began before there were such runs it is not there.
    DROP TRIGGER IF EXISTS tell ON run;
    DROP TRIGGER tell ON progress;
    DROP TRIGGER tell ON queue;
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;

-- As in 0012_runs.sql; and they look into runs that live.

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
    AND u.id <> ALL(ARRAY(SELECT id FROM places_in_runs(needs)))
    LIMIT 1;
    IF unknown IS NOT NULL THEN
        PERFORM refuse('depends_on', format('there is no job %s', unknown));
    END IF;
    RETURN (SELECT array_agg(DISTINCT id ORDER BY id) FROM unnest(needs) AS u (id));
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
        SELECT 1 FROM live_jobs(ARRAY[held.job_id]) j WHERE j.delivery = held.delivery
    ) THEN
        PERFORM refuse_lease(held.job_id, 'it has ended');
    END IF;
    INSERT INTO pending (kind, job_ids, delivery, result)
    VALUES ('ack', ARRAY[held.job_id], held.delivery, ack_bytes.result);
END
$$;

-- As in 0013_blocks.sql; and a job that is in a run is unpacked at the commit, as it
-- leaves its block then.

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
        SELECT * INTO held FROM live_jobs(ARRAY[wanted]);
        IF NOT FOUND THEN
            SELECT f.state INTO noted
            FROM (
                SELECT id, state FROM finished WHERE id = wanted
                UNION ALL
                SELECT id, state FROM completed_in_runs(ARRAY[wanted])
            ) f;
            RETURN coalesce(noted, 'not_found');
        END IF;
        IF held.is_blocked OR is_in_block(held) OR (lease_of(held)).id IS NOT NULL
            OR EXISTS (SELECT 1 FROM places_in_runs(ARRAY[wanted]))
        THEN
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

-- As in 0013_blocks.sql; and a block of jobs that have become due keeps its place.
CREATE OR REPLACE FUNCTION leave_place(of_job bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    held job;
    stood ready;
    left_behind bigint[];
BEGIN
    SELECT * INTO held FROM job WHERE id = of_job;
    IF held.is_blocked THEN
        UPDATE job SET is_blocked = false WHERE id = of_job AND is_blocked;
        RETURN FOUND;
    ELSIF held.run_at IS NOT NULL THEN
        DELETE FROM scheduled WHERE run_at = held.run_at AND job_id = of_job;
        RETURN FOUND;
    END IF;
    -- One that was put back may have the place of a block that it does not stand in.
    SELECT * INTO stood
    FROM ready
    WHERE block = held.place AND of_job = ANY(job_ids)
    FOR UPDATE;
    left_behind := array_remove(stood.job_ids, of_job);
    IF stood.job_ids = left_behind OR stood.job_ids IS NULL THEN
        DELETE FROM ready
        WHERE queue_id = held.queue_id AND gate = coalesce(held.gate, '')
        AND priority = held.priority AND place = held.place AND job_id = of_job
        AND block IS NULL;
    ELSIF left_behind = '{}' THEN
        DELETE FROM ready WHERE block = stood.block;
    ELSE
        UPDATE ready
        SET place = CASE WHEN place = ready.job_id THEN left_behind[1] ELSE place END,
            job_id = left_behind[1],
            job_ids = left_behind,
            count = count - 1,
            bytes = greatest(bytes - length(held.payload), 0)
        WHERE block = stood.block;
    END IF;
    RETURN FOUND;
END
$$;

-- As in 0013_blocks.sql; and several jobs that are scheduled may be one row.
CREATE OR REPLACE FUNCTION judge_pushed(ids bigint[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    guarded queue;
    minute_now bigint := now_ms() - now_ms() % 60000;
    new_count bigint;
    used bigint[];
    guard text;
    most bigint;
BEGIN
    FOR guarded IN
        SELECT *
        FROM queue
        WHERE is_guarded AND id = ANY(ARRAY(SELECT queue_id FROM job WHERE id = ANY(ids)))
        ORDER BY id
        FOR NO KEY UPDATE
    LOOP
        new_count := (SELECT count(*) FROM job WHERE id = ANY(ids) AND queue_id = guarded.id);
        -- What is new is in the tables already.
        SELECT ARRAY[
            (SELECT max(length(payload)) FROM job WHERE id = ANY(ids) AND queue_id = guarded.id),
            new_count + coalesce((
                SELECT count FROM taken WHERE queue_id = guarded.id AND minute = minute_now
            ), 0),
            sum(w.count),
            sum(w.bytes)
        ]
        INTO used
        FROM (
            SELECT sum(count) AS count, sum(bytes) AS bytes
            FROM ready
            WHERE queue_id = guarded.id
            UNION ALL
            SELECT
                sum(s.count),
                sum(coalesce(s.bytes, (SELECT length(payload) FROM job WHERE id = s.job_id)))
            FROM scheduled s
            WHERE s.queue_id = guarded.id
            UNION ALL
            SELECT count(*), sum(length(payload))
            FROM job
            WHERE queue_id = guarded.id AND is_blocked
        ) w;
        FOR place IN 1 .. 4 LOOP
            guard := ('{payload_bytes_max, pushes_per_minute, depth_max, waiting_bytes_max}'::text[])[place];
            most := guarded.settings::jsonb -> guard;
            IF used[place] > most THEN
                RAISE EXCEPTION 'queue % takes no more: % is %', guarded.name, guard, most USING
                    ERRCODE = 'program_limit_exceeded',
                    CONSTRAINT = guard,
                    HINT = 'Roll back, and try again later unless the payload is too large.';
            END IF;
        END LOOP;
        IF guarded.settings::jsonb ? 'pushes_per_minute' THEN
            INSERT INTO taken (queue_id, minute, count)
            VALUES (guarded.id, minute_now, used[2])
            ON CONFLICT (queue_id) DO UPDATE
            SET minute = excluded.minute, count = excluded.count;
        END IF;
    END LOOP;
END
$$;

-- As in 0005_sql.sql; and other jobs of the lease may be in runs.

CREATE OR REPLACE FUNCTION complete(of_job bigint, of_delivery integer, with_result bytea) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    held job;
    given lease;
BEGIN
    SELECT * INTO held FROM job WHERE id = of_job AND delivery = of_delivery;
    given := lease_of(held);
    IF given.id IS NULL THEN
        PERFORM refuse_lease(of_job, 'it ended before the commit');
    END IF;
    DELETE FROM deadline WHERE at = given.started_at + held.timeout_ms AND job_id = of_job;
    DELETE FROM slot WHERE job_id = of_job;
    DELETE FROM cancel WHERE job_id = of_job;
    DELETE FROM progress WHERE job_id = of_job;
    PERFORM finish(held, 'completed', NULL, given, with_result);
    IF held.gate IS NOT NULL OR (SELECT is_gated FROM queue WHERE id = held.queue_id) THEN
        -- Behind all others: something may start that could not.
        PERFORM tell(format('r %s 0 9223372036854775807 1', held.queue_id));
    END IF;
    -- One that somebody has locked is left to them.
    DELETE FROM lease
    WHERE ctid = ANY(ARRAY(
        SELECT l.ctid
        FROM lease l
        WHERE l.id = given.id AND NOT EXISTS (
            SELECT 1
            FROM unnest(l.job_ids, l.deliveries) AS u (job_id, delivery)
            JOIN job j ON j.id = u.job_id AND j.delivery = u.delivery
            UNION ALL
            SELECT 1 FROM held_in_runs(l.job_ids, l.deliveries)
        )
        FOR UPDATE SKIP LOCKED
    ));
END
$$;

-- As in 0005_sql.sql; and how those have ended that do not live is read in one sight of all
-- tables: one that others have just put back to work is not taken for one that is forgotten.
CREATE OR REPLACE FUNCTION look_at_needs(new job) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    need bigint;
    ended_as text;
    has_failed boolean := false;
BEGIN
    FOR need IN SELECT jsonb_array_elements(new.options::jsonb #> '{depends, on}')::bigint LOOP
        UPDATE job SET is_watched = true WHERE id = need;
        IF FOUND THEN
            INSERT INTO dependency (job_id, needs_id) VALUES (new.id, need);
            CONTINUE;
        END IF;
        SELECT s.state INTO ended_as
        FROM (
            SELECT state FROM finished WHERE id = need
            UNION ALL
            SELECT 'live' FROM job WHERE id = need
            UNION ALL
            SELECT 'live' FROM places_in_runs(ARRAY[need])
        ) s;
        IF ended_as = 'live' THEN
            PERFORM try_again();
        END IF;
        -- One that has been forgotten meanwhile had been completed, or nobody cares.
        IF fate(coalesce(ended_as, 'completed'), new) IS NULL THEN
            INSERT INTO dependency (job_id, needs_id) VALUES (new.id, need);
        ELSIF NOT fate(coalesce(ended_as, 'completed'), new) THEN
            has_failed := true;
        END IF;
    END LOOP;
    IF has_failed THEN
        PERFORM finish(new, 'dead', 'DEPENDENCY_FAILED', NULL, NULL);
        PERFORM release_dependents(ARRAY[new.id]);
    ELSIF NOT EXISTS (SELECT 1 FROM dependency WHERE job_id = new.id) THEN
        PERFORM unblock(new);
    END IF;
END
$$;

-- As in 0005_sql.sql; and what it is about is unpacked first.

CREATE OR REPLACE FUNCTION commit_pending() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    item pending;
    held job;
    pushed bigint[];
    wanted bigint[];
    gated bigint[];
    ended bigint[] := '{}';
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pending WHERE tx = NEW.tx AND id = NEW.id) THEN
        RETURN NULL;
    END IF;
    SELECT array_agg(u.id) INTO pushed
    FROM pending p, unnest(p.job_ids) AS u (id)
    WHERE p.tx = NEW.tx AND p.kind = 'pushed';
    PERFORM judge_pushed(pushed);
    wanted := ARRAY(
        SELECT p.job_ids[1] FROM pending p WHERE p.tx = NEW.tx AND p.kind <> 'pushed'
        UNION
        SELECT jsonb_array_elements(j.options::jsonb #> '{depends, on}')::bigint
        FROM job j
        WHERE j.id = ANY(pushed) AND j.is_blocked
    );
    -- Those that wait are in the way of duties and claims, which lock `scheduled` and blocks, and
    -- then runs.
    PERFORM unpack_scheduled(wanted);
    PERFORM 1
    FROM ready
    WHERE block = ANY(ARRAY(
        SELECT w.place
        FROM pending p
        CROSS JOIN LATERAL (
            SELECT place FROM job WHERE id = p.job_ids[1]
            UNION ALL
            SELECT place FROM places_in_runs(p.job_ids[1:1])
        ) w
        WHERE p.tx = NEW.tx AND p.kind = 'cancel'
    ))
    ORDER BY block
    FOR UPDATE;
    PERFORM take_out(wanted);
    FOR item IN
        SELECT * FROM pending WHERE tx = NEW.tx AND kind = 'cancel' ORDER BY job_ids
    LOOP
        IF leave_place(item.job_ids[1]) THEN
            UPDATE pending SET kind = 'cancelled' WHERE tx = item.tx AND id = item.id;
        END IF;
    END LOOP;
    PERFORM 1 FROM job WHERE id = ANY(wanted) ORDER BY id FOR UPDATE;
    -- Who had one locked has made it wait in a run.
    IF EXISTS (SELECT 1 FROM places_in_runs(wanted)) THEN
        PERFORM try_again();
    END IF;
    FOR item IN
        SELECT * FROM pending WHERE tx = NEW.tx AND kind <> 'pushed' ORDER BY job_ids
    LOOP
        IF item.kind = 'ack' THEN
            PERFORM complete(item.job_ids[1], item.delivery, item.result);
            ended := ended || item.job_ids;
        ELSIF item.kind = 'cancelled' THEN
            SELECT * INTO held FROM job WHERE id = item.job_ids[1];
            PERFORM finish(held, 'cancelled', NULL, NULL, NULL);
            ended := ended || item.job_ids;
        ELSE
            PERFORM ask_to_cancel(item.job_ids[1], item.grace_ms);
        END IF;
    END LOOP;
    PERFORM release_dependents(ended);
    -- Locked against those who would say that a queue has no limits.
    gated := ARRAY(
        SELECT DISTINCT queue_id FROM job WHERE id = ANY(pushed) AND gate IS NOT NULL
    );
    IF gated <> '{}' THEN
        PERFORM 1 FROM queue WHERE id = ANY(gated) ORDER BY id FOR KEY SHARE;
        UPDATE queue SET is_gated = true WHERE id = ANY(gated) AND NOT is_gated;
    END IF;
    PERFORM tell_pushed(pushed);
    FOR held IN SELECT * FROM job WHERE id = ANY(pushed) AND is_blocked ORDER BY id LOOP
        PERFORM look_at_needs(held);
    END LOOP;
    DELETE FROM pending WHERE tx = NEW.tx;
    RETURN NULL;
END
$$;

-- As the functions of 0005_sql.sql.
DO $$
DECLARE
    function regprocedure;
    setting text;
BEGIN
    FOREACH function IN ARRAY
        ARRAY['cancel(bigint, bigint)', 'commit_pending()']::regprocedure[]
    LOOP
        EXECUTE format(
            'ALTER FUNCTION %s SET search_path = %I, pg_temp', function, current_schema()
        );
        FOREACH setting IN ARRAY '{
            enable_seqscan, enable_bitmapscan, enable_hashjoin, enable_mergejoin, jit
        }'::text[] LOOP
            EXECUTE format('ALTER FUNCTION %s SET %I = off', function, setting);
        END LOOP;
        EXECUTE format(
            'ALTER FUNCTION %s SET plan_cache_mode = force_generic_plan', function
        );
    END LOOP;
END
$$;
