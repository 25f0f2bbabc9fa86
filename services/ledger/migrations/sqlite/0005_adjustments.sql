-- Corrections of journal entries that were asked for, by the caller's key: each is made once.
CREATE TABLE adjustments (
  org_id INTEGER NOT NULL,
  client_request_id TEXT NOT NULL,
  hold_id BLOB NOT NULL,
  revision INTEGER NOT NULL,   -- of the corrected entry
  previous INTEGER NOT NULL,   -- what the hold cost before
  PRIMARY KEY (org_id, client_request_id)
) STRICT;
