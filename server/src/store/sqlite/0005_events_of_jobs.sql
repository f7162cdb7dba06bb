-- Who did what to a queue.

ALTER TABLE queue ADD COLUMN paused_by TEXT;
