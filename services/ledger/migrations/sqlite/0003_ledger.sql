-- Ledger schema, SQLite. Money: nano-USD. Times: microseconds since 1970 UTC.
-- Maps (tags, match) are text as core/names.h writes them. Everything belongs to an org, whose id is
-- first in every primary key.

-- One row per org: whoever changes anything of an org locks it first, several orgs in id order. Row 0
-- stands for what belongs to no org yet.
CREATE TABLE orgs (
  org_id INTEGER PRIMARY KEY,
  last_sequence INTEGER NOT NULL DEFAULT 0,   -- of movements and entries, without gaps
  epoch INTEGER NOT NULL DEFAULT 0,           -- the open one, 0: none yet
  epoch_floor INTEGER NOT NULL DEFAULT 0,     -- new epochs have numbers from here on
  next_raise_end INTEGER NOT NULL DEFAULT 9223372036854775807
) STRICT;
INSERT INTO orgs (org_id) VALUES (0);

CREATE TABLE accounts (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  org_id INTEGER NOT NULL,                 -- an org's own id
  parent_id INTEGER NOT NULL,              -- 0: an org
  kind INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 4),
  path TEXT NOT NULL,                    -- where it is, or was when it was deleted
  owner TEXT NOT NULL DEFAULT '',
  cost_center TEXT NOT NULL DEFAULT '',
  tags TEXT NOT NULL DEFAULT '',
  require_budget INTEGER NOT NULL DEFAULT 0,
  requests_per_minute INTEGER NOT NULL DEFAULT 0,
  tokens_per_minute INTEGER NOT NULL DEFAULT 0,
  concurrency INTEGER NOT NULL DEFAULT 0,
  max_output_tokens INTEGER NOT NULL DEFAULT 0,
  max_request_cost INTEGER NOT NULL DEFAULT 0,
  client_request_id TEXT,
  created_at INTEGER NOT NULL,
  deleted_at INTEGER
) STRICT;
CREATE UNIQUE INDEX accounts_path ON accounts (path) WHERE deleted_at IS NULL;
CREATE INDEX accounts_old_path ON accounts (path);
CREATE INDEX accounts_parent ON accounts (parent_id);
CREATE UNIQUE INDEX accounts_request ON accounts (org_id, client_request_id)
  WHERE client_request_id IS NOT NULL;

-- Concrete budgets and templates (for_each > 0: the kind of account each of which gets one). What
-- decides which spend counts (window, zone, anchor, match) never changes: another definition is
-- another budget.
CREATE TABLE budgets (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  org_id INTEGER NOT NULL,
  account_id INTEGER NOT NULL,
  name TEXT NOT NULL,
  window_name TEXT NOT NULL,
  time_zone TEXT NOT NULL,
  anchor TEXT NOT NULL,                  -- YYYY-MM-DD, Nd only
  match TEXT NOT NULL,
  for_each INTEGER NOT NULL,
  template_id INTEGER NOT NULL,            -- 0: set by somebody
  limit_nanos INTEGER NOT NULL CHECK (limit_nanos >= 0),
  hard_pct INTEGER NOT NULL,
  soft_pct TEXT NOT NULL,                -- "80,110"
  mode INTEGER NOT NULL,
  bound INTEGER NOT NULL,
  on_outage INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  deleted_at INTEGER
) STRICT;
CREATE UNIQUE INDEX budgets_name ON budgets (org_id, account_id, for_each, name)
  WHERE deleted_at IS NULL AND name <> '';
CREATE UNIQUE INDEX budgets_key ON budgets (org_id, account_id, for_each, window_name, match)
  WHERE deleted_at IS NULL AND name = '';
CREATE INDEX budgets_account ON budgets (account_id) WHERE deleted_at IS NULL;
CREATE INDEX budgets_for_each ON budgets (org_id, for_each) WHERE deleted_at IS NULL;
CREATE INDEX budgets_template ON budgets (template_id) WHERE deleted_at IS NULL AND template_id > 0;

