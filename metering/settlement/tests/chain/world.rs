//! A chain with the contracts, one network and the people of a lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alloy_primitives::{Address, B256};
use ipsx_metering::{
    Amount, Authorization, Channel, Domain, NetworkId, Reservation, Signed, UnixSeconds, Voucher,
};
use ipsx_settlement::{
    Centralizer, Chain, ClaimRow, Clock, Deployment, EmbeddedChain, Genesis, NewNetwork,
    RowOutcome, Signer, SkipReason, Wallet, deploy,
};

use crate::anvil::Anvil;
use crate::served::Server;

pub(crate) const HOUR: u64 = 3_600;
pub(crate) const DAY: u64 = 24 * HOUR;
pub(crate) const FEE_BPS: u16 = 250;
/// What the payer has deposited at the start.
pub(crate) const DEPOSIT: Amount = Amount(1_000_000);
/// What the payer still has in its wallet at the start.
pub(crate) const POCKET: Amount = Amount(9_000_000);

/// What keeps the backend running, and turns its clock.
pub(crate) enum Backend {
    Embedded(Arc<AtomicU64>),
    Served {
        time: Arc<AtomicU64>,
        _server: Server,
    },
    Anvil(Box<Anvil>),
}

pub(crate) struct World {
    backend: Backend,
    pub(crate) chain: Arc<dyn Chain>,
    pub(crate) centralizer: Centralizer,
    pub(crate) network: NetworkId,
    pub(crate) people: People,
}

/// Everybody's wallet.
pub(crate) struct People {
    pub(crate) founder: Wallet,
    pub(crate) admin: Wallet,
    pub(crate) operator: Wallet,
    pub(crate) treasury: Wallet,
    pub(crate) payer: Wallet,
    pub(crate) session: Wallet,
    pub(crate) provider: Wallet,
    pub(crate) stranger: Wallet,
}

impl People {
    pub(crate) fn new() -> Self {
        Self::of(&Wallet::random())
    }

    /// The same people for the same root.
    pub(crate) fn of(root: &Wallet) -> Self {
        Self {
            founder: root.derive(b"founder"),
            admin: root.derive(b"admin"),
            operator: root.derive(b"operator"),
            treasury: root.derive(b"treasury"),
            payer: root.derive(b"payer"),
            session: root.derive(b"session"),
            provider: root.derive(b"provider"),
            stranger: root.derive(b"stranger"),
        }
    }

    pub(crate) fn addresses(&self) -> Vec<Address> {
        let people = [
            &self.founder,
            &self.admin,
            &self.operator,
            &self.treasury,
            &self.payer,
            &self.session,
            &self.provider,
            &self.stranger,
        ];
        people.map(Signer::address).to_vec()
    }
}

/// A clock that stands still until it is turned.
pub(crate) fn manual_clock() -> (Arc<AtomicU64>, Clock) {
    let time = Arc::new(AtomicU64::new(1_800_000_000));
    let hand = time.clone();
    (
        time,
        Arc::new(move || UnixSeconds(hand.load(Ordering::Relaxed))),
    )
}

impl World {
    pub(crate) async fn embedded() -> Self {
        Self::embedded_for(People::new()).await.0
    }

    /// The same for given people, with the chain itself, to look at its blocks.
    pub(crate) async fn embedded_for(people: People) -> (Self, EmbeddedChain) {
        let (time, clock) = manual_clock();
        let chain = EmbeddedChain::in_memory(Genesis::funding(people.addresses()), clock);
        let shared = Arc::new(chain.clone());
        let world = Self::set_up(Backend::Embedded(time), shared, people).await;
        (world, chain)
    }

    pub(crate) async fn served() -> Self {
        let people = People::new();
        let (time, clock) = manual_clock();
        let chain = EmbeddedChain::in_memory(Genesis::funding(people.addresses()), clock);
        let server = Server::start(chain).await;
        let client = Arc::new(server.client());
        let backend = Backend::Served {
            time,
            _server: server,
        };
        Self::set_up(backend, client, people).await
    }

    pub(crate) async fn anvil() -> Option<Self> {
        let people = People::new();
        let anvil = Anvil::start().await?;
        for address in people.addresses() {
            anvil.fund(address).await;
        }
        let chain = Arc::new(anvil.chain.clone());
        Some(Self::set_up(Backend::Anvil(Box::new(anvil)), chain, people).await)
    }

    /// Takes back the newest blocks and puts empty ones in their place; a real node only.
    pub(crate) async fn reorganise(&self, blocks: u64) {
        let Backend::Anvil(anvil) = &self.backend else {
            panic!("the embedded chain takes nothing back");
        };
        let params = serde_json::json!([blocks, []]);
        let _: serde_json::Value = anvil.chain.request("anvil_reorg", params).await.unwrap();
    }

    async fn set_up(backend: Backend, chain: Arc<dyn Chain>, people: People) -> Self {
        let founder = people.founder.address();
        let deployment = deploy(chain.as_ref(), &people.founder, founder)
            .await
            .unwrap();
        let centralizer = Centralizer::connect(chain.clone(), deployment)
            .await
            .unwrap();
        let network = create_network(&centralizer, &people, 0).await;
        let payer = people.payer.address();
        let tokens = DEPOSIT.saturating_add(POCKET);
        centralizer
            .transfer_tokens(&people.founder, payer, tokens)
            .await
            .unwrap();
        centralizer
            .deposit(&people.payer, network, payer, DEPOSIT)
            .await
            .unwrap();
        let world = Self {
            backend,
            chain,
            centralizer,
            network,
            people,
        };
        world.authorize(60 * DAY).await;
        world
    }

