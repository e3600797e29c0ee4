//! What a provider hands over about one connection. `docs/connections.md` describes each field.

use ipsx_market::deal::{Deal, Outcome};
use ipsx_metering::{Address, B256, Connection, Domain, Receipt, Signature, Signed, Voucher};
use serde::Serialize;

/// One connection, and who had leased the address it came from.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Disclosure {
    /// `ipsx-disclosure-1`.
    pub(crate) format: &'static str,
    /// Chain and contract that everything is signed for.
    pub(crate) domain: Domain,
    /// The network's operator.
    pub(crate) operator: Address,
    /// The deal.
    pub(crate) deal: Deal,
    /// The provider's wallet over it.
    pub(crate) provider_signature: Signature,
    /// The requester's wallet over it: its consent to this lease of this address.
    pub(crate) requester_signature: Signature,
    /// The network's word that it was bound.
    pub(crate) outcome: Signed<Outcome>,
    /// A receipt of the lease, with the root of its connection record.
    pub(crate) receipt: Signed<Receipt>,
    /// The voucher that answers this receipt, if it was kept: the payer's signature over the root.
    pub(crate) voucher: Option<Signed<Voucher>>,
    /// The connection.
    pub(crate) record: Connection,
    /// Its place in the record.
    pub(crate) index: u64,
    /// What hides its leaf from guesses.
    pub(crate) blinding: B256,
    /// The hashes beside its path to the root.
    pub(crate) path: Vec<B256>,
}
