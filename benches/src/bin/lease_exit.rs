//! A provider's exit with one lease whose gate is open, and nothing else of the market: for measuring.
//!
//! `lease_exit userspace|kernel --key-file FILE --peer KEY --peer-address 10.70.9.2 --gateway 10.70.9.1 --listen 0.0.0.0:51820`

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use ipsx_tunnel_core::{ExitPolicy, Gate, Ipv4Net, PeerConfig, PrivateKey, PublicKey, Rule, Tier};
use ipsx_tunnel_os::{ExitLimits, KernelExitConfig, Provider, ProviderConfig};

/// Control datagrams, which nobody sends here.
const CONTROL_PORT: u16 = 4411;

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Userspace,
    Kernel,
}

#[derive(Parser)]
struct Arguments {
    /// Which exit.
    kind: Kind,
    /// File with the exit's private key, base64.
    #[arg(long)]
    key_file: PathBuf,
    /// The lease's public key.
    #[arg(long)]
    peer: PublicKey,
    /// The lease's address inside the tunnel.
    #[arg(long)]
    peer_address: Ipv4Addr,
    /// The exit's address inside the tunnel.
    #[arg(long)]
    gateway: Ipv4Addr,
    /// Where to listen for WireGuard.
    #[arg(long)]
    listen: SocketAddr,
    /// A destination that is opened in spite of the policy, such as a server on a private network. Repeatable.
    #[arg(long)]
    allow: Vec<Rule>,
    /// An interface that a kernel exit sends traffic out by. Repeatable.
    #[arg(long)]
    interface: Vec<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(2)
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let key: PrivateKey = std::fs::read_to_string(&arguments.key_file)?
        .trim()
        .parse()?;
    let config = ProviderConfig {
        private_key: key,
        listen: arguments.listen,
        egress_v4: None,
        egress_v6: None,
        gateway_v4: arguments.gateway,
        gateway_v6: None,
        control_port: CONTROL_PORT,
        policy: ExitPolicy {
            allow: arguments.allow,
            ..ExitPolicy::new(Tier::Open)
        },
        limits: ExitLimits::default(),
    };
    let folder = tempfile::tempdir()?;
    let (provider, mut events) = match arguments.kind {
        Kind::Userspace => Provider::start(config)?,
        Kind::Kernel => {
            let kernel = KernelExitConfig {
                folder: folder.path().to_owned(),
                inner: vec![Ipv4Net::new(arguments.gateway, 24)?.into()],
                egress: Vec::new(),
                interfaces: arguments.interface,
            };
            Provider::start_with_kernel_exit(config, &kernel, None)?
        }
    };
    let peer = provider
        .add_peer(PeerConfig {
            public_key: arguments.peer,
            preshared_key: None,
            endpoint: None,
            allowed_ips: vec![IpAddr::V4(arguments.peer_address).into()],
            keepalive: None,
        })
        .await?;
    provider.set_gate(peer, Gate::Open)?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    loop {
        tokio::select! {
            event = events.recv() => if event.is_none() {
                return Err("the exit ended by itself".into());
            },
            _ = tokio::signal::ctrl_c() => break,
            _ = terminate.recv() => break,
        }
    }
    provider.shutdown().await;
    Ok(())
}
