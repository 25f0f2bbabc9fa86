-- Ledger schema, PostgreSQL. Money: nano-USD. Times: microseconds since 1970 UTC.
-- Maps (tags, match) are text as core/names.h writes them. Everything belongs to an org, whose id is
-- first in every primary key.

-- One row per org: whoever changes anything of an org locks it first, several orgs in id order. Row 0
-- stands for what belongs to no org yet.
CREATE TABLE orgs (
  org_id BIGINT PRIMARY KEY,
  last_sequence BIGINT NOT NULL DEFAULT 0,   -- of movements and entries, without gaps
  epoch BIGINT NOT NULL DEFAULT 0,           -- the open one, 0: none yet
  epoch_floor BIGINT NOT NULL DEFAULT 0,     -- new epochs have numbers from here on
  next_raise_end BIGINT NOT NULL DEFAULT 9223372036854775807
);
INSERT INTO orgs (org_id) VALUES (0);

CREATE TABLE accounts (
  id BIGINT GENERATED ALWAYS AS IDENTITY,
  org_id BIGINT NOT NULL,                 -- an org's own id
  parent_id BIGINT NOT NULL,              -- 0: an org
  kind BIGINT NOT NULL CHECK (kind BETWEEN 1 AND 4),
  path TEXT COLLATE "C" NOT NULL,                    -- where it is, or was when it was deleted
  owner TEXT NOT NULL DEFAULT '',
  cost_center TEXT NOT NULL DEFAULT '',
  tags TEXT NOT NULL DEFAULT '',
  require_budget BIGINT NOT NULL DEFAULT 0,
  requests_per_minute BIGINT NOT NULL DEFAULT 0,
  tokens_per_minute BIGINT NOT NULL DEFAULT 0,
  concurrency BIGINT NOT NULL DEFAULT 0,
  max_output_tokens BIGINT NOT NULL DEFAULT 0,
  max_request_cost BIGINT NOT NULL DEFAULT 0,
  client_request_id TEXT,
  created_at BIGINT NOT NULL,
  deleted_at BIGINT,
  PRIMARY KEY (org_id, id)
);
CREATE UNIQUE INDEX accounts_id ON accounts (id);
CREATE UNIQUE INDEX accounts_path ON accounts (path) WHERE deleted_at IS NULL;
CREATE INDEX accounts_old_path ON accounts (path);
CREATE INDEX accounts_parent ON accounts (parent_id);
CREATE UNIQUE INDEX accounts_request ON accounts (org_id, client_request_id)
  WHERE client_request_id IS NOT NULL;

-- Concrete budgets and templates (for_each > 0: the kind of account each of which gets one). What
-- decides which spend counts (window, zone, anchor, match) never changes: another definition is
-- another budget.
CREATE TABLE budgets (
  id BIGINT GENERATED ALWAYS AS IDENTITY,
  org_id BIGINT NOT NULL,
  account_id BIGINT NOT NULL,
  name TEXT NOT NULL,
  window_name TEXT NOT NULL,
  time_zone TEXT NOT NULL,
  anchor TEXT NOT NULL,                  -- YYYY-MM-DD, Nd only
  match TEXT NOT NULL,
  for_each BIGINT NOT NULL,
  template_id BIGINT NOT NULL,            -- 0: set by somebody
  limit_nanos BIGINT NOT NULL CHECK (limit_nanos >= 0),
  hard_pct BIGINT NOT NULL,
  soft_pct TEXT NOT NULL,                -- "80,110"
  mode BIGINT NOT NULL,
  bound BIGINT NOT NULL,
  on_outage BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  deleted_at BIGINT,
  PRIMARY KEY (org_id, id)
);
CREATE UNIQUE INDEX budgets_id ON budgets (id);
CREATE UNIQUE INDEX budgets_name ON budgets (org_id, account_id, for_each, name)
  WHERE deleted_at IS NULL AND name <> '';
CREATE UNIQUE INDEX budgets_key ON budgets (org_id, account_id, for_each, window_name, match)
  WHERE deleted_at IS NULL AND name = '';
