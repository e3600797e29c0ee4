//! The command line: what can be typed, with its help.

mod address;
mod country;
pub mod duration;
mod filter;
mod probe;
mod records;
mod tun;
mod wallet;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{ArgAction, ArgGroup, Args, Parser, Subcommand};
use ipsx_market::avoid::Distinct;
use ipsx_metering::{Address, Amount, DealId};

use crate::amount;
use crate::exit_code::{ExitCode, Failure};
use crate::provider::ProvideArgs;
#[cfg(target_os = "linux")]
use crate::tunnel::TunnelArgs;
pub use filter::{FilterArgs, PriceArgs};
pub use probe::{AppealArgs, ProbeArgs};
pub use records::{DiscloseArgs, LeasesArgs, StatementArgs, VerifyArgs};
pub use tun::TunArgs;
pub use wallet::{
    AuthorizeArgs, DepositArgs, ImportArgs, NewWalletArgs, RevokeArgs, SettleArgs, WalletCommand,
    WithdrawCommand, WithdrawCreditsArgs, WithdrawDepositArgs,
};

/// Lend your IP address by the second, or lease one anywhere, and pay with signed vouchers.
#[derive(Debug, Parser)]
#[command(
    name = "ipsx",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Start with `ipsx demo`: the whole market on this machine, in a few seconds.\n\
                  Exit codes: `ipsx help exit-codes`."
)]
pub struct Cli {
    /// What all commands share.
    #[command(flatten)]
    pub common: CommonArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Common options")]
pub struct CommonArgs {
    /// Folder of the wallet and the records [default: the user's data folder]
    #[arg(long, global = true, value_name = "DIR", env = "IPSX_DATA")]
    pub data: Option<PathBuf>,
    /// Configuration in TOML [default: config.toml in the data folder, if it exists]
    #[arg(long, global = true, value_name = "FILE", env = "IPSX_CONFIG")]
    pub config: Option<PathBuf>,
    /// The broker to trade with, or several of one network with commas between them, of which the next is taken when one
    /// is gone [default: http://127.0.0.1:8480] [env: IPSX_BROKER]
    #[arg(long, global = true, value_name = "URL")]
    pub broker: Option<String>,
    /// The chain's JSON-RPC [default: the one that the broker names] [env: IPSX_RPC]
    #[arg(long, global = true, value_name = "URL")]
    pub rpc: Option<String>,
    /// Read the wallet's passphrase from this file [env: IPSX_PASSPHRASE_FILE, or IPSX_PASSPHRASE with the text]
    #[arg(long, global = true, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Print JSON for programs instead of text for people
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more on standard error; repeat for still more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make, import or show the wallet
    #[command(subcommand)]
    Wallet(WalletCommand),
    /// Lend this host's address, by the second
    Provide(Box<ProvideArgs>),
    /// Show what is for lease
    Search(Box<SearchArgs>),
    /// Put tokens into the deposit that pays for leases
    Deposit(DepositArgs),
    /// Lease an address and use it
    Connect(Box<ConnectArgs>),
    /// Tell a network's operator that its databases have this provider's address wrong
    Appeal(AppealArgs),
    /// Look where addresses leave from, for the broker's operator
    Probe(ProbeArgs),
    /// List the leases of this wallet
    Leases(LeasesArgs),
    /// Show who paid whom in a lease or a month, with everything that was signed
    Statement(StatementArgs),
    /// Prove whose one connection was, for who has a letter to answer (providers)
    Disclose(DiscloseArgs),
    /// Check a statement or a disclosure offline: every hash, signature and sum is computed again
    Verify(VerifyArgs),
    /// Claim what requesters have signed for (providers)
    Settle(SettleArgs),
    /// Take tokens out: the deposit, or a provider's earnings
    #[command(subcommand)]
    Withdraw(WithdrawCommand),
    /// Run a plain WireGuard interface, configured by `wg` (Linux)
    #[cfg(target_os = "linux")]
    Tunnel(TunnelArgs),
    /// Run the whole market on this machine: broker, chain, three providers, one lease
    #[cfg(feature = "demo")]
    #[command(
        after_help = "Everything lives in a temporary folder, unless --data DIR names one to keep."
    )]
    Demo(DemoArgs),
    /// Print a shell's completions: `ipsx completions bash > /etc/bash_completion.d/ipsx`
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page of the program, or of one command: `ipsx man connect | man -l -`
    Man {
        /// Which command [default: the program itself]
        #[arg(value_name = "COMMAND")]
        command: Option<String>,
    },
    /// List the program's exit codes
    #[command(long_about = ExitCode::table())]
    ExitCodes,
}

