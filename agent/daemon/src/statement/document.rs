//! What a statement says, as it is written in JSON. Everything that was signed stands beside the amounts that follow
//! from it. `docs/statement.md` describes each field.

use std::net::IpAddr;

use ipsx_market::deal::{Deal, Outcome};
use ipsx_market::messages::EndCause;
use ipsx_market::offer::Country;
use ipsx_metering::{
    Address, Amount, B256, ChannelId, ConnectionsChecked, DealId, Domain, NetworkId, Receipt,
    Reservation, Signature, Signed, UnixSeconds, Usage, Voucher,
};
use serde::Serialize;

/// Names the shape of the document; changes with it.
pub(super) const FORMAT: &str = "ipsx-statement-1";

/// A statement of one or more leases on one network.
#[derive(Clone, Debug, Serialize)]
pub struct Document {
    /// `ipsx-statement-1`.
    pub format: &'static str,
    /// Whose statement it is.
    pub side: Side,
    /// The month that all leases fall into, such as `2026-11`; `None` for a single lease.
    pub period: Option<String>,
    /// Chain and contract.
    pub domain: Domain,
    /// The network.
    pub network: NetworkId,
    /// The leases, oldest first.
    pub entries: Vec<Entry>,
    /// Their sums.
    pub totals: Totals,
}

/// Who keeps the records that the statement is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Who leased and paid.
    Requester,
    /// Who lent and was paid.
    Provider,
}

/// One lease.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// What was signed, and what the chain says.
    pub evidence: Evidence,
    /// What this side noted itself; signed by nobody.
    pub notes: OwnNotes,
    /// What follows from it.
    pub account: Account,
}

/// What was signed, and what the chain says.
#[derive(Clone, Debug, Serialize)]
pub struct Evidence {
    /// The network's operator when the deal was bound.
    pub operator: Address,
    /// The network's fee in basis points.
    pub fee_bps: u16,
    /// The deal.
    pub deal: Deal,
    /// The provider's wallet over it.
    pub provider_signature: Signature,
    /// The requester's wallet over it.
    pub requester_signature: Signature,
    /// The network's word that it is bound.
    pub outcome: Option<Signed<Outcome>>,
    /// The promise behind the vouchers.
    pub reservation: Option<Signed<Reservation>>,
    /// What the channel had paid before this lease.
    pub paid_before: Amount,
    /// The channel's latest voucher when the lease ended.
    pub voucher: Option<Signed<Voucher>>,
    /// The receipt that this voucher answers, which may be an earlier one than the latest; `None` when it answers none of
    /// this lease's.
    pub answered: Option<Signed<Receipt>>,
    /// The latest receipt.
    pub receipt: Option<Signed<Receipt>>,
    /// All claims on the channel, oldest first; `None` when the chain was not asked.
    pub claims: Option<Vec<Claim>>,
}

/// A claim as the contract logged it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Claim {
    /// Its transaction.
    pub transaction: B256,
    /// Height of its block.
    pub block: u64,
    /// What it moved, fee included.
    pub paid: Amount,
    /// The network's part of it.
    pub fee: Amount,
    /// What the channel had moved in all after it.
    pub claimed: Amount,
}

/// What this side noted itself.
#[derive(Clone, Debug, Serialize)]
pub struct OwnNotes {
    /// Why the lease ended.
    pub cause: Option<EndCause>,
    /// When it ended.
    pub ended_at: Option<UnixSeconds>,
    /// What this side counted.
    pub usage: Option<Usage>,
    /// Vouchers that were signed for it; `None` on the provider's side, which keeps only the latest.
    pub vouchers: Option<u64>,
    /// The address that the web saw; `None` when it was not checked.
    pub exit_seen: Option<IpAddr>,
    /// What of the provider's connection record this side checked before it signed; `None` if nothing, as by the side
    /// that keeps it.
    pub connections_checked: Option<ConnectionsChecked>,
    /// Where the broker placed the address.
    pub country: Option<Country>,
}

/// What follows from the evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Struct hash of the deal.
    pub deal_id: DealId,
    /// Struct hash of the channel that paid.
    pub channel: ChannelId,
    /// The lease's time: when the last receipt was made, else until when the deal could be signed.
    pub at: UnixSeconds,
    /// Seconds charged by the last receipt.
    pub seconds: u64,
    /// Inner IP bytes to the provider, by the same.
    pub bytes_up: u64,
    /// Inner IP bytes from the provider, by the same.
    pub bytes_down: u64,
    /// What these cost.
    pub used: Amount,
    /// What the vouchers of this lease promise.
    pub promised: Amount,
    /// Promised and not used: the last slice, paid in advance.
    pub prepaid: Amount,
    /// What of the promise was claimed; `None` when the chain was not asked.
    pub claimed: Option<Amount>,
    /// The network's part of it.
    pub fee: Option<Amount>,
    /// The provider's part of it.
    pub earned: Option<Amount>,
}

