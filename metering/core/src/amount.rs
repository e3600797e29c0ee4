//! Amounts, prices and what was used. Integers only; a sum that does not fit is an error, never a wrap.

use std::fmt;
use std::iter::Sum;
use std::str::FromStr;

use alloy_primitives::U256;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes in one GiB, the unit that traffic is priced in.
const GIB: u64 = 1 << 30;

/// A sum or product left the range of [`Amount`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the amount does not fit into 128 bits")]
pub struct Overflow;

/// An amount of the network's token, in its smallest unit.
///
/// Written as a decimal string in every encoding, because JSON readers round large numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(pub u128);

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The largest amount that can be written down.
    pub const MAX: Self = Self(u128::MAX);

    /// The sum, or [`Overflow`].
    pub fn checked_add(self, other: Self) -> Result<Self, Overflow> {
        self.0.checked_add(other.0).map(Self).ok_or(Overflow)
    }

    /// The difference, or `None` when `other` is larger.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// The sum, or the largest amount.
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, or nothing when `other` is larger.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `floor(self × basis_points / 10,000)`, computed in 256 bits.
    pub fn basis_points(self, basis_points: u16) -> Self {
        if let Some(product) = self.0.checked_mul(basis_points.into()) {
            return Self(product / 10_000);
        }
        let product = U256::from(self.0) * U256::from(basis_points) / U256::from(10_000u16);
        Self(u128::try_from(product).unwrap_or(u128::MAX))
    }
}

impl Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::saturating_add)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Amount {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.replace('_', "").parse().map(Self)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|_| {
            serde::de::Error::custom(format!("amount {text:?} is not a whole number below 2^128"))
        })
    }
}

macro_rules! price {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub Amount);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

price!(
    /// Price of one second of service.
    PricePerSecond
);
price!(
    /// Price of one GiB (2^30 bytes) of traffic, both directions added up.
    PricePerGib
);

/// What a lease has used so far: totals since it became ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Usage {
    /// Seconds of service, without those on hold.
    pub secs: u64,
    /// Inner IP bytes from requester to provider.
    pub bytes_up: u64,
    /// Inner IP bytes from provider to requester.
    pub bytes_down: u64,
}

impl Usage {
    /// Bytes in both directions.
    pub fn bytes(&self) -> u64 {
        self.bytes_up.saturating_add(self.bytes_down)
    }
}

/// What a deal charges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Prices {
    /// For each second of service.
    pub per_second: PricePerSecond,
    /// For each GiB, both directions added up.
    pub per_gib: PricePerGib,
}

impl Prices {
    /// `ceil(secs × per_second + bytes × per_gib / 2^30)` of the lease's totals, computed in 256 bits.
    ///
    /// Always of totals, never a sum of rounded slices, so that both sides and any auditor get the same number.
    pub fn due(&self, usage: &Usage) -> Result<Amount, Overflow> {
        if let Some(due) = self.due_if_small(usage) {
            return Ok(due);
        }
        let time = U256::from(usage.secs) * U256::from(self.per_second.0.0);
        let bytes = U256::from(usage.bytes_up) + U256::from(usage.bytes_down);
        let traffic = (bytes * U256::from(self.per_gib.0.0)).div_ceil(U256::from(GIB));
        u128::try_from(time + traffic)
            .map(Amount)
            .map_err(|_| Overflow)
    }

    /// The same when nothing on the way leaves 128 bits, as almost always: the meters ask many times a second.
    fn due_if_small(&self, usage: &Usage) -> Option<Amount> {
        let time = self.per_second.0.0.checked_mul(usage.secs.into())?;
        let bytes = u128::from(usage.bytes_up) + u128::from(usage.bytes_down);
        let traffic = self.per_gib.0.0.checked_mul(bytes)?;
        time.checked_add(traffic.div_ceil(GIB.into())).map(Amount)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn due_rounds_the_total_up_once() {
        let prices = Prices {
            per_second: PricePerSecond(Amount(3)),
            per_gib: PricePerGib(Amount(1_000)),
        };
        let usage = Usage {
            secs: 10,
            bytes_up: 1,
            bytes_down: GIB,
        };
        assert_eq!(prices.due(&usage), Ok(Amount(30 + 1_001)));
    }

    #[test]
    fn due_refuses_what_does_not_fit() {
        let prices = Prices {
            per_second: PricePerSecond(Amount::MAX),
            ..Prices::default()
        };
        assert_eq!(
            prices.due(&Usage {
                secs: 2,
                ..Usage::default()
            }),
            Err(Overflow)
        );
    }

    #[test]
    fn an_amount_is_a_decimal_string_in_json() {
        let amount: Amount = "1_000".parse().unwrap();
        assert_eq!(amount, Amount(1_000));
        assert_eq!(
            serde_json::to_string(&Amount::MAX).unwrap(),
            format!("\"{}\"", u128::MAX)
        );
        assert!(serde_json::from_str::<Amount>("\"-1\"").is_err());
        assert!(serde_json::from_str::<Amount>("1").is_err());
    }
}
