-- Objects that providers keep, by their own ids: whose they are. The same text for both databases.
CREATE TABLE stored_object (
  id text PRIMARY KEY,
  provider text NOT NULL,
  account_id bigint NOT NULL,
  created_at bigint NOT NULL  -- microseconds since 1970
);
CREATE INDEX stored_object_created_at ON stored_object (created_at);
