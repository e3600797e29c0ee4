//! What probes saw of an address, and what customers said of it.

use std::fmt;
use std::net::IpAddr;

use ipsx_metering::{Address, DealId, UnixSeconds};
use serde::{Deserialize, Serialize};

use super::Timed;
use crate::place::Placement;

/// What a probe saw that is not what is sold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disagreement {
    /// It left from another address.
    Address,
    /// The database has another country for it.
    Country,
    /// Another autonomous system.
    Asn,
    /// Another type.
    AddressType,
}

/// Something that was seen of an address, with what it was judged by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// When.
    pub at: UnixSeconds,
    /// The address that the probe's lease was sold.
    pub sold: IpAddr,
    /// Where its traffic came from, and what the databases say of that.
    pub seen: Placement,
    /// What of it is wrong; absent when nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disagreement: Option<Disagreement>,
    /// What was measured.
    #[serde(default)]
    pub timed: Timed,
}

impl Sighting {
    /// What was seen, compared with what is offered.
    pub fn new(
        at: UnixSeconds,
        sold: IpAddr,
        seen: Placement,
        offered: &Placement,
        timed: Timed,
    ) -> Self {
        let checks = [
            (Disagreement::Address, seen.address == sold),
            (Disagreement::Country, seen.country == offered.country),
            (Disagreement::Asn, seen.asn == offered.asn),
            (
                Disagreement::AddressType,
                seen.address_type == offered.address_type,
            ),
        ];
        let wrong = checks.into_iter().find(|(_, agrees)| !agrees);
        Self {
            at,
            sold,
            seen,
            disagreement: wrong.map(|(what, _)| what),
            timed,
        }
    }
}

/// A customer's word that a lease left from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The lease.
    pub deal: DealId,
    /// Who paid for it.
    pub payer: Address,
    /// When it was said.
    pub at: UnixSeconds,
}

/// Why an offer is in the book and not for sale; its provider is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Withheld {
    /// No probe has seen its address yet, or not for too long.
    Unproven {
        /// Probes since then that leased, and got no answer through the lease.
        unanswered: u32,
    },
    /// Customers said that they left from elsewhere; a probe comes soon.
    Doubted,
    /// A probe saw something else.
    Disagrees {
        /// What.
        what: Disagreement,
        /// Where its traffic came from.
        seen: IpAddr,
    },
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unproven { unanswered: 0 } => write!(f, "a probe has to see its address first"),
            Self::Unproven { unanswered } => write!(
                f,
                "a probe has to see its address first, and {unanswered} got no answer through their leases"
            ),
            Self::Doubted => write!(
                f,
                "customers said that they left from another address; a probe comes soon"
            ),
            Self::Disagrees { what, seen } => {
                let what = match what {
                    Disagreement::Address => "which is not the one that was sold",
                    Disagreement::Country => "which is in another country",
                    Disagreement::Asn => "which is in another network",
                    Disagreement::AddressType => "which is of another type",
                };
                write!(f, "a probe came out at {seen}, {what}")
            }
        }
    }
}
