//! What payer and provider say to each other while a lease runs: receipts one way, vouchers the other.
//!
//! When payer and peer are one, each message is one UDP datagram inside the tunnel; else it is
//! [sealed](crate::sealed) and carried by the broker. Loss and reordering need nothing: both keep the highest.

use ipsx_metering::{ConnectionPage, Receipt, Reservation, Signed, Voucher};
use serde::{Deserialize, Serialize};

use crate::messages::EndCause;

/// Largest payment message, bytes: one inner packet.
pub const MAX_PAYMENT_MESSAGE: usize = 1_200;

/// From payer to provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PayerMessage {
    /// A payment.
    Voucher(Signed<Voucher>),
    /// Measures the round trip and shows that the tunnel carries packets; answered by an equal `Echo`.
    Echo(u64),
    /// Asks for the records of the payer's own connections, from this number on; the ones before it have arrived.
    Connections(u64),
    /// The payer ends the lease.
    End(EndCause),
}

/// From provider to payer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProviderMessage {
    /// What has been used, and what the channel's voucher must reach.
    Receipt(Signed<Receipt>),
    /// The promise that covers the channel, whenever it changed.
    Reservation(Signed<Reservation>),
    /// A voucher of this cumulative amount is on the provider's disk.
    Stored(ipsx_metering::Amount),
    /// Records of the payer's connections, as they stand under the root in the receipts. Shown inside the tunnel only.
    Connections(ConnectionPage),
    /// The answer to the payer's `Echo`.
    Echo(u64),
    /// The provider ends the lease.
    End(EndCause),
}
