//! Identifiers and wall-clock time, each a type of its own.

use std::fmt;
use std::str::FromStr;

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub B256);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // B256's own Display abbreviates; an id must be copyable.
                write!(f, "{:#x}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = <B256 as FromStr>::Err;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl From<B256> for $name {
            fn from(hash: B256) -> Self {
                Self(hash)
            }
        }
    };
}

id!(
    /// A network (market): `keccak(creator, admin, treasury, feeBps, salt)`.
    NetworkId
);
id!(
    /// A payment channel: the EIP-712 struct hash of its [`Channel`](crate::Channel).
    ChannelId
);
id!(
    /// A deal: the EIP-712 struct hash of the deal that both sides signed.
    DealId
);
id!(
    /// An offer: the EIP-712 struct hash of the offer.
    OfferId
);
id!(
    /// A request: the EIP-712 struct hash of the request.
    RequestId
);

/// Wall-clock time in whole seconds since 1970-01-01 UTC; a `uint40` in signed messages.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// The largest time that a `uint40` holds (year 36812).
    pub const MAX: Self = Self((1 << 40) - 1);

    /// This many seconds later, at most [`Self::MAX`].
    pub fn after(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds).min(Self::MAX.0))
    }

    /// Seconds from `earlier` to this, 0 if this is not later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
