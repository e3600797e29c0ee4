//! A requester on one network: from wishes to a lease that is bound and ready, with every step on disk before it is
//! taken.

mod opening;
mod signing;

use std::path::Path;
use std::sync::Arc;

use ipsx_agent_core::requester::{Identity, Wishes};
use ipsx_market::http::SignDeal;
use ipsx_market::messages::{EndCause, Ready};
use ipsx_market::place::Reachability;
use ipsx_market::request::TunnelKey;
use ipsx_market::status::DealStatus;
use ipsx_metering::{Address, Amount, B256};
use ipsx_settlement::{Signer, Wallet};
use ipsx_tunnel_core::PrivateKey;
use rand::rngs::OsRng;

use super::explain;
use super::waiting::Patience;
use crate::amount;
use crate::broker::{Broker, BrokerError, Session};
use crate::clock::unix_now;
use crate::exit_code::{ExitCode, Failure};
use crate::network::{Network, contract_failure};
use crate::store::{Ended, LeaseRecord, Slot, Stage, Store};

/// A wallet that leases on one network.
pub struct Requester {
    /// The wallet.
    pub wallet: Arc<Wallet>,
    /// Whose deposit pays.
    pub payer: Address,
    /// The network, checked on its chain.
    pub network: Network,
    /// The broker.
    pub session: Session,
    /// The records.
    pub store: Store,
    /// The probe that its requests are for, which the broker alone is told.
    probe: Option<B256>,
    /// Whether a relay may carry its packets, if there is no other way.
    relayed: bool,
}

/// A lease that is bound.
pub(super) struct Bound {
    pub(super) record: LeaseRecord,
    pub(super) tunnel_key: PrivateKey,
    pub(super) slot: Slot,
}

/// A lease that can begin.
pub struct Agreed {
    /// Its record, on disk.
    pub record: LeaseRecord,
    /// How to reach the provider.
    pub ready: Ready,
    /// WireGuard key of this side.
    pub tunnel_key: PrivateKey,
    /// Keeps other processes from using the same session key.
    pub slot: Slot,
}

impl Requester {
    /// A requester with its records in `data`; signs in when the first request needs it.
    pub fn new(wallet: Arc<Wallet>, network: Network, broker: Broker, data: &Path) -> Self {
        let session = broker.signed_in(wallet.clone(), &network.info);
        Self {
            payer: wallet.address(),
            wallet,
            network,
            session,
            store: Store::new(data),
            probe: None,
            relayed: false,
        }
    }

    /// The same, paid from this deposit, if one is named.
    pub fn paying_from(mut self, payer: Option<Address>) -> Self {
        self.payer = payer.unwrap_or(self.payer);
        self
    }

    /// The same, by relays where there is no other way, unless the provider is to be reached in a better one.
    pub fn relayed_unless(mut self, reachability: Option<Reachability>) -> Self {
        self.relayed = reachability.is_none_or(|way| way == Reachability::Relayed);
        self
    }

    /// Whether it leases by relays.
    pub(super) fn is_relayed(&self) -> bool {
        self.relayed
    }

    /// The same, for this probe.
    pub fn probing(mut self, task: B256) -> Self {
        self.probe = Some(task);
        self
    }

    /// Refuses a budget that the deposit does not cover.
    pub async fn check_deposit(&self, budget: Amount) -> Result<(), Failure> {
        let owner = self.payer;
        let account = self
            .network
            .contract
            .account(self.network.info.network, owner)
            .await;
        let account = account.map_err(contract_failure)?;
        let free = account.balance.saturating_sub(account.pending);
        if free >= budget {
            return Ok(());
        }
        Err(Failure::new(
            ExitCode::Balance,
            format!(
                "the deposit of {owner} has {} free, less than the budget of {}; run `ipsx deposit {}` or lower --budget",
                amount::tokens(free),
                amount::tokens(budget),
                amount::format(budget.saturating_sub(free)),
            ),
        ))
    }

