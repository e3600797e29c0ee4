//! What lets a broker that was killed tell agents that their connections are gone, as soon as it is back: ids that it knows
//! for its own, and the tokens of stateless resets (RFC 9000 §10.3), both from a secret that it keeps.

use std::sync::Arc;
use std::time::Duration;

use ipsx_metering::keccak256;
use quinn::EndpointConfig;
use quinn_proto::HashedConnectionIdGenerator;

use super::tls::QUIC_VERSION;

/// Between two resets: none. A reset is shorter than the packet that it answers, so nobody gains by making the broker send
/// them; and packets that arrive in one batch arrive at one instant, so that any pause would leave all but the first of
/// them without an answer.
const INTERVAL: Duration = Duration::ZERO;

/// An endpoint's configuration that is the same after each start with the same secret.
pub(super) fn endpoint_config(secret: &[u8; 32]) -> EndpointConfig {
    let derive = |label: &[u8]| keccak256([label, &secret[..]].concat());
    let tokens = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &derive(b"agents: resets").0);
    let [a, b, c, d, e, f, g, h, ..] = derive(b"agents: connection ids").0;
    let ids = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let mut config = EndpointConfig::new(Arc::new(tokens));
    config
        .cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)))
        .min_reset_interval(INTERVAL)
        .supported_versions(vec![QUIC_VERSION]);
    config
}
