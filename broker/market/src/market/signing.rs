//! From a deal that its provider has signed to a bound one.

use ipsx_metering::{
    Address, Amount, DealId, Reservation, Signature, Signed, TypedData, UnixSeconds, Voucher,
    verify,
};

use super::{Command, DealRefusal, Market};
use crate::deal::{Binding, Outcome};
use crate::record::{Cause, DealRecord};
use crate::status::{DealStatus, ProviderStatus, RequesterStatus};

impl Market {
    /// The requester signs. The caller now checks the money, then calls [`Self::bind`] or [`Self::give_up`], which write down the
    /// signature with what came of it: a requester that is not told has to send it again anyway.
    pub fn sign(
        &mut self,
        id: DealId,
        requester: Address,
        signature: Signature,
        now: UnixSeconds,
    ) -> Result<(), DealRefusal> {
        let request = self.deal(id).ok_or(DealRefusal::Unknown(id))?.deal.request;
        self.sign_bundle(request, requester, &[(id, signature)], now)
    }

    /// The deal under which a requester's signature counts.
    pub(super) fn check_signature(
        &self,
        id: DealId,
        requester: Address,
        signature: Signature,
        now: UnixSeconds,
    ) -> Result<&DealRecord, DealRefusal> {
        let record = self.deal(id).ok_or(DealRefusal::Unknown(id))?;
        if record.deal.requester != requester {
            return Err(DealRefusal::NotYours(id));
        }
        let status = record.status();
        if status != DealStatus::Proposed || record.requester != RequesterStatus::Requested {
            return Err(DealRefusal::State {
                deal_id: id,
                status,
                wanted: "signed",
            });
        }
        if now > record.deal.sign_by {
            return Err(DealRefusal::TooLate {
                late: now.since(record.deal.sign_by),
            });
        }
        let hash = record.deal.signing_hash(&self.config.domain);
        verify(hash, &signature, requester)?;
        Ok(record)
    }

    /// A requester's signature counts.
    pub(super) fn signed(&mut self, id: DealId, signature: Signature, now: UnixSeconds) {
        let Some(live) = self.deals.get_mut(&id) else {
            return;
        };
        let record = &mut live.record;
        let moved = record.requester_becomes(RequesterStatus::Accepted, Cause::Signed, now);
        record.requester_signature = Some(signature);
        live.unwritten.extend(moved);
        self.reschedule(id);
    }

    /// Whether [`Self::bind`] would succeed: ask before the outcome is signed, which can't be taken back.
    pub fn may_bind(&self, id: DealId, now: UnixSeconds) -> Result<&DealRecord, DealRefusal> {
        let record = &self.deals.get(&id).ok_or(DealRefusal::Unknown(id))?.record;
        let status = record.status();
        let signed = record.provider == ProviderStatus::Accepted
            && record.requester == RequesterStatus::Accepted;
        // Past start_by the lease can't begin any more, and money would be tied up for nothing.
        if signed && now <= record.deal.start_by {
            Ok(record)
        } else {
            Err(DealRefusal::State {
                deal_id: id,
                status,
                wanted: "bound",
            })
        }
    }

    /// The network's word and reservation are released; the caller has written down that the capacity is promised.
    /// `paid_before` is what the channel has paid in earlier leases, `prepaid` what pays this one's first slice ahead.
    pub fn bind(
        &mut self,
        id: DealId,
        outcome: Signed<Outcome>,
        reservation: Signed<Reservation>,
        paid_before: Amount,
        prepaid: Option<Signed<Voucher>>,
        now: UnixSeconds,
    ) -> Result<Vec<Command>, DealRefusal> {
        self.may_bind(id, now)?;
        debug_assert_eq!(outcome.message.outcome, Binding::Bound);
        let Some(live) = self.deals.get_mut(&id) else {
            return Err(DealRefusal::Unknown(id));
        };
        live.record.outcome = Some(outcome);
        live.record.reservation = Some(reservation);
        live.record.paid_before = paid_before;
        live.record.prepaid = prepaid;
        let moved = live
            .record
            .requester_becomes(RequesterStatus::Funded, Cause::Funded, now);
        let reminder = super::lease::remind(&live.record);
        let mut commands = self.store(id, moved, now);
        commands.extend(reminder);
        Ok(commands)
    }

    /// The deal can't be funded: it is aborted.
    pub fn give_up(&mut self, id: DealId, now: UnixSeconds) -> Vec<Command> {
        let Some(live) = self.deals.get_mut(&id).filter(|l| !l.record.is_bound()) else {
            return Vec::new();
        };
        let moved = live
            .record
            .requester_becomes(RequesterStatus::Failed, Cause::Unfunded, now);
        self.store(id, moved, now)
    }
}
