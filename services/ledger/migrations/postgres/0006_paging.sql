-- Pages of the journal in posting order: found by number, whatever the planner believes of the rest.
DROP INDEX journal_at;
CREATE INDEX journal_sequence ON journal (org_id, sequence);

-- Pages of what is in suspense, oldest first.
DROP INDEX suspense_open;
CREATE INDEX suspense_open ON suspense (since, hold_id, epoch) WHERE state < 3;
