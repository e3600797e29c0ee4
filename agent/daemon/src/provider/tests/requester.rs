//! A requester without the program around it: HTTP, a tunnel, a meter.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipsx_agent_core::provider::ROUND_TRIP;
use ipsx_market::codec;
use ipsx_market::deal::Deal;
use ipsx_market::http::{DealView, Frames, PostRequest, SignDeal};
use ipsx_market::messages::Ready;
use ipsx_market::payment::{PayerMessage, ProviderMessage};
use ipsx_market::request::{CounterSource, Filter, Request, SignedRequest};
use ipsx_market::sealed::{Direction, FrameSealer};
use ipsx_market::start::StartWindow;
use ipsx_metering::{
    Amount, Authorization, B256, ChannelState, DealId, EndCause, PayerEvent, PayerMeter, Prices,
    ServiceProof, Signed, TypedData, UnixSeconds, Voucher,
};
use ipsx_settlement::{Signer, Wallet};
use ipsx_tunnel_core::{PrivateKey, PublicKey};
use ipsx_tunnel_os::{ClientConfig, ClientEvent, ClientTunnel};
use rand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::market::{Market, PRICE, TOKEN};
use crate::broker::{Broker, Requested, Session};
use crate::clock::unix_now;
use crate::network::Network;

pub(super) struct Requester {
    wallet: Arc<Wallet>,
    session_key: Wallet,
    pub(super) session: Session,
    network: Network,
    authorized: bool,
    pub(super) channel_salt: B256,
    /// What the next request pays at most, and in all for each second.
    pub(super) prices: Prices,
    pub(super) budget_per_second: u128,
    pub(super) counter_source: CounterSource,
}

/// A lease in use.
pub(super) struct Use {
    pub(super) deal: Deal,
    pub(super) tunnel: ClientTunnel,
    pub(super) meter: PayerMeter,
    pub(super) vouchers: Vec<Signed<Voucher>>,
    pub(super) ready: Ready,
    /// Whether vouchers are sent.
    pub(super) pays: bool,
    events: mpsc::Receiver<ClientEvent>,
    session_key: Wallet,
    network: Network,
    /// Seals payments that go through the broker; `None` while they go through the tunnel.
    sealer: Option<FrameSealer>,
    outgoing: Vec<String>,
    /// Capacity of the latest reservation that the provider passed on.
    pub(super) renewed: Option<Amount>,
    pub(super) ended: bool,
    ticks: u64,
}

impl Requester {
    /// A wallet with a deposit of 100 tokens.
    pub(super) async fn new(market: &Market) -> Self {
        let wallet = Arc::new(Wallet::random());
        market.grant(wallet.address(), 100).await;
        let network = market.network().await;
        network
            .contract
            .deposit(
                wallet.as_ref(),
                network.info.network,
                wallet.address(),
                Amount(100 * TOKEN),
            )
            .await
            .unwrap();
        let session = Broker::new(&market.url()).signed_in(wallet.clone(), &network.info);
        Self {
            session_key: wallet.derive(b"test session"),
            wallet,
            session,
            network,
            authorized: false,
            channel_salt: B256::ZERO,
            prices: super::market::terms().prices,
            budget_per_second: PRICE,
            counter_source: CounterSource::Both,
        }
    }

    /// A bound deal.
    pub(super) async fn bind(&mut self, seconds: u32, tunnel: &PrivateKey) -> Deal {
        let domain = self.network.info.domain;
        let request = Request {
            network: self.network.info.network,
            requester: self.wallet.address(),
            nonce: rand::rngs::OsRng.r#gen(),
            filter: Filter::default(),
            max_prices: self.prices,
            budget: Amount(self.budget_per_second * u128::from(seconds)),
            seconds,
            start: StartWindow::NOW,
            expected_bytes: 0,
            payer: self.wallet.address(),
            payer_signer: self.session_key.address(),
            channel_salt: self.channel_salt,
            tunnel_key: super::super::keys::market_key(&tunnel.public_key()),
            counter_source: self.counter_source,
            expires_at: unix_now().after(60),
            rest_until: UnixSeconds(0),
            bundle: Default::default(),
        };
        let request =
            SignedRequest::sign(request, &domain, self.wallet.key(), self.session_key.key());
        let proposed = self
            .session
            .request(&PostRequest { request }, None)
            .await
            .unwrap();
        let Requested::Proposed(proposed) = proposed else {
            panic!("{proposed:?}")
        };
        let signed = SignDeal {
            signature: self.wallet.sign_hash(proposed.deal.signing_hash(&domain)),
            authorization: (!self.authorized).then(|| self.authorization()),
            prepaid: None,
        };
        let bound = self.session.sign(proposed.deal_id, &signed).await.unwrap();
        assert!(bound.reservation.is_some(), "{:?}", bound.outcome);
        self.authorized = true;
        proposed.deal
    }

