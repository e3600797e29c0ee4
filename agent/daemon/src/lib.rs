//! What the program `ipsx` does: the command line, the local stores and the loops that drive the pure cores.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this is the shell: it reads the clock, draws randomness and opens files for the pure crates"
)]

pub mod amount;
mod appeal;
pub mod broker;
pub mod cli;
mod clock;
pub mod config;
pub mod connect;
pub mod connections;
#[cfg(feature = "demo")]
mod demo;
mod deposit;
mod earnings;
pub mod exit_code;
mod leases;
mod manual;
mod measure;
mod metrics;
pub mod network;
pub mod output;
mod probe;
pub mod provider;
mod search;
mod settle;
pub mod statement;
pub mod store;
#[cfg(target_os = "linux")]
pub mod tunnel;
mod verify;
mod wallet;
mod withdraw;

use std::io::IsTerminal;
use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::config::Settings;
use crate::exit_code::Failure;
use crate::output::Output;

/// Runs one command and turns its outcome into the program's exit code.
pub fn run(cli: Cli) -> ExitCode {
    start_logging(cli.common.verbose);
    ipsx_settlement::forbid_core_dumps();
    let output = Output::new(cli.common.json);
    let outcome = runtime().and_then(|runtime| runtime.block_on(dispatch(cli, &output)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.code as u8)
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("the system gives no threads: {error}")))
}

fn start_logging(verbose: u8) {
    // The Noise library warns of every handshake that is not answered: nothing that a user could act on.
    let level = match verbose {
        0 => "warn,boringtun=error",
        1 => "info,boringtun=error",
        2 => "debug,hyper=info",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let logger = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Fails only if a logger is set already, as in tests; that one stays.
    let _ = logger.try_init();
}

async fn dispatch(cli: Cli, output: &Output) -> Result<(), Failure> {
    let settings = Settings::load(&cli.common)?;
    match cli.command {
        #[cfg(target_os = "linux")]
        Command::Tunnel(args) => tunnel::run(&args, output).await,
        Command::Wallet(command) => wallet::run(command, &settings, output).await,
        Command::Provide(args) => provider::run(*args, &settings, output).await,
        Command::Search(args) => search::run(*args, &settings, output).await,
        Command::Deposit(args) => deposit::run(args, &settings, output).await,
        Command::Connect(args) => connect::run(*args, &settings, output).await,
        Command::Appeal(args) => appeal::run(args, &settings, output).await,
        Command::Probe(args) => probe::run(args, &settings, output).await,
        Command::Leases(args) => leases::run(args, &settings, output).await,
        Command::Statement(args) => statement::run(args, &settings, output).await,
        Command::Disclose(args) => connections::disclose::run(args, &settings, output).await,
        Command::Verify(args) => verify::run(&args, output),
        Command::Settle(args) => settle::run(args, &settings, output).await,
        Command::Withdraw(command) => withdraw::run(command, &settings, output).await,
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(args, cli.common.data, output).await,
        Command::Completions { shell } => manual::completions(shell, output),
        Command::Man { command } => manual::page(command.as_deref(), output),
        Command::ExitCodes => {
            output.line(exit_code::ExitCode::table());
            Ok(())
        }
    }
}