    /// Asks for a deal, checks it, signs it and waits until its provider is ready. With patience, the request rests until
    /// there is an offer.
    pub async fn agree(
        &self,
        slot: Slot,
        wishes: &Wishes,
        patience: Option<Patience<'_>>,
    ) -> Result<Agreed, Failure> {
        let bound = self.sign(slot, wishes, patience).await?;
        self.open(bound).await
    }

    /// The first half of this: until the deal is bound.
    pub(super) async fn sign(
        &self,
        slot: Slot,
        wishes: &Wishes,
        patience: Option<Patience<'_>>,
    ) -> Result<Bound, Failure> {
        let tunnel_key = PrivateKey::generate(&mut OsRng);
        let session_key = slot.key(&self.wallet, self.network.info.network);
        let identity = Identity {
            requester: self.wallet.address(),
            payer: self.payer,
            payer_signer: session_key.address(),
            channel_salt: B256::ZERO,
            tunnel_key: TunnelKey(B256::new(*tunnel_key.public_key().as_bytes())),
        };
        let waits = patience.as_ref().map_or(0, |patience| patience.seconds);
        let ahead = wishes.start.latest.since(unix_now());
        let longest = u64::from(wishes.seconds) + u64::from(waits) + ahead;
        let authorization = self.authorization(session_key.address(), longest).await?;
        let proposed = self
            .propose(wishes, &identity, &session_key, patience)
            .await?;
        let mut record = self.record(&proposed, slot.number());
        self.store.put_lease(&record)?;
        let prepaid = self.prepay(&record.deal, &session_key)?;
        let signature = SignDeal {
            signature: record.requester_signature,
            authorization,
            prepaid,
        };
        if let Err(failure) = self.bind(&mut record, &signature).await {
            self.abandon(&mut record).await?;
            return Err(failure);
        }
        Ok(Bound {
            record,
            tunnel_key,
            slot,
        })
    }

    /// The second half: until the provider is ready.
    pub(super) async fn open(&self, bound: Bound) -> Result<Agreed, Failure> {
        let Bound {
            mut record,
            tunnel_key,
            slot,
        } = bound;
        match self.ready(&record).await {
            Ok(ready) => Ok(Agreed {
                record,
                ready,
                tunnel_key,
                slot,
            }),
            Err(failure) => {
                self.abandon(&mut record).await?;
                Err(failure)
            }
        }
    }

    /// Ends a lease that never began.
    pub(super) async fn abandon(&self, record: &mut LeaseRecord) -> Result<(), Failure> {
        // Nothing, but for what was prepaid.
        let state = self.store.channel(record.deal.channel().id())?;
        let usage = record.catch_up(&state);
        let ended = Ended {
            at: unix_now(),
            cause: EndCause::NotStarted,
            usage,
            amount: record.paid(),
        };
        record.stage = Stage::Ended;
        record.ended = Some(ended);
        self.store.put_lease(record)?;
        self.tell_end(record).await;
        Ok(())
    }

    /// Tells the broker that a lease is over; what it cannot be told now, the next command tells it.
    pub async fn tell_end(&self, record: &mut LeaseRecord) {
        let Some(report) = record.report() else {
            return;
        };
        let told = self
            .session
            .end(record.deal.id(), &ipsx_market::http::EndDeal { report })
            .await;
        let known = match told {
            Ok(()) => true,
            // It never heard of the deal, or holds it for over already.
            Err(BrokerError::Problem(problem)) => explain::is_settled(problem.kind),
            Err(error) => {
                tracing::info!(%error, "the broker could not be told that the lease is over");
                false
            }
        };
        if known {
            record.stage = Stage::Closed;
            if let Err(failure) = self.store.put_lease(record) {
                tracing::warn!(%failure, "the lease's record could not be closed");
            }
        }
    }
}

/// Whether nothing more will happen to a deal.
pub fn is_over(status: DealStatus) -> bool {
    !matches!(
        status,
        DealStatus::Proposed | DealStatus::Agreed | DealStatus::Active
    )
}
