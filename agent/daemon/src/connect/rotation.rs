//! One lease after the other, each with another address: the next one is up before the one before it ends.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipsx_agent_core::requester::{Progress, Wishes};
use ipsx_market::avoid::Distinct;
use ipsx_market::offer::SHORTEST_LEASE;
use ipsx_market::start::StartWindow;
use ipsx_metering::Amount;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::bring_up::begin_beside;
use super::exit_check::ExitPage;
use super::place::{Beside, NextTunnel, OldTunnel, Place};
use super::requester::Requester;
use super::running::{Finished, News, RunningLease};
use super::show::{Shown, judge};
use super::{budget, leave, unfinished};
use crate::exit_code::{ExitCode, Failure};
use crate::output::Output;
use crate::store::{LeaseRecord, Slot};

/// How long connections of the lease before may go on. What it may still cost meanwhile is set aside.
const GRACE: Duration = Duration::from_secs(10);
/// Seconds of it that are set aside besides: for the last word, and slices that are paid ahead.
const SET_ASIDE: u64 = 5;

/// How leases follow each other.
pub(super) struct Rotation {
    /// After how long the next one is asked for.
    pub(super) every: Duration,
    /// By what its address differs.
    pub(super) distinct: Distinct,
    /// The most that all of them together may cost.
    pub(super) budget: Amount,
    /// What is wanted of each, for as long as all of them together last.
    pub(super) wishes: Wishes,
    /// Source address of the tunnels.
    pub(super) bind: Option<IpAddr>,
    /// Page that tells the exit's address.
    pub(super) exit_page: Option<ExitPage>,
    /// Where the session keys are shared out.
    pub(super) data: PathBuf,
}

/// A lease, and what is known of it.
pub(super) struct Leased {
    lease: RunningLease,
    record: LeaseRecord,
    progress: Progress,
    /// By which way it came up, if that has not been shown yet.
    relayed: Option<News>,
}

impl Leased {
    pub(super) fn new(lease: RunningLease, record: LeaseRecord) -> Self {
        Self {
            lease,
            record,
            progress: Progress::default(),
            relayed: None,
        }
    }

    /// What so many seconds of it cost at most.
    fn price_of(&self, seconds: u64) -> Amount {
        let per_second = self.record.deal.terms().full_price_per_second();
        Amount(per_second.0.saturating_mul(seconds.into()))
    }
}

/// A lease that is ready to take over.
struct Next {
    leased: Leased,
    tunnel: NextTunnel,
}

/// Leases that follow each other, under way.
pub(super) struct Rotating<'a> {
    rotation: Arc<Rotation>,
    requester: Arc<Requester>,
    shown: &'a Shown<'a>,
    place: Place,
    current: Leased,
    ends_at: Instant,
    rotates_at: Instant,
    next: Option<JoinHandle<Result<Next, Failure>>>,
    retiring: JoinSet<Result<Finished, Failure>>,
    /// What leases that no longer run have cost, and those that end may cost.
    spent: Amount,
    stop: watch::Sender<bool>,
    /// Why it can't go on.
    broken: Option<Failure>,
}

impl Rotation {
    /// Goes on from the first lease, which serves since `began`.
    pub(super) fn begin<'a>(
        self,
        requester: Arc<Requester>,
        place: Place,
        first: Leased,
        began: Instant,
        shown: &'a Shown<'a>,
    ) -> Rotating<'a> {
        Rotating {
            ends_at: began + Duration::from_secs(self.wishes.seconds.into()),
            rotates_at: began + self.every,
            rotation: Arc::new(self),
            requester,
            shown,
            place,
            current: first,
            next: None,
            retiring: JoinSet::new(),
            spent: Amount::ZERO,
            stop: watch::channel(false).0,
            broken: None,
        }
    }

    /// Whether a lease that says this can be used.
    fn is_usable(&self, news: &News) -> bool {
        match self.exit_page {
            Some(_) => matches!(news, News::ExitProven(_)),
            None => *news == News::Serving,
        }
    }
}

