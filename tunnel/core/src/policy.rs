//! Which destinations an exit opens.
//!
//! Everything that is not the public internet is refused by default: private, local and special ranges, in IPv4,
//! in IPv6 and as IPv4 hidden inside IPv6, the exit's own host and networks, and mail. An allow rule opens exactly
//! what it names, and a deny rule closes more.

mod canonical;
mod domains;
mod ranges;
mod rule;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::drops::DropReason;

pub use domains::{DomainError, DomainList, DomainSet, DomainSetBuilder};
pub use rule::{PolicyError, PortRange, Rule, RuleProtocol};

const MAIL_PORTS: [u16; 3] = [25, 465, 587];

/// DNS, and DNS over TLS or QUIC (RFC 7858, RFC 9250).
const NAME_PORTS: [u16; 2] = [53, 853];

/// Whether an address is of the public internet, rather than private, local or special.
pub fn is_public(address: IpAddr) -> bool {
    ranges::refused(address).is_none()
}

/// How much of the public internet an exit opens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// TCP to ports 80 and 443.
    #[default]
    #[serde(rename = "web")]
    Web,
    /// TCP to ports 80 and 443, and UDP to any port but mail's.
    #[serde(rename = "web+udp")]
    WebUdp,
    /// TCP and UDP to any port but mail's, and echo requests.
    #[serde(rename = "open")]
    Open,
}

impl Tier {
    /// The name that offers and configuration files use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::WebUdp => "web+udp",
            Self::Open => "open",
        }
    }

    fn opens(self, protocol: RuleProtocol, port: u16) -> bool {
        match (self, protocol) {
            (Self::Web, RuleProtocol::Tcp) => matches!(port, 80 | 443),
            (Self::Web, _) => false,
            (Self::WebUdp, RuleProtocol::Tcp) => matches!(port, 80 | 443),
            (Self::WebUdp | Self::Open, _) => port != 0,
        }
    }
}

impl std::str::FromStr for Tier {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        match text {
            "web" => Ok(Self::Web),
            "web+udp" => Ok(Self::WebUdp),
            "open" => Ok(Self::Open),
            _ => Err(PolicyError::Tier(text.to_owned())),
        }
    }
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an exit opens, as its owner wrote it down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExitPolicy {
    /// How much of the public internet is open.
    pub tier: Tier,
    /// Destinations opened in spite of every default.
    pub allow: Vec<Rule>,
    /// Destinations closed in spite of everything, allow rules included.
    pub deny: Vec<Rule>,
    /// Names that are answered although a list below has them.
    pub allow_domains: Vec<DomainList>,
    /// Names that are not answered. While there are any, resolvers other than the gateway's are closed.
    pub deny_domains: Vec<DomainList>,
}

impl ExitPolicy {
    /// A policy of one tier without rules.
    pub fn new(tier: Tier) -> Self {
        Self {
            tier,
            ..Self::default()
        }
    }

    /// Whether questions may go to no other resolver than the gateway's, which knows the names that are denied.
    pub fn closes_resolvers(&self) -> bool {
        !self.deny_domains.is_empty()
    }

    /// The policy with the categories of its lists, but whatever domains they have.
    pub fn with_any_domains(&self) -> Self {
        let empty = |lists: &[DomainList]| {
            let each = lists.iter().map(|list| DomainList {
                category: list.category.clone(),
                names: Arc::default(),
            });
            each.collect()
        };
        Self {
            allow_domains: empty(&self.allow_domains),
            deny_domains: empty(&self.deny_domains),
            ..self.clone()
        }
    }

    /// Prepares the policy for checking on a host with these addresses and networks.
    pub fn compile(&self, own_networks: &[IpNet]) -> Matcher {
        Matcher {
            policy: self.clone(),
            own_networks: own_networks.to_vec(),
        }
    }
}

/// A policy ready for checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    policy: ExitPolicy,
    own_networks: Vec<IpNet>,
}

impl Matcher {
    /// Whether a flow to `destination` may be opened, and why not.
    ///
    /// Order: deny rules, allow rules, special ranges, own networks, mail ports, other resolvers, tier. An address that
    /// hides an IPv4 address is judged by both.
    pub fn check(&self, protocol: RuleProtocol, destination: SocketAddr) -> Result<(), DropReason> {
        let (address, port) = (destination.ip(), destination.port());
        let embedded = ranges::embedded_v4(address).map(IpAddr::V4);
        let named = |rule: &Rule, address: IpAddr| rule.matches(protocol, address, port);
        if self
            .policy
            .deny
            .iter()
            .any(|rule| named(rule, address) || embedded.is_some_and(|v4| named(rule, v4)))
        {
            return Err(DropReason::DenyRule);
        }
        if self.policy.allow.iter().any(|rule| named(rule, address)) {
            return Ok(());
        }
        self.check_range(address)?;
        if MAIL_PORTS.contains(&port) {
            return Err(DropReason::MailPort);
        }
        if self.policy.closes_resolvers() && NAME_PORTS.contains(&port) {
            return Err(DropReason::OtherResolver);
        }
        if self.policy.tier.opens(protocol, port) {
            Ok(())
        } else {
            Err(DropReason::OutsideTier)
        }
    }

    /// Whether an echo request may be sent to `address`, and why not. Echoes have no port: a rule is about them only if
    /// it names all protocols and all ports, and of the tiers only `open` has them.
    pub fn check_echo(&self, address: IpAddr) -> Result<(), DropReason> {
        let embedded = ranges::embedded_v4(address).map(IpAddr::V4);
        if self
            .policy
            .deny
            .iter()
            .any(|rule| rule.names_all(address) || embedded.is_some_and(|v4| rule.names_all(v4)))
        {
            return Err(DropReason::DenyRule);
        }
        if !self.policy.allow.iter().any(|rule| rule.names_all(address)) {
            self.check_range(address)?;
        }
        if self.policy.tier == Tier::Open {
            Ok(())
        } else {
            Err(DropReason::EchoOutside)
        }
    }

    /// Whether `address` may be told to a peer that asks for a name: no answer may point into a refused range,
    /// unless an allow rule names something there.
    pub fn check_address(&self, address: IpAddr) -> Result<(), DropReason> {
        if self
            .policy
            .allow
            .iter()
            .any(|rule| rule.prefix().contains(&address))
        {
            return Ok(());
        }
        self.check_range(address)
    }

    /// The category by which a name is not answered, if it is not. It says nothing about a flow to an address.
    pub fn denied_category(&self, name: &str) -> Option<&str> {
        let has = |list: &&DomainList| list.names.covers(name);
        let denied = self.policy.deny_domains.iter().find(has)?;
        let allowed = self.policy.allow_domains.iter().any(|list| has(&list));
        (!allowed).then_some(denied.category.as_str())
    }

    /// The policy that was compiled.
    pub fn policy(&self) -> &ExitPolicy {
        &self.policy
    }

    fn check_range(&self, address: IpAddr) -> Result<(), DropReason> {
        if let Some(reason) = ranges::refused(address) {
            return Err(reason);
        }
        let embedded = ranges::embedded_v4(address).map(IpAddr::V4);
        let own = |address: IpAddr| self.own_networks.iter().any(|net| net.contains(&address));
        if own(address) || embedded.is_some_and(own) {
            Err(DropReason::OwnNetwork)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
