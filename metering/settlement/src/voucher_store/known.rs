//! What the open store remembers of each channel: enough to judge a voucher without reading the disk.

use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;
use ipsx_metering::{
    Amount, B256, ChannelId, CheckedSignature, KnownSigner, Signed, TypedData, Voucher,
};

use super::file::StoreError;

#[derive(Clone, Copy, Debug)]
struct Channel {
    signer: KnownSigner,
    /// The latest voucher's amount that is on disk.
    latest: Amount,
}

/// Each channel's signer and latest amount.
#[derive(Debug)]
pub(super) struct KnownChannels {
    /// The contract's domain separator.
    separator: B256,
    channels: Mutex<HashMap<ChannelId, Channel>>,
}

impl KnownChannels {
    pub(super) fn new(separator: B256) -> Self {
        Self {
            separator,
            channels: Mutex::default(),
        }
    }

    /// Every change is one insertion, so what a thread that panicked left behind is whole.
    fn channels(&self) -> MutexGuard<'_, HashMap<ChannelId, Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A channel is on disk, with its latest voucher's amount.
    pub(super) fn add(&self, id: ChannelId, signer: KnownSigner, latest: Amount) {
        let mut channels = self.channels();
        let channel = channels.entry(id).or_insert(Channel { signer, latest });
        channel.latest = channel.latest.max(latest);
    }

    /// What is on disk for a channel, if it is known.
    pub(super) fn latest(&self, id: ChannelId) -> Option<Amount> {
        self.channels().get(&id).map(|channel| channel.latest)
    }

    /// These amounts are on disk now.
    pub(super) fn raise(&self, amounts: impl Iterator<Item = (ChannelId, Amount)>) {
        let mut channels = self.channels();
        for (id, amount) in amounts {
            if let Some(channel) = channels.get_mut(&id) {
                channel.latest = channel.latest.max(amount);
            }
        }
    }

    /// Whether `checked` says of this very voucher that its channel's session key signed it for this contract.
    pub(super) fn is_covered(&self, voucher: &Signed<Voucher>, checked: &CheckedSignature) -> bool {
        let id = voucher.message.channel_id;
        let Some(signer) = self.channels().get(&id).map(|known| known.signer.address()) else {
            return false;
        };
        let hash = voucher.message.hash_within(&self.separator);
        checked.covers(signer, hash, &voucher.signature)
    }

    /// Checks that the channel's session key signed a voucher. The first check of a channel learns its public key.
    pub(super) fn check(&self, voucher: &Signed<Voucher>) -> Result<(), StoreError> {
        let id = voucher.message.channel_id;
        let known = self.channels().get(&id).map(|channel| channel.signer);
        let mut signer = known.ok_or(StoreError::UnknownChannel(id))?;
        let was_known = signer.is_known();
        let hash = voucher.message.hash_within(&self.separator);
        // A forged voucher of a huge amount would shut out every good one.
        signer
            .check(hash, &voucher.signature)
            .map_err(|reason| StoreError::NotTheirs {
                channel: id,
                reason,
            })?;
        if !was_known && let Some(channel) = self.channels().get_mut(&id) {
            channel.signer = signer;
        }
        Ok(())
    }
}
