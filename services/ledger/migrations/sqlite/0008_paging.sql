-- Lease returns are numbered 1, 2, 3, ... per epoch: those up to this number have all come, and
-- lease_returns keeps only what came ahead of one that has not.
ALTER TABLE epochs ADD COLUMN returned INTEGER NOT NULL DEFAULT 0;

-- Pages of what is in suspense, oldest first.
DROP INDEX suspense_open;
CREATE INDEX suspense_open ON suspense (since, hold_id, epoch) WHERE state < 3;
