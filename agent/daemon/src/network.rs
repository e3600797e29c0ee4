//! The network that a broker runs, believed only as far as the chain confirms it.

use std::net::SocketAddr;
use std::sync::Arc;

use ipsx_agent_core::provider::Network as Rules;
use ipsx_market::http::NetworkInfo;
use ipsx_market::messages::PROTOCOL_VERSION;
use ipsx_settlement::{
    Centralizer, Chain, ChainError, ContractError, Deployment, NetworkState, RpcChain,
};

use crate::amount;
use crate::broker::Broker;
use crate::config::Settings;
use crate::exit_code::{ExitCode, Failure};

/// A network, its contract and its chain.
#[derive(Clone)]
pub struct Network {
    /// What its broker says.
    pub info: NetworkInfo,
    /// Where its brokers take agents, as far as they are known; one at least.
    pub agents: Vec<SocketAddr>,
    /// What signed messages are checked against.
    pub rules: Rules,
    /// The contract.
    pub contract: Centralizer,
    /// The network as the contract knows it.
    pub state: NetworkState,
}

impl Network {
    /// Asks the broker for its network and checks on the chain that it is what it says.
    pub async fn join(settings: &Settings, broker: &Broker) -> Result<Self, Failure> {
        let info = broker.network().await?;
        if let Some(pinned) = settings.operator
            && pinned != info.operator
        {
            return Err(Failure::new(
                ExitCode::Refused,
                format!(
                    "the broker at {} is run by {}, but {pinned} is pinned; check --broker, or operator in the configuration",
                    broker.url(),
                    info.operator
                ),
            ));
        }
        let rpc = settings
            .rpc
            .clone()
            .unwrap_or_else(|| chain_url(broker.url(), &info.chain_rpc));
        let chain = RpcChain::via(&rpc, broker.connector().clone()).map_err(chain_failure)?;
        Self::on(info, Arc::new(chain)).await
    }

    /// The network `info` on `chain`, checked.
    pub async fn on(info: NetworkInfo, chain: Arc<dyn Chain>) -> Result<Self, Failure> {
        if info.version != PROTOCOL_VERSION {
            return Err(Failure::new(
                ExitCode::Refused,
                format!(
                    "the broker speaks version {} of the protocol, this program {PROTOCOL_VERSION}; update the older one",
                    info.version
                ),
            ));
        }
        let deployment = Deployment {
            chain_id: info.domain.chain_id,
            token: info.token,
            centralizer: info.domain.contract,
        };
        let contract = Centralizer::connect(chain, deployment)
            .await
            .map_err(contract_failure)?;
        let state = contract
            .network(info.network)
            .await
            .map_err(contract_failure)?;
        let compared = [
            (
                "its existence",
                "yes".into(),
                (if state.exists() { "yes" } else { "no" }).into(),
            ),
            (
                "its operator",
                info.operator.to_string(),
                state.operator.to_string(),
            ),
            (
                "its fee",
                format!("{} basis points", info.fee_bps),
                format!("{} basis points", state.fee_bps),
            ),
            (
                "its treasury",
                info.treasury.to_string(),
                state.treasury.to_string(),
            ),
        ];
        let differs = |(_, broker, chain): &(&str, String, String)| broker != chain;
        if let Some((what, broker, chain)) = compared.into_iter().find(differs) {
            return Err(Failure::new(
                ExitCode::Refused,
                format!(
                    "the broker and the chain disagree on network {}: {what} is {broker} by the broker, {chain} by the chain; check --broker and --rpc, and trust neither until they agree",
                    info.network
                ),
            ));
        }
        let rules = Rules {
            id: info.network,
            domain: info.domain,
            operator: info.operator,
        };
        Ok(Self {
            agents: vec![info.agents],
            info,
            rules,
            contract,
            state,
        })
    }
}

/// The chain's URL as the broker names it: absolute, or a path on the broker itself.
fn chain_url(broker: &str, named: &str) -> String {
    if named.starts_with('/') {
        format!("{broker}{named}")
    } else {
        named.into()
    }
}

/// A chain's error with its exit code.
pub fn chain_failure(error: ChainError) -> Failure {
    let code = match &error {
        ChainError::Unreachable { .. }
        | ChainError::Malformed { .. }
        | ChainError::NotIncluded { .. } => ExitCode::Unreachable,
        ChainError::Endpoint { .. } => ExitCode::Usage,
        ChainError::Rejected { reason } if reason.contains("insufficient funds") => {
            ExitCode::Balance
        }
        _ => ExitCode::Refused,
    };
    let hint = if code == ExitCode::Balance {
        "; send some gas money to this wallet's address"
    } else {
        ""
    };
    Failure::new(code, format!("{error}{hint}"))
}

/// A contract's error with its exit code; amounts in whole tokens.
pub fn contract_failure(error: ContractError) -> Failure {
    use ipsx_settlement::Refusal;
    match error {
        ContractError::Chain(error) => chain_failure(error),
        ContractError::Refused {
            action,
            reason: Refusal::InsufficientFunds(available),
        } => Failure::new(
            ExitCode::Balance,
            format!(
                "the contract refused to {action}: only {} are available",
                amount::tokens(available)
            ),
        ),
        error @ ContractError::Refused { .. } => Failure::new(ExitCode::Refused, error.to_string()),
        error => Failure::new(ExitCode::Unreachable, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_on_the_broker() {
        assert_eq!(chain_url("http://b:1", "/rpc"), "http://b:1/rpc");
        assert_eq!(chain_url("http://b:1", "http://n:8545"), "http://n:8545");
    }
}
