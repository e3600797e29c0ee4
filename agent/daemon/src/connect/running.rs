//! A lease while it runs: a task that drives the pure machine and carries out what it says, in order.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipsx_agent_core::requester::{Ending, Lease, LeaseEvent, Progress};
use ipsx_metering::{ChannelId, ChannelState, DealId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::exit_check::{ExitPage, Way};
use super::requester::{Requester, is_over};
use super::transport::Transport;
use crate::clock::unix_now;
use crate::exit_code::Failure;
use crate::store::{Ended, LeaseRecord, Slot, Stage, Store};

/// A broker that does not tell how the lease stands is asked after this long, and told to tell again.
const BROKER_RETRY: Duration = Duration::from_secs(5);
/// A broker that is away at the end is told by the next command.
const TELL_END: Duration = Duration::from_secs(5);

/// What happens during a lease, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The provider answered for the first time.
    Connected {
        /// After this long.
        round_trip: Duration,
    },
    /// The first voucher is on the provider's disk: traffic passes.
    Serving,
    /// A relay carries the tunnel's packets from now on.
    Relayed(Relayed),
    /// The exit is the one that was sold.
    ExitProven(IpAddr),
    /// One more second.
    Second(Progress),
    /// The provider claims more than was measured.
    Disputed(String),
    /// The two sides agree again.
    Settled,
}

/// How a lease's packets get to its provider, where nobody comes to it by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// The address that is leased.
    pub exit_address: IpAddr,
    /// The relay's port; `None` if they go without one again.
    pub relay: Option<SocketAddr>,
}

/// A lease under way. It goes on when this is dropped; [`RunningLease::stop`] ends it.
pub struct RunningLease {
    /// What happens; ends with the lease.
    pub news: mpsc::UnboundedReceiver<News>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<Finished, Failure>>,
}

/// A lease that is over.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Why.
    pub ending: Ending,
    /// Its record, as it is on disk.
    pub record: LeaseRecord,
}

/// What the task needs.
pub(super) struct Drive {
    pub(super) requester: Arc<Requester>,
    pub(super) lease: Lease,
    pub(super) record: LeaseRecord,
    pub(super) transport: Transport,
    pub(super) exit_page: Option<ExitPage>,
    /// Held until the lease is over.
    pub(super) slot: Slot,
}

impl RunningLease {
    pub(super) fn start(drive: Drive) -> Self {
        let (news, receiver) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(drive.run(news, stopped));
        Self {
            news: receiver,
            stop,
            task,
        }
    }

    /// Ends the lease from this side; the rest is paid and told first.
    pub fn stop(&self) {
        // Nobody listens when the lease is over already.
        let _ = self.stop.send(true);
    }

    /// Waits until it is over, paid and told.
    pub async fn finished(self) -> Result<Finished, Failure> {
        match self.task.await {
            Ok(finished) => finished,
            Err(error) => Err(Failure::internal(format!(
                "the lease's task failed: {error}"
            ))),
        }
    }
}

