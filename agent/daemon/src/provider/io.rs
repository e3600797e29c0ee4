//! Every side effect of a provider: sockets, files, the chain and what people see.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ipsx_agent_core::provider::{
    ChainQuery, Command, PaymentPath, Peer, PeerAddresses, ProviderEvent, RecordedConnections,
};
use ipsx_market::codec;
use ipsx_market::messages::AgentMessage;
use ipsx_market::payment::{MAX_PAYMENT_MESSAGE, PayerMessage, ProviderMessage};
use ipsx_market::sealed::{Direction, FrameSealer, NONCE_BYTES};
use ipsx_metering::{
    Amount, ChainView, ChannelId, DealId, Domain, Receipt, Signed, TypedData, UnixSeconds,
};
use ipsx_settlement::{Centralizer, ContractError, Wallet};
use ipsx_tunnel_core::{
    Bucket, DropCounts, DropReason, ExitPolicy, Gate, INNER_MTU, PeerConfig, PeerId, PrivateKey,
    PublicKey, Reflected, Usage,
};
use ipsx_tunnel_os as tunnel;
use rand::RngCore;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::address_pool::{AddressPool, CONTROL_PORT, GATEWAY, v6_of};
use super::broker_link::{BrokerLink, LinkEvent};
use super::claimer::ClaimNow;
use super::keeper::{End, Job};
use super::policies::Policies;
use super::running::JoinRecorder;
use crate::connections::Owners;
use crate::metrics::Metrics;

/// Sealed frames to payers in a second and at once: the broker drops agents that say more than 100 things a second.
const FRAMES: (u64, u64) = (50, 200);
/// How long the broker has to take the last messages.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long the last claim may take before it is left to `ipsx settle`.
const LAST_CLAIM: Duration = Duration::from_secs(60);

/// A running lease's receipt is written to disk this often.
const KEEP_RECEIPT: Duration = Duration::from_secs(20);

/// Something that the provider has to be told.
#[derive(Debug)]
pub(super) enum Happening {
    /// The link to the broker.
    Link(LinkEvent),
    /// A reflector was heard at the WireGuard socket.
    Reflected(Reflected),
    /// A payment message came by this path.
    Payment(DealId, PayerMessage, PaymentPath),
    /// A lease is on disk, or could not be written.
    LeaseKept(DealId, Result<(), String>),
    /// A voucher is on disk.
    VoucherKept(DealId, Amount),
    /// What the chain says.
    Chain(DealId, Result<ChainView, String>),
    /// Time of the latest block.
    BlockTime(UnixSeconds),
    /// A channel was paid this much in all.
    Claimed(ChannelId, Amount),
    /// More of a lease's connection record is on disk.
    Connections(DealId, RecordedConnections),
    /// This is what the exit lets through from now on.
    Policy(Box<ExitPolicy>),
    /// For people.
    Tell(ProviderEvent),
}

/// All that touches the outside.
pub(super) struct Io {
    pub(super) wallet: Arc<Wallet>,
    pub(super) domain: Domain,
    pub(super) contract: Centralizer,
    pub(super) tunnel_key: PrivateKey,
    pub(super) claim_at_end: bool,
    pub(super) link: BrokerLink,
    /// Leads to the broker while the link is up.
    pub(super) outbox: Option<mpsc::Sender<AgentMessage>>,
    pub(super) tunnel: tunnel::Provider,
    pub(super) tunnel_events: mpsc::Receiver<tunnel::ProviderEvent>,
    pub(super) jobs: mpsc::Sender<Job>,
    pub(super) claims: mpsc::Sender<ClaimNow>,
    pub(super) happened: mpsc::UnboundedSender<Happening>,
    pub(super) happenings: mpsc::UnboundedReceiver<Happening>,
    /// Ended, all of them, with the provider.
    pub(super) tasks: JoinSet<()>,
    pub(super) events: mpsc::Sender<ProviderEvent>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) peers: Peers,
    pub(super) policies: Policies,
    /// Whether each lease leaves from the address of its deal, rather than all from the same.
    pub(super) egress_per_lease: bool,
    /// Keeps the connection record; ends with the tunnel.
    pub(super) recorder: Option<JoinRecorder>,
    /// What was told of dropped packets.
    pub(super) dropped: DropCounts,
    pub(super) frames: Bucket,
}

