//! Group commit: everything that is asked for while the disk is busy is written in one transaction, in the order in which
//! it was asked for.
//!
//! A full disk is a slow one: a transaction that finds no room is tried again until it does, and nobody is answered before.
//!
//! What fails must not take others with it: when anything of a transaction does, all of it is taken back, and each is
//! written again by itself. So a [`Write`] may run more than once, and only the last run counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ipsx_metering::Address;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::database::Database;
use super::room::Room;
use super::transaction::Tx;
use super::{Store, StoreError};

/// What waits at most; whoever asks for more waits itself.
const QUEUE: usize = 4_096;
/// Written together at most: a failure costs each a transaction of its own.
const TOGETHER: usize = 512;
/// How long what nobody waits for stays in its transaction, for what comes after it to be committed with it.
const COMPANY: Duration = Duration::from_millis(5);
/// How long a full disk is left alone before the next attempt.
pub(crate) const AGAIN: Duration = Duration::from_millis(250);

/// Something to be written, all or nothing.
#[async_trait]
pub(crate) trait Write: Send + Sync + 'static {
    /// What it finds out while it writes.
    type Done: Send + 'static;

    /// The requesters and payers whose rows it reads to decide, or numbers. Brokers that share a database write for each
    /// of them one after the other.
    fn wallets(&self) -> Vec<Address> {
        Vec::new()
    }

    /// Writes it. May be called again after the transaction was taken back.
    async fn write(&self, tx: &mut Tx) -> Result<Self::Done, StoreError>;
}

/// A write that was asked for, and is done when its turn comes; whoever drops this does not take it back.
pub(crate) struct Asked<T> {
    answer: oneshot::Receiver<Result<T, StoreError>>,
    place: String,
}

impl<T> Asked<T> {
    /// Waits until it is on disk.
    pub(crate) async fn written(self) -> Result<T, StoreError> {
        let answered = self.answer.await;
        answered.unwrap_or(Err(StoreError::Closed(self.place)))
    }
}

#[async_trait]
trait Job: Send {
    fn wallets(&self) -> Vec<Address>;
    /// Whether somebody waits until it is on disk.
    fn is_waited_for(&self) -> bool;
    /// Does it in a transaction, and says whether that may be committed; fails where it is to be done again.
    async fn run(&mut self, tx: &mut Tx) -> Result<bool, StoreError>;
    /// Tells whoever asked: what the run gave, or why the transaction was not committed.
    fn tell(self: Box<Self>, failure: Option<StoreError>);
}

struct Waiting<W: Write> {
    write: W,
    until: Until,
    done: Option<Result<W::Done, StoreError>>,
    answer: Option<oneshot::Sender<Result<W::Done, StoreError>>>,
}

/// What whoever asked waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Until {
    Written,
    OnDisk,
}

impl<W: Write> Waiting<W> {
    fn answer(&mut self, done: Result<W::Done, StoreError>) {
        if let Some(answer) = self.answer.take() {
            // Whoever asked may have gone.
            let _ = answer.send(done);
        }
    }
}

#[async_trait]
impl<W: Write> Job for Waiting<W> {
    fn wallets(&self) -> Vec<Address> {
        self.write.wallets()
    }

    fn is_waited_for(&self) -> bool {
        self.until == Until::OnDisk
    }

    async fn run(&mut self, tx: &mut Tx) -> Result<bool, StoreError> {
        match self.write.write(tx).await {
            Err(full @ StoreError::Full { .. }) => Err(full),
            Ok(done) if self.until == Until::Written => {
                self.answer(Ok(done));
                Ok(true)
            }
            done => Ok(self.done.insert(done).is_ok()),
        }
    }

    fn tell(mut self: Box<Self>, failure: Option<StoreError>) {
        let done = match (failure, self.done.take()) {
            (Some(failure), Some(Ok(_)) | None) => Err(failure),
            (_, Some(done)) => done,
            (None, None) => return,
        };
        self.answer(done);
    }
}

/// The one task that writes, as others see it.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    jobs: mpsc::Sender<Box<dyn Job>>,
    stop: watch::Sender<bool>,
    commits: Arc<AtomicU64>,
}

impl Writer {
    pub(super) fn start(database: Database, place: String, room: Room) -> (Self, JoinHandle<()>) {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (stop, stopping) = watch::channel(false);
        let commits = Arc::new(AtomicU64::new(0));
        let scribe = Scribe {
            queue,
            database,
            place,
            commits: Arc::clone(&commits),
            room,
            stopping,
        };
        let task = if scribe.database.blocks() {
            let runtime = Handle::current();
            tokio::task::spawn_blocking(move || runtime.block_on(scribe.run()))
        } else {
            tokio::spawn(scribe.run())
        };
        let writer = Self {
            jobs,
            stop,
            commits,
        };
        (writer, task)
    }

    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Lets the task end once it has written what was asked for.
    pub(super) fn stop(&self) {
        // Nobody listens once it has ended.
        let _ = self.stop.send(true);
    }
}