    /// Lets the session key sign for this many seconds more.
    pub(crate) async fn authorize(&self, seconds: u64) {
        let authorization = Authorization {
            network: self.network,
            payer: self.people.payer.address(),
            signer: self.people.session.address(),
            valid_to: self.now().await.after(seconds),
            nonce: self.account().await.authorization_nonce,
        };
        let signed = Signed::sign(authorization, &self.domain(), self.people.payer.key());
        self.centralizer
            .authorize(&self.people.stranger, &signed)
            .await
            .unwrap();
    }

    pub(crate) fn domain(&self) -> Domain {
        self.centralizer.domain()
    }

    pub(crate) fn deployment(&self) -> Deployment {
        self.centralizer.deployment()
    }

    pub(crate) async fn now(&self) -> UnixSeconds {
        self.chain.head().await.unwrap().timestamp
    }

    pub(crate) async fn advance(&self, seconds: u64) {
        match &self.backend {
            Backend::Embedded(time) | Backend::Served { time, .. } => {
                time.fetch_add(seconds, Ordering::Relaxed);
            }
            Backend::Anvil(anvil) => anvil.advance(seconds).await,
        }
    }

    pub(crate) async fn account(&self) -> ipsx_settlement::AccountState {
        let payer = self.people.payer.address();
        self.centralizer.account(self.network, payer).await.unwrap()
    }

    pub(crate) async fn credits(&self, owner: &Wallet) -> u128 {
        let credits = self.centralizer.credits(owner.address()).await.unwrap();
        credits.amount.0
    }

    pub(crate) async fn tokens(&self, owner: Address) -> u128 {
        self.centralizer.token_balance(owner).await.unwrap().0
    }

    /// The channel with this number between the payer and the provider.
    pub(crate) fn channel(&self, number: u8) -> Channel {
        Channel {
            network: self.network,
            payer: self.people.payer.address(),
            payer_signer: self.people.session.address(),
            provider: self.people.provider.address(),
            salt: B256::repeat_byte(number),
        }
    }

    pub(crate) fn reserve(
        &self,
        channel: &Channel,
        capacity: u128,
        valid_until: UnixSeconds,
    ) -> Signed<Reservation> {
        let reservation = Reservation {
            channel_id: channel.id(),
            capacity: Amount(capacity),
            valid_until,
        };
        Signed::sign(reservation, &self.domain(), self.people.operator.key())
    }

    pub(crate) fn promise(&self, channel: &Channel, cumulative: u128) -> Signed<Voucher> {
        let voucher = Voucher {
            channel_id: channel.id(),
            cumulative: Amount(cumulative),
            receipt_hash: B256::repeat_byte(0xab),
        };
        Signed::sign(voucher, &self.domain(), self.people.session.key())
    }

    /// A claim for `cumulative` of a channel, with as much capacity, until `valid_until`.
    pub(crate) fn row(
        &self,
        channel: &Channel,
        cumulative: u128,
        valid_until: UnixSeconds,
    ) -> ClaimRow {
        ClaimRow {
            channel: channel.clone(),
            reservation: self.reserve(channel, cumulative, valid_until),
            voucher: self.promise(channel, cumulative),
        }
    }

    /// Claims, by a stranger, and checks that the books still balance.
    pub(crate) async fn settle(&self, rows: &[ClaimRow]) -> Vec<RowOutcome> {
        let settled = self
            .centralizer
            .settle(&self.people.stranger, rows)
            .await
            .unwrap();
        self.check_books().await;
        settled.outcomes
    }

    /// I1: every token belongs to somebody.
    pub(crate) async fn check_books(&self) {
        let totals = self.centralizer.totals().await.unwrap();
        assert!(totals.conserved(), "{totals:?}");
    }
}

pub(crate) async fn create_network(
    centralizer: &Centralizer,
    people: &People,
    number: u8,
) -> NetworkId {
    let network = NewNetwork {
        operator: people.operator.address(),
        admin: people.admin.address(),
        treasury: people.treasury.address(),
        fee_bps: FEE_BPS,
        salt: B256::repeat_byte(number),
    };
    centralizer
        .create_network(&people.founder, network)
        .await
        .unwrap()
}

/// What a row paid; it must not have been skipped.
pub(crate) fn paid(outcome: &RowOutcome) -> u128 {
    match outcome {
        RowOutcome::Settled { paid, .. } => paid.0,
        RowOutcome::Skipped(reason) => panic!("skipped: {reason}"),
    }
}

/// Why a row was skipped; it must have been.
pub(crate) fn skipped(outcome: &RowOutcome) -> SkipReason {
    match outcome {
        RowOutcome::Skipped(reason) => *reason,
        settled => panic!("{settled:?}"),
    }
}

/// The contract's fee for an amount claimed in all.
pub(crate) fn fee(claimed: u128) -> u128 {
    claimed * u128::from(FEE_BPS) / 10_000
}