impl Drive {
    async fn run(
        mut self,
        news: mpsc::UnboundedSender<News>,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<Finished, Failure> {
        let deal = self.record.deal.id();
        let channel = self.record.deal.channel().id();
        let (over_sender, mut over) = mpsc::channel(1);
        let (exits, mut exit_seen) = mpsc::channel(1);
        let watcher = tokio::spawn(watch_broker(self.requester.clone(), deal, over_sender));
        self.look_at_tunnel(&news).await?;
        self.lease.handle_timeout(Instant::now());
        let mut open = true;
        let ending = loop {
            if let Some(ending) = self.carry_out(channel, &news, &exits).await? {
                break ending;
            }
            let wake = self.lease.poll_timeout().unwrap_or_else(Instant::now);
            tokio::select! {
                message = self.transport.receive(), if open => match message {
                    Some(message) => {
                        self.look_at_tunnel(&news).await?;
                        self.lease.handle_message(message, Instant::now());
                    }
                    None => {
                        open = false;
                        self.lease.handle_stop(Instant::now());
                    }
                },
                () = tokio::time::sleep_until(wake.into()) => {
                    self.look_at_tunnel(&news).await?;
                    self.lease.handle_timeout(Instant::now());
                }
                Some(seen) = exit_seen.recv() => self.lease.handle_exit(seen, Instant::now()),
                Some(()) = over.recv() => self.lease.handle_over(Instant::now()),
                Ok(()) = stopped.changed() => self.lease.handle_stop(Instant::now()),
            }
        };
        watcher.abort();
        self.finish(ending).await
    }

    /// Does what the machine says, in its order. Returns the ending once there is one.
    async fn carry_out(
        &mut self,
        channel: ChannelId,
        news: &mpsc::UnboundedSender<News>,
        exits: &mpsc::Sender<ipsx_agent_core::requester::ExitSeen>,
    ) -> Result<Option<Ending>, Failure> {
        while let Some(event) = self.lease.poll_event() {
            let said = match event {
                LeaseEvent::Store(state) => {
                    store_channel(&self.requester.store, channel, *state).await?;
                    continue;
                }
                LeaseEvent::Send(message) => {
                    self.transport.send(&message);
                    continue;
                }
                LeaseEvent::CheckExit => {
                    self.check_exit(exits.clone());
                    continue;
                }
                LeaseEvent::Ended(ending) => return Ok(Some(*ending)),
                LeaseEvent::Connected { round_trip } => {
                    self.begin()?;
                    News::Connected { round_trip }
                }
                LeaseEvent::Serving => News::Serving,
                LeaseEvent::ExitProven(address) => News::ExitProven(address),
                LeaseEvent::Second(progress) => News::Second(progress),
                LeaseEvent::Disputed(reason) => News::Disputed(reason),
                LeaseEvent::Settled => News::Settled,
            };
            // Nobody has to watch.
            let _ = news.send(said);
        }
        Ok(None)
    }

    /// The provider answered: from here on there is something to pay.
    fn begin(&mut self) -> Result<(), Failure> {
        self.record.stage = Stage::Paying;
        self.record.paid_before = self.lease.paid_before();
        self.requester.store.put_lease(&self.record)?;
        let (requester, deal) = (self.requester.clone(), self.record.deal.id());
        tokio::spawn(async move {
            for _ in 0..5 {
                match requester.session.connected(deal).await {
                    Ok(()) => return,
                    Err(error) if error.kind().is_some() => {
                        return tracing::info!(%error, "the broker did not note that the tunnel is up");
                    }
                    Err(_) => tokio::time::sleep(BROKER_RETRY).await,
                }
            }
        });
        Ok(())
    }

    fn check_exit(&self, exits: mpsc::Sender<ipsx_agent_core::requester::ExitSeen>) {
        let Some(page) = self.exit_page.clone() else {
            return;
        };
        let way = match &self.transport {
            Transport::Tunnel { tunnel, .. } => Way::Tunnel(tunnel.clone()),
            #[cfg(target_os = "linux")]
            Transport::Host { tunnel, .. } => Way::Interface(tunnel.interface().to_owned()),
            Transport::Broker(_) => return,
        };
        tokio::spawn(async move {
            let seen = page.look(&way).await;
            // The lease may be over by now.
            let _ = exits.send(seen).await;
        });
    }

    /// Reads its counters, and by which way it goes.
    async fn look_at_tunnel(&mut self, news: &mpsc::UnboundedSender<News>) -> Result<(), Failure> {
        if let Some(status) = self.transport.status().await {
            let usage = status.usage;
            self.lease
                .handle_counters(usage.bytes_up, usage.bytes_down, Instant::now());
            self.note_relay(status.relay, news)?;
        }
        if let Some(traffic) = self.transport.own_traffic().await {
            self.lease.handle_traffic(traffic);
        }
        Ok(())
    }

    fn note_relay(
        &mut self,
        relay: Option<SocketAddr>,
        news: &mpsc::UnboundedSender<News>,
    ) -> Result<(), Failure> {
        if std::mem::replace(&mut self.record.relay, relay) == relay {
            return Ok(());
        }
        self.requester.store.put_lease(&self.record)?;
        let exit_address = self.record.deal.exit_address;
        // Nobody has to watch.
        let _ = news.send(News::Relayed(Relayed {
            exit_address,
            relay,
        }));
        Ok(())
    }

    async fn finish(mut self, ending: Ending) -> Result<Finished, Failure> {
        let report = &ending.report;
        self.record.stage = Stage::Ended;
        self.record.ended = Some(Ended {
            at: unix_now(),
            cause: report.cause,
            usage: report.usage,
            amount: report.amount,
        });
        self.record.paid_before = self.lease.paid_before();
        self.record.voucher = report.voucher.clone();
        self.record.vouchers = self.lease.progress().vouchers;
        self.record.receipt = self.lease.receipt();
        self.record.answered = self.lease.answered();
        self.record.exit_seen = self.lease.exit_seen();
        self.record.connections = self.lease.connections();
        if let Some(reservation) = self.lease.reservation() {
            self.record.reservation = Some(reservation.clone());
        }
        self.requester.store.put_lease(&self.record)?;
        let telling = self.requester.tell_end(&mut self.record);
        if tokio::time::timeout(TELL_END, telling).await.is_err() {
            tracing::info!("the broker is away; the next command tells it that the lease is over");
        }
        drop(self.slot);
        Ok(Finished {
            ending,
            record: self.record,
        })
    }
}

/// Writing is quick but waits for the disk: not on a thread that serves connections.
async fn store_channel(
    store: &Store,
    channel: ChannelId,
    state: ChannelState,
) -> Result<(), Failure> {
    let store = store.clone();
    match tokio::task::spawn_blocking(move || store.put_channel(channel, &state)).await {
        Ok(stored) => stored,
        Err(error) => Err(Failure::internal(format!(
            "a voucher could not be stored: {error}"
        ))),
    }
}

/// Says once that the broker holds the lease for over. A broker that is away says nothing.
async fn watch_broker(requester: Arc<Requester>, deal: DealId, over: mpsc::Sender<()>) {
    let session = &requester.session;
    let mut changes = session.follow(deal);
    while !changes.until(|change| is_over(change.status)).await {
        match session.deal(deal).await {
            Ok(view) if is_over(view.status) => break,
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "the broker does not say how the lease stands"),
        }
        tokio::time::sleep(BROKER_RETRY).await;
    }
    // Nobody listens when the lease is over here too.
    let _ = over.send(()).await;
}
