-- Which history of commits the escrow stands on (libs/sql/change_log.h, kServerHistory). Where the
-- server continues another one, commits may be missing: then every epoch is closed first.
CREATE TABLE failover (
  id BIGINT PRIMARY KEY CHECK (id = 1),
  history TEXT,                  -- NULL: as yet unknown
  generation BIGINT NOT NULL     -- of replays by the edges
);
INSERT INTO failover (id, generation) VALUES (1, 0);

-- Corrections of journal entries that were asked for, by the caller's key: each is made once.
CREATE TABLE adjustments (
  org_id BIGINT NOT NULL,
  client_request_id TEXT NOT NULL,
  hold_id uuid NOT NULL,
  revision BIGINT NOT NULL,   -- of the corrected entry
  previous BIGINT NOT NULL,   -- what the hold cost before
  PRIMARY KEY (org_id, client_request_id)
);
