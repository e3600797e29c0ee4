//! How agents are reached, and what requesters may have them send.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use std::net::SocketAddr;
use std::time::Duration;

use ipsx_broker::config::ReflectorConfig;
use ipsx_market::http::{OfferView, ProblemKind, RequesterEndpoint};
use ipsx_market::messages::{AgentMessage, BrokerMessage};
use ipsx_market::place::Reachability;
use ipsx_metering::DealId;
use ipsx_stun::{Message, Transaction};
use parties::{TestAgent, TestBroker, TestRequester};
use tokio::net::UdpSocket;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

async fn found(requester: &TestRequester, way: &str) -> Vec<Option<Reachability>> {
    let path = format!("/v1/offers?country=FR{way}");
    let offers: Vec<OfferView> = requester.get(&path).await.unwrap();
    let measured = offers.iter().map(|offer| offer.placement.measured);
    measured.map(|measured| measured.reachability).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_finds_out_how_an_agent_is_reached() {
    let broker = TestBroker::start().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    let offer = agent.offer(1_000, 1);
    agent.publish(offer).await;
    let requester = TestRequester::stranger(&broker);
    let direct = "&reachability=direct";
    assert_eq!(found(&requester, "").await, [None]);
    assert_eq!(
        found(&requester, direct).await,
        [None],
        "nobody knows better"
    );

    let socket = UdpSocket::bind("127.0.1.1:0").await.unwrap();
    let endpoint = socket.local_addr().unwrap();
    let mapped = None;
    agent
        .say(&AgentMessage::Endpoint { endpoint, mapped })
        .await;
    let mut datagram = [0; 64];
    let came = timeout(SOON, socket.recv_from(&mut datagram)).await;
    let (length, from) = came.unwrap().unwrap();
    let reflector = broker.broker.network_info().reflector.unwrap();
    assert_eq!(from.ip(), reflector.ip());
    assert_ne!(from.port(), reflector.port(), "its mapping proves nothing");
    let (message, transaction) = Message::parse(&datagram[..length]).unwrap();
    assert_eq!(message, Message::Indication);
    let token = transaction.token();
    agent.say(&AgentMessage::Token { token: !token }).await;
    agent.say(&AgentMessage::Token { token }).await;
    let reached = BrokerMessage::Reached {
        reachability: Some(Reachability::Direct),
    };
    assert_eq!(agent.hear().await, reached);
    assert_eq!(
        found(&requester, direct).await,
        [Some(Reachability::Direct)]
    );

    // The reflector itself says what it sees.
    let question = Message::Request.write(Transaction::from(1));
    socket.send_to(&question, reflector).await.unwrap();
    let answer = async {
        loop {
            let (length, from) = socket.recv_from(&mut datagram).await.unwrap();
            if from == reflector {
                return Message::parse(&datagram[..length]).unwrap();
            }
        }
    };
    let (message, _) = timeout(SOON, answer).await.unwrap();
    assert_eq!(message, Message::Mapped(endpoint));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hears_no_token_is_punched() {
    let broker = TestBroker::start().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    let offer = agent.offer(1_000, 1);
    agent.publish(offer).await;
    let endpoint: SocketAddr = "127.0.1.1:9".parse().unwrap();
    let nothing = AgentMessage::Endpoint {
        endpoint,
        mapped: None,
    };
    agent.say(&nothing).await;
    let punched = Some(Reachability::Punched);
    let reached = BrokerMessage::Reached {
        reachability: punched,
    };
    assert_eq!(agent.hear().await, reached);
    let requester = TestRequester::stranger(&broker);
    assert_eq!(found(&requester, "&reachability=punched").await, [punched]);
    assert_eq!(found(&requester, "&reachability=direct").await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_a_port_of_whoever_names_it() {
    let broker = TestBroker::start().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    let offer = agent.offer(1_000, 1);
    agent.publish(offer).await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    let request = requester.request("FR");
    let (proposed, deal) = tokio::join!(requester.ask(request), agent.accept());
    let proposed = proposed.unwrap();
    let path = format!("/v1/deals/{}/endpoint", deal.id());
    let tell = |text: &str| RequesterEndpoint {
        endpoint: text.parse().unwrap(),
    };
    let own = tell("127.0.0.1:4000");
    let early = requester.post::<()>(&path, &own).await.unwrap_err();
    assert_eq!(early.kind, ProblemKind::Conflict, "{early:?}");
    requester.sign(&proposed).await.unwrap();
    agent.bound().await;
    for other in [
        "127.0.0.2:4000",
        "198.51.100.7:53",
        "127.0.0.1:0",
        "[::1]:4000",
    ] {
        let refused = requester.post::<()>(&path, &tell(other)).await.unwrap_err();
        assert_eq!(refused.kind, ProblemKind::InvalidRequest, "{refused:?}");
    }
    let stranger = TestRequester::with_deposit(&broker, 0).await;
    let refused = stranger.post::<()>(&path, &own).await.unwrap_err();
    assert_eq!(refused.kind, ProblemKind::Forbidden, "{refused:?}");
    let unknown = format!("/v1/deals/{}/endpoint", DealId(Default::default()));
    let refused = requester.post::<()>(&unknown, &own).await.unwrap_err();
    assert_eq!(refused.kind, ProblemKind::NotFound, "{refused:?}");
    requester.post::<()>(&path, &own).await.unwrap();
    let punch = BrokerMessage::Punch {
        deal_id: deal.id(),
        endpoint: own.endpoint,
    };
    // Nothing of what was refused was told before it.
    assert_eq!(agent.hear().await, punch);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_a_reflector_tries_nobody() {
    let broker = TestBroker::start_with(|config| config.reflector = ReflectorConfig::Off).await;
    assert_eq!(broker.broker.network_info().reflector, None);
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    let offer = agent.offer(1_000, 1);
    agent.publish(offer).await;
    let endpoint = "127.0.1.1:9".parse().unwrap();
    let mapped = None;
    agent
        .say(&AgentMessage::Endpoint { endpoint, mapped })
        .await;
    // Longer than a trial takes.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let again = agent.offer(1_000, 1);
    // The first that the agent hears is that this is placed.
    agent.publish(again).await;
    let requester = TestRequester::stranger(&broker);
    assert_eq!(found(&requester, "").await, [None]);
}
