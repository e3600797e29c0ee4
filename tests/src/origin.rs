//! A web server that answers with the source address it saw (with its port at `/from`), or with as many bytes as the
//! path asks for: all the same (`/bytes/N`), or none like another (`/noise/N`).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::web::{Through, fetch};

/// A server on a thread of its own until the test ends.
pub struct Origin {
    address: SocketAddr,
    sent: Arc<AtomicU64>,
}

impl Origin {
    /// Listens on this address; port 0 picks one.
    pub fn start(address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let sent = Arc::new(AtomicU64::new(0));
        let counter = sent.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let counter = counter.clone();
                thread::spawn(move || answer(client, &counter));
            }
        });
        Self { address, sent }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What leads to it.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// The rule of an exit policy that opens the way to it.
    pub fn rule(&self) -> String {
        format!("{}/32:tcp/{}", self.address.ip(), self.address.port())
    }

    /// The address that it sees whoever comes through this proxy from.
    #[track_caller]
    pub fn sees(&self, proxy: &str) -> String {
        let seen = fetch(proxy, Through::Socks5, &self.url());
        assert_eq!(seen.status, 200, "{seen:?}");
        seen.body
    }

    /// Body bytes sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

fn answer(client: TcpStream, sent: &AtomicU64) -> Option<()> {
    let source = client.peer_addr().ok()?;
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut request = String::new();
    reader.read_line(&mut request).ok()?;
    let (mut header, mut length) = (String::new(), 0);
    while reader.read_line(&mut header).ok()? > 2 {
        let (name, value) = header.split_once(':').unwrap_or_default();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
        header.clear();
    }
    let uploaded = std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink()).ok()?;
    let path = request.split(' ').nth(1)?;
    let path = path
        .strip_prefix("http://")
        .and_then(|p| p.find('/').map(|i| &p[i..]))
        .unwrap_or(path);
    let mut client = client;
    let mut write = |bytes: &[u8]| {
        sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        client.write_all(bytes).ok()
    };
    let head = |length: u64| {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n")
    };
    if let Some(length) = path
        .strip_prefix("/bytes/")
        .and_then(|n| n.parse::<u64>().ok())
    {
        write(head(length).as_bytes())?;
        let block = [b'x'; 64 * 1024];
        let mut left = length;
        while left > 0 {
            let next = left.min(block.len() as u64);
            write(&block[..next as usize])?;
            left -= next;
        }
    } else if let Some(length) = path.strip_prefix("/noise/").and_then(|n| n.parse().ok()) {
        write(head(length as u64).as_bytes())?;
        write(&noise(length))?;
    } else {
        let body = match uploaded {
            0 if path == "/from" => source.to_string(),
            0 => source.ip().to_string(),
            bytes => bytes.to_string(),
        };
        write(head(body.len() as u64).as_bytes())?;
        write(body.as_bytes())?;
    }
    Some(())
}

/// What `/noise/N` answers: bytes that show every loss, repetition and exchange.
pub fn noise(length: usize) -> Vec<u8> {
    // Numerical Recipes' generator: any would do that does not repeat within the length.
    let mut state = 1u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.extend(state.to_be_bytes());
    }
    bytes.truncate(length);
    bytes
}