impl Store {
    /// Asks for something to be written, after everything that was asked for before.
    pub(crate) async fn ask<W: Write>(&self, write: W) -> Asked<W::Done> {
        self.queue(write, Until::OnDisk).await
    }

    async fn queue<W: Write>(&self, write: W, until: Until) -> Asked<W::Done> {
        let (answer, answered) = oneshot::channel();
        let job = Waiting {
            write,
            until,
            done: None,
            answer: Some(answer),
        };
        // A writer that has stopped drops the job, which whoever waits for it notices.
        let _ = self.writer.jobs.send(Box::new(job)).await;
        Asked {
            answer: answered,
            place: self.place.clone(),
        }
    }

    /// Writes something; on disk when this returns.
    pub(crate) async fn write<W: Write>(&self, write: W) -> Result<W::Done, StoreError> {
        self.ask(write).await.written().await
    }

    /// Writes something, and returns as soon as it is known what comes of it: it is on disk before anything that is
    /// asked for later.
    pub(crate) async fn write_unsynced<W: Write>(&self, write: W) -> Result<W::Done, StoreError> {
        self.queue(write, Until::Written).await.written().await
    }
}

/// What the task itself has.
struct Scribe {
    queue: mpsc::Receiver<Box<dyn Job>>,
    database: Database,
    place: String,
    commits: Arc<AtomicU64>,
    room: Room,
    stopping: watch::Receiver<bool>,
}

impl Scribe {
    async fn run(mut self) {
        let mut jobs = Vec::new();
        loop {
            tokio::select! {
                // What waits is written before anything ends.
                biased;
                _ = self.queue.recv_many(&mut jobs, TOGETHER) => {}
                _ = self.stopping.wait_for(|stop| *stop) => self.queue.close(),
            }
            if !jobs.is_empty() {
                self.together(std::mem::take(&mut jobs)).await;
            } else if self.queue.is_closed() {
                return;
            }
        }
    }

    async fn together(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        match self.commit(&mut jobs, true).await {
            Ok(false) if jobs.len() > 1 => {
                for job in jobs {
                    self.alone(job).await;
                }
            }
            Ok(_) => jobs.into_iter().for_each(|job| job.tell(None)),
            Err(failure) => {
                for job in jobs {
                    job.tell(Some(failure.clone()));
                }
            }
        }
    }

    async fn alone(&mut self, job: Box<dyn Job>) {
        let mut jobs = vec![job];
        let failure = self.commit(&mut jobs, false).await.err();
        for job in jobs {
            job.tell(failure.clone());
        }
    }

    /// Does everything in one transaction, as soon as there is room for it; with `and_more`, what comes until somebody
    /// waits for it, too. `false` if something failed and nothing was written.
    async fn commit(
        &mut self,
        jobs: &mut Vec<Box<dyn Job>>,
        and_more: bool,
    ) -> Result<bool, StoreError> {
        let mut wanted = None;
        loop {
            match self.try_commit(jobs, and_more).await {
                Err(full @ StoreError::Full { .. }) => {
                    wanted.get_or_insert_with(|| self.room.want(&self.place));
                    let stopping = self.stopping.wait_for(|stop| *stop);
                    if timeout(AGAIN, stopping).await.is_ok() {
                        return Err(full);
                    }
                    self.database.start_afresh();
                }
                done => return done,
            }
        }
    }

    async fn try_commit(
        &mut self,
        jobs: &mut Vec<Box<dyn Job>>,
        and_more: bool,
    ) -> Result<bool, StoreError> {
        let mut tx = self.database.begin(&self.place).await?;
        let mut done = 0;
        loop {
            let new = &mut jobs[done..];
            let wallets = new.iter().flat_map(|job| job.wallets()).collect();
            tx.take_turns(wallets).await?;
            for job in new {
                if !job.run(&mut tx).await? {
                    tx.rollback().await?;
                    return Ok(false);
                }
            }
            done = jobs.len();
            if !(and_more && self.finds_company(jobs).await) {
                break;
            }
        }
        tx.commit().await?;
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Whether something came that is committed with these, for none of which anybody waits.
    async fn finds_company(&mut self, jobs: &mut Vec<Box<dyn Job>>) -> bool {
        let room = TOGETHER.saturating_sub(jobs.len());
        if room == 0 || jobs.iter().any(|job| job.is_waited_for()) {
            return false;
        }
        let more = timeout(COMPANY, self.queue.recv_many(jobs, room)).await;
        more.is_ok_and(|came| came > 0)
    }
}
