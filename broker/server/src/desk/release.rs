//! The line before the disk. What changes the books is put in line while they are held, so that the order is theirs; what
//! it leads to is said once it is on disk, in the same order, while others change the books already.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::FutureExt;
use ipsx_market::deal::Binding;
use ipsx_market::market::Command;
use ipsx_market::messages::BrokerMessage;
use ipsx_market::record::{DealRecord, Transition};
use ipsx_market::resting::RequestRecord;
use ipsx_metering::{Address, Channel, Reservation, Signed, UnixSeconds, Voucher};
use ipsx_settlement::{StoreError as VouchersError, VoucherStore};
use tokio::sync::{MutexGuard, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use super::{Answer, Books, Desk, DeskError};
use crate::store::{AGAIN, Asked, Entries, Entry, Room};

type Vouchers = JoinHandle<Result<(), VouchersError>>;

/// What is said and done once what it rests on is on disk.
pub(super) enum Effect {
    Send(Address, Box<BrokerMessage>),
    Answer(oneshot::Sender<Answer>, Answer),
    Try(SocketAddr, u64),
    Report(Box<DealRecord>, Vec<Transition>),
    ReportRequest(Box<RequestRecord>),
}

/// What is written together, and what it leads to.
#[derive(Default)]
pub(super) struct Step {
    /// Rows of the store.
    pub(super) entries: Vec<Entry>,
    /// Promises, for the vouchers' store to know as well. Nobody waits for that: each is in its deal's record, and is
    /// kept again [when the broker starts](Queued::promises).
    pub(super) reservations: Vec<(Channel, Signed<Reservation>)>,
    /// Vouchers that the vouchers' store has to know before the rest is written: of these there is no other copy that counts.
    pub(super) forfeited: Vec<(Channel, Signed<Voucher>)>,
    /// Said in this order.
    pub(super) effects: Vec<Effect>,
}

impl Step {
    /// Whether it rests on nothing that has to be on disk: a proposal binds nobody, and a refusal promises nothing.
    fn may_be_said_at_once(&self) -> bool {
        let light = |effect: &Effect| match effect {
            Effect::Send(_, message) => matches!(**message, BrokerMessage::Propose { .. }),
            Effect::Answer(_, answer) => answer.is_err(),
            Effect::Try(..) => true,
            Effect::Report(..) | Effect::ReportRequest(_) => false,
        };
        let written = self.entries.len() + self.reservations.len() + self.forfeited.len();
        written == 0 && self.effects.iter().all(light)
    }
}

/// A step in line.
pub(super) struct Queued {
    written: Option<Asked<()>>,
    vouchers: Vec<Vouchers>,
    reservations: Vec<(Channel, Signed<Reservation>)>,
    effects: Vec<Effect>,
    done: oneshot::Sender<Result<(), DeskError>>,
}

impl Queued {
    /// What was promised in these deals, for the vouchers' store to know it if it does not.
    pub(super) fn promises(records: &[DealRecord]) -> Self {
        Self {
            written: None,
            vouchers: Vec::new(),
            reservations: promises(records),
            effects: Vec::new(),
            done: oneshot::channel().0,
        }
    }
}

/// What was promised in these deals.
pub(super) fn promises(records: &[DealRecord]) -> Vec<(Channel, Signed<Reservation>)> {
    let promise = |record: &DealRecord| {
        let reservation = record.reservation.clone()?;
        Some((record.deal.channel(), reservation))
    };
    records.iter().filter_map(promise).collect()
}

/// Steps on their way to whoever releases them. Each has somebody who waits for it, so their number is bounded by
/// connections.
pub(super) type Line = mpsc::UnboundedSender<Queued>;

impl Desk {
    /// Does what the market wants, in order, and lets go of the books as soon as the order is fixed. Returns once
    /// everything is on disk and said.
    pub(super) async fn execute(
        &self,
        mut books: MutexGuard<'_, Books>,
        commands: Vec<Command>,
        now: UnixSeconds,
    ) -> Result<(), DeskError> {
        let done = self.begin(&mut books, Step::default(), commands, now).await;
        drop(books);
        done.await
    }

    /// Does what the market wants, in order, and waits for nothing but a place in line. The next who asks for the books is told
    /// if it could not be written.
    pub(super) async fn order(
        &self,
        mut books: MutexGuard<'_, Books>,
        commands: Vec<Command>,
        now: UnixSeconds,
    ) -> Result<(), DeskError> {
        let done = self.begin(&mut books, Step::default(), commands, now).await;
        done.now_or_never().unwrap_or(Ok(()))
    }

    /// Writes entries that lead to nothing.
    pub(super) async fn keep(
        &self,
        mut books: MutexGuard<'_, Books>,
        entries: Vec<Entry>,
    ) -> Result<(), DeskError> {
        let step = Step {
            entries,
            ..Step::default()
        };
        let done = self.line_up(&mut books, step).await;
        drop(books);
        done.await
    }

    /// Puts a step and what the market wants in line, also for requests that fit an offer by now. What is returned waits for it; let go of the books before.
    pub(super) async fn begin(
        &self,
        books: &mut Books,
        mut step: Step,
        mut commands: Vec<Command>,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<(), DeskError>> + use<> {
        // Requests that rest are new to the offers that they fit only now.
        if !self.is_draining() {
            commands.extend(books.market.match_resting(now));
        }
        for command in commands {
            match command {
                Command::Send { provider, message } => {
                    step.effects.push(Effect::Send(provider, message));
                }
                Command::Store {
                    record,
                    transitions,
                } => {
                    step.entries.push(Entry::Deal {
                        record: record.clone(),
                        transitions: transitions.clone(),
                    });
                    step.effects.push(Effect::Report(record, transitions));
                }
                Command::StoreRequest { record } => {
                    step.entries.push(books.request_entry(record.clone()));
                    step.effects.push(Effect::ReportRequest(record));
                }
                Command::Forfeit { channel, voucher } => {
                    step.forfeited.push((*channel, *voucher));
                }
                Command::StoreProof { subject, proof } => {
                    step.entries.push(Entry::Proof(subject, Some(proof)));
                }
                Command::Try { to, token } => step.effects.push(Effect::Try(to, token)),
                Command::Answer { ticket, answer } => {
                    if let Some(waiting) = books.answers.remove(&ticket) {
                        step.effects.push(Effect::Answer(waiting, answer));
                    }
                }
                Command::Abort { provider, deal_id } => {
                    let outcome = self.operator.outcome(deal_id, Binding::Aborted);
                    let entry = Entry::Outcome(Box::new(outcome.clone()), now);
                    step.entries.push(entry);
                    let message = Box::new(BrokerMessage::DealAborted { deal_id, outcome });
                    step.effects.push(Effect::Send(provider, message));
                }
            }
        }
        let (done, waiting) = oneshot::channel();
        if step.may_be_said_at_once() {
            step.effects.into_iter().for_each(|effect| self.say(effect));
            // Whoever waits is given it below.
            let _ = done.send(Ok(()));
        } else {
            self.push(books, step, done).await;
        }
        wait(waiting)
    }

    /// Puts a step in line, even one without anything to write: it is done once all before it are.
    pub(super) async fn line_up(
        &self,
        books: &mut Books,
        step: Step,
    ) -> impl Future<Output = Result<(), DeskError>> + use<> {
        let (done, waiting) = oneshot::channel();
        self.push(books, step, done).await;
        wait(waiting)
    }

    async fn push(
        &self,
        books: &mut Books,
        step: Step,
        done: oneshot::Sender<Result<(), DeskError>>,
    ) {
        let mut entries = match books.fences(&step.entries) {
            Ok(fences) => fences,
            Err(moved) => {
                let _ = done.send(Err(moved));
                return;
            }
        };
        entries.extend(step.entries);
        let mut vouchers = Vec::new();
        for (channel, voucher) in step.forfeited {
            let (store, room) = (Arc::clone(&self.vouchers), self.store.room().clone());
            let kept = keep_forfeited(store, room, channel, voucher).await;
            vouchers.push(tokio::spawn(async move { kept }));
        }
        let written = match entries.is_empty() {
            true => None,
            false => Some(self.store.ask(Entries(entries)).await),
        };
        let queued = Queued {
            written,
            vouchers,
            reservations: step.reservations,
            effects: step.effects,
            done,
        };
        // Once the task has ended, whoever waits is told that the broker stops.
        let _ = books.line.send(queued);
    }

    /// Says what is on disk, in the order of the line, until the broker stops.
    pub(super) async fn release(self: Arc<Self>, mut line: mpsc::UnboundedReceiver<Queued>) {
        let mut keeping = JoinSet::new();
        while let Some(queued) = line.recv().await {
            let kept = self.kept(queued.written, queued.vouchers).await;
            if kept.is_ok() {
                for (channel, reservation) in queued.reservations {
                    keeping.spawn(Arc::clone(&self).promise(channel, reservation));
                }
                while keeping.try_join_next().is_some() {}
                queued
                    .effects
                    .into_iter()
                    .for_each(|effect| self.say(effect));
            }
            // Whoever waited may have gone.
            let _ = queued.done.send(kept);
        }
    }

    /// Waits until a step is on disk. After a step that is not, nothing more is said: memory is ahead of the disk.
    async fn kept(
        &self,
        written: Option<Asked<()>>,
        vouchers: Vec<Vouchers>,
    ) -> Result<(), DeskError> {
        if let Some(written) = written {
            self.durable(written.written().await.map_err(DeskError::Store))?;
        }
        for vouchers in vouchers {
            let kept = vouchers.await.map_err(|_| DeskError::Stopped);
            self.durable(kept.and_then(|kept| kept.map_err(DeskError::Vouchers)))?;
        }
        if self.has_stopped() {
            return Err(DeskError::Stopped);
        }
        Ok(())
    }

    /// Lets the vouchers' store know of a promise that is on disk in its deal's record.
    async fn promise(self: Arc<Self>, channel: Channel, reservation: Signed<Reservation>) {
        let (store, room) = (&self.vouchers, self.store.room());
        let kept = keep_reservation(store, room, &channel, &reservation).await;
        // Whoever asks next is told.
        let _ = self.durable(kept.map_err(DeskError::Vouchers));
    }

    fn say(&self, effect: Effect) {
        match effect {
            Effect::Send(provider, message) => self.registry.send(provider, *message),
            Effect::Answer(waiting, answer) => {
                // Whoever asked may have gone.
                let _ = waiting.send(answer);
            }
            Effect::Try(to, token) => {
                if let Some(reflector) = &self.reflector {
                    reflector.try_endpoint(to, token);
                }
            }
            Effect::Report(record, transitions) => self.report(&record, &transitions),
            Effect::ReportRequest(record) => self.report_request(&record),
        }
    }
}

/// Keeps a promise as soon as there is room for it.
async fn keep_reservation(
    store: &VoucherStore,
    room: &Room,
    channel: &Channel,
    reservation: &Signed<Reservation>,
) -> Result<(), VouchersError> {
    let mut wanted = None;
    loop {
        match store.reserve(channel, reservation).await {
            Err(VouchersError::Full(path)) => {
                wanted.get_or_insert_with(|| room.want(&path.display().to_string()));
                tokio::time::sleep(AGAIN).await;
            }
            done => return done,
        }
    }
}

/// Keeps what an absent requester has prepaid, in the same way. Its signature was checked when the deal was bound.
async fn keep_forfeited(
    store: Arc<VoucherStore>,
    room: Room,
    channel: Channel,
    voucher: Signed<Voucher>,
) -> Result<(), VouchersError> {
    let mut wanted = None;
    loop {
        let kept = match store.add_channel(&channel).await {
            Ok(()) => store.accept(&voucher).await.map(drop),
            failed => failed,
        };
        match kept {
            Err(VouchersError::Full(path)) => {
                wanted.get_or_insert_with(|| room.want(&path.display().to_string()));
                tokio::time::sleep(AGAIN).await;
            }
            done => return done,
        }
    }
}

async fn wait(waiting: oneshot::Receiver<Result<(), DeskError>>) -> Result<(), DeskError> {
    waiting.await.unwrap_or(Err(DeskError::Stopped))
}
