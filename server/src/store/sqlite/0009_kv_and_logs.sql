-- Values by key, and what workers write into the logs of their jobs.

CREATE TABLE kv (
    key TEXT PRIMARY KEY,
    value BLOB NOT NULL,
    -- NULL: it stays until it is deleted.
    expires_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX kv_expiry ON kv (expires_at) WHERE expires_at IS NOT NULL;

-- The last lines of each job. Those of jobs that are gone are swept away.
CREATE TABLE job_log (
    job_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    level TEXT NOT NULL,
    -- May be sealed.
    message BLOB NOT NULL,
    PRIMARY KEY (job_id, number)
) STRICT, WITHOUT ROWID;
