-- SQL in an application's own transaction: push, push_many, cancel and ack.
--
-- A push writes the rows that a node would write, and nobody sees them before
-- the commit. Whatever would lock what nodes are at work on waits for the
-- commit: a note of it is left in `pending`, and a deferred trigger carries all
-- notes of the transaction out. So a transaction may stay open for a while and
-- holds up nobody, but for pushes with the same unique key, the first pushes
-- to the same new queue, and the waiting jobs that it cancels.
--
-- Who changes what a push, an ack or a cancel writes changes it here as well,
-- by a later migration: these functions and push.rs, settle.rs, needs.rs and
-- people.rs and guards.rs say the same.

-- What transactions have still to do when they commit. No row outlives its
-- transaction. By kind: 'pushed'; 'ack'; 'cancelled', a job that has been taken
-- out of its place; 'cancel', one that had none.
CREATE UNLOGGED TABLE pending (
    tx xid8 NOT NULL DEFAULT pg_current_xact_id(),
    id bigint GENERATED ALWAYS AS IDENTITY,
    kind text NOT NULL,
    job_ids bigint[] NOT NULL,
    delivery integer,
    result bytea,
    grace_ms bigint,
    PRIMARY KEY (tx, id)
) WITH (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

-- Refusals. COLUMN is the field, for programs.
CREATE FUNCTION refuse(field text, detail text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'invalid %: %', field, detail USING
        ERRCODE = 'invalid_parameter_value',
        COLUMN = field,
        HINT = 'Fields and limits are those of a request over HTTP.';
END
$$;

CREATE FUNCTION refuse_lease(job bigint, detail text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'lease of job % lost: %', job, detail USING
        ERRCODE = 'QB001',
        HINT = 'Roll back. A transaction above READ COMMITTED must begin after its job came.';
END
$$;

CREATE FUNCTION try_again() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'others are at work on the same rows' USING
        ERRCODE = 'serialization_failure',
        HINT = 'Do the transaction again.';
END
$$;

-- Fields of options, by their paths. NULL: not there.

CREATE FUNCTION field_keys(options jsonb, field text, known text[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    found jsonb := options #> string_to_array(field, '.');
    unknown text;
BEGIN
    IF found IS NULL THEN
        RETURN;
    END IF;
    IF jsonb_typeof(found) <> 'object' THEN
        PERFORM refuse(coalesce(nullif(field, ''), 'options'), 'must be a JSON object');
    END IF;
    SELECT k INTO unknown FROM jsonb_object_keys(found) AS k WHERE k <> ALL(known) LIMIT 1;
    IF unknown IS NOT NULL THEN
        PERFORM refuse(concat_ws('.', nullif(field, ''), unknown), 'there is no such field');
    END IF;
END
$$;

CREATE FUNCTION field_number(options jsonb, field text, low bigint, high bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    found jsonb := options #> string_to_array(field, '.');
    is_good boolean;
BEGIN
    is_good := CASE jsonb_typeof(found)
        WHEN 'number' THEN found::numeric = trunc(found::numeric)
            AND found::numeric BETWEEN low AND high
        ELSE found IS NULL
    END;
    IF NOT is_good THEN
        PERFORM refuse(field, format('must be a whole number from %s to %s', low, high));
    END IF;
    RETURN found::bigint;
END
$$;

CREATE FUNCTION field_text(options jsonb, field text, bytes_max integer) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    found jsonb := options #> string_to_array(field, '.');
    value text := options #>> string_to_array(field, '.');
BEGIN
    IF found IS NULL THEN
        RETURN NULL;
    ELSIF jsonb_typeof(found) <> 'string' THEN
        PERFORM refuse(field, 'must be a text');
    ELSIF value = '' THEN
        PERFORM refuse(field, 'empty');
    ELSIF octet_length(value) > bytes_max THEN
        PERFORM refuse(field, format('longer than %s bytes', bytes_max));
    ELSIF value ~ '[\u0001-\u001f\u007f-\u009f]' THEN
        PERFORM refuse(field, 'control characters are not allowed');
    END IF;
    RETURN value;
END
$$;

-- The length of a list; NULL: not there.
CREATE FUNCTION field_count(options jsonb, field text, low integer, high integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    found jsonb := options #> string_to_array(field, '.');
BEGIN
    IF found IS NULL THEN
        RETURN NULL;
    ELSIF jsonb_typeof(found) <> 'array' THEN
        PERFORM refuse(field, 'must be a list');
    ELSIF jsonb_array_length(found) NOT BETWEEN low AND high THEN
        PERFORM refuse(field, format('must have %s to %s entries', low, high));
    END IF;
    RETURN jsonb_array_length(found);
END
$$;

CREATE FUNCTION field_time(options jsonb, field text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    value text := field_text(options, field, 64);
    at_ms bigint;
BEGIN
    IF value IS NULL THEN
        RETURN NULL;
    END IF;
    IF value ~ '^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$' THEN
        BEGIN
            at_ms := floor(extract(epoch FROM value::timestamptz) * 1000);
        EXCEPTION WHEN datetime_field_overflow OR invalid_datetime_format THEN
            at_ms := NULL;
        END;
    END IF;
    IF at_ms IS NULL THEN
        PERFORM refuse(field, 'must be RFC 3339, as 2030-01-31T12:00:00Z');
    ELSIF at_ms NOT BETWEEN 0 AND 253402300799999 THEN
        PERFORM refuse(field, 'must be from the year 1970 to 9999');
    END IF;
    RETURN at_ms;
END
$$;

-- As the column `backoff` has it.
CREATE FUNCTION field_backoff(options jsonb) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    most CONSTANT bigint := 315360000000;
    kind text;
    jitter numeric := 0.5;
    delays bigint[];
BEGIN
    PERFORM field_keys(
        options, 'backoff', '{type, base_ms, max_ms, jitter, delay_ms, delays_ms}'
    );
    kind := CASE WHEN options ? 'backoff' THEN coalesce(options #>> '{backoff, type}', '') END;
    IF kind = 'exponential' THEN
        PERFORM field_keys(options, 'backoff', '{type, base_ms, max_ms, jitter}');
        IF options #> '{backoff, jitter}' IS NOT NULL THEN
            IF jsonb_typeof(options #> '{backoff, jitter}') = 'number' THEN
                jitter := options #> '{backoff, jitter}';
            END IF;
            IF jsonb_typeof(options #> '{backoff, jitter}') <> 'number'
                OR jitter NOT BETWEEN 0 AND 1
            THEN
                PERFORM refuse('backoff.jitter', 'must be from 0 to 1');
            END IF;
        END IF;
        delays := ARRAY[
            field_number(options, 'backoff.base_ms', 0, most),
            coalesce(field_number(options, 'backoff.max_ms', 0, most), 3600000)
        ];
        IF delays[1] IS NULL THEN
            PERFORM refuse('backoff.base_ms', 'is missing');
        END IF;
        RETURN format('exponential %s %s %s', delays[1], delays[2], jitter);
    ELSIF kind = 'fixed' THEN
        PERFORM field_keys(options, 'backoff', '{type, delay_ms}');
        IF field_number(options, 'backoff.delay_ms', 0, most) IS NULL THEN
            PERFORM refuse('backoff.delay_ms', 'is missing');
        END IF;
        RETURN format('fixed %s', field_number(options, 'backoff.delay_ms', 0, most));
    ELSIF kind = 'list' THEN
        PERFORM field_keys(options, 'backoff', '{type, delays_ms}');
        IF field_count(options, 'backoff.delays_ms', 1, 100) IS NULL THEN
            PERFORM refuse('backoff.delays_ms', 'is missing');
        END IF;
        FOR place IN 0 .. field_count(options, 'backoff.delays_ms', 1, 100) - 1 LOOP
            delays := delays || field_number(options, 'backoff.delays_ms.' || place, 0, most);
        END LOOP;
        RETURN format('list %s', array_to_string(delays, ' '));
    ELSIF kind IS NOT NULL THEN
        PERFORM refuse('backoff.type', 'must be exponential, fixed or list');
    END IF;
    RETURN NULL;
END
$$;

-- One tag a line; NULL: none.
CREATE FUNCTION field_tags(options jsonb) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    tags text[];
BEGIN
    FOR place IN 0 .. coalesce(field_count(options, 'tags', 0, 16), 0) - 1 LOOP
        tags := tags || field_text(options, 'tags.' || place, 128);
    END LOOP;
    RETURN (
        SELECT string_agg(tag, E'\n' ORDER BY tag COLLATE "C")
        FROM (SELECT DISTINCT tag COLLATE "C" AS tag FROM unnest(tags) AS u (tag)) t
    );
END
$$;

-- The jobs to wait for, each of which is known.
CREATE FUNCTION field_needs(options jsonb) RETURNS bigint[]
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
    LIMIT 1;
    IF unknown IS NOT NULL THEN
        PERFORM refuse('depends_on', format('there is no job %s', unknown));
    END IF;
    RETURN (SELECT array_agg(DISTINCT id ORDER BY id) FROM unnest(needs) AS u (id));
END
$$;

-- What the column `options` has, beside the keys' own columns. See options.rs.
CREATE FUNCTION field_options(options jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    rate_limit bigint := field_number(options, 'rate.limit', 1, 1000000);
    rate_per bigint := field_number(options, 'rate.per_ms', 1, 604800000);
    rate_burst bigint := field_number(options, 'rate.burst', 1, 1000000);
    slots_max bigint := field_number(options, 'concurrency.max', 1, 1000000);
    needs bigint[] := field_needs(options);
    window_ms bigint := field_number(options, 'unique.window_ms', 1, 2592000000);
    policy text := field_text(options, 'on_failure', 16);
BEGIN
    IF options ? 'concurrency' AND field_text(options, 'concurrency.key', 256) IS NULL THEN
        PERFORM refuse('concurrency.key', 'is missing');
    END IF;
    IF options ? 'rate' AND field_text(options, 'rate.key', 256) IS NULL THEN
        PERFORM refuse('rate.key', 'is missing');
    ELSIF options ? 'rate' AND rate_limit IS NULL THEN
        PERFORM refuse('rate.limit', 'is missing');
    ELSIF options ? 'rate' AND rate_per IS NULL THEN
        PERFORM refuse('rate.per_ms', 'is missing');
    ELSIF rate_per * 1000 < rate_limit THEN
        PERFORM refuse('rate', 'more than a million in a second');
    END IF;
    IF policy NOT IN ('fail', 'ignore', 'wait') THEN
        PERFORM refuse('on_failure', 'must be fail, ignore or wait');
    END IF;
    RETURN nullif(
        jsonb_strip_nulls(jsonb_build_object(
            'hold', CASE WHEN window_ms IS NOT NULL THEN
                jsonb_build_object('window_ms', window_ms)
            END,
            'idempotency', field_text(options, 'idempotency_key', 256),
            'concurrency', CASE WHEN options ? 'concurrency' THEN
                jsonb_build_object('key', options #> '{concurrency, key}', 'max', slots_max)
            END,
            'rate', CASE WHEN options ? 'rate' THEN
                jsonb_build_object(
                    'key', options #> '{rate, key}', 'limit', rate_limit, 'per_ms', rate_per,
                    'burst', rate_burst
                )
            END,
            'depends', CASE WHEN needs IS NOT NULL THEN
                jsonb_build_object('on', needs, 'on_failure', coalesce(policy, 'fail'))
            END
        )),
        '{}'
    );
END
$$;

-- A job with all that its options say, as it will stand in the table.
CREATE FUNCTION new_job(options jsonb, is_json boolean) RETURNS job
LANGUAGE plpgsql AS $$
DECLARE
    most CONSTANT bigint := 315360000000;
    new job;
    kept jsonb;
BEGIN
    PERFORM field_keys(options, '', '{
        delay_ms, run_at, priority, ttl_ms, max_attempts, backoff, timeout_ms, unique, tags,
        idempotency_key, concurrency, rate, depends_on, on_failure, content_type
    }');
    PERFORM field_keys(options, 'unique', '{key, window_ms, debounce}');
    PERFORM field_keys(options, 'concurrency', '{key, max}');
    PERFORM field_keys(options, 'rate', '{key, limit, per_ms, burst}');
    IF options ? 'delay_ms' AND options ? 'run_at' THEN
        PERFORM refuse('run_at', 'at most one of it and delay_ms may be there');
    ELSIF is_json AND coalesce(options ->> 'content_type', '') NOT IN ('', 'application/json') THEN
        PERFORM refuse('content_type', 'is for a payload of bytes');
    ELSIF options ? 'unique' AND field_text(options, 'unique.key', 256) IS NULL THEN
        PERFORM refuse('unique.key', 'is missing');
    ELSIF coalesce(options #> '{unique, debounce}', 'false') <> 'false' THEN
        PERFORM refuse('unique.debounce', 'can not be had in SQL: push over HTTP or TCP');
    END IF;
    kept := field_options(options);
    new.created_at := now_ms();
    new.run_at := coalesce(
        new.created_at + field_number(options, 'delay_ms', 0, most), field_time(options, 'run_at')
    );
    IF new.run_at <= new.created_at THEN
        new.run_at := NULL;
    END IF;
    new.priority := coalesce(field_number(options, 'priority', -2147483648, 2147483647), 0);
    new.expires_at := new.created_at + field_number(options, 'ttl_ms', 1, most);
    new.max_attempts := coalesce(field_number(options, 'max_attempts', 1, 1000), 25);
    new.timeout_ms := field_number(options, 'timeout_ms', 100, 604800000);
    new.backoff := field_backoff(options);
    new.unique_key := field_text(options, 'unique.key', 256);
    new.tags := field_tags(options);
    new.content_type := nullif(field_text(options, 'content_type', 128), 'application/json');
    IF NOT is_json AND NOT options ? 'content_type' THEN
        new.content_type := 'application/octet-stream';
    END IF;
    new.options := kept;
    IF kept ?| '{concurrency, rate}' THEN
        new.gate := concat(kept #>> '{concurrency, key}', E'\n', kept #>> '{rate, key}');
    END IF;
    -- Whether it is, turns out at the commit.
    new.is_blocked := coalesce(kept ? 'depends', false);
    RETURN new;
END
$$;

CREATE FUNCTION queue_number(queue_name text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    number bigint;
BEGIN
    IF queue_name IS NULL THEN
        PERFORM refuse('queue', 'is missing');
    ELSIF queue_name = '' THEN
        PERFORM refuse('queue', 'empty');
    ELSIF octet_length(queue_name) > 256 THEN
        PERFORM refuse('queue', 'longer than 256 bytes');
    ELSIF queue_name COLLATE "C" ~ '[^A-Za-z0-9._:-]' THEN
        PERFORM refuse('queue', 'only A-Z a-z 0-9 . _ : - are allowed');
    END IF;
    SELECT id INTO number FROM queue WHERE name = queue_name;
    IF number IS NULL THEN
        INSERT INTO queue (name) VALUES (queue_name) ON CONFLICT DO NOTHING;
        SELECT id INTO number FROM queue WHERE name = queue_name;
    END IF;
    IF number IS NULL THEN
        PERFORM try_again();
    END IF;
    RETURN number;
END
$$;

-- Takes a key for a job. The answer: who has it now. A key that another job
-- has is not even locked, and one of a job that ends with this transaction is
-- free.
CREATE FUNCTION take_key(
    of_queue bigint, of_kind smallint, wanted text, new_id bigint, hold_ms bigint
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    held unique_key;
    is_free boolean;
BEGIN
    FOR try IN 1 .. 10 LOOP
        SELECT * INTO held
        FROM unique_key
        WHERE queue_id = of_queue AND kind = of_kind AND key = wanted;
        IF NOT FOUND THEN
            INSERT INTO unique_key (queue_id, kind, key, job_id, expires_at)
            VALUES (of_queue, of_kind, wanted, new_id, now_ms() + hold_ms)
            ON CONFLICT DO NOTHING;
        ELSE
            is_free := coalesce(held.expires_at <= now_ms(), false) OR of_kind = 0 AND EXISTS (
                SELECT 1 FROM pending
                WHERE tx = pg_current_xact_id() AND kind IN ('ack', 'cancelled')
                AND job_ids[1] = held.job_id
            );
            IF NOT is_free THEN
                RETURN held.job_id;
            END IF;
            UPDATE unique_key
            SET job_id = new_id, expires_at = now_ms() + hold_ms
            WHERE queue_id = of_queue AND kind = of_kind AND key = wanted
            AND job_id = held.job_id AND expires_at IS NOT DISTINCT FROM held.expires_at;
        END IF;
        IF FOUND THEN
            RETURN new_id;
        END IF;
    END LOOP;
    PERFORM try_again();
END
$$;

-- All that jobs with the same options write.
CREATE FUNCTION store_jobs(new job, ids bigint[], payloads bytea[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO job (
        id, queue_id, priority, place, created_at, max_attempts, attempts, delivery, crashes,
        run_at, expires_at, timeout_ms, content_type, backoff, unique_key, tags, options, gate,
        is_blocked, payload
    )
    SELECT
        u.id, new.queue_id, new.priority, CASE WHEN new.run_at IS NULL THEN u.id ELSE 0 END,
        new.created_at, new.max_attempts, 0, 1, 0,
        new.run_at, new.expires_at, new.timeout_ms, new.content_type, new.backoff, new.unique_key,
        new.tags, new.options, new.gate, new.is_blocked, u.payload
    FROM unnest(ids, payloads) AS u (id, payload);
    IF new.run_at IS NULL AND NOT new.is_blocked THEN
        INSERT INTO ready (
            queue_id, gate, priority, place, job_id, delivery, bytes, ready_at, expires_at,
            timeout_ms
        )
        SELECT
            new.queue_id, coalesce(new.gate, ''), new.priority, u.id, u.id, 1, length(u.payload),
            new.created_at, new.expires_at, new.timeout_ms
        FROM unnest(ids, payloads) AS u (id, payload);
    ELSIF NOT new.is_blocked THEN
        INSERT INTO scheduled (run_at, job_id, queue_id)
        SELECT new.run_at, u.id, new.queue_id FROM unnest(ids) AS u (id);
    END IF;
    IF new.expires_at IS NOT NULL THEN
        INSERT INTO ttl (expires_at, job_id) SELECT new.expires_at, u.id FROM unnest(ids) AS u (id);
    END IF;
    IF new.tags IS NOT NULL THEN
        INSERT INTO job_tag (tag, job_id)
        SELECT t.tag, u.id FROM unnest(ids) AS u (id), string_to_table(new.tags, E'\n') AS t (tag);
    END IF;
    INSERT INTO pending (kind, job_ids) VALUES ('pushed', ids);
END
$$;

CREATE FUNCTION check_bytes(field text, value bytea) RETURNS bytea
LANGUAGE plpgsql AS $$
BEGIN
    IF length(value) > 1048576 THEN
        RAISE EXCEPTION '% has % bytes: at most 1048576 are allowed', field, length(value) USING
            ERRCODE = 'program_limit_exceeded',
            COLUMN = field,
            HINT = 'What is larger belongs into an object store, with its address in the payload.';
    END IF;
    RETURN value;
END
$$;

-- JSON as bytes, just as it was written.
CREATE FUNCTION json_bytes(field text, value text) RETURNS bytea
LANGUAGE plpgsql AS $$
DECLARE
    parsed jsonb;
BEGIN
    BEGIN
        parsed := value::jsonb;
    EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
        PERFORM refuse(field, 'is not JSON: ' || sqlerrm);
    END;
    IF parsed @? 'strict $.**{99} ? (@.type() == "array" || @.type() == "object")' THEN
        PERFORM refuse(field, 'nests deeper than 99');
    END IF;
    RETURN check_bytes(field, convert_to(value, 'UTF8'));
END
$$;

CREATE FUNCTION push_one(queue text, payload bytea, is_json boolean, said jsonb) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    options jsonb := jsonb_strip_nulls(coalesce(said, '{}'));
    new job := new_job(options, is_json);
    new_id bigint := nextval('number');
    again text := field_text(options, 'idempotency_key', 256);
    window_ms bigint := field_number(options, 'unique.window_ms', 1, 2592000000);
    holder bigint;
BEGIN
    IF payload IS NULL THEN
        PERFORM refuse('payload', 'is missing');
    END IF;
    new.queue_id := queue_number(queue);
    IF again IS NOT NULL THEN
        holder := take_key(new.queue_id, 3::smallint, again, new_id, 86400000);
        IF holder <> new_id THEN
            RETURN holder;
        END IF;
    END IF;
    IF new.unique_key IS NOT NULL THEN
        holder := take_key(
            new.queue_id, (window_ms IS NOT NULL)::integer::smallint, new.unique_key, new_id,
            window_ms
        );
        IF holder <> new_id THEN
            DELETE FROM unique_key
            WHERE queue_id = new.queue_id AND kind = 3 AND key = again AND job_id = new_id;
            RETURN holder;
        END IF;
    END IF;
    PERFORM store_jobs(new, ARRAY[new_id], ARRAY[check_bytes('payload', payload)]);
    RETURN new_id;
END
$$;

-- Stores a job: JSON, as a text that is kept as it is. The answer: its number,
-- or that of the job that has its key.
CREATE FUNCTION push(queue text, payload text, options jsonb DEFAULT '{}') RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN push_one(queue, json_bytes('payload', payload), true, options);
END
$$;

CREATE FUNCTION push(queue text, payload jsonb, options jsonb DEFAULT '{}') RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN push_one(queue, json_bytes('payload', payload::text), true, options);
END
$$;

-- Bytes that are whatever options.content_type says.
CREATE FUNCTION push(queue text, payload bytea, options jsonb DEFAULT '{}') RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN push_one(queue, payload, false, options);
END
$$;

-- Stores 1 to 1000 jobs with the same options. The answer: their numbers, in
-- order.
CREATE FUNCTION push_many(
    queue text, payloads jsonb[], options jsonb DEFAULT '{}'
) RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    said jsonb := jsonb_strip_nulls(coalesce(options, '{}'));
    new job := new_job(said, true);
    ids bigint[];
    bodies bytea[];
BEGIN
    IF said ? 'unique' THEN
        PERFORM refuse('unique', 'is for one job: push it by itself');
    ELSIF said ? 'idempotency_key' THEN
        PERFORM refuse('idempotency_key', 'is for one job: push it by itself');
    ELSIF coalesce(cardinality(payloads), 0) NOT BETWEEN 1 AND 1000 THEN
        PERFORM refuse('payloads', 'must have 1 to 1000 entries');
    ELSIF array_position(payloads, NULL) IS NOT NULL THEN
        PERFORM refuse('payloads', 'one is missing');
    END IF;
    new.queue_id := queue_number(queue);
    SELECT
        array_agg(nextval('number') ORDER BY u.ord),
        array_agg(json_bytes('payloads', u.payload::text) ORDER BY u.ord)
    INTO ids, bodies
    FROM unnest(payloads) WITH ORDINALITY AS u (payload, ord);
    PERFORM store_jobs(new, ids, bodies);
    RETURN QUERY SELECT unnest(ids);
END
$$;

-- Takes a job that is scheduled, ready or blocked out of its place. False: it
-- was not there (any more).
CREATE FUNCTION leave_place(of_job bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    held job;
BEGIN
    SELECT * INTO held FROM job WHERE id = of_job;
    IF held.is_blocked THEN
        UPDATE job SET is_blocked = false WHERE id = of_job AND is_blocked;
    ELSIF held.run_at IS NOT NULL THEN
        DELETE FROM scheduled WHERE run_at = held.run_at AND job_id = of_job;
    ELSE
        DELETE FROM ready
        WHERE queue_id = held.queue_id AND gate = coalesce(held.gate, '')
        AND priority = held.priority AND place = held.place AND job_id = of_job;
    END IF;
    RETURN FOUND;
END
$$;

-- Where the present lease of a job stands.
CREATE FUNCTION lease_of(held job) RETURNS lease
LANGUAGE sql STABLE AS $$
    SELECT l
    FROM lease l
    WHERE l.job_ids @> ARRAY[held.id]
    AND EXISTS (
        SELECT 1 FROM unnest(l.job_ids, l.deliveries) AS u (job_id, delivery)
        WHERE u.job_id = held.id AND u.delivery = held.delivery
    )
    LIMIT 1
$$;

-- Cancels a job with this transaction. The answer: 'cancelled', it waited and
-- will not run; 'requested', its worker is asked at the commit to end it (and a
-- job that is blocked ends then); else what has become of it already:
-- 'completed', 'dead', or 'not_found'.
CREATE FUNCTION cancel(job_id bigint, grace_ms bigint DEFAULT 30000) RETURNS text
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
            SELECT f.state INTO noted FROM finished f WHERE f.id = wanted;
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

-- Lease tokens: see lease.rs. The proof is SipHash-1-3, in wrapping 64-bit sums.

CREATE FUNCTION sum64(a bigint, b bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT (((a >> 32) & 4294967295) + ((b >> 32) & 4294967295)
            + (((a & 4294967295) + (b & 4294967295)) >> 32)) << 32
        | (((a & 4294967295) + (b & 4294967295)) & 4294967295)
$$;

CREATE FUNCTION turn64(a bigint, bits integer) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT (a << bits) | ((a >> (64 - bits)) & ((1::bigint << bits) - 1))
$$;

CREATE FUNCTION little_endian(bytes bytea) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT bit_or(get_byte(bytes, place)::bigint << (8 * place))
    FROM generate_series(0, length(bytes) - 1) AS place
$$;

-- Of the twelve bytes of job and delivery.
CREATE FUNCTION lease_proof(pair bytea, lease_key bytea) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    k0 bigint := little_endian(substr(lease_key, 1, 8));
    k1 bigint := little_endian(substr(lease_key, 9, 8));
    v0 bigint := k0 # x'736f6d6570736575'::bigint;
    v1 bigint := k1 # x'646f72616e646f6d'::bigint;
    v2 bigint := k0 # x'6c7967656e657261'::bigint;
    v3 bigint := k1 # x'7465646279746573'::bigint;
    blocks bigint[] := ARRAY[
        little_endian(substr(pair, 1, 8)),
        little_endian(substr(pair, 9, 4)) | (12::bigint << 56)
    ];
BEGIN
    -- A round for each block, and three to end with.
    FOR round IN 1 .. 5 LOOP
        IF round <= 2 THEN
            v3 := v3 # blocks[round];
        ELSIF round = 3 THEN
            v2 := v2 # 255;
        END IF;
        v0 := sum64(v0, v1);
        v1 := turn64(v1, 13) # v0;
        v0 := turn64(v0, 32);
        v2 := sum64(v2, v3);
        v3 := turn64(v3, 16) # v2;
        v0 := sum64(v0, v3);
        v3 := turn64(v3, 21) # v0;
        v2 := sum64(v2, v1);
        v1 := turn64(v1, 17) # v2;
        v2 := turn64(v2, 32);
        IF round <= 2 THEN
            v0 := v0 # blocks[round];
        END IF;
    END LOOP;
    RETURN int8send(v0 # v1 # v2 # v3);
END
$$;

CREATE FUNCTION open_lease(token text, OUT job_id bigint, OUT delivery integer)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    bytes bytea;
    lease_key bytea := (SELECT value FROM meta WHERE key = 'lease_key');
BEGIN
    IF coalesce(token !~ '^[A-Za-z0-9_+/-]{27}=?$', true) THEN
        PERFORM refuse('lease', 'is not a lease token');
    END IF;
    bytes := decode(translate(rtrim(token, '='), '-_', '+/') || '=', 'base64');
    IF lease_proof(substr(bytes, 1, 12), lease_key) <> substr(bytes, 13, 8) THEN
        PERFORM refuse('lease', 'is not a lease token of this broker');
    END IF;
    job_id := ('x' || encode(substr(bytes, 1, 8), 'hex'))::bit(64)::bigint;
    delivery := ('x' || encode(substr(bytes, 9, 4), 'hex'))::bit(32)::integer;
END
$$;

CREATE FUNCTION ack_bytes(token text, result bytea) RETURNS void
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

-- Completes a job with this transaction. The lease is the text that HTTP gives,
-- or the bytes that TCP gives, as base64; the result is JSON, or bytes. If the
-- lease is lost, now or at the commit, the transaction fails.
CREATE FUNCTION ack(lease text, result text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM ack_bytes(lease, json_bytes('result', result));
END
$$;

CREATE FUNCTION ack(lease text, result jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM ack_bytes(lease, json_bytes('result', result::text));
END
$$;

CREATE FUNCTION ack(lease text, result bytea) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM ack_bytes(lease, result);
END
$$;

-- From here on: at the commit.

-- Tells nodes a line, in the form of wake.rs. No node has the number 0.
CREATE FUNCTION tell(line text) RETURNS void
LANGUAGE sql AS $$
    SELECT pg_notify('batonq ' || current_schema(), E'0\n' || line)
$$;

-- A job, locked, ends. Its lease is NULL unless it completes it.
CREATE FUNCTION finish(held job, to_state text, why text, given lease, with_result bytea) RETURNS void
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
    DELETE FROM job WHERE id = held.id;
    PERFORM tell(format('e %s %s', held.id, held.delivery));
END
$$;

-- A blocked job, locked, waits for nothing more.
CREATE FUNCTION unblock(held job) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    now bigint := now_ms();
    new_place bigint;
BEGIN
    IF held.run_at > now THEN
        INSERT INTO scheduled (run_at, job_id, queue_id)
        VALUES (held.run_at, held.id, held.queue_id);
        UPDATE job SET is_blocked = false WHERE id = held.id;
        PERFORM tell(format('d %s', held.run_at));
        RETURN;
    END IF;
    new_place := nextval('number');
    INSERT INTO ready (
        queue_id, gate, priority, place, job_id, delivery, bytes, ready_at, expires_at, timeout_ms
    )
    VALUES (
        held.queue_id, coalesce(held.gate, ''), held.priority, new_place, held.id, held.delivery,
        length(held.payload), now, held.expires_at, held.timeout_ms
    );
    UPDATE job SET is_blocked = false, run_at = NULL, place = new_place WHERE id = held.id;
    PERFORM tell(format('r %s %s %s 1', held.queue_id, held.priority, new_place));
END
$$;

-- What the end of a job means for one that waits for it: true, it may go on;
-- false, it dies; NULL, it waits on.
CREATE FUNCTION fate(ended_as text, waiting job) RETURNS boolean
LANGUAGE sql AS $$
    SELECT CASE
        WHEN ended_as = 'completed' THEN true
        ELSE CASE coalesce(waiting.options::jsonb #>> '{depends, on_failure}', 'fail')
            WHEN 'ignore' THEN true
            WHEN 'fail' THEN false
        END
    END
$$;

-- Jobs have ended: those that wait for them go on, or end too.
CREATE FUNCTION release_dependents(ended bigint[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    need bigint;
    ended_as text;
    waiting job;
    is_good boolean;
BEGIN
    WHILE cardinality(ended) > 0 LOOP
        need := ended[1];
        ended := ended[2:];
        SELECT state INTO ended_as FROM finished WHERE id = need;
        FOR waiting IN
            SELECT *
            FROM job
            WHERE id = ANY(ARRAY(SELECT job_id FROM dependency WHERE needs_id = need))
            ORDER BY id
            FOR UPDATE
        LOOP
            is_good := fate(ended_as, waiting);
            IF is_good THEN
                DELETE FROM dependency WHERE job_id = waiting.id AND needs_id = need;
                IF NOT EXISTS (SELECT 1 FROM dependency WHERE job_id = waiting.id) THEN
                    PERFORM unblock(waiting);
                END IF;
            ELSIF NOT is_good THEN
                PERFORM finish(waiting, 'dead', 'DEPENDENCY_FAILED', NULL, NULL);
                ended := ended || waiting.id;
            END IF;
        END LOOP;
    END LOOP;
END
$$;

CREATE FUNCTION complete(of_job bigint, of_delivery integer, with_result bytea) RETURNS void
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
        )
        FOR UPDATE SKIP LOCKED
    ));
END
$$;

-- The end of a leased job, locked, is asked for.
CREATE FUNCTION ask_to_cancel(of_job bigint, grace_ms bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    held job;
    given lease;
    now bigint := now_ms();
BEGIN
    SELECT * INTO held FROM job WHERE id = of_job;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    given := lease_of(held);
    IF given.id IS NULL THEN
        PERFORM try_again();
    END IF;
    UPDATE job SET is_watched = true WHERE id = of_job;
    INSERT INTO cancel (job_id, delivery, requested_at, force_at)
    VALUES (of_job, held.delivery, now, now + ask_to_cancel.grace_ms)
    ON CONFLICT (job_id) DO UPDATE
    SET force_at = CASE
            WHEN cancel.delivery = excluded.delivery THEN least(cancel.force_at, excluded.force_at)
            ELSE excluded.force_at
        END,
        requested_at = CASE
            WHEN cancel.delivery = excluded.delivery THEN cancel.requested_at
            ELSE excluded.requested_at
        END,
        delivery = excluded.delivery;
    IF given.session IS NOT NULL THEN
        PERFORM tell(format('c %s %s %s', given.session, of_job, held.delivery));
    END IF;
END
$$;

-- A new job, blocked so far, looks at those that it waits for, which are locked
-- as far as they are live.
CREATE FUNCTION look_at_needs(new job) RETURNS void
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
        SELECT state INTO ended_as FROM finished WHERE id = need;
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

-- What has been pushed is told, a message for each hundred lines.
CREATE FUNCTION tell_pushed(ids bigint[]) RETURNS void
LANGUAGE sql AS $$
    SELECT tell(string_agg(n.line, E'\n'))
    FROM (
        SELECT l.line, (row_number() OVER () - 1) / 100 AS message
        FROM (
            SELECT format('r %s %s %s %s', queue_id, priority, min(place), count(*)) AS line
            FROM job
            WHERE id = ANY(ids) AND run_at IS NULL AND NOT is_blocked
            GROUP BY queue_id, priority
            UNION ALL
            SELECT format('d %s', min(run_at))
            FROM job
            WHERE id = ANY(ids) AND run_at IS NOT NULL AND NOT is_blocked
            HAVING count(*) > 0
        ) l
    ) n
    GROUP BY n.message
$$;

-- Refuses what queues with guards do not take; see guards.rs. What is refused
-- leaves no note, since nothing of its transaction stays.
CREATE FUNCTION judge_pushed(ids bigint[]) RETURNS void
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
            SELECT count(*) AS count, sum(bytes) AS bytes
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

-- Carries out what a transaction has left for its commit, all at once. Places
-- are left first, then jobs are locked by their numbers, as everywhere.
CREATE FUNCTION commit_pending() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    item pending;
    held job;
    pushed bigint[];
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
    FOR item IN
        SELECT * FROM pending WHERE tx = NEW.tx AND kind = 'cancel' ORDER BY job_ids
    LOOP
        IF leave_place(item.job_ids[1]) THEN
            UPDATE pending SET kind = 'cancelled' WHERE tx = item.tx AND id = item.id;
        END IF;
    END LOOP;
    PERFORM 1
    FROM job
    WHERE id = ANY(ARRAY(
        SELECT p.job_ids[1] FROM pending p WHERE p.tx = NEW.tx AND p.kind <> 'pushed'
        UNION
        SELECT jsonb_array_elements(j.options::jsonb #> '{depends, on}')::bigint
        FROM job j
        WHERE j.id = ANY(pushed) AND j.is_blocked
    ))
    ORDER BY id
    FOR UPDATE;
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

CREATE CONSTRAINT TRIGGER commit_pending
AFTER INSERT ON pending
DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION commit_pending();

-- Lets a role push, cancel and ack, and nothing else; makes the role if it may.
-- The answer: what came of it, in words.
CREATE FUNCTION allow_producer(role text DEFAULT 'batonq_producer') RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    function regprocedure;
BEGIN
    -- Who can put functions beside ours could have them run as their owner.
    IF has_schema_privilege('public', current_schema(), 'CREATE') THEN
        RETURN format(
            'role %s was granted nothing: everybody may create in schema %s', role, current_schema()
        );
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = role) THEN
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        EXCEPTION
            -- Another schema of this server makes it at the same time.
            WHEN duplicate_object OR unique_violation THEN
                NULL;
        END;
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), role);
    FOR function IN
        SELECT oid
        FROM pg_proc
        WHERE pronamespace = quote_ident(current_schema())::regnamespace
        AND proname IN ('push', 'push_many', 'cancel', 'ack')
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', function, role);
    END LOOP;
    RETURN format('role %s may push, cancel and ack in schema %s', role, current_schema());
EXCEPTION
    WHEN insufficient_privilege THEN
        RETURN format(
            'role %s was granted nothing (%s): as one who may, CREATE ROLE %I, then run batonq '
            'migrate up as the owner of schema %s',
            role, sqlerrm, role, current_schema()
        );
END
$$;

-- Nobody may call these but their owner; nothing in a caller's session changes
-- what their names mean; and plans are as those of nodes, see lane.rs.
DO $$
DECLARE
    function regprocedure;
    name text;
    is_definer boolean;
    setting text;
BEGIN
    FOR function, name, is_definer IN
        SELECT p.oid, p.proname, p.prosecdef
        FROM pg_proc p
        WHERE p.pronamespace = quote_ident(current_schema())::regnamespace
        AND p.proname = ANY('{
            refuse, refuse_lease, try_again, field_keys, field_number, field_text,
            field_count, field_time, field_backoff, field_tags, field_needs,
            field_options, new_job, queue_number, take_key, store_jobs, check_bytes,
            json_bytes, push_one, push, push_many, leave_place, lease_of, cancel, sum64,
            turn64, little_endian, lease_proof, open_lease, ack_bytes, ack, tell,
            finish, unblock, fate, release_dependents, complete, ask_to_cancel,
            look_at_needs, tell_pushed, judge_pushed, commit_pending, allow_producer
        }')
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', function);
        IF is_definer OR name = 'allow_producer' THEN
            EXECUTE format(
                'ALTER FUNCTION %s SET search_path = %I, pg_temp', function, current_schema()
            );
        END IF;
        CONTINUE WHEN NOT is_definer;
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
