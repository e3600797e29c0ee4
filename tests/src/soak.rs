//! Addresses that the parts of the soak test share.

/// The provider's WireGuard endpoint.
pub const ENDPOINT: &str = "10.99.0.2:51820";
/// Where leases are opened and closed.
pub const CONTROL: &str = "10.99.0.2:7000";
/// The echo in the web.
pub const ECHO: &str = "10.98.0.2:7";
/// Addresses that leases of a kernel exit leave from, one each.
pub const EGRESS: &str = "10.98.1.0/24";
/// The provider's interface to the web.
pub const UPLINK: &str = "veth-wan";
