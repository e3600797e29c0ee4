//! From wishes to several leases at once: all of them are bound, or none.

use ipsx_agent_core::requester::{Identity, Wishes, check_bundle};
use ipsx_market::avoid::Distinct;
use ipsx_market::bundle::{Bundle, Leg};
use ipsx_market::http::{DealSignature, PostRequest, ProposedDeal, SignBundle};
use ipsx_market::request::{Request, SignedRequest, TunnelKey};
use ipsx_metering::{Authorization, B256, RequestId, Signed, U256};
use ipsx_settlement::{Signer, Wallet};
use ipsx_tunnel_core::PrivateKey;
use rand::rngs::OsRng;

use super::requester::{Bound, Requester};
use super::waiting::Patience;
use crate::broker::{BrokerError, Requested};
use crate::clock::unix_now;
use crate::exit_code::{ExitCode, Failure};
use crate::store::{LeaseRecord, Slot};

impl Requester {
    /// Asks for so many deals, checks them, signs all of them and waits until they are bound. With patience, the request rests
    /// until there are as many offers.
    pub(super) async fn sign_bundle(
        &self,
        slot: Slot,
        wishes: &Wishes,
        count: u8,
        distinct: Distinct,
        patience: Option<Patience<'_>>,
    ) -> Result<Vec<Bound>, Failure> {
        let keys: Vec<_> = (0..count)
            .map(|_| PrivateKey::generate(&mut OsRng))
            .collect();
        let session_key = slot.key(&self.wallet, self.network.info.network);
        let waits = patience.as_ref().map_or(0, |patience| patience.seconds);
        let ahead = wishes.start.latest.since(unix_now());
        let longest = u64::from(wishes.seconds) + u64::from(waits) + ahead;
        let authorization = self.authorization(session_key.address(), longest).await?;
        let mut request = self.first_of(wishes, &session_key, &keys, patience.as_ref())?;
        request.bundle = bundle(&keys, distinct);
        let proposed = self.propose_bundle(&request, &session_key, patience);
        let proposed = proposed.await?;
        let records = proposed.iter().map(|one| self.record(one, slot.number()));
        let mut records: Vec<_> = records.collect();
        let bound = self
            .bind_bundle(request.id(), &mut records, &session_key, authorization)
            .await;
        if let Err(failure) = bound {
            for record in &mut records {
                self.abandon(record).await?;
            }
            return Err(failure);
        }
        let bound = records.into_iter().zip(keys);
        let bound = bound.map(|(record, tunnel_key)| Bound {
            record,
            tunnel_key,
            slot: slot.clone(),
        });
        Ok(bound.collect())
    }

    /// A request for the lease of the first key.
    fn first_of(
        &self,
        wishes: &Wishes,
        session_key: &Wallet,
        keys: &[PrivateKey],
        patience: Option<&Patience<'_>>,
    ) -> Result<Request, Failure> {
        let first = legs(keys).next();
        let first = first.ok_or_else(|| Failure::internal("no lease is asked for"))?;
        let identity = Identity {
            requester: self.wallet.address(),
            payer: self.payer,
            payer_signer: session_key.address(),
            channel_salt: first.channel_salt,
            tunnel_key: first.tunnel_key,
        };
        self.request(wishes, &identity, patience)
    }

    async fn propose_bundle(
        &self,
        request: &Request,
        session_key: &Wallet,
        patience: Option<Patience<'_>>,
    ) -> Result<Vec<ProposedDeal>, Failure> {
        let (domain, wallet) = (&self.network.info.domain, self.wallet.key());
        let signed = SignedRequest::sign(request.clone(), domain, wallet, session_key.key());
        let asked = PostRequest { request: signed };
        let proposed = match self.session.request_bundle(&asked).await? {
            Requested::Proposed(bundle) => bundle.deals,
            Requested::Rests(view) => self.wait(&view, patience).await?,
        };
        check_bundle(request, &self.network.rules, &proposed, unix_now())
            .map_err(|fault| Failure::new(ExitCode::Refused, fault.to_string()))?;
        Ok(proposed)
    }

    /// Hands in the signatures and takes the network's words.
    async fn bind_bundle(
        &self,
        request: RequestId,
        records: &mut [LeaseRecord],
        session_key: &Wallet,
        authorization: Option<Signed<Authorization>>,
    ) -> Result<(), Failure> {
        for record in records.iter() {
            self.store.put_lease(record)?;
        }
        let sign = |record: &LeaseRecord| {
            Ok(DealSignature {
                deal_id: record.deal.id(),
                signature: record.requester_signature,
                prepaid: self.prepay(&record.deal, session_key)?,
            })
        };
        let signatures = records.iter().map(sign).collect::<Result<_, Failure>>()?;
        let signatures = SignBundle {
            signatures,
            authorization,
        };
        let words = match self.session.sign_bundle(request, &signatures).await {
            // They may have arrived: only the network's word says whether the deals are bound.
            Err(BrokerError::Unreachable { .. }) => {
                let mut words = Vec::new();
                for record in records.iter() {
                    words.push(self.outcome(record).await?);
                }
                words
            }
            answer => answer?.deals,
        };
        if words.len() != records.len() {
            let fault = "the broker did not bind all of the leases";
            return Err(Failure::new(ExitCode::Refused, fault));
        }
        for (record, word) in records.iter_mut().zip(&words) {
            self.bound(record, word)?;
        }
        Ok(())
    }
}

/// What all of the leases but the first have for themselves.
fn bundle(keys: &[PrivateKey], distinct: Distinct) -> Bundle {
    Bundle {
        legs: legs(keys).skip(1).collect(),
        distinct,
        all_or_nothing: true,
    }
}

fn legs(keys: &[PrivateKey]) -> impl Iterator<Item = Leg> + '_ {
    keys.iter().enumerate().map(|(number, key)| Leg {
        tunnel_key: TunnelKey(B256::new(*key.public_key().as_bytes())),
        channel_salt: B256::from(U256::from(number)),
    })
}
