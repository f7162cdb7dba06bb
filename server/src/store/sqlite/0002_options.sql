-- What few jobs ask for: limits, keys that outlive their jobs, other jobs to
-- wait for, an end on request.

-- JSON; see settings.rs.
ALTER TABLE queue ADD COLUMN settings TEXT NOT NULL DEFAULT '{}';

-- JSON; see options.rs. NULL: nothing.
ALTER TABLE job ADD COLUMN options TEXT;
-- The gate that it waits behind; empty: none. See flow.rs.
ALTER TABLE job ADD COLUMN gate TEXT NOT NULL DEFAULT '';
-- Whether it waits for other jobs. run_at is then the earliest time.
ALTER TABLE job ADD COLUMN is_blocked INTEGER NOT NULL DEFAULT 0;
-- Whether other jobs wait for it, or did.
ALTER TABLE job ADD COLUMN is_watched INTEGER NOT NULL DEFAULT 0;

ALTER TABLE finished ADD COLUMN options TEXT;

-- What may be claimed now, by gate, in the order of claims. rank = -priority.
CREATE TABLE new_ready (
    queue_id INTEGER NOT NULL,
    gate TEXT NOT NULL,
    rank INTEGER NOT NULL,
    place INTEGER NOT NULL,
    job_id INTEGER NOT NULL,
    ready_at INTEGER NOT NULL,
    PRIMARY KEY (queue_id, gate, rank, place)
) STRICT, WITHOUT ROWID;
INSERT INTO new_ready SELECT queue_id, '', rank, place, job_id, ready_at FROM ready;
DROP TABLE ready;
ALTER TABLE new_ready RENAME TO ready;

-- When the line behind each gate was served last, in turns.
CREATE TABLE turn (
    queue_id INTEGER NOT NULL,
    gate TEXT NOT NULL,
    turn INTEGER NOT NULL,
    PRIMARY KEY (queue_id, gate)
) STRICT, WITHOUT ROWID;

-- When the bucket of a rate's key is full again, in microseconds since 1970.
-- The key is empty: of the queue itself.
CREATE TABLE bucket (
    queue_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    full_at_us INTEGER NOT NULL,
    PRIMARY KEY (queue_id, key)
) STRICT, WITHOUT ROWID;

-- Keys that one job of a queue has, by kind: unique while live, for a window,
-- until it is leased, of a push. expires_at is NULL as long as the job lives.
CREATE TABLE new_unique_key (
    queue_id INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    key TEXT NOT NULL,
    job_id INTEGER NOT NULL,
    expires_at INTEGER,
    PRIMARY KEY (queue_id, kind, key)
) STRICT, WITHOUT ROWID;
INSERT INTO new_unique_key SELECT queue_id, 0, key, job_id, NULL FROM unique_key;
DROP TABLE unique_key;
ALTER TABLE new_unique_key RENAME TO unique_key;
CREATE INDEX unique_key_expiry ON unique_key (expires_at) WHERE expires_at IS NOT NULL;

-- Which blocked job still waits for which.
CREATE TABLE dependency (
    job_id INTEGER NOT NULL,
    needs_id INTEGER NOT NULL,
    PRIMARY KEY (job_id, needs_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX dependency_needs ON dependency (needs_id, job_id);

-- Of leased jobs whose end is asked for.
CREATE TABLE cancel (
    job_id INTEGER PRIMARY KEY,
    requested_at INTEGER NOT NULL,
    force_at INTEGER NOT NULL
) STRICT;
CREATE INDEX cancel_force ON cancel (force_at, job_id);
