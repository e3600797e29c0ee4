//! A deal as the broker keeps it: what was signed, where both sides stand, how it ended.

use std::fmt;

use ipsx_metering::{
    Amount, DealId, Reservation, Signature, Signed, UnixSeconds, Voucher, capacity,
};
use serde::{Deserialize, Serialize};

use crate::deal::{Deal, Outcome};
use crate::http::{DealView, ProposedDeal};
use crate::messages::{EndCause, EndReport, Ready};
use crate::offer::{Offer, Placement};
use crate::request::{Filter, Request};
use crate::status::{DealClock, DealStatus, ProviderStatus, RequesterStatus, Side, deal_status};

/// Why a side changed its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It signed the deal.
    Signed,
    /// It took its part back before the deal was bound.
    Withdrew,
    /// The network bound the deal and reserved the payer's deposit.
    Funded,
    /// The deposit or the session key does not cover the deal.
    Unfunded,
    /// Another lease of its bundle did not come about.
    Incomplete,
    /// Its peer is open.
    PeerOpen,
    /// It said that its tunnel is up.
    TunnelUp,
    /// The first voucher is stored.
    FirstVoucher,
    /// It said so, with this reason.
    Reported(EndCause),
    /// Its time was up.
    Deadline,
    /// Its agent's connection was gone for too long.
    Disconnected,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Signed => "signed",
            Self::Withdrew => "withdrew",
            Self::Funded => "funded",
            Self::Unfunded => "unfunded",
            Self::Incomplete => "incomplete",
            Self::PeerOpen => "peer_open",
            Self::TunnelUp => "tunnel_up",
            Self::FirstVoucher => "first_voucher",
            Self::Reported(cause) => return write!(f, "reported {cause:?}"),
            Self::Deadline => "deadline",
            Self::Disconnected => "disconnected",
        };
        f.write_str(name)
    }
}

/// A change of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// The deal.
    pub deal_id: DealId,
    /// When, by the broker's clock.
    pub at: UnixSeconds,
    /// Which side.
    pub side: Side,
    /// Where both stand since then.
    pub provider: ProviderStatus,
    /// Where both stand since then.
    pub requester: RequesterStatus,
    /// Why.
    pub cause: Cause,
}

impl Transition {
    /// Where the deal stands since then.
    pub fn status(&self) -> DealStatus {
        deal_status(self.provider, self.requester)
    }
}

/// Everything that must survive a restart of the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DealRecord {
    /// Its id.
    pub deal_id: DealId,
    /// What both sign.
    pub deal: Deal,
    /// What the request asked for: the share of the offer's rate that it holds.
    pub filter: Filter,
    /// How many leases are good for anything only together with this one, itself included; 0 if it stands alone.
    #[serde(default)]
    pub together: u8,
    /// Whether it was given up, for want of others of its bundle, before its requester saw it.
    #[serde(default)]
    pub turned_down: bool,
    /// The offer it takes from.
    pub offer: Offer,
    /// Where the address is.
    pub placement: Placement,
    /// The provider's wallet over the deal.
    pub provider_signature: Signature,
    /// The requester's wallet over the deal.
    pub requester_signature: Option<Signature>,
    /// The provider's side.
    pub provider: ProviderStatus,
    /// The requester's side.
    pub requester: RequesterStatus,
    /// When the provider was asked.
    pub proposed_at: UnixSeconds,
    /// The network's word, once given.
    pub outcome: Option<Signed<Outcome>>,
    /// The latest reservation.
    pub reservation: Option<Signed<Reservation>>,
    /// The voucher that paid the first slice ahead, for a lease that starts later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepaid: Option<Signed<Voucher>>,
    /// Whether that is the provider's, because the requester did not come.
    #[serde(default)]
    pub forfeited: bool,
    /// Whether it never is, because the deal was over through another one of its bundle, and not by the requester's fault.
    #[serde(default)]
    pub spared: bool,
    /// What the channel had paid before this deal, as far as the broker knows.
    pub paid_before: Amount,
    /// How to reach the provider.
    pub ready: Option<Ready>,
    /// When that was known.
    pub ready_at: Option<UnixSeconds>,
    /// When the deal was over.
    pub over_at: Option<UnixSeconds>,
    /// Why it was over.
    pub cause: Option<EndCause>,
    /// The provider's last word.
    pub provider_report: Option<EndReport>,
    /// The requester's last word.
    pub requester_report: Option<EndReport>,
    /// When its capacity was given back; nothing is awaited any more.
    pub closed_at: Option<UnixSeconds>,
}

impl DealRecord {
    /// What came of a request, and of the offer as it was placed: a deal that its provider signs.
    pub fn new(
        deal: Deal,
        request: &Request,
        offer: Offer,
        placement: Placement,
        provider_signature: Signature,
        proposed_at: UnixSeconds,
    ) -> Self {
        Self {
            deal_id: deal.id(),
            deal,
            filter: request.filter.clone(),
            together: request.together(),
            turned_down: false,
            offer,
            placement,
            provider_signature,
            requester_signature: None,
            provider: ProviderStatus::Offered,
            requester: RequesterStatus::Requested,
            proposed_at,
            outcome: None,
            reservation: None,
            prepaid: None,
            forfeited: false,
            spared: false,
            paid_before: Amount::ZERO,
            ready: None,
            ready_at: None,
            over_at: None,
            cause: None,
            provider_report: None,
            requester_report: None,
            closed_at: None,
        }
    }

