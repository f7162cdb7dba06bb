-- What must not be in the tables of the embedded store: see postgres.sql. What
-- leases hold has been unpacked into temp.held, since they are packed in bytes.
WITH RECURSIVE line (queue_id, gate, rank, place, job_id, more) AS (
    SELECT queue_id, gate, rank, place, job_id, more FROM ready
    UNION ALL
    SELECT queue_id, gate, rank, place + 1, job_id + 1, more - 1 FROM line WHERE more > 0
),
places (job_id, place) AS (
    SELECT id, 'blocked' FROM job WHERE is_blocked
    UNION ALL
    SELECT job_id, 'scheduled' FROM scheduled
    UNION ALL
    SELECT job_id, 'ready' FROM line
    UNION ALL
    SELECT h.job_id, 'leased'
    FROM temp.held h JOIN job j ON j.id = h.job_id AND j.delivery = h.delivery
    UNION ALL
    SELECT id, 'finished' FROM finished
),
stands AS (
    SELECT job_id, count(*) AS count, group_concat(place, ', ') AS places
    FROM places
    GROUP BY job_id
)
SELECT 'stands in more than one place: ' || places AS rule, job_id
FROM stands
WHERE count > 1

UNION ALL
SELECT 'stands nowhere', id
FROM job
WHERE id NOT IN (SELECT job_id FROM stands)

UNION ALL
SELECT 'has a place and no body', job_id
FROM (SELECT job_id FROM line UNION ALL SELECT job_id FROM scheduled)
WHERE job_id NOT IN (SELECT id FROM job)

UNION ALL
SELECT 'is finished and has a body', id
FROM finished
WHERE id IN (SELECT id FROM job)

UNION ALL
SELECT 'is ready otherwise than its body says', l.job_id
FROM line l
JOIN job j ON j.id = l.job_id
WHERE (l.queue_id, l.rank, l.place, l.gate) IS NOT (j.queue_id, -j.priority, j.place, j.gate)
OR j.run_at IS NOT NULL

UNION ALL
SELECT 'is scheduled otherwise than its body says', s.job_id
FROM scheduled s
JOIN job j ON j.id = s.job_id
WHERE s.run_at IS NOT j.run_at

UNION ALL
SELECT 'is blocked and waits for nothing', id
FROM job
WHERE is_blocked AND id NOT IN (SELECT job_id FROM dependency)

UNION ALL
SELECT 'waits for others and is not blocked', d.job_id
FROM dependency d
LEFT JOIN job j ON j.id = d.job_id
WHERE j.is_blocked IS NOT 1

UNION ALL
-- One that is not completed may be sent round again: some wait for that.
SELECT 'waits for a job that is completed', d.job_id
FROM dependency d
JOIN finished f ON f.id = d.needs_id
WHERE f.state = 'completed'

UNION ALL
SELECT 'has a key for life and has ended', job_id
FROM unique_key
WHERE expires_at IS NULL AND job_id NOT IN (SELECT id FROM job)

UNION ALL
SELECT 'has a custom id and is not found by it', k.job_id
FROM unique_key k
LEFT JOIN custom_id c ON c.key = k.key
WHERE k.kind = 4 AND (k.queue_id <> 0 OR c.job_id IS NULL OR c.job_id <> k.job_id)

UNION ALL
SELECT 'has more than was allowed', id
FROM job
WHERE attempts > max_attempts OR delivery < 1

UNION ALL
SELECT 'ended for no reason, or for one that it can not have', id
FROM finished
WHERE state NOT IN ('completed', 'dead', 'cancelled') OR (state = 'dead') <> (reason IS NOT NULL)

UNION ALL
SELECT 'has tags and is forgotten', job_id
FROM job_tag
WHERE job_id NOT IN (SELECT id FROM job) AND job_id NOT IN (SELECT id FROM finished)

ORDER BY job_id, rule
