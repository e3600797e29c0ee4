//! What asking the exit policy costs for each packet: `cargo run --release -p ipsx-tunnel-core --example policy_cost`.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "it measures time, which the crate itself never does, and prints it"
)]

use std::{error::Error, hint::black_box, net::SocketAddr, time::Instant};

use ipsx_tunnel_core::{
    ExitPolicy, IpNet, RuleProtocol, Tier,
    packet::{self, Headers},
};

const PACKETS: u32 = 5_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let own: Vec<IpNet> = (1..=8)
        .map(|n| format!("198.18.{n}.0/24").parse())
        .collect::<Result<_, _>>()?;
    for rules in [0_u32, 10, 100] {
        let mut policy = ExitPolicy::new(Tier::Open);
        for n in 0..rules {
            policy.deny.push(format!("45.{n}.0.0/16:any/*").parse()?);
        }
        let matcher = policy.compile(&own);
        for (source, destination) in [
            ("10.64.0.2:40000", "93.184.215.14:443"),
            ("[fd64::2]:40000", "[2606:2800:21f::1]:443"),
        ] {
            let (source, destination): (SocketAddr, SocketAddr) =
                (source.parse()?, destination.parse()?);
            let mut bytes = Vec::new();
            packet::udp(&mut bytes, source, destination, &[0; 1_200]);
            let start = Instant::now();
            for _ in 0..PACKETS {
                let headers = Headers::parse(black_box(&bytes))?;
                let to = SocketAddr::new(headers.destination, 443);
                let _ = black_box(matcher.check(RuleProtocol::Udp, to));
            }
            let each = start.elapsed() / PACKETS;
            println!("{destination}, {rules} deny rules: {each:?} a packet");
        }
    }
    Ok(())
}
