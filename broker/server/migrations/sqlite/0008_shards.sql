-- The part of the book that a deal belongs to: which of several brokers goes on with it. NULL in rows from before there were
-- any; the first broker of a fleet fills it in.
ALTER TABLE deals ADD COLUMN shard INTEGER;
CREATE INDEX deals_open_by_shard ON deals (shard) WHERE closed = 0;
CREATE INDEX deals_open_by_provider ON deals (provider) WHERE closed = 0;