/// `ipsx search`
#[derive(Clone, Debug, Default, Args)]
pub struct SearchArgs {
    /// What to look for.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// What to pay.
    #[command(flatten)]
    pub price: PriceArgs,
    /// Leave out offers that cannot be leased this long, such as 90s, 10m, 2h or 7d
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub duration: Option<u32>,
}

/// `ipsx connect`
#[derive(Clone, Debug, Args)]
#[command(
    after_long_help = tun::ABOUT,
    group(ArgGroup::new("many").args(["rotate", "count"]).multiple(true))
)]
pub struct ConnectArgs {
    /// What to lease.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// What to pay.
    #[command(flatten)]
    pub price: PriceArgs,
    /// The most that this lease may cost in all, in tokens
    #[arg(
        long,
        value_name = "TOKENS",
        value_parser = amount::parse,
        help_heading = "Price",
        required = false,
        required_unless_present = "restore",
        default_value_if("restore", "true", "0")
    )]
    pub budget: Amount,
    /// Whose deposit pays; it must have authorised this wallet's session key [default: this wallet's own]
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "IPSX_PAYER",
        value_parser = address::parse,
        help_heading = "Price"
    )]
    pub payer: Option<Address>,
    /// How long, such as 90s, 10m, 2h or 7d
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration::parse)]
    pub duration: u32,
    /// Start later, such as in 30m, 19h at most: the address is held for you, the first seconds are paid now and lost if you do
    /// not come [default: start at once]
    #[arg(long, value_name = "TIME", value_parser = duration::parse_ahead)]
    pub start_in: Option<u32>,
    /// With --start-in: the start may be so much later, if an offer is not for sale before
    #[arg(long, value_name = "TIME", value_parser = duration::parse_ahead, requires = "start_in", default_value = "0")]
    pub start_within: u32,
    /// If no offer fits now, or too few for --count, wait for them so long, such as 10m, 23h at most; Ctrl-C gives up
    #[arg(long, value_name = "TIME", value_parser = duration::parse_wait)]
    pub wait: Option<u32>,
    /// Lease another address every so often, such as 60s; the next lease is up before the one before it ends. The budget and
    /// the duration are for all of them together [default: keep the first one]
    #[arg(
        long,
        value_name = "TIME",
        value_parser = duration::parse_rotation,
        conflicts_with = "export"
    )]
    pub rotate: Option<u32>,
    /// Lease so many addresses at once, all or none: the proxy goes through them in turn. The budget is for all of them
    /// together. Several go with the proxy only
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u8).range(1..=64)
    )]
    pub count: u8,
    /// With --rotate or --count: by what the addresses must differ: address, prefix (/24, IPv6 /48), asn or provider
    #[arg(long, value_name = "WHAT", requires = "many", default_value_t)]
    pub distinct: Distinct,
    /// Local address of the proxy: one port speaks SOCKS5 and HTTP
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:1080",
        conflicts_with = "export"
    )]
    pub proxy: SocketAddr,
    /// Local address for the tunnel's UDP socket
    #[arg(long, value_name = "IP", conflicts_with = "export")]
    pub bind: Option<IpAddr>,
    /// Run no tunnel: write a configuration for another client (`wg`: for wg-quick) and pay while it is used
    #[arg(long, num_args = 2, value_names = ["wg", "FILE"])]
    pub export: Option<Vec<String>>,
    /// With --export: also accept prices per GiB, billed by the provider's own count
    #[arg(long, requires = "export")]
    pub trust_provider_bytes: bool,
    /// URL that answers with the address it saw, as text, to check the exit through the tunnel
    #[arg(
        long,
        value_name = "URL",
        env = "IPSX_EXIT_CHECK",
        conflicts_with = "export"
    )]
    pub exit_check: Option<String>,
    /// The host's own traffic.
    #[command(flatten)]
    pub host: TunArgs,
}

impl ConnectArgs {
    /// Refuses what only a single lease can be used with, if there are to be several.
    pub fn check_count(&self) -> Result<(), Failure> {
        let ways = [
            ("--rotate", self.rotate.is_some()),
            ("--export", self.export.is_some()),
            ("--tun", self.host.tun.is_some()),
        ];
        let single = ways.into_iter().find(|(_, asked)| *asked);
        match single.filter(|_| self.count > 1) {
            None => Ok(()),
            Some((name, _)) => Err(Failure::usage(format!(
                "--count {} cannot be used with {name}, which takes a single lease; leave one of them out",
                self.count
            ))),
        }
    }
}

