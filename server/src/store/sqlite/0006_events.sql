-- Events, for those who listen; see store/events.rs.
CREATE TABLE event (
    -- A number is never used again.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    queue_id INTEGER NOT NULL,
    -- NULL: of the queue itself.
    job_id INTEGER,
    number INTEGER,
    word TEXT,
    message TEXT
) STRICT;

-- Whose events are recorded. queue is empty: of all queues.
CREATE TABLE watch (
    owner TEXT NOT NULL,
    queue TEXT NOT NULL,
    -- Later events have all been recorded, and are still there.
    since INTEGER NOT NULL,
    -- NULL: until it is deleted.
    expires_at INTEGER,
    PRIMARY KEY (owner, queue)
) STRICT, WITHOUT ROWID;

-- spec is JSON, see webhooks.rs. seen: deliveries of all events up to this
-- number have been pushed.
CREATE TABLE webhook (
    name TEXT PRIMARY KEY,
    spec TEXT NOT NULL,
    secret BLOB NOT NULL,
    seen INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
