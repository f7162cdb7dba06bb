-- What a queue takes, and how long it keeps what is done.

-- Payloads of jobs that finished before then have been dropped already.
ALTER TABLE queue ADD COLUMN payloads_dropped_until INTEGER NOT NULL DEFAULT 0;

-- Jobs taken in the latest minute: of queues that have such a guard.
CREATE TABLE taken (
    queue_id INTEGER PRIMARY KEY,
    minute INTEGER NOT NULL,
    count INTEGER NOT NULL
) STRICT;

-- What guards have refused, by minute.
CREATE TABLE decision (
    minute INTEGER NOT NULL,
    queue_id INTEGER NOT NULL,
    guard TEXT NOT NULL,
    max INTEGER NOT NULL,
    count INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    PRIMARY KEY (minute, queue_id, guard)
) STRICT, WITHOUT ROWID;

-- Its payload and result were dropped before it.
ALTER TABLE finished ADD COLUMN is_dropped INTEGER NOT NULL DEFAULT 0;

-- For retention: what to forget first, by queue.
DROP INDEX finished_kept;
DROP INDEX finished_dead;
CREATE INDEX finished_kept ON finished (queue_id, finished_at, id) WHERE state <> 'dead';
CREATE INDEX finished_dead ON finished (queue_id, finished_at, id) WHERE state = 'dead';
