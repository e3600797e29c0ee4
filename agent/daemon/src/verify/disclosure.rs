//! One connection of a provider's record: that both sides signed the lease, that the provider signed the root, and that
//! the record is under it.

use std::net::{IpAddr, SocketAddr};

use ipsx_market::deal::{Binding, Deal, Outcome};
use ipsx_metering::{
    Address, B256, Domain, Receipt, Signature, Signed, TypedData, Voucher, keccak256,
};
use serde::Deserialize;

use super::findings::Findings;
use super::signature::{is_from, signed_by};

/// The shape that this verifier knows.
pub(super) const FORMAT: &str = "ipsx-disclosure-1";
/// Levels of the tree.
const DEPTH: usize = 32;

/// A disclosure as a verifier reads it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Disclosure {
    format: String,
    domain: Domain,
    operator: Address,
    deal: Deal,
    provider_signature: Signature,
    requester_signature: Signature,
    outcome: Signed<Outcome>,
    receipt: Signed<Receipt>,
    voucher: Option<Signed<Voucher>>,
    record: Record,
    index: u64,
    blinding: B256,
    path: Vec<B256>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    deal_id: B256,
    transport: Transport,
    source_port: u16,
    destination: SocketAddr,
    opened_at: u64,
    end: Option<End>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Transport {
    Tcp = 6,
    Udp = 17,
    Icmp = 1,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    at: u64,
    bytes_up: u64,
    bytes_down: u64,
}

/// Checks everything that a disclosure says.
pub(super) fn check(document: &Disclosure) -> Findings {
    let mut found = Findings::default();
    let Disclosure {
        deal,
        domain,
        receipt,
        record,
        ..
    } = document;
    let deal_id = deal.struct_hash();
    let mut check = |what: &str, holds: bool| found.check("disclosure", what, holds);
    check("its format is ipsx-disclosure-1", document.format == FORMAT);
    let lent = signed_by(deal, &document.provider_signature, domain, deal.provider);
    check("the provider signed the deal", lent);
    let leased = signed_by(deal, &document.requester_signature, domain, deal.requester);
    check("the requester signed the deal", leased);
    let bound = &document.outcome.message;
    let bound = bound.deal_id.0 == deal_id && bound.outcome == Binding::Bound;
    let signed = is_from(&document.outcome, domain, document.operator);
    check("the operator bound the deal", bound && signed);
    let of_lease = receipt.message.deal_id.0 == deal_id
        && receipt.message.channel_id.0 == deal.channel().struct_hash();
    let signed = is_from(receipt, domain, deal.agent_key);
    check("the agent key signed the receipt", of_lease && signed);
    check("the connection is of this lease", record.deal_id == deal_id);
    let before_end = record
        .end
        .as_ref()
        .is_none_or(|end| record.opened_at <= end.at);
    check("it was opened before it ended", before_end);
    let root = root(document);
    check(
        "it is under the root in the receipt",
        root == Some(receipt.message.connections_root),
    );
    match &document.voucher {
        Some(voucher) => {
            let ours = voucher.message.channel_id.0 == deal.channel().struct_hash()
                && voucher.message.receipt_hash == receipt.message.signing_hash(domain);
            let signed = is_from(voucher, domain, deal.payer_signer);
            check("the payer signed for this receipt", ours && signed);
        }
        None => found.unproven(
            "voucher",
            "no voucher that answers this receipt was kept: only the provider has signed its root",
        ),
    }
    found.unproven("times", "by the provider's clock");
    found.unproven(
        "appointment",
        "that the operator runs the network is on the chain",
    );
    found
}

/// Where the record and its path lead.
fn root(document: &Disclosure) -> Option<B256> {
    if document.path.len() != DEPTH || document.index >> DEPTH != 0 {
        return None;
    }
    let leaf = [
        &[0],
        document.blinding.as_slice(),
        &encoded(&document.record),
    ]
    .concat();
    let mut hash = keccak256(leaf);
    for (level, sibling) in document.path.iter().enumerate() {
        let is_right = document.index >> level & 1 == 1;
        let (left, right) = if is_right {
            (sibling, &hash)
        } else {
            (&hash, sibling)
        };
        hash = keccak256([&[1], left.as_slice(), right.as_slice()].concat());
    }
    Some(hash)
}

/// The bytes of a record, as `docs/connections.md` lays them out.
fn encoded(record: &Record) -> Vec<u8> {
    let mut bytes = record.deal_id.to_vec();
    bytes.push(record.transport as u8);
    bytes.extend(record.source_port.to_be_bytes());
    match record.destination.ip() {
        IpAddr::V4(address) => {
            bytes.push(4);
            bytes.extend([0; 10]);
            bytes.extend([0xff; 2]);
            bytes.extend(address.octets());
        }
        IpAddr::V6(address) => {
            bytes.push(6);
            bytes.extend(address.octets());
        }
    }
    bytes.extend(record.destination.port().to_be_bytes());
    bytes.extend(record.opened_at.to_be_bytes());
    bytes.push(u8::from(record.end.is_some()));
    let numbers = record.end.as_ref();
    let numbers = numbers.map_or([0; 3], |end| [end.at, end.bytes_up, end.bytes_down]);
    bytes.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
    bytes
}
