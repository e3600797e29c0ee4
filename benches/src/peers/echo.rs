//! Round trips of small UDP datagrams: the same for every implementation, also for exits that know no ICMP.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of a probe; the first eight are its number.
const SIZE: usize = 64;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends every datagram back, for ever.
pub fn answer(listen: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(listen)?;
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        // A full queue towards one sender is that probe's loss.
        let _ = socket.send_to(&buffer[..length], from);
    }
}

/// Sends `count` probes, `interval` apart whatever comes back, and gives the round trips of those that were answered.
pub fn probe(target: SocketAddr, count: usize, interval: Duration) -> io::Result<Vec<Duration>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(target)?;
    let begin = Instant::now();
    let sender = socket.try_clone()?;
    let sending = thread::spawn(move || {
        let mut datagram = [0; SIZE];
        (0..count)
            .map(|number| {
                let due = begin + interval * number as u32;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                datagram[..8].copy_from_slice(&(number as u64).to_be_bytes());
                let sent = Instant::now();
                let _ = sender.send(&datagram);
                sent
            })
            .collect::<Vec<_>>()
    });
    let end = begin + interval * count as u32 + PATIENCE;
    let mut arrivals = vec![None; count];
    let mut missing = count;
    let mut buffer = [0; SIZE];
    while missing > 0 {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        socket.set_read_timeout(Some(left))?;
        // Errors are ICMP's, or the time is over.
        let Ok(SIZE) = socket.recv(&mut buffer) else {
            continue;
        };
        let now = Instant::now();
        let number = u64::from_be_bytes([
            buffer[0], buffer[1], buffer[2], buffer[3], buffer[4], buffer[5], buffer[6], buffer[7],
        ]);
        if let Some(slot @ None) = arrivals.get_mut(number as usize) {
            *slot = Some(now);
            missing -= 1;
        }
    }
    let sent = sending
        .join()
        .map_err(|_| io::Error::other("the sending thread ended early"))?;
    Ok(sent
        .into_iter()
        .zip(arrivals)
        .filter_map(|(sent, arrived)| Some(arrived?.duration_since(sent)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_probe_comes_back_from_the_loopback() {
        let free = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        thread::spawn(move || answer(address));
        let mut answered = 0;
        for _ in 0..50 {
            answered = probe(address, 20, Duration::from_millis(2)).unwrap().len();
            if answered == 20 {
                return;
            }
        }
        panic!("only {answered} of 20 came back");
    }
}