impl Rotating<'_> {
    /// Runs until the last lease is over. The first wish to end ends it in order, the second at once.
    pub(super) async fn run(
        mut self,
        wishes_to_end: &mut mpsc::Receiver<u32>,
        output: &Output,
    ) -> Result<(), Failure> {
        loop {
            let stopping = *self.stop.borrow();
            let rotates = !stopping && self.next.is_none() && self.is_worth_it();
            tokio::select! {
                news = self.current.lease.news.recv() => match news {
                    Some(news) => self.hear(&news),
                    None => break,
                },
                () = tokio::time::sleep_until(self.rotates_at.into()), if rotates => self.prepare(),
                Some(prepared) = settled(&mut self.next) => self.take_over(prepared).await,
                Some(ended) = self.retiring.join_next() => self.show_ended(ended),
                Some(wish) = wishes_to_end.recv() => match wish {
                    1 => self.stop(),
                    _ => {
                        self.place.close().await?;
                        return Err(unfinished());
                    }
                },
            }
        }
        self.end(output).await
    }

    /// Ends every lease in order.
    fn stop(&mut self) {
        // Nobody may be listening.
        let _ = self.stop.send(true);
        self.current.lease.stop();
    }

    /// Says what happens in the lease that is in use.
    fn hear(&mut self, news: &News) {
        if let News::Second(progress) = news {
            self.current.progress = *progress;
        }
        self.shown.news(news);
        // The first lease is used as soon as it can be, the others are when they take over.
        if self.rotation.is_usable(news) {
            self.shown.ready(&self.place);
        }
    }

    /// Whether another lease would last at all.
    fn is_worth_it(&self) -> bool {
        let left = self.ends_at.saturating_duration_since(self.rotates_at);
        left.as_secs() >= SHORTEST_LEASE.into()
    }

    /// Begins to look for the next lease.
    fn prepare(&mut self) {
        let Some(beside) = self.place.beside() else {
            return;
        };
        let left = self.ends_at.saturating_duration_since(Instant::now());
        let mut wishes = self.rotation.wishes.clone();
        wishes.seconds = (left.as_secs() as u32).max(SHORTEST_LEASE);
        wishes.start = StartWindow::NOW;
        let deal = &self.current.record.deal;
        let (placement, avoid) = (&self.current.record.placement, &mut wishes.filter.avoid);
        self.rotation
            .distinct
            .avoid_like(avoid, placement, deal.provider);
        let budget = self.rotation.budget.saturating_sub(self.spent);
        wishes.budget = budget.saturating_sub(self.set_aside());
        let (rotation, requester) = (self.rotation.clone(), self.requester.clone());
        let preparing = prepare(rotation, requester, wishes, beside, self.stop.subscribe());
        self.next = Some(tokio::spawn(preparing));
    }

    /// The most that the lease in use costs if the next one takes over now.
    fn set_aside(&self) -> Amount {
        let grace = self.current.price_of(GRACE.as_secs() + SET_ASIDE);
        let most = self.current.progress.promised.saturating_add(grace);
        most.min(self.current.record.deal.budget)
    }

    /// Uses the next lease from now on, or keeps the one in use if there is none.
    async fn take_over(&mut self, prepared: Result<Next, Failure>) {
        self.next = None;
        self.rotates_at = Instant::now() + self.rotation.every;
        let next = match prepared {
            Ok(next) => next,
            Err(failure) => {
                if !*self.stop.borrow() {
                    self.shown.kept(&failure);
                }
                return;
            }
        };
        let set_aside = self.set_aside();
        let switched = self.place.switch(next.tunnel).await;
        let old = std::mem::replace(&mut self.current, next.leased);
        let old_tunnel = switched.unwrap_or_else(|failure| {
            self.broken = Some(failure);
            OldTunnel::Lost
        });
        self.shown.agreed(&self.current.record);
        self.shown.rotated(&self.current.record);
        if let Some(relayed) = self.current.relayed.take() {
            self.shown.news(&relayed);
        }
        self.spent = self.spent.saturating_add(set_aside);
        let most = set_aside.saturating_sub(old.price_of(SET_ASIDE));
        let stopped = self.stop.subscribe();
        self.retiring.spawn(retire(old, old_tunnel, most, stopped));
        if self.broken.is_some() {
            self.stop();
        }
    }

    /// Says how a lease ended that was no longer in use.
    fn show_ended(&mut self, ended: Result<Result<Finished, Failure>, tokio::task::JoinError>) {
        let ended = ended.unwrap_or_else(|error| Err(Failure::internal(error)));
        let ended = ended.and_then(|finished| self.shown.finished(&finished));
        if let Err(failure) = ended {
            self.shown.remark(&failure.message);
        }
    }

    /// The lease in use is over: so are the others.
    async fn end(mut self, output: &Output) -> Result<(), Failure> {
        self.stop();
        if let Some(next) = self.next.take()
            && let Ok(Ok(next)) = next.await
        {
            next.leased.lease.stop();
            let ended = next.leased.lease.finished().await;
            next.tunnel.shutdown().await;
            self.show_ended(Ok(ended));
        }
        while let Some(ended) = self.retiring.join_next().await {
            self.show_ended(ended);
        }
        let outcome = match self.current.lease.finished().await {
            Ok(finished) => self.shown.finished(&finished),
            Err(failure) => Err(failure),
        };
        let outcome = self.broken.map_or(outcome, Err);
        leave(self.place, outcome, output).await
    }
}

