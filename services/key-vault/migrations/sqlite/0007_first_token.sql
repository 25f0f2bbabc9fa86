-- First tokens (--admin-token-file) that count no more, by SHA-256 of their text.
CREATE TABLE revoked_first_token (
  hash BLOB PRIMARY KEY CHECK (length(hash) = 32),
  at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The log of versions before libs/audit/log.h: kept, not continued.
ALTER TABLE audit RENAME TO audit_before_chains;
