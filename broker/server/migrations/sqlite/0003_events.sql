-- Whose deal changed, so that a wallet's changes are found in order.
ALTER TABLE transitions ADD COLUMN wallet TEXT NOT NULL DEFAULT '';
UPDATE transitions SET wallet = (SELECT deals.requester FROM deals WHERE deals.deal_id = transitions.deal_id);
CREATE INDEX transitions_by_wallet ON transitions (wallet, number);
