//! What is measured, by name.

/// One figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Metric {
    /// Its name in the JSON output.
    pub(super) key: &'static str,
    /// Its title in the table, with the unit where the table does not tell it.
    pub(super) title: &'static str,
    /// Digits after the point.
    pub(super) digits: usize,
    /// Whether more is better.
    pub(super) more_is_better: bool,
}

const fn more(key: &'static str, title: &'static str) -> Metric {
    Metric {
        key,
        title,
        digits: 0,
        more_is_better: true,
    }
}

const fn less(key: &'static str, title: &'static str, digits: usize) -> Metric {
    Metric {
        key,
        title,
        digits,
        more_is_better: false,
    }
}

/// A part of the report: its heading and its columns.
pub(super) const TABLES: [(&str, &[Metric]); 5] = [
    (
        "Throughput, Mbit/s",
        &[
            more("tcp1_up", "TCP 1 ↑"),
            more("tcp1_down", "TCP 1 ↓"),
            more("tcp8_up", "TCP 8 ↑"),
            more("tcp8_down", "TCP 8 ↓"),
            more("udp_up", "UDP ↑"),
            more("udp_down", "UDP ↓"),
        ],
    ),
    (
        "The exit's CPU time, seconds per GB",
        &[
            less("exit_cpu_tcp1_up", "TCP 1 ↑", 2),
            less("exit_cpu_tcp1_down", "TCP 1 ↓", 2),
            less("exit_cpu_tcp8_up", "TCP 8 ↑", 2),
            less("exit_cpu_tcp8_down", "TCP 8 ↓", 2),
            less("exit_cpu_udp_up", "UDP ↑", 2),
            less("exit_cpu_udp_down", "UDP ↓", 2),
        ],
    ),
    (
        "The whole machine's CPU time, seconds per GB",
        &[
            less("machine_cpu_tcp1_up", "TCP 1 ↑", 2),
            less("machine_cpu_tcp1_down", "TCP 1 ↓", 2),
            less("machine_cpu_tcp8_up", "TCP 8 ↑", 2),
            less("machine_cpu_tcp8_down", "TCP 8 ↓", 2),
        ],
    ),
    (
        "Round trip of a 64-byte UDP datagram, ms",
        &[
            less("rtt_idle_p50", "idle p50", 3),
            less("rtt_idle_p99", "idle p99", 3),
            less("rtt_up_p50", "under TCP ↑ p50", 2),
            less("rtt_up_p99", "under TCP ↑ p99", 2),
            less("rtt_down_p50", "under TCP ↓ p50", 2),
            less("rtt_down_p99", "under TCP ↓ p99", 2),
        ],
    ),
    (
        "The exit's resident memory, MiB",
        &[less("rss_idle", "idle", 1), less("rss_peak", "peak", 1)],
    ),
];

/// Figures that only the JSON output has.
pub(super) const FOREIGN: &str = "foreign_share";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_used_once() {
        let mut keys: Vec<_> = TABLES
            .iter()
            .flat_map(|(_, metrics)| metrics.iter().map(|metric| metric.key))
            .collect();
        let all = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), all);
    }
}