/// The peers of the leases.
#[derive(Default)]
pub(super) struct Peers {
    open: HashMap<DealId, (PeerId, Ipv4Addr)>,
    by_id: HashMap<PeerId, DealId>,
    opening: HashMap<DealId, Peer>,
    sealers: HashMap<DealId, FrameSealer>,
    /// The latest receipt of each lease, and when one was last kept.
    receipts: HashMap<DealId, (Box<Signed<Receipt>>, std::time::Instant)>,
    addresses: AddressPool,
    /// Whose flows are whose, for the connection record.
    owners: Owners,
}

impl Peers {
    /// None yet; `owners` is told of those to come.
    pub(super) fn new(owners: Owners) -> Self {
        Self {
            owners,
            ..Self::default()
        }
    }
}

/// A full bucket of sealed frames.
pub(super) fn frames() -> Bucket {
    let (rate, burst) = FRAMES;
    Bucket::new(rate, burst, std::time::Instant::now())
}

impl Io {
    /// Waits for the next thing that happens; `None` when the tunnel is gone, which no provider survives.
    pub(super) async fn next(&mut self) -> Option<Happening> {
        loop {
            tokio::select! {
                Some(event) = self.link.next() => return Some(Happening::Link(event)),
                Some(happening) = self.happenings.recv() => return Some(happening),
                event = self.tunnel_events.recv() => {
                    if let Some(happening) = self.heard(event?) {
                        return Some(happening);
                    }
                }
            }
        }
    }

    /// Carries out one command.
    pub(super) async fn carry_out(&mut self, command: Command) {
        match command {
            Command::Send(message) => self.send(message),
            Command::PublishOffer(offer) => {
                let offer = Signed::sign(*offer, &self.domain, self.wallet.key());
                self.send(AgentMessage::PublishOffer { offer });
            }
            Command::AcceptDeal {
                proposal,
                deal,
                terms,
            } => {
                let signature = self.wallet.key().sign_hash(deal.signing_hash(&self.domain));
                self.send(AgentMessage::AcceptDeal {
                    proposal,
                    terms,
                    signature,
                });
            }
            Command::ReadChain { lease, query } => self.read_chain(lease, query),
            Command::OpenPeer {
                lease,
                peer,
                record,
            } => {
                self.peers.opening.insert(lease, peer);
                if self.keep(Job::Lease(lease, record)).is_err() {
                    let reason = Err("the disk does not keep up".into());
                    let _ = self.happened.send(Happening::LeaseKept(lease, reason));
                }
            }
            Command::SetGate { lease, gate } => self.set_gate(lease, gate),
            Command::Reflect { reflector, asks } => {
                // A tunnel that is gone is reached by nobody.
                let _ = self.tunnel.reflect(reflector, asks);
            }
            Command::Punch { to } => drop(self.tunnel.punch(to)),
            Command::JoinRelay { relay, token } => {
                let relay = tunnel::Relay {
                    address: relay,
                    token: tunnel::RelayToken(token.0.0),
                };
                // A tunnel that is gone is reached by nobody.
                let _ = self.tunnel.join_relay(relay);
            }
            Command::LeaveRelay { relay } => drop(self.tunnel.leave_relay(relay)),
            Command::ClosePeer { lease } => self.close_peer(lease).await,
            Command::Pay {
                lease,
                path,
                message,
            } => self.pay(lease, path, &message),
            Command::OpenFrame { lease, sealed } => self.open_frame(lease, &sealed),
            // A job that finds no room is warned of; the meter then holds the lease for want of a stored voucher.
            Command::Store(store) => drop(self.keep(Job::Voucher(store))),
            Command::StoreEnd {
                lease,
                report,
                answered,
            } => {
                let last = self.peers.receipts.remove(&lease);
                let end = End {
                    lease,
                    report,
                    last: last.map(|(receipt, _)| receipt),
                    answered,
                };
                // A job that finds no room is warned of.
                let _ = self.keep(Job::End(Box::new(end)));
            }
            Command::StoreMonth(traffic) => drop(self.keep(Job::Month(traffic))),
            Command::Claim { urgent } => {
                if urgent || self.claim_at_end {
                    // A full queue means that a claim is about to be made anyway.
                    let _ = self.claims.try_send(None);
                }
            }
            Command::Tell(event) => self.tell(event),
            Command::CountRefused(reason) => self.metrics.refused(reason),
        }
    }

