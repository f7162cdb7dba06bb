-- Names that jobs have over all queues.

-- The last job that took each custom id, as long as it is known. It has it as
-- long as it lives: then there is a key of kind 4 as well, of queue 0, which is
-- none.
CREATE TABLE custom_id (
    key text COLLATE "C" PRIMARY KEY,
    job_id bigint NOT NULL
);

CREATE INDEX custom_id_job ON custom_id (job_id);

-- As in 0005_sql.sql; and it gives back the job's custom id.
CREATE OR REPLACE FUNCTION finish(
    held job, to_state text, why text, given lease, with_result bytea
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO finished (
        id, queue_id, state, reason, priority, created_at, finished_at, max_attempts, attempts,
        deliveries, crashes, node, worker, started_at, expires_at, timeout_ms, replay_of,
        replayed_as, content_type, backoff, unique_key, tags, options, payload, result
    )
    SELECT
        id, queue_id, to_state, why, priority, created_at, now_ms(), max_attempts, attempts,
        -- A waiting job has the number of its next lease.
        CASE to_state WHEN 'completed' THEN delivery ELSE delivery - 1 END,
        crashes, given.node, given.worker, given.started_at, expires_at, timeout_ms, replay_of,
        replayed_as, content_type, backoff, unique_key, tags, options, payload, with_result
    FROM job
    WHERE id = held.id;
    DELETE FROM dependency WHERE job_id = held.id;
    DELETE FROM ttl WHERE expires_at = held.expires_at AND job_id = held.id;
    DELETE FROM unique_key
    WHERE queue_id = held.queue_id AND kind = ANY('{0, 2}'::smallint[]) AND key = held.unique_key
    AND job_id = held.id;
    IF held.options IS NOT NULL THEN
        DELETE FROM unique_key
        WHERE queue_id = 0 AND kind = 4 AND job_id = held.id
        AND key = (SELECT c.key FROM custom_id c WHERE c.job_id = held.id LIMIT 1);
    END IF;
    DELETE FROM job WHERE id = held.id;
    PERFORM tell(format('e %s %s', held.id, held.delivery));
END
$$;
