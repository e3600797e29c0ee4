//! The network's word on where somebody was seen: what a probe fetches through a tunnel.

use std::net::IpAddr;

use ipsx_metering::{B256, NetworkId, TypedData, UnixSeconds};
use serde::{Deserialize, Serialize};

use crate::typed_data::{sol, uint40};

/// Signed by the operator, so that nobody on the way can answer in its place; the nonce is the asker's, so that nobody
/// can answer with what was said to somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Echo {
    /// The network.
    pub network: NetworkId,
    /// What was asked with.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::HashText))]
    pub nonce: B256,
    /// The address that asked.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::IpText))]
    pub seen: IpAddr,
    /// When.
    pub at: UnixSeconds,
}

impl TypedData for Echo {
    type Sol = sol::Echo;

    fn to_sol(&self) -> sol::Echo {
        sol::Echo {
            network: self.network.0,
            nonce: self.nonce,
            seen: self.seen.to_string(),
            at: uint40(self.at),
        }
    }
}