    /// Opens the peer of a lease that is on disk now; `None` if the lease is over already.
    pub(super) async fn open_peer(
        &mut self,
        lease: DealId,
        kept: Result<(), String>,
    ) -> Option<Result<PeerAddresses, String>> {
        let peer = self.peers.opening.remove(&lease)?;
        Some(match kept {
            Ok(()) => self.add_peer(lease, &peer).await,
            Err(reason) => Err(reason),
        })
    }

    /// What a lease's peer has moved; `None` if it is not open.
    pub(super) async fn usage(&self, lease: DealId) -> Option<Usage> {
        let (peer, _) = self.peers.open.get(&lease)?;
        self.tunnel.usage(*peer).await.ok().flatten()
    }

    /// Asks for the time of the latest block.
    pub(super) fn read_block_time(&mut self) {
        let (contract, happened) = (self.contract.clone(), self.happened.clone());
        self.spawn(async move {
            if let Ok(head) = contract.chain().head().await {
                let _ = happened.send(Happening::BlockTime(head.timestamp));
            }
        });
    }

    /// Shows people an event; one that finds a slow reader's queue full is lost.
    pub(super) fn tell(&self, event: ProviderEvent) {
        tracing::debug!(?event);
        self.metrics.observe(&event);
        let _ = self.events.try_send(event);
    }

    /// Says farewell to everybody, in the order in which they may still be needed.
    pub(super) async fn finish(mut self) {
        if self.outbox.take().is_some() {
            // The link says when it has delivered everything.
            let _ = tokio::time::timeout(FAREWELL, self.delivered()).await;
        }
        let (done, kept) = oneshot::channel();
        if self.jobs.send(Job::Flush(done)).await.is_ok() {
            let _ = kept.await;
        }
        if self.claim_at_end
            && tokio::time::timeout(LAST_CLAIM, self.last_claim())
                .await
                .is_err()
        {
            let reason = "the chain is too slow; run `ipsx settle` later".into();
            self.tell(ProviderEvent::ClaimFailed {
                reason,
                retry_in: 0,
            });
        }
        while let Ok(happening) = self.happenings.try_recv() {
            if let Happening::Tell(event) = happening {
                self.tell(event);
            }
        }
        self.tunnel.shutdown().await;
        if let Some(recorder) = self.recorder.take() {
            // It writes the ends of the last flows.
            let _ = tokio::task::spawn_blocking(move || recorder.join()).await;
        }
        self.tasks.shutdown().await;
    }

    async fn last_claim(&self) {
        let (done, claimed) = oneshot::channel();
        if self.claims.send(Some(done)).await.is_ok() {
            let _ = claimed.await;
        }
    }

    async fn delivered(&mut self) {
        while let Some(event) = self.link.next().await {
            if matches!(event, LinkEvent::Down { .. }) {
                return;
            }
        }
    }

    /// Sends to the broker if there is one. What is lost is made good when the link comes back.
    fn send(&mut self, message: AgentMessage) {
        let Some(outbox) = &self.outbox else {
            return;
        };
        if outbox.try_send(message).is_err() {
            // Dropping the outbox ends this connection; the next one starts from what both sides know.
            self.outbox = None;
        }
    }

