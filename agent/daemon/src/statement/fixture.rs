//! A statement of two leases on one channel, signed by keys of its own.
#![allow(clippy::unwrap_used)]

use ipsx_market::deal::{Binding, Deal, Outcome};
use ipsx_market::messages::EndCause;
use ipsx_market::request::{CounterSource, TunnelKey};
use ipsx_metering::{
    Address, Amount, B256, CheckResult, ConnectionsChecked, Domain, NetworkId, OfferId,
    PricePerGib, PricePerSecond, Prices, Receipt, RequestId, Reservation, SecretKey, Signed,
    TypedData, UnixSeconds, Usage, Voucher,
};

use super::document::{Claim, Document, Entry, Evidence, OwnNotes, Side};

const DOMAIN: Domain = Domain {
    chain_id: 31_337,
    contract: Address::repeat_byte(0xcc),
};
const NETWORK: NetworkId = NetworkId(B256::repeat_byte(0x11));
/// 2026-11-20 17:30 UTC.
const NOON: u64 = 1_795_195_800;

fn key(number: u8) -> SecretKey {
    SecretKey::from_bytes(&[number; 32]).unwrap()
}

fn deal(salt: u8) -> Deal {
    Deal {
        network: NETWORK,
        request: RequestId(B256::repeat_byte(1)),
        leg: 0,
        offer: OfferId(B256::repeat_byte(2)),
        requester: key(1).address(),
        provider: key(2).address(),
        payer: key(1).address(),
        payer_signer: key(3).address(),
        payout: Address::repeat_byte(5),
        channel_salt: B256::ZERO,
        agent_key: key(4).address(),
        provider_tunnel_key: TunnelKey(B256::repeat_byte(6)),
        requester_tunnel_key: TunnelKey(B256::repeat_byte(7)),
        exit_address: [192, 0, 2, 7].into(),
        policy_hash: B256::repeat_byte(8),
        prices: Prices {
            per_second: PricePerSecond(Amount(7)),
            per_gib: PricePerGib(Amount(1_000)),
        },
        budget: Amount(10_000),
        seconds: 600,
        counter_source: CounterSource::Both,
        sign_by: UnixSeconds(NOON - 60),
        starts_at: UnixSeconds(NOON - 60),
        start_by: UnixSeconds(NOON),
        salt: B256::repeat_byte(salt),
    }
}

fn claims() -> Vec<Claim> {
    let claim = |number: u8, paid, fee, claimed| Claim {
        transaction: B256::repeat_byte(number),
        block: u64::from(number),
        paid: Amount(paid),
        fee: Amount(fee),
        claimed: Amount(claimed),
    };
    vec![claim(1, 3_630, 90, 3_630), claim(2, 1_370, 35, 5_000)]
}

fn notes() -> OwnNotes {
    OwnNotes {
        cause: Some(EndCause::Completed),
        ended_at: Some(UnixSeconds(NOON + 100)),
        usage: Some(Usage::default()),
        vouchers: Some(12),
        exit_seen: Some([192, 0, 2, 7].into()),
        connections_checked: Some(ConnectionsChecked {
            result: CheckResult::Checked,
            records: 12,
            own: 6,
            until: Some(UnixSeconds(NOON + 90)),
        }),
        country: "FR".parse().ok(),
    }
}

fn entry(salt: u8, paid_before: u128, total: u128, seq: u64) -> Entry {
    let deal = deal(salt);
    let channel_id = deal.channel().id();
    let usage = Usage {
        secs: 90,
        bytes_up: 1 << 30,
        bytes_down: (2 << 30) + 1,
    };
    let deal_amount = deal.prices.due(&usage).unwrap();
    let receipt = Receipt {
        channel_id,
        deal_id: deal.id(),
        seq,
        usage,
        deal_amount,
        cumulative: Amount(paid_before + deal_amount.0),
        observed_at: UnixSeconds(NOON + seq),
        connections_root: B256::repeat_byte(9),
    };
    // The voucher of every second lease answers the receipt before the last.
    let mut answered = receipt.clone();
    if salt.is_multiple_of(2) {
        answered.seq -= 1;
        answered.usage.secs -= 1;
        answered.deal_amount = deal.prices.due(&answered.usage).unwrap();
        answered.cumulative = Amount(paid_before + answered.deal_amount.0);
    }
    let voucher = Voucher {
        channel_id,
        cumulative: Amount(total),
        receipt_hash: answered.signing_hash(&DOMAIN),
    };
    let outcome = Outcome {
        deal_id: deal.id(),
        outcome: Binding::Bound,
    };
    let reservation = Reservation {
        channel_id,
        capacity: Amount(20_000),
        valid_until: UnixSeconds(NOON + 3_600),
    };
    let hash = deal.signing_hash(&DOMAIN);
    let evidence = Evidence {
        operator: key(9).address(),
        fee_bps: 250,
        provider_signature: key(2).sign_hash(hash),
        requester_signature: key(1).sign_hash(hash),
        outcome: Some(Signed::sign(outcome, &DOMAIN, &key(9))),
        reservation: Some(Signed::sign(reservation, &DOMAIN, &key(9))),
        paid_before: Amount(paid_before),
        voucher: Some(Signed::sign(voucher, &DOMAIN, &key(3))),
        answered: Some(Signed::sign(answered, &DOMAIN, &key(4))),
        receipt: Some(Signed::sign(receipt, &DOMAIN, &key(4))),
        claims: Some(claims()),
        deal,
    };
    Entry::new(evidence, notes())
}

/// Two leases, 4,000 promised for each, of which 5,000 are claimed.
pub(crate) fn two_leases() -> Document {
    let entries = vec![entry(1, 0, 4_000, 90), entry(2, 4_000, 8_000, 180)];
    let period = Some("2026-11".into());
    Document::new(Side::Requester, period, DOMAIN, NETWORK, entries)
}

/// A lease that ended before its first voucher.
pub(crate) fn voucherless() -> Entry {
    let mut evidence = entry(3, 0, 0, 1).evidence;
    evidence.voucher = None;
    evidence.answered = None;
    evidence.receipt = None;
    Entry::new(evidence, notes())
}
