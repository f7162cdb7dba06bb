-- What a queue takes, and how long it keeps what is done.

-- is_guarded: its settings have a guard. payloads_dropped_until: payloads of
-- jobs that finished before then have been dropped already.
ALTER TABLE queue
    ADD COLUMN is_guarded boolean NOT NULL DEFAULT false,
    ADD COLUMN payloads_dropped_until bigint NOT NULL DEFAULT 0;

-- Jobs taken in the latest minute: of queues that have such a guard.
CREATE TABLE taken (
    queue_id bigint PRIMARY KEY,
    minute bigint NOT NULL,
    count bigint NOT NULL
);

-- What guards have refused, by minute.
CREATE TABLE decision (
    minute bigint NOT NULL,
    queue_id bigint NOT NULL,
    guard text COLLATE "C" NOT NULL,
    max bigint NOT NULL,
    count bigint NOT NULL,
    last_at bigint NOT NULL,
    PRIMARY KEY (minute, queue_id, guard)
);

-- Its payload and result were dropped before it.
ALTER TABLE finished ADD COLUMN is_dropped boolean NOT NULL DEFAULT false;

-- For retention: what to forget first, by queue.
DROP INDEX finished_kept;
DROP INDEX finished_dead;
CREATE INDEX finished_kept ON finished (queue_id, finished_at, id) WHERE state <> 'dead';
CREATE INDEX finished_dead ON finished (queue_id, finished_at, id) WHERE state = 'dead';
