//! What the contract keeps, read back as this project's types.

use alloy_primitives::{Address, U256};
use ipsx_metering::{Amount, ChannelId, NetworkId, UnixSeconds};
use serde::{Deserialize, Serialize};

use super::{Centralizer, ContractError, amount};
use crate::bindings::{Centralizer as abi, Erc20Permit as erc20};

/// A network as the contract knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkState {
    /// Key that signs reservations.
    pub operator: Address,
    /// When the key was last rotated; 0 for never.
    pub rotated_at: UnixSeconds,
    /// The key before; it serves reservations that end within 24 h of the rotation.
    pub previous_operator: Address,
    /// Cold key; zero if there is no such network.
    pub admin: Address,
    /// Who is credited the fees.
    pub treasury: Address,
    /// Fee in hundredths of a percent.
    pub fee_bps: u16,
    /// What covers the operator's mistakes.
    pub bond: Amount,
    /// The part of the bond that notice was given for.
    pub bond_pending: Amount,
    /// When the notice was given.
    pub bond_requested_at: UnixSeconds,
}

impl NetworkState {
    /// Whether the network was ever created.
    pub fn exists(&self) -> bool {
        !self.admin.is_zero()
    }
}

/// A payer's deposit on one network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountState {
    /// What is deposited and neither paid nor held.
    pub balance: Amount,
    /// What its owner asked to take out.
    pub pending: Amount,
    /// When it asked.
    pub requested_at: UnixSeconds,
    /// What the bond paid in its place.
    pub debt: Amount,
    /// Number of the next operator's withdrawal.
    pub withdrawal_nonce: u64,
    /// Number of the next authorisation.
    pub authorization_nonce: u64,
}

/// What a channel was paid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelState {
    /// In all so far.
    pub claimed: Amount,
    /// Set aside for it.
    pub held: Amount,
    /// Until when.
    pub held_until: UnixSeconds,
}

/// What the contract owes somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credits {
    /// To be pulled to any address.
    pub amount: Amount,
    /// Number of the owner's next signed transfer.
    pub nonce: u64,
}

impl From<abi::accountsReturn> for AccountState {
    fn from(account: abi::accountsReturn) -> Self {
        Self {
            balance: Amount(account.balance.to()),
            pending: Amount(account.pending.to()),
            requested_at: UnixSeconds(account.requestedAt.to()),
            debt: Amount(account.debt),
            withdrawal_nonce: account.withdrawalNonce,
            authorization_nonce: account.authorizationNonce,
        }
    }
}

impl From<abi::channelsReturn> for ChannelState {
    fn from(channel: abi::channelsReturn) -> Self {
        Self {
            claimed: Amount(channel.claimed.to()),
            held: Amount(channel.held.to()),
            held_until: UnixSeconds(channel.heldUntil.to()),
        }
    }
}

impl Centralizer {
    /// A network; see [`NetworkState::exists`].
    pub async fn network(&self, id: NetworkId) -> Result<NetworkState, ContractError> {
        let n = self
            .read("show the network", abi::networksCall { id: id.0 })
            .await?;
        Ok(NetworkState {
            operator: n.operator,
            rotated_at: UnixSeconds(n.rotatedAt.to()),
            previous_operator: n.previousOperator,
            admin: n.admin,
            treasury: n.treasury,
            fee_bps: n.feeBps,
            bond: Amount(n.bond.to()),
            bond_pending: Amount(n.bondPending.to()),
            bond_requested_at: UnixSeconds(n.bondRequestedAt.to()),
        })
    }

    /// A payer's deposit; all zero if there never was one.
    pub async fn account(
        &self,
        network: NetworkId,
        owner: Address,
    ) -> Result<AccountState, ContractError> {
        let call = abi::accountsCall {
            network: network.0,
            owner,
        };
        Ok(self.read("show the account", call).await?.into())
    }

    /// The same as far as it can't be taken back by a reorganisation.
    pub async fn account_final(
        &self,
        network: NetworkId,
        owner: Address,
    ) -> Result<AccountState, ContractError> {
        let call = abi::accountsCall {
            network: network.0,
            owner,
        };
        let account = self.read_final("show the account", call).await?;
        Ok(account.map(Into::into).unwrap_or_default())
    }

    /// Last second at which a session key counts; 0 if it was never authorised.
    pub async fn signer_valid_to(
        &self,
        network: NetworkId,
        payer: Address,
        signer: Address,
    ) -> Result<UnixSeconds, ContractError> {
        let call = abi::signersCall {
            network: network.0,
            payer,
            signer,
        };
        let valid_to = self.read("show the session key", call).await?;
        Ok(super::time(valid_to))
    }

    /// What a channel was paid and what is held for it.
    pub async fn channel(&self, id: ChannelId) -> Result<ChannelState, ContractError> {
        let call = abi::channelsCall { channelId: id.0 };
        Ok(self.read("show the channel", call).await?.into())
    }

    /// The same as far as it can't be taken back by a reorganisation.
    pub async fn channel_final(&self, id: ChannelId) -> Result<ChannelState, ContractError> {
        let call = abi::channelsCall { channelId: id.0 };
        let channel = self.read_final("show the channel", call).await?;
        Ok(channel.map(Into::into).unwrap_or_default())
    }

    /// What a channel was paid in all so far.
    pub async fn claimed(&self, id: ChannelId) -> Result<Amount, ContractError> {
        Ok(self.channel(id).await?.claimed)
    }

    /// What the contract owes `owner`.
    pub async fn credits(&self, owner: Address) -> Result<Credits, ContractError> {
        let c = self
            .read("show the credits", abi::creditsCall { owner })
            .await?;
        Ok(Credits {
            amount: Amount(c.amount),
            nonce: c.nonce,
        })
    }

    /// Tokens in an account's own wallet.
    pub async fn token_balance(&self, account: Address) -> Result<Amount, ContractError> {
        let call = erc20::balanceOfCall { account };
        let tokens: U256 = self
            .read_from(self.deployment.token, "show the tokens", call)
            .await?;
        Ok(amount(tokens))
    }
}
