//! The tests' web server as a process, so that it can run inside a namespace: `origin ADDRESS:PORT`. On the same port it
//! answers every datagram with where it came from.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program reads its arguments, answers and waits"
)]

use std::net::UdpSocket;
use std::process::ExitCode;
use std::time::Duration;

/// Longer than any test; a test that dies leaves nothing behind for good.
const LIFETIME: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let Some(address) = std::env::args().nth(1) else {
        return ExitCode::from(2);
    };
    let _origin = ipsx_tests::origin::Origin::start(&address);
    let Ok(socket) = UdpSocket::bind(&address) else {
        return ExitCode::FAILURE;
    };
    std::thread::spawn(move || {
        while let Ok((_, from)) = socket.recv_from(&mut [0; 64]) {
            let _ = socket.send_to(format!("{from}\n").as_bytes(), from);
        }
    });
    std::thread::sleep(LIFETIME);
    ExitCode::SUCCESS
}
