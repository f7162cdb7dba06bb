-- The embedded store. A job stands in exactly one place: it has a row in
-- `job` and either run_at (scheduled), a row in `ready`, or neither (leased);
-- or it has a row in `finished` only. Times are milliseconds since 1970.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE queue (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    paused_at INTEGER
) STRICT;

-- The body of a live job. Written once and deleted once as long as nothing
-- goes wrong.
CREATE TABLE job (
    id INTEGER PRIMARY KEY,
    queue_id INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    -- Its place in the queue, once it has been ready.
    place INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    -- Attempts that were charged.
    attempts INTEGER NOT NULL,
    -- The number of the present lease, or of the coming one.
    delivery INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    run_at INTEGER,
    expires_at INTEGER,
    timeout_ms INTEGER,
    replay_of INTEGER,
    replayed_as INTEGER,
    content_type TEXT,
    backoff TEXT,
    unique_key TEXT,
    tags TEXT,
    payload BLOB NOT NULL
) STRICT;

-- What may be claimed now, in the order of claims. rank = -priority.
CREATE TABLE ready (
    queue_id INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    place INTEGER NOT NULL,
    job_id INTEGER NOT NULL,
    ready_at INTEGER NOT NULL,
    PRIMARY KEY (queue_id, rank, place)
) STRICT, WITHOUT ROWID;

-- What becomes ready by time.
CREATE TABLE scheduled (
    run_at INTEGER NOT NULL,
    job_id INTEGER NOT NULL,
    PRIMARY KEY (run_at, job_id)
) STRICT, WITHOUT ROWID;

-- One row for each claim. `jobs` packs (job id: 8 bytes, delivery: 4) in big
-- endian; a job whose delivery is another by now no longer belongs to it.
CREATE TABLE lease (
    id INTEGER PRIMARY KEY,
    node TEXT NOT NULL,
    worker TEXT NOT NULL,
    -- NULL: the lease has a time of its own.
    session INTEGER,
    started_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    jobs BLOB NOT NULL
) STRICT;

CREATE TABLE finished (
    id INTEGER PRIMARY KEY,
    queue_id INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    priority INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    finished_at INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    -- Leases given; the last of them completed the job, if it is completed.
    deliveries INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    -- Of the lease that completed the job.
    node TEXT,
    worker TEXT,
    started_at INTEGER,
    expires_at INTEGER,
    timeout_ms INTEGER,
    replay_of INTEGER,
    replayed_as INTEGER,
    content_type TEXT,
    backoff TEXT,
    unique_key TEXT,
    tags TEXT,
    payload BLOB NOT NULL,
    result BLOB
) STRICT;

-- For retention: what to forget first.
CREATE INDEX finished_kept ON finished (finished_at) WHERE state <> 'dead';
CREATE INDEX finished_dead ON finished (finished_at) WHERE state = 'dead';

-- Leases that ended otherwise than by completion.
CREATE TABLE attempt_log (
    job_id INTEGER NOT NULL,
    delivery INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    node TEXT NOT NULL,
    worker TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    ending TEXT NOT NULL,
    code TEXT NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (job_id, delivery)
) STRICT, WITHOUT ROWID;

-- From here on: only for jobs that use it.

-- Of live jobs.
CREATE TABLE unique_key (
    queue_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    job_id INTEGER NOT NULL,
    PRIMARY KEY (queue_id, key)
) STRICT, WITHOUT ROWID;

-- Of waiting jobs.
CREATE TABLE ttl (
    expires_at INTEGER NOT NULL,
    job_id INTEGER NOT NULL,
    PRIMARY KEY (expires_at, job_id)
) STRICT, WITHOUT ROWID;

-- Of leased jobs whose attempts may run for a limited time.
CREATE TABLE deadline (
    at INTEGER NOT NULL,
    job_id INTEGER NOT NULL,
    PRIMARY KEY (at, job_id)
) STRICT, WITHOUT ROWID;

-- Of leased jobs.
CREATE TABLE progress (
    job_id INTEGER PRIMARY KEY,
    percent INTEGER NOT NULL,
    message TEXT NOT NULL
) STRICT;

-- Of live and finished jobs.
CREATE TABLE job_tag (
    tag TEXT NOT NULL,
    job_id INTEGER NOT NULL,
    PRIMARY KEY (tag, job_id)
) STRICT, WITHOUT ROWID;
