//! An agent that speaks the protocol, and can be told to break it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipsx_market::deal::{Deal, Proposal, ProviderTerms};
use ipsx_market::messages::{ALPN, AgentMessage, BrokerMessage, EndCause, EndReport, Ready};
use ipsx_market::offer::{Capacity, Offer, Protocols, Tier, WeeklyHours};
use ipsx_market::request::TunnelKey;
use ipsx_metering::{
    Amount, B256, DealId, Domain, NetworkId, OfferId, Reservation, Signed, TypedData, Usage,
    Voucher,
};
use ipsx_settlement::{Signer, Wallet};
use ipsx_tests::link::{self, Link};
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, TransportConfig};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::TestBroker;

pub use ipsx_tests::link::hello;
pub use ipsx_tests::requester::now;

pub struct TestAgent {
    pub wallet: Wallet,
    pub endpoint: Endpoint,
    pub connection: Connection,
    pub send: SendStream,
    pub recv: RecvStream,
    pub network: NetworkId,
    pub domain: Domain,
    pub unfinished: Vec<DealId>,
    pub observed: IpAddr,
    pub offers: Vec<Offer>,
}

/// A QUIC connection to the broker, nothing said yet.
pub async fn dial(from: &str, to: SocketAddr) -> (Endpoint, Connection) {
    let from: IpAddr = from.parse().unwrap();
    let mut endpoint = Endpoint::client(SocketAddr::new(from, 0)).unwrap();
    endpoint.set_default_client_config(client_config(ALPN));
    let connection = endpoint.connect(to, "ipsx-broker").unwrap().await.unwrap();
    (endpoint, connection)
}

pub fn client_config(alpn: &[u8]) -> ClientConfig {
    link::client_config(alpn, transport())
}

/// An agent keeps its connection alive.
pub fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_secs(1)));
    transport
}

/// What both sides sign of a connection.
pub fn exporter(connection: &Connection) -> B256 {
    link::exporter(connection).unwrap()
}

pub async fn say(send: &mut SendStream, message: &AgentMessage) {
    link::say(send, message).await.unwrap();
}

/// The next message; `None` once the connection is gone.
pub async fn hear(recv: &mut RecvStream) -> Option<BrokerMessage> {
    let heard = timeout(Duration::from_secs(10), link::hear(recv)).await;
    heard.expect("the broker says something within 10 s").ok()
}

impl TestAgent {
    /// Connects from an address with a new wallet.
    pub async fn connect(broker: &TestBroker, from: &str) -> Self {
        Self::connect_as(Wallet::random(), broker.broker.agents_addr(), from).await
    }

    pub async fn connect_as(wallet: Wallet, to: SocketAddr, from: &str) -> Self {
        let (endpoint, connection) = dial(from, to).await;
        Self::shake_hands(wallet, endpoint, connection).await
    }

    /// The handshake above QUIC's.
    pub async fn shake_hands(wallet: Wallet, endpoint: Endpoint, connection: Connection) -> Self {
        let link = Link::shake_hands(connection, &wallet).await.unwrap();
        Self {
            wallet,
            endpoint,
            connection: link.connection,
            send: link.send,
            recv: link.recv,
            network: link.network,
            domain: link.domain,
            unfinished: link.unfinished,
            observed: link.observed,
            offers: Vec::new(),
        }
    }

    pub fn offer(&self, per_second: u128, leases: u32) -> Offer {
        Offer {
            network: self.network,
            provider: self.wallet.address(),
            nonce: self.offers.len() as u64 + 1,
            prefixes: Vec::new(),
            protocols: Protocols::all(),
            policy_hash: B256::repeat_byte(7),
            tier: Tier::WebUdp,
            ports: Tier::WebUdp.ports(),
            services: Vec::new(),
            capacity: Capacity {
                leases,
                mbit_up: 100,
                mbit_down: 100,
                bytes_per_month: u64::MAX,
            },
            prices: super::prices(per_second, 1_000),
            min_seconds: 5,
            max_seconds: 3_600,
            weekly_hours: WeeklyHours::always(),
            expires_at: now().after(3_600),
        }
    }

