//! `ipsx verify FILE`: computes every hash, signature and sum of a statement or a disclosure again, offline.
//!
//! Nothing here is shared with the code that writes statements but the EIP-712 types of the signed messages: the
//! document is read by types of its own, sums are its own, and signatures are recovered with the curve's library.

mod disclosure;
mod document;
mod findings;
mod lease;
mod money;
mod period;
mod signature;
mod sums;
#[cfg(test)]
pub(crate) mod tests;

use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use crate::cli::VerifyArgs;
use crate::exit_code::{ExitCode, Failure};
use crate::output::{Output, Style};
use findings::Findings;

/// The largest file that is read, bytes: a month of several thousand leases.
const LARGEST: u64 = 256 << 20;

/// Runs it.
pub(crate) fn run(args: &VerifyArgs, output: &Output) -> Result<(), Failure> {
    let text = read(&args.file)?;
    let findings = check(&text).map_err(|reason| {
        Failure::new(
            ExitCode::Statement,
            format!(
                "{} is no statement or disclosure: {reason}; write one with `ipsx statement --json` or `ipsx disclose --output`",
                args.file.display()
            ),
        )
    })?;
    show(&findings, output);
    match findings.failed() {
        0 => Ok(()),
        failed => Err(Failure::new(
            ExitCode::Statement,
            format!("{failed} of {} checks do not hold", findings.checked.len()),
        )),
    }
}

/// What holds of a document and what doesn't, or why it cannot be read.
pub(crate) fn check(text: &str) -> Result<Findings, String> {
    let unreadable = |error: serde_json::Error| error.to_string();
    let shape: Shape = serde_json::from_str(text).map_err(unreadable)?;
    if shape.format == disclosure::FORMAT {
        let document = serde_json::from_str(text).map_err(unreadable)?;
        return Ok(disclosure::check(&document));
    }
    let document = serde_json::from_str(text).map_err(unreadable)?;
    Ok(sums::check(&document))
}

/// What a document calls itself.
#[derive(Deserialize)]
struct Shape {
    format: String,
}

fn show(findings: &Findings, output: &Output) {
    output.json(findings);
    for check in &findings.checked {
        let (style, word) = if check.holds {
            (Style::Good, "ok")
        } else {
            (Style::Bad, "WRONG")
        };
        let word = output.paint(style, format!("{word:<5}"));
        output.line(format!("{word}  {}: {}", check.of, check.what));
    }
    if !findings.unproven.is_empty() {
        output.line("");
        output.line("Not proven by anything in the file:");
        for (field, why) in &findings.unproven {
            output.line(format!("  {field}: {why}"));
        }
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(LARGEST)
            .read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(LARGEST).read_to_string(&mut text))
    };
    read.map(|_| text).map_err(|error| {
        Failure::new(
            ExitCode::Storage,
            format!("can't read {}: {error}", file.display()),
        )
    })
}
