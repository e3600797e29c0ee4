//! A relay for datagrams: what whoever is behind it sends leaves from the relay's address, as from behind a NAT.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Largest datagram.
const LARGEST: usize = 65_536;

/// A relay on loopback; it runs until the test's process ends.
pub struct Relay {
    socket: Arc<UdpSocket>,
    /// Where everything goes to, once it is known.
    to: Arc<Mutex<Option<SocketAddr>>>,
}

impl Relay {
    /// Listens on a free port of 127.0.0.1, and sends on from `from`.
    pub fn start(from: &str) -> Self {
        let from: IpAddr = from.parse().unwrap();
        let relay = Self {
            socket: Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap()),
            to: Arc::default(),
        };
        let (socket, to) = (relay.socket.clone(), relay.to.clone());
        thread::spawn(move || {
            let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
            let mut buffer = vec![0; LARGEST];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                let Some(to) = *to.lock().unwrap() else {
                    continue;
                };
                let outer = clients
                    .entry(client)
                    .or_insert_with(|| back(socket.clone(), client, from));
                // What can't be sent is lost, as anywhere.
                let _ = outer.send_to(&buffer[..length], to);
            }
        });
        relay
    }

    /// Where clients send to.
    pub fn address(&self) -> String {
        self.socket.local_addr().unwrap().to_string()
    }

    /// Where it is sent on to.
    pub fn lead_to(&self, to: &str) {
        *self.to.lock().unwrap() = Some(to.parse().unwrap());
    }
}

/// A socket of one client's own, whose answers go back to it.
fn back(inner: Arc<UdpSocket>, client: SocketAddr, from: IpAddr) -> Arc<UdpSocket> {
    let outer = Arc::new(UdpSocket::bind((from, 0)).unwrap());
    let answers = outer.clone();
    answers
        .set_read_timeout(Some(Duration::from_secs(600)))
        .unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; LARGEST];
        while let Ok((length, _)) = answers.recv_from(&mut buffer) {
            let _ = inner.send_to(&buffer[..length], client);
        }
    });
    outer
}
