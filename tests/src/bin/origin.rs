//! The tests' web server as a process, so that it can run inside a namespace: `origin ADDRESS:PORT`.
#![allow(
    clippy::disallowed_methods,
    reason = "a program reads its arguments and waits"
)]

use std::process::ExitCode;
use std::time::Duration;

/// Longer than any test; a test that dies leaves nothing behind for good.
const LIFETIME: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let Some(address) = std::env::args().nth(1) else {
        return ExitCode::from(2);
    };
    let _origin = ipsx_tests::origin::Origin::start(&address);
    std::thread::sleep(LIFETIME);
    ExitCode::SUCCESS
}
