-- Who did what to a queue, and who pulls from it.

ALTER TABLE queue ADD COLUMN paused_by text;

-- JSON: the queues that are pulled from through the node; see cluster.rs.
ALTER TABLE node ADD COLUMN demand text NOT NULL DEFAULT '[]';
