-- The part of the book that a deal belongs to: which of several brokers goes on with it. NULL in rows from before there were
-- any; the first broker of a fleet fills it in.
ALTER TABLE deals ADD COLUMN shard BIGINT;
CREATE INDEX deals_open_by_shard ON deals (shard) WHERE closed = 0;
CREATE INDEX deals_open_by_provider ON deals (provider) WHERE closed = 0;

-- The brokers of a fleet, each run of a broker a row of its own, which counts until it expires.
CREATE TABLE brokers (
    instance TEXT PRIMARY KEY,
    expires_at TIMESTAMPTZ NOT NULL
);

-- Whose each shard is. Whatever is written of a shard's deals names its owner and epoch, and is refused under any but these.
CREATE TABLE shards (
    shard BIGINT PRIMARY KEY,
    owner TEXT,
    epoch BIGINT NOT NULL
);
INSERT INTO shards (shard, owner, epoch) SELECT number, NULL, 0 FROM generate_series(0, 255) AS number;
