-- What must not be in the tables of the shared store, whatever happened: one
-- row for each job that breaks a rule, none if all is well. One statement, so
-- that it sees one state of a database in use. The schema is the search path's.
WITH held AS MATERIALIZED (
    SELECT u.job_id, u.delivery
    FROM lease l
    CROSS JOIN LATERAL unnest(l.job_ids, l.deliveries) AS u (job_id, delivery)
    JOIN live_job j ON j.id = u.job_id AND j.delivery = u.delivery
),
places AS (
    SELECT id AS job_id, 'blocked' AS place FROM live_job WHERE is_blocked
    UNION ALL
    SELECT job_id, 'scheduled' FROM scheduled WHERE count = 1
    UNION ALL
    SELECT j.id, 'scheduled'
    FROM scheduled s
    JOIN live_in_run j ON j.place = s.job_id AND j.run_at IS NOT NULL
    WHERE s.count > 1
    UNION ALL
    SELECT unnest(coalesce(job_ids, ARRAY[job_id])), 'ready' FROM ready
    UNION ALL
    SELECT job_id, 'leased' FROM held
    UNION ALL
    SELECT id, 'finished' FROM finished
    UNION ALL
    SELECT id, 'in a run' FROM completed_job
),
stands AS (
    SELECT job_id, count(*) AS count, string_agg(place, ', ' ORDER BY place) AS places
    FROM places
    GROUP BY job_id
)
SELECT 'stands in more than one place: ' || places AS rule, job_id
FROM stands
WHERE count > 1

UNION ALL
SELECT 'stands nowhere', id
FROM live_job
WHERE id NOT IN (SELECT job_id FROM stands)

UNION ALL
SELECT 'has a place and no body', job_id
FROM (
    SELECT unnest(coalesce(job_ids, ARRAY[job_id])) AS job_id FROM ready
    UNION ALL
    SELECT job_id FROM scheduled
) waiting
WHERE job_id NOT IN (SELECT id FROM live_job)

UNION ALL
SELECT 'is in a run and has a row', id
FROM live_in_run
WHERE id IN (SELECT id FROM job)

UNION ALL
SELECT 'is finished and has a body', id
FROM (SELECT id FROM finished UNION ALL SELECT id FROM completed_job) ended
WHERE id IN (SELECT id FROM live_job)

UNION ALL
-- By the run's lowest number.
SELECT 'is in a run that says otherwise', r.first
FROM run r
CROSS JOIN LATERAL (
    SELECT
        count(*) AS count, min(id) AS first, max(id) AS last, min(id >> 10) AS bucket,
        max(id >> 10) AS last_bucket
    FROM (SELECT id FROM unnest(r.jobs) UNION ALL SELECT unnest(r.ids)) u
) j
WHERE (r.count, r.first, r.last, r.bucket, r.bucket)
    IS DISTINCT FROM
    (j.count, j.first, j.last, j.bucket, j.last_bucket)

UNION ALL
SELECT 'is in a run that is put together wrongly', r.first
FROM run r
WHERE (r.jobs IS NULL) = (r.ids IS NULL)
OR r.ids <> ARRAY(SELECT u.id FROM unnest(r.ids) AS u (id) ORDER BY u.id)
OR cardinality(r.payloads) <> r.count
OR cardinality(r.results) <> r.count
OR r.id <> r.first AND r.ids IS NOT NULL
OR r.finished_at IS NULL AND (r.place IS NULL OR r.payloads IS NULL)
OR r.finished_at IS NULL AND r.place > r.first AND r.due_at IS NULL
OR r.run_at IS NOT NULL AND (r.finished_at IS NOT NULL OR r.due_at IS NOT NULL)

UNION ALL
-- Nobody would look for it when its run is forgotten.
SELECT 'is in a run and has more than that', id
FROM (
    SELECT id, deliveries FROM completed_job UNION ALL SELECT id, delivery FROM live_in_run
) j
WHERE deliveries = 1 AND id IN (SELECT job_id FROM attempt_log)
OR id IN (SELECT job_id FROM job_tag)
OR id IN (SELECT job_id FROM custom_id)