    /// A lease with its tunnel up and its first voucher on the way.
    pub(super) async fn lease(&mut self, seconds: u32) -> Use {
        let key = PrivateKey::generate(&mut rand::rngs::OsRng);
        let deal = self.bind(seconds, &key).await;
        let id = deal.id();
        let view = self.wait_until(id, |view| view.ready.is_some()).await;
        let ready = view.ready.unwrap();
        let by_broker = self.counter_source == CounterSource::Provider;
        let sealer =
            by_broker.then(|| FrameSealer::new(*key.expose_bytes(), deal.provider_tunnel_key, id));
        let config = ClientConfig {
            private_key: key,
            peer_public_key: PublicKey::from_bytes(deal.provider_tunnel_key.0.0),
            preshared_key: None,
            endpoint: ready.endpoint,
            bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            inner_v4: ready.address_v4,
            inner_v6: ready.address_v6,
            gateway_v4: ready.gateway,
            control_port: ready.control_port,
            keepalive: None,
            handshake_timeout: Duration::from_secs(5),
            punch: None,
        };
        let (tunnel, events) = ClientTunnel::connect(config).await.unwrap();
        self.session.connected(id).await.unwrap();
        let state = ChannelState {
            voucher: ready.latest_voucher.clone(),
            ..ChannelState::default()
        };
        let domain = self.network.info.domain;
        let proof = if by_broker {
            ServiceProof::Receipts
        } else {
            ServiceProof::Echoes
        };
        let terms = deal.terms();
        let mut meter = PayerMeter::new(terms, domain, state, ROUND_TRIP, proof).unwrap();
        meter.handle_ready(Instant::now().into_std());
        Use {
            deal,
            tunnel,
            meter,
            vouchers: Vec::new(),
            ready,
            pays: true,
            events,
            session_key: self.wallet.derive(b"test session"),
            network: self.network.clone(),
            sealer,
            outgoing: Vec::new(),
            renewed: None,
            ended: false,
            ticks: 0,
        }
    }

    /// Waits until the broker's view of a deal is as wanted.
    pub(super) async fn wait_until(
        &self,
        id: DealId,
        wanted: impl Fn(&DealView) -> bool,
    ) -> DealView {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if let Ok(view) = self.session.deal(id).await {
                if wanted(&view) {
                    return view;
                }
                assert!(
                    Instant::now() < until,
                    "the deal stays {:?} {:?} {:?}",
                    view.status,
                    view.provider,
                    view.requester
                );
            }
            assert!(Instant::now() < until, "the broker does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn authorization(&self) -> Signed<Authorization> {
        let authorization = Authorization {
            network: self.network.info.network,
            payer: self.wallet.address(),
            signer: self.session_key.address(),
            valid_to: unix_now().after(7 * 86_400),
            nonce: 0,
        };
        Signed::sign(authorization, &self.network.info.domain, self.wallet.key())
    }
}

impl Use {
    /// Uses and pays the lease for `time`, or until it has ended.
    pub(super) async fn run(&mut self, time: Duration) {
        let until = Instant::now() + time;
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        while Instant::now() < until && !self.ended {
            tokio::select! {
                Some(event) = self.events.recv() => self.hear(event).await,
                _ = tick.tick() => {
                    self.ticks += 1;
                    self.read_counters().await;
                    self.meter.handle_timeout(Instant::now().into_std());
                    if self.ticks.is_multiple_of(5) {
                        self.say(&PayerMessage::Echo(self.ticks));
                    }
                }
            }
            self.pay();
        }
    }

