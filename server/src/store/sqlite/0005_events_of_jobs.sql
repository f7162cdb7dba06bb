-- Who did what to a queue.

ALTER TABLE queue ADD COLUMN paused_by TEXT;

-- What happened to jobs beside their leases, the last of each; see story.rs.
CREATE TABLE job_note (
    job_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    delivery INTEGER NOT NULL,
    who TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (job_id, number)
) STRICT, WITHOUT ROWID;
