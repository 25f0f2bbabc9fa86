-- Grants are numbered by the ledger, for many enforcers of one epoch; a request is granted once.
ALTER TABLE grants ADD COLUMN request_id TEXT;
CREATE UNIQUE INDEX grants_request ON grants (org_id, epoch, request_id) WHERE request_id IS NOT NULL;
