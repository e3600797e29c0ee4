//! The program `ipsx-broker`: reads its configuration, runs one broker until it is told to stop.

mod log;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use ipsx_broker::backup::{BackupError, RestoreOptions, backup, restore};
use ipsx_broker::config::{self, BrokerConfig, Settings, StoreConfig};
use ipsx_broker::{Broker, StartError, Unsealed, check};
use log::OneLine;
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

const AFTER_HELP: &str = "\
Every option is also a key of the file (with _ for -) and a variable in the environment (IPSX_BROKER_ before the key
in capitals): --http-listen, http_listen, IPSX_BROKER_HTTP_LISTEN. Flags override the environment, which overrides
the file. IPSX_BROKER_PASSPHRASE opens the operator's keystore. IPSX_BROKER_LOG sets the log filter, such as
info,ipsx_broker=debug. An example file is packaging/ipsx-broker.example.toml.

Without a command it runs until it is told to stop. Options stand before the command:
ipsx-broker --data-dir /var/lib/ipsx-broker backup /backup/monday

Exit codes: 0 stopped on request or done, 1 internal failure, 2 usage or configuration, 3 address in use, 4 store,
5 chain, 6 operator's wallet, 7 MaxMind database, 8 check found something, 9 backup or restore failed, 10 NATS.";

/// Runs the broker of one ipsx network: agents connect by QUIC, requesters by HTTP.
#[derive(Parser)]
#[command(name = "ipsx-broker", version, after_help = AFTER_HELP)]
struct Cli {
    /// TOML file with the keys below
    #[arg(long, value_name = "FILE", env = "IPSX_BROKER_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    action: Option<Action>,
}

/// What else it can do.
#[derive(Subcommand)]
enum Action {
    /// Copy what the broker keeps into a new directory, while it may be running
    Backup {
        /// The directory, which is made
        directory: PathBuf,
    },
    /// Put a backup into the data directory of a broker that is stopped
    Restore {
        /// The backup's directory
        directory: PathBuf,
        /// Move aside what is in the data directory
        #[arg(long)]
        force: bool,
        /// The broker was stopped when the backup was made, so that nothing was promised since; without this it makes no
        /// promise on deposits for 47 hours
        #[arg(long)]
        was_stopped: bool,
    },
    /// Read everything that a stopped broker keeps, and say what is wrong with it
    Check,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("IPSX_BROKER_LOG").unwrap_or_else(|_| "info".into());
    let coloured = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(coloured)
        .with_writer(move || OneLine { coloured })
        .init();
    ipsx_settlement::forbid_core_dumps();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            // One clear line; nothing can be done if even stderr is closed.
            let _ = writeln!(std::io::stderr(), "ipsx-broker: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// What runs one broker, and nothing after it.
fn runtime() -> Result<Runtime, StartError> {
    Runtime::new().map_err(|error| StartError::Internal(error.to_string()))
}

fn run(cli: Cli) -> Result<ExitCode, StartError> {
    let config = config::load(cli.config.as_deref(), &cli.settings)?;
    match cli.action {
        None if config.fleet.is_some() => serve_among_others(&config),
        None => runtime()?.block_on(serve(config, &Unsealed::new())),
        Some(action) => runtime()?.block_on(act(action, config)),
    }
}

/// Begins anew, as another broker, whenever the others take this one for dead: what it has in memory may be wrong then, and
/// what waits for an answer may wait forever.
fn serve_among_others(config: &BrokerConfig) -> Result<ExitCode, StartError> {
    let (mut has_served, unsealed) = (false, Unsealed::new());
    loop {
        let runtime = runtime()?;
        let ended = runtime.block_on(serve(config.clone(), &unsealed));
        runtime.shutdown_timeout(Duration::from_secs(1));
        has_served |= matches!(ended, Err(StartError::CutOff));
        match ended {
            // The first start tells the operator what is wrong; later ones wait until it is mended.
            Err(error) if has_served => tracing::warn!(%error, "this broker begins anew"),
            ended => return ended,
        }
        let pause = async {
            tokio::select! {
                () = stop_asked() => true,
                () = tokio::time::sleep(Duration::from_millis(500)) => false,
            }
        };
        if self::runtime()?.block_on(pause) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

async fn act(action: Action, config: BrokerConfig) -> Result<ExitCode, StartError> {
    match action {
        Action::Check => found(&check(&config).await?),
        Action::Backup { directory } => {
            let done = backup(&config, &directory).await;
            Ok(told(done.map(|files| {
                let also = match config.store {
                    StoreConfig::Sqlite => "",
                    StoreConfig::Postgres(_) => {
                        "\nPostgreSQL's part is not in it: back that up with pg_dump, after this"
                    }
                };
                let directory = directory.display();
                format!("{} in {directory}{also}", files.join(", "))
            })))
        }
        Action::Restore {
            directory,
            force,
            was_stopped,
        } => {
            let options = RestoreOptions { force, was_stopped };
            let done = restore(&config, &directory, options).await;
            Ok(told(done.map(|restored| {
                let moved = restored.moved_to.map_or_else(String::new, |place| {
                    format!("\nwhat was there is in {}", place.display())
                });
                let directory = config.data_dir.display();
                format!("{} in {directory}{moved}", restored.files.join(", "))
            })))
        }
    }
}

/// Says what a check found.
fn found(findings: &[String]) -> Result<ExitCode, StartError> {
    let mut stdout = std::io::stdout();
    for line in findings {
        // Nothing is lost if nobody reads: the exit code says the same.
        let _ = writeln!(stdout, "{line}");
    }
    let _ = match findings.len() {
        0 => writeln!(stdout, "everything is as it should be"),
        n => writeln!(
            stdout,
            "{n} found; `ipsx-broker restore` puts a backup in its place (docs/operating.md)"
        ),
    };
    Ok(ExitCode::from(if findings.is_empty() { 0 } else { 8 }))
}

/// Says what came of a backup.
fn told(done: Result<String, BackupError>) -> ExitCode {
    match done {
        Ok(text) => {
            // As above.
            let _ = writeln!(std::io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "ipsx-broker: {error}");
            ExitCode::from(9)
        }
    }
}

async fn serve(config: BrokerConfig, unsealed: &Unsealed) -> Result<ExitCode, StartError> {
    let broker = Broker::start_with(config, unsealed).await?;
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
        () = stop_asked() => Ok(ExitCode::SUCCESS),
        error = broker.failed() => Err(error),
    };
    if matches!(stopped, Err(StartError::CutOff)) {
        broker.abandon().await;
        return stopped;
    }
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
