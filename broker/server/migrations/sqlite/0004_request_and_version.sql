-- Which request a deal came of, so that it is found without reading the requester's other deals.
ALTER TABLE deals ADD COLUMN request TEXT NOT NULL DEFAULT '';
UPDATE deals SET request = record ->> '$.deal.request';
CREATE INDEX deals_by_request ON deals (requester, request);

-- How often an account was written: whoever decides on one that it has read sees whether it is still that one.
ALTER TABLE accounts ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
