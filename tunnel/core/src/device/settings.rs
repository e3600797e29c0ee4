//! Changing a device and its peers while they run.

use std::{net::SocketAddr, time::Instant};

use ipnet::IpNet;

use super::{AddPeerError, Device, PeerConfig, PeerId, Transfer};
use crate::{
    keys::{PresharedKey, PrivateKey, PublicKey},
    noise::Identity,
    uapi::{AllowedIpChange, PeerUpdate},
};

/// What a peer is set to, and how it is doing.
#[derive(Debug, Clone, Copy)]
pub struct PeerSettings<'d> {
    /// Its key.
    pub public_key: PublicKey,
    /// Key mixed into the handshake.
    pub preshared_key: Option<&'d PresharedKey>,
    /// Its outer address, if known.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives.
    pub keepalive: Option<u16>,
    /// Inner addresses that it may use.
    pub allowed_ips: &'d [IpNet],
    /// When the last handshake completed.
    pub handshaked_at: Option<Instant>,
    /// Outer bytes moved.
    pub transfer: Transfer,
}

impl Device {
    /// Forgets all peers.
    pub fn remove_all_peers(&mut self) {
        let all: Vec<PeerId> = self.by_key.values().copied().collect();
        for id in all {
            self.remove_peer(id);
        }
    }

    /// Every peer of this shard, in no order.
    pub fn peers(&self) -> impl Iterator<Item = (PeerId, PeerSettings<'_>)> {
        self.peers.iter().map(|(&id, peer)| {
            let settings = PeerSettings {
                public_key: peer.key,
                preshared_key: peer.preshared_key.as_ref(),
                endpoint: peer.endpoint,
                keepalive: peer.keepalive,
                allowed_ips: &peer.allowed_ips,
                handshaked_at: peer.handshaked_at,
                transfer: peer.transfer,
            };
            (id, settings)
        })
    }

    /// Makes, changes or removes a peer as `update` says. The device's own key is passed over, as WireGuard does, so that
    /// one list of peers can serve several machines.
    pub fn configure_peer(
        &mut self,
        update: &PeerUpdate,
        now: Instant,
    ) -> Result<(), AddPeerError> {
        let known = self.peer_by_key(&update.public_key);
        if update.remove {
            known.map(|id| self.remove_peer(id));
            return Ok(());
        }
        if update.public_key == self.public_key || (known.is_none() && update.update_only) {
            return Ok(());
        }
        let id = match known {
            Some(id) => id,
            None => {
                let config = PeerConfig {
                    public_key: update.public_key,
                    preshared_key: update.preshared_key.clone().flatten(),
                    endpoint: update.endpoint,
                    allowed_ips: Vec::new(),
                    keepalive: update.keepalive.filter(|&seconds| seconds > 0),
                };
                self.add_peer(config, now)?
            }
        };
        if let Some(key) = &update.preshared_key {
            self.set_preshared_key(id, key.clone(), now);
        }
        if let Some(endpoint) = update.endpoint {
            self.set_endpoint(id, endpoint);
        }
        if let Some(seconds) = update.keepalive {
            self.set_keepalive(id, Some(seconds).filter(|&seconds| seconds > 0), now);
        }
        if update.replace_allowed_ips {
            self.clear_allowed_ips(id);
        }
        for change in &update.allowed_ips {
            match *change {
                AllowedIpChange::Allow(net) => self.allow_ip(id, net),
                AllowedIpChange::Disallow(net) => self.disallow_ip(id, net),
            }
        }
        Ok(())
    }

    /// Packets are padded to 16 bytes, but never past the interface's MTU.
    pub fn set_mtu(&mut self, mtu: usize) {
        self.mtu = mtu.min(self.longest);
    }

    /// Takes another private key. All sessions end; a peer that has the new key is removed.
    pub fn set_private_key(&mut self, key: PrivateKey, now: Instant) {
        self.identity = Identity::new(&key, now);
        self.public_key = key.public_key();
        self.config.private_key = key;
        if let Some(id) = self.peer_by_key(&self.public_key) {
            self.remove_peer(id);
        }
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            self.renew_session(id, now);
        }
    }

    /// Changes the key mixed into a peer's handshakes. Its session ends if that changes anything.
    pub fn set_preshared_key(&mut self, id: PeerId, key: Option<PresharedKey>, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let bytes = |key: &Option<PresharedKey>| key.as_ref().map(|key| *key.expose_bytes());
        if bytes(&peer.preshared_key) != bytes(&key) {
            peer.preshared_key = key;
            self.renew_session(id, now);
        }
    }

    /// Changes the seconds between a peer's keepalives. The library takes them only for a new session, so a session
    /// ends if that changes anything, and the next one is begun.
    pub fn set_keepalive(&mut self, id: PeerId, seconds: Option<u16>, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if peer.keepalive != seconds {
            peer.keepalive = seconds;
            self.renew_session(id, now);
        }
    }

    /// Changes where a peer is called; it may still move by itself.
    pub fn set_endpoint(&mut self, id: PeerId, endpoint: SocketAddr) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.move_to(endpoint);
        }
    }

    /// Lets a peer use inner addresses; whoever had exactly these loses them.
    pub fn allow_ip(&mut self, id: PeerId, net: IpNet) {
        let net = net.trunc();
        let owner = self.routes.owner(net);
        if owner == Some(id) || self.allowed_ips_mut(id).is_none() {
            return;
        }
        if let Some(owner) = owner {
            self.disallow_ip(owner, net);
        }
        self.routes.insert(net, id);
        if let Some(allowed_ips) = self.allowed_ips_mut(id) {
            allowed_ips.push(net);
        }
    }

    /// Takes inner addresses from a peer that has exactly these.
    pub fn disallow_ip(&mut self, id: PeerId, net: IpNet) {
        let net = net.trunc();
        if self.routes.owner(net) != Some(id) {
            return;
        }
        self.routes.remove(net);
        if let Some(allowed_ips) = self.allowed_ips_mut(id) {
            allowed_ips.retain(|&other| other != net);
        }
    }

    /// Takes all inner addresses from a peer.
    pub fn clear_allowed_ips(&mut self, id: PeerId) {
        let Some(allowed_ips) = self.allowed_ips_mut(id) else {
            return;
        };
        for net in std::mem::take(allowed_ips) {
            self.routes.remove(net);
        }
    }

    /// Starts a peer's sessions afresh, and calls it if there was one.
    fn renew_session(&mut self, id: PeerId, now: Instant) {
        let index = self.free_index();
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let was_established = peer.session.is_established();
        self.by_index.remove(&peer.index);
        self.by_index.insert(index, id);
        peer.index = index;
        peer.unconfirmed = false;
        peer.session.put_aside();
        if peer.keepalive.is_some() {
            self.keep_alive(id, now);
        }
        if was_established {
            // Without an endpoint there is nobody to call: the peer will.
            let _ = self.initiate(id, now);
        }
    }
}
