//! The program `ipsx-broker`: reads its configuration, runs one broker until it is told to stop.

mod log;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use ipsx_broker::config::{self, Settings};
use ipsx_broker::{Broker, StartError};
use log::OneLine;
use tracing_subscriber::EnvFilter;

const AFTER_HELP: &str = "\
Every option is also a key of the file (with _ for -) and a variable in the environment (IPSX_BROKER_ before the key
in capitals): --http-listen, http_listen, IPSX_BROKER_HTTP_LISTEN. Flags override the environment, which overrides
the file. IPSX_BROKER_PASSPHRASE opens the operator's keystore. IPSX_BROKER_LOG sets the log filter, such as
info,ipsx_broker=debug. An example file is packaging/ipsx-broker.example.toml.

Exit codes: 0 stopped on request, 1 internal failure, 2 usage or configuration, 3 address in use, 4 store,
5 chain, 6 operator's wallet, 7 MaxMind database.";

/// Runs the broker of one ipsx network: agents connect by QUIC, requesters by HTTP.
#[derive(Parser)]
#[command(name = "ipsx-broker", version, after_help = AFTER_HELP)]
struct Cli {
    /// TOML file with the keys below
    #[arg(long, value_name = "FILE", env = "IPSX_BROKER_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("IPSX_BROKER_LOG").unwrap_or_else(|_| "info".into());
    let coloured = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(coloured)
        .with_writer(move || OneLine { coloured })
        .init();
    ipsx_settlement::forbid_core_dumps();
    match run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One clear line; nothing can be done if even stderr is closed.
            let _ = writeln!(std::io::stderr(), "ipsx-broker: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

async fn run(cli: Cli) -> Result<(), StartError> {
    let config = config::load(cli.config.as_deref(), &cli.settings)?;
    let broker = Broker::start(config).await?;
    // For scripts that wait for it; nothing is lost if nobody reads.
    let admin = broker.admin_addr();
    let admin = admin.map_or_else(String::new, |address| format!(" admin={address}"));
    let _ = writeln!(
        std::io::stdout(),
        "ready http={} agents={}{admin} network={}",
        broker.http_addr(),
        broker.agents_addr(),
        broker.network_info().network
    );
    let stopped = tokio::select! {
        () = stop_asked() => Ok(()),
        error = broker.failed() => Err(error),
    };
    tracing::info!("stopping");
    broker.shutdown().await;
    stopped
}

/// Waits for SIGINT or SIGTERM.
async fn stop_asked() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    if let Ok(mut terminate) =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
    {
        tokio::select! {
            _ = interrupt => {}
            _ = terminate.recv() => {}
        }
        return;
    }
    let _ = interrupt.await;
}
