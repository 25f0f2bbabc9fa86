-- Pages of what is in suspense, oldest first.
DROP INDEX suspense_open;
CREATE INDEX suspense_open ON suspense (since, hold_id, epoch) WHERE state < 3;