/// Sums over all leases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// How many leases.
    pub leases: u64,
    /// Seconds charged.
    pub seconds: u64,
    /// Inner IP bytes to the providers.
    pub bytes_up: u64,
    /// Inner IP bytes from the providers.
    pub bytes_down: u64,
    /// What these cost.
    pub used: Amount,
    /// What the vouchers promise.
    pub promised: Amount,
    /// What was claimed; `None` when the chain was not asked.
    pub claimed: Option<Amount>,
    /// The networks' part of it.
    pub fee: Option<Amount>,
    /// The providers' part of it.
    pub earned: Option<Amount>,
}

impl Document {
    /// The statement of `entries`, put in order and summed up.
    pub fn new(
        side: Side,
        period: Option<String>,
        domain: Domain,
        network: NetworkId,
        mut entries: Vec<Entry>,
    ) -> Self {
        entries.sort_by_key(|entry| (entry.account.at, entry.account.deal_id));
        let totals = Totals::of(&entries);
        Self {
            format: FORMAT,
            side,
            period,
            domain,
            network,
            entries,
            totals,
        }
    }
}

impl Entry {
    /// The entry of what was signed.
    pub fn new(evidence: Evidence, notes: OwnNotes) -> Self {
        let account = Account::of(&evidence);
        Self {
            evidence,
            notes,
            account,
        }
    }

    /// What the chain has moved on the channel in all.
    pub fn claimed_on_chain(&self) -> Option<Amount> {
        let claims = self.evidence.claims.as_ref()?;
        Some(claims.last().map_or(Amount::ZERO, |claim| claim.claimed))
    }
}

impl Account {
    fn of(evidence: &Evidence) -> Self {
        let deal = &evidence.deal;
        let receipt = evidence.receipt.as_ref().map(|receipt| &receipt.message);
        let usage = receipt.map(|receipt| receipt.usage).unwrap_or_default();
        let used = receipt.map_or(Amount::ZERO, |receipt| receipt.deal_amount);
        let before = evidence.paid_before;
        let voucher = evidence.voucher.as_ref();
        let total = voucher.map_or(Amount::ZERO, |voucher| voucher.message.cumulative);
        let promised = total.saturating_sub(before);
        // The channel is older than the lease, and may live on: only the part between its vouchers is this lease's.
        let claimed = evidence.claims.as_ref().map(|claims| {
            let moved = claims.last().map_or(Amount::ZERO, |claim| claim.claimed);
            moved.saturating_sub(before).min(promised)
        });
        let fee = claimed.map(|claimed| {
            let after = before.saturating_add(claimed);
            let until = |amount: Amount| amount.basis_points(evidence.fee_bps);
            until(after).saturating_sub(until(before))
        });
        let parts = claimed.zip(fee);
        Self {
            deal_id: deal.id(),
            channel: deal.channel().id(),
            at: receipt.map_or(deal.sign_by, |receipt| receipt.observed_at),
            seconds: usage.secs,
            bytes_up: usage.bytes_up,
            bytes_down: usage.bytes_down,
            used,
            promised,
            prepaid: promised.saturating_sub(used),
            claimed,
            fee,
            earned: parts.map(|(claimed, fee)| claimed.saturating_sub(fee)),
        }
    }
}

impl Totals {
    fn of(entries: &[Entry]) -> Self {
        let count = |number: fn(&Account) -> u64| {
            let numbers = entries.iter().map(|entry| number(&entry.account));
            numbers.fold(0, u64::saturating_add)
        };
        let money = |part: fn(&Account) -> Amount| -> Amount {
            entries.iter().map(|entry| part(&entry.account)).sum()
        };
        let known = |part: fn(&Account) -> Option<Amount>| -> Option<Amount> {
            let parts: Option<Vec<_>> = entries.iter().map(|entry| part(&entry.account)).collect();
            parts.map(|parts| parts.into_iter().sum())
        };
        Self {
            leases: entries.len() as u64,
            seconds: count(|account| account.seconds),
            bytes_up: count(|account| account.bytes_up),
            bytes_down: count(|account| account.bytes_down),
            used: money(|account| account.used),
            promised: money(|account| account.promised),
            claimed: known(|account| account.claimed),
            fee: known(|account| account.fee),
            earned: known(|account| account.earned),
        }
    }
}
