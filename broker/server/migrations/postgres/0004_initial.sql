-- What SQLite has after its migration of the same number. Amounts are decimal text in JSON; times are seconds since 1970;
-- ids are hex.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- One row for each deal that a provider has signed. `record` holds everything (JSON); the other columns find it.
CREATE TABLE deals (
    deal_id TEXT COLLATE "C" PRIMARY KEY,
    provider TEXT NOT NULL,
    requester TEXT NOT NULL,
    channel TEXT NOT NULL,
    status TEXT NOT NULL,
    proposed_at BIGINT NOT NULL,
    closed BIGINT NOT NULL,
    record TEXT NOT NULL,
    request TEXT NOT NULL
);
CREATE INDEX deals_by_requester ON deals (requester, proposed_at, deal_id);
CREATE INDEX deals_by_request ON deals (requester, request);
CREATE INDEX deals_open ON deals (closed) WHERE closed = 0;

CREATE TABLE transitions (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    deal_id TEXT NOT NULL REFERENCES deals (deal_id),
    at BIGINT NOT NULL,
    side TEXT NOT NULL,
    provider TEXT NOT NULL,
    requester TEXT NOT NULL,
    status TEXT NOT NULL,
    cause TEXT NOT NULL,
    -- Whose deal changed, so that a wallet's changes are found in order.
    wallet TEXT NOT NULL
);
CREATE INDEX transitions_by_deal ON transitions (deal_id, number);
CREATE INDEX transitions_by_wallet ON transitions (wallet, number);

-- The network's word on a deal: written once, never changed.
CREATE TABLE outcomes (
    deal_id TEXT PRIMARY KEY,
    outcome TEXT NOT NULL,
    signed TEXT NOT NULL,
    at BIGINT NOT NULL
);
CREATE FUNCTION outcomes_are_final() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'an outcome is never changed or deleted'; END $$;
CREATE TRIGGER outcomes_are_final BEFORE UPDATE OR DELETE OR TRUNCATE ON outcomes
FOR EACH STATEMENT EXECUTE FUNCTION outcomes_are_final();

-- The capacity ledger, one row for each payer with promises, and how often it was written: whoever decides on one that it
-- has read sees whether it is still that one.
CREATE TABLE accounts (
    payer TEXT PRIMARY KEY,
    account TEXT NOT NULL,
    version BIGINT NOT NULL DEFAULT 0
);

-- Consents to immediate withdrawals, as they were released, with the idempotency key that each was given under.
CREATE TABLE withdrawals (
    owner TEXT NOT NULL,
    nonce BIGINT NOT NULL,
    signed TEXT NOT NULL,
    at BIGINT NOT NULL,
    key TEXT,
    PRIMARY KEY (owner, nonce, signed)
);

-- Requests that were posted: none is taken twice, and the same one can be told from another.
CREATE TABLE request_nonces (
    requester TEXT NOT NULL,
    nonce TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    request TEXT NOT NULL,
    PRIMARY KEY (requester, nonce)
);
CREATE INDEX request_nonces_by_end ON request_nonces (expires_at);

-- Sign-in nonces that were used, until they expire by themselves.
CREATE TABLE used_nonces (
    nonce TEXT PRIMARY KEY,
    expires_at BIGINT NOT NULL
);

-- Sessions, by the hash of their token.
CREATE TABLE sessions (
    token_hash TEXT PRIMARY KEY,
    wallet TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);

-- Requests that came with an idempotency key, with what was answered; `status` is NULL until then.
CREATE TABLE answers (
    wallet TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    at BIGINT NOT NULL,
    status BIGINT,
    body TEXT,
    PRIMARY KEY (wallet, key)
);
CREATE INDEX answers_by_age ON answers (at);
