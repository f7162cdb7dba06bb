-- Jobs that are pushed together stand in line as one row: a block.
--
-- A block has a number, that of the first of its jobs, and each of its jobs has
-- that number as its place in `job`. The row's own place is the number of the
-- first one that still stands there. Claims take jobs from the front. Whoever
-- wants one of the jobs for itself splits the block first: each has a row and a
-- place of its own then, its number. One that is put back has that place, too:
-- it comes before those that have stood behind it.
--
-- block: its number; NULL: a job that stands alone. job_ids: those that still
-- stand there, in order, the first of them is job_id. count: how many. bytes: of
-- all of them; where claims have taken some, as if all were as large.
ALTER TABLE ready
    ADD COLUMN block bigint,
    ADD COLUMN job_ids bigint[],
    ADD COLUMN count integer NOT NULL DEFAULT 1,
    SET (toast_tuple_target = 8160);

-- Compressing them would cost more than writing them.
ALTER TABLE ready ALTER COLUMN job_ids SET STORAGE EXTERNAL;

CREATE UNIQUE INDEX ready_block ON ready (block) WHERE block IS NOT NULL;

CREATE FUNCTION is_in_block(held job) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT coalesce(
        (SELECT held.id = ANY(r.job_ids) FROM ready r WHERE r.block = held.place),
        false
    )
$$;

REVOKE ALL ON FUNCTION is_in_block(job) FROM PUBLIC;

-- As in 0005_sql.sql; and a job leaves its block.
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
    SELECT * INTO stood FROM ready WHERE block = held.place FOR UPDATE;
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
        SET place = left_behind[1],
            job_id = left_behind[1],
            job_ids = left_behind,
            count = count - 1,
            bytes = greatest(bytes - length(held.payload), 0)
        WHERE block = stood.block;
    END IF;
    RETURN FOUND;
END
$$;

-- As in 0012_runs.sql; and a job that stands in a block leaves it at the commit,
-- if it still waits then: nobody else could take the others of its block until
-- then.
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
        IF held.is_blocked OR is_in_block(held) OR (lease_of(held)).id IS NOT NULL THEN
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

-- As in 0005_sql.sql; and a block has several jobs.
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
            SELECT count(*), sum(length(j.payload))
            FROM scheduled s
            JOIN job j ON j.id = s.job_id
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
