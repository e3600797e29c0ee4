//! Leases that are relayed in a fleet.

use std::net::SocketAddr;
use std::time::Duration;

use ipsx_market::deal::Deal;
use ipsx_market::http::{EndDeal, RelayedWay, WantRelay};
use ipsx_market::messages::{BrokerMessage, EndCause, EndReport, RelayToken};
use ipsx_metering::{Amount, B256, Usage};
use ipsx_relay::{Party, Token};
use ipsx_stun::{Message, Transaction};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout};

use crate::parties::TestRequester;
use crate::parties::agent::TestAgent;
use crate::world::{COUNTRIES, World, agent, alone};

/// Leases: enough that one of them goes to a broker that gets a third of the market.
const LEASES: u8 = 16;

/// The ports of a broker's relay, by its place among the others.
fn is_of(at: usize, relay: SocketAddr) -> bool {
    usize::from(relay.port() - 21_400) / 100 == at
}

impl World {
    /// Whose a deal is: its place among the brokers.
    fn owner(&self, deal: &Deal) -> usize {
        let id = deal.id();
        let sql = "SELECT owner FROM shards JOIN deals USING (shard) WHERE deal_id";
        let owner = self.sql(&format!("{sql} = '{id}'"));
        let number = owner.strip_prefix('b').and_then(|name| name.get(..1));
        // Nobody's, while it is handed over.
        number.map_or(usize::MAX, |number| number.parse::<usize>().unwrap() - 1)
    }
}

/// A lease of an agent that lends it alone.
async fn bound(world: &World, requester: &mut TestRequester, number: u8) -> (TestAgent, Deal) {
    let country = usize::from(number) % COUNTRIES.len();
    let from = format!("127.0.{}.{number}", country + 1);
    let mut lender = agent(world, &from, usize::from(number) % 2).await;
    lender.publish(lender.offer(1_000, 1)).await;
    let mut request = requester.request(COUNTRIES[country]);
    request.channel_salt = B256::repeat_byte(number);
    let (proposed, deal) = tokio::join!(requester.ask(request), lender.accept());
    requester.sign(&proposed.unwrap()).await.unwrap();
    lender.bound().await;
    (lender, deal)
}

/// The ways of both sides, when this broker is asked for them.
async fn relayed(
    (world, at): (&World, usize),
    requester: &mut TestRequester,
    (lender, deal): (&mut TestAgent, &Deal),
) -> (RelayedWay, RelayToken) {
    requester.url = world.url(at);
    let path = format!("/v1/deals/{}/relay", deal.id());
    let way: RelayedWay = requester.post(&path, &WantRelay {}).await.unwrap();
    let told = lender.hear().await;
    let BrokerMessage::Relay {
        deal_id,
        relay,
        token,
    } = told
    else {
        panic!("{told:?}");
    };
    assert_eq!((deal_id, relay), (deal.id(), way.relay));
    (way, token)
}

/// A side that has shown the relay where it is.
async fn side(relay: SocketAddr, token: RelayToken) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let now = Instant::now().into_std();
    let mut party = Party::new(relay, Token(token.0.0), now);
    let hello = party.handle_timeout(|| [1; 12], now).unwrap();
    socket.send_to(&hello, relay).await.unwrap();
    let challenge = heard(&socket).await.unwrap();
    let proof = party.handle_message(relay, &challenge, now).unwrap();
    socket.send_to(&proof, relay).await.unwrap();
    socket
}

async fn heard(socket: &UdpSocket) -> Option<Vec<u8>> {
    let mut datagram = [0; 2_048];
    let came = timeout(Duration::from_secs(1), socket.recv_from(&mut datagram));
    let (length, _) = came.await.ok()?.ok()?;
    Some(datagram[..length].to_vec())
}

/// Whether both sides hear each other.
async fn carries(sides: &[UdpSocket; 2], relay: SocketAddr) -> bool {
    let [one, other] = sides;
    for (from, to, content) in [(one, other, 1), (other, one, 2)] {
        let mut data = vec![content; 500];
        data[..4].copy_from_slice(&[4, 0, 0, 0]);
        from.send_to(&data, relay).await.unwrap();
        if heard(to).await.as_ref() != Some(&data) {
            return false;
        }
    }
    true
}

/// Whether the port is anybody's: who asks there is asked back.
async fn is_open(relay: SocketAddr) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let question = Message::Request.write(Transaction([7; 12]));
    socket.send_to(&question, relay).await.unwrap();
    heard(&socket).await.is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_relay_carries_on_when_its_deal_goes_to_another_broker_until_that_ends_it() {
    let Some((_alone, mut world)) = alone().await else {
        return;
    };
    world.members[2].kill();
    world.all_owned_by(2).await;
    let mut requester = world.requester(0).await;
    let mut leases = Vec::new();
    for number in 1..=LEASES {
        let (mut lender, deal) = bound(&world, &mut requester, number).await;
        let owner = world.owner(&deal);
        // Whichever broker is asked, the deal's own answers, with one port.
        let both = (&mut lender, &deal);
        let (way, _) = relayed((&world, 0), &mut requester, both).await;
        let both = (&mut lender, &deal);
        let (again, token) = relayed((&world, 1), &mut requester, both).await;
        assert_eq!(way, again);
        assert!(is_of(owner, way.relay), "{} of {owner}", way.relay);
        let sides = [
            side(way.relay, way.token).await,
            side(way.relay, token).await,
        ];
        assert!(carries(&sides, way.relay).await);
        leases.push((deal, owner, way.relay, sides));
    }

    let moved = |world: &World| leases.iter().position(|(deal, ..)| world.owner(deal) == 2);
    let mut found = None;
    for _ in 0..3 {
        // It has another name each time, and so another third of the market.
        world.members[2].start();
        let until = Instant::now() + Duration::from_secs(20);
        while found.is_none() && Instant::now() < until {
            sleep(Duration::from_millis(200)).await;
            found = moved(&world);
        }
        if found.is_some() {
            break;
        }
        world.members[2].kill();
        world.all_owned_by(2).await;
    }
    let (deal, before, relay, sides) = &leases[found.expect("one of them moves")];
    assert!(is_of(*before, *relay));
    assert!(carries(sides, *relay).await);
    assert!(is_open(*relay).await);
    let report = EndReport {
        cause: EndCause::RequesterEnded,
        usage: Usage::default(),
        amount: Amount::ZERO,
        voucher: None,
    };
    requester.url = world.url(1 - *before);
    let path = format!("/v1/deals/{}/end", deal.id());
    let body = EndDeal { report };
    let ended = requester.post::<serde_json::Value>(&path, &body).await;
    ended.unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while is_open(*relay).await {
        assert!(Instant::now() < until, "the port of a lease that is over");
        sleep(Duration::from_millis(100)).await;
    }
    assert!(!carries(sides, *relay).await);
}
