-- Requests that found no offer at once, and what became of them; `record` holds everything (JSON).
CREATE TABLE requests (
    request TEXT PRIMARY KEY,
    requester TEXT NOT NULL,
    number INTEGER NOT NULL,
    status TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX requests_resting ON requests (number) WHERE status = 'resting';
CREATE INDEX requests_by_end ON requests (expires_at);

-- A change is one of a deal's side, or one of a request; both are numbered together, so that a wallet's are in one order.
CREATE TABLE changes (
    number INTEGER PRIMARY KEY,
    deal_id TEXT REFERENCES deals (deal_id),
    request TEXT,
    at INTEGER NOT NULL,
    side TEXT,
    provider TEXT,
    requester TEXT,
    status TEXT NOT NULL,
    cause TEXT NOT NULL,
    wallet TEXT NOT NULL,
    CHECK ((deal_id IS NULL) <> (request IS NULL))
) STRICT;
INSERT INTO changes (number, deal_id, at, side, provider, requester, status, cause, wallet)
SELECT number, deal_id, at, side, provider, requester, status, cause, wallet FROM transitions;
DROP TABLE transitions;
ALTER TABLE changes RENAME TO transitions;
CREATE INDEX transitions_by_deal ON transitions (deal_id, number);
CREATE INDEX transitions_by_wallet ON transitions (wallet, number);
