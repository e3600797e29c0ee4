//! A NATS server for one test: on a free loopback port, nothing on disk, killed when dropped.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::port;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Where Debian puts it.
const PROGRAM: &str = "/usr/sbin/nats-server";
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that runs.
pub struct Nats {
    process: Child,
    /// Where it listens.
    pub address: SocketAddr,
    monitor: SocketAddr,
}

impl Nats {
    /// Starts one for a test; `None` where `IPSX_WITHOUT_NATS` says that tests are to do without.
    ///
    /// # Panics
    ///
    /// If it is missing, or can't be started.
    pub fn for_test() -> Option<Self> {
        if std::env::var_os("IPSX_WITHOUT_NATS").is_some() {
            return None;
        }
        let server = Self::start();
        Some(
            server
                .expect("NATS is missing: install Debian's nats-server, or set IPSX_WITHOUT_NATS"),
        )
    }

    /// Starts one; `None` where it is not installed.
    ///
    /// # Panics
    ///
    /// If it can't be started.
    pub fn start() -> Option<Self> {
        if !std::path::Path::new(PROGRAM).exists() {
            return None;
        }
        let (address, monitor) = (port::free(LOOPBACK), port::free(LOOPBACK));
        let process = run(address, monitor);
        Some(Self {
            process,
            address,
            monitor,
        })
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Messages that it was sent since its start.
    ///
    /// # Panics
    ///
    /// If it does not say.
    pub fn messages(&self) -> u64 {
        let mut stream = TcpStream::connect(self.monitor).unwrap();
        stream.write_all(b"GET /varz HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let said: serde_json::Value = serde_json::from_str(body).unwrap();
        said["in_msgs"].as_u64().unwrap()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again where it was.
    pub fn restart(&mut self) {
        self.process = run(self.address, self.monitor);
    }
}

/// Starts a server, and waits until it listens.
fn run(address: SocketAddr, monitor: SocketAddr) -> Child {
    let process = Command::new(PROGRAM)
        .args(["-a", "127.0.0.1", "-p", &address.port().to_string()])
        .args(["-m", &monitor.port().to_string()])
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
    process
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
