-- Requests that came with an idempotency key, with what was answered; `status` is NULL until then. Rowids keep the primary
-- key's index narrow, by which a wallet's keys are counted.
CREATE TABLE answers (
    wallet TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    at INTEGER NOT NULL,
    status INTEGER,
    body TEXT,
    PRIMARY KEY (wallet, key)
) STRICT;
CREATE INDEX answers_by_age ON answers (at);

-- Which request took a nonce, so that the same one can be told from another; empty for those of before.
ALTER TABLE request_nonces ADD COLUMN request TEXT NOT NULL DEFAULT '';

-- The idempotency key that a consent was given under.
ALTER TABLE withdrawals ADD COLUMN key TEXT;
