//! What is for sale and to whom: offers, proposals and the limits that stop both.

use std::time::Duration;

use ipsx_market::deal::{Proposal, ProviderTerms};
use ipsx_market::messages::{AgentMessage, BrokerMessage, EndCause};
use ipsx_metering::{DealId, EndCause as MeterEnd, UnixSeconds};

use super::command::Command;
use super::event::ProviderEvent;
use super::judge::{Situation, Taken, judge};
use super::lease::Lease;
use super::machine::Provider;
use super::settings::Now;

/// An urgent claim is asked for again after this time.
const CLAIM_GAP: Duration = Duration::from_secs(30);
/// When nothing is for sale, whether that has changed is looked up this often.
const OFFER_CHECK: Duration = Duration::from_secs(60);

impl Provider {
    pub(super) fn handle_proposal(&mut self, number: u64, proposal: &Proposal, now: Now) {
        let request = &proposal.request.message;
        let requester = request.requester;
        let network = self.settings.network.id;
        let agent_key = self.keys.agent_key(network, requester);
        let terms = ProviderTerms {
            payout: self.keys.payout_key(network, request.payer).address(),
            agent_key: agent_key.address(),
            tunnel_key: self.keys.tunnel_key(),
        };
        let taken: Vec<Taken> = self.leases.values().filter_map(Lease::taken).collect();
        let situation = Situation {
            settings: &self.settings,
            offer: self.offers.get(proposal.offer, now.unix),
            observed: self.observed,
            taken: &taken,
            unclaimed_of_payer: self.channels.unclaimed_of(request.payer),
            unclaimed_of_network: self.channels.unclaimed(),
            month_left: self.month_left(now.unix),
            shutting_down: self.shutting_down,
            now: now.unix,
        };
        match judge(proposal, &terms, &situation) {
            Ok(deal) => {
                let taken = Taken {
                    request: deal.request,
                    leg: deal.leg,
                    payer: deal.payer,
                    tunnel_key: deal.requester_tunnel_key.0,
                    channel: deal.channel().id(),
                    mbit_up: request.filter.mbit_up,
                    mbit_down: request.filter.mbit_down,
                    weights: self
                        .settings
                        .terms
                        .weights(request.filter.mbit_up, request.filter.mbit_down),
                    started: false,
                };
                let lease = Lease::new(deal.clone(), taken, agent_key, now);
                self.tell(ProviderEvent::ProposalAccepted {
                    deal_id: lease.id,
                    requester,
                    seconds: deal.seconds,
                    budget: deal.budget,
                });
                self.leases.insert(lease.id, lease);
                self.commands.push_back(Command::AcceptDeal {
                    proposal: number,
                    deal: Box::new(deal),
                    terms,
                });
            }
            Err(declined) => {
                let reason = declined.to_string();
                self.commands
                    .push_back(Command::Send(AgentMessage::DeclineDeal {
                        proposal: number,
                        reason: reason.clone(),
                    }));
                self.tell(ProviderEvent::ProposalDeclined { requester, reason });
            }
        }
    }

    /// Puts the offer into the book, or replaces it, if something is for sale.
    pub(super) fn offer(&mut self, now: Now) {
        if self.shutting_down {
            self.offer_at = None;
            return;
        }
        self.offer_at = Some(now.instant + OFFER_CHECK);
        if self.observed.is_none() || self.offered {
            return;
        }
        if self.month_left(now.unix) == 0 {
            return;
        }
        let (_, offer) = self.offers.current(&self.settings, now.unix);
        let offer = Box::new(offer.clone());
        self.commands.push_back(Command::PublishOffer(offer));
        self.offered = true;
        if let Some(renew_at) = self.offers.renew_at() {
            let wait = Duration::from_secs(renew_at.since(now.unix).max(1));
            self.offer_at = Some(now.instant + wait);
        }
    }

    /// What became of the offer.
    pub(super) fn handle_offer_message(&mut self, message: BrokerMessage, now: Now) {
        match message {
            BrokerMessage::OfferPlaced {
                offer,
                placement,
                withheld,
            } => {
                self.tell(ProviderEvent::OfferPlaced {
                    offer,
                    address: placement.address,
                    country: placement.country.map(String::from),
                    asn: placement.asn,
                    withheld: withheld.map(|why| why.to_string()),
                });
            }
            BrokerMessage::OfferRefused { offer, reason } => {
                self.tell(ProviderEvent::OfferRefused { offer, reason });
                self.offer_later(now);
            }
            // Deals are not about offers; the handshake and the end of the connection are the link's.
            _ => {}
        }
    }

    /// Tries again to put the offer into the book, after a while.
    fn offer_later(&mut self, now: Now) {
        self.offered = false;
        self.offer_at = Some(now.instant + OFFER_CHECK);
    }

    pub(super) fn withdraw(&mut self, reason: &str, now: Now) {
        let was_offered = std::mem::take(&mut self.offered);
        if let Some(offer) = self.offers.clear().filter(|_| was_offered) {
            self.commands
                .push_back(Command::Send(AgentMessage::WithdrawOffer { offer }));
            self.tell(ProviderEvent::OfferWithdrawn {
                reason: reason.into(),
            });
        }
        self.offer_at = (!self.shutting_down).then(|| now.instant + OFFER_CHECK);
    }

    pub(super) fn check_exposure(&mut self, lease: DealId, now: Now) {
        let Some(payer) = self.leases.get(&lease).map(|lease| lease.deal.payer) else {
            return;
        };
        let limits = self.settings.exposure;
        let of_payer = self.channels.unclaimed_of(payer);
        let of_all = self.channels.unclaimed();
        if of_payer >= limits.per_payer || of_all >= limits.per_network {
            let text = format!(
                "lease {lease}: ended, because {of_payer} units of its payer and {of_all} of the network are unclaimed. Run `ipsx settle`, or raise --max-unclaimed-per-payer or --max-unclaimed"
            );
            self.tell(ProviderEvent::Warning { text });
            self.with_lease(lease, |lease, network, commands| {
                lease.end(
                    EndCause::ProviderEnded,
                    MeterEnd::ProviderEnded,
                    now,
                    commands,
                );
                lease.drain(network, now, commands);
            });
        }
        let high = of_payer.0 >= limits.per_payer.0 / 2 || of_all.0 >= limits.per_network.0 / 2;
        if high && self.claim_at.is_none_or(|at| at <= now.instant) {
            self.claim_at = Some(now.instant + CLAIM_GAP);
            self.commands.push_back(Command::Claim { urgent: true });
        }
    }

    pub(super) fn store_month(&mut self, step: u64) {
        if self.month.bytes.abs_diff(self.month_stored) >= step {
            self.month_stored = self.month.bytes;
            self.commands.push_back(Command::StoreMonth(self.month));
        }
    }

    pub(super) fn month_left(&self, now: UnixSeconds) -> u64 {
        let limit = self.settings.terms.capacity.bytes_per_month;
        self.month.left(limit, now)
    }
}
