-- A deal's record has some 3 kB. Kept in the order of ids, which are hashes, each that was written moved others about, and had
-- pages of its own for what was too long; in the order in which deals come it is written beside the one before.
--
-- Only a fleet, which is on PostgreSQL, looks for open deals by shard or provider.
CREATE TABLE ordered_deals (
    deal_id TEXT PRIMARY KEY NOT NULL,
    provider TEXT NOT NULL,
    requester TEXT NOT NULL,
    channel TEXT NOT NULL,
    status TEXT NOT NULL,
    proposed_at INTEGER NOT NULL,
    closed INTEGER NOT NULL,
    record TEXT NOT NULL,
    request TEXT NOT NULL,
    shard INTEGER
) STRICT;
INSERT INTO ordered_deals (deal_id, provider, requester, channel, status, proposed_at, closed, record, request, shard)
SELECT deal_id, provider, requester, channel, status, proposed_at, closed, record, request, shard FROM deals
ORDER BY proposed_at;

-- Changes name the deals' table.
CREATE TABLE changes (
    number INTEGER PRIMARY KEY,
    deal_id TEXT REFERENCES ordered_deals (deal_id),
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
INSERT INTO changes (number, deal_id, request, at, side, provider, requester, status, cause, wallet)
SELECT number, deal_id, request, at, side, provider, requester, status, cause, wallet FROM transitions;
DROP TABLE transitions;
DROP TABLE deals;
ALTER TABLE ordered_deals RENAME TO deals;
ALTER TABLE changes RENAME TO transitions;
CREATE INDEX deals_by_requester ON deals (requester, proposed_at, deal_id);
CREATE INDEX deals_by_request ON deals (requester, request);
CREATE INDEX deals_open ON deals (closed) WHERE closed = 0;
CREATE INDEX transitions_by_deal ON transitions (deal_id, number);
CREATE INDEX transitions_by_wallet ON transitions (wallet, number);
