//! Several leases at once behind one proxy, which goes through them in turn.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::join_all;
use ipsx_agent_core::requester::{Progress, Wishes};
use ipsx_market::avoid::Distinct;
use ipsx_metering::Usage;
use ipsx_tunnel_os::{ClientTunnel, Proxy, ProxyConfig};
use tokio::sync::mpsc;

use super::bring_up::begin_beside;
use super::exit_check::ExitPage;
use super::place::{Beside, NextTunnel, Place};
use super::requester::{Agreed, Bound, Requester};
use super::running::{News, RunningLease};
use super::show::Shown;
use super::usage::port_in_use;
use super::waiting::Patience;
use super::{budget, interrupts, leave, not_wanted, unfinished};
use crate::exit_code::Failure;
use crate::output::Output;
use crate::store::Slot;

/// How many, and where they are used.
pub(super) struct Several {
    pub(super) count: u8,
    /// By what any two addresses differ.
    pub(super) distinct: Distinct,
    /// How long to wait for as many offers, in seconds.
    pub(super) wait: Option<u32>,
    /// Where the proxy listens.
    pub(super) listen: SocketAddr,
    /// Source address of the tunnels.
    pub(super) bind: Option<IpAddr>,
    /// Page that tells the exits' addresses.
    pub(super) exit_page: Option<ExitPage>,
}

/// A lease under way, and its tunnel.
struct Leased {
    lease: RunningLease,
    address: IpAddr,
    tunnel: ClientTunnel,
    progress: Progress,
    is_usable: bool,
    is_over: bool,
}

/// All of them.
struct Running<'a> {
    leases: Vec<Leased>,
    place: Place,
    checks: bool,
    /// Whether all could be used once.
    began: bool,
    shown: &'a Shown<'a>,
}

impl Several {
    /// Leases all of them, and runs until the last one is over. The first wish to end ends them in order, the second at
    /// once.
    pub(super) async fn run(
        self,
        requester: Arc<Requester>,
        slot: Slot,
        mut wishes: Wishes,
        output: &Output,
    ) -> Result<(), Failure> {
        self.distinct.prepare(&mut wishes.filter.avoid);
        wishes.budget =
            budget::needed(requester.session.broker(), &wishes, self.wait.is_some()).await;
        let shown = Shown::new(output);
        let mut early = None;
        let patience = Patience::of(self.wait, self.count, &mut early, &shown);
        let bound = requester.sign_bundle(slot, &wishes, self.count, self.distinct, patience);
        let bound = bound.await?;
        let mut records: Vec<_> = bound.iter().map(|bound| bound.record.clone()).collect();
        records.iter().for_each(|record| shown.agreed(record));
        shown.together(&records);
        let mut wishes_to_end = early.unwrap_or_else(interrupts);
        let opened = tokio::select! {
            opened = open(&requester, bound) => opened,
            _ = wishes_to_end.recv() => Err(not_wanted(&records)),
        };
        let agreed = match opened {
            Ok(agreed) => agreed,
            Err(failure) => {
                for record in &mut records {
                    requester.abandon(record).await?;
                }
                return Err(failure);
            }
        };
        let leases = self.begin(&requester, agreed).await?;
        let place = match self.place(&leases).await {
            Ok(place) => place,
            Err(failure) => {
                end(leases).await;
                return Err(failure);
            }
        };
        let running = Running {
            leases,
            place,
            checks: self.exit_page.is_some(),
            began: false,
            shown: &shown,
        };
        running.run(&mut wishes_to_end, output).await
    }

    /// Brings all tunnels up, or none.
    async fn begin(
        &self,
        requester: &Arc<Requester>,
        agreed: Vec<Agreed>,
    ) -> Result<Vec<Leased>, Failure> {
        let begin = async |agreed: Agreed| {
            let (address, page) = (agreed.record.deal.exit_address, self.exit_page.clone());
            let begun = begin_beside(requester.clone(), agreed, &Beside::Proxy, self.bind, page);
            let (lease, tunnel) = begun.await?;
            Ok((lease, address, tunnel))
        };
        let (mut leases, mut failed) = (Vec::new(), None);
        for begun in join_all(agreed.into_iter().map(begin)).await {
            match begun {
                Ok((lease, address, NextTunnel::Proxy(tunnel))) => leases.push(Leased {
                    lease,
                    address,
                    tunnel,
                    progress: Progress::default(),
                    is_usable: false,
                    is_over: false,
                }),
                #[cfg(target_os = "linux")]
                Ok((.., NextTunnel::Host(_))) => {
                    failed = Some(Failure::internal("a tunnel of another kind"));
                }
                Err(failure) => failed = Some(failure),
            }
        }
        match failed {
            None => Ok(leases),
            Some(failure) => {
                end(leases).await;
                Err(failure)
            }
        }
    }