    fn keep(&self, job: Job) -> Result<(), ()> {
        self.jobs.try_send(job).map_err(|_| {
            let text = "the disk does not keep up with vouchers: leases wait for it".into();
            self.tell(ProviderEvent::Warning { text });
        })
    }

    fn read_chain(&mut self, lease: DealId, query: ChainQuery) {
        let (contract, happened) = (self.contract.clone(), self.happened.clone());
        self.spawn(async move {
            let view = chain_view(&contract, query).await;
            let view = view.map_err(|error| error.to_string());
            let _ = happened.send(Happening::Chain(lease, view));
        });
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        // Finished tasks are taken out, so that the set does not grow.
        while self.tasks.try_join_next().is_some() {}
        self.tasks.spawn(task);
    }

    async fn add_peer(&mut self, lease: DealId, peer: &Peer) -> Result<PeerAddresses, String> {
        let policy = self
            .policies
            .get(peer.policy_hash)
            .ok_or("its exit policy has been replaced several times since the deal was signed")?;
        let address = self
            .peers
            .addresses
            .take()
            .ok_or("every inner address is taken")?;
        let address_v6 = v6_of(address);
        let config = PeerConfig {
            public_key: PublicKey::from_bytes(peer.key.0.0),
            preshared_key: None,
            endpoint: None,
            allowed_ips: vec![IpAddr::V4(address).into(), IpAddr::V6(address_v6).into()],
            keepalive: None,
        };
        let egress = self
            .egress_per_lease
            .then(|| tunnel::Egress::from(peer.exit_address));
        let added = self.tunnel.add_peer_under(config, egress, policy).await;
        let id = match added {
            Ok(id) => id,
            Err(error) => {
                self.peers.addresses.give_back(address);
                return Err(error.to_string());
            }
        };
        // A tunnel that is gone carries nothing.
        let _ = self.tunnel.set_weights(id, peer.weights);
        self.peers.owners.insert(id, lease);
        self.peers.open.insert(lease, (id, address));
        self.peers.by_id.insert(id, lease);
        let sealer = FrameSealer::new(*self.tunnel_key.expose_bytes(), peer.key, lease);
        self.peers.sealers.insert(lease, sealer);
        Ok(PeerAddresses {
            address_v4: address,
            address_v6: Some(address_v6),
            gateway: GATEWAY,
            control_port: CONTROL_PORT,
            mtu: INNER_MTU as u16,
        })
    }

    fn set_gate(&self, lease: DealId, gate: Gate) {
        if let Some((peer, _)) = self.peers.open.get(&lease) {
            // A tunnel that is gone carries nothing.
            let _ = self.tunnel.set_gate(*peer, gate);
        }
    }

    async fn close_peer(&mut self, lease: DealId) {
        self.peers.opening.remove(&lease);
        self.peers.sealers.remove(&lease);
        if let Some((peer, address)) = self.peers.open.remove(&lease) {
            self.peers.by_id.remove(&peer);
            self.peers.addresses.give_back(address);
            let _ = self.tunnel.remove_peer(peer).await;
            self.peers.owners.remove(peer);
            self.tell_dropped().await;
        }
    }

    /// Shows a person what was tried in vain through the address since the last time.
    async fn tell_dropped(&mut self) {
        // Without the tunnel there is nothing new to tell.
        let Ok(dropped) = self.tunnel.dropped().await else {
            return;
        };
        let new = |(reason, count): (DropReason, u64)| {
            let count = count.saturating_sub(self.dropped.get(reason));
            (count > 0).then_some((reason.as_str(), count))
        };
        let reasons: BTreeMap<_, _> = dropped.iter().filter_map(new).collect();
        if !reasons.is_empty() {
            self.tell(ProviderEvent::PacketsDropped { reasons });
        }
        self.dropped = dropped;
    }

