//! Everything durable, in one task: what it was told to keep is on disk before it says so.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ipsx_agent_core::provider::{LeaseRecord, MonthTraffic, ProviderEvent, StoreVoucher};
use ipsx_market::messages::EndReport;
use ipsx_metering::{ChannelId, DealId, NetworkId, Receipt, Signature, Signed};
use ipsx_settlement::VoucherStore;
use tokio::sync::{mpsc, oneshot};

use super::error::ProviderError;
use super::io::Happening;
use super::records::{LastReceipts, Records};
use crate::clock::unix_now;

/// What is written together at most: a voucher and a receipt of each of two thousand leases.
const LARGEST_BATCH: usize = 4_096;
/// What could not be written is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);

/// Something to keep.
pub(super) enum Job {
    /// A lease, before its peer is opened; answered by [`Happening::LeaseKept`].
    Lease(DealId, Box<LeaseRecord>),
    /// A channel's latest; answered by [`Happening::VoucherKept`].
    Voucher(Box<StoreVoucher>),
    /// How a lease ended.
    End(Box<End>),
    /// A receipt of a running lease.
    Receipt(DealId, Box<Signed<Receipt>>),
    /// The month's traffic.
    Month(MonthTraffic),
    /// Answer when everything before is done.
    Flush(oneshot::Sender<()>),
}

/// The end of a lease.
pub(super) struct End {
    pub(super) lease: DealId,
    pub(super) report: Box<EndReport>,
    /// The last receipt.
    pub(super) last: Option<Box<Signed<Receipt>>>,
    /// The receipt that the last voucher answers.
    pub(super) answered: Option<Box<Signed<Receipt>>>,
}

/// The task's state.
pub(super) struct Keeper {
    pub(super) records: Records,
    pub(super) vouchers: Arc<VoucherStore>,
    pub(super) network: NetworkId,
    pub(super) happened: mpsc::UnboundedSender<Happening>,
    /// Latest of each channel that could not be written yet.
    pub(super) behind: HashMap<DealId, StoreVoucher>,
    /// Ends that could not be written yet.
    pub(super) ends_behind: Vec<End>,
    /// The reservation of each channel that is on disk.
    pub(super) reserved: HashMap<ChannelId, Signature>,
}

/// Vouchers and receipts that were handed over while the disk was busy, to be written together.
#[derive(Default)]
struct Progress {
    vouchers: Vec<StoreVoucher>,
    /// The latest of each lease.
    receipts: HashMap<DealId, Box<Signed<Receipt>>>,
}

