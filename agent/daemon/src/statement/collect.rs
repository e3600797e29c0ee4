//! Gathers the leases of a statement from the records in the data folder and from the chain.

use std::collections::HashMap;

use ipsx_market::messages::EndReport;
use ipsx_metering::{
    Amount, ChannelId, ChannelState, DealId, Domain, KnownSigner, NetworkId, TypedData,
};
use ipsx_settlement::{Centralizer, Signer, StoredChannel};

use super::calendar::Month;
use super::document::{Claim, Document, Entry, Evidence, OwnNotes, Side};
use crate::cli::{StatementArgs, parse_deal};
use crate::clock::unix_now;
use crate::config::Settings;
use crate::connect::Requester;
use crate::earnings::{self, store_failure};
use crate::exit_code::Failure;
use crate::network::contract_failure;
use crate::provider::{KeptLease, Records};
use crate::store::{LeaseRecord, Stage, Store};

/// Which leases a statement is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// This one.
    Lease(DealId),
    /// Those of a month.
    Month(Month),
}

impl Asked {
    /// The lease that is named, else the month that is, else this month.
    pub(super) fn from_args(args: &StatementArgs) -> Result<Self, Failure> {
        match &args.lease {
            Some(lease) => parse_deal(lease).map(Self::Lease).map_err(Failure::usage),
            None => Ok(Self::Month(
                args.month.unwrap_or_else(|| Month::of(unix_now())),
            )),
        }
    }

    fn has(self, entry: &Entry) -> bool {
        match self {
            Self::Lease(lease) => entry.account.deal_id == lease,
            Self::Month(month) => Month::of(entry.account.at) == month,
        }
    }

    fn document(
        self,
        side: Side,
        domain: Domain,
        network: NetworkId,
        mut entries: Vec<Entry>,
    ) -> Result<Document, Failure> {
        entries.retain(|entry| self.has(entry));
        let period = match self {
            Self::Lease(lease) if entries.is_empty() => return Err(unknown(lease)),
            Self::Lease(_) => None,
            Self::Month(month) => Some(month.to_string()),
        };
        Ok(Document::new(side, period, domain, network, entries))
    }
}

/// The record of a lease, up to date with its channel.
pub(super) fn requester_record(store: &Store, lease: DealId) -> Result<LeaseRecord, Failure> {
    let mut record = store.lease(lease)?.ok_or_else(|| unknown(lease))?;
    refresh(store, &mut record)?;
    Ok(record)
}

/// The statement of what was leased from this data folder. Without `requester`, the chain is not asked.
pub(super) async fn leased(
    store: &Store,
    requester: Option<&Requester>,
    asked: Asked,
) -> Result<Document, Failure> {
    let mut records = match asked {
        Asked::Lease(lease) => vec![requester_record(store, lease)?],
        Asked::Month(_) => store.leases()?,
    };
    let newest = records
        .first()
        .map(|record| (record.domain, record.network));
    let joined = requester.map(|requester| {
        let info = &requester.network.info;
        (info.domain, info.network)
    });
    let Some((domain, network)) = joined.or(newest) else {
        return Err(Failure::usage(
            "there is no record of any lease here; `ipsx connect` makes one",
        ));
    };
    let elsewhere = |record: &LeaseRecord| (record.domain, record.network) != (domain, network);
    if let (Asked::Lease(lease), [record]) = (asked, records.as_slice())
        && elsewhere(record)
    {
        return Err(Failure::usage(format!(
            "lease {lease} was on another network; name its broker with --broker {}",
            record.broker
        )));
    }
    records.retain(|record| !elsewhere(record));
    let mut claims = Claims::new(requester.map(|requester| &requester.network.contract));
    let mut entries = Vec::with_capacity(records.len());
    for mut record in records {
        refresh(store, &mut record)?;
        let claims = claims.of(record.deal.channel().id()).await?;
        entries.push(leased_entry(&record, claims));
    }
    asked.document(Side::Requester, domain, network, entries)
}

/// The statement of what was lent from this data folder.
pub(super) async fn provided(
    requester: &Requester,
    settings: &Settings,
    asked: Asked,
) -> Result<Document, Failure> {
    let nobody = || Failure::usage("no provider has run here: there is nothing to state");
    let network = &requester.network;
    let records = Records::read(&settings.data).await?.ok_or_else(nobody)?;
    let (mut receipts, mut answered) = (records.receipts().await?, records.answered().await?);
    let states = records.channels().await?;
    let vouchers = match earnings::vouchers(settings, network).await? {
        Some(store) => {
            let channels = store.channels().await.map_err(store_failure)?;
            store.close().await;
            channels
        }
        None => Vec::new(),
    };
    let stored: HashMap<_, _> = vouchers
        .into_iter()
        .map(|stored| (stored.channel.id(), stored))
        .collect();
    let mut claims = Claims::new(Some(&network.contract));
    let mut entries = Vec::new();
    for lease in records.leases().await? {
        if lease.record.deal.network != network.info.network {
            continue;
        }
        let channel = lease.record.deal.channel().id();
        let claims = claims.of(channel).await?;
        let mut entry = Kept {
            lease: &lease,
            state: states.get(&channel),
            stored: stored.get(&channel),
        }
        .evidence(requester, claims);
        entry.receipt = receipts.remove(&lease.record.deal.id());
        if let Some(answered) = answered.remove(&lease.record.deal.id()) {
            entry.answered = Some(answered);
        }
        if let Some(receipt) = &entry.receipt {
            let asked = receipt.message.cumulative;
            entry.paid_before = asked.saturating_sub(receipt.message.deal_amount);
        }
        entries.push(Entry::new(entry, provided_notes(&lease)));
    }
    let (domain, network) = (network.info.domain, network.info.network);
    asked.document(Side::Provider, domain, network, entries)
}

