-- Where a key may be used from and for what, and when it last was.
ALTER TABLE virtual_key ADD COLUMN endpoints TEXT NOT NULL DEFAULT '';  -- one a line
ALTER TABLE virtual_key ADD COLUMN networks TEXT NOT NULL DEFAULT '';   -- one a line
CREATE TABLE key_use (
  key_id TEXT PRIMARY KEY REFERENCES virtual_key (key_id),
  unix_minutes INTEGER NOT NULL  -- as edges report it, some minutes late
) STRICT, WITHOUT ROWID;

-- A provider has several credentials by name, and a name has two versions while it rotates.
CREATE TABLE named_credential (
  version INTEGER PRIMARY KEY,
  provider TEXT NOT NULL,
  name TEXT NOT NULL,
  origin TEXT NOT NULL,
  weight INTEGER NOT NULL CHECK (weight BETWEEN 1 AND 1000),
  created_at INTEGER NOT NULL,
  expires_at INTEGER,          -- of a version that was replaced
  kek_id TEXT NOT NULL,        -- the key-encryption key; '': from before they had ids
  wrapped_key BLOB NOT NULL,   -- the data key, sealed under the key-encryption key
  sealed BLOB NOT NULL         -- the credential, sealed under the data key
) STRICT;
INSERT INTO named_credential (version, provider, name, origin, weight, created_at, kek_id, wrapped_key, sealed)
  SELECT version, provider, 'default', origin, 1, created_at, '', wrapped_key, sealed FROM credential;
DROP TABLE credential;
ALTER TABLE named_credential RENAME TO credential;
CREATE INDEX credential_by_provider ON credential (provider, name, version);
ALTER TABLE hash_keys ADD COLUMN kek_id TEXT NOT NULL DEFAULT '';
