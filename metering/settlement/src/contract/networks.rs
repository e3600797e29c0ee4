//! Networks: opening one, its operator key, its bond.

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_sol_types::SolValue;
use ipsx_metering::{Amount, NetworkId};

use super::{Centralizer, ContractError, uint96};
use crate::bindings::Centralizer as abi;
use crate::chain::TransactionReceipt;
use crate::wallet::Signer;

/// What a new network is made of.
#[derive(Clone, Copy, Debug)]
pub struct NewNetwork {
    /// Key that signs reservations.
    pub operator: Address,
    /// Cold key that rotates the operator and takes the bond.
    pub admin: Address,
    /// Who is credited the fees.
    pub treasury: Address,
    /// Fee in hundredths of a percent, at most 1,000.
    pub fee_bps: u16,
    /// Tells networks of the same parties apart.
    pub salt: B256,
}

impl Centralizer {
    /// Opens a network; its id binds the creator (the signer) and everything but the operator key.
    pub async fn create_network(
        &self,
        signer: &dyn Signer,
        network: NewNetwork,
    ) -> Result<NetworkId, ContractError> {
        let call = abi::createNetworkCall {
            operator: network.operator,
            admin: network.admin,
            treasury: network.treasury,
            feeBps: network.fee_bps,
            salt: network.salt,
        };
        self.write(signer, "create the network", call).await?;
        let id = (
            signer.address(),
            network.admin,
            network.treasury,
            network.fee_bps,
            network.salt,
        );
        Ok(NetworkId(keccak256(id.abi_encode())))
    }

    /// Replaces the operator key, by the admin.
    pub async fn rotate_operator(
        &self,
        admin: &dyn Signer,
        network: NetworkId,
        operator: Address,
    ) -> Result<TransactionReceipt, ContractError> {
        let call = abi::rotateOperatorCall {
            network: network.0,
            operator,
        };
        self.write(admin, "rotate the operator key", call).await
    }

    /// Adds the signer's tokens to a network's bond.
    pub async fn add_bond(
        &self,
        signer: &dyn Signer,
        network: NetworkId,
        amount: Amount,
    ) -> Result<TransactionReceipt, ContractError> {
        self.allow(signer, amount).await?;
        let call = abi::addBondCall {
            network: network.0,
            amount: U256::from(amount.0),
        };
        self.write(signer, "add to the bond", call).await
    }

    /// Gives 7 days' notice for a part of the bond, by the admin.
    pub async fn request_bond(
        &self,
        admin: &dyn Signer,
        network: NetworkId,
        amount: Amount,
    ) -> Result<TransactionReceipt, ContractError> {
        let call = abi::requestBondCall {
            network: network.0,
            amount: uint96(amount),
        };
        self.write(admin, "give notice for the bond", call).await
    }

    /// Takes the part of the bond that notice was given for, by the admin.
    pub async fn withdraw_bond(
        &self,
        admin: &dyn Signer,
        network: NetworkId,
        to: Address,
    ) -> Result<TransactionReceipt, ContractError> {
        let call = abi::withdrawBondCall {
            network: network.0,
            to,
        };
        self.write(admin, "take the bond", call).await
    }
}
