-- Push, claim and ack 500 jobs of 60 bytes, each a transaction of its own. For pgbench, in one
-- session, with -D last=5000: where the claim before it ended.
WITH pushed AS (
    INSERT INTO job (queue, payload)
    SELECT 'q', decode(repeat('78', 60), 'hex') FROM generate_series(1, 500)
    RETURNING id, queue, priority
)
INSERT INTO ready SELECT queue, priority, now(), id FROM pushed;

WITH head AS (
    SELECT ctid FROM ready
    WHERE queue = 'q' AND priority = 0 AND job_id > :last AND run_at <= now()
    ORDER BY job_id
    LIMIT 500
    FOR UPDATE SKIP LOCKED
), claimed AS (
    DELETE FROM ready USING head WHERE ready.ctid = head.ctid RETURNING job_id
), leased AS (
    INSERT INTO lease (node, expires_at, job_ids)
    SELECT 1, now() + interval '30 s', array_agg(job_id) FROM claimed
)
SELECT max(id) AS last, count(payload) AS bodies FROM claimed JOIN job ON id = job_id \gset

DELETE FROM job WHERE id > :last - 500 AND id <= :last;
DELETE FROM lease WHERE id = (SELECT max(id) FROM lease);
