//! A plain WireGuard interface and nothing else of this project, for measuring.
//!
//! `cargo run --release -p ipsx-tunnel-os --example bare IFNAME [WORKERS]`, then `wg setconf IFNAME FILE`.
#![allow(clippy::disallowed_methods, reason = "a program reads its arguments")]

use std::error::Error;

#[cfg(target_os = "linux")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args()
        .nth(1)
        .ok_or("give the name of the interface to make")?;
    let count = match std::env::args().nth(2) {
        Some(count) => count.parse()?,
        None => std::num::NonZeroU8::MIN,
    };
    let workers = ipsx_tunnel_os::Workers {
        count,
        realtime: false,
    };
    let mut device = ipsx_tunnel_os::BareDevice::start(&name, workers)?;
    tokio::select! {
        ended = device.ended() => ended?,
        _ = tokio::signal::ctrl_c() => {}
    }
    device.stop();
    Ok(device.ended().await?)
}

#[cfg(not(target_os = "linux"))]
fn main() -> Result<(), Box<dyn Error>> {
    Err("TUN interfaces are made on Linux only".into())
}
