-- What can be claimed on each of a payer's channels, `exposure` as JSON. They were a part of the account's row, all of which was
-- written with each lease; a firm has thousands of channels.
CREATE TABLE exposures (
    payer TEXT NOT NULL,
    channel TEXT NOT NULL,
    exposure TEXT NOT NULL,
    PRIMARY KEY (payer, channel)
) STRICT;
INSERT INTO exposures (payer, channel, exposure)
SELECT accounts.payer, channels.key, channels.value FROM accounts, json_each(accounts.account, '$.channels') AS channels;
UPDATE accounts SET account = json_set(account, '$.channels', json('{}'));
-- What is left is of the deposit.
ALTER TABLE accounts RENAME COLUMN account TO deposit;

-- The network's words, of half a kilobyte each, in the order in which they were given, as deals are: their ids are hashes.
CREATE TABLE ordered_outcomes (
    deal_id TEXT PRIMARY KEY NOT NULL,
    outcome TEXT NOT NULL,
    signed TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;
INSERT INTO ordered_outcomes (deal_id, outcome, signed, at) SELECT deal_id, outcome, signed, at FROM outcomes ORDER BY at;
DROP TRIGGER outcomes_are_final;
DROP TRIGGER outcomes_stay;
DROP TABLE outcomes;
ALTER TABLE ordered_outcomes RENAME TO outcomes;
CREATE TRIGGER outcomes_are_final BEFORE UPDATE ON outcomes
BEGIN SELECT RAISE(ABORT, 'an outcome is never changed'); END;
CREATE TRIGGER outcomes_stay BEFORE DELETE ON outcomes
BEGIN SELECT RAISE(ABORT, 'an outcome is never deleted'); END;
