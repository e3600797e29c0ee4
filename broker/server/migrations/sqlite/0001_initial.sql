-- Amounts are decimal text, because SQLite's integers have 64 bits only; times are seconds since 1970; ids are hex.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- One row for each deal that a provider has signed. `record` holds everything (JSON); the other columns find it.
CREATE TABLE deals (
    deal_id TEXT PRIMARY KEY,
    provider TEXT NOT NULL,
    requester TEXT NOT NULL,
    channel TEXT NOT NULL,
    status TEXT NOT NULL,
    proposed_at INTEGER NOT NULL,
    closed INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX deals_by_requester ON deals (requester, proposed_at);
CREATE INDEX deals_open ON deals (closed) WHERE closed = 0;

CREATE TABLE transitions (
    number INTEGER PRIMARY KEY,
    deal_id TEXT NOT NULL REFERENCES deals (deal_id),
    at INTEGER NOT NULL,
    side TEXT NOT NULL,
    provider TEXT NOT NULL,
    requester TEXT NOT NULL,
    status TEXT NOT NULL,
    cause TEXT NOT NULL
) STRICT;
CREATE INDEX transitions_by_deal ON transitions (deal_id, number);

-- The network's word on a deal: written once, never changed.
CREATE TABLE outcomes (
    deal_id TEXT PRIMARY KEY,
    outcome TEXT NOT NULL,
    signed TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER outcomes_are_final BEFORE UPDATE ON outcomes
BEGIN SELECT RAISE(ABORT, 'an outcome is never changed'); END;
CREATE TRIGGER outcomes_stay BEFORE DELETE ON outcomes
BEGIN SELECT RAISE(ABORT, 'an outcome is never deleted'); END;

-- The capacity ledger, one row for each payer with promises.
CREATE TABLE accounts (
    payer TEXT PRIMARY KEY,
    account TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Consents to immediate withdrawals, as they were released.
CREATE TABLE withdrawals (
    owner TEXT NOT NULL,
    nonce INTEGER NOT NULL,
    signed TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (owner, nonce, signed)
) STRICT, WITHOUT ROWID;

-- Requests that were posted: none is taken twice.
CREATE TABLE request_nonces (
    requester TEXT NOT NULL,
    nonce TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (requester, nonce)
) STRICT, WITHOUT ROWID;

-- Sign-in nonces that were used, until they expire by themselves.
CREATE TABLE used_nonces (
    nonce TEXT PRIMARY KEY,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Sessions, by the hash of their token.
CREATE TABLE sessions (
    token_hash TEXT PRIMARY KEY,
    wallet TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
