//! Why packets went nowhere.

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)+) => {
        /// The reason a packet, datagram or flow was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DropReason {
            $($(#[$doc])* $name,)+
        }

        impl DropReason {
            /// Every reason, in declaration order.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The reason's stable name, also used as metric label.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)+
                }
            }
        }

        const REASONS: usize = [$($label,)+].len();
    };
}

drop_reasons! {
    /// Outer datagram that is no WireGuard message.
    NotWireGuard = "not_wireguard",
    /// Handshake or data for a key or index that is not configured.
    UnknownPeer = "unknown_peer",
    /// Handshake that does not authenticate, or replays an old one.
    BadHandshake = "bad_handshake",
    /// Handshake refused while handshakes arrive too fast.
    HandshakeRate = "handshake_rate",
    /// Data that does not decrypt.
    BadTag = "bad_tag",
    /// Data whose counter was seen before or is too old.
    Replay = "replay",
    /// Data for a session that has ended.
    NoSession = "no_session",
    /// Inner source address that the peer may not use.
    SpoofedSource = "spoofed_source",
    /// Inner destination address that belongs to no peer.
    NoRoute = "no_route",
    /// Peer whose outer address is not known yet.
    NoEndpoint = "no_endpoint",
    /// Too many packets waiting for a handshake.
    HandshakeBacklog = "handshake_backlog",
    /// Packet larger than the tunnel carries.
    Oversize = "oversize",
    /// Inner packet that must stay whole and is longer than the outer path takes; its sender can be told.
    PathMtu = "path_mtu",
    /// Data while the peer's gate is closed.
    GateClosed = "gate_closed",
    /// Data above the peer's throttle.
    Throttled = "throttled",
    /// Data above the peer's share of what the endpoint carries.
    Capacity = "capacity",
    /// Data beyond what the peer has paid for.
    ByteCredit = "byte_credit",
    /// Control datagrams arriving too fast.
    ControlRate = "control_rate",
    /// Control datagram larger than allowed.
    ControlSize = "control_size",
    /// Control datagram that nobody took in time.
    ControlBacklog = "control_backlog",
    /// Inner packet that a router has marked as congested, and whose sender understands no mark but a loss.
    CongestionMark = "congestion_mark",
    /// Inner packet with broken headers or lengths.
    Malformed = "malformed",
    /// Inner packet that is a fragment.
    Fragment = "fragment",
    /// Inner IPv6 packet with extension headers.
    ExtensionHeader = "extension_header",
    /// Inner packet of a transport protocol that the exit does not carry.
    UnsupportedProtocol = "unsupported_protocol",
    /// Echo request to an address other than the gateway's.
    EchoOutside = "echo_outside",
    /// Destination 0.0.0.0/8 or ::.
    Unspecified = "unspecified",
    /// Destination on the loopback.
    Loopback = "loopback",
    /// Destination in private IPv4 space (RFC 1918).
    Private = "private",
    /// Destination with link scope.
    LinkLocal = "link_local",
    /// Destination that serves cloud instance metadata.
    Metadata = "metadata",
    /// Destination in carrier NAT space (RFC 6598).
    CarrierNat = "carrier_nat",
    /// Multicast destination.
    Multicast = "multicast",
    /// Limited broadcast destination.
    Broadcast = "broadcast",
    /// Destination reserved for documentation.
    Documentation = "documentation",
    /// Destination reserved for benchmarks.
    Benchmarking = "benchmarking",
    /// Destination in space reserved by the IETF or not yet allocated.
    Reserved = "reserved",
    /// Destination in unique local IPv6 space (RFC 4193).
    UniqueLocal = "unique_local",
    /// Destination that hides an IPv4 address inside an IPv6 address.
    EmbeddedV4 = "embedded_v4",
    /// Destination that is the exit host itself or in its local networks.
    OwnNetwork = "own_network",
    /// Mail submission or transfer port.
    MailPort = "mail_port",
    /// Port or protocol outside the policy's tier.
    OutsideTier = "outside_tier",
    /// Destination that a deny rule names.
    DenyRule = "deny_rule",
    /// Question for a name that a domain list denies, or that leads to one.
    DeniedName = "denied_name",
    /// Another resolver than the gateway's, while names are denied.
    OtherResolver = "other_resolver",
    /// Flow above the peer's or the exit's limit.
    FlowLimit = "flow_limit",
    /// Packet that may open a flow while the connection record takes none.
    NotRecorded = "not_recorded",
    /// TCP segment of no open flow.
    NoFlow = "no_flow",
    /// The operating system refused a socket for the flow.
    SocketFailed = "socket_failed",
    /// The outside socket's buffer was full.
    SocketBusy = "socket_busy",
    /// DNS message that is broken, or asks more than one question.
    BadDns = "bad_dns",
    /// DNS question above the resolver's queue.
    DnsBusy = "dns_busy",
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for DropReason {}

/// How many packets were dropped, by reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropCounts([u64; REASONS]);

impl Default for DropCounts {
    fn default() -> Self {
        Self([0; REASONS])
    }
}

impl DropCounts {
    /// Counts one drop.
    pub fn add(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }

    /// Adds the counts of another part.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }

    /// Drops counted for one reason.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// Every reason with its count, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .iter()
            .map(|&reason| (reason, self.get(reason)))
    }

    /// Drops of all reasons together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn labels_are_distinct_metric_names() {
        let labels: HashSet<_> = DropReason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(labels.len(), DropReason::ALL.len());
        for label in labels {
            assert!(
                label
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'),
                "{label}"
            );
        }
    }

    #[test]
    fn counts_by_reason() {
        let mut counts = DropCounts::default();
        counts.add(DropReason::Loopback);
        counts.add(DropReason::Loopback);
        counts.add(DropReason::DnsBusy);
        assert_eq!(counts.get(DropReason::Loopback), 2);
        assert_eq!(counts.total(), 3);
        assert_eq!(counts.iter().filter(|&(_, n)| n > 0).count(), 2);
    }
}