    pub(super) fn say(&mut self, message: &PayerMessage) {
        let text = codec::encode(message).unwrap();
        match &self.sealer {
            None => self.tunnel.send_control(text).unwrap(),
            Some(sealer) => {
                let nonce = rand::rngs::OsRng.r#gen();
                let sealed = sealer.seal(Direction::ToProvider, nonce, &text).unwrap();
                self.outgoing.push(STANDARD.encode(sealed));
            }
        }
    }

    /// Hands sealed payments to the broker and takes those that came back.
    pub(super) async fn exchange(&mut self, session: &Session) {
        self.pay();
        let frames = std::mem::take(&mut self.outgoing);
        let id = self.deal.id();
        session.post_frames(id, &Frames { frames }).await.unwrap();
        let received = session.frames(id, Duration::from_secs(1)).await.unwrap();
        for frame in received.frames {
            let frame = STANDARD.decode(frame).unwrap();
            let sealer = self.sealer.as_ref().unwrap();
            let text = sealer.open(Direction::ToPayer, &frame).unwrap();
            self.take(codec::decode(&text).unwrap()).await;
        }
        self.meter.handle_timeout(Instant::now().into_std());
    }

    /// Fetches a page through the lease while paying for it; the result is its body.
    pub(super) async fn fetch(&mut self, origin: SocketAddr) -> Option<String> {
        let tunnel = self.tunnel.clone();
        let page = tokio::spawn(async move {
            let mut stream = tunnel.tcp_connect(origin).await.ok()?;
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: origin\r\n\r\n")
                .await
                .ok()?;
            let mut page = String::new();
            stream.read_to_string(&mut page).await.ok()?;
            page.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
        });
        while !page.is_finished() && !self.ended {
            self.run(Duration::from_millis(100)).await;
        }
        page.await.ok()?
    }

    async fn hear(&mut self, event: ClientEvent) {
        let ClientEvent::Control { payload } = event else {
            return;
        };
        self.take(codec::decode(&payload).unwrap()).await;
    }

    async fn take(&mut self, message: ProviderMessage) {
        let now = Instant::now().into_std();
        match message {
            ProviderMessage::Receipt(receipt) => {
                self.read_counters().await;
                let fault = self.meter.handle_receipt(receipt, now).err();
                assert!(fault.is_none(), "the provider misbehaves: {fault:?}");
            }
            ProviderMessage::Echo(_) => self.meter.handle_echo(now),
            ProviderMessage::End(_) => {
                self.meter.handle_end(EndCause::ProviderEnded, now);
                self.ended = true;
            }
            ProviderMessage::Reservation(reservation) => {
                self.renewed = Some(reservation.message.capacity);
            }
            // It asks for none.
            ProviderMessage::Stored(_) | ProviderMessage::Connections(_) => {}
        }
    }

    async fn read_counters(&mut self) {
        if let Ok(usage) = self.tunnel.usage().await {
            let now = Instant::now().into_std();
            self.meter
                .handle_counters(usage.bytes_up, usage.bytes_down, now);
        }
    }

    fn pay(&mut self) {
        let domain = self.network.info.domain;
        while let Some(event) = self.meter.poll_event() {
            match event {
                PayerEvent::SignVoucher(order) => {
                    let voucher =
                        Signed::sign(order.voucher(&domain), &domain, self.session_key.key());
                    self.meter
                        .handle_signed(voucher, Instant::now().into_std())
                        .unwrap();
                }
                PayerEvent::SendVoucher(voucher) => {
                    if self.vouchers.last() != Some(&voucher) {
                        self.vouchers.push(voucher.clone());
                    }
                    if self.pays {
                        self.say(&PayerMessage::Voucher(voucher));
                    }
                }
                PayerEvent::Ended { .. } => self.ended = true,
                PayerEvent::Disputed(fault) => panic!("disputed: {fault}"),
                PayerEvent::Settled => {}
            }
        }
    }
}