    /// Publishes an offer and waits until it is placed.
    pub async fn publish(&mut self, offer: Offer) -> OfferId {
        let signed = Signed::sign(offer.clone(), &self.domain, self.wallet.key());
        self.say(&AgentMessage::PublishOffer { offer: signed })
            .await;
        let answer = self.hear().await;
        let BrokerMessage::OfferPlaced { offer: id, .. } = answer else {
            panic!("{answer:?}")
        };
        self.offers.push(offer);
        id
    }

    pub async fn say(&mut self, message: &AgentMessage) {
        say(&mut self.send, message).await;
    }

    pub async fn hear(&mut self) -> BrokerMessage {
        match hear(&mut self.recv).await {
            Some(message) => message,
            None => panic!("it is cut off: {:?}", self.connection.close_reason()),
        }
    }

    /// Waits for a proposal.
    pub async fn proposal(&mut self) -> (u64, Proposal) {
        match self.hear().await {
            BrokerMessage::Propose { proposal, terms } => (proposal, *terms),
            other => panic!("{other:?}"),
        }
    }

    pub fn terms(&self) -> ProviderTerms {
        ProviderTerms {
            payout: self.wallet.derive(b"payout").address(),
            agent_key: self.wallet.derive(b"agent").address(),
            tunnel_key: TunnelKey(B256::repeat_byte(5)),
        }
    }

    /// Accepts the next proposal; returns the deal as this side computed it.
    pub async fn accept(&mut self) -> Deal {
        let (number, proposal) = self.proposal().await;
        self.accept_proposal(number, &proposal).await
    }

    pub async fn accept_proposal(&mut self, number: u64, proposal: &Proposal) -> Deal {
        let offer = self
            .offers
            .iter()
            .find(|o| o.id() == proposal.offer)
            .unwrap();
        let deal = Deal::new(proposal, offer, &self.terms());
        let signature = self.wallet.sign_hash(deal.signing_hash(&self.domain));
        let terms = self.terms();
        self.say(&AgentMessage::AcceptDeal {
            proposal: number,
            terms,
            signature,
        })
        .await;
        deal
    }

    /// Waits for the deal to be bound.
    pub async fn bound(&mut self) -> (Deal, Signed<Reservation>) {
        match self.hear().await {
            BrokerMessage::DealBound {
                deal, reservation, ..
            } => (*deal, reservation),
            other => panic!("{other:?}"),
        }
    }

    pub async fn ready(&mut self, deal_id: DealId) {
        let ready = Ready {
            endpoint: "127.0.0.1:51820".parse().unwrap(),
            address_v4: "10.64.0.2".parse().unwrap(),
            address_v6: None,
            gateway: "10.64.0.1".parse().unwrap(),
            control_port: 7,
            mtu: 1_420,
            latest_voucher: None,
            next_seq: 1,
        };
        self.say(&AgentMessage::LeaseReady { deal_id, ready }).await;
    }

    pub async fn end(
        &mut self,
        deal_id: DealId,
        cause: EndCause,
        voucher: Option<Signed<Voucher>>,
    ) {
        let report = EndReport {
            cause,
            usage: Usage {
                secs: 12,
                bytes_up: 34,
                bytes_down: 56,
            },
            amount: Amount(78),
            voucher,
        };
        self.say(&AgentMessage::LeaseEnded { deal_id, report })
            .await;
    }
}

/// Carries datagrams between one agent and the broker until it is told to stop: then each is gone for the other, as
/// if it was killed.
pub struct Relay {
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Relay {
    pub async fn start(from: &str, to: SocketAddr) -> Self {
        let inside = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let outside = UdpSocket::bind((from.parse::<IpAddr>().unwrap(), 0))
            .await
            .unwrap();
        outside.connect(to).await.unwrap();
        let address = inside.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let (mut there, mut back) = ([0; 2048], [0; 2048]);
            let mut agent = None;
            loop {
                tokio::select! {
                    Ok((n, from)) = inside.recv_from(&mut there) => {
                        agent = Some(from);
                        outside.send(&there[..n]).await.unwrap();
                    }
                    Ok(n) = outside.recv(&mut back) => {
                        inside.send_to(&back[..n], agent.unwrap()).await.unwrap();
                    }
                }
            }
        });
        Self { address, task }
    }

    pub fn stop(self) {
        self.task.abort();
    }
}
