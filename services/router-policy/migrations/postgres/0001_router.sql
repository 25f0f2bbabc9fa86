-- Providers, prices and aliases as the router keeps them. Amounts are in the price lines, as exact
-- decimal text (libs/policy/price_book.h).
CREATE TABLE setting (
  name text PRIMARY KEY,
  value bigint NOT NULL
);

CREATE TABLE provider (
  name text COLLATE "C" PRIMARY KEY,
  dialect bigint NOT NULL CHECK (dialect > 0),
  base_url text NOT NULL,
  catalog text NOT NULL,
  allow_private bigint NOT NULL CHECK (allow_private IN (0, 1)),
  priority bigint NOT NULL,
  models text NOT NULL,  -- one a line
  ca_file text NOT NULL,
  no_include_usage bigint NOT NULL CHECK (no_include_usage IN (0, 1)),
  errors_are_billed bigint NOT NULL CHECK (errors_are_billed IN (0, 1)),
  auto_service_tier text NOT NULL
);

CREATE TABLE price (
  vendor text COLLATE "C" NOT NULL,
  model text COLLATE "C" NOT NULL,
  effective_from bigint NOT NULL,  -- seconds since 1970; the smallest integer: always
  line text NOT NULL,
  PRIMARY KEY (vendor, model, effective_from)
);

CREATE TABLE alias (
  alias text COLLATE "C" NOT NULL,
  vendor text COLLATE "C" NOT NULL,
  model text NOT NULL,
  keep_name bigint NOT NULL CHECK (keep_name IN (0, 1)),
  PRIMARY KEY (alias, vendor)
);