    /// Where the deal stands.
    pub fn status(&self) -> DealStatus {
        deal_status(self.provider, self.requester)
    }

    /// Whether nothing is served yet.
    pub fn is_unstarted(&self) -> bool {
        matches!(self.status(), DealStatus::Proposed | DealStatus::Agreed)
    }

    /// Whether the network has bound it.
    pub fn is_bound(&self) -> bool {
        self.reservation.is_some()
    }

    /// Capacity that the channel should have once its vouchers reach `cumulative`.
    pub fn capacity(&self, cumulative: Amount) -> Amount {
        let latest = cumulative.max(self.paid_before);
        let paid = latest.saturating_sub(self.paid_before);
        let full_price = self.deal.terms().full_price_per_second();
        capacity(full_price, self.deal.budget, latest, paid)
    }

    /// The channel has paid this much, and none of it for this deal, which has not been served yet.
    pub fn learn_paid_before(&mut self, cumulative: Amount) {
        if !matches!(self.provider, ProviderStatus::Serving) && !self.status().is_over() {
            self.paid_before = self.paid_before.max(cumulative);
        }
    }

    /// Moves the provider, if the tables allow it; `None` leaves the record as it is.
    pub fn provider_becomes(
        &mut self,
        next: ProviderStatus,
        cause: Cause,
        now: UnixSeconds,
    ) -> Option<Transition> {
        let keeps = deal_status(next, self.requester) == self.status();
        if !self.provider.may_become(next) || (self.status().is_over() && !keeps) {
            return None;
        }
        self.provider = next;
        Some(self.moved(Side::Provider, cause, now))
    }

    /// Moves the requester, if the tables allow it; `None` leaves the record as it is.
    pub fn requester_becomes(
        &mut self,
        next: RequesterStatus,
        cause: Cause,
        now: UnixSeconds,
    ) -> Option<Transition> {
        let keeps = deal_status(self.provider, next) == self.status();
        if !self.requester.may_become(next) || (self.status().is_over() && !keeps) {
            return None;
        }
        self.requester = next;
        Some(self.moved(Side::Requester, cause, now))
    }

    /// Whether what was prepaid is the provider's: the deal is over, and not through a provider.
    pub(crate) fn is_lost(&self) -> bool {
        let lost = matches!(
            self.status(),
            DealStatus::NoShow | DealStatus::Ended | DealStatus::RequesterFailed
        );
        // Whoever does not wait any longer for a provider that is late loses nothing.
        let late = self.ready_at.is_none() && self.over_at >= Some(self.deal.starts_at);
        lost && !late && !self.spared
    }

    /// The prepaid voucher, if it is the provider's now and was not before.
    pub(crate) fn forfeit(&mut self) -> Option<&Signed<Voucher>> {
        if !self.is_lost() || self.forfeited {
            return None;
        }
        self.forfeited = self.prepaid.is_some();
        self.prepaid.as_ref()
    }

    /// Takes a provider's report of a deal that was given up before it came: its voucher and amount still count.
    pub fn late_report(&mut self, report: EndReport, now: UnixSeconds) -> Option<Transition> {
        if self.provider_report.is_some() {
            return None;
        }
        let cause = Cause::Reported(report.cause);
        self.provider_report = Some(report);
        self.provider_becomes(ProviderStatus::Ended, cause, now)
            .or_else(|| self.provider_becomes(ProviderStatus::Failed, cause, now))
    }

    /// What the clock needs to know of it.
    pub fn clock(&self, away_since: Option<UnixSeconds>) -> DealClock {
        DealClock {
            proposed_at: self.proposed_at,
            sign_by: self.deal.sign_by,
            start_by: self.deal.start_by,
            seconds: self.deal.seconds,
            ready_at: self.ready_at,
            away_since,
            over_at: self.over_at,
        }
    }

    /// The deal as its requester is asked to sign it.
    pub fn proposed(&self) -> ProposedDeal {
        ProposedDeal {
            deal_id: self.deal_id,
            deal: self.deal.clone(),
            provider_signature: self.provider_signature,
            placement: self.placement.clone(),
        }
    }

    /// The deal as its two sides see it.
    pub fn view(&self) -> DealView {
        let report = self.provider_report.as_ref();
        DealView {
            deal_id: self.deal_id,
            deal: self.deal.clone(),
            placement: self.placement.clone(),
            status: self.status(),
            provider: self.provider,
            requester: self.requester,
            ready: self.ready.clone(),
            ready_at: self.ready_at,
            ended_at: self.over_at,
            cause: self.cause,
            usage: report.map(|r| r.usage),
            amount: report.map(|r| r.amount),
        }
    }

    fn moved(&mut self, side: Side, cause: Cause, now: UnixSeconds) -> Transition {
        if self.status().is_over() && self.over_at.is_none() {
            self.over_at = Some(now);
            let vanished = self.provider == ProviderStatus::Silent && self.ready_at.is_some();
            self.cause = Some(match cause {
                Cause::Reported(cause) => cause,
                _ if vanished => EndCause::NoService,
                _ => EndCause::NotStarted,
            });
        }
        Transition {
            deal_id: self.deal_id,
            at: now,
            side,
            provider: self.provider,
            requester: self.requester,
            cause,
        }
    }
}
