//! The provider: decides what is offered, which deals are signed, when a lease's traffic passes and what it has
//! cost. The shell beside it sends, stores and asks the chain.
//!
//! A lease goes through these hands: a proposal is judged and signed ([`Command::AcceptDeal`]); the bound deal is
//! verified and the chain asked about its reservation ([`Command::ReadChain`]); its peer is opened
//! ([`Command::OpenPeer`]) behind a closed gate; the first stored voucher opens it ([`Command::SetGate`]); the
//! meter's receipts and vouchers go by until it ends, and everybody is told.

mod bound;
mod channels;
mod command;
mod consent;
mod ending;
mod event;
mod gate;
mod handshake;
mod judge;
mod keys;
mod lease;
mod machine;
mod month;
mod offers;
mod ports;
mod punching;
mod reaching;
mod reserving;
mod selling;
mod service;
mod settings;
mod shown;

pub use bound::NotBound;
pub use command::{
    ChainQuery, Command, KnownChannel, LeaseRecord, PaymentPath, Peer, Restored, StoreVoucher,
};
pub use consent::{ConsentRecord, ConsentText, policy_hash};
pub use event::{ProviderEvent, cause_in_words};
pub use handshake::{NotTheBroker, authentication_hash, check_welcome};
pub use ipsx_metering::ROUND_TRIP;
pub use judge::Declined;
pub use keys::ProviderKeys;
pub use machine::{PeerAddresses, Provider};
pub use month::MonthTraffic;
pub use ports::open_ports;
pub use settings::{EndpointHint, ExposureLimits, Network, Now, OfferTerms, Settings, TermsError};
pub use shown::RecordedConnections;
#[cfg(test)]
pub(crate) use shown::Unseen;

#[cfg(test)]
mod tests;
