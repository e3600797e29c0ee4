//! UDP through SOCKS5 (RFC 1928, section 7).

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
};

use tokio::{
    io::AsyncReadExt,
    net::{TcpStream, UdpSocket},
};

use super::{
    Target,
    socks::{Reply, refuse, write_reply_from},
};
use crate::client::{ClientTunnel, TunnelUdp};

/// Largest datagram of a program.
const LARGEST: usize = 65_535;

/// Names whose address is remembered for as long as the association lives.
const MAX_NAMES: usize = 256;

/// Serves an association until the program closes the connection that asked for it.
pub(super) async fn serve(mut control: TcpStream, tunnel: &ClientTunnel) -> io::Result<()> {
    let (local, peer) = (control.local_addr()?.ip(), control.peer_addr()?.ip());
    let (Ok(outside), Ok(inside)) = (UdpSocket::bind((local, 0)).await, tunnel.udp_bind()) else {
        return refuse(control, Reply::GeneralFailure).await;
    };
    write_reply_from(&mut control, Reply::Succeeded, outside.local_addr()?).await?;
    let association = Association {
        outside,
        inside,
        peer,
        program: None,
        names: HashMap::new(),
    };
    tokio::select! {
        result = association.run(tunnel) => result,
        result = ended(&mut control) => result,
    }
}

/// Waits for the end of the connection. The program has nothing more to say on it.
async fn ended(control: &mut TcpStream) -> io::Result<()> {
    let mut ignored = [0; 64];
    while control.read(&mut ignored).await? > 0 {}
    Ok(())
}

struct Association {
    outside: UdpSocket,
    inside: TunnelUdp,
    /// Who opened the association: nobody else is heard.
    peer: IpAddr,
    /// Where the program's first datagram came from, and where answers go.
    program: Option<SocketAddr>,
    names: HashMap<String, IpAddr>,
}

impl Association {
    async fn run(mut self, tunnel: &ClientTunnel) -> io::Result<()> {
        let mut buffer = vec![0; LARGEST];
        let mut answer = Vec::new();
        loop {
            tokio::select! {
                received = self.outside.recv_from(&mut buffer) => {
                    let Ok((len, from)) = received else {
                        // An ICMP error about an answer that the program no longer wants.
                        continue;
                    };
                    if from.ip() != self.peer || *self.program.get_or_insert(from) != from {
                        continue;
                    }
                    if let Some((target, payload)) = parse(&buffer[..len]) {
                        self.forward(tunnel, target, payload).await?;
                    }
                }
                received = self.inside.recv_from() => {
                    let Some((from, payload)) = received else {
                        return Ok(());
                    };
                    if let Some(program) = self.program {
                        write(&mut answer, from, &payload);
                        // What the program does not take is lost, as with any datagram.
                        let _ = self.outside.send_to(&answer, program).await;
                    }
                }
            }
        }
    }

    async fn forward(
        &mut self,
        tunnel: &ClientTunnel,
        target: Target,
        payload: &[u8],
    ) -> io::Result<()> {
        let destination = match target {
            Target::Address(address) => address,
            Target::Name(name, port) => {
                let address = match self.names.get(&name) {
                    Some(&address) => address,
                    None => {
                        let Some(address) = resolve(tunnel, &name).await else {
                            return Ok(());
                        };
                        if self.names.len() >= MAX_NAMES {
                            self.names.clear();
                        }
                        self.names.insert(name, address);
                        address
                    }
                };
                SocketAddr::new(address, port)
            }
        };
        self.inside
            .send_to(payload.to_vec(), destination)
            .map_err(io::Error::other)
    }
}

async fn resolve(tunnel: &ClientTunnel, name: &str) -> Option<IpAddr> {
    match tunnel.resolve(name).await {
        Ok(addresses) => addresses.first().copied(),
        Err(error) => {
            tracing::debug!(%error, "datagram to a name that has no address");
            None
        }
    }
}

/// Reads a program's datagram. Fragments are refused, as the RFC allows and as everybody does.
fn parse(datagram: &[u8]) -> Option<(Target, &[u8])> {
    let (&[0, 0, 0, kind], rest) = datagram.split_first_chunk()? else {
        return None;
    };
    let port = |bytes: &[u8; 2]| u16::from_be_bytes(*bytes);
    match kind {
        1 => {
            let (address, rest) = rest.split_first_chunk::<4>()?;
            let (bytes, payload) = rest.split_first_chunk()?;
            let address = SocketAddr::new(IpAddr::from(*address), port(bytes));
            Some((Target::Address(address), payload))
        }
        4 => {
            let (address, rest) = rest.split_first_chunk::<16>()?;
            let (bytes, payload) = rest.split_first_chunk()?;
            let address = SocketAddr::new(IpAddr::from(*address), port(bytes));
            Some((Target::Address(address), payload))
        }
        3 => {
            let (&len, rest) = rest.split_first()?;
            let (name, rest) = rest.split_at_checked(usize::from(len))?;
            let (bytes, payload) = rest.split_first_chunk()?;
            let name = std::str::from_utf8(name).ok()?;
            Some((Target::named(name, port(bytes)), payload))
        }
        _ => None,
    }
}

/// Writes the datagram that tells a program what came from where.
fn write(datagram: &mut Vec<u8>, from: SocketAddr, payload: &[u8]) {
    datagram.clear();
    datagram.extend([0, 0, 0]);
    super::socks::write_address(datagram, from);
    datagram.extend(payload);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn datagrams_are_read_as_they_are_written() {
        for address in ["192.0.2.1:53", "[2001:db8::1]:443"] {
            let address: SocketAddr = address.parse().unwrap();
            let mut datagram = Vec::new();
            write(&mut datagram, address, b"payload");
            assert_eq!(
                parse(&datagram),
                Some((Target::Address(address), &b"payload"[..]))
            );
            for len in 0..datagram.len() - b"payload".len() {
                assert_eq!(parse(&datagram[..len]), None, "{len} bytes");
            }
        }
    }

    #[test]
    fn names_are_read_and_fragments_refused() {
        let named = [&[0, 0, 0, 3, 4][..], b"host", &[0, 53, 1, 2]].concat();
        let target = Target::Name("host".to_owned(), 53);
        assert_eq!(parse(&named), Some((target, &[1, 2][..])));
        let mut fragment = named;
        fragment[2] = 1;
        assert_eq!(parse(&fragment), None);
    }
}
