//! Every payment channel of this provider: what the next meter starts from, and what is still unclaimed.

use std::collections::HashMap;

use ipsx_metering::{Address, Amount, Channel, ChannelId, ChannelState};

use super::command::KnownChannel;

/// The channels of one network.
#[derive(Debug, Default)]
pub(crate) struct Channels(HashMap<ChannelId, Known>);

#[derive(Debug)]
struct Known {
    payer: Address,
    state: ChannelState,
    claimed: Amount,
}

impl Channels {
    pub(crate) fn new(known: Vec<KnownChannel>) -> Self {
        let entry = |known: KnownChannel| {
            let id = known.channel.id();
            let payer = known.channel.payer;
            (
                id,
                Known {
                    payer,
                    state: known.state,
                    claimed: known.claimed,
                },
            )
        };
        Self(known.into_iter().map(entry).collect())
    }

    /// What the next meter of the channel starts from.
    pub(crate) fn state(&self, id: ChannelId) -> ChannelState {
        self.0
            .get(&id)
            .map_or_else(ChannelState::default, |known| known.state.clone())
    }

    /// Takes a newer state.
    pub(crate) fn update(&mut self, id: ChannelId, channel: &Channel, state: ChannelState) {
        let known = self.0.entry(id).or_insert_with(|| Known {
            payer: channel.payer,
            state: ChannelState::default(),
            claimed: Amount::ZERO,
        });
        known.state = state;
    }

    /// Takes note of what the chain has paid in all; less than before changes nothing.
    pub(crate) fn claimed(&mut self, id: ChannelId, claimed: Amount) {
        if let Some(known) = self.0.get_mut(&id) {
            known.claimed = known.claimed.max(claimed);
        }
    }

    /// Vouchers of one payer that the chain has not paid.
    pub(crate) fn unclaimed_of(&self, payer: Address) -> Amount {
        self.0
            .values()
            .filter(|known| known.payer == payer)
            .map(Known::unclaimed)
            .sum()
    }

    /// Vouchers of all payers that the chain has not paid.
    pub(crate) fn unclaimed(&self) -> Amount {
        self.0.values().map(Known::unclaimed).sum()
    }
}

impl Known {
    fn unclaimed(&self) -> Amount {
        self.state.cumulative().saturating_sub(self.claimed)
    }
}
