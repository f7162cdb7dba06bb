-- Events, for those who listen; see store/events.rs. They are recorded by
-- triggers, which are there only while somebody watches: until then no
-- statement knows of them. A trigger runs in the transaction that it records,
-- whichever release of batonq makes it.

CREATE TABLE event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at bigint NOT NULL,
    kind text NOT NULL,
    queue_id bigint NOT NULL,
    -- NULL: of the queue itself.
    job_id bigint,
    number integer,
    word text,
    message text
) WITH (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 0
);

-- Whose events are recorded. queue is empty: of all queues.
CREATE TABLE watch (
    owner text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    -- Later events have all been recorded, and are still there.
    since bigint NOT NULL,
    -- NULL: until it is deleted.
    expires_at bigint,
    PRIMARY KEY (owner, queue)
);

-- spec is JSON, see webhooks.rs. seen: deliveries of all events up to this
-- number have been pushed.
CREATE TABLE webhook (
    name text COLLATE "C" PRIMARY KEY,
    spec text NOT NULL,
    secret bytea NOT NULL,
    seen bigint NOT NULL,
    created_at bigint NOT NULL
);

-- A lease that was moved to a row of its own has not begun with it.
ALTER TABLE lease ADD COLUMN is_moved boolean NOT NULL DEFAULT false;

-- Those of these queues that somebody watches. What follows must work for
-- everybody who changes the tables, also by hand: hence the search path.
CREATE FUNCTION watched(queues bigint[]) RETURNS bigint[]
LANGUAGE sql STABLE
AS $$
    SELECT ARRAY(
        SELECT q.id
        FROM queue q
        WHERE q.id = ANY(queues) AND NOT starts_with(q.name, 'batonq.')
        AND (SELECT true FROM watch w WHERE w.queue IN ('', q.name) LIMIT 1)
    )
$$;

CREATE FUNCTION tell_pushed() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    queues bigint[] := watched(ARRAY(SELECT DISTINCT queue_id FROM added));
BEGIN
    IF queues <> '{}' THEN
        INSERT INTO event (at, kind, queue_id, job_id)
        SELECT now_ms(), 'pushed', queue_id, id
        FROM added
        WHERE queue_id = ANY(queues)
        ORDER BY id;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION tell_leased() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
BEGIN
    WITH leased AS MATERIALIZED (
        SELECT u.job_id, u.delivery, l.worker, j.queue_id
        FROM added l
        CROSS JOIN LATERAL unnest(l.job_ids, l.deliveries) AS u (job_id, delivery)
        CROSS JOIN LATERAL (SELECT queue_id FROM job WHERE id = u.job_id OFFSET 0) j
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

CREATE FUNCTION tell_ended() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
BEGIN
    WITH ended AS MATERIALIZED (
        SELECT a.*, j.queue_id
        FROM added a
        CROSS JOIN LATERAL (SELECT queue_id FROM job WHERE id = a.job_id OFFSET 0) j
    ),
    queues AS MATERIALIZED (
        SELECT watched(ARRAY(SELECT DISTINCT queue_id FROM ended)) AS ids
    )
    INSERT INTO event (at, kind, queue_id, job_id, number, word, message)
    SELECT
        now_ms(),
        CASE WHEN ending IN ('released', 'snoozed') THEN 'released' ELSE 'failed' END,
        queue_id, job_id, delivery, nullif(code, ''), nullif(message, '')
    FROM ended
    WHERE queue_id = ANY((SELECT ids FROM queues)::bigint[]);
    RETURN NULL;
END
$$;

CREATE FUNCTION tell_finished() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    queues bigint[] := watched(ARRAY(SELECT DISTINCT queue_id FROM added));
BEGIN
    IF queues <> '{}' THEN
        INSERT INTO event (at, kind, queue_id, job_id, number, word)
        SELECT now_ms(), state, queue_id, id, nullif(deliveries, 0), reason
        FROM added
        WHERE queue_id = ANY(queues);
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION tell_progress() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
BEGIN
    INSERT INTO event (at, kind, queue_id, job_id, number, message)
    SELECT now_ms(), 'progress', queue_id, id, NEW.percent, nullif(NEW.message, '')
    FROM job
    WHERE id = NEW.job_id AND watched(ARRAY[queue_id]) <> '{}';
    RETURN NULL;
END
$$;

CREATE FUNCTION tell_queue() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
BEGIN
    INSERT INTO event (at, kind, queue_id)
    SELECT now_ms(), kind, NEW.id
    FROM (
        SELECT CASE WHEN NEW.paused_at IS NULL THEN 'resumed' ELSE 'paused' END AS kind
        WHERE (NEW.paused_at IS NULL) <> (OLD.paused_at IS NULL)
        UNION ALL
        SELECT 'settings' WHERE NEW.settings <> OLD.settings
    ) changed
    WHERE watched(ARRAY[NEW.id]) <> '{}';
    RETURN NULL;
END
$$;

-- Whether events are recorded at all.
CREATE FUNCTION is_telling() RETURNS boolean
LANGUAGE sql STABLE
AS $$
    SELECT EXISTS (
        SELECT 1 FROM pg_trigger WHERE tgrelid = 'job'::regclass AND tgname = 'tell'
    )
$$;

-- The next two take the tables from all who write to them, for a moment. They
-- wait a tenth of a second for them and then do nothing: the answer is false.

CREATE FUNCTION begin_telling() RETURNS boolean
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
    CREATE TRIGGER tell AFTER INSERT OR UPDATE ON progress
        FOR EACH ROW EXECUTE FUNCTION tell_progress();
    CREATE TRIGGER tell AFTER UPDATE ON queue
        FOR EACH ROW EXECUTE FUNCTION tell_queue();
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;

CREATE FUNCTION end_telling() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '100ms'
AS $$
BEGIN
    DROP TRIGGER tell ON job;
    DROP TRIGGER tell ON lease;
    DROP TRIGGER tell ON attempt_log;
    DROP TRIGGER tell ON finished;
    DROP TRIGGER tell ON progress;
    DROP TRIGGER tell ON queue;
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;
