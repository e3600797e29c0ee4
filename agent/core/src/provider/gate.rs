//! The meter's gate, which limits bytes, as the tunnel's gate, which limits rates.

use ipsx_metering::ServiceGate;
use ipsx_tunnel_core::Gate;

/// Slowest rate that still lets packets through, bytes per second.
const SLOWEST: u64 = 4 * 1024;

/// Turns what may still pass into a rate at which it cannot have passed before the counters are read again.
///
/// The shell reads counters ten times a second. A gate throttled to `r` passes at most `r / 4` at once and `r / 10`
/// until the next reading, in each direction: 0.7 `r` in all. With 0.7 `r` bytes left, that never is too much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GateKeeper {
    service: Option<ServiceGate>,
    set: Gate,
    /// What was left when the rate was set; it is set anew when this has halved or doubled.
    left: u64,
}

impl GateKeeper {
    /// The meter wants this gate.
    pub(crate) fn want(&mut self, service: ServiceGate) {
        self.service = Some(service);
    }

    /// The gate to set, if it is another one now that the lease has moved `total` bytes.
    pub(crate) fn change(&mut self, total: u64) -> Option<Gate> {
        let (limit, most) = match self.service? {
            ServiceGate::Closed => return self.set(Gate::Closed),
            ServiceGate::Open { byte_limit } => (byte_limit, u64::MAX),
            ServiceGate::Throttled {
                byte_limit,
                bytes_per_second,
            } => (byte_limit, (bytes_per_second / 2).max(SLOWEST)),
        };
        if limit == u64::MAX {
            return match most {
                u64::MAX => self.set(Gate::Open),
                bytes_per_second => self.set(Gate::Throttled { bytes_per_second }),
            };
        }
        let left = limit.saturating_sub(total);
        let throttled = matches!(self.set, Gate::Throttled { .. });
        let about_the_same = left > self.left / 2 && left / 2 < self.left;
        let bytes_per_second = (left / 7 * 10).max(SLOWEST).min(most);
        if throttled && about_the_same && most == u64::MAX {
            return None;
        }
        self.left = left;
        self.set(Gate::Throttled { bytes_per_second })
    }

    fn set(&mut self, gate: Gate) -> Option<Gate> {
        (self.set != gate).then(|| {
            self.set = gate;
            gate
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn time_priced_leases_are_open_or_closed() {
        let mut keeper = GateKeeper::default();
        assert_eq!(keeper.change(0), None);
        keeper.want(ServiceGate::Open {
            byte_limit: u64::MAX,
        });
        assert_eq!(keeper.change(0), Some(Gate::Open));
        assert_eq!(keeper.change(1 << 40), None);
        keeper.want(ServiceGate::Closed);
        assert_eq!(keeper.change(1 << 40), Some(Gate::Closed));
    }

    /// Traffic that takes all that each gate allows, in both directions, never passes the limit by more than what
    /// the slowest rate lets through.
    #[test]
    fn byte_limits_are_kept_between_readings() {
        for limit in [10_000, 1_000_000, 300_000_000_u64] {
            let mut keeper = GateKeeper::default();
            keeper.want(ServiceGate::Open { byte_limit: limit });
            let (mut total, mut rate, mut burst) = (0u64, 0, 0);
            for _ in 0..1_000 {
                if let Some(gate) = keeper.change(total) {
                    let Gate::Throttled { bytes_per_second } = gate else {
                        unreachable!("a limit is a rate");
                    };
                    (rate, burst) = (bytes_per_second, bytes_per_second / 4);
                }
                if total >= limit {
                    break;
                }
                total += 2 * (burst + rate / 10);
                burst = 0;
            }
            assert!(total <= limit + 2 * SLOWEST, "{total} of {limit}");
            assert!(total >= limit / 10 * 9, "{total} of {limit}");
        }
    }

    #[test]
    fn a_payer_that_is_behind_is_slowed_down() {
        let mut keeper = GateKeeper::default();
        keeper.want(ServiceGate::Throttled {
            byte_limit: u64::MAX,
            bytes_per_second: 65_536,
        });
        assert_eq!(
            keeper.change(0),
            Some(Gate::Throttled {
                bytes_per_second: 32_768
            })
        );
        keeper.want(ServiceGate::Throttled {
            byte_limit: 10_000,
            bytes_per_second: 65_536,
        });
        assert_eq!(
            keeper.change(0),
            Some(Gate::Throttled {
                bytes_per_second: 14_280
            })
        );
    }
}
