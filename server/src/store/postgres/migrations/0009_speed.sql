-- What the hot path asks of the tables.

-- The jobs of a lease are written once and read when something goes wrong:
-- compressing them costs a tenth of a claim. Kept in the row as far as a page
-- has room.
ALTER TABLE lease
    ALTER COLUMN job_ids SET STORAGE EXTERNAL,
    ALTER COLUMN deliveries SET STORAGE EXTERNAL,
    SET (toast_tuple_target = 8160);

-- keeps_completed: whether its settings say that completed jobs are kept.
-- NULL: they say nothing of it.
ALTER TABLE queue ADD COLUMN keeps_completed boolean;
