//! Whether, and how much, is relayed.

use std::ops::RangeInclusive;

use super::keys::{allowed, bad_value};
use super::load::number;
use super::{BrokerConfig, ConfigError, ReflectorConfig, Settings};

/// The defaults: 100 Mbit/s in all, 10 for a lease.
const BYTES_PER_SECOND: u64 = 12_500_000;
const LEASE_BYTES_PER_SECOND: u64 = 1_250_000;
/// Of one payer, and of one provider, at most by default; but no more than a quarter of the ports, or two.
const LEASES_PER_WALLET: usize = 16;

/// A relay for those who can't reach each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayConfig {
    /// UDP ports at the agents' address, one for each relayed lease.
    pub ports: RangeInclusive<u16>,
    /// Bytes a second of all leases together.
    pub bytes_per_second: u64,
    /// Bytes a second of one lease, both directions together.
    pub lease_bytes_per_second: u64,
    /// Relayed leases at once that one wallet's deposit pays for, and that one provider lends.
    pub leases_per_wallet: usize,
}

pub(super) fn check(
    settings: &Settings,
    config: &BrokerConfig,
) -> Result<Option<RelayConfig>, ConfigError> {
    let bytes_per_second = number(
        "max_relay_bytes_per_second",
        settings.max_relay_bytes_per_second,
        BYTES_PER_SECOND,
    )?;
    let lease_bytes_per_second = number(
        "max_lease_relay_bytes_per_second",
        settings.max_lease_relay_bytes_per_second,
        LEASE_BYTES_PER_SECOND,
    )?;
    let leases_per_wallet = |ports: usize| {
        number(
            "max_relayed_leases_per_wallet",
            settings.max_relayed_leases_per_wallet,
            LEASES_PER_WALLET.min((ports / 4).max(2)),
        )
    };
    let named = settings.relay_ports.as_deref();
    let Some(text) = named.filter(|text| !text.is_empty()) else {
        // A value that can't be used is refused, also where nothing uses it.
        leases_per_wallet(0)?;
        return Ok(None);
    };
    let ports = ports(text).ok_or_else(|| bad_value("relay_ports", format!("{text:?}"), None))?;
    if config.reflector == ReflectorConfig::Off {
        return Err(ConfigError::Missing {
            key: "reflector_listen".into(),
            because: "relay_ports is set, and who can't be reached is found out by the reflector"
                .into(),
            example: allowed("reflector_listen").1,
        });
    }
    Ok(Some(RelayConfig {
        leases_per_wallet: leases_per_wallet(ports.len())?,
        ports,
        bytes_per_second,
        lease_bytes_per_second,
    }))
}

/// Neither the last before the first, nor one that only the superuser may open.
fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (1_024 <= first && first <= last).then_some(first..=last)
}
