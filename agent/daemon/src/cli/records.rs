//! What is kept of leases, and proven by it: `leases`, `statement`, `disclose`, `verify`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use ipsx_metering::Transport;

use crate::statement::Month;

/// `ipsx leases`
#[derive(Clone, Debug, Args)]
pub struct LeasesArgs {
    /// Show every lease, also those that ended long ago
    #[arg(long)]
    pub all: bool,
}

/// `ipsx statement`
#[derive(Clone, Debug, Default, Args)]
pub struct StatementArgs {
    /// The lease's id, from `ipsx leases`
    #[arg(value_name = "LEASE", conflicts_with = "month")]
    pub lease: Option<String>,
    /// All leases of a month (UTC), such as 2026-11 [default: this month, when no lease is named]
    #[arg(long, value_name = "YYYY-MM")]
    pub month: Option<Month>,
    /// What this machine has lent, instead of what it has leased
    #[arg(long)]
    pub provider: bool,
    /// Print a table for spreadsheets (RFC 4180)
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// Also write a page that prints well
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// `ipsx disclose`
#[derive(Clone, Debug, Args)]
pub struct DiscloseArgs {
    /// When the connection was open: seconds since 1970 (UTC)
    #[arg(long, value_name = "SECONDS")]
    pub time: Option<u64>,
    /// Port that it came from, at the address that was lent
    #[arg(long, value_name = "PORT")]
    pub source_port: Option<u16>,
    /// Seconds by which clocks may differ
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub tolerance: u64,
    /// Only tcp or udp, or echo requests (icmp) with --source-port as their identifier [default: tcp and udp]
    #[arg(long, value_name = "tcp|udp|icmp", value_parser = parse_transport)]
    pub transport: Option<Transport>,
    /// Only connections to here
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub destination: Option<SocketAddr>,
    /// Only from this address, for who lends several
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<IpAddr>,
    /// File with the secret of --record-key [default: the wallet's own key]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Write the proof here
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Instead: make a key for `ipsx provide --record-key`, whose secret is to be kept elsewhere
    #[arg(long, value_name = "FILE", conflicts_with_all = ["time", "source_port"])]
    pub new_key: Option<PathBuf>,
}

/// `ipsx verify`
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// What `ipsx statement --json` or `ipsx disclose --output` wrote; `-` reads it from standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

fn parse_transport(text: &str) -> Result<Transport, String> {
    match text {
        "tcp" => Ok(Transport::Tcp),
        "udp" => Ok(Transport::Udp),
        "icmp" => Ok(Transport::Icmp),
        _ => Err(format!("{text:?} is no transport; write tcp, udp or icmp")),
    }
}