/// What came of a lease that is being looked for; nothing while none is.
async fn settled(
    next: &mut Option<JoinHandle<Result<Next, Failure>>>,
) -> Option<Result<Next, Failure>> {
    let prepared = next.as_mut()?.await;
    Some(prepared.unwrap_or_else(|error| Err(Failure::internal(error))))
}

/// Agrees on a lease with another address and brings it up, until it can be used.
async fn prepare(
    rotation: Arc<Rotation>,
    requester: Arc<Requester>,
    mut wishes: Wishes,
    beside: Beside,
    mut stopped: watch::Receiver<bool>,
) -> Result<Next, Failure> {
    if wishes.budget == Amount::ZERO {
        return Err(Failure::new(
            ExitCode::Balance,
            "the budget does not suffice for another one",
        ));
    }
    let slot = Slot::take(&rotation.data)?;
    wishes.budget = budget::needed(requester.session.broker(), &wishes, false).await;
    let agreed = requester.agree(slot, &wishes, None).await?;
    let mut record = agreed.record.clone();
    if *stopped.borrow() {
        requester.abandon(&mut record).await?;
        return Err(not_needed());
    }
    let exit_page = rotation.exit_page.clone();
    let begun = begin_beside(requester, agreed, &beside, rotation.bind, exit_page);
    let (mut lease, tunnel) = begun.await?;
    let mut relayed = None;
    loop {
        tokio::select! {
            news = lease.news.recv() => match news {
                Some(news) if rotation.is_usable(&news) => {
                    let leased = Leased { relayed, ..Leased::new(lease, record) };
                    return Ok(Next { leased, tunnel });
                }
                Some(news @ News::Relayed(_)) => relayed = Some(news),
                Some(_) => {}
                None => break,
            },
            Ok(()) = stopped.changed() => lease.stop(),
        }
    }
    let finished = lease.finished().await;
    tunnel.shutdown().await;
    finished
        .and_then(|finished| judge(&finished))
        .and(Err(not_needed()))
}

/// Ends a lease from which another one took over, after a while in which its connections may end by themselves.
async fn retire(
    old: Leased,
    tunnel: OldTunnel,
    most: Amount,
    mut stopped: watch::Receiver<bool>,
) -> Result<Finished, Failure> {
    let mut lease = old.lease;
    let grace = tokio::time::sleep(if tunnel.is_used() {
        GRACE
    } else {
        Duration::ZERO
    });
    tokio::pin!(grace);
    loop {
        tokio::select! {
            () = &mut grace => break,
            news = lease.news.recv() => match news {
                Some(News::Second(progress)) if progress.promised >= most => break,
                Some(_) => {}
                None => break,
            },
            _ = stopped.wait_for(|stopped| *stopped) => break,
        }
    }
    lease.stop();
    let finished = lease.finished().await;
    tunnel.shutdown().await;
    finished
}

fn not_needed() -> Failure {
    Failure::new(ExitCode::Interrupted, "another lease is no longer needed")
}
