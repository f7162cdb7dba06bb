-- What keeps the leader fast while somebody holds an old snapshot.
--
-- First, who vacuums the tables of the hot path.
--
-- The leader does, when there is something to it (vacuum.rs). Autovacuum is there for
-- the time when it may not or can not: it begins late and takes its time. While
-- somebody held an old snapshot it read all that was dead once a minute, in vain, as
-- fast as it could, and took from those who worked a quarter of two cores. Large
-- payloads stand in tables of their own, to which the leader does not look.
ALTER TABLE job SET (
    autovacuum_vacuum_threshold = 2000000,
    autovacuum_vacuum_insert_threshold = 2000000,
    autovacuum_vacuum_cost_delay = 10,
    autovacuum_vacuum_cost_limit = 200,
    toast.autovacuum_vacuum_scale_factor = 0.02,
    toast.autovacuum_vacuum_threshold = 50000,
    toast.autovacuum_vacuum_insert_scale_factor = 0.1
);

ALTER TABLE ready SET (
    autovacuum_vacuum_threshold = 200000,
    autovacuum_vacuum_insert_threshold = 200000,
    autovacuum_vacuum_cost_delay = 10,
    autovacuum_vacuum_cost_limit = 200
);

ALTER TABLE scheduled SET (
    autovacuum_vacuum_threshold = 200000,
    autovacuum_vacuum_insert_threshold = 200000,
    autovacuum_vacuum_cost_delay = 10,
    autovacuum_vacuum_cost_limit = 200
);

ALTER TABLE lease SET (
    autovacuum_vacuum_threshold = 200000,
    autovacuum_vacuum_insert_threshold = 200000,
    autovacuum_vacuum_cost_delay = 10,
    autovacuum_vacuum_cost_limit = 200
);

-- A row of it has some hundred jobs, and some ten rows beside the table.
ALTER TABLE completed_run SET (
    autovacuum_vacuum_threshold = 100000,
    autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_vacuum_cost_delay = 10,
    autovacuum_vacuum_cost_limit = 200,
    toast.autovacuum_vacuum_scale_factor = 0.02,
    toast.autovacuum_vacuum_threshold = 1000000,
    toast.autovacuum_vacuum_insert_scale_factor = 0.1,
    toast.autovacuum_vacuum_insert_threshold = 1000000,
    toast.autovacuum_vacuum_cost_delay = 10,
    toast.autovacuum_vacuum_cost_limit = 200
);

-- Up to when all was done that comes by time, of duties that have got less far than
-- succeeded_at says. A leader that can not look from the very beginning goes on there.
ALTER TABLE duty ADD COLUMN reached bigint;
