//! `ipsx probe` and `ipsx appeal`

use std::net::IpAddr;

use clap::Args;
use ipsx_market::place::AddressType;
use ipsx_metering::Amount;

use crate::amount;

/// `ipsx probe`
#[derive(Clone, Debug, Args)]
#[command(
    after_long_help = "The wallet of --data pays: it deposits for accounts that are made beside it, in accounts/, and each \
                       of these leases at most once from the same provider."
)]
pub struct ProbeArgs {
    /// Where the broker's operator looks: probes are asked for there, and their outcomes told
    #[arg(
        long,
        value_name = "URL",
        env = "IPSX_ADMIN",
        default_value = "http://127.0.0.1:8482"
    )]
    pub admin: String,
    /// http:// URL of the broker's /v1/echo as exits reach it; repeat it for more, of which each probe takes one
    /// [default: that of --broker]
    #[arg(long, value_name = "URL")]
    pub echo: Vec<String>,
    /// http:// URL of a large file, to measure how fast exits are by at most 8 MiB of it [default: none]
    #[arg(long, value_name = "URL")]
    pub download: Option<String>,
    /// http:// URL that takes a POST of 8 MiB, to measure the other direction [default: none]
    #[arg(long, value_name = "URL")]
    pub upload: Option<String>,
    /// Address of this host that tunnels come from; repeat it for more, of which each probe takes one
    /// [default: what the host takes]
    #[arg(long, value_name = "IP")]
    pub bind: Vec<IpAddr>,
    /// The most that one probe may cost, in tokens; what is dearer is not probed
    #[arg(long, value_name = "TOKENS", value_parser = amount::parse, default_value = "1")]
    pub budget: Amount,
    /// Seconds to wait when no probe is due, or after one that saw nothing
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3_600), default_value_t = 10)]
    pub pause: u32,
    /// End once no probe is due
    #[arg(long)]
    pub once: bool,
}

/// `ipsx appeal`
#[derive(Clone, Debug, Args)]
pub struct AppealArgs {
    /// The address, as the broker sees this provider's agent
    #[arg(long, value_name = "IP")]
    pub address: IpAddr,
    /// What it is: residential, mobile or hosting
    #[arg(long, value_name = "TYPE")]
    pub address_type: AddressType,
    /// How the operator can tell, in at most 1000 characters
    #[arg(long, value_name = "TEXT")]
    pub text: String,
}
