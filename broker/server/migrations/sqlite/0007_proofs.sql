-- What is known of each address that a provider was seen at, and what it sells there. `proof` holds everything (JSON); `at` is when something was
-- found out last, by which a check sees what a clock that was ahead has written.
CREATE TABLE proofs (
    provider TEXT NOT NULL,
    address TEXT NOT NULL,
    prefix TEXT NOT NULL,
    at INTEGER NOT NULL,
    proof TEXT NOT NULL,
    PRIMARY KEY (provider, address, prefix)
) STRICT, WITHOUT ROWID;
