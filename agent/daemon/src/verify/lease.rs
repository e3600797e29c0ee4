//! One lease of a statement.

use ipsx_market::deal::{Binding, Deal};
use ipsx_metering::{Domain, NetworkId, TypedData, U256};

use super::document::{Account, Entry, Evidence};
use super::findings::Findings;
use super::money::{cost, fee, wide};
use super::signature::{is_from, signed_by};

/// What holds for every lease of a statement.
#[derive(Clone, Copy)]
pub(super) struct Scope {
    pub(super) domain: Domain,
    pub(super) network: NetworkId,
}

/// Checks one lease.
pub(super) fn check(entry: &Entry, scope: Scope, found: &mut Findings) {
    let evidence = &entry.evidence;
    let name = format!(
        "lease {:.10}",
        format!("{:#x}", evidence.deal.struct_hash())
    );
    let mut check = |what: &str, holds: bool| found.check(&name, what, holds);
    check_deal(evidence, scope, &mut check);
    check_payment(evidence, &scope.domain, &mut check);
    check_claims(evidence, &mut check);
    check_account(evidence, &entry.account, &mut check);
    check_answer(evidence, &scope.domain, &name, found);
    note_unproven(evidence, found);
}

fn check_deal(evidence: &Evidence, scope: Scope, check: &mut impl FnMut(&str, bool)) {
    let (deal, domain) = (&evidence.deal, &scope.domain);
    check("the deal is of this network", deal.network == scope.network);
    let by_provider = signed_by(deal, &evidence.provider_signature, domain, deal.provider);
    check("the provider signed the deal", by_provider);
    let by_requester = signed_by(deal, &evidence.requester_signature, domain, deal.requester);
    check("the requester signed the deal", by_requester);
    if let Some(outcome) = &evidence.outcome {
        let bound = outcome.message.deal_id.0 == deal.struct_hash()
            && outcome.message.outcome == Binding::Bound;
        let signed = is_from(outcome, domain, evidence.operator);
        check("the operator bound the deal", bound && signed);
    }
    if let Some(reservation) = &evidence.reservation {
        let ours = reservation.message.channel_id.0 == deal.channel().struct_hash();
        let signed = is_from(reservation, domain, evidence.operator);
        check("the operator reserved the deposit", ours && signed);
    }
}

fn check_payment(evidence: &Evidence, domain: &Domain, check: &mut impl FnMut(&str, bool)) {
    let deal = &evidence.deal;
    let channel = deal.channel().struct_hash();
    let before = wide(evidence.paid_before);
    if let Some(voucher) = &evidence.voucher {
        let ours = voucher.message.channel_id.0 == channel;
        let signed = is_from(voucher, domain, deal.payer_signer);
        check("the session key signed the voucher", ours && signed);
        let total = wide(voucher.message.cumulative);
        check(
            "the voucher is not below what was paid before",
            total >= before,
        );
        check(
            "the lease's vouchers stay within its budget",
            total.saturating_sub(before) <= wide(deal.budget),
        );
    }
    if let Some(receipt) = &evidence.receipt {
        let message = &receipt.message;
        let ours = message.channel_id.0 == channel && message.deal_id.0 == deal.struct_hash();
        let signed = is_from(receipt, domain, deal.agent_key);
        check("the agent key signed the receipt", ours && signed);
        let due = cost(&deal.prices, &message.usage);
        check(
            "the receipt's totals cost what it says",
            due == wide(message.deal_amount),
        );
        let asked = before + wide(message.deal_amount);
        check(
            "the receipt asks for no earlier lease again",
            wide(message.cumulative) <= asked,
        );
        check(
            "no more seconds than the deal's",
            message.usage.secs <= u64::from(deal.seconds),
        );
    }
}

