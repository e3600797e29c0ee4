//! Several addresses that are leased together.

use std::collections::BTreeSet;

use ipsx_metering::B256;
use serde::{Deserialize, Serialize};

use crate::avoid::Distinct;
use crate::request::{Request, TunnelKey};
use crate::typed_data::sol;

/// Most leases of one request.
pub const MAX_LEGS: usize = 64;

/// What is leased together with the first address of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Bundle {
    /// One more lease each.
    #[cfg_attr(feature = "openapi", schema(max_items = 63))]
    pub legs: Vec<Leg>,
    /// By what any two of the addresses differ.
    #[serde(default)]
    pub distinct: Distinct,
    /// Whether fewer addresses are of no use.
    #[serde(default)]
    pub all_or_nothing: bool,
}

/// Keys of one lease of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Leg {
    /// The requester's WireGuard key.
    pub tunnel_key: TunnelKey,
    /// Salt of the payment channel.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::HashText))]
    pub channel_salt: B256,
}

impl Bundle {
    /// Whether nothing is leased besides the first address.
    pub fn is_single(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn to_sol(&self) -> sol::Bundle {
        let leg = |leg: &Leg| sol::Leg {
            tunnelKey: leg.tunnel_key.0,
            channelSalt: leg.channel_salt,
        };
        sol::Bundle {
            legs: self.legs.iter().map(leg).collect(),
            distinct: self.distinct.to_string(),
            allOrNothing: self.all_or_nothing,
        }
    }
}

impl Request {
    /// How many leases are asked for.
    pub fn count(&self) -> usize {
        1 + self.bundle.legs.len()
    }

    /// How many of them are good for anything only together; 0 if each stands alone.
    pub fn together(&self) -> u8 {
        match self.bundle.all_or_nothing && self.count() > 1 {
            true => self.count() as u8,
            false => 0,
        }
    }

    /// Keys of one of them, counted from 0.
    pub fn leg(&self, number: u8) -> Option<Leg> {
        let first = Leg {
            tunnel_key: self.tunnel_key,
            channel_salt: self.channel_salt,
        };
        match number.checked_sub(1) {
            None => Some(first),
            Some(other) => self.bundle.legs.get(usize::from(other)).copied(),
        }
    }

    /// Keys of all of them.
    pub fn legs(&self) -> impl Iterator<Item = Leg> + '_ {
        (0..self.count()).filter_map(|number| self.leg(number as u8))
    }

    /// Whether no two leases have a tunnel key or a channel in common.
    pub(crate) fn has_keys_apart(&self) -> bool {
        let keys: BTreeSet<_> = self.legs().map(|leg| leg.tunnel_key.0).collect();
        let salts: BTreeSet<_> = self.legs().map(|leg| leg.channel_salt).collect();
        keys.len() == self.count() && salts.len() == self.count()
    }
}
