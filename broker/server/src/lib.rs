//! The broker of one network: agents over QUIC, requesters over HTTP, a store, the operator's wallet and its chain.
//!
//! [`Broker::start`] runs one in this process; the program `ipsx-broker` is little more than that.

pub mod config;
mod error;

use std::net::SocketAddr;
use std::sync::Arc;

use ipsx_market::http::NetworkInfo;
use ipsx_metering::{Address, Amount, B256};
use ipsx_settlement::{Chain, Wallet};

pub use config::BrokerConfig;
pub use error::{GrantError, StartError};

/// A running broker. Dropping it stops it at once, as a crash would; [`Broker::shutdown`] lets answers go out first.
pub struct Broker {
    http_addr: SocketAddr,
    agents_addr: SocketAddr,
    info: NetworkInfo,
    chain: Arc<dyn Chain>,
    operator: Arc<Wallet>,
}

impl Broker {
    /// Opens the store and the chain, creates the network on the first start, takes up unfinished deals, and
    /// listens. Returns once agents and requesters can connect.
    pub async fn start(config: BrokerConfig) -> Result<Self, StartError> {
        unimplemented!("{config:?}")
    }

    /// Where requesters connect, with the port that was really taken.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Where agents connect, with the port that was really taken.
    pub fn agents_addr(&self) -> SocketAddr {
        self.agents_addr
    }

    /// What `GET /v1/network` answers; `chain_rpc` is the path `/rpc` with the embedded chain.
    pub fn network_info(&self) -> &NetworkInfo {
        &self.info
    }

    /// The chain, embedded or a node.
    pub fn chain(&self) -> Arc<dyn Chain> {
        self.chain.clone()
    }

    /// The operator's wallet: on the embedded chain it owns all tokens at first.
    pub fn operator(&self) -> Arc<Wallet> {
        self.operator.clone()
    }

    /// Sends tokens and (on the embedded chain) gas money from the operator to a newcomer; returns the transaction.
    pub async fn grant(&self, to: Address, amount: Amount) -> Result<B256, GrantError> {
        unimplemented!("{to} {amount}")
    }

    /// Stops listening, lets answers under way go out, closes the store.
    pub async fn shutdown(self) {}
}
