-- What few jobs ask for: limits, keys that outlive their jobs, other jobs to
-- wait for, an end on request.

-- settings: JSON; see settings.rs. is_gated: the queue, or a live job of it,
-- has limits. Set by whoever brings the limit, cleared by the leader.
ALTER TABLE queue
    ADD COLUMN settings text NOT NULL DEFAULT '{}',
    ADD COLUMN is_gated boolean NOT NULL DEFAULT false;

-- options: JSON; see options.rs; NULL: nothing. gate: what it waits behind
-- when it is ready; NULL: nothing. is_blocked: it waits for other jobs, and
-- run_at is the earliest time after that. is_watched: its end is of interest
-- to others, so that it takes more than one statement.
ALTER TABLE job
    ADD COLUMN options text,
    ADD COLUMN gate text COLLATE "C",
    ADD COLUMN is_blocked boolean NOT NULL DEFAULT false,
    ADD COLUMN is_watched boolean NOT NULL DEFAULT false;

CREATE INDEX job_gated ON job (queue_id) WHERE gate IS NOT NULL;
CREATE INDEX job_blocked ON job (queue_id) WHERE is_blocked;

ALTER TABLE finished ADD COLUMN options text;

-- Empty: it waits behind no gate.
ALTER TABLE ready ADD COLUMN gate text COLLATE "C" NOT NULL DEFAULT '';

-- In the order of claims, by gate.
DROP INDEX ready_order;
CREATE UNIQUE INDEX ready_order ON ready (queue_id, gate, priority DESC, place);

-- When the line behind each gate was served last, in turns.
CREATE TABLE turn (
    queue_id bigint NOT NULL,
    gate text COLLATE "C" NOT NULL,
    turn bigint NOT NULL,
    PRIMARY KEY (queue_id, gate)
);

-- When the bucket of a rate's key is full again, in microseconds since 1970.
-- The key is empty: of the queue itself.
CREATE TABLE bucket (
    queue_id bigint NOT NULL,
    key text COLLATE "C" NOT NULL,
    full_at_us bigint NOT NULL,
    PRIMARY KEY (queue_id, key)
);

-- Of leased jobs with a concurrency key: of another delivery than the
-- present one it is void.
CREATE TABLE slot (
    job_id bigint PRIMARY KEY,
    delivery integer NOT NULL,
    queue_id bigint NOT NULL,
    key text COLLATE "C" NOT NULL
);

CREATE INDEX slot_key ON slot (queue_id, key);

-- By kind: unique while live (0), for a window (1), until it is leased (2), of
-- a push (3). expires_at is NULL as long as the job lives.
ALTER TABLE unique_key
    ADD COLUMN kind smallint NOT NULL DEFAULT 0,
    ADD COLUMN expires_at bigint,
    DROP CONSTRAINT unique_key_pkey,
    ADD PRIMARY KEY (queue_id, kind, key);

CREATE INDEX unique_key_expiry ON unique_key (expires_at) WHERE expires_at IS NOT NULL;

-- Which blocked job still waits for which.
CREATE TABLE dependency (
    job_id bigint NOT NULL,
    needs_id bigint NOT NULL,
    PRIMARY KEY (job_id, needs_id)
);

CREATE INDEX dependency_needs ON dependency (needs_id, job_id);

-- Of leased jobs whose end is asked for: of another delivery than the present
-- one it is void.
CREATE TABLE cancel (
    job_id bigint PRIMARY KEY,
    delivery integer NOT NULL,
    requested_at bigint NOT NULL,
    force_at bigint NOT NULL
);

CREATE INDEX cancel_force ON cancel (force_at, job_id);
