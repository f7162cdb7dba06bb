-- The shared store. A job stands in exactly one place: it has a row in `job`
-- and one in `scheduled`, or one in `ready`, or stands in a row of `lease`
-- with its present delivery; or it has a row in `finished` only. Times are
-- milliseconds since 1970 by the database's clock.

-- The one clock of the cluster.
CREATE FUNCTION now_ms() RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL SAFE
AS 'SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint';

-- Job ids, and places in queues.
CREATE SEQUENCE number;

CREATE TABLE meta (
    key text PRIMARY KEY,
    value bytea NOT NULL
);

INSERT INTO meta (key, value) VALUES
    ('lease_key', uuid_send(gen_random_uuid())),
    -- Written to by nodes that ask whether the database can be written to.
    ('checked', '');

CREATE TABLE queue (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    paused_at bigint
);

-- The body of a live job. Written once and deleted once as long as nothing
-- goes wrong.
CREATE TABLE job (
    id bigint PRIMARY KEY,
    queue_id bigint NOT NULL,
    priority integer NOT NULL,
    max_attempts integer NOT NULL,
    -- Its place in the queue, once it has been ready.
    place bigint NOT NULL,
    created_at bigint NOT NULL,
    -- Attempts that were charged.
    attempts integer NOT NULL,
    -- The number of the present lease, or of the coming one.
    delivery integer NOT NULL,
    crashes integer NOT NULL,
    run_at bigint,
    expires_at bigint,
    timeout_ms bigint,
    replay_of bigint,
    replayed_as bigint,
    content_type text,
    backoff text,
    unique_key text,
    tags text,
    payload bytea NOT NULL
) WITH (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 0
);

-- Only what may be claimed now. What a claim must know of a job to decide is
-- repeated here, so that bodies are read once, when the job is taken.
CREATE TABLE ready (
    queue_id bigint NOT NULL,
    place bigint NOT NULL,
    job_id bigint NOT NULL,
    priority integer NOT NULL,
    delivery integer NOT NULL,
    bytes integer NOT NULL,
    ready_at bigint NOT NULL,
    expires_at bigint,
    timeout_ms bigint
) WITH (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 0
);

-- In the order of claims.
CREATE UNIQUE INDEX ready_order ON ready (queue_id, priority DESC, place);

-- What becomes ready by time.
CREATE TABLE scheduled (
    run_at bigint NOT NULL,
    job_id bigint NOT NULL,
    queue_id bigint NOT NULL,
    PRIMARY KEY (run_at, job_id)
) WITH (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);

-- One row for each claim. A job whose delivery is another by now no longer
-- belongs to it.
CREATE TABLE lease (
    id bigint PRIMARY KEY,
    node text NOT NULL,
    incarnation bigint NOT NULL,
    worker text NOT NULL,
    -- NULL: the lease has a time of its own.
    session bigint,
    started_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    job_ids bigint[] NOT NULL,
    deliveries integer[] NOT NULL
) WITH (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX lease_session ON lease (session) WHERE session IS NOT NULL;
CREATE INDEX lease_expiry ON lease (expires_at);

CREATE TABLE finished (
    id bigint PRIMARY KEY,
    queue_id bigint NOT NULL,
    state text NOT NULL,
    reason text,
    priority integer NOT NULL,
    max_attempts integer NOT NULL,
    created_at bigint NOT NULL,
    finished_at bigint NOT NULL,
    attempts integer NOT NULL,
    -- Leases given; the last of them completed the job, if it is completed.
    deliveries integer NOT NULL,
    crashes integer NOT NULL,
    -- Of the lease that completed the job.
    node text,
    worker text,
    started_at bigint,
    expires_at bigint,
    timeout_ms bigint,
    replay_of bigint,
    replayed_as bigint,
    content_type text,
    backoff text,
    unique_key text,
    tags text,
    payload bytea NOT NULL,
    result bytea
) WITH (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 0
);

-- For retention: what to forget first.
CREATE INDEX finished_kept ON finished (finished_at, id) WHERE state <> 'dead';
CREATE INDEX finished_dead ON finished (finished_at, id) WHERE state = 'dead';

-- Leases that ended otherwise than by completion.
CREATE TABLE attempt_log (
    job_id bigint NOT NULL,
    delivery integer NOT NULL,
    attempt integer NOT NULL,
    node text NOT NULL,
    worker text NOT NULL,
    started_at bigint NOT NULL,
    ended_at bigint NOT NULL,
    ending text NOT NULL,
    code text NOT NULL,
    message text NOT NULL,
    PRIMARY KEY (job_id, delivery)
);

-- From here on: only for jobs that use it.

-- Of live jobs.
CREATE TABLE unique_key (
    queue_id bigint NOT NULL,
    key text COLLATE "C" NOT NULL,
    job_id bigint NOT NULL,
    PRIMARY KEY (queue_id, key)
);

-- Of waiting jobs.
CREATE TABLE ttl (
    expires_at bigint NOT NULL,
    job_id bigint NOT NULL,
    PRIMARY KEY (expires_at, job_id)
);

-- Of leased jobs whose attempts may run for a limited time.
CREATE TABLE deadline (
    at bigint NOT NULL,
    job_id bigint NOT NULL,
    delivery integer NOT NULL,
    PRIMARY KEY (at, job_id)
);

-- Of leased jobs: of another delivery than the present one it is void.
CREATE TABLE progress (
    job_id bigint PRIMARY KEY,
    delivery integer NOT NULL,
    percent smallint NOT NULL,
    message text NOT NULL
);

-- Of live and finished jobs.
CREATE TABLE job_tag (
    tag text COLLATE "C" NOT NULL,
    job_id bigint NOT NULL,
    PRIMARY KEY (tag, job_id)
);

-- The cluster.

-- One row: who leads, and the fence that each of its writes must pass.
CREATE TABLE leader (
    is_leader boolean PRIMARY KEY DEFAULT true CHECK (is_leader),
    epoch bigint NOT NULL,
    token uuid NOT NULL,
    node text NOT NULL,
    elected_at bigint NOT NULL
);

INSERT INTO leader (epoch, token, node, elected_at) VALUES (0, gen_random_uuid(), '', 0);

-- When each duty was last done.
CREATE TABLE duty (
    name text PRIMARY KEY,
    epoch bigint NOT NULL,
    node text NOT NULL,
    succeeded_at bigint NOT NULL
);

-- What leaders changed, by election: the tokens stand in unbroken blocks.
CREATE TABLE audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at bigint NOT NULL,
    epoch bigint NOT NULL,
    token uuid NOT NULL,
    node text NOT NULL,
    duty text NOT NULL,
    count integer NOT NULL
);

CREATE TABLE node (
    id text PRIMARY KEY,
    incarnation bigint NOT NULL,
    hostname text NOT NULL,
    host text NOT NULL,
    tcp_port integer NOT NULL,
    http_port integer,
    state text NOT NULL,
    drain text,
    started_at bigint NOT NULL,
    last_heartbeat bigint NOT NULL,
    version text NOT NULL,
    build text NOT NULL,
    fingerprint text NOT NULL
);
