//! The meter's gate as the tunnel's gate.

use ipsx_metering::ServiceGate;
use ipsx_tunnel_core::{Gate, Limits, Rates};

/// Remembers which gate the tunnel has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GateKeeper {
    wanted: Gate,
    set: Gate,
}

impl GateKeeper {
    /// The meter wants this gate.
    pub(crate) fn want(&mut self, service: ServiceGate) {
        self.wanted = match service {
            ServiceGate::Closed => Gate::Closed,
            ServiceGate::Open {
                byte_limit: u64::MAX,
            } => Gate::Open,
            ServiceGate::Open { byte_limit } => Gate::Limited(Limits {
                rates: Rates::UNLIMITED,
                byte_limit,
            }),
            // Half for each direction, so that both together keep to the rate.
            ServiceGate::Throttled {
                byte_limit,
                bytes_per_second,
            } => Gate::Limited(Limits {
                rates: Rates {
                    up: bytes_per_second / 2,
                    down: bytes_per_second / 2,
                },
                byte_limit,
            }),
        };
    }

    /// The gate to set, if it is another one now.
    pub(crate) fn change(&mut self) -> Option<Gate> {
        (self.set != self.wanted).then(|| {
            self.set = self.wanted;
            self.wanted
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_priced_leases_are_open_or_closed() {
        let mut keeper = GateKeeper::default();
        assert_eq!(keeper.change(), None);
        keeper.want(ServiceGate::Open {
            byte_limit: u64::MAX,
        });
        assert_eq!(keeper.change(), Some(Gate::Open));
        assert_eq!(keeper.change(), None);
        keeper.want(ServiceGate::Closed);
        assert_eq!(keeper.change(), Some(Gate::Closed));
    }

    #[test]
    fn byte_limits_are_the_meters_own() {
        let mut keeper = GateKeeper::default();
        for byte_limit in [10_000, 20_000] {
            keeper.want(ServiceGate::Open { byte_limit });
            let limits = Limits {
                rates: Rates::UNLIMITED,
                byte_limit,
            };
            assert_eq!(keeper.change(), Some(Gate::Limited(limits)));
        }
    }

    #[test]
    fn a_payer_that_is_behind_is_slowed_down() {
        let mut keeper = GateKeeper::default();
        keeper.want(ServiceGate::Throttled {
            byte_limit: u64::MAX,
            bytes_per_second: 65_536,
        });
        assert_eq!(keeper.change(), Some(Gate::throttled(32_768)));
    }
}
