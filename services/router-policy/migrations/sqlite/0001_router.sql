-- Providers, prices and aliases as the router keeps them. Amounts are in the price lines, as exact
-- decimal text (libs/policy/price_book.h).
CREATE TABLE setting (
  name TEXT PRIMARY KEY,
  value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE provider (
  name TEXT PRIMARY KEY,
  dialect INTEGER NOT NULL CHECK (dialect > 0),
  base_url TEXT NOT NULL,
  catalog TEXT NOT NULL,
  allow_private INTEGER NOT NULL CHECK (allow_private IN (0, 1)),
  priority INTEGER NOT NULL,
  models TEXT NOT NULL,  -- one a line
  ca_file TEXT NOT NULL,
  no_include_usage INTEGER NOT NULL CHECK (no_include_usage IN (0, 1)),
  errors_are_billed INTEGER NOT NULL CHECK (errors_are_billed IN (0, 1)),
  auto_service_tier TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE price (
  vendor TEXT NOT NULL,
  model TEXT NOT NULL,
  effective_from INTEGER NOT NULL,  -- seconds since 1970; the smallest integer: always
  line TEXT NOT NULL,
  PRIMARY KEY (vendor, model, effective_from)
) STRICT, WITHOUT ROWID;

CREATE TABLE alias (
  alias TEXT NOT NULL,
  vendor TEXT NOT NULL,
  model TEXT NOT NULL,
  keep_name INTEGER NOT NULL CHECK (keep_name IN (0, 1)),
  PRIMARY KEY (alias, vendor)
) STRICT, WITHOUT ROWID;
