//! Proposals that wait for their providers' signatures.

use std::collections::{BTreeMap, HashMap};

use ipsx_metering::Address;

use super::Pending;
use crate::record::DealRecord;

/// Proposals by their number, counted for each payer.
#[derive(Clone, Debug, Default)]
pub(super) struct Proposals {
    by_number: BTreeMap<u64, Pending>,
    of_payer: HashMap<Address, usize>,
}

impl Proposals {
    pub(super) fn insert(&mut self, number: u64, pending: Pending) {
        *self.of_payer.entry(payer(&pending)).or_default() += 1;
        self.by_number.insert(number, pending);
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Pending> {
        let pending = self.by_number.remove(&number)?;
        let payer = payer(&pending);
        if let Some(count) = self.of_payer.get_mut(&payer) {
            *count -= 1;
            if *count == 0 {
                self.of_payer.remove(&payer);
            }
        }
        Some(pending)
    }

    pub(super) fn get(&self, number: u64) -> Option<&Pending> {
        self.by_number.get(&number)
    }

    /// A provider has signed; others of the same bundle may not have.
    pub(super) fn sign(&mut self, number: u64, record: DealRecord) {
        if let Some(pending) = self.by_number.get_mut(&number) {
            pending.signed = Some(Box::new(record));
        }
    }

    /// What is signed so.
    pub(super) fn signed(&self) -> impl Iterator<Item = &DealRecord> {
        self.by_number.values().filter_map(|p| p.signed.as_deref())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Pending)> {
        self.by_number
            .iter()
            .map(|(number, pending)| (*number, pending))
    }

    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    /// How many a payer is to pay.
    pub(super) fn of_payer(&self, payer: Address) -> usize {
        self.of_payer.get(&payer).copied().unwrap_or(0)
    }

    /// Those that wait for a provider.
    pub(super) fn of_provider(&self, provider: Address) -> Vec<u64> {
        let asked = self.iter().filter(|(_, p)| p.provider == provider);
        asked.map(|(number, _)| number).collect()
    }
}

fn payer(pending: &Pending) -> Address {
    pending.proposal.request.message.payer
}
