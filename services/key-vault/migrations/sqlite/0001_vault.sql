-- Virtual keys (keyed hashes only), provider credentials (sealed), and what was done with them.
-- Times are microseconds since 1970. Everything secret is sealed under the key-encryption key, which is
-- never here.

-- The keys of id checksums and secret MACs, sealed. One row.
CREATE TABLE hash_keys (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  sealed BLOB NOT NULL
) STRICT;

CREATE TABLE virtual_key (
  key_id TEXT PRIMARY KEY,
  account_id INTEGER NOT NULL UNIQUE CHECK (account_id > 0),
  path TEXT NOT NULL,  -- at creation; the ledger knows where the account is now
  owner TEXT NOT NULL,
  purpose TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  expires_at INTEGER,
  disabled INTEGER NOT NULL CHECK (disabled IN (0, 1)),
  revoked INTEGER NOT NULL CHECK (revoked IN (0, 1)),
  models TEXT NOT NULL,     -- one a line
  providers TEXT NOT NULL   -- one a line
) STRICT, WITHOUT ROWID;

-- HMACs of a key's secrets: one, or several while a rotation overlaps.
CREATE TABLE key_secret (
  key_id TEXT NOT NULL REFERENCES virtual_key (key_id),
  mac BLOB NOT NULL CHECK (length(mac) = 32),
  created_at INTEGER NOT NULL,
  expires_at INTEGER,
  PRIMARY KEY (key_id, mac)
) STRICT, WITHOUT ROWID;

-- Key accounts that are being made in the ledger; what is left after a crash is undone.
CREATE TABLE key_intent (
  client_request_id TEXT PRIMARY KEY,
  parent_path TEXT NOT NULL,
  name TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE credential (
  provider TEXT PRIMARY KEY,
  origin TEXT NOT NULL,
  version INTEGER NOT NULL UNIQUE,
  created_at INTEGER NOT NULL,
  wrapped_key BLOB NOT NULL,  -- the data key, sealed under the key-encryption key
  sealed BLOB NOT NULL        -- the credential, sealed under the data key
) STRICT, WITHOUT ROWID;

-- Versions never return, also not after a deletion.
CREATE TABLE credential_version (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  last INTEGER NOT NULL
) STRICT;
INSERT INTO credential_version (id, last) VALUES (1, 0);

CREATE TABLE audit (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at INTEGER NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  resource TEXT NOT NULL,
  detail TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_resource ON audit (resource, id);
CREATE TRIGGER audit_is_not_updated BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
