-- Tokens of people and programs that administer; the hash is SHA-256 of the token's 256 random bits.
CREATE TABLE admin_token (
  name TEXT PRIMARY KEY,
  hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
  role INTEGER NOT NULL CHECK (role BETWEEN 1 AND 4),
  subtree TEXT NOT NULL,  -- account path; '': everything
  created_by TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  expires_at INTEGER
) STRICT, WITHOUT ROWID;
