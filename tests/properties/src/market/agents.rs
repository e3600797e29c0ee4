//! What agents say.

use ipsx_market::deal::{Deal, ProviderTerms};
use ipsx_market::market::{Command, DealRefusal};
use ipsx_market::messages::AgentMessage;
use ipsx_market::offer::{Offer, Placement, WeeklyHours};
use ipsx_market::request::TunnelKey;
use ipsx_metering::{Address, B256, DealId, SecretKey, Signed, TypedData};

use super::{SEEN, World};
use crate::bytes::Bytes;

impl World {
    pub(super) fn about(&self, act: u8, deal_id: DealId) -> AgentMessage {
        let (ready, report) = (self.examples.ready.clone(), self.examples.report.clone());
        match act {
            3 => AgentMessage::LeaseReady { deal_id, ready },
            4 => AgentMessage::LeaseServing { deal_id },
            5 => AgentMessage::LeaseEnded { deal_id, report },
            6 => AgentMessage::Endpoint {
                endpoint: match deal_id.0[0] % 2 {
                    0 => (SEEN, 51_820).into(),
                    _ => ([198, 51, 100, 7], 53).into(),
                },
                mapped: None,
            },
            7 => AgentMessage::WithdrawOffer {
                offer: self.examples.offer.id(),
            },
            _ => AgentMessage::DeclineDeal {
                proposal: self.proposals.last().map_or(0, |(_, number, _)| *number),
                reason: "no\n".repeat(300),
            },
        }
    }

    /// What the broker does with a message.
    pub(super) fn hear(&mut self, wallet: &SecretKey, message: AgentMessage) {
        let (own, now) = (wallet.address(), self.context.now);
        match message {
            AgentMessage::PublishOffer { offer } => self.place(own, offer),
            AgentMessage::WithdrawOffer { offer } => {
                let of = self.market.book().get(offer).map(|l| l.offer.provider);
                assert_eq!(self.market.withdraw(own, offer), of == Some(own));
            }
            AgentMessage::AcceptDeal {
                proposal,
                terms,
                signature,
            } => {
                let commands = self.market.accept(own, proposal, &terms, signature, now);
                self.run(commands);
            }
            AgentMessage::DeclineDeal { proposal, reason } => {
                let asked = self.proposals.iter().find(|(_, n, _)| *n == proposal);
                let theirs = asked.is_some_and(|(who, ..)| *who == own);
                let commands = self.market.decline(own, proposal, &reason, now);
                assert!(theirs || commands.is_empty());
                self.run(commands);
            }
            AgentMessage::LeaseReady { deal_id, ready } => {
                let done = self.market.ready(own, deal_id, ready, now);
                self.moved(done, self.lender(deal_id), own);
            }
            AgentMessage::LeaseServing { deal_id } => {
                let done = self.market.serving(own, deal_id, now);
                self.moved(done, self.lender(deal_id), own);
            }
            AgentMessage::LeaseEnded { deal_id, report } => {
                let done = self.market.provider_ended(own, deal_id, report, now);
                self.moved(done, self.lender(deal_id), own);
            }
            AgentMessage::RenewReservation { deal_id, .. } => {
                let renewable = self.market.may_renew(own, deal_id);
                assert!(renewable.is_err() || self.lender(deal_id) == Some(own));
            }
            AgentMessage::Endpoint { endpoint, mapped } => {
                let agent = (own, SEEN.into());
                let commands = self.market.endpoint_named(agent, endpoint, mapped, now);
                self.run(commands);
            }
            AgentMessage::Token { token } => {
                let commands = self.market.token_heard(own, token, now);
                self.run(commands);
            }
            AgentMessage::Hello { .. }
            | AgentMessage::Authenticate { .. }
            | AgentMessage::CloseChannel { .. }
            | AgentMessage::Frame { .. } => {}
        }
    }

    pub(super) fn lender(&self, id: DealId) -> Option<Address> {
        self.records.get(&id).map(|record| record.deal.provider)
    }

    /// Only whose deal it is has moved it.
    pub(super) fn moved(
        &mut self,
        done: Result<Vec<Command>, DealRefusal>,
        theirs: Option<Address>,
        own: Address,
    ) {
        match done {
            Ok(commands) => {
                assert!(theirs == Some(own) || commands.is_empty());
                self.run(commands);
            }
            Err(refusal) => assert!(!refusal.to_string().is_empty()),
        }
    }

    pub(super) fn publish(&mut self, wallet: &SecretKey, input: &mut Bytes<'_>) {
        let mut offer = self.examples.offer.clone();
        offer.provider = wallet.address();
        offer.prefixes = Vec::new();
        offer.weekly_hours = WeeklyHours::always();
        offer.nonce = input.u8().into();
        offer.capacity.leases = u32::from(input.u8() % 4);
        offer.expires_at = self.context.now.after(input.u16().into());
        let offer = Signed::sign(offer, &self.context.domain, wallet);
        self.place(wallet.address(), offer);
    }

    fn place(&mut self, own: Address, offer: Signed<Offer>) {
        let placement = Placement::at(SEEN.into());
        if self.context.offer(&offer, own, &placement).is_ok() {
            assert_eq!(offer.message.provider, own);
            // A refusal says that there is no room, or that it is there already.
            let _ = self
                .market
                .place(offer.message, placement, self.context.now);
        }
    }

    pub(super) fn accept(&mut self, wallet: &SecretKey, which: u8) {
        let count = self.proposals.len().max(1);
        let Some((asked, number, proposal)) = self.proposals.get(usize::from(which) % count) else {
            return;
        };
        let (asked, number) = (*asked, *number);
        let terms = ProviderTerms {
            payout: wallet.address(),
            agent_key: wallet.address(),
            tunnel_key: TunnelKey(B256::repeat_byte(3)),
        };
        let Some(listing) = self.market.book().get(proposal.offer) else {
            return;
        };
        let deal = Deal::new(proposal, &listing.offer, &terms);
        let signature = wallet.sign_hash(deal.signing_hash(&self.context.domain));
        let own = wallet.address();
        let commands = self
            .market
            .accept(own, number, &terms, signature, self.context.now);
        assert!(own == asked || commands.is_empty());
        self.run(commands);
    }
}
