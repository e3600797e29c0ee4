//! A payer's channels with claimable promises, what they come to, and which of them have changed since they were stored.
//!
//! A firm that leases has thousands of them, for a day each. So their sums are kept, and only what has changed is stored.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Exposure;
use crate::{Amount, ChannelId, U256};

/// The channels of one payer.
#[derive(Clone, Debug, Default)]
pub struct Channels {
    exposures: BTreeMap<ChannelId, Exposure>,
    sums: Sums,
    changed: BTreeSet<ChannelId>,
}

/// Sums of amounts, each of which may be the largest there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    counted: U256,
    freed: U256,
}

/// How a channel was before it was changed.
#[derive(Debug)]
pub(super) struct Before {
    id: ChannelId,
    exposure: Option<Exposure>,
    changed: bool,
}

impl Channels {
    /// What can be claimed on one of them.
    pub fn get(&self, id: &ChannelId) -> Option<&Exposure> {
        self.exposures.get(id)
    }

    /// All, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&ChannelId, &Exposure)> {
        self.exposures.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.exposures.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.exposures.is_empty()
    }

    /// What counts against the balance: [`Exposure::counted`] of all.
    pub fn counted(&self) -> Amount {
        amount(self.sums.counted)
    }

    /// What was freed on providers' word: [`Exposure::freed`] of all.
    pub fn freed(&self) -> Amount {
        amount(self.sums.freed)
    }

    pub(super) fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Puts an exposure in the place of what was there.
    pub(super) fn set(&mut self, id: ChannelId, exposure: Option<Exposure>) -> Before {
        Before {
            id,
            exposure: self.put(id, exposure),
            changed: !self.changed.insert(id),
        }
    }

    /// Takes a change back.
    pub(super) fn undo(&mut self, before: Before) {
        self.put(before.id, before.exposure);
        if !before.changed {
            self.changed.remove(&before.id);
        }
    }

    /// Forgets promises that can't be claimed any more, and says whether there were any.
    pub(super) fn forget(&mut self, is_over: impl Fn(&super::Promise) -> bool) -> bool {
        let over = |(id, exposure): (&ChannelId, &Exposure)| {
            exposure.promises.iter().any(&is_over).then_some(*id)
        };
        let over: Vec<_> = self.exposures.iter().filter_map(over).collect();
        for id in &over {
            let mut left = self.get(id).cloned().unwrap_or_default();
            left.promises.retain(|promise| !is_over(promise));
            self.set(*id, Some(left).filter(|left| !left.promises.is_empty()));
        }
        !over.is_empty()
    }

    /// What has changed since this was last asked; `None` of a channel that is gone.
    pub(super) fn take_changes(&mut self) -> Vec<(ChannelId, Option<Exposure>)> {
        let changed = std::mem::take(&mut self.changed).into_iter();
        changed.map(|id| (id, self.get(&id).cloned())).collect()
    }

    fn put(&mut self, id: ChannelId, exposure: Option<Exposure>) -> Option<Exposure> {
        if let Some(new) = &exposure {
            self.sums.counted += U256::from(new.counted().0);
            self.sums.freed += U256::from(new.freed().0);
        }
        let before = match exposure {
            Some(exposure) => self.exposures.insert(id, exposure),
            None => self.exposures.remove(&id),
        };
        if let Some(old) = &before {
            self.sums.counted -= U256::from(old.counted().0);
            self.sums.freed -= U256::from(old.freed().0);
        }
        before
    }
}

fn amount(sum: U256) -> Amount {
    Amount(u128::try_from(sum).unwrap_or(u128::MAX))
}

/// As they were stored.
impl FromIterator<(ChannelId, Exposure)> for Channels {
    fn from_iter<T: IntoIterator<Item = (ChannelId, Exposure)>>(stored: T) -> Self {
        let mut channels = Self::default();
        for (id, exposure) in stored {
            channels.put(id, Some(exposure));
        }
        channels
    }
}

/// The same, whatever of it is stored.
impl PartialEq for Channels {
    fn eq(&self, other: &Self) -> bool {
        self.exposures == other.exposures
    }
}

impl Eq for Channels {}

impl Serialize for Channels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.exposures.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Channels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let exposures = BTreeMap::deserialize(deserializer)?;
        Ok(exposures.into_iter().collect())
    }
}
