//! WireGuard implementations side by side, in network namespaces that are made for it: throughput, CPU time, memory and
//! round trips of any requester's end with any exit, in turns, as one table.
//!
//! ```text
//! cargo build --release -p ipsx -p ipsx-benches
//! cargo run --release -p ipsx-benches --bin peers -- --rounds 5 --json figures.json
//! cargo run --release -p ipsx-benches --bin peers -- list
//! cargo run --release -p ipsx-benches --bin peers -- --pair ipsx --pair wireguard-go:ipsx --measure tcp1,idle
//! cargo run --release -p ipsx-benches --bin peers -- --implementation 'mine=/opt/mine -f {ifname}' --pair mine
//! ```
//!
//! Needs root, and the Debian packages iproute2, iperf3, wireguard-tools, nftables, util-linux and, for `--offload-off`,
//! ethtool.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use clap::{Parser, Subcommand};
use ipsx_benches::peers::{self, Catalogue, Pair, Settings, What};

/// What is measured when no pair is given.
const PAIRS: [&str; 10] = [
    "none",
    "wireguard-go",
    "ipsx",
    "gotatun",
    "boringtun",
    "wireguard-go:ipsx",
    "wireguard-go:gotatun",
    "wireguard-go:ipsx-kernel",
    "wireguard-go:ipsx-userspace",
    "wireguard-go:wgslirpy",
];

/// Program, and the Debian package it is in.
const TOOLS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("wg", "wireguard-tools"),
    ("nft", "nftables"),
    ("ethtool", "ethtool"),
    ("chrt", "util-linux"),
];

/// Measures WireGuard implementations side by side.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    /// CLIENT:EXIT, or one name for both ends; `none` is the way without a tunnel. Repeatable.
    #[arg(long = "pair", value_name = "PAIR")]
    pairs: Vec<Pair>,
    /// How often each pair is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each TCP measurement.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Seconds of each UDP rate.
    #[arg(long, default_value_t = 1)]
    udp_seconds: u64,
    /// Figures to take: tcp1, tcp8, udp, idle, load.
    #[arg(long = "measure", value_delimiter = ',', value_name = "WHAT")]
    what: Vec<What>,
    /// MTU of the tunnels.
    #[arg(long, default_value_t = 1420)]
    mtu: u16,
    /// Turn the veth pairs' offloads off, as on a plain network card.
    #[arg(long)]
    offload_off: bool,
    /// Seconds to wait before each measurement for other programs to become quiet.
    #[arg(long, default_value_t = 30)]
    calm: u64,
    /// How often a measurement is repeated that other programs disturbed.
    #[arg(long, default_value_t = 1)]
    retries: usize,
    /// Another implementation: NAME=COMMAND. The command stays in the foreground and makes the interface {ifname} with
    /// its UAPI socket; with {key}, {keyfile} or {conf} it configures itself. Also {addr} {peer_addr} {listen}
    /// {endpoint} {pubkey} {peer_pubkey} {mtu} {web} {wan}. Repeatable.
    #[arg(long = "implementation", value_name = "NAME=COMMAND")]
    implementations: Vec<String>,
    /// Like --implementation, for an exit that makes no interface or looks after routes and NAT itself.
    #[arg(long = "exit-implementation", value_name = "NAME=COMMAND")]
    exits: Vec<String>,
    /// Folder with programs, or with what `cargo install --root` and `dpkg -x` put there. Repeatable.
    #[arg(long = "peers", value_name = "FOLDER", env = "IPSX_PEERS")]
    folders: Vec<PathBuf>,
    /// Write the table here too.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write every figure of every round here.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Action {
    /// Shows the implementations, and how to install those that are missing.
    List,
    /// Answers datagrams: the far end of round trips, started by the runner.
    #[command(hide = true)]
    Echo { listen: SocketAddr },
    /// Prints round trips in seconds, started by the runner.
    #[command(hide = true)]
    Probe {
        target: SocketAddr,
        count: usize,
        every_ms: u64,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.action {
        Some(Action::Echo { listen }) => peers::answer(*listen)
            .map(|()| ExitCode::SUCCESS)
            .map_err(|e| e.to_string()),
        Some(Action::Probe {
            target,
            count,
            every_ms,
        }) => peers::probe(*target, *count, Duration::from_millis(*every_ms))
            .map(|times| {
                for time in times {
                    println!("{:.9}", time.as_secs_f64());
                }
                ExitCode::SUCCESS
            })
            .map_err(|e| e.to_string()),
        Some(Action::List) => catalogue(&arguments).map(|catalogue| {
            list(&catalogue);
            ExitCode::SUCCESS
        }),
        None => measure(&arguments),
    };
    done.unwrap_or_else(|message| {
        eprintln!("error: {message}");
        ExitCode::from(2)
    })
}

