-- What is alike is written together.

-- Jobs of one push that stand in line one behind the other are one row: so
-- many more follow the first, each with the next place and the next id.
ALTER TABLE ready ADD COLUMN more INTEGER NOT NULL DEFAULT 0;

-- For retention: what to forget first. Completed or cancelled jobs of a queue,
-- with these ids, that ended at the same time; some may be gone by now. Those
-- that are completed were so by this worker, by one lease.
CREATE TABLE kept (
    queue_id INTEGER NOT NULL,
    finished_at INTEGER NOT NULL,
    first_id INTEGER NOT NULL,
    last_id INTEGER NOT NULL,
    node TEXT,
    worker TEXT,
    started_at INTEGER,
    PRIMARY KEY (queue_id, finished_at, first_id)
) STRICT, WITHOUT ROWID;
INSERT INTO kept (queue_id, finished_at, first_id, last_id)
    SELECT queue_id, finished_at, id, id FROM finished WHERE state <> 'dead';
DROP INDEX finished_kept;