    async fn place(&self, leases: &[Leased]) -> Result<Place, Failure> {
        let first = leases.first();
        let first = first.ok_or_else(|| Failure::internal("there is no lease"))?;
        let tunnel = first.tunnel.clone();
        let proxy = Proxy::start(ProxyConfig::new(self.listen), tunnel.clone());
        let proxy = proxy.await.map_err(port_in_use)?;
        Ok(Place::Proxy { proxy, tunnel })
    }
}

impl Running<'_> {
    async fn run(
        mut self,
        wishes_to_end: &mut mpsc::Receiver<u32>,
        output: &Output,
    ) -> Result<(), Failure> {
        loop {
            tokio::select! {
                heard = hear(&mut self.leases) => match heard {
                    Some((number, Some(news))) => self.note(number, &news),
                    Some((number, None)) => self.lose(number),
                    None => break,
                },
                Some(wish) = wishes_to_end.recv() => match wish {
                    1 => self.leases.iter().for_each(|leased| leased.lease.stop()),
                    _ => {
                        self.place.close().await?;
                        return Err(unfinished());
                    }
                },
            }
        }
        let mut outcome = Ok(());
        for leased in self.leases {
            let finished = leased.lease.finished().await;
            let ended = finished.and_then(|finished| self.shown.finished(&finished));
            leased.tunnel.shutdown().await;
            outcome = outcome.and(ended);
        }
        leave(self.place, outcome, output).await
    }

    /// Says what happens in one of them; once all can be used, all are.
    fn note(&mut self, number: usize, news: &News) {
        if let News::Second(progress) = news {
            self.leases[number].progress = *progress;
            let first = self.leases.iter().position(|leased| !leased.is_over);
            if first == Some(number) {
                self.shown.news(&News::Second(self.total()));
            }
            return;
        }
        self.shown.news(news);
        self.leases[number].is_usable |= match self.checks {
            true => matches!(news, News::ExitProven(_)),
            false => *news == News::Serving,
        };
        if !self.began && self.leases.iter().all(|leased| leased.is_usable) {
            self.began = true;
            self.spread();
            self.shown.ready(&self.place);
        }
    }

    /// One of them is over: the others go on.
    fn lose(&mut self, number: usize) {
        let lost = &mut self.leases[number];
        lost.is_over = true;
        let address = lost.address;
        if self.leases.iter().any(|leased| !leased.is_over) {
            self.shown.lost(address);
            self.spread();
        }
    }

    fn spread(&self) {
        let used = self.leases.iter().filter(|leased| !leased.is_over);
        self.place.spread(used.map(|leased| leased.tunnel.clone()));
    }

    /// What all of them have used and cost.
    fn total(&self) -> Progress {
        let all = self.leases.iter().map(|leased| leased.progress);
        all.fold(Progress::default(), |sum, one| Progress {
            elapsed: sum.elapsed.max(one.elapsed),
            usage: Usage {
                secs: sum.usage.secs + one.usage.secs,
                bytes_up: sum.usage.bytes_up + one.usage.bytes_up,
                bytes_down: sum.usage.bytes_down + one.usage.bytes_down,
            },
            promised: sum.promised.saturating_add(one.promised),
            accepted: sum.accepted.saturating_add(one.accepted),
            vouchers: sum.vouchers + one.vouchers,
        })
    }
}

/// Waits until every provider is ready: nothing is paid before.
async fn open(requester: &Requester, bound: Vec<Bound>) -> Result<Vec<Agreed>, Failure> {
    let opened = bound.into_iter().map(|bound| requester.open(bound));
    join_all(opened).await.into_iter().collect()
}

/// Ends leases that are of no use without another one.
async fn end(leases: Vec<Leased>) {
    leases.iter().for_each(|leased| leased.lease.stop());
    for leased in leases {
        // Why there is none is told by the one that failed.
        let _ = leased.lease.finished().await;
        leased.tunnel.shutdown().await;
    }
}

/// The next thing that happens in one of those that are not over: news, or its end. None once all are.
async fn hear(leases: &mut [Leased]) -> Option<(usize, Option<News>)> {
    poll_fn(|context| {
        let mut open = leases
            .iter_mut()
            .enumerate()
            .filter(|(_, leased)| !leased.is_over)
            .peekable();
        if open.peek().is_none() {
            return Poll::Ready(None);
        }
        for (number, leased) in open {
            if let Poll::Ready(news) = leased.lease.news.poll_recv(context) {
                return Poll::Ready(Some((number, news)));
            }
        }
        Poll::Pending
    })
    .await
}
