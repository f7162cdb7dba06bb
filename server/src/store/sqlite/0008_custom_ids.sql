-- Names that jobs have over all queues.

-- The last job that took each custom id, as long as it is known. It has it as
-- long as it lives: then there is a key of kind 4 as well, of queue 0, which is
-- none.
CREATE TABLE custom_id (
    key TEXT PRIMARY KEY,
    job_id INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX custom_id_job ON custom_id (job_id);