/// That what was paid is tied to what was used by more than its amount: the last voucher names a receipt by its hash.
fn check_answer(evidence: &Evidence, domain: &Domain, lease: &str, found: &mut Findings) {
    let Some(voucher) = &evidence.voucher else {
        return;
    };
    let deal = &evidence.deal;
    let mut check = |what: &str, holds: bool| found.check(lease, what, holds);
    if let Some(answered) = &evidence.answered {
        let message = &answered.message;
        let ours = message.channel_id.0 == deal.channel().struct_hash()
            && message.deal_id.0 == deal.struct_hash();
        let signed = is_from(answered, domain, deal.agent_key);
        check(
            "the agent key signed the receipt that the voucher answers",
            ours && signed,
        );
        let hash = message.signing_hash(domain);
        check(
            "the voucher answers a receipt of this lease",
            voucher.message.receipt_hash == hash,
        );
        let due = cost(&deal.prices, &message.usage);
        check(
            "that receipt's totals cost what it says",
            due == wide(message.deal_amount),
        );
        let last = evidence.receipt.as_ref();
        let in_order =
            last.is_none_or(|last| message.seq < last.message.seq || message == &last.message);
        check("that receipt is none after the last", in_order);
    } else if wide(voucher.message.cumulative) <= wide(evidence.paid_before) {
        // The channel's voucher before this lease, which paid nothing.
    } else if voucher.message.receipt_hash.is_zero() {
        found.unproven(
            "that what was paid was used",
            "some leases have only their opening voucher, which is signed before there is a receipt",
        );
    } else {
        found.unproven(
            "that what was paid was used",
            "the receipt that the last voucher answers was lost with a side's disk",
        );
    }
}

/// The channel's claims follow each other, and each fee is the network's share.
fn check_claims(evidence: &Evidence, check: &mut impl FnMut(&str, bool)) {
    let Some(claims) = &evidence.claims else {
        return;
    };
    let mut before = U256::ZERO;
    let (mut follow, mut fees) = (true, true);
    for claim in claims {
        let after = wide(claim.claimed);
        follow &= before + wide(claim.paid) == after;
        fees &= wide(claim.fee) == fee(before, after, evidence.fee_bps);
        before = after;
    }
    check("each claim adds to the ones before", follow);
    check("each claim's fee is the network's share", fees);
}

/// The amounts that follow from the evidence.
fn check_account(evidence: &Evidence, account: &Account, check: &mut impl FnMut(&str, bool)) {
    let deal: &Deal = &evidence.deal;
    let message = evidence.receipt.as_ref().map(|receipt| &receipt.message);
    let ids = account.deal_id.0 == deal.struct_hash()
        && account.channel.0 == deal.channel().struct_hash();
    check("the account names this deal and channel", ids);
    let at = message.map_or(deal.sign_by, |message| message.observed_at);
    check("the account's time is the receipt's", account.at == at);
    let usage = message.map(|message| message.usage).unwrap_or_default();
    let counted = (account.seconds, account.bytes_up, account.bytes_down);
    check(
        "the account's totals are the receipt's",
        counted == (usage.secs, usage.bytes_up, usage.bytes_down),
    );
    let before = wide(evidence.paid_before);
    let total = evidence
        .voucher
        .as_ref()
        .map_or(U256::ZERO, |voucher| wide(voucher.message.cumulative));
    let promised = total.saturating_sub(before);
    let used = message.map_or(U256::ZERO, |message| wide(message.deal_amount));
    let sums = wide(account.promised) == promised
        && wide(account.used) == used
        && wide(account.prepaid) == promised.saturating_sub(used);
    check("used and prepaid make what was promised", sums);
    let claimed = evidence.claims.as_ref().map(|claims| {
        let moved = claims
            .last()
            .map_or(U256::ZERO, |claim| wide(claim.claimed));
        moved.saturating_sub(before).min(promised)
    });
    let share = claimed.map(|claimed| fee(before, before + claimed, evidence.fee_bps));
    let earned = claimed.zip(share).map(|(claimed, share)| claimed - share);
    let parts = account.claimed.map(wide) == claimed
        && account.fee.map(wide) == share
        && account.earned.map(wide) == earned;
    check("claimed, fee and earnings follow from the claims", parts);
}

fn note_unproven(evidence: &Evidence, found: &mut Findings) {
    let mut note = |field: &str, why| found.unproven(&format!("entries.*.{field}"), why);
    note("notes", "this side's own notes, signed by nobody");
    note(
        "evidence.claims.*.transaction",
        "look it up on the chain: only there is it known to be paid",
    );
    note("evidence.claims.*.block", "look it up on the chain");
    if evidence
        .claims
        .iter()
        .flatten()
        .all(|claim| claim.fee.0 == 0)
    {
        note(
            "evidence.fee_bps",
            "no claim has paid a fee yet; the contract names it",
        );
    }
    if evidence.outcome.is_none() && evidence.reservation.is_none() {
        note(
            "evidence.operator",
            "the deal was not bound, so the operator signed nothing",
        );
    }
    if evidence.receipt.is_none() && evidence.voucher.is_some() {
        note(
            "evidence.paid_before",
            "no receipt was kept that says what the channel had paid before",
        );
    }
}
