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
use super::records::Records;
use crate::clock::unix_now;

/// What could not be written is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);

/// Something to keep.
pub(super) enum Job {
    /// A lease, before its peer is opened; answered by [`Happening::LeaseKept`].
    Lease(DealId, Box<LeaseRecord>),
    /// A channel's latest; answered by [`Happening::VoucherKept`].
    Voucher(Box<StoreVoucher>),
    /// How a lease ended, with its last receipt.
    End(DealId, Box<EndReport>, Option<Box<Signed<Receipt>>>),
    /// A receipt of a running lease.
    Receipt(DealId, Box<Signed<Receipt>>),
    /// The month's traffic.
    Month(MonthTraffic),
    /// Answer when everything before is done.
    Flush(oneshot::Sender<()>),
}

/// The end of a lease that could not be written yet.
pub(super) type End = (DealId, Box<EndReport>, Option<Box<Signed<Receipt>>>);

/// The task's state.
pub(super) struct Keeper {
    pub(super) records: Records,
    pub(super) vouchers: Arc<VoucherStore>,
    pub(super) network: NetworkId,
    pub(super) happened: mpsc::UnboundedSender<Happening>,
    /// Latest of each channel that could not be written yet.
    pub(super) behind: HashMap<DealId, Box<StoreVoucher>>,
    /// Ends that could not be written yet.
    pub(super) ends_behind: Vec<End>,
    /// The reservation of each channel that is on disk.
    pub(super) reserved: HashMap<ChannelId, Signature>,
}

impl Keeper {
    /// Works until nobody can give it anything any more.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        loop {
            let job = if self.behind.is_empty() && self.ends_behind.is_empty() {
                jobs.recv().await
            } else {
                match tokio::time::timeout(RETRY, jobs.recv()).await {
                    Ok(job) => job,
                    Err(_) => {
                        self.catch_up().await;
                        continue;
                    }
                }
            };
            match job {
                Some(job) => self.work(job).await,
                None => return,
            }
        }
    }

    async fn work(&mut self, job: Job) {
        match job {
            Job::Lease(lease, record) => {
                let kept = self.records.put_lease(&record, unix_now()).await;
                let kept = kept.map_err(|error| error.to_string());
                self.say(Happening::LeaseKept(lease, kept));
            }
            Job::Voucher(store) => self.keep(store).await,
            Job::End(lease, report, receipt) => self.keep_end((lease, report, receipt)).await,
            Job::Receipt(lease, receipt) => {
                let kept = self.records.put_receipt(lease, &receipt).await;
                self.warn(kept);
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
        for store in std::mem::take(&mut self.behind).into_values() {
            self.keep(store).await;
        }
        for end in std::mem::take(&mut self.ends_behind) {
            self.keep_end(end).await;
        }
    }

    async fn keep_end(&mut self, end: End) {
        let (lease, report, receipt) = &end;
        let kept = self
            .records
            .put_end(*lease, report, receipt.as_deref(), unix_now())
            .await;
        if let Err(error) = kept {
            self.ends_behind.push(end);
            self.warn(Err(error));
        }
    }

    async fn keep(&mut self, store: Box<StoreVoucher>) {
        let (lease, cumulative) = (store.lease, store.cumulative());
        match self.write(&store).await {
            Ok(()) => {
                self.behind.remove(&lease);
                self.say(Happening::VoucherKept(lease, cumulative));
            }
            Err(error) => {
                let newest = self
                    .behind
                    .get(&lease)
                    .is_none_or(|old| old.cumulative() <= cumulative);
                if newest {
                    self.behind.insert(lease, store);
                }
                self.warn(Err(error));
            }
        }
    }

    /// The voucher comes first: it is money, while the channel's state can lag behind it.
    async fn write(&mut self, store: &StoreVoucher) -> Result<(), ProviderError> {
        let id = store.voucher.message.channel_id;
        let reservation = store.reservation.as_ref();
        if let Some(reservation) =
            reservation.filter(|r| self.reserved.get(&id) != Some(&r.signature))
        {
            self.vouchers.add_channel(&store.channel).await?;
            self.vouchers.accept_reservation(reservation).await?;
            self.reserved.insert(id, reservation.signature);
        }
        self.vouchers.accept(&store.voucher).await?;
        self.records.put_channel(id, &store.state).await
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
        UnixSeconds, Voucher,
    };

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
