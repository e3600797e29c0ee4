#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::float_arithmetic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test fails by panicking, and one measures"
)]

use std::sync::atomic::{AtomicU64, Ordering};

use ipsx_relay::Party;
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(5);

/// Four ports of this machine that nobody uses.
fn relay(ports: std::ops::RangeInclusive<u16>) -> Arc<Relay> {
    relay_at(ports, 1_000_000)
}

/// The same with so many bytes a second.
fn relay_at(ports: std::ops::RangeInclusive<u16>, bytes_per_second: u64) -> Arc<Relay> {
    let config = RelayConfig {
        ports,
        bytes_per_second,
        lease_bytes_per_second: bytes_per_second,
        leases_per_wallet: 2,
    };
    // Whoever else runs these tests has another address.
    let [.., high, low] = std::process::id().to_be_bytes();
    let here = IpAddr::from([127, 42, high, low]);
    let metrics = Arc::new(Metrics::new().unwrap());
    Arc::new(Relay::new(config, (here, here), metrics))
}

fn deal(number: u8) -> DealId {
    DealId(B256::repeat_byte(number))
}

/// The port of a lease that has this payer and this provider.
fn open_for(relay: &Arc<Relay>, number: u8, payer: u8, provider: u8) -> Result<Ways, NoRelay> {
    let parties = Parties {
        payer: Address::repeat_byte(payer),
        provider: Address::repeat_byte(provider),
    };
    relay.open(deal(number), parties)
}

/// The same of a lease with a payer and a provider of its own.
fn open(relay: &Arc<Relay>, number: u8) -> Result<Ways, NoRelay> {
    open_for(relay, number, number, number)
}

/// A side's socket, once the relay knows where it is.
async fn side(relay: SocketAddr, token: RelayToken) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let now = Instant::now().into_std();
    let mut party = Party::new(relay, Token(token.0.0), now);
    let hello = party.handle_timeout(|| [1; 12], now).unwrap();
    socket.send_to(&hello, relay).await.unwrap();
    let mut datagram = [0; 64];
    let came = timeout(SOON, socket.recv_from(&mut datagram)).await;
    let (length, from) = came.unwrap().unwrap();
    let proof = party.handle_message(from, &datagram[..length], now);
    socket.send_to(&proof.unwrap(), relay).await.unwrap();
    socket
}

async fn came(socket: &UdpSocket) -> Option<Vec<u8>> {
    let mut datagram = [0; 2048];
    let came = timeout(Duration::from_millis(300), socket.recv_from(&mut datagram));
    let (length, _) = came.await.ok()?.unwrap();
    Some(datagram[..length].to_vec())
}

fn data(of: u8) -> Vec<u8> {
    let mut datagram = vec![of; 1_000];
    datagram[..4].copy_from_slice(&[4, 0, 0, 0]);
    datagram
}

#[tokio::test]
async fn what_one_side_sends_comes_to_the_other_as_long_as_the_lease_goes_on() {
    let relay = relay(21_100..=21_103);
    let ways = open(&relay, 1).unwrap();
    assert_eq!(open(&relay, 1).unwrap().relay, ways.relay, "asked again");
    let requester = side(ways.relay, ways.requester).await;
    let provider = side(ways.relay, ways.provider).await;
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for (from, to, of) in [(&requester, &provider, 1), (&provider, &requester, 2)] {
        from.send_to(&data(of), ways.relay).await.unwrap();
        assert_eq!(came(to).await.unwrap(), data(of));
        stranger.send_to(&data(3), ways.relay).await.unwrap();
        assert_eq!(came(to).await, None);
        // All that it gets is asked back.
        assert_eq!(came(&stranger).await.unwrap().len(), ipsx_stun::HEADER);
    }
    assert_eq!(relay.metrics.relayed_bytes.get(), 2_000);
    assert_eq!(relay.metrics.relayed_leases.get(), 1);
    relay.close(deal(1));
    assert_eq!(relay.metrics.relayed_leases.get(), 0);
    let _ = requester.send_to(&data(1), ways.relay).await;
    assert_eq!(came(&provider).await, None);
}

#[tokio::test]
async fn leases_have_ports_of_their_own_until_there_is_none_left() {
    let relay = relay(21_110..=21_112);
    let ports: std::collections::BTreeSet<_> = (0..3)
        .map(|number| open(&relay, number).unwrap().relay.port())
        .collect();
    assert_eq!(
        ports.into_iter().collect::<Vec<_>>(),
        [21_110, 21_111, 21_112]
    );
    assert!(matches!(open(&relay, 3), Err(NoRelay::Full)));
    relay.close(deal(1));
    // Its task lets go of the socket.
    tokio::time::sleep(Duration::from_millis(50)).await;
    open(&relay, 3).unwrap();
}

