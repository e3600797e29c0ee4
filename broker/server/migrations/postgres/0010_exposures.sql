-- What can be claimed on each of a payer's channels, `exposure` as JSON. They were a part of the account's row, all of which was
-- written with each lease; a firm has thousands of channels.
CREATE TABLE exposures (
    payer TEXT NOT NULL,
    channel TEXT NOT NULL,
    exposure TEXT NOT NULL,
    PRIMARY KEY (payer, channel)
);
INSERT INTO exposures (payer, channel, exposure)
SELECT accounts.payer, channels.key, channels.value::text
FROM accounts, json_each(accounts.account::json -> 'channels') AS channels;
UPDATE accounts SET account = jsonb_set(account::jsonb, '{channels}', '{}')::text;
-- What is left is of the deposit. An older broker of a fleet that still runs finds no `account`, instead of one without channels.
ALTER TABLE accounts RENAME COLUMN account TO deposit;
