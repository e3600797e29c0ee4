//! How much agents may ask of the broker, over real QUIC: at the gate, before their wallet is known, and afterwards.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipsx_market::http::OfferView;
use ipsx_market::messages::{ALPN, AgentMessage, BrokerMessage};
use ipsx_settlement::Wallet;
use parties::agent::{client_config, dial, hear, hello, say, transport};
use parties::program::Program;
use parties::{TestAgent, TestBroker, TestRequester};
use quinn::{ConnectionError, Endpoint};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// How often the broker refused something for this reason.
async fn refused(broker: &TestBroker, reason: &str) -> u64 {
    let mut stream = TcpStream::connect(broker.broker.admin_addr().unwrap())
        .await
        .unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let name = format!("ipsx_refusals_total{{reason=\"{reason}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |count| count.parse().unwrap())
}

/// What a connection was closed with, in words.
async fn closed(connection: &quinn::Connection, limit: u64) -> String {
    let closed = timeout(Duration::from_secs(limit), connection.closed()).await;
    closed.expect("it is closed in time").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_prove_a_wallet_is_gone_after_five_seconds() {
    let broker = TestBroker::start().await;
    let to = broker.broker.agents_addr();
    let begun = Instant::now();
    let (_one, silent) = dial("127.0.1.1", to).await;
    let (_two, half) = dial("127.0.2.1", to).await;
    let (mut send, mut recv) = half.open_bi().await.unwrap();
    say(&mut send, &hello()).await;
    let welcome = hear(&mut recv).await;
    assert!(matches!(welcome, Some(BrokerMessage::Welcome { .. })));
    let reason = closed(&silent, 8).await;
    assert!(reason.contains("no stream was opened in time"), "{reason}");
    let reason = closed(&half, 8).await;
    assert!(reason.contains("the handshake took too long"), "{reason}");
    // One limit for everything, not one for each step.
    assert!(begun.elapsed() < Duration::from_secs(8));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_connects_too_often_is_refused_and_another_is_not() {
    let broker =
        TestBroker::start_with(|config| config.limits.prefix_connects_per_second = 1).await;
    let to = broker.broker.agents_addr();
    let begun = Instant::now();
    let mut held = Vec::new();
    for n in 1..=10 {
        held.push(TestAgent::connect(&broker, &format!("127.0.1.{n}")).await);
    }
    let (_endpoint, connection) = dial("127.0.1.11", to).await;
    let reason = closed(&connection, 5).await;
    // A slow machine has earned a few more meanwhile.
    if begun.elapsed() < Duration::from_secs(1) {
        assert!(reason.contains("too many connections"), "{reason}");
        assert_eq!(refused(&broker, "prefix_connect_rate").await, 1);
    }
    TestAgent::connect(&broker, "127.0.2.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_machines_with_one_wallet_do_not_push_each_other_out_for_ever() {
    let broker = TestBroker::start().await;
    let to = broker.broker.agents_addr();
    let secret = [9; 32];
    let wallet = || Wallet::from_secret(&secret).unwrap();
    let begun = Instant::now();
    let mut last = None;
    for _ in 0..10 {
        last = Some(TestAgent::connect_as(wallet(), to, "127.0.1.1").await);
    }
    if begun.elapsed() > Duration::from_secs(1) {
        // Too slow a machine to be too fast.
        return;
    }
    let one_more = tokio::spawn(TestAgent::connect_as(wallet(), to, "127.0.1.2"));
    assert!(one_more.await.is_err(), "it is let in an eleventh time");
    assert_eq!(refused(&broker, "wallet_connect_rate").await, 1);
    let last = last.unwrap();
    assert_eq!(last.connection.close_reason(), None, "the last one stays");
    TestAgent::connect(&broker, "127.0.1.3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_broker_refuses_and_takes_the_next_when_one_leaves() {
    let broker = TestBroker::start_with(|config| config.limits.agents = 2).await;
    let to = broker.broker.agents_addr();
    let one = TestAgent::connect(&broker, "127.0.1.1").await;
    let _two = TestAgent::connect(&broker, "127.0.1.2").await;
    let mut endpoint = Endpoint::client("127.0.1.3:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(client_config(ALPN));
    assert!(endpoint.connect(to, "ipsx-broker").unwrap().await.is_err());
    assert_eq!(refused(&broker, "agents_full").await, 1);
    one.connection.close(0u32.into(), b"");
    let begun = Instant::now();
    while endpoint.connect(to, "ipsx-broker").unwrap().await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_says_too_much_is_slowed_down_and_not_cut_off() {
    let broker =
        TestBroker::start_with(|config| config.limits.prefix_messages_per_second = 10).await;
    let mut one = TestAgent::connect(&broker, "127.0.1.1").await;
    let mut other = TestAgent::connect(&broker, "127.0.1.2").await;
    let mut far = TestAgent::connect(&broker, "127.0.2.1").await;
    let begun = Instant::now();
    for _ in 0..120 {
        let offer = Default::default();
        one.say(&AgentMessage::WithdrawOffer { offer }).await;
    }
    far.publish(far.offer(5, 1)).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "it is far away");
    other.publish(other.offer(5, 1)).await;
    one.publish(one.offer(5, 1)).await;
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(1_500), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_never_ends_ends_the_connection() {
    let broker = TestBroker::start().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent
        .send
        .write_all(&60_000u32.to_be_bytes())
        .await
        .unwrap();
    agent.send.write_all(&[0; 100]).await.unwrap();
    let refusal = timeout(Duration::from_secs(25), async {
        let mut prefix = [0; 4];
        agent.recv.read_exact(&mut prefix).await.unwrap();
        let mut content = vec![0; ipsx_market::codec::frame_length(prefix).unwrap()];
        agent.recv.read_exact(&mut content).await.unwrap();
        ipsx_market::codec::decode::<BrokerMessage>(&content).unwrap()
    });
    let BrokerMessage::Refused { reason } = refusal.await.unwrap() else {
        panic!("no refusal")
    };
    assert!(reason.contains("did not come within 20 s"), "{reason}");
}

/// An agent whose program does not read, though its system acknowledges packets.
async fn one_that_does_not_read(broker: &TestBroker, wallet: Wallet, from: &str) -> TestAgent {
    let mut transport = transport();
    transport.stream_receive_window(4_096u32.into());
    let mut config = client_config(ALPN);
    config.transport_config(Arc::new(transport));
    let mut endpoint = Endpoint::client(format!("{from}:0").parse().unwrap()).unwrap();
    endpoint.set_default_client_config(config);
    let to = broker.broker.agents_addr();
    let connection = endpoint.connect(to, "ipsx-broker").unwrap().await.unwrap();
    TestAgent::shake_hands(wallet, endpoint, connection).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_dropped_and_finds_its_deals_when_it_comes_back() {
    let broker = TestBroker::start_with(|config| config.limits.messages_per_second = 100_000).await;
    let secret = [8; 32];
    let wallet = || Wallet::from_secret(&secret).unwrap();
    let mut agent = one_that_does_not_read(&broker, wallet(), "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 1)).await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    let request = requester.request("FR");
    let (proposed, deal) = tokio::join!(requester.ask(request), agent.accept());
    requester.sign(&proposed.unwrap()).await.unwrap();
    agent.bound().await;
    // Each is answered with an end.
    let deal_id = Default::default();
    let serving = ipsx_market::codec::encode_frame(&AgentMessage::LeaseServing { deal_id });
    let serving = serving.unwrap().repeat(10);
    for _ in 0..1_000 {
        if agent.send.write_all(&serving).await.is_err() {
            break;
        }
    }
    let reason = closed(&agent.connection, 10).await;
    assert!(reason.contains("messages are not read"), "{reason}");
    let to = broker.broker.agents_addr();
    let back = TestAgent::connect_as(wallet(), to, "127.0.1.1").await;
    assert_eq!(back.unfinished, [deal.id()]);
}

/// Sends first packets of connections from addresses that hear nothing of the answers.
async fn flood_from_nowhere(to: SocketAddr, connections: u32) -> Endpoint {
    let relay = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = relay.local_addr().unwrap();
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(client_config(ALPN));
    let mut begun = Vec::new();
    for n in 0..connections {
        let connecting = endpoint.connect(address, "ipsx-broker").unwrap();
        let [.., high, low] = n.to_be_bytes();
        let nowhere = SocketAddr::from((Ipv4Addr::new(127, 9 + high, low, 1), 0));
        let from = UdpSocket::bind(nowhere).await.unwrap();
        let mut packet = [0; 2_048];
        let length = relay.recv(&mut packet).await.unwrap();
        from.send_to(&packet[..length], to).await.unwrap();
        begun.push(connecting);
    }
    endpoint
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_from_nowhere_keeps_nobody_out() {
    let broker = TestBroker::start().await;
    let to = broker.broker.agents_addr();
    let _flood = flood_from_nowhere(to, 600).await;
    let begun = Instant::now();
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(5, 1)).await;
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    // What the broker keeps of the flood is over in seconds, and not much.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let held = refused(&broker, "handshake_timeout").await + refused(&broker, "handshake").await;
    assert!((1..=200).contains(&held), "{held} handshakes were begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_tells_its_agents_once_it_is_back() {
    let directory = tempfile::tempdir().unwrap();
    let program = Program::start(directory.path(), &[]);
    let agents = program.agents;
    let wallet = Wallet::random();
    let agent = TestAgent::connect_as(wallet, agents, "127.0.1.1").await;
    program.kill();
    let program = Program::start_with(directory.path(), |command| {
        command.env("IPSX_BROKER_AGENTS_LISTEN", agents.to_string());
    });
    let begun = Instant::now();
    let reason = timeout(Duration::from_secs(5), agent.connection.closed()).await;
    let reason = reason.expect("the agent knows long before the connection times out");
    assert!(matches!(reason, ConnectionError::Reset), "{reason}");
    assert!(begun.elapsed() < Duration::from_secs(4));
    let mut back = TestAgent::connect_as(agent.wallet, agents, "127.0.1.1").await;
    back.publish(back.offer(5, 1)).await;
    let requester = TestRequester::at(Wallet::random(), program.http, program.network().await);
    let offers: Vec<OfferView> = requester.get("/v1/offers").await.unwrap();
    assert_eq!(offers.len(), 1);
}
