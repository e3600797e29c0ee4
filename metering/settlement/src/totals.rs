//! The contract's books, added up from its events: for statements, and to check that every token is accounted for.

use std::collections::BTreeSet;

use alloy_primitives::{Address, B256};
use alloy_sol_types::SolEvent;
use ipsx_metering::{Amount, ChannelId, NetworkId};
use serde::{Deserialize, Serialize};

use crate::bindings::Centralizer as abi;
use crate::chain::{Log, LogFilter};
use crate::contract::{Centralizer, ContractError};

/// Everything the contract holds, by what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Tokens at the contract's address.
    pub tokens: Amount,
    /// Deposits of all accounts.
    pub balances: Amount,
    /// Set aside for channels.
    pub held: Amount,
    /// Owed to providers and treasuries.
    pub credits: Amount,
    /// Bonds of all networks.
    pub bonds: Amount,
}

impl Totals {
    /// Whether every token belongs to somebody. Tokens that were sent to the contract without a call make it false.
    pub fn conserved(&self) -> bool {
        self.tokens
            == [self.balances, self.held, self.credits, self.bonds]
                .into_iter()
                .sum()
    }
}

/// Who and what the contract's events have named.
#[derive(Default)]
struct Named {
    networks: BTreeSet<B256>,
    accounts: BTreeSet<(B256, Address)>,
    channels: BTreeSet<B256>,
    creditors: BTreeSet<Address>,
}

impl Centralizer {
    /// Adds up the contract's books. Reads all of its events: for private chains, tests and auditors.
    pub async fn totals(&self) -> Result<Totals, ContractError> {
        let address = self.deployment().centralizer;
        let filter = LogFilter {
            addresses: vec![address],
            ..LogFilter::default()
        };
        let logs = self
            .chain()
            .logs(&filter)
            .await
            .map_err(ContractError::Chain)?;
        let mut named = Named::default();
        for log in &logs {
            named.note(log).map_err(|e| ContractError::Unreadable {
                action: "list its events",
                reason: e.to_string(),
            })?;
        }
        let mut totals = Totals {
            tokens: self.token_balance(address).await?,
            ..Totals::default()
        };
        for (network, owner) in named.accounts {
            let account = self.account(NetworkId(network), owner).await?;
            totals.balances = totals.balances.saturating_add(account.balance);
        }
        for channel in named.channels {
            let channel = self.channel(ChannelId(channel)).await?;
            totals.held = totals.held.saturating_add(channel.held);
        }
        for owner in named.creditors {
            let credits = self.credits(owner).await?;
            totals.credits = totals.credits.saturating_add(credits.amount);
        }
        for network in named.networks {
            let network = self.network(NetworkId(network)).await?;
            totals.bonds = totals.bonds.saturating_add(network.bond);
        }
        Ok(totals)
    }
}

impl Named {
    fn note(&mut self, log: &Log) -> Result<(), alloy_sol_types::Error> {
        let topics = || log.topics.iter().copied();
        match log.topics.first() {
            Some(&abi::NetworkCreated::SIGNATURE_HASH) => {
                let e = abi::NetworkCreated::decode_raw_log(topics(), &log.data)?;
                self.networks.insert(e.network);
                self.creditors.insert(e.treasury);
            }
            Some(&abi::Deposited::SIGNATURE_HASH) => {
                let e = abi::Deposited::decode_raw_log(topics(), &log.data)?;
                self.accounts.insert((e.network, e.owner));
            }
            Some(&abi::Settled::SIGNATURE_HASH) => {
                let e = abi::Settled::decode_raw_log(topics(), &log.data)?;
                self.channels.insert(e.channelId);
                self.creditors.insert(e.provider);
            }
            Some(&abi::Held::SIGNATURE_HASH) => {
                let e = abi::Held::decode_raw_log(topics(), &log.data)?;
                self.channels.insert(e.channelId);
            }
            _ => {}
        }
        Ok(())
    }
}
