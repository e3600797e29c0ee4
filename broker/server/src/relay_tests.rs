#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ipsx_relay::Party;
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(5);

/// Four ports of this machine that nobody uses.
fn relay(ports: std::ops::RangeInclusive<u16>) -> Arc<Relay> {
    let config = RelayConfig {
        ports,
        bytes_per_second: 1_000_000,
        lease_bytes_per_second: 1_000_000,
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
    let ways = relay.open(deal(1)).unwrap();
    assert_eq!(
        relay.open(deal(1)).unwrap().relay,
        ways.relay,
        "asked again"
    );
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
        .map(|number| relay.open(deal(number)).unwrap().relay.port())
        .collect();
    assert_eq!(
        ports.into_iter().collect::<Vec<_>>(),
        [21_110, 21_111, 21_112]
    );
    assert!(matches!(relay.open(deal(3)), Err(NoRelay::Full)));
    relay.close(deal(1));
    // Its task lets go of the socket.
    tokio::time::sleep(Duration::from_millis(50)).await;
    relay.open(deal(3)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_port_that_nobody_uses_is_free_again() {
    let relay = relay(21_120..=21_120);
    relay.open(deal(1)).unwrap();
    tokio::time::sleep(Duration::from_secs(170)).await;
    assert!(matches!(relay.open(deal(2)), Err(NoRelay::Full)));
    tokio::time::sleep(Duration::from_secs(30)).await;
    relay.open(deal(2)).unwrap();
}
