-- Virtual keys (keyed hashes only), provider credentials (sealed), and what was done with them.
-- Times are microseconds since 1970. Everything secret is sealed under the key-encryption key, which is
-- never here.

-- The keys of id checksums and secret MACs, sealed. One row.
CREATE TABLE hash_keys (
  id bigint PRIMARY KEY CHECK (id = 1),
  sealed bytea NOT NULL
);

CREATE TABLE virtual_key (
  key_id text COLLATE "C" PRIMARY KEY,
  account_id bigint NOT NULL UNIQUE CHECK (account_id > 0),
  path text NOT NULL,  -- at creation; the ledger knows where the account is now
  owner text NOT NULL,
  purpose text NOT NULL,
  created_at bigint NOT NULL,
  expires_at bigint,
  disabled bigint NOT NULL CHECK (disabled IN (0, 1)),
  revoked bigint NOT NULL CHECK (revoked IN (0, 1)),
  models text NOT NULL,     -- one a line
  providers text NOT NULL   -- one a line
);

-- HMACs of a key's secrets: one, or several while a rotation overlaps.
CREATE TABLE key_secret (
  key_id text COLLATE "C" NOT NULL REFERENCES virtual_key (key_id),
  mac bytea NOT NULL CHECK (length(mac) = 32),
  created_at bigint NOT NULL,
  expires_at bigint,
  PRIMARY KEY (key_id, mac)
);

-- Key accounts that are being made in the ledger; what is left after a crash is undone.
CREATE TABLE key_intent (
  client_request_id text PRIMARY KEY,
  parent_path text NOT NULL,
  name text NOT NULL,
  maker text NOT NULL,     -- the process that makes it
  at bigint NOT NULL,
  claimed bigint NOT NULL CHECK (claimed IN (0, 1))  -- it is being undone
);

CREATE TABLE credential (
  provider text COLLATE "C" PRIMARY KEY,
  origin text NOT NULL,
  version bigint NOT NULL UNIQUE,
  created_at bigint NOT NULL,
  wrapped_key bytea NOT NULL,  -- the data key, sealed under the key-encryption key
  sealed bytea NOT NULL        -- the credential, sealed under the data key
);

-- Versions never return, also not after a deletion.
CREATE TABLE credential_version (
  id bigint PRIMARY KEY CHECK (id = 1),
  last bigint NOT NULL
);
INSERT INTO credential_version (id, last) VALUES (1, 0);

CREATE TABLE audit (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at bigint NOT NULL,
  actor text NOT NULL,
  action text NOT NULL,
  resource text COLLATE "C" NOT NULL,
  detail text NOT NULL
);
CREATE INDEX audit_by_resource ON audit (resource, id);
CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$;
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
  FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
