-- The journal as a chain: every movement carries a hash over itself, its lines, its entries and the
-- movement before. What was posted before this version has none.
ALTER TABLE movements ADD COLUMN hash BYTEA NOT NULL DEFAULT '';
ALTER TABLE movements ADD COLUMN digests BYTEA NOT NULL DEFAULT '';  -- of a batch: 8 bytes for each entry
ALTER TABLE orgs ADD COLUMN head BYTEA NOT NULL DEFAULT '';          -- the newest movement's hash
ALTER TABLE orgs ADD COLUMN unchained BIGINT NOT NULL DEFAULT 0;     -- movements up to it have no hash
UPDATE orgs SET unchained = last_sequence;

ALTER TABLE accounts ADD COLUMN tag_rules BYTEA NOT NULL DEFAULT '';  -- ledger.v1.AccountTagRules
