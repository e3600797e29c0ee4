//! One line of an exit policy.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

/// A policy text that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// No such tier.
    #[error("exit policy tier '{0}' is unknown; use 'web', 'web+udp' or 'open'")]
    Tier(String),
    /// A rule without its parts.
    #[error(
        "exit policy rule '{0}' is incomplete; write PREFIX:PROTOCOL/PORTS, for example 127.0.0.1/32:tcp/8080"
    )]
    Incomplete(String),
    /// A rule's prefix is none.
    #[error(
        "exit policy rule '{0}' has a bad prefix; write an address or a network such as 203.0.113.0/24"
    )]
    Prefix(String),
    /// A rule's protocol is none.
    #[error("exit policy rule '{0}' has an unknown protocol; use 'tcp', 'udp' or 'any'")]
    Protocol(String),
    /// A rule's ports are none.
    #[error("exit policy rule '{0}' has bad ports; write a port (443), a range (8000-8099) or '*'")]
    Ports(String),
}

/// A transport protocol, in a rule or of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuleProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Either; only in rules.
    Any,
}

impl RuleProtocol {
    fn covers(self, other: Self) -> bool {
        self == Self::Any || self == other
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Any => "any",
        }
    }
}

/// An inclusive range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self {
        first: 1,
        last: u16::MAX,
    };

    /// From `first` to `last`, both included; none if they are out of order or zero.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first != 0 && first <= last).then_some(Self { first, last })
    }

    /// The first port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Whether the range holds `port`.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

/// Destinations by prefix, protocol and port, written `127.0.0.1/32:tcp/8080`, `2001:db8::/32:any/*` or
/// `192.0.2.1:udp/5000-5099`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rule {
    prefix: IpNet,
    protocol: RuleProtocol,
    ports: PortRange,
}

impl Rule {
    /// A rule for one network.
    pub fn new(prefix: IpNet, protocol: RuleProtocol, ports: PortRange) -> Self {
        Self {
            prefix: prefix.trunc(),
            protocol,
            ports,
        }
    }

    /// The network that the rule names.
    pub fn prefix(&self) -> IpNet {
        self.prefix
    }

    /// The protocol that the rule names.
    pub fn protocol(&self) -> RuleProtocol {
        self.protocol
    }

    /// The ports that the rule names.
    pub fn ports(&self) -> PortRange {
        self.ports
    }

    /// Whether the rule names all of an address, and not some of its ports.
    pub fn names_all(&self, address: IpAddr) -> bool {
        self.protocol == RuleProtocol::Any
            && self.ports == PortRange::ALL
            && self.prefix.contains(&address)
    }

    /// Whether the rule names this destination.
    pub fn matches(&self, protocol: RuleProtocol, address: IpAddr, port: u16) -> bool {
        self.protocol.covers(protocol)
            && self.ports.contains(port)
            && self.prefix.contains(&address)
    }
}

impl FromStr for Rule {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let incomplete = || PolicyError::Incomplete(text.to_owned());
        let (prefix, rest) = text.rsplit_once(':').ok_or_else(incomplete)?;
        let (protocol, ports) = rest.split_once('/').ok_or_else(incomplete)?;
        let prefix = prefix
            .parse::<IpNet>()
            .or_else(|_| prefix.parse::<IpAddr>().map(IpNet::from))
            .map_err(|_| PolicyError::Prefix(text.to_owned()))?;
        let protocol = match protocol {
            "tcp" => RuleProtocol::Tcp,
            "udp" => RuleProtocol::Udp,
            "any" => RuleProtocol::Any,
            _ => return Err(PolicyError::Protocol(text.to_owned())),
        };
        let ports = parse_ports(ports).ok_or_else(|| PolicyError::Ports(text.to_owned()))?;
        Ok(Self::new(prefix, protocol, ports))
    }
}

fn parse_ports(text: &str) -> Option<PortRange> {
    if text == "*" {
        return Some(PortRange::ALL);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    PortRange::new(first.parse().ok()?, last.parse().ok()?)
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/", self.prefix, self.protocol.as_str())?;
        match self.ports {
            PortRange::ALL => f.write_str("*"),
            PortRange { first, last } if first == last => write!(f, "{first}"),
            PortRange { first, last } => write!(f, "{first}-{last}"),
        }
    }
}