CREATE INDEX budgets_account ON budgets (account_id) WHERE deleted_at IS NULL;
CREATE INDEX budgets_for_each ON budgets (org_id, for_each) WHERE deleted_at IS NULL;
CREATE INDEX budgets_template ON budgets (template_id) WHERE deleted_at IS NULL AND template_id > 0;

CREATE TABLE raises (
  id BIGINT GENERATED ALWAYS AS IDENTITY,
  org_id BIGINT NOT NULL,
  budget_id BIGINT NOT NULL,
  amount BIGINT NOT NULL CHECK (amount > 0),
  until BIGINT NOT NULL,
  reason TEXT NOT NULL,
  client_request_id TEXT,
  created_at BIGINT NOT NULL,
  ended BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (org_id, id)
);
CREATE UNIQUE INDEX raises_request ON raises (org_id, client_request_id)
  WHERE client_request_id IS NOT NULL;
CREATE INDEX raises_open ON raises (org_id, until) WHERE ended = 0;
CREATE INDEX raises_budget ON raises (budget_id) WHERE ended = 0;

-- THE escrow: one row per (budget, period). The theorem is a constraint. All of `leased` is the open
-- epoch's.
CREATE TABLE budget_rows (
  id BIGINT GENERATED ALWAYS AS IDENTITY,
  org_id BIGINT NOT NULL,
  budget_id BIGINT NOT NULL,
  period TEXT COLLATE "C" NOT NULL,
  period_start BIGINT NOT NULL,           -- minimum and maximum of the type: total
  period_end BIGINT NOT NULL,
  target BIGINT NOT NULL,                 -- (limit + raises) x hard %; the cap follows it
  cap BIGINT NOT NULL,
  overrun BIGINT NOT NULL,
  avail BIGINT NOT NULL,
  leased BIGINT NOT NULL,
  suspense BIGINT NOT NULL,
  spent BIGINT NOT NULL,
  UNIQUE (org_id, budget_id, period),
  CHECK (avail >= 0 AND leased >= 0 AND suspense >= 0 AND spent >= 0 AND overrun >= 0 AND cap >= 0),
  CHECK (avail + leased + suspense + spent = cap + overrun),
  PRIMARY KEY (org_id, id)
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX budget_rows_id ON budget_rows (id);
CREATE INDEX budget_rows_budget ON budget_rows (budget_id, period);

-- What closed epochs still hold of a row unattributed: part of its suspense.
CREATE TABLE lost_leases (
  org_id BIGINT NOT NULL,
  row_id BIGINT NOT NULL,
  epoch BIGINT NOT NULL,
  lost BIGINT NOT NULL CHECK (lost >= 0),
  PRIMARY KEY (org_id, row_id, epoch)
);
CREATE INDEX lost_leases_epoch ON lost_leases (org_id, epoch);

CREATE TABLE epochs (
  org_id BIGINT NOT NULL,
  epoch BIGINT NOT NULL,
  incarnation TEXT NOT NULL,
  opened_at BIGINT NOT NULL,
  closed_at BIGINT,
  reclaimed_at BIGINT,
  PRIMARY KEY (org_id, epoch)
);

-- The roster (R7): every edge that may hold tokens of an epoch.
CREATE TABLE epoch_edges (
  org_id BIGINT NOT NULL,
  epoch BIGINT NOT NULL,
  edge_id TEXT NOT NULL,
  boot_id TEXT NOT NULL,
  announced_at BIGINT,
  PRIMARY KEY (org_id, epoch, edge_id)
);
CREATE INDEX epoch_edges_pending ON epoch_edges (edge_id) WHERE announced_at IS NULL;

-- Numbered 1, 2, 3, ... per epoch, for all enforcers together. Gone when their epoch is closed.
CREATE TABLE grants (
  org_id BIGINT NOT NULL,
  epoch BIGINT NOT NULL,
  grant_id BIGINT NOT NULL,
  request_id TEXT,
  answer bytea NOT NULL,                -- GrantLeaseResponse, given again to a repeated call
  acknowledged BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (org_id, epoch, grant_id)
);
CREATE INDEX grants_open ON grants (org_id, epoch) WHERE acknowledged = 0;
CREATE UNIQUE INDEX grants_request ON grants (org_id, epoch, request_id) WHERE request_id IS NOT NULL;

CREATE TABLE lease_returns (
  org_id BIGINT NOT NULL,
  epoch BIGINT NOT NULL,
  return_id BIGINT NOT NULL,
  PRIMARY KEY (org_id, epoch, return_id)
);

-- One row per hold (and epoch) whose end is unknown, or was. Kept: it deduplicates. Its amounts by
-- budget row go when it is closed.
CREATE TABLE suspense (
  org_id BIGINT NOT NULL,
  hold_id uuid NOT NULL,
  epoch BIGINT NOT NULL,
  origin BIGINT NOT NULL,     -- 1 the edge said so, 2 it expired, 3 announced after the epoch closed
  state BIGINT NOT NULL,      -- 1 holds money of its own, 2 its money is in the epoch's lost, 3 closed
  edge_id TEXT NOT NULL,
  since BIGINT NOT NULL,
  entry bytea NOT NULL,       -- ledger.v1.Entry as far as it is known
  PRIMARY KEY (org_id, hold_id, epoch)
);
CREATE INDEX suspense_open ON suspense (since) WHERE state < 3;
CREATE INDEX suspense_epoch ON suspense (org_id, epoch) WHERE state < 3;

CREATE TABLE suspense_amounts (
  org_id BIGINT NOT NULL,
  hold_id uuid NOT NULL,
  epoch BIGINT NOT NULL,
  row_id BIGINT NOT NULL,
  amount BIGINT NOT NULL CHECK (amount >= 0),
  PRIMARY KEY (org_id, hold_id, epoch, row_id)
);

-- Every movement of money in posting order. Kinds: 1 a batch of journal entries, which have the
-- numbers from `sequence` on; 10 row opened, 11 cap changed, 12 lease, 13 lease returned, 14 hold suspended,
-- 15 hold expired, 16 epoch closed, 17 epoch reclaimed.
CREATE TABLE movements (
  org_id BIGINT NOT NULL,
  sequence BIGINT NOT NULL,
  kind BIGINT NOT NULL,
  at BIGINT NOT NULL,
  entries BIGINT NOT NULL,
  note TEXT NOT NULL,
  PRIMARY KEY (org_id, sequence)
);

-- Double entry: what a movement does to each budget row. Debits (avail, leased, suspense, spent)
-- equal credits (cap, overrun) line by line. `lost` is the part of d_suspense that belongs to the
-- epoch as a whole; d_leased belongs to the epoch too. A batch has one line per row and epoch: the sum of
-- those that its entries carry.
CREATE TABLE lines (
  org_id BIGINT NOT NULL,
  sequence BIGINT NOT NULL,
  row_id BIGINT NOT NULL,
  epoch BIGINT NOT NULL,
  d_cap BIGINT NOT NULL,
  d_overrun BIGINT NOT NULL,
  d_avail BIGINT NOT NULL,
  d_leased BIGINT NOT NULL,
  d_suspense BIGINT NOT NULL,
  d_spent BIGINT NOT NULL,
  d_lost BIGINT NOT NULL,
  PRIMARY KEY (org_id, sequence, row_id, epoch),
  CHECK (d_avail + d_leased + d_suspense + d_spent = d_cap + d_overrun)
);

-- Terminal postings of holds, exactly once (I5, I8). Kinds: 1 settle, 2 void, 3 resolution of
-- suspense; corrections follow as revisions of the same hold: 4 reversing entry, 5 the truth.
CREATE TABLE journal (
  org_id BIGINT NOT NULL,
  sequence BIGINT NOT NULL,               -- within its batch's numbers
  at BIGINT NOT NULL,
  started_at BIGINT NOT NULL,
  cost BIGINT NOT NULL,                   -- negative in a reversing entry
  team_id BIGINT NOT NULL,                -- 0: not on its path
  user_id BIGINT NOT NULL,
  key_id BIGINT NOT NULL,
  input_tokens BIGINT NOT NULL,
  output_tokens BIGINT NOT NULL,
  hold_id uuid NOT NULL,
  revision SMALLINT NOT NULL,             -- 0 terminal, 1 reversing, 2 correction
  kind SMALLINT NOT NULL,
  provider TEXT NOT NULL,
  model TEXT NOT NULL,
  request_id TEXT,
  tags TEXT NOT NULL,
  fingerprint bytea NOT NULL,
  entry bytea NOT NULL,                 -- ledger.v1.Entry without what is said elsewhere, StoredExtra
  note TEXT NOT NULL,
  PRIMARY KEY (org_id, hold_id, revision)
) PARTITION BY RANGE (hold_id);
-- Partitions are made ahead by the ledger, a week each; this one takes what none of them does.
CREATE TABLE journal_default PARTITION OF journal DEFAULT;
-- Entries arrive in the order of time: what a range of pages spans is index enough.
CREATE INDEX journal_at ON journal USING brin (at) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX journal_started ON journal USING brin (started_at) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX journal_request ON journal (request_id) WHERE request_id IS NOT NULL;

-- Texts that say how prices were applied; the same for many entries. By SHA-256, shortened to 16 bytes.
CREATE TABLE price_details (
  org_id BIGINT NOT NULL,
  digest bytea NOT NULL,
  detail TEXT NOT NULL,
  PRIMARY KEY (org_id, digest)
);

-- Spend by hour, the sum of the journal's entries; voids do not count.
CREATE TABLE spend_hours (
  org_id BIGINT NOT NULL,
  hour BIGINT NOT NULL,                   -- its first microsecond
  team_id BIGINT NOT NULL,
  user_id BIGINT NOT NULL,
  key_id BIGINT NOT NULL,
  provider TEXT NOT NULL,
  model TEXT NOT NULL,
  requests BIGINT NOT NULL,
  cost BIGINT NOT NULL,
  input_tokens BIGINT NOT NULL,
  output_tokens BIGINT NOT NULL,
  PRIMARY KEY (org_id, hour, key_id, user_id, team_id, provider, model)
) WITH (fillfactor = 50);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the journal is append-only';
END
$$;
CREATE TRIGGER journal_no_change BEFORE UPDATE OR DELETE ON journal
  FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER journal_no_truncate BEFORE TRUNCATE ON journal
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER movements_no_change BEFORE UPDATE OR DELETE ON movements
  FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER movements_no_truncate BEFORE TRUNCATE ON movements
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER lines_no_change BEFORE UPDATE OR DELETE ON lines
  FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER lines_no_truncate BEFORE TRUNCATE ON lines
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE webhooks (
  id BIGINT GENERATED ALWAYS AS IDENTITY,
  org_id BIGINT NOT NULL,
  account_id BIGINT NOT NULL,
  url TEXT NOT NULL,
  secret TEXT NOT NULL,
  allow_private BIGINT NOT NULL,
  UNIQUE (org_id, account_id, url),
  PRIMARY KEY (org_id, id)
);

-- Once per (budget, period, threshold).
CREATE TABLE alerts (
  id BIGINT GENERATED ALWAYS AS IDENTITY,
  org_id BIGINT NOT NULL,
  budget_id BIGINT NOT NULL,
  account_id BIGINT NOT NULL,
  display_id TEXT NOT NULL,
  path TEXT NOT NULL,
  period TEXT NOT NULL,
  threshold_pct BIGINT NOT NULL,
  limit_nanos BIGINT NOT NULL,
  spent BIGINT NOT NULL,
  at BIGINT NOT NULL,
  UNIQUE (org_id, budget_id, period, threshold_pct),
  PRIMARY KEY (org_id, id)
);

-- The outbox of webhook deliveries.
CREATE TABLE deliveries (
  id BIGINT GENERATED ALWAYS AS IDENTITY,
  org_id BIGINT NOT NULL,
  alert_id BIGINT NOT NULL,
  webhook_id BIGINT NOT NULL,
  state BIGINT NOT NULL,                  -- 0 pending, 1 delivered, 2 failed for good
  attempts BIGINT NOT NULL DEFAULT 0,
  next_at BIGINT NOT NULL,
  last_error TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (org_id, id)
);
CREATE UNIQUE INDEX deliveries_id ON deliveries (id);
CREATE INDEX deliveries_pending ON deliveries (next_at) WHERE state = 0;
CREATE INDEX deliveries_alert ON deliveries (alert_id);
