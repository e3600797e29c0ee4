//! Prints the first byte of each datagram that arrives at UDP port 7000, in order, until none comes for two seconds.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "a part of a test: it acts, and fails by panicking"
)]

use std::net::UdpSocket;
use std::time::Duration;

fn main() {
    let socket = UdpSocket::bind("0.0.0.0:7000").unwrap();
    println!("listening");
    let mut arrived = String::new();
    let mut buffer = [0; 2048];
    while let Ok(len) = socket.recv(&mut buffer) {
        arrived.extend(buffer[..len].first().copied().map(char::from));
        // The first may take its time.
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
    }
    println!("arrived {arrived}");
}
