//! Destination ports that an exit opens.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An inclusive range of ports, written `443` or `8000-8099`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// The text is no range of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no range of ports; write a port such as 443, or two such as 8000-8099")]
pub struct NoPorts(String);

impl PortRange {
    /// From `first` to `last`, both included; none if they are out of order or zero.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first != 0 && first <= last).then_some(Self { first, last })
    }

    /// The first port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    pub fn last(self) -> u16 {
        self.last
    }
}

impl FromStr for PortRange {
    type Err = NoPorts;

    fn from_str(text: &str) -> Result<Self, NoPorts> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |digits: &str| digits.parse::<u16>().ok();
        port(first)
            .zip(port(last))
            .and_then(|(first, last)| Self::new(first, last))
            .ok_or_else(|| NoPorts(text.chars().take(20).collect()))
    }
}

impl TryFrom<String> for PortRange {
    type Error = NoPorts;

    fn try_from(text: String) -> Result<Self, NoPorts> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl fmt::Debug for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Whether the ranges are in order, with at least one port between one and the next: there is one way to write a set.
pub(crate) fn is_canonical(ranges: &[PortRange]) -> bool {
    ranges
        .windows(2)
        .all(|pair| u32::from(pair[0].last) + 1 < u32::from(pair[1].first))
}

/// Whether a set of ranges in order has a port.
pub fn has_port(ranges: &[PortRange], port: u16) -> bool {
    let at = ranges.partition_point(|range| range.last < port);
    ranges.get(at).is_some_and(|range| range.first <= port)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::offer::Tier;

    #[test]
    fn ranges_are_read_and_written() {
        for text in ["443", "8000-8099", "1-65535"] {
            assert_eq!(text.parse::<PortRange>().unwrap().to_string(), text);
        }
        for text in ["", "0", "65536", "5-4", "1-2-3", "-5", "http"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_set_has_its_ports_and_no_others() {
        let open = Tier::Open.ports();
        assert!(is_canonical(&open));
        for mail in [25, 465, 587] {
            assert!(!has_port(&open, mail));
            assert!(has_port(&open, mail - 1) && has_port(&open, mail + 1));
        }
        assert!(has_port(&open, 65_535));
        let touching: Vec<PortRange> = ["1-5", "6"].iter().map(|t| t.parse().unwrap()).collect();
        assert!(!is_canonical(&touching));
        assert!(!has_port(&[], 80));
    }
}
