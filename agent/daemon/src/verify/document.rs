//! A statement as a verifier reads it. Fields that it does not know are refused: they could not be checked.

use ipsx_market::deal::{Deal, Outcome};
use ipsx_metering::{
    Address, Amount, B256, ChannelId, DealId, Domain, NetworkId, Receipt, Reservation, Signature,
    Signed, UnixSeconds, Usage, Voucher,
};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub(super) format: String,
    #[serde(rename = "side")]
    pub(super) _side: Side,
    pub(super) period: Option<String>,
    pub(super) domain: Domain,
    pub(super) network: NetworkId,
    pub(super) entries: Vec<Entry>,
    pub(super) totals: Totals,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Side {
    Requester,
    Provider,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) evidence: Evidence,
    #[serde(rename = "notes")]
    pub(super) _notes: Notes,
    pub(super) account: Account,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Evidence {
    pub(super) operator: Address,
    pub(super) fee_bps: u16,
    pub(super) deal: Deal,
    pub(super) provider_signature: Signature,
    pub(super) requester_signature: Signature,
    pub(super) outcome: Option<Signed<Outcome>>,
    pub(super) reservation: Option<Signed<Reservation>>,
    pub(super) paid_before: Amount,
    pub(super) voucher: Option<Signed<Voucher>>,
    pub(super) answered: Option<Signed<Receipt>>,
    pub(super) receipt: Option<Signed<Receipt>>,
    pub(super) claims: Option<Vec<Claim>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Claim {
    #[serde(rename = "transaction")]
    pub(super) _transaction: B256,
    #[serde(rename = "block")]
    pub(super) _block: u64,
    pub(super) paid: Amount,
    pub(super) fee: Amount,
    pub(super) claimed: Amount,
}

/// Signed by nobody; read only so that nothing unknown stands beside it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Notes {
    #[serde(rename = "cause")]
    pub(super) _cause: Value,
    #[serde(rename = "ended_at")]
    pub(super) _ended_at: Value,
    #[serde(rename = "usage")]
    pub(super) _usage: Option<Usage>,
    #[serde(rename = "vouchers")]
    pub(super) _vouchers: Value,
    #[serde(rename = "exit_seen")]
    pub(super) _exit_seen: Value,
    #[serde(rename = "connections_checked")]
    pub(super) _connections_checked: Value,
    #[serde(rename = "country")]
    pub(super) _country: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Account {
    pub(super) deal_id: DealId,
    pub(super) channel: ChannelId,
    pub(super) at: UnixSeconds,
    pub(super) seconds: u64,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    pub(super) used: Amount,
    pub(super) promised: Amount,
    pub(super) prepaid: Amount,
    pub(super) claimed: Option<Amount>,
    pub(super) fee: Option<Amount>,
    pub(super) earned: Option<Amount>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Totals {
    pub(super) leases: u64,
    pub(super) seconds: u64,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    pub(super) used: Amount,
    pub(super) promised: Amount,
    pub(super) claimed: Option<Amount>,
    pub(super) fee: Option<Amount>,
    pub(super) earned: Option<Amount>,
}
