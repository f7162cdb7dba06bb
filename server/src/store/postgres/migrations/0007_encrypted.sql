-- Nodes seal what belongs to encrypted queues; SQL has no key. So what a
-- transaction pushes to such a queue in SQL, or acks with a result, keeps it from
-- its commit: nothing of it is stored.

CREATE FUNCTION refuse_unsealed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    encrypted text;
BEGIN
    IF NEW.kind <> 'pushed' AND NEW.result IS NULL THEN
        RETURN NULL;
    END IF;
    -- It may have ended already, in this transaction.
    SELECT q.name INTO encrypted
    FROM (
        SELECT queue_id FROM job WHERE id = ANY(NEW.job_ids)
        UNION
        SELECT queue_id FROM finished WHERE id = ANY(NEW.job_ids)
    ) j
    JOIN queue q ON q.id = j.queue_id
    WHERE q.settings LIKE '%encrypted%' AND q.settings::jsonb @> '{"encrypted": true}'
    LIMIT 1;
    IF encrypted IS NOT NULL THEN
        RAISE EXCEPTION 'queue % is encrypted, and SQL can not seal', encrypted USING
            ERRCODE = 'feature_not_supported',
            COLUMN = 'queue',
            HINT = 'Push, and ack with a result, over HTTP or TCP.';
    END IF;
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER refuse_unsealed
AFTER INSERT ON pending
DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION refuse_unsealed();

-- As the functions of 0005_sql.sql.
DO $$
DECLARE
    setting text;
BEGIN
    REVOKE ALL ON FUNCTION refuse_unsealed() FROM PUBLIC;
    EXECUTE format(
        'ALTER FUNCTION refuse_unsealed() SET search_path = %I, pg_temp', current_schema()
    );
    FOREACH setting IN ARRAY '{
        enable_seqscan, enable_bitmapscan, enable_hashjoin, enable_mergejoin, jit
    }'::text[] LOOP
        EXECUTE format('ALTER FUNCTION refuse_unsealed() SET %I = off', setting);
    END LOOP;
    ALTER FUNCTION refuse_unsealed() SET plan_cache_mode = force_generic_plan;
END
$$;
