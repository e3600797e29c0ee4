//! The manual pages and the shells' completions, made from the command line's own description.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit_code::{ExitCode, Failure};
use crate::output::Output;

/// Prints the script that completes `ipsx` in a shell.
pub(crate) fn completions(shell: Shell, output: &Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ipsx", &mut script);
    output.line(String::from_utf8_lossy(&script));
    Ok(())
}

/// Prints a page in roff: the program's, or that of one of its commands.
pub(crate) fn page(name: Option<&str>, output: &Output) -> Result<(), Failure> {
    let mut program = Cli::command();
    program.build();
    let command = match name {
        None => program,
        Some(name) => program.find_subcommand(name).cloned().ok_or_else(|| {
            Failure::new(
                ExitCode::Usage,
                format!("there is no command {name:?}; `ipsx --help` lists them"),
            )
        })?,
    };
    let mut roff = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut roff)
        .map_err(|error| Failure::internal(format!("the page can't be written: {error}")))?;
    output.line(String::from_utf8_lossy(&roff));
    Ok(())
}