CREATE TABLE raises (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  org_id INTEGER NOT NULL,
  budget_id INTEGER NOT NULL,
  amount INTEGER NOT NULL CHECK (amount > 0),
  until INTEGER NOT NULL,
  reason TEXT NOT NULL,
  client_request_id TEXT,
  created_at INTEGER NOT NULL,
  ended INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX raises_request ON raises (org_id, client_request_id)
  WHERE client_request_id IS NOT NULL;
CREATE INDEX raises_open ON raises (org_id, until) WHERE ended = 0;
CREATE INDEX raises_budget ON raises (budget_id) WHERE ended = 0;

-- THE escrow: one row per (budget, period). The theorem is a constraint. All of `leased` is the open
-- epoch's.
CREATE TABLE budget_rows (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  org_id INTEGER NOT NULL,
  budget_id INTEGER NOT NULL,
  period TEXT NOT NULL,
  period_start INTEGER NOT NULL,           -- minimum and maximum of the type: total
  period_end INTEGER NOT NULL,
  target INTEGER NOT NULL,                 -- (limit + raises) x hard %; the cap follows it
  cap INTEGER NOT NULL,
  overrun INTEGER NOT NULL,
  avail INTEGER NOT NULL,
  leased INTEGER NOT NULL,
  suspense INTEGER NOT NULL,
  spent INTEGER NOT NULL,
  UNIQUE (org_id, budget_id, period),
  CHECK (avail >= 0 AND leased >= 0 AND suspense >= 0 AND spent >= 0 AND overrun >= 0 AND cap >= 0),
  CHECK (avail + leased + suspense + spent = cap + overrun)
) STRICT;
CREATE INDEX budget_rows_budget ON budget_rows (budget_id, period);

-- What closed epochs still hold of a row unattributed: part of its suspense.
CREATE TABLE lost_leases (
  org_id INTEGER NOT NULL,
  row_id INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  lost INTEGER NOT NULL CHECK (lost >= 0),
  PRIMARY KEY (org_id, row_id, epoch)
) STRICT, WITHOUT ROWID;
CREATE INDEX lost_leases_epoch ON lost_leases (org_id, epoch);

CREATE TABLE epochs (
  org_id INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  incarnation TEXT NOT NULL,
  opened_at INTEGER NOT NULL,
  closed_at INTEGER,
  reclaimed_at INTEGER,
  PRIMARY KEY (org_id, epoch)
) STRICT, WITHOUT ROWID;

-- The roster (R7): every edge that may hold tokens of an epoch.
CREATE TABLE epoch_edges (
  org_id INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  edge_id TEXT NOT NULL,
  boot_id TEXT NOT NULL,
  announced_at INTEGER,
  PRIMARY KEY (org_id, epoch, edge_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX epoch_edges_pending ON epoch_edges (edge_id) WHERE announced_at IS NULL;

-- Numbered 1, 2, 3, ... per epoch, for all enforcers together. Gone when their epoch is closed.
CREATE TABLE grants (
  org_id INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  grant_id INTEGER NOT NULL,
  request_id TEXT,
  answer BLOB NOT NULL,                -- GrantLeaseResponse, given again to a repeated call
  acknowledged INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (org_id, epoch, grant_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX grants_open ON grants (org_id, epoch) WHERE acknowledged = 0;
CREATE UNIQUE INDEX grants_request ON grants (org_id, epoch, request_id) WHERE request_id IS NOT NULL;

CREATE TABLE lease_returns (
  org_id INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  return_id INTEGER NOT NULL,
  PRIMARY KEY (org_id, epoch, return_id)
) STRICT, WITHOUT ROWID;

-- One row per hold (and epoch) whose end is unknown, or was. Kept: it deduplicates. Its amounts by
-- budget row go when it is closed.
CREATE TABLE suspense (
  org_id INTEGER NOT NULL,
  hold_id BLOB NOT NULL,
  epoch INTEGER NOT NULL,
  origin INTEGER NOT NULL,     -- 1 the edge said so, 2 it expired, 3 announced after the epoch closed
  state INTEGER NOT NULL,      -- 1 holds money of its own, 2 its money is in the epoch's lost, 3 closed
  edge_id TEXT NOT NULL,
  since INTEGER NOT NULL,
  entry BLOB NOT NULL,       -- ledger.v1.Entry as far as it is known
  PRIMARY KEY (org_id, hold_id, epoch)
) STRICT, WITHOUT ROWID;
CREATE INDEX suspense_open ON suspense (since) WHERE state < 3;
CREATE INDEX suspense_epoch ON suspense (org_id, epoch) WHERE state < 3;

CREATE TABLE suspense_amounts (
  org_id INTEGER NOT NULL,
  hold_id BLOB NOT NULL,
  epoch INTEGER NOT NULL,
  row_id INTEGER NOT NULL,
  amount INTEGER NOT NULL CHECK (amount >= 0),
  PRIMARY KEY (org_id, hold_id, epoch, row_id)
) STRICT, WITHOUT ROWID;

-- Every movement of money in posting order. Kinds: 1 a batch of journal entries, which have the
-- numbers from `sequence` on; 10 row opened, 11 cap changed, 12 lease, 13 lease returned, 14 hold suspended,
-- 15 hold expired, 16 epoch closed, 17 epoch reclaimed.
CREATE TABLE movements (
  org_id INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  at INTEGER NOT NULL,
  entries INTEGER NOT NULL,
  note TEXT NOT NULL,
  PRIMARY KEY (org_id, sequence)
) STRICT, WITHOUT ROWID;

-- Double entry: what a movement does to each budget row. Debits (avail, leased, suspense, spent)
-- equal credits (cap, overrun) line by line. `lost` is the part of d_suspense that belongs to the
-- epoch as a whole; d_leased belongs to the epoch too. A batch has one line per row and epoch: the sum of
-- those that its entries carry.
CREATE TABLE lines (
  org_id INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  row_id INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  d_cap INTEGER NOT NULL,
  d_overrun INTEGER NOT NULL,
  d_avail INTEGER NOT NULL,
  d_leased INTEGER NOT NULL,
  d_suspense INTEGER NOT NULL,
  d_spent INTEGER NOT NULL,
  d_lost INTEGER NOT NULL,
  PRIMARY KEY (org_id, sequence, row_id, epoch),
  CHECK (d_avail + d_leased + d_suspense + d_spent = d_cap + d_overrun)
) STRICT, WITHOUT ROWID;

-- Terminal postings of holds, exactly once (I5, I8). Kinds: 1 settle, 2 void, 3 resolution of
-- suspense; corrections follow as revisions of the same hold: 4 reversing entry, 5 the truth.
CREATE TABLE journal (
  org_id INTEGER NOT NULL,
  sequence INTEGER NOT NULL,               -- within its batch's numbers
  at INTEGER NOT NULL,
  started_at INTEGER NOT NULL,
  cost INTEGER NOT NULL,                   -- negative in a reversing entry
  team_id INTEGER NOT NULL,                -- 0: not on its path
  user_id INTEGER NOT NULL,
  key_id INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  hold_id BLOB NOT NULL,
  revision INTEGER NOT NULL,             -- 0 terminal, 1 reversing, 2 correction
  kind INTEGER NOT NULL,
  provider TEXT NOT NULL,
  model TEXT NOT NULL,
  request_id TEXT,
  tags TEXT NOT NULL,
  fingerprint BLOB NOT NULL,
  entry BLOB NOT NULL,                 -- ledger.v1.Entry without what is said elsewhere, StoredExtra
  note TEXT NOT NULL,
  PRIMARY KEY (org_id, hold_id, revision)
) STRICT;
CREATE UNIQUE INDEX journal_sequence ON journal (org_id, sequence);
CREATE INDEX journal_started ON journal (org_id, started_at);
CREATE INDEX journal_request ON journal (request_id) WHERE request_id IS NOT NULL;

-- Texts that say how prices were applied; the same for many entries. By SHA-256, shortened to 16 bytes.
CREATE TABLE price_details (
  org_id INTEGER NOT NULL,
  digest BLOB NOT NULL,
  detail TEXT NOT NULL,
  PRIMARY KEY (org_id, digest)
) STRICT, WITHOUT ROWID;

-- Spend by hour, the sum of the journal's entries; voids do not count.
CREATE TABLE spend_hours (
  org_id INTEGER NOT NULL,
  hour INTEGER NOT NULL,                   -- its first microsecond
  team_id INTEGER NOT NULL,
  user_id INTEGER NOT NULL,
  key_id INTEGER NOT NULL,
  provider TEXT NOT NULL,
  model TEXT NOT NULL,
  requests INTEGER NOT NULL,
  cost INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  PRIMARY KEY (org_id, hour, key_id, user_id, team_id, provider, model)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER journal_no_update BEFORE UPDATE ON journal
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER journal_no_delete BEFORE DELETE ON journal
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER movements_no_update BEFORE UPDATE ON movements
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER movements_no_delete BEFORE DELETE ON movements
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER lines_no_update BEFORE UPDATE ON lines
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER lines_no_delete BEFORE DELETE ON lines
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;

CREATE TABLE webhooks (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  org_id INTEGER NOT NULL,
  account_id INTEGER NOT NULL,
  url TEXT NOT NULL,
  secret TEXT NOT NULL,
  allow_private INTEGER NOT NULL,
  UNIQUE (org_id, account_id, url)
) STRICT;

-- Once per (budget, period, threshold).
CREATE TABLE alerts (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  org_id INTEGER NOT NULL,
  budget_id INTEGER NOT NULL,
  account_id INTEGER NOT NULL,
  display_id TEXT NOT NULL,
  path TEXT NOT NULL,
  period TEXT NOT NULL,
  threshold_pct INTEGER NOT NULL,
  limit_nanos INTEGER NOT NULL,
  spent INTEGER NOT NULL,
  at INTEGER NOT NULL,
  UNIQUE (org_id, budget_id, period, threshold_pct)
) STRICT;

-- The outbox of webhook deliveries.
CREATE TABLE deliveries (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  org_id INTEGER NOT NULL,
  alert_id INTEGER NOT NULL,
  webhook_id INTEGER NOT NULL,
  state INTEGER NOT NULL,                  -- 0 pending, 1 delivered, 2 failed for good
  attempts INTEGER NOT NULL DEFAULT 0,
  next_at INTEGER NOT NULL,
  last_error TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX deliveries_pending ON deliveries (next_at) WHERE state = 0;
CREATE INDEX deliveries_alert ON deliveries (alert_id);
