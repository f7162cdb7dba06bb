-- Schedules. spec is JSON, see schedules.rs; it has the job's payload beside it.
CREATE TABLE cron (
    name text COLLATE "C" PRIMARY KEY,
    spec text NOT NULL,
    payload bytea NOT NULL,
    -- NULL: it has ended.
    next_at bigint,
    paused_at bigint,
    runs bigint NOT NULL,
    missed bigint NOT NULL,
    last_slot bigint,
    last_job bigint,
    created_at bigint NOT NULL
);

CREATE INDEX cron_next ON cron (next_at, name) WHERE next_at IS NOT NULL AND paused_at IS NULL;

-- What became of slots: each one once.
CREATE TABLE cron_fire (
    name text COLLATE "C" NOT NULL,
    slot bigint NOT NULL,
    fired_at bigint NOT NULL,
    outcome text NOT NULL,
    job_id bigint,
    count bigint NOT NULL,
    PRIMARY KEY (name, slot)
);

CREATE INDEX cron_fire_age ON cron_fire (fired_at);
