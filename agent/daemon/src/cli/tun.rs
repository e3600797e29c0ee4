//! What can be typed about the host's own traffic.

use clap::Args;
use ipsx_market::IpNet;

use super::filter::parse_prefix;

/// What `ipsx connect --help` and its manual page say at their end.
pub(super) const ABOUT: &str = "\
The host's own traffic: with --tun everything that leaves this host goes through the lease, names are asked for inside the \
tunnel, and a kill switch lets nothing leave by another way, IPv4 or IPv6. What ipsx itself has to reach, the broker and \
the chain, stays outside. Your own network is out of reach too, unless --direct names it.

A lease that ends as you meant it (its time, its budget, Ctrl-C) changes everything back. One that fails, and a kill or a \
crash, leave the host shut: `ipsx connect --restore` opens it, without broker or wallet, and so does the next \
`ipsx connect --tun`, with its own lease. Give both the same --data folder, which remembers what was changed. After a \
reboot only the resolver's file is left to restore.

  ipsx connect --country FR --budget 2 --duration 1h --tun --direct 192.168.1.0/24
  ipsx connect --restore";

/// `ipsx connect --tun …`
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "The host's own traffic (Linux)")]
pub struct TunArgs {
    /// Lead all of this host's traffic through the lease, by an interface of this name; needs root or CAP_NET_ADMIN
    #[arg(
        long,
        value_name = "NAME",
        num_args = 0..=1,
        default_missing_value = "lease0",
        conflicts_with_all = ["proxy", "export"]
    )]
    pub tun: Option<String>,
    /// With --tun: lead only this prefix through the lease; repeat or separate with commas
    #[arg(long, value_name = "PREFIX", value_delimiter = ',', value_parser = parse_prefix, requires = "tun")]
    pub route: Vec<IpNet>,
    /// With --tun: reach this prefix outside the lease, such as your own network 192.168.1.0/24
    #[arg(long, value_name = "PREFIX", value_delimiter = ',', value_parser = parse_prefix, requires = "tun")]
    pub direct: Vec<IpNet>,
    /// With --tun: let traffic leave by its old way when the tunnel is gone
    #[arg(long, requires = "tun")]
    pub no_kill_switch: bool,
    /// With --tun: leave the host's resolver alone [default with --route]
    #[arg(long, requires = "tun")]
    pub keep_dns: bool,
    /// Undo what --tun changed and a kill, a crash or a failed lease left: kill switch, routes, resolver
    #[arg(long, conflicts_with_all = ["tun", "export"])]
    pub restore: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use crate::cli::{Cli, Command, ConnectArgs};

    fn connect(words: &[&str]) -> Result<ConnectArgs, clap::Error> {
        let all = ["ipsx", "connect"].iter().chain(words);
        match Cli::try_parse_from(all)?.command {
            Command::Connect(args) => Ok(*args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_interface_has_a_name_of_its_own_or_a_given_one() {
        let args = connect(&["--tun", "--budget", "1"]).unwrap();
        assert_eq!(args.host.tun.as_deref(), Some("lease0"));
        let args = connect(&[
            "--budget",
            "1",
            "--tun",
            "lease7",
            "--route",
            "192.0.2.0/24,2001:db8::1",
        ]);
        let host = args.unwrap().host;
        assert_eq!(host.tun.as_deref(), Some("lease7"));
        assert_eq!(host.route.len(), 2);
        assert!(connect(&["--budget", "1"]).unwrap().host.tun.is_none());
    }

    #[test]
    fn undoing_needs_no_budget_and_everything_else_does() {
        assert!(connect(&["--restore"]).unwrap().host.restore);
        assert!(connect(&["--tun"]).is_err());
        assert!(connect(&[]).is_err());
        assert!(connect(&["--restore", "--tun"]).is_err());
    }

    #[test]
    fn what_only_a_tunnel_knows_is_refused_without_one() {
        for word in [
            "--route=192.0.2.0/24",
            "--direct=192.0.2.0/24",
            "--no-kill-switch",
            "--keep-dns",
        ] {
            assert!(connect(&["--budget", "1", word]).is_err(), "{word}");
        }
        assert!(connect(&["--budget", "1", "--tun", "--proxy", "127.0.0.1:1"]).is_err());
    }
}
