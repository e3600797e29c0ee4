//! A NATS server for one test: on a free loopback port, nothing on disk, killed when dropped.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where Debian puts it.
const PROGRAM: &str = "/usr/sbin/nats-server";
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that runs.
pub struct Nats {
    process: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Nats {
    /// Starts one; `None` where it is not installed.
    ///
    /// # Panics
    ///
    /// If it can't be started.
    pub fn start() -> Option<Self> {
        if !std::path::Path::new(PROGRAM).exists() {
            return None;
        }
        let address = free_port();
        let process = Command::new(PROGRAM)
            .args(["-a", "127.0.0.1", "-p", &address.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "nats-server does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self { process, address })
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A loopback address that nobody listened on a moment ago.
pub fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}
