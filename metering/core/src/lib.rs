//! What is owed for a lease, and the signed messages that move it: pure types and state machines.
//!
//! Nothing here touches a socket, a clock, a file or a source of randomness. Amounts are integers in the
//! token's smallest unit; every signed message is EIP-712 typed data of its own type.

mod amount;
mod ids;
mod signature;
mod typed_data;

pub use amount::{Amount, Overflow, PricePerGib, PricePerSecond, Prices, Usage};
pub use ids::{ChannelId, DealId, NetworkId, OfferId, RequestId, UnixSeconds};
pub use signature::{
    MalformedSignature, SecretKey, Signature, Signed, VerifyError, recover, verify,
};
pub use typed_data::{
    Authorization, Channel, Close, CreditsTransfer, Domain, Receipt, Reservation, TypedData,
    Voucher, Withdrawal,
};

pub use alloy_primitives::{Address, B256, U256, address, b256, keccak256};
