//! What the program `ipsx` does: the command line, the local stores and the loops that drive the pure cores.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this is the shell: it reads the clock, draws randomness and opens files for the pure crates"
)]

pub mod amount;
pub mod cli;
pub mod config;
pub mod exit_code;
pub mod output;

use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::config::Settings;
use crate::exit_code::Failure;
use crate::output::Output;

/// Runs one command and turns its outcome into the program's exit code.
pub fn run(cli: Cli) -> ExitCode {
    start_logging(cli.common.verbose);
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
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    // Fails only if a logger is set already, as in tests; that one stays.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}

async fn dispatch(cli: Cli, output: &Output) -> Result<(), Failure> {
    let settings = Settings::load(&cli.common)?;
    match cli.command {
        Command::ExitCodes => {
            output.line(exit_code::ExitCode::table());
            Ok(())
        }
        _ => Err(Failure::internal(format!("not wired: {}", settings.broker))),
    }
}
