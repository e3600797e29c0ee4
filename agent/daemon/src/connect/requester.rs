//! A requester on one network: from wishes to a lease that is bound and ready, with every step on disk before it is
//! taken.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipsx_agent_core::requester::{Identity, Wishes, check_bound, check_proposal, check_ready};
use ipsx_market::deal::Deal;
use ipsx_market::http::{BoundDeal, DealView, PostRequest, ProposedDeal, RequestView, SignDeal};
use ipsx_market::messages::{EndCause, Ready};
use ipsx_market::request::{SignedRequest, TunnelKey};
use ipsx_market::status::DealStatus;
use ipsx_metering::{
    Address, Amount, Authorization, B256, DealProgress, Signed, TypedData, UnixSeconds, Usage,
    Voucher,
};
use ipsx_settlement::{Signer, Wallet};
use ipsx_tunnel_core::PrivateKey;
use rand::RngCore;
use rand::rngs::OsRng;

use super::explain;
use super::waiting::Patience;
use crate::amount;
use crate::broker::{Broker, BrokerError, Requested, Session};
use crate::clock::unix_now;
use crate::exit_code::{ExitCode, Failure};
use crate::network::{Network, contract_failure};
use crate::store::{Ended, LeaseRecord, Slot, Stage, Store};

/// How long the broker may look for an offer, in seconds.
pub(super) const REQUEST_SECS: u64 = 60;
/// A session key is authorised this much longer than its lease, in seconds: claims and the next leases need it.
const KEY_MARGIN_SECS: u64 = 7 * 24 * 3_600;
/// A session key that lasts this much longer than its lease is not authorised anew: one that lasts a day or less may be
/// a revoked one, with which no lease begins, and clocks differ.
const KEY_NEEDED_SECS: u64 = 25 * 3_600;
/// Shortest and longest pause between two looks at whether a provider is ready.
const READY_POLL: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));
/// How often, in seconds, it is looked whether a lease that starts later still will.
const BOOKED_POLL: u64 = 10;
/// How often a broker that went away while it was handed a signature is asked what became of the deal.
const OUTCOME_TRIES: u32 = 10;

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
        }
    }

    /// The same, paid from this deposit, if one is named.
    pub fn paying_from(mut self, payer: Option<Address>) -> Self {
        self.payer = payer.unwrap_or(self.payer);
        self
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
        let prepaid = match record.deal.is_prepaid() {
            true => Some(self.prepay(&record.deal, &session_key)?),
            false => None,
        };
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

    /// Signs the voucher for the first slice of a lease that starts later; it is on disk before it leaves.
    fn prepay(&self, deal: &Deal, session_key: &Wallet) -> Result<Signed<Voucher>, Failure> {
        let channel_id = deal.channel().id();
        let mut state = self.store.channel(channel_id)?;
        let base = state.cumulative();
        let voucher = Voucher {
            channel_id,
            cumulative: base.saturating_add(deal.terms().first_slice()),
            receipt_hash: B256::ZERO,
        };
        let domain = &self.network.info.domain;
        let voucher = Signed::sign(voucher, domain, session_key.key());
        state.voucher = Some(voucher.clone());
        state.answered = None;
        state.deal = Some(DealProgress {
            deal_id: deal.id(),
            base,
            usage: Usage::default(),
            vouchers: 1,
        });
        self.store.put_channel(channel_id, &state)?;
        Ok(voucher)
    }

    async fn propose(
        &self,
        wishes: &Wishes,
        identity: &Identity,
        session_key: &Wallet,
        patience: Option<Patience<'_>>,
    ) -> Result<ProposedDeal, Failure> {
        let (now, seconds) = (unix_now(), patience.as_ref().map(|p| u64::from(p.seconds)));
        let expires_at = now.after(REQUEST_SECS.max(seconds.unwrap_or(0)));
        let request = wishes.request(
            self.network.info.network,
            identity,
            OsRng.next_u64(),
            expires_at,
        );
        let mut request = request.map_err(Failure::usage)?;
        if let Some(seconds) = seconds {
            request.rest_until = now.after(seconds);
        }
        let signed = SignedRequest::sign(
            request.clone(),
            &self.network.info.domain,
            self.wallet.key(),
            session_key.key(),
        );
        let asked = PostRequest { request: signed };
        let answer = self.session.request(&asked, self.probe).await;
        let proposed = match answer {
            Ok(Requested::Deal(proposed)) => *proposed,
            Ok(Requested::Rests(view)) => match patience {
                Some(patience) => self.wait(&view, patience).await?,
                None => return Err(unasked(&view)),
            },
            Err(error) => return Err(explain::no_deal(error, self.session.broker(), wishes).await),
        };
        check_proposal(&request, &self.network.rules, &proposed, unix_now())
            .map_err(|fault| Failure::new(ExitCode::Refused, fault.to_string()))?;
        Ok(proposed)
    }

    pub(super) fn record(&self, proposed: &ProposedDeal, slot: u32) -> LeaseRecord {
        let hash = proposed.deal.signing_hash(&self.network.info.domain);
        LeaseRecord {
            broker: self.session.broker().url().into(),
            network: self.network.info.network,
            domain: self.network.info.domain,
            operator: self.network.info.operator,
            fee_bps: self.network.info.fee_bps,
            slot,
            deal: proposed.deal.clone(),
            provider_signature: proposed.provider_signature,
            requester_signature: self.wallet.sign_hash(hash),
            placement: proposed.placement.clone(),
            signed_at: unix_now(),
            stage: Stage::Signing,
            outcome: None,
            reservation: None,
            paid_before: Amount::ZERO,
            voucher: None,
            vouchers: 0,
            answered: None,
            receipt: None,
            exit_seen: None,
            connections: None,
            ended: None,
        }
    }

    /// Hands in the signature and takes the network's word.
    async fn bind(&self, record: &mut LeaseRecord, signature: &SignDeal) -> Result<(), Failure> {
        let bound = match self.session.sign(record.deal.id(), signature).await {
            // The signature may have arrived: only the network's word says whether the deal is bound.
            Err(BrokerError::Unreachable { .. }) => self.outcome(record).await?,
            answer => answer?,
        };
        self.bound(record, &bound)
    }

    /// Keeps the network's word.
    pub(super) fn bound(&self, record: &mut LeaseRecord, bound: &BoundDeal) -> Result<(), Failure> {
        let reservation = check_bound(&record.deal, &self.network.rules, bound)
            .map_err(|fault| Failure::new(ExitCode::Refused, fault.to_string()))?;
        record.reservation = Some(reservation.clone());
        record.outcome = Some(bound.outcome.clone());
        record.stage = Stage::Bound;
        self.store.put_lease(record)
    }

    pub(super) async fn outcome(&self, record: &LeaseRecord) -> Result<BoundDeal, Failure> {
        let mut tries = 0;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            tries += 1;
            match self.session.outcome(record.deal.id()).await {
                Err(BrokerError::Unreachable { .. }) if tries < OUTCOME_TRIES => {}
                answer => return Ok(answer?),
            }
        }
    }

    /// The session key's authorization, unless the chain knows one that lasts long enough. Another payer has given its
    /// own before.
    pub(super) async fn authorization(
        &self,
        key: Address,
        seconds: u64,
    ) -> Result<Option<Signed<Authorization>>, Failure> {
        let (network, payer) = (self.network.info.network, self.payer);
        let contract = &self.network.contract;
        let end = unix_now().after(seconds);
        let known = contract
            .signer_valid_to(network, payer, key)
            .await
            .map_err(contract_failure)?;
        if known >= end.after(KEY_NEEDED_SECS) {
            return Ok(None);
        }
        if payer != self.wallet.address() {
            return Err(not_appointed(payer, key, known, end.after(KEY_NEEDED_SECS)));
        }
        let account = contract
            .account(network, payer)
            .await
            .map_err(contract_failure)?;
        let authorization = Authorization {
            network,
            payer,
            signer: key,
            valid_to: end.after(KEY_MARGIN_SECS),
            nonce: account.authorization_nonce,
        };
        Ok(Some(Signed::sign(
            authorization,
            &self.network.info.domain,
            self.wallet.key(),
        )))
    }

    /// Waits until the provider has opened its peer.
    async fn ready(&self, record: &LeaseRecord) -> Result<Ready, Failure> {
        let deal = record.deal.id();
        let mut pause = READY_POLL.0;
        loop {
            let view = self.session.deal(deal, None).await?;
            if let Some(ready) = view.ready {
                check_ready(&record.deal, &self.network.rules, &ready)
                    .map_err(|fault| Failure::new(ExitCode::LeaseFailed, fault.to_string()))?;
                return Ok(ready);
            }
            if is_over(view.status) || unix_now() > record.deal.start_by {
                return Err(not_started(&view, record.deal.start_by));
            }
            let ahead = record.deal.starts_at.since(unix_now());
            if ahead > BOOKED_POLL {
                tokio::time::sleep(Duration::from_secs(BOOKED_POLL)).await;
                continue;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(READY_POLL.1);
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

fn unasked(view: &RequestView) -> Failure {
    Failure::new(
        ExitCode::Refused,
        format!(
            "the broker lets the request {} rest, which was not asked for; nothing was signed",
            view.request
        ),
    )
}

fn not_appointed(payer: Address, key: Address, known: UnixSeconds, needed: UnixSeconds) -> Failure {
    let now = match known.0 {
        0 => "has not authorised".to_string(),
        _ => format!("authorised only until {known}, or revoked,"),
    };
    Failure::new(
        ExitCode::Refused,
        format!(
            "payer {payer} {now} the session key {key} of this wallet, and the lease needs it until {needed}; run `ipsx wallet authorize --payer {payer}` and let the payer execute what it prints"
        ),
    )
}

fn not_started(view: &DealView, start_by: UnixSeconds) -> Failure {
    let cause = view.cause.map_or_else(
        || format!("it was not ready by {start_by}"),
        |cause| ipsx_agent_core::requester::in_words(cause).to_string(),
    );
    Failure::new(
        ExitCode::LeaseFailed,
        format!(
            "the lease {} did not start: {cause}; nothing was paid, try again",
            view.deal_id
        ),
    )
}
