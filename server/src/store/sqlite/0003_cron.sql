-- Schedules. spec is JSON, see schedules.rs; it has the job's payload beside it.
CREATE TABLE cron (
    name TEXT PRIMARY KEY,
    spec TEXT NOT NULL,
    payload BLOB NOT NULL,
    -- NULL: it has ended.
    next_at INTEGER,
    paused_at INTEGER,
    runs INTEGER NOT NULL,
    missed INTEGER NOT NULL,
    last_slot INTEGER,
    last_job INTEGER,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX cron_next ON cron (next_at, name) WHERE next_at IS NOT NULL AND paused_at IS NULL;

-- What became of slots: each one once.
CREATE TABLE cron_fire (
    name TEXT NOT NULL,
    slot INTEGER NOT NULL,
    fired_at INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    job_id INTEGER,
    count INTEGER NOT NULL,
    PRIMARY KEY (name, slot)
) STRICT, WITHOUT ROWID;
CREATE INDEX cron_fire_age ON cron_fire (fired_at);
