-- Tokens of people and programs that administer; the hash is SHA-256 of the token's 256 random bits.
CREATE TABLE admin_token (
  name text COLLATE "C" PRIMARY KEY,
  hash bytea NOT NULL UNIQUE CHECK (length(hash) = 32),
  role bigint NOT NULL CHECK (role BETWEEN 1 AND 4),
  subtree text NOT NULL,  -- account path; '': everything
  created_by text NOT NULL,
  created_at bigint NOT NULL,
  expires_at bigint
);
