//! The outer side: one UDP socket per address family, on one port.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Instant,
};

use ipsx_tunnel_core::{Arrival, Device, Transmit};
use mio::{Registry, Token, event::Event};

use super::BareError;
use crate::{error::TunnelError, udp::UdpIo};

pub(super) const UDP_V4: Token = Token(0);
pub(super) const UDP_V6: Token = Token(1);

/// Bytes received in one call, about.
const BYTES_PER_CALL: usize = 256 << 10;

/// A socket and whether there may be something to read.
struct Outer {
    io: UdpIo,
    readable: bool,
    /// A batch that the socket did not take.
    blocked: Option<Transmit>,
}

/// Both sockets of one worker; a host without IPv6 has one.
pub(super) struct Sockets {
    v4: Outer,
    v6: Option<Outer>,
}

/// Opens sockets on `port` for `count` workers; 0 takes a free one. A worker gets the datagrams of its own sessions.
pub(super) fn open_group(port: u16, mark: u32, count: u8) -> Result<Vec<Sockets>, BareError> {
    if count > 1 && port != 0 {
        // Sockets that share a port among each other would share it with another program's too.
        drop(UdpIo::bind_alone(
            (Ipv4Addr::UNSPECIFIED, port).into(),
            BYTES_PER_CALL,
        )?);
    }
    let v4 = open_family((Ipv4Addr::UNSPECIFIED, port).into(), mark, count)?;
    let port = v4
        .first()
        .map_or(port, |first| first.io.local_addr().port());
    let mut v6 = match open_family((Ipv6Addr::UNSPECIFIED, port).into(), mark, count) {
        Ok(v6) => v6,
        Err(TunnelError::Bind { source, .. })
            if matches!(
                source.raw_os_error(),
                Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
            ) =>
        {
            Vec::new()
        }
        Err(error) => return Err(error.into()),
    }
    .into_iter();
    Ok(v4
        .into_iter()
        .map(|v4| Sockets { v4, v6: v6.next() })
        .collect())
}

fn open_family(mut address: SocketAddr, mark: u32, count: u8) -> Result<Vec<Outer>, TunnelError> {
    let mut all: Vec<Outer> = Vec::new();
    for _ in 0..count {
        let io = if count == 1 {
            UdpIo::bind_alone(address, BYTES_PER_CALL)?
        } else {
            UdpIo::bind_among(address, BYTES_PER_CALL)?
        };
        if mark != 0 {
            io.set_mark(mark).map_err(TunnelError::Start)?;
        }
        address = io.local_addr();
        all.push(Outer {
            io,
            readable: true,
            blocked: None,
        });
    }
    if let Some(first) = all.first().filter(|_| count > 1)
        && let Err(error) = first.io.steer(count)
    {
        tracing::warn!(%error, "datagrams can't be steered, and are handed over between workers instead");
    }
    Ok(all)
}

impl Sockets {
    /// Has their readiness reported by the worker that they are for.
    pub(super) fn register(&mut self, registry: &Registry) -> io::Result<()> {
        self.v4.io.register(registry, UDP_V4)?;
        match &mut self.v6 {
            Some(v6) => v6.io.register(registry, UDP_V6),
            None => Ok(()),
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.v4.io.local_addr().port()
    }

    pub(super) fn set_mark(&mut self, mark: u32) -> io::Result<()> {
        for outer in self.all() {
            outer.io.set_mark(mark)?;
        }
        Ok(())
    }

    pub(super) fn take_event(&mut self, event: &Event) {
        let outer = match event.token() {
            UDP_V4 => Some(&mut self.v4),
            _ => self.v6.as_mut(),
        };
        if let Some(outer) = outer {
            outer.readable |= event.is_readable();
        }
    }

    pub(super) fn readable(&self) -> bool {
        self.v4.readable || self.v6.as_ref().is_some_and(|outer| outer.readable)
    }

    /// Whether a socket takes no more at this time.
    pub(super) fn blocked(&self) -> bool {
        self.v4.blocked.is_some()
            || self
                .v6
                .as_ref()
                .is_some_and(|outer| outer.blocked.is_some())
    }

    /// Receives once from each socket that may have something.
    pub(super) fn receive(&mut self, mut take: impl FnMut(Arrival, &[u8])) {
        for outer in self.all().filter(|outer| outer.readable) {
            if let Err(error) = outer.io.receive(&mut take) {
                // Anything but "nothing there" is an ICMP error of an earlier send, which a tunnel ignores.
                outer.readable = error.kind() != io::ErrorKind::WouldBlock;
            }
        }
    }

    /// Sends what the device has to send, as far as the sockets take it.
    pub(super) fn send_all(&mut self, device: &mut Device) {
        for outer in self.all() {
            if let Some(transmit) = outer.blocked.take() {
                outer.send(transmit, device);
            }
        }
        while !self.blocked() {
            let Some(transmit) = device.poll_transmit() else {
                break;
            };
            match (transmit.destination, self.v6.as_mut()) {
                (SocketAddr::V4(_), _) => self.v4.send(transmit, device),
                (SocketAddr::V6(_), Some(v6)) => v6.send(transmit, device),
                (SocketAddr::V6(_), None) => device.recycle(transmit),
            }
        }
        device.set_max_segments(self.v4.io.max_segments());
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Outer> {
        std::iter::once(&mut self.v4).chain(self.v6.as_mut())
    }
}

impl Outer {
    fn send(&mut self, transmit: Transmit, device: &mut Device) {
        match self.io.send(&transmit) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.blocked = Some(transmit);
                return;
            }
            Ok(Some(mtu)) => device.set_path_mtu(transmit.destination, mtu, Instant::now()),
            _ => {}
        }
        device.recycle(transmit);
    }
}
