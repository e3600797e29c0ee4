//! Who holds how many tokens, read from the chain.

use ipsx_metering::Amount;
use ipsx_settlement::{Signer, Totals};
use serde::Serialize;

use super::world::World;
use crate::exit_code::Failure;
use crate::network::contract_failure;

/// Every token of the demo's market, by who it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Books {
    /// Names and amounts; what nobody here holds is in the last one.
    pub(super) holders: Vec<(String, Amount)>,
    /// What the contract holds, by what it is.
    pub(super) totals: Totals,
}

impl Books {
    /// Reads them.
    pub(super) async fn read(world: &World) -> Result<Self, Failure> {
        let contract = &world.network.contract;
        let network = world.network.info.network;
        let requester = world.requester.wallet.address();
        let mut holders = Vec::new();
        let wallet = contract
            .token_balance(requester)
            .await
            .map_err(contract_failure)?;
        let account = contract
            .account(network, requester)
            .await
            .map_err(contract_failure)?;
        holders.push(("requester_wallet".to_string(), wallet));
        holders.push(("requester_deposit".to_string(), account.balance));
        for provider in &world.providers {
            let credits = contract
                .credits(world.payout(provider))
                .await
                .map_err(contract_failure)?;
            let tokens = contract
                .token_balance(provider.wallet.address())
                .await
                .map_err(contract_failure)?;
            let name = format!("provider_{}", provider.country.to_lowercase());
            holders.push((name, credits.amount.saturating_add(tokens)));
        }
        let treasury = contract
            .credits(world.treasury)
            .await
            .map_err(contract_failure)?;
        holders.push(("treasury".to_string(), treasury.amount));
        let operator = world.broker.operator().address();
        holders.push((
            "operator_wallet".to_string(),
            contract
                .token_balance(operator)
                .await
                .map_err(contract_failure)?,
        ));
        let totals = contract.totals().await.map_err(contract_failure)?;
        Ok(Self { holders, totals })
    }

    /// What `name` holds.
    pub(super) fn of(&self, name: &str) -> Amount {
        self.holders
            .iter()
            .find(|(holder, _)| holder == name)
            .map_or(Amount::ZERO, |(_, amount)| *amount)
    }

    /// All tokens together.
    pub(super) fn sum(&self) -> Amount {
        self.holders.iter().map(|(_, amount)| *amount).sum()
    }

    /// Whether nothing was lost or made between the two, and the contract's own books are in order both times.
    pub(super) fn conserved(&self, later: &Self) -> bool {
        self.sum() == later.sum() && self.totals.conserved() && later.totals.conserved()
    }
}

impl Serialize for Books {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.holders.iter().map(|(name, amount)| (name, amount)))
    }
}
