//! The one task that writes: whatever was asked while it was writing goes to the disk together, with one sync.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::HashMap;
use ipsx_metering::{Amount, Channel, ChannelId, KnownSigner, Reservation, Signed, Voucher};
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::Accepted;
use super::file::{StoreError, connect, sqlite_error};
use super::known::KnownChannels;
use super::rows;

/// Requests that may wait for the disk; who asks after that waits to ask.
pub(super) const QUEUE: usize = 16_384;
/// Requests that are written with one sync at most.
const LARGEST_BATCH: usize = 16_384;
/// After this many requests within `GATHER` the next batch waits for as long: for one sync in this time instead of one
/// for each of many small batches, however soon the disk answers. A voucher pays seconds ahead, so that nobody waits
/// for it; who waits for something [hurries](Write::hurries) it.
const BUSY: usize = 64;
const GATHER: Duration = Duration::from_millis(200);

/// Something to write.
#[derive(Debug)]
pub(super) enum Write {
    Channel(Channel),
    Reservation(Signed<Reservation>),
    /// On a channel that may not be known yet.
    Reserved(Box<(Channel, Signed<Reservation>)>),
    /// Checked already.
    Vouchers(Vec<Signed<Voucher>>),
    Claimed(ChannelId, Amount),
}

impl Write {
    /// Whether a lease waits for it to be on disk. What [`reserve`](super::VoucherStore::reserve) keeps is somewhere else as well.
    pub(super) fn hurries(&self) -> bool {
        !matches!(self, Self::Vouchers(_) | Self::Reserved(_))
    }
}

/// What was done with the vouchers of a request, in their order; empty for other requests.
pub(super) type Answer = Result<Vec<Accepted>, StoreError>;

#[derive(Debug)]
pub(super) struct Job {
    pub(super) write: Write,
    pub(super) done: oneshot::Sender<Answer>,
}

/// The task's state.
pub(super) struct Writer {
    /// `None` after a failure.
    pub(super) connection: Option<Connection>,
    pub(super) path: PathBuf,
    pub(super) known: Arc<KnownChannels>,
    pub(super) commits: Arc<AtomicU64>,
    /// Told of what hurries, and of the end.
    pub(super) hurry: Arc<Notify>,
    /// Held for as long as anything may still be written.
    pub(super) _lock: Option<Arc<File>>,
}

/// What a batch has done so far, to be remembered once it is on disk.
#[derive(Default)]
struct Draft<'a> {
    channels: HashMap<ChannelId, KnownSigner>,
    /// The highest voucher of each channel that gets a higher one.
    vouchers: HashMap<ChannelId, &'a Signed<Voucher>>,
}

impl Writer {
    /// Works until nobody can ask any more, on a thread of its own: it waits for the disk.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::new();
        let (mut counted_from, mut counted) = (Instant::now(), 0);
        while jobs.recv_many(&mut batch, LARGEST_BATCH).await > 0 {
            let requests = batch.len();
            let (writes, waiting): (Vec<_>, Vec<_>) =
                batch.drain(..).map(|job| (job.write, job.done)).unzip();
            match self.write(&writes) {
                Ok(answers) => {
                    for (done, answer) in waiting.into_iter().zip(answers) {
                        // Whoever asked may have gone; what was asked is done.
                        let _ = done.send(answer);
                    }
                }
                Err(error) => {
                    for done in waiting {
                        let _ = done.send(Err(error.clone()));
                    }
                }
            }
            counted += requests;
            if counted >= BUSY {
                let _ = timeout(GATHER, self.hurry.notified()).await;
            } else if counted_from.elapsed() < GATHER {
                continue;
            }
            (counted_from, counted) = (Instant::now(), 0);
        }
        // Everything that was answered is on disk; closing only tidies the log away.
        self.connection = None;
    }

    fn reconnect(&self) -> rusqlite::Result<Connection> {
        let connection = connect(&self.path)?;
        // The log gives back the room it takes, if there was none. If that fails too, so will the write to come.
        let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        Ok(connection)
    }

    /// Writes all of them or, with an error of the disk, none.
    fn write(&mut self, writes: &[Write]) -> Result<Vec<Answer>, StoreError> {
        let mut draft = Draft::default();
        let mut answers = Vec::with_capacity(writes.len());
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let connected = self.reconnect();
                connected.map_err(|error| sqlite_error(&self.path, &error))?
            }
        };
        // A commit that fails for want of room may leave its transaction open, and the next one would then only seem
        // to be written. So a connection is never used again after a failure.
        transact(
            &mut connection,
            &self.known,
            writes,
            &mut draft,
            &mut answers,
        )
        .map_err(|error| sqlite_error(&self.path, &error))?;
        self.connection = Some(connection);
        self.commits.fetch_add(1, Ordering::Relaxed);
        for (id, signer) in draft.channels {
            self.known.add(id, signer, Amount::ZERO);
        }
        let latest = draft.vouchers.into_iter();
        self.known
            .raise(latest.map(|(id, voucher)| (id, voucher.message.cumulative)));
        Ok(answers)
    }
}

fn transact<'a>(
    connection: &mut Connection,
    known: &KnownChannels,
    writes: &'a [Write],
    draft: &mut Draft<'a>,
    answers: &mut Vec<Answer>,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for write in writes {
        let mut answer = Ok(Vec::new());
        match write {
            Write::Channel(channel) => {
                if draft.lacks(known, channel) {
                    rows::insert_channel(&transaction, channel)?;
                }
            }
            Write::Reserved(both) => {
                let (channel, reservation) = both.as_ref();
                if draft.lacks(known, channel) {
                    rows::insert_channel(&transaction, channel)?;
                }
                rows::insert_reservation(&transaction, reservation)?;
            }
            Write::Reservation(reservation) => {
                let id = reservation.message.channel_id;
                if known.latest(id).is_some() || draft.channels.contains_key(&id) {
                    rows::insert_reservation(&transaction, reservation)?;
                } else {
                    answer = Err(StoreError::UnknownChannel(id));
                }
            }
            Write::Vouchers(vouchers) => {
                let keep = |voucher| draft.keep(known, voucher);
                answer = Ok(vouchers.iter().map(keep).collect());
            }
            Write::Claimed(id, claimed) => {
                rows::raise_claimed(&transaction, *id, *claimed)?;
            }
        }
        answers.push(answer);
    }
    let mut vouchers: Vec<_> = draft.vouchers.values().copied().collect();
    // In the table's order, so that each page is visited once.
    vouchers.sort_unstable_by_key(|voucher| voucher.message.channel_id);
    rows::upsert_vouchers(&transaction, &vouchers)?;
    transaction.commit()
}

impl<'a> Draft<'a> {
    /// Whether a channel has to be written; from now on it is part of the batch.
    fn lacks(&mut self, known: &KnownChannels, channel: &Channel) -> bool {
        let id = channel.id();
        if known.latest(id).is_some() || self.channels.contains_key(&id) {
            return false;
        }
        let signer = KnownSigner::new(channel.payer_signer);
        self.channels.insert(id, signer);
        true
    }

    fn keep(&mut self, known: &KnownChannels, voucher: &'a Signed<Voucher>) -> Accepted {
        let Voucher {
            channel_id,
            cumulative,
            ..
        } = voucher.message;
        let stored = match self.vouchers.get(&channel_id) {
            Some(newest) => newest.message.cumulative,
            None => known.latest(channel_id).unwrap_or_default(),
        };
        if cumulative <= stored {
            return Accepted::NotNewer { stored };
        }
        self.vouchers.insert(channel_id, voucher);
        Accepted::Newer
    }
}
