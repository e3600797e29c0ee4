//! The program `ipsx`. Everything it does is in the library beside it.

use std::process::ExitCode;

use clap::Parser;
use ipsx::cli::Cli;

fn main() -> ExitCode {
    ipsx::run(Cli::parse())
}
