-- First tokens (--admin-token-file) that count no more, by SHA-256 of their text.
CREATE TABLE revoked_first_token (
  hash bytea PRIMARY KEY CHECK (length(hash) = 32),
  at bigint NOT NULL
);

-- The log of versions before libs/audit/log.h: kept, not continued.
ALTER TABLE audit RENAME TO audit_before_chains;
