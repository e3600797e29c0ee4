//! What is owed for a lease, and the signed messages that move it: pure types and state machines.
//!
//! Nothing here touches a socket, a clock, a file or a source of randomness. Amounts are integers in the
//! token's smallest unit; every signed message is EIP-712 typed data of its own type.

mod amount;
mod channel;
mod claim;
mod clock;
mod connections;
mod end;
mod error;
mod ids;
mod known_signer;
#[cfg(feature = "openapi")]
pub mod openapi;
mod operator;
mod payer;
mod provider;
mod signature;
mod slice;
mod terms;
#[cfg(test)]
mod tests;
mod typed_data;

pub use amount::{Amount, Overflow, PricePerGib, PricePerSecond, Prices, Usage};
pub use channel::{ChannelState, DealProgress};
pub use claim::{Backing, CLAIM_LEAD, ClaimCause, ClaimRules, Claimable};
pub use connections::{
    CONNECTION_BYTES, CONNECTION_DEPTH, CheckResult, Connection, ConnectionAudit, ConnectionEnd,
    ConnectionFault, ConnectionPage, ConnectionTree, ConnectionsChecked, OwnConnections,
    OwnReading, Transport, blinding, connection_leaf, connection_path, connection_root,
};
pub use end::EndCause;
pub use error::{Misbehaved, OperatorFault, PayerFault, ProviderFault};
pub use ids::{ChannelId, DealId, NetworkId, OfferId, RequestId, UnixSeconds};
pub use known_signer::{CheckedSignature, KnownSigner};
pub use operator::{
    AccountUpdate, Asked, CLAIM_WINDOW, CapacityLedger, ChannelOnChain, Channels, CreditLine,
    Deposit, EXIT_DELAY, Exposure, Freed, OpenWithdrawal, PayerAccount, Promise, Refused,
};
pub use payer::{NotOrdered, PayerEvent, PayerMeter, ReceiptOutcome, ServiceProof, VoucherOrder};
pub use provider::{
    ChainView, HoldCause, PATIENCE, ProviderEvent, ProviderMeter, RESERVATION_LIFETIME,
    ServiceGate, VoucherOutcome,
};
pub use signature::{
    MalformedSignature, SecretKey, Signature, Signed, VerifyError, recover, verify,
};
pub use slice::{LONGEST_SLICE, ROUND_TRIP, SHORTEST_FIRST_SLICE, Slices, capacity, first_slice};
pub use terms::{CounterSource, Terms, TermsError};
pub use typed_data::{
    Authorization, Channel, Close, CreditsTransfer, Domain, Receipt, Reservation, TypedData,
    Voucher, Withdrawal,
};

pub use alloy_primitives::{Address, B256, U256, address, b256, keccak256};
