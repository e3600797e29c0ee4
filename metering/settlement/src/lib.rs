//! Chain access, the voucher store and the wallet: what moves the money that `ipsx-metering` counts.
//!
//! [`Chain`] is one trait over two backends: [`EmbeddedChain`], an EVM in this process, and [`RpcChain`], any node
//! that speaks JSON-RPC. [`Centralizer`] is the contract's client on either. [`VoucherStore`] keeps what was
//! promised, durably; [`claims`] turns it into money.

#![allow(
    clippy::disallowed_types,
    reason = "a shell: keystores, journals and locks are files"
)]

mod bindings;
mod chain;
pub mod claims;
#[cfg(feature = "rpc")]
mod connector;
mod contract;
mod keystore;
mod outbox;
mod phrase;
mod process;
mod refusal;
mod totals;
mod transaction;
mod voucher_store;
mod wallet;

#[cfg(feature = "embedded")]
mod embedded;
#[cfg(feature = "embedded")]
mod journal;
#[cfg(feature = "embedded")]
pub mod json_rpc;
#[cfg(feature = "rpc")]
mod rpc;
#[cfg(any(feature = "embedded", feature = "rpc"))]
mod rpc_format;

pub use chain::{Call, Chain, ChainError, Fees, Head, Log, LogFilter, TransactionReceipt};
#[cfg(feature = "rpc")]
pub use connector::{Connector, Dial};
pub use contract::{
    AccountState, Centralizer, ChannelState, ClaimRow, ContractError, Credits, Deployment,
    NetworkState, NewNetwork, PaidClaim, RowOutcome, Settlement, SignedPermit, SkipReason, deploy,
    deploy_centralizer,
};
#[cfg(feature = "embedded")]
pub use embedded::{Clock, EmbeddedBlock, EmbeddedChain, Genesis, MinedTransaction};
#[cfg(feature = "embedded")]
pub use journal::JournalError;
pub use keystore::{KeystoreError, Passphrase, Sealing};
pub use outbox::{Outbox, Patience};
pub use phrase::Phrase;
pub use process::forbid_core_dumps;
pub use refusal::Refusal;
#[cfg(feature = "rpc")]
pub use rpc::{FINALITY, RpcChain};
pub use totals::Totals;
pub use transaction::{Transaction, send};
pub use voucher_store::{Accepted, StoreError, StoredChannel, VoucherStore};
pub use wallet::{Signer, Wallet};
