//! A lease as a wg-quick file, for any WireGuard client.

use ipsx_market::messages::Ready;
use ipsx_market::request::TunnelKey;
use ipsx_tunnel_core::{PrivateKey, PublicKey};
use zeroize::Zeroizing;

/// The file's content. All traffic goes into the tunnel, IPv6 too where the exit carries none, so that nothing leaves
/// beside it.
pub(super) fn wg_quick(
    key: &PrivateKey,
    provider: TunnelKey,
    ready: &Ready,
    until: &str,
) -> Zeroizing<String> {
    let secret = key.expose_base64();
    let mut addresses = format!("{}/32", ready.address_v4);
    if let Some(v6) = ready.address_v6 {
        addresses.push_str(&format!(", {v6}/128"));
    }
    Zeroizing::new(format!(
        "# Leased by ipsx; ends {until}, or when ipsx stops paying.\n\
         [Interface]\n\
         PrivateKey = {}\n\
         Address = {addresses}\n\
         DNS = {}\n\
         MTU = {}\n\
         \n\
         [Peer]\n\
         PublicKey = {}\n\
         Endpoint = {}\n\
         AllowedIPs = 0.0.0.0/0, ::/0\n\
         PersistentKeepalive = 25\n",
        secret.as_str(),
        ready.gateway,
        ready.mtu,
        PublicKey::from_bytes(provider.0.0),
        ready.endpoint,
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ipsx_metering::B256;

    #[test]
    fn the_file_has_what_wg_quick_reads() {
        let ready = Ready {
            endpoint: "[2001:db8::1]:51820".parse().unwrap(),
            address_v4: [10, 64, 0, 2].into(),
            address_v6: Some("fd00::2".parse().unwrap()),
            gateway: [10, 64, 0, 1].into(),
            control_port: 9,
            mtu: 1_420,
            latest_voucher: None,
            next_seq: 0,
        };
        let key = PrivateKey::from_bytes([1; 32]);
        let text = wg_quick(&key, TunnelKey(B256::repeat_byte(2)), &ready, "in 1m");
        for line in [
            "[Interface]",
            "Address = 10.64.0.2/32, fd00::2/128",
            "DNS = 10.64.0.1",
            "MTU = 1420",
            "Endpoint = [2001:db8::1]:51820",
            "AllowedIPs = 0.0.0.0/0, ::/0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{}", text.as_str());
        }
    }
}