fn catalogue(arguments: &Arguments) -> Result<Catalogue, String> {
    let mut folders = arguments.folders.clone();
    if folders.is_empty()
        && let Some(home) = std::env::home_dir()
    {
        folders.push(peers::default_folder(&home));
    }
    let mut catalogue = Catalogue::new(&folders);
    for text in &arguments.implementations {
        catalogue.add(text, true)?;
    }
    for text in &arguments.exits {
        catalogue.add(text, false)?;
    }
    Ok(catalogue)
}

fn list(catalogue: &Catalogue) {
    for (name, implementation) in catalogue.iter() {
        let role = if implementation.has_interface {
            "both ends"
        } else {
            "exit only"
        };
        println!("{name} ({role}): {}", implementation.command);
        match catalogue.program(implementation) {
            Some(path) => println!("    {}", path.display()),
            None => println!("    not installed: {}", implementation.install),
        }
    }
}

fn measure(arguments: &Arguments) -> Result<ExitCode, String> {
    check_tools(arguments.offload_off)?;
    let catalogue = catalogue(arguments)?;
    let pairs = if arguments.pairs.is_empty() {
        PAIRS
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_, _>>()?
    } else {
        arguments.pairs.clone()
    };
    let settings = Settings {
        rounds: arguments.rounds,
        seconds: Duration::from_secs(arguments.seconds.max(1)),
        udp_seconds: Duration::from_secs(arguments.udp_seconds.max(1)),
        mtu: arguments.mtu,
        offloads: !arguments.offload_off,
        what: if arguments.what.is_empty() {
            What::ALL.to_vec()
        } else {
            arguments.what.clone()
        },
        calm: Duration::from_secs(arguments.calm),
        retries: arguments.retries,
    };
    peers::watch_for_interrupt().map_err(|e| format!("listening for signals: {e}"))?;
    let (report, failure) =
        peers::measure(&catalogue, &pairs, &settings, |line| eprintln!("{line}"));
    if !report.is_empty() {
        println!("{}", report.markdown());
    }
    for (path, text) in [
        (&arguments.markdown, report.markdown()),
        (&arguments.json, format!("{:#}\n", report.json())),
    ] {
        if let Some(path) = path {
            std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    Ok(match failure {
        Some(failure) => {
            eprintln!("error: {failure}; the namespaces are gone");
            ExitCode::from(130)
        }
        None if report.is_empty() || report.has_failures() => ExitCode::FAILURE,
        None => ExitCode::SUCCESS,
    })
}

fn check_tools(needs_ethtool: bool) -> Result<(), String> {
    let missing: Vec<_> = TOOLS
        .iter()
        .filter(|(tool, _)| needs_ethtool || *tool != "ethtool")
        .filter(|(tool, _)| {
            Command::new(tool)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_err()
        })
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() {
        return Err(format!(
            "these Debian packages are missing: apt-get install {}",
            missing.join(" ")
        ));
    }
    let user = Command::new("id").arg("-u").output();
    if !user.is_ok_and(|output| output.stdout == b"0\n") {
        return Err("making network namespaces needs root: run it with sudo".to_owned());
    }
    Ok(())
}
