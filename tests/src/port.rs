//! Ports that are a server's still when it starts again.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;

use rand::Rng;

/// Below those that the system gives to whoever connects: one of them may be taken between a server's end and its next start.
const PORTS: Range<u16> = 22_000..32_000;
/// Ports that are tried.
const TRIES: usize = 100;

/// A port at `host` that nobody had a moment ago, neither TCP's nor UDP's; any, 0, where `host` is another namespace's.
///
/// # Panics
///
/// If none is free.
pub fn free(host: IpAddr) -> SocketAddr {
    for _ in 0..TRIES {
        let port = rand::thread_rng().gen_range(PORTS);
        let address = SocketAddr::new(host, port);
        match TcpListener::bind(address).and_then(|_| UdpSocket::bind(address)) {
            Ok(_) => return address,
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
                return SocketAddr::new(host, 0);
            }
            Err(_) => {}
        }
    }
    panic!("no port is free at {host}");
}
