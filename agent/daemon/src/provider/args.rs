//! The arguments of `ipsx provide`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use ipsx_agent_core::provider::{ExposureLimits, OfferTerms};
use ipsx_market::offer::{Capacity, LONGEST_LEASE, Protocol, SHORTEST_LEASE, WeeklyHours};
use ipsx_market::services::ServiceName;
use ipsx_metering::{Amount, ClaimRules, PricePerGib, PricePerSecond, Prices};
use ipsx_tunnel_core::{ExitPolicy, Rule, Tier};

use super::ProviderConfig;
use super::claimer::ClaimSettings;
use super::domains::{DomainFile, DomainFiles};
use super::error::ProviderError;
use super::exit_args::ExitArgs;
use super::schedule;
use crate::amount;
use crate::cli::duration;
use crate::connections::RecordKey;
use crate::network::Network;

const WEI_PER_GWEI: u128 = 1_000_000_000;

/// `ipsx provide`
#[derive(Args, Clone, Debug)]
pub struct ProvideArgs {
    /// UDP address of the WireGuard endpoint.
    #[arg(long, default_value = "0.0.0.0:51820", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// Source address of everything that leaves: the link to the broker and the traffic of leases.
    #[arg(long, value_name = "ADDRESS")]
    pub bind: Option<IpAddr>,
    /// WireGuard endpoint that requesters are told, if it is not the address that the broker sees with the port
    /// of --listen.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub advertise: Option<SocketAddr>,
    /// Price of one second, in whole tokens.
    #[arg(long, value_parser = amount::parse, required_unless_present = "clean_up", value_name = "TOKENS")]
    pub price_per_second: Option<Amount>,
    /// Price of one GiB, both directions added up, in whole tokens.
    #[arg(long, value_parser = amount::parse, default_value = "0", value_name = "TOKENS")]
    pub price_per_gib: Amount,
    /// What leases may reach: web (TCP 80 and 443), web+udp, or open (all but mail).
    #[arg(long, default_value = "web", value_name = "TIER")]
    pub tier: Tier,
    /// How traffic leaves.
    #[command(flatten)]
    pub exit: ExitArgs,
    /// Opens a destination in spite of every default, for example 127.0.0.1/32:tcp/8080. Repeatable.
    #[arg(long, value_name = "RULE")]
    pub allow: Vec<Rule>,
    /// Closes a destination in spite of everything, for example 203.0.113.0/24:any/*. Repeatable.
    #[arg(long, value_name = "RULE")]
    pub deny: Vec<Rule>,
    /// File with domains whose names are not answered, one a line or as in a hosts file, each with all below it. Other
    /// resolvers are closed then. Read again when it changes. Repeatable. Example: gambling=/etc/ipsx/gambling.txt
    #[arg(long, value_name = "[CATEGORY=]FILE")]
    pub deny_domains: Vec<DomainFile>,
    /// File with exceptions: domains that are answered although a file of --deny-domains has them. Repeatable.
    #[arg(long, value_name = "[CATEGORY=]FILE")]
    pub allow_domains: Vec<DomainFile>,
    /// How leases can be used: wireguard, socks5, http-connect. Repeatable; all of them by default.
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Vec<Protocol>,
    /// Services of the network that leases come with, such as insurance. Repeatable.
    #[arg(long, value_name = "NAME")]
    pub service: Vec<ServiceName>,
    /// Leases at the same time.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub max_leases: u32,
    /// Mbit/s from requesters, all leases together; when they want more, each gets its part of it.
    #[arg(long, default_value_t = 20, value_name = "MBIT")]
    pub mbit_up: u32,
    /// Mbit/s to requesters, all leases together; when they want more, each gets its part of it.
    #[arg(long, default_value_t = 100, value_name = "MBIT")]
    pub mbit_down: u32,
    /// Bytes in a calendar month (UTC), both directions; no limit by default.
    #[arg(long, value_name = "BYTES")]
    pub bytes_per_month: Option<u64>,
    /// Shortest lease, such as 30s.
    #[arg(long, alias = "min", value_parser = duration::parse, default_value_t = SHORTEST_LEASE, value_name = "DURATION")]
    pub min_duration: u32,
    /// Longest lease, such as 2h or 31d.
    #[arg(long, alias = "max", value_parser = duration::parse, default_value_t = LONGEST_LEASE, value_name = "DURATION")]
    pub max_duration: u32,
    /// Hours of the week (UTC) when leases may run, such as mon-fri:18-24,sat-sun:0-24.
    #[arg(long, value_parser = schedule::parse, default_value = "always", value_name = "HOURS")]
    pub schedule: WeeklyHours,
    /// Most tokens of one payer that may be served without having been claimed.
    #[arg(long, value_parser = amount::parse, default_value = "100", value_name = "TOKENS")]
    pub max_unclaimed_per_payer: Amount,
    /// Most tokens of all payers that may be served without having been claimed.
    #[arg(long, value_parser = amount::parse, default_value = "1000", value_name = "TOKENS")]
    pub max_unclaimed: Amount,
    /// Accept the text about what sharing an address means, without being asked.
    #[arg(long)]
    pub accept_consent: bool,
    /// Let `wg show NAME` watch the leases by a socket in /var/run/wireguard, which needs root. It tells no private key
    /// and changes nothing.
    #[arg(long, value_name = "NAME")]
    pub uapi: Option<String>,
    /// Show metrics for Prometheus at http://ADDRESS:PORT/metrics. Nobody is asked who they are: keep to a loopback
    /// address, such as 127.0.0.1:9477.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics: Option<SocketAddr>,
    /// Claim vouchers on the chain at the end of each lease.
    #[arg(long)]
    pub claim_at_end: bool,
    /// Claim when one payer owes this many tokens.
    #[arg(long, value_parser = amount::parse, default_value = "50", value_name = "TOKENS")]
    pub claim_above: Amount,
    /// Claim when one payer owes this share of its deposit and the operator's bond together.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100), value_name = "PERCENT")]
    pub claim_share: u32,
    /// Leave claims that are worth less, for their gas.
    #[arg(long, value_parser = amount::parse, default_value = "0", value_name = "TOKENS")]
    pub claim_at_least: Amount,
    /// Put off claims while gas costs more, unless they are about to lapse.
    #[arg(long, value_name = "GWEI")]
    pub max_gas_price: Option<u64>,
    /// Undo what a provider with a kernel exit that was killed left on this host (packet filter, forwarding,
    /// addresses, routes), and do nothing else. The next start does it too.
    #[arg(long)]
    pub clean_up: bool,
    /// Days that the connection record is kept (time, addresses, ports and bytes, sealed; no content); 0 keeps none.
    #[arg(long, default_value_t = 30, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(..=3_650))]
    pub record_retention: u32,
    /// Seal the connection record to this key instead of the wallet's; `ipsx disclose --new-key` makes one.
    #[arg(long, value_name = "KEY")]
    pub record_key: Option<RecordKey>,
}

