-- Who did what to a queue, and who pulls from it.

ALTER TABLE queue ADD COLUMN paused_by text;

-- JSON: the queues that are pulled from through the node; see cluster.rs.
ALTER TABLE node ADD COLUMN demand text NOT NULL DEFAULT '[]';

-- What happened to jobs beside their leases, the last of each; see story.rs.
CREATE TABLE job_note (
    job_id bigint NOT NULL,
    number bigint GENERATED ALWAYS AS IDENTITY,
    at bigint NOT NULL,
    kind text NOT NULL,
    delivery integer NOT NULL,
    who text NOT NULL,
    detail text NOT NULL,
    PRIMARY KEY (job_id, number)
);
