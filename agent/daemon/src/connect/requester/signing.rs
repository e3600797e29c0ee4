//! From wishes to the network's word on a deal that both have signed.

use std::time::Duration;

use ipsx_agent_core::requester::{Identity, Wishes, check_bound, check_proposal};
use ipsx_market::deal::Deal;
use ipsx_market::http::{BoundDeal, PostRequest, ProposedDeal, SignDeal};
use ipsx_market::request::{Request, SignedRequest};
use ipsx_metering::{
    Address, Amount, Authorization, B256, DealProgress, Signed, TypedData, UnixSeconds, Usage,
    Voucher,
};
use ipsx_settlement::{Signer, Wallet};
use rand::RngCore;
use rand::rngs::OsRng;

use super::super::explain;
use super::super::waiting::no_deal;
use super::{Patience, Requester};
use crate::broker::{BrokerError, Requested};
use crate::clock::unix_now;
use crate::exit_code::{ExitCode, Failure};
use crate::network::contract_failure;
use crate::store::{LeaseRecord, Stage};

/// How long the broker may look for an offer, in seconds.
const REQUEST_SECS: u64 = 60;
/// A session key is authorised this much longer than its lease, in seconds: claims and the next leases need it.
const KEY_MARGIN_SECS: u64 = 7 * 24 * 3_600;
/// A session key that lasts this much longer than its lease is not authorised anew: one that lasts a day or less may be
/// a revoked one, with which no lease begins, and clocks differ.
const KEY_NEEDED_SECS: u64 = 25 * 3_600;
/// How often a broker that went away while it was handed a signature is asked what became of the deal.
const OUTCOME_TRIES: u32 = 10;

impl Requester {
    /// The session key's authorization, unless the chain knows one that lasts long enough. Another payer has given its
    /// own before.
    pub(in crate::connect) async fn authorization(
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

    pub(super) async fn propose(
        &self,
        wishes: &Wishes,
        identity: &Identity,
        session_key: &Wallet,
        patience: Option<Patience<'_>>,
    ) -> Result<ProposedDeal, Failure> {
        let request = self.request(wishes, identity, patience.as_ref())?;
        let signed = SignedRequest::sign(
            request.clone(),
            &self.network.info.domain,
            self.wallet.key(),
            session_key.key(),
        );
        let asked = PostRequest { request: signed };
        let answer = self.session.request(&asked, self.probe).await;
        let proposed = match answer {
            Ok(Requested::Proposed(proposed)) => *proposed,
            Ok(Requested::Rests(view)) => {
                let mut deals = self.wait(&view, patience).await?;
                deals.pop().ok_or_else(no_deal)?
            }
            Err(error) => return Err(explain::no_deal(error, self.session.broker(), wishes).await),
        };
        check_proposal(&request, &self.network.rules, &proposed, unix_now())
            .map_err(|fault| Failure::new(ExitCode::Refused, fault.to_string()))?;
        Ok(proposed)
    }

    /// What asks for wishes, and may rest for as long as somebody has patience.
    pub(in crate::connect) fn request(
        &self,
        wishes: &Wishes,
        identity: &Identity,
        patience: Option<&Patience<'_>>,
    ) -> Result<Request, Failure> {
        let (now, seconds) = (unix_now(), patience.map(|p| u64::from(p.seconds)));
        let expires_at = now.after(REQUEST_SECS.max(seconds.unwrap_or(0)));
        let (network, nonce) = (self.network.info.network, OsRng.next_u64());
        let request = wishes.request(network, identity, nonce, expires_at);
        let mut request = request.map_err(Failure::usage)?;
        if let Some(seconds) = seconds {
            request.rest_until = now.after(seconds);
        }
        Ok(request)
    }

    pub(in crate::connect) fn record(&self, proposed: &ProposedDeal, slot: u32) -> LeaseRecord {
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
            relay: None,
            ended: None,
        }
    }

    /// Signs the voucher for the first slice of a lease that starts later; it is on disk before it leaves.
    pub(in crate::connect) fn prepay(
        &self,
        deal: &Deal,
        session_key: &Wallet,
    ) -> Result<Option<Signed<Voucher>>, Failure> {
        if !deal.is_prepaid() {
            return Ok(None);
        }
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
        Ok(Some(voucher))
    }

    /// Hands in the signature and takes the network's word.
    pub(super) async fn bind(
        &self,
        record: &mut LeaseRecord,
        signature: &SignDeal,
    ) -> Result<(), Failure> {
        let bound = match self.session.sign(record.deal.id(), signature).await {
            // The signature may have arrived: only the network's word says whether the deal is bound.
            Err(BrokerError::Unreachable { .. }) => self.outcome(record).await?,
            answer => answer?,
        };
        self.bound(record, &bound)
    }

    /// Keeps the network's word.
    pub(in crate::connect) fn bound(
        &self,
        record: &mut LeaseRecord,
        bound: &BoundDeal,
    ) -> Result<(), Failure> {
        let reservation = check_bound(&record.deal, &self.network.rules, bound)
            .map_err(|fault| Failure::new(ExitCode::Refused, fault.to_string()))?;
        record.reservation = Some(reservation.clone());
        record.outcome = Some(bound.outcome.clone());
        record.stage = Stage::Bound;
        self.store.put_lease(record)
    }

    pub(in crate::connect) async fn outcome(
        &self,
        record: &LeaseRecord,
    ) -> Result<BoundDeal, Failure> {
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
