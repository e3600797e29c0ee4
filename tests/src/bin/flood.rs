//! Handshake initiations that lead nowhere, at a steady rate: `flood ADDRESS:PORT PUBLIC_KEY RATE SECONDS valid|junk`.
//!
//! All are made beforehand, and sent 64 to a call: the flood should cost its own machine as little as it can. Prints how
//! many left, at the end.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program reads its arguments, waits, and fails by panicking"
)]

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use ipsx_tests::flood::{INITIATION, junk, valid};
use ipsx_tunnel_core::PublicKey;
use quinn_udp::{Transmit, UdpSocketState};

/// Different initiations; they are repeated when they are all sent.
const DISTINCT: usize = 1024;

/// Datagrams of one call.
const AT_ONCE: usize = 64;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [target, key, rate, seconds, kind] = &words[..] else {
        panic!("flood ADDRESS:PORT PUBLIC_KEY RATE SECONDS valid|junk");
    };
    let target: SocketAddr = target.parse().unwrap();
    let rate: f64 = rate.parse().unwrap();
    let lasts = Duration::from_secs_f64(seconds.parse().unwrap());
    let messages = match kind.as_str() {
        "valid" => valid(key.parse::<PublicKey>().unwrap(), DISTINCT),
        _ => junk(DISTINCT),
    };
    let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let state = UdpSocketState::new((&socket).into()).unwrap();
    let (mut sent, mut refused) = (0usize, 0usize);
    println!("flooding");
    let started = Instant::now();
    while started.elapsed() < lasts {
        let due = (started.elapsed().as_secs_f64() * rate) as usize;
        while sent + refused < due {
            let start = (sent + refused) % DISTINCT * INITIATION;
            let transmit = Transmit {
                destination: target,
                ecn: None,
                contents: &messages[start..start + AT_ONCE * INITIATION],
                segment_size: Some(INITIATION),
                src_ip: None,
            };
            match state.try_send((&socket).into(), &transmit) {
                Ok(()) => sent += AT_ONCE,
                Err(_) => refused += AT_ONCE,
            }
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    let each_second = sent as f64 / started.elapsed().as_secs_f64();
    println!("sent {sent}, {each_second:.0} a second; {refused} found no room");
}
