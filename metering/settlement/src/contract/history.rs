//! What the contract's events say of channels and networks.

use alloy_primitives::B256;
use alloy_sol_types::SolEvent;
use ipsx_metering::{Amount, ChannelId, NetworkId};

use super::{Centralizer, ContractError, amount};
use crate::bindings::Centralizer as abi;
use crate::chain::LogFilter;

/// A claim that was paid, wholly or in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaidClaim {
    /// Its transaction.
    pub transaction: B256,
    /// Height of its block.
    pub block: u64,
    /// Moved by it, fee included.
    pub paid: Amount,
    /// The network's part of it.
    pub fee: Amount,
    /// Moved on the channel in all after it.
    pub claimed: Amount,
}

impl Centralizer {
    /// Every claim that was paid on a channel, oldest first, from the contract's events.
    pub async fn claims_of(&self, channel: ChannelId) -> Result<Vec<PaidClaim>, ContractError> {
        let claims = self.settled(0, vec![channel.0]).await?;
        Ok(claims.into_iter().map(|(_, claim)| claim).collect())
    }

    /// Every claim that was paid on any channel since a block, oldest first.
    pub async fn claims_since(
        &self,
        block: u64,
    ) -> Result<Vec<(ChannelId, PaidClaim)>, ContractError> {
        self.settled(block, Vec::new()).await
    }

    /// Whether anybody ever deposited on a network.
    pub async fn has_deposits(&self, network: NetworkId) -> Result<bool, ContractError> {
        let filter = LogFilter {
            addresses: vec![self.deployment().centralizer],
            topics: vec![vec![abi::Deposited::SIGNATURE_HASH], vec![network.0]],
            ..LogFilter::default()
        };
        let logs = self.chain().logs(&filter).await;
        let logs = logs.map_err(ContractError::at("look for deposits"))?;
        Ok(!logs.is_empty())
    }

    async fn settled(
        &self,
        from_block: u64,
        channels: Vec<B256>,
    ) -> Result<Vec<(ChannelId, PaidClaim)>, ContractError> {
        let filter = LogFilter {
            from_block,
            addresses: vec![self.deployment().centralizer],
            topics: vec![vec![abi::Settled::SIGNATURE_HASH], channels],
            ..LogFilter::default()
        };
        let logs = self.chain().logs(&filter).await;
        let logs = logs.map_err(ContractError::at("list the claims"))?;
        let paid = |log: &crate::chain::Log| {
            let event = abi::Settled::decode_raw_log(log.topics.iter().copied(), &log.data)?;
            let claim = PaidClaim {
                transaction: log.transaction_hash,
                block: log.block_number,
                paid: amount(event.paid),
                fee: amount(event.fee),
                claimed: amount(event.claimed),
            };
            Ok((ChannelId(event.channelId), claim))
        };
        let claims: Result<Vec<_>, alloy_sol_types::Error> = logs.iter().map(paid).collect();
        claims.map_err(|error| ContractError::Unreadable {
            action: "list the claims",
            reason: error.to_string(),
        })
    }
}
