//! A provider that holds its address for something else than the databases do, and what the operator says to that.

use std::net::IpAddr;

use ipsx_metering::{Address, NetworkId, TypedData, UnixSeconds};
use serde::{Deserialize, Serialize};

use crate::evidence::{Evidence, TypeEvidence, TypeRule};
use crate::place::{AddressType, Placement};
use crate::typed_data::{sol, uint40};

/// Most characters of an appeal's text, and of a ruling's reason.
pub const LONGEST_TEXT: usize = 1_000;

/// What a provider says of its address, signed by its wallet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Appeal {
    /// The network.
    pub network: NetworkId,
    /// Who says it.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::AddressText))]
    pub provider: Address,
    /// Of the address where its agent is seen.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::IpText))]
    pub address: IpAddr,
    /// What it is.
    pub address_type: AddressType,
    /// How one can tell.
    #[cfg_attr(feature = "openapi", schema(max_length = 1000))]
    pub text: String,
    /// When it was signed.
    pub at: UnixSeconds,
}

impl TypedData for Appeal {
    type Sol = sol::Appeal;

    fn to_sol(&self) -> sol::Appeal {
        sol::Appeal {
            network: self.network.0,
            provider: self.provider,
            seen: self.address.to_string(),
            addressType: self.address_type.as_str().into(),
            text: self.text.clone(),
            at: uint40(self.at),
        }
    }
}

/// What the operator holds an address for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruling {
    /// When.
    pub at: UnixSeconds,
    /// What it is; absent when the databases are right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_type: Option<AddressType>,
    /// Why.
    pub reason: String,
}

impl Ruling {
    /// Puts it above what the databases say.
    pub(super) fn apply(&self, placement: &mut Placement) {
        let Some(kind) = self.address_type else {
            return;
        };
        placement.address_type = Some(kind);
        let evidence = placement.evidence.get_or_insert(Evidence {
            databases: Vec::new(),
            address_type: None,
        });
        evidence.address_type = Some(TypeEvidence {
            rule: TypeRule::Ruling,
            found: self.reason.clone(),
        });
    }
}
