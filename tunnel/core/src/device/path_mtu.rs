//! What the way to a peer takes without cutting datagrams to pieces.
//!
//! Routers may cut datagrams: where their messages are filtered, one that forbids it would be lost for good. Only now and
//! then one is sent that must stay whole. If it does not fit, the system learns from the routers what does, and reports
//! it here with the next batch that is longer; then senders inside the tunnel are told, and make packets that fit. Packets
//! of others are sent as they are: the system cuts their datagrams.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::Device;
use crate::{DATA_OVERHEAD, drops::DropReason, offload::Segments, packet};

/// How long a report holds: the way may have changed, and taken a longer packet again (RFC 1191, section 6.3).
const HOLDS: Duration = Duration::from_secs(600);

/// Between the two probes for a length: the first has the routers tell the system, the second has the system tell us.
const ANSWERED: Duration = Duration::from_secs(1);

/// Longest datagram that needs no probe: 1,280 bytes with the headers of IPv6, which every way takes.
const UNPROBED: usize = 1280 - 40 - 8;

/// No sender can be asked for less (RFC 8200, section 5; the least that IPv4 hosts expect).
const LEAST_V6: u16 = 1280;
const LEAST_V4: u16 = 576;

/// Longest inner packets of a peer, until a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PathMtu {
    inner: u16,
    until: Instant,
}

/// The longest datagram that was sent as a probe, and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PathProbe {
    len: usize,
    repeated: bool,
    until: Instant,
}

impl PathProbe {
    /// Whether a datagram of `len` bytes is to be the next probe.
    pub(crate) fn is_due(last: &mut Option<Self>, len: usize, now: Instant) -> bool {
        if len <= UNPROBED || last.is_some_and(|last| len <= last.len && now < last.until) {
            return false;
        }
        let repeated = last.is_some_and(|last| len <= last.len && !last.repeated);
        *last = Some(Self {
            len,
            repeated,
            until: now + if repeated { HOLDS } else { ANSWERED },
        });
        true
    }
}

impl Device {
    /// The way to this outer address takes IP packets of `mtu` bytes at most.
    pub fn set_path_mtu(&mut self, destination: SocketAddr, mtu: usize, now: Instant) {
        let headers = if destination.is_ipv4() {
            20 + 8
        } else {
            40 + 8
        };
        // Packets are padded to 16 bytes.
        let inner = mtu.saturating_sub(headers + DATA_OVERHEAD) & !15;
        self.narrow_paths = true;
        let known = self
            .peers
            .values_mut()
            .filter(|peer| peer.endpoint == Some(destination));
        for peer in known {
            peer.path_mtu = Some(PathMtu {
                inner: u16::try_from(inner).unwrap_or(u16::MAX),
                until: now + HOLDS,
            });
        }
    }

    /// The ICMP error that answers a packet which is too long for the way to its peer and must stay whole: the packet is
    /// counted as dropped, and not to be given to [`handle_segments`](Self::handle_segments). For senders that listen
    /// to such errors; what others send is cut by the system.
    pub fn too_big(&mut self, segments: &Segments<'_>, now: Instant) -> Option<Vec<u8>> {
        if !self.narrow_paths {
            return None;
        }
        let packet = segments.packet();
        let (_, destination) = packet::addresses(packet).ok()?;
        let peer = self.peers.get_mut(&self.routes.lookup(destination)?)?;
        if peer.path_mtu.is_some_and(|path| now >= path.until) {
            peer.path_mtu = None;
        }
        let most = peer.path_mtu?.most(packet);
        let must_stay_whole = packet[0] >> 4 != 4 || packet[6] & 0x40 != 0;
        if !must_stay_whole || segments.len_of(0) <= usize::from(most) {
            return None;
        }
        self.drops.add(DropReason::PathMtu);
        let mut answer = Vec::new();
        packet::too_big(&mut answer, packet, most).then_some(answer)
    }
}

impl PathMtu {
    /// The longest packet of this one's IP version.
    fn most(self, packet: &[u8]) -> u16 {
        if packet[0] >> 4 == 4 {
            self.inner.max(LEAST_V4)
        } else {
            self.inner.max(LEAST_V6)
        }
    }
}
