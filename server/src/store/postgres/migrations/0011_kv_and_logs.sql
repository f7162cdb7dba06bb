-- Values by key, and what workers write into the logs of their jobs.

CREATE TABLE kv (
    key text COLLATE "C" PRIMARY KEY,
    value bytea NOT NULL,
    -- NULL: it stays until it is deleted.
    expires_at bigint
);

CREATE INDEX kv_expiry ON kv (expires_at) WHERE expires_at IS NOT NULL;

-- The last lines of each job. Those of jobs that are gone are swept away.
CREATE TABLE job_log (
    job_id bigint NOT NULL,
    number bigint GENERATED ALWAYS AS IDENTITY,
    at bigint NOT NULL,
    level text NOT NULL,
    -- May be sealed.
    message bytea NOT NULL,
    PRIMARY KEY (job_id, number)
);