UNION ALL
SELECT 'is ready otherwise than its body says', r.job_id
FROM ready r
JOIN live_job j ON j.id = r.job_id
WHERE r.block IS NULL
AND (
    (r.queue_id, r.priority, r.place, r.delivery, r.gate, r.bytes, r.count)
        IS DISTINCT FROM
        (j.queue_id, j.priority, j.place, j.delivery, coalesce(j.gate, ''), length(j.payload), 1)
    OR j.run_at IS NOT NULL
)

UNION ALL
SELECT 'is ready in a block otherwise than its body says', j.id
FROM ready r
JOIN live_job j ON j.id = ANY(r.job_ids)
WHERE (r.queue_id, r.priority, r.block, r.delivery, r.gate, r.timeout_ms)
    IS DISTINCT FROM
    (j.queue_id, j.priority, j.place, j.delivery, coalesce(j.gate, ''), j.timeout_ms)
OR j.run_at IS NOT NULL OR r.expires_at IS NOT NULL

UNION ALL
-- By the first of its jobs.
SELECT 'is a block that says otherwise', r.job_id
FROM ready r
CROSS JOIN LATERAL (
    SELECT array_agg(u.id ORDER BY u.id) AS ids, count(*) AS count
    FROM unnest(r.job_ids) AS u (id)
) j
WHERE r.block IS NOT NULL
AND (
    (r.job_id, r.job_ids, r.count) IS DISTINCT FROM (j.ids[1], j.ids, j.count)
    OR r.place NOT IN (r.job_id, r.block) OR r.block > r.place OR r.bytes < 0
)

UNION ALL
SELECT 'is scheduled otherwise than its body says', s.job_id
FROM scheduled s
JOIN live_job j ON j.id = s.job_id
WHERE (s.run_at, s.queue_id) IS DISTINCT FROM (j.run_at, j.queue_id)

UNION ALL
-- By the first of those that wait together.
SELECT 'is scheduled in a run that says otherwise', s.job_id
FROM scheduled s
CROSS JOIN LATERAL (
    SELECT count(*) AS count, sum(length(payload)) AS bytes, min(run_at) AS first, max(run_at) AS last
    FROM live_in_run
    WHERE place = s.job_id AND run_at IS NOT NULL
) j
WHERE s.count = 1 AND s.bytes IS NOT NULL
OR s.count > 1
AND (s.count, s.bytes, s.run_at, s.run_at) IS DISTINCT FROM (j.count, j.bytes, j.first, j.last)

UNION ALL
SELECT 'is blocked and waits for nothing', id
FROM live_job
WHERE is_blocked AND id NOT IN (SELECT job_id FROM dependency)

UNION ALL
SELECT 'waits for others and is not blocked', d.job_id
FROM dependency d
LEFT JOIN live_job j ON j.id = d.job_id
WHERE j.is_blocked IS NOT TRUE

UNION ALL
-- One that is not completed may be sent round again: some wait for that.
SELECT 'waits for a job that is completed', d.job_id
FROM dependency d
JOIN (SELECT id, state FROM finished UNION ALL SELECT id, state FROM completed_job) f
    ON f.id = d.needs_id
WHERE f.state = 'completed'

UNION ALL
SELECT 'has a key for life and has ended', job_id
FROM unique_key
WHERE expires_at IS NULL AND job_id NOT IN (SELECT id FROM live_job)

UNION ALL
SELECT 'has a custom id and is not found by it', k.job_id
FROM unique_key k
LEFT JOIN custom_id c ON c.key = k.key
WHERE k.kind = 4 AND (k.queue_id <> 0 OR c.job_id IS NULL OR c.job_id <> k.job_id)

UNION ALL
SELECT 'has more than was allowed', id
FROM live_job
WHERE attempts > max_attempts OR delivery < 1

UNION ALL
SELECT 'ended for no reason, or for one that it can not have', id
FROM finished
WHERE state NOT IN ('completed', 'dead', 'cancelled') OR (state = 'dead') <> (reason IS NOT NULL)

UNION ALL
SELECT 'has tags and is forgotten', job_id
FROM job_tag
WHERE job_id NOT IN (SELECT id FROM live_job) AND job_id NOT IN (SELECT id FROM finished)

ORDER BY job_id, rule