impl ProvideArgs {
    /// The exit policy that the arguments describe, without the domains of files.
    fn policy(&self) -> ExitPolicy {
        ExitPolicy {
            tier: self.tier,
            allow: self.allow.clone(),
            deny: self.deny.clone(),
            ..ExitPolicy::default()
        }
    }

    /// The configuration for a network, with everything kept in `data`. Reads the files with domains.
    pub fn config(&self, network: Network, data: PathBuf) -> Result<ProviderConfig, ProviderError> {
        let mut policy = self.policy();
        let mut domains = DomainFiles::new(self.allow_domains.clone(), self.deny_domains.clone());
        domains.read_into(&mut policy)?;
        let protocols = if self.protocol.is_empty() {
            &Protocol::ALL[..]
        } else {
            &self.protocol
        };
        Ok(ProviderConfig {
            network,
            data,
            listen: self.listen,
            bind: self.bind,
            advertise: self.advertise,
            policy,
            domains,
            exit: self.exit.clone(),
            terms: OfferTerms {
                prefixes: self.exit.prefixes(),
                protocols: protocols.iter().copied().collect(),
                services: self.service.clone(),
                capacity: Capacity {
                    leases: self.max_leases,
                    mbit_up: self.mbit_up,
                    mbit_down: self.mbit_down,
                    bytes_per_month: self.bytes_per_month.unwrap_or(u64::MAX),
                },
                prices: Prices {
                    per_second: PricePerSecond(self.price_per_second.unwrap_or(Amount::ZERO)),
                    per_gib: PricePerGib(self.price_per_gib),
                },
                min_seconds: self.min_duration,
                max_seconds: self.max_duration,
                weekly_hours: self.schedule,
            },
            exposure: ExposureLimits {
                per_payer: self.max_unclaimed_per_payer,
                per_network: self.max_unclaimed,
            },
            claim_at_end: self.claim_at_end,
            claims: ClaimSettings {
                rules: ClaimRules {
                    above: self.claim_above,
                    percent_of_backing: self.claim_share,
                    at_least: self.claim_at_least.max(Amount(1)),
                },
                most_per_gas: self
                    .max_gas_price
                    .map(|gwei| u128::from(gwei) * WEI_PER_GWEI),
            },
            uapi: self.uapi.clone(),
            metrics: self.metrics,
            record_retention: u64::from(self.record_retention) * 86_400,
            record_key: self.record_key,
        })
    }
}
