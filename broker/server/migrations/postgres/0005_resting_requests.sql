-- What SQLite has after its migration of the same number.
CREATE TABLE requests (
    request TEXT PRIMARY KEY,
    requester TEXT NOT NULL,
    number BIGINT NOT NULL,
    status TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    record TEXT NOT NULL
);
CREATE INDEX requests_resting ON requests (number) WHERE status = 'resting';
CREATE INDEX requests_by_end ON requests (expires_at);

ALTER TABLE transitions ADD COLUMN request TEXT;
ALTER TABLE transitions ALTER COLUMN deal_id DROP NOT NULL;
ALTER TABLE transitions ALTER COLUMN side DROP NOT NULL;
ALTER TABLE transitions ALTER COLUMN provider DROP NOT NULL;
ALTER TABLE transitions ALTER COLUMN requester DROP NOT NULL;
ALTER TABLE transitions ADD CHECK ((deal_id IS NULL) <> (request IS NULL));
