-- Who is making a key, and whether it was taken back meanwhile.
ALTER TABLE key_intent ADD COLUMN maker TEXT NOT NULL DEFAULT '';
ALTER TABLE key_intent ADD COLUMN at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE key_intent ADD COLUMN claimed INTEGER NOT NULL DEFAULT 0 CHECK (claimed IN (0, 1));