    /// Receipts prove what the connection record says: one is kept now and then, the last with the lease's end.
    fn remember(&mut self, lease: DealId, receipt: &Signed<Receipt>) {
        let now = std::time::Instant::now();
        let kept = self.peers.receipts.get(&lease).map(|(_, kept)| *kept);
        let due = kept.is_some_and(|kept| now >= kept + KEEP_RECEIPT);
        let at = if due { now } else { kept.unwrap_or(now) };
        self.peers
            .receipts
            .insert(lease, (Box::new(receipt.clone()), at));
        if due {
            // A later one will do as well.
            let _ = self.keep(Job::Receipt(lease, Box::new(receipt.clone())));
        }
    }

    fn pay(&mut self, lease: DealId, path: PaymentPath, message: &ProviderMessage) {
        if let ProviderMessage::Receipt(receipt) = message {
            self.remember(lease, receipt);
        }
        let payload = match codec::encode(message) {
            Ok(payload) if payload.len() <= MAX_PAYMENT_MESSAGE => payload,
            _ => return tracing::error!(%lease, "a payment message is too long to be sent"),
        };
        match path {
            PaymentPath::Tunnel => {
                if let Some((peer, _)) = self.peers.open.get(&lease) {
                    // Lost datagrams are made good by the next one.
                    let _ = self.tunnel.send_control(*peer, payload);
                }
            }
            PaymentPath::Broker => {
                if !self.frames.take(1, std::time::Instant::now()) {
                    return tracing::debug!(%lease, "a sealed frame is left out: too many at once");
                }
                let mut nonce = [0; NONCE_BYTES];
                rand::rngs::OsRng.fill_bytes(&mut nonce);
                let sealer = self.peers.sealers.get(&lease);
                let sealed = sealer.and_then(|s| s.seal(Direction::ToPayer, nonce, &payload).ok());
                if let Some(sealed) = sealed {
                    self.send(AgentMessage::Frame {
                        deal_id: lease,
                        sealed,
                    });
                }
            }
        }
    }

    fn open_frame(&self, lease: DealId, sealed: &[u8]) {
        let Some(sealer) = self.peers.sealers.get(&lease) else {
            return;
        };
        let message = sealer
            .open(Direction::ToProvider, sealed)
            .ok()
            .and_then(|text| codec::decode(&text).ok());
        match message {
            Some(message) => {
                let _ = self
                    .happened
                    .send(Happening::Payment(lease, message, PaymentPath::Broker));
            }
            None => tracing::debug!(%lease, "a sealed frame is not from this lease's payer"),
        }
    }

    fn heard(&self, event: tunnel::ProviderEvent) -> Option<Happening> {
        let (peer, payload) = match event {
            tunnel::ProviderEvent::Control { peer, payload } => (peer, payload),
            tunnel::ProviderEvent::Reflected(reflected) => {
                return Some(Happening::Reflected(reflected));
            }
            tunnel::ProviderEvent::Handshaked { .. } | tunnel::ProviderEvent::Roamed { .. } => {
                return None;
            }
        };
        let lease = *self.peers.by_id.get(&peer)?;
        match codec::decode(&payload) {
            Ok(message) => Some(Happening::Payment(lease, message, PaymentPath::Tunnel)),
            Err(error) => {
                tracing::debug!(%lease, %error, "a control datagram is no payment message");
                None
            }
        }
    }
}

/// What the chain says about a payer and a channel now.
async fn chain_view(contract: &Centralizer, query: ChainQuery) -> Result<ChainView, ContractError> {
    let head = contract
        .chain()
        .head()
        .await
        .map_err(ContractError::Chain)?;
    let network = contract.network(query.network).await?;
    let account = contract.account(query.network, query.payer).await?;
    let channel = contract.channel(query.channel).await?;
    let signer_valid_to = contract
        .signer_valid_to(query.network, query.payer, query.payer_signer)
        .await?;
    let free = account.balance.saturating_sub(account.pending);
    Ok(ChainView {
        operator: network.operator,
        block_time: head.timestamp,
        signer_valid_to,
        payable: channel
            .claimed
            .saturating_add(channel.held)
            .saturating_add(free),
    })
}