/// `ipsx demo`
#[cfg(feature = "demo")]
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// How long to lease
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(5..=3_600))]
    pub seconds: u32,
    /// Country to lease in: FR, DE or JP
    #[arg(long, value_name = "CC", default_value = "FR", value_parser = country::parse)]
    pub country: ipsx_market::offer::Country,
    /// Leave everything running, with the addresses and commands to try
    #[arg(long)]
    pub keep: bool,
}

/// Reads a deal's id.
pub fn parse_deal(text: &str) -> Result<DealId, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is no lease; copy the id from `ipsx leases`"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;
    use ipsx_market::offer::Tier;
    use ipsx_market::request::IpVersion;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn filters_become_the_markets_filter() {
        let cli = Cli::try_parse_from([
            "ipsx",
            "search",
            "--country",
            "fr,DE",
            "--asn",
            "AS3215",
            "--prefix",
            "192.0.2.7",
            "--protocol",
            "socks5",
            "--tier",
            "web+udp",
            "--ip-version",
            "4",
            "--avoid-prefix",
            "192.0.2.9,198.51.100.0/24",
            "--avoid-asn",
            "AS64500",
        ])
        .unwrap();
        let Command::Search(search) = cli.command else {
            panic!("not a search")
        };
        let filter = search.filter.filter();
        assert_eq!(filter.countries.len(), 2);
        assert_eq!(filter.asns, [3215]);
        assert_eq!(filter.prefixes[0].to_string(), "192.0.2.7/32");
        assert_eq!(filter.tier, Tier::WebUdp);
        assert_eq!(filter.ip_version, IpVersion::V4);
        assert_eq!(filter.avoid.prefixes[0].to_string(), "192.0.2.9/32");
        assert_eq!(
            (filter.avoid.prefixes.len(), filter.avoid.asns),
            (2, vec![64_500])
        );
    }

    #[test]
    fn a_count_of_one_asks_like_none() {
        let parse = |words: &str| {
            let words = format!("ipsx connect --budget 2 {words}");
            match Cli::try_parse_from(words.split_whitespace()).map(|cli| cli.command) {
                Ok(Command::Connect(args)) => Ok(args),
                Ok(_) => panic!("not a lease"),
                Err(error) => Err(error.to_string()),
            }
        };
        let without = parse("").unwrap();
        assert_eq!(
            format!("{:?}", parse("--count 1").unwrap()),
            format!("{without:?}")
        );
        assert_eq!(without.count, 1);
        // Whoever works the number out need not leave out what goes with it.
        let one = parse("--count 1 --distinct asn").unwrap();
        assert_eq!((one.count, one.distinct), (1, Distinct::Asn));
        for (words, hint) in [
            ("--distinct asn", "--rotate"),
            ("--count 0", "1..=64"),
            ("--count 65", "1..=64"),
        ] {
            let refused = parse(words).unwrap_err();
            assert!(refused.contains(hint), "{words}: {refused}");
        }
        // What only a single lease can be used with, one can be.
        for words in ["--rotate 60s", "--export wg file", "--tun"] {
            let [one, two] = [1, 2].map(|count| parse(&format!("--count {count} {words}")));
            let (one, alone) = (one.unwrap(), parse(words).unwrap());
            assert_eq!(format!("{one:?}"), format!("{alone:?}"));
            one.check_count().unwrap();
            let refused = two.unwrap().check_count().unwrap_err();
            let named = words.split(' ').next().unwrap();
            assert!(refused.message.contains(named), "{words}: {refused:?}");
        }
        for words in ["--wait 5m", "--start-in 5m", "--start-in 5m --wait 5m"] {
            let several = parse(&format!("--count 2 {words}"));
            several.unwrap().check_count().unwrap();
        }
    }

    #[test]
    fn unknown_names_are_refused_with_what_to_write() {
        for (args, hint) in [
            (["search", "--country", "ZZ"], "ISO 3166-1"),
            (["search", "--asn", "x"], "3215"),
            (["search", "--protocol", "ftp"], "http-connect"),
            (["search", "--tier", "all"], "web+udp"),
            (["search", "--duration", "1w"], "90s"),
            (["search", "--prefix", "x/8"], "192.0.2.0/24"),
            (["search", "--avoid-asn", "x"], "3215"),
        ] {
            let error = Cli::try_parse_from(["ipsx"].into_iter().chain(args)).unwrap_err();
            assert!(error.to_string().contains(hint), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
