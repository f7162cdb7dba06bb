-- Jobs of one push that stand in line one behind the other are one row: so
-- many more follow the first, each with the next place and the next id.
ALTER TABLE ready ADD COLUMN more INTEGER NOT NULL DEFAULT 0;