impl Keeper {
    /// Works until nobody can give it anything any more.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::new();
        loop {
            let taken = jobs.recv_many(&mut batch, LARGEST_BATCH);
            let taken = if self.behind.is_empty() && self.ends_behind.is_empty() {
                taken.await
            } else {
                match tokio::time::timeout(RETRY, taken).await {
                    Ok(taken) => taken,
                    Err(_) => {
                        self.catch_up().await;
                        continue;
                    }
                }
            };
            if taken == 0 {
                return;
            }
            let mut progress = Progress::default();
            for job in batch.drain(..) {
                match job {
                    Job::Voucher(store) => progress.vouchers.push(*store),
                    Job::Receipt(lease, receipt) => {
                        progress.receipts.insert(lease, receipt);
                    }
                    other => {
                        self.keep(std::mem::take(&mut progress)).await;
                        self.work(other).await;
                    }
                }
            }
            self.keep(progress).await;
        }
    }

    async fn work(&mut self, job: Job) {
        match job {
            Job::Lease(lease, record) => {
                let kept = self.records.put_lease(&record, unix_now()).await;
                let kept = kept.map_err(|error| error.to_string());
                self.say(Happening::LeaseKept(lease, kept));
            }
            Job::Voucher(store) => {
                let vouchers = vec![*store];
                self.keep(Progress {
                    vouchers,
                    ..Progress::default()
                })
                .await;
            }
            Job::End(end) => self.keep_end(*end).await,
            Job::Receipt(lease, receipt) => {
                let receipts = HashMap::from([(lease, receipt)]);
                self.keep(Progress {
                    receipts,
                    ..Progress::default()
                })
                .await;
            }
            Job::Month(traffic) => {
                let kept = self.records.put_month(self.network, traffic).await;
                self.warn(kept);
            }
            Job::Flush(done) => {
                self.catch_up().await;
                // Whoever asked may have gone.
                let _ = done.send(());
            }
        }
    }

    async fn catch_up(&mut self) {
        let vouchers = std::mem::take(&mut self.behind).into_values().collect();
        self.keep(Progress {
            vouchers,
            ..Progress::default()
        })
        .await;
        for end in std::mem::take(&mut self.ends_behind) {
            self.keep_end(end).await;
        }
    }

    async fn keep_end(&mut self, end: End) {
        let receipts = LastReceipts {
            last: end.last.as_deref(),
            answered: end.answered.as_deref(),
        };
        let kept = self
            .records
            .put_end(end.lease, &end.report, receipts, unix_now())
            .await;
        if let Err(error) = kept {
            self.ends_behind.push(end);
            self.warn(Err(error));
        }
    }

    async fn keep(&mut self, progress: Progress) {
        if progress.vouchers.is_empty() && progress.receipts.is_empty() {
            return;
        }
        let written = self.write(&progress).await;
        for store in progress.vouchers {
            let (lease, cumulative) = (store.lease, store.cumulative());
            let older = |kept: &StoreVoucher| kept.cumulative() <= cumulative;
            if self.behind.get(&lease).is_none_or(older) {
                match written {
                    Ok(()) => drop(self.behind.remove(&lease)),
                    Err(_) => drop(self.behind.insert(lease, store)),
                }
            }
            if written.is_ok() {
                self.say(Happening::VoucherKept(lease, cumulative));
            }
        }
        self.warn(written);
    }

    /// The vouchers come first: they are money, while the channels' states can lag behind them.
    async fn write(&mut self, progress: &Progress) -> Result<(), ProviderError> {
        for store in &progress.vouchers {
            let id = store.voucher.message.channel_id;
            let known = self.reserved.get(&id);
            let new = store.reservation.as_ref();
            if let Some(reservation) = new.filter(|new| known != Some(&new.signature)) {
                self.vouchers.add_channel(&store.channel).await?;
                self.vouchers.accept_reservation(reservation).await?;
                self.reserved.insert(id, reservation.signature);
            }
        }
        let vouchers: Vec<_> = progress
            .vouchers
            .iter()
            .map(|store| (store.voucher.clone(), store.checked))
            .collect();
        if !vouchers.is_empty() {
            self.vouchers.accept_checked(&vouchers).await?;
        }
        let channels: Vec<_> = progress
            .vouchers
            .iter()
            .map(|store| (store.voucher.message.channel_id, &store.state))
            .collect();
        let receipts: Vec<_> = progress
            .receipts
            .iter()
            .map(|(lease, receipt)| (*lease, receipt.as_ref()))
            .collect();
        self.records.put_progress(&channels, &receipts).await
    }

    fn warn(&self, result: Result<(), ProviderError>) {
        if let Err(error) = result {
            let text = format!("{error}. Service waits for it");
            self.say(Happening::Tell(ProviderEvent::Warning { text }));
        }
    }

    fn say(&self, happening: Happening) {
        // Nobody listens when the provider is ending.
        let _ = self.happened.send(happening);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ipsx_metering::{
        Address, Amount, B256, Channel, ChannelState, Domain, Reservation, SecretKey, Signed,
        UnixSeconds, Usage, Voucher,
    };

    fn key() -> SecretKey {
        SecretKey::from_bytes(&[3; 32]).unwrap()
    }

    fn domain() -> Domain {
        Domain {
            chain_id: 1,
            contract: Address::repeat_byte(1),
        }
    }

    /// What `cumulative` of the lease with this number is stored with.
    fn paid(number: u8, cumulative: u128) -> Box<StoreVoucher> {
        let channel = Channel {
            network: NetworkId::default(),
            payer: Address::repeat_byte(2),
            payer_signer: key().address(),
            provider: Address::repeat_byte(4),
            salt: B256::repeat_byte(number),
        };
        let voucher = Voucher {
            channel_id: channel.id(),
            cumulative: Amount(cumulative),
            receipt_hash: B256::ZERO,
        };
        let reservation = Reservation {
            channel_id: channel.id(),
            capacity: Amount(900),
            valid_until: UnixSeconds(9),
        };
        Box::new(StoreVoucher {
            lease: DealId(B256::repeat_byte(number)),
            channel,
            voucher: Signed::sign(voucher, &domain(), &key()),
            checked: None,
            reservation: Some(Signed::sign(reservation, &domain(), &key())),
            state: ChannelState {
                next_seq: u64::try_from(cumulative).unwrap(),
                ..ChannelState::default()
            },
        })
    }

    /// Two hundred leases for five seconds, all of which came while the disk was busy.
    #[tokio::test]
    async fn many_leases_are_written_together() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path(), Address::ZERO).await.unwrap();
        let path = folder.path().join("vouchers.db");
        let vouchers = Arc::new(VoucherStore::open(&path, domain()).await.unwrap());
        let (happened, mut happenings) = mpsc::unbounded_channel();
        let mut keeper = Keeper {
            records: records.clone(),
            vouchers: vouchers.clone(),
            network: NetworkId::default(),
            happened,
            behind: HashMap::new(),
            ends_behind: Vec::new(),
            reserved: HashMap::new(),
        };
        // Their channels and reservations are there.
        for number in 1..=200 {
            keeper.work(Job::Voucher(paid(number, 1))).await;
            happenings.recv().await.unwrap();
        }
        let (jobs, queue) = mpsc::channel(2_000);
        for second in 2..=5 {
            for number in 1..=200 {
                jobs.send(Job::Voucher(paid(number, second))).await.unwrap();
                let receipt = Receipt {
                    channel_id: paid(number, 1).channel.id(),
                    deal_id: DealId(B256::repeat_byte(number)),
                    seq: u64::try_from(second).unwrap(),
                    usage: Usage::default(),
                    deal_amount: Amount::ZERO,
                    cumulative: Amount::ZERO,
                    observed_at: UnixSeconds(1),
                    connections_root: B256::ZERO,
                };
                let receipt = Box::new(Signed::sign(receipt, &domain(), &key()));
                let lease = DealId(B256::repeat_byte(number));
                jobs.send(Job::Receipt(lease, receipt)).await.unwrap();
            }
        }
        let before = vouchers.commits();
        let (done, flushed) = oneshot::channel();
        jobs.send(Job::Flush(done)).await.unwrap();
        tokio::spawn(keeper.run(queue));
        flushed.await.unwrap();
        assert_eq!(vouchers.commits() - before, 1);
        for number in 1..=200 {
            let id = paid(number, 1).channel.id();
            let stored = vouchers.channel(id).await.unwrap().unwrap();
            assert_eq!(stored.voucher, Some(paid(number, 5).voucher));
        }
        let states = records.channels().await.unwrap();
        assert!(states.len() == 200 && states.values().all(|state| state.next_seq == 5));
        let receipts = records.receipts().await.unwrap();
        assert!(receipts.len() == 200 && receipts.values().all(|r| r.message.seq == 5));
    }

    /// A disk that fails for a while: nothing is said to be kept before it is, and then it is, by itself.
    #[tokio::test]
    async fn what_fails_is_kept_later() {
        let folder = tempfile::tempdir().unwrap();
        let domain = Domain {
            chain_id: 1,
            contract: Address::repeat_byte(1),
        };
        let key = SecretKey::from_bytes(&[3; 32]).unwrap();
        let channel = Channel {
            network: NetworkId::default(),
            payer: Address::repeat_byte(2),
            payer_signer: key.address(),
            provider: Address::repeat_byte(4),
            salt: B256::ZERO,
        };
        let voucher = |cumulative| {
            let message = Voucher {
                channel_id: channel.id(),
                cumulative: Amount(cumulative),
                receipt_hash: B256::ZERO,
            };
            Signed::sign(message, &domain, &key)
        };
        let message = Reservation {
            channel_id: channel.id(),
            capacity: Amount(9),
            valid_until: UnixSeconds(9),
        };
        let store = |cumulative| {
            Box::new(StoreVoucher {
                lease: DealId::default(),
                channel: channel.clone(),
                voucher: voucher(cumulative),
                checked: None,
                reservation: Some(Signed::sign(message.clone(), &domain, &key)),
                state: ChannelState::default(),
            })
        };
        let records = Records::open(folder.path(), Address::ZERO).await.unwrap();
        let vouchers = Arc::new(
            VoucherStore::open(&folder.path().join("vouchers.db"), domain)
                .await
                .unwrap(),
        );
        let (happened, mut happenings) = mpsc::unbounded_channel();
        let keeper = Keeper {
            records: records.clone(),
            vouchers: vouchers.clone(),
            network: NetworkId::default(),
            happened,
            behind: HashMap::new(),
            ends_behind: Vec::new(),
            reserved: HashMap::new(),
        };
        let (jobs, queue) = mpsc::channel(8);
        tokio::spawn(keeper.run(queue));
        records.run_sql("ALTER TABLE channels RENAME TO away").await;
        for cumulative in [5, 7] {
            jobs.send(Job::Voucher(store(cumulative))).await.unwrap();
            let said = happenings.recv().await.unwrap();
            assert!(
                matches!(said, Happening::Tell(ProviderEvent::Warning { .. })),
                "{said:?}"
            );
        }
        records.run_sql("ALTER TABLE away RENAME TO channels").await;
        let said = happenings.recv().await.unwrap();
        assert!(
            matches!(said, Happening::VoucherKept(_, Amount(7))),
            "{said:?}"
        );
        // An older one that comes late does not replace it.
        jobs.send(Job::Voucher(store(6))).await.unwrap();
        assert!(matches!(
            happenings.recv().await.unwrap(),
            Happening::VoucherKept(_, Amount(6))
        ));
        let stored = vouchers.channel(channel.id()).await.unwrap().unwrap();
        assert_eq!(stored.voucher, Some(voucher(7)));
        assert_eq!(stored.reservations.len(), 1);
    }
}
