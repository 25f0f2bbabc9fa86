-- Where a key may be used from and for what, and when it last was.
ALTER TABLE virtual_key ADD COLUMN endpoints text NOT NULL DEFAULT '';  -- one a line
ALTER TABLE virtual_key ADD COLUMN networks text NOT NULL DEFAULT '';   -- one a line
CREATE TABLE key_use (
  key_id text COLLATE "C" PRIMARY KEY REFERENCES virtual_key (key_id),
  unix_minutes bigint NOT NULL  -- as edges report it, some minutes late
);

-- A provider has several credentials by name, and a name has two versions while it rotates.
ALTER TABLE credential DROP CONSTRAINT credential_pkey;
ALTER TABLE credential DROP CONSTRAINT credential_version_key;
ALTER TABLE credential ADD PRIMARY KEY (version);
ALTER TABLE credential ADD COLUMN name text COLLATE "C" NOT NULL DEFAULT 'default';
ALTER TABLE credential ADD COLUMN weight bigint NOT NULL DEFAULT 1 CHECK (weight BETWEEN 1 AND 1000);
ALTER TABLE credential ADD COLUMN expires_at bigint;  -- of a version that was replaced
-- The key-encryption key; '': from before they had ids.
ALTER TABLE credential ADD COLUMN kek_id text NOT NULL DEFAULT '';
CREATE INDEX credential_by_provider ON credential (provider, name, version);
ALTER TABLE hash_keys ADD COLUMN kek_id text NOT NULL DEFAULT '';
