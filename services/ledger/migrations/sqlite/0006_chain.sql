-- The journal as a chain: every movement carries a hash over itself, its lines, its entries and the
-- movement before. What was posted before this version has none.
ALTER TABLE movements ADD COLUMN hash BLOB NOT NULL DEFAULT x'';
ALTER TABLE movements ADD COLUMN digests BLOB NOT NULL DEFAULT x'';  -- of a batch: 8 bytes for each entry
ALTER TABLE orgs ADD COLUMN head BLOB NOT NULL DEFAULT x'';          -- the newest movement's hash
ALTER TABLE orgs ADD COLUMN unchained INTEGER NOT NULL DEFAULT 0;    -- movements up to it have no hash
UPDATE orgs SET unchained = last_sequence;

ALTER TABLE accounts ADD COLUMN tag_rules BLOB NOT NULL DEFAULT x'';  -- ledger.v1.AccountTagRules