fn unknown(lease: DealId) -> Failure {
    Failure::usage(format!(
        "there is no record of lease {lease} here; `ipsx leases --all` lists them, --provider looks at those that were lent"
    ))
}

fn refresh(store: &Store, record: &mut LeaseRecord) -> Result<(), Failure> {
    if record.stage == Stage::Paying {
        let state = store.channel(record.deal.channel().id())?;
        record.catch_up(&state);
    }
    Ok(())
}

fn leased_entry(record: &LeaseRecord, claims: Option<Vec<Claim>>) -> Entry {
    let evidence = Evidence {
        operator: record.operator,
        fee_bps: record.fee_bps,
        deal: record.deal.clone(),
        provider_signature: record.provider_signature,
        requester_signature: record.requester_signature,
        outcome: record.outcome.clone(),
        reservation: record.reservation.clone(),
        paid_before: record.paid_before,
        voucher: record.voucher.clone(),
        answered: record.answered.clone(),
        receipt: record.receipt.clone(),
        claims,
    };
    let notes = OwnNotes {
        cause: record.ended.map(|ended| ended.cause),
        ended_at: record.ended.map(|ended| ended.at),
        usage: record.ended.map(|ended| ended.usage),
        vouchers: Some(record.vouchers),
        exit_seen: record.exit_seen,
        connections_checked: record.connections,
        country: record.placement.country,
    };
    Entry::new(evidence, notes)
}

/// What a provider has of one lease.
struct Kept<'a> {
    lease: &'a KeptLease,
    state: Option<&'a ChannelState>,
    stored: Option<&'a StoredChannel>,
}

impl Kept<'_> {
    /// All but the receipts of a lease that has ended. The wallet signs the deal again: its signatures are deterministic (RFC 6979).
    fn evidence(&self, requester: &Requester, claims: Option<Vec<Claim>>) -> Evidence {
        let (record, info) = (&self.lease.record, &requester.network.info);
        let running = self
            .state
            .filter(|state| state.deal.is_some_and(|d| d.deal_id == record.deal.id()));
        let latest = running.and_then(|state| state.voucher.clone());
        let report = self.lease.report.as_ref();
        let reported = report.and_then(|report| report.voucher.clone());
        // The meter takes either `v`, as the voucher store does; a reader recovers the signer.
        let signer = KnownSigner::new(record.deal.payer_signer);
        let claimable = |voucher| signer.canonical_signed(voucher, &info.domain).ok();
        let voucher = latest.or(reported).and_then(claimable);
        let total = voucher
            .as_ref()
            .map_or(Amount::ZERO, |v| v.message.cumulative);
        let base = running.and_then(|state| state.deal).map(|deal| deal.base);
        let used = report.map_or(Amount::ZERO, |report: &EndReport| report.amount);
        let hash = record.deal.signing_hash(&info.domain);
        Evidence {
            operator: info.operator,
            fee_bps: info.fee_bps,
            deal: record.deal.clone(),
            provider_signature: requester.wallet.sign_hash(hash),
            requester_signature: record.requester_signature,
            outcome: Some(record.outcome.clone()),
            reservation: self
                .stored
                .and_then(StoredChannel::latest_reservation)
                .cloned(),
            paid_before: base.unwrap_or_else(|| total.saturating_sub(used)),
            voucher,
            answered: running.and_then(|state| state.answered.clone()),
            receipt: None,
            claims,
        }
    }
}

fn provided_notes(lease: &KeptLease) -> OwnNotes {
    OwnNotes {
        cause: lease.report.as_ref().map(|report| report.cause),
        ended_at: lease.ended_at,
        usage: lease.report.as_ref().map(|report| report.usage),
        vouchers: None,
        exit_seen: None,
        connections_checked: None,
        country: None,
    }
}

/// The claims of each channel, read once.
struct Claims<'a> {
    contract: Option<&'a Centralizer>,
    known: HashMap<ChannelId, Vec<Claim>>,
}

impl<'a> Claims<'a> {
    fn new(contract: Option<&'a Centralizer>) -> Self {
        Self {
            contract,
            known: HashMap::new(),
        }
    }

    async fn of(&mut self, channel: ChannelId) -> Result<Option<Vec<Claim>>, Failure> {
        let Some(contract) = self.contract else {
            return Ok(None);
        };
        if let Some(claims) = self.known.get(&channel) {
            return Ok(Some(claims.clone()));
        }
        let paid = contract
            .claims_of(channel)
            .await
            .map_err(contract_failure)?;
        let claims: Vec<_> = paid
            .into_iter()
            .map(|claim| Claim {
                transaction: claim.transaction,
                block: claim.block,
                paid: claim.paid,
                fee: claim.fee,
                claimed: claim.claimed,
            })
            .collect();
        self.known.insert(channel, claims.clone());
        Ok(Some(claims))
    }
}
