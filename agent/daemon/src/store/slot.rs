//! Session keys: one per process, so that two leases of one wallet never share a payment channel.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;

use ipsx_metering::NetworkId;
use ipsx_settlement::Wallet;

use super::{durable, failure};
use crate::exit_code::Failure;

/// Leases that one data folder can run at the same time.
pub(crate) const SLOTS: u32 = 64;

/// The right to use one session key, held until all copies are dropped or until the process ends in whatever way.
#[derive(Clone, Debug)]
pub struct Slot {
    number: u32,
    _lock: Arc<File>,
}

impl Slot {
    /// Takes the first session key that no living process uses.
    pub fn take(data: &Path) -> Result<Self, Failure> {
        for number in 0..SLOTS {
            if let Some(slot) = Self::try_take(data, number)? {
                return Ok(slot);
            }
        }
        Err(Failure::usage(format!(
            "{SLOTS} leases run from {} already; end one, or use another --data folder",
            data.display()
        )))
    }

    /// Takes this session key, unless a living process uses it.
    pub fn try_take(data: &Path, number: u32) -> Result<Option<Self>, Failure> {
        let path = data.join("sessions").join(format!("{number}.lock"));
        let open = || {
            durable::make_private(&data.join("sessions"))?;
            File::options()
                .create(true)
                .write(true)
                .truncate(false)
                .open(&path)
        };
        let file = open().map_err(|error| failure("open", &path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self {
                number,
                _lock: Arc::new(file),
            })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failure("lock", &path, error)),
        }
    }

    /// Its number, kept in the records of the leases that it pays.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The key that signs the vouchers: derived, so that the wallet's owner can always make it again.
    pub fn key(&self, wallet: &Wallet, network: NetworkId) -> Wallet {
        session_key(wallet, network, self.number)
    }
}

/// The session key with this number.
pub(crate) fn session_key(wallet: &Wallet, network: NetworkId, number: u32) -> Wallet {
    let label = [
        b"session key".as_slice(),
        network.0.as_slice(),
        &number.to_be_bytes(),
    ]
    .concat();
    wallet.derive(&label)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_slot_is_taken_once_and_free_again() {
        let folder = tempfile::tempdir().unwrap();
        let first = Slot::take(folder.path()).unwrap();
        let second = Slot::take(folder.path()).unwrap();
        assert_eq!((first.number(), second.number()), (0, 1));
        assert!(Slot::try_take(folder.path(), 0).unwrap().is_none());
        drop(first);
        assert_eq!(Slot::take(folder.path()).unwrap().number(), 0);
    }
}