#[tokio::test]
async fn nobody_has_more_than_its_share_of_the_ports_whoever_it_leases_from_or_lends_to() {
    let relay = relay(21_130..=21_139);
    open_for(&relay, 1, 1, 101).unwrap();
    open_for(&relay, 2, 1, 102).unwrap();
    let refused = open_for(&relay, 3, 1, 103).unwrap_err();
    assert!(matches!(refused, NoRelay::PayersShare(2)), "{refused}");
    assert!(refused.to_string().contains("end one of them"), "{refused}");
    // What it has, it has.
    open_for(&relay, 2, 1, 102).unwrap();
    open_for(&relay, 4, 4, 102).unwrap();
    let refused = open_for(&relay, 5, 5, 102).unwrap_err();
    assert!(matches!(refused, NoRelay::ProvidersShare(2)), "{refused}");
    open_for(&relay, 5, 5, 105).unwrap();
    // A share is free again with its port.
    relay.close(deal(1));
    open_for(&relay, 3, 1, 103).unwrap();
    assert_eq!(relay.metrics.relayed_leases.get(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_port_that_nobody_uses_is_free_again() {
    let relay = relay(21_120..=21_120);
    open(&relay, 1).unwrap();
    tokio::time::sleep(Duration::from_secs(170)).await;
    assert!(matches!(open(&relay, 2), Err(NoRelay::Full)));
    tokio::time::sleep(Duration::from_secs(30)).await;
    open(&relay, 2).unwrap();
}

/// Datagrams that are on their way at most: what a socket's buffer holds.
const WINDOW: u64 = 32;

/// Sends numbered datagrams of 1,400 bytes, as fast as they come at the other side.
fn pour(from: &std::net::UdpSocket, relay: SocketAddr, count: u64, came: &AtomicU64) {
    let mut datagram = data(0);
    datagram.resize(1_400, 0);
    for number in 0..count {
        while number - came.load(Ordering::Acquire) >= WINDOW {
            std::thread::yield_now();
        }
        datagram[8..16].copy_from_slice(&number.to_be_bytes());
        from.send_to(&datagram, relay).unwrap();
    }
}

/// Ticks that this thread has run, in the program and in the kernel.
fn ticks() -> [u64; 2] {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<_> = fields.split(' ').collect();
    [11, 12].map(|at| fields[at].parse().unwrap())
}

/// How fast it is, on a quiet machine: `cargo test --release --workspace --lib -- --nocapture as_they_were_sent`.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn as_many_as_a_buffer_holds_come_through_as_they_were_sent() {
    const COUNT: u64 = 100_000;
    let relay = relay_at(21_140..=21_140, 100_000_000_000);
    let ways = open(&relay, 1).unwrap();
    let from = side(ways.relay, ways.requester).await.into_std().unwrap();
    let to = side(ways.relay, ways.provider).await.into_std().unwrap();
    for socket in [&from, &to] {
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
    }
    // The only worker is the one that carries.
    let before = tokio::spawn(async { ticks() }).await.unwrap();
    let (came, began) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let counted = Arc::clone(&came);
    let pouring = std::thread::spawn(move || pour(&from, ways.relay, COUNT, &counted));
    let taking = std::thread::spawn(move || {
        let mut datagram = [0; LONGEST];
        for number in 0..COUNT {
            let (length, _) = to.recv_from(&mut datagram).unwrap();
            assert_eq!(length, 1_400);
            assert_eq!(datagram[8..16], number.to_be_bytes());
            came.store(number + 1, Ordering::Release);
        }
    });
    let joined = tokio::task::spawn_blocking(move || (pouring.join(), taking.join()));
    let (poured, taken) = joined.await.unwrap();
    poured.unwrap();
    taken.unwrap();
    let took = began.elapsed().as_secs_f64();
    let after = tokio::spawn(async { ticks() }).await.unwrap();
    let [user, kernel] = [0, 1].map(|at| (after[at] - before[at]) as f64 * 1e4 / COUNT as f64);
    println!(
        "{:.0} datagrams a second, {:.0} Mbit/s; of the relay's thread {user:.1} µs each in the program and {kernel:.1} in the kernel",
        COUNT as f64 / took,
        (COUNT * 1_400 * 8) as f64 / took / 1e6,
    );
    assert_eq!(relay.metrics.relayed_bytes.get(), COUNT * 1_400);
}
