//! The loop that drives one provider.

use std::time::Duration;

use ipsx_agent_core::provider::{Now, Provider};
use ipsx_market::messages::BrokerMessage;
use ipsx_market::payment::PayerMessage;
use serde::Serialize;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::broker_link::LinkEvent;
use super::io::{Happening, Io};
use crate::clock::unix_now;
use ipsx_metering::Amount;

/// How often the tunnel's counters are read.
const READING: Duration = Duration::from_millis(100);
/// How often the chain's time is read while leases run.
const BLOCK_TIME: Duration = Duration::from_secs(60);
/// How long leases have to end when the program is told to stop.
const LAST_VOUCHERS: Duration = Duration::from_secs(5);

/// Where a provider stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProviderStatus {
    /// Whether the broker is connected.
    pub connected: bool,
    /// Leases that hold capacity.
    pub leases: usize,
    /// Vouchers that the chain has not paid.
    pub unclaimed: Amount,
    /// Bytes carried in the current calendar month.
    pub month_bytes: u64,
}

/// One provider and its side effects.
pub(super) struct Agent {
    pub(super) provider: Provider,
    pub(super) io: Io,
    pub(super) status: watch::Sender<ProviderStatus>,
    /// The most leases, and the most that may be unclaimed.
    pub(super) most: (u32, Amount),
}

impl Agent {
    /// Runs until told to stop, or until the tunnel is gone.
    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut reading = tokio::time::interval(READING);
        reading.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut block_time = tokio::time::interval(BLOCK_TIME);
        let mut give_up: Option<Instant> = None;
        loop {
            self.work().await;
            let over = give_up.is_some_and(|at| self.provider.is_idle() || at <= Instant::now());
            if over {
                break;
            }
            let timeout = self.provider.poll_timeout();
            tokio::select! {
                happening = self.io.next() => match happening {
                    Some(happening) => self.handle(happening).await,
                    None => break,
                },
                () = sleep_until(timeout) => {
                    self.read_counters().await;
                    self.provider.handle_timeout(now());
                }
                _ = reading.tick() => self.read_counters().await,
                _ = block_time.tick() => if !self.provider.is_idle() {
                    self.io.read_block_time();
                },
                // The sender is dropped without a word when the provider is to stop at once: then the task is aborted.
                Ok(()) = &mut stop, if give_up.is_none() => {
                    give_up = Some(Instant::now() + LAST_VOUCHERS);
                    self.provider.handle_shutdown(now());
                }
            }
        }
        self.work().await;
        self.io.finish().await;
    }

    async fn work(&mut self) {
        while let Some(command) = self.provider.poll_command() {
            self.io.carry_out(command).await;
        }
        let status = ProviderStatus {
            connected: self.io.outbox.is_some(),
            leases: self.provider.leases(),
            unclaimed: self.provider.unclaimed(),
            month_bytes: self.provider.month().bytes,
        };
        let changed = |old: &mut ProviderStatus| std::mem::replace(old, status) != status;
        if self.status.send_if_modified(changed) {
            let (leases, unclaimed) = self.most;
            self.io.metrics.stands(&status, leases, unclaimed);
        }
    }

    async fn handle(&mut self, happening: Happening) {
        // The last receipt is written when the end comes: it must not miss what moved since the last reading.
        if matches!(happening, Happening::Payment(_, PayerMessage::End(_), _)) {
            self.read_counters().await;
        }
        let provider = &mut self.provider;
        match happening {
            Happening::Link(LinkEvent::Up {
                observed,
                unfinished,
                reflector,
                outbox,
            }) => {
                self.io.outbox = Some(outbox);
                provider.handle_link_up(observed, reflector, &unfinished, now());
            }
            Happening::Link(LinkEvent::Down { reason, retry_in }) => {
                self.io.outbox = None;
                provider.handle_link_down(reason, retry_in);
            }
            Happening::Link(LinkEvent::Message(message)) => {
                if let BrokerMessage::OfferRefused { reason, .. } = message.as_ref() {
                    tracing::warn!(reason, "the broker refused the offer");
                }
                provider.handle_broker_message(*message, now());
            }
            Happening::Payment(lease, message, path) => {
                provider.handle_payment(lease, message, path, now());
            }
            Happening::Reflected(reflected) => provider.handle_reflected(reflected),
            Happening::LeaseKept(lease, kept) => {
                if let Some(opened) = self.io.open_peer(lease, kept).await {
                    self.provider.handle_peer(lease, opened, now());
                }
            }
            Happening::VoucherKept(lease, cumulative) => {
                provider.handle_stored(lease, cumulative, now());
            }
            Happening::Chain(lease, view) => provider.handle_chain(lease, view, now()),
            Happening::BlockTime(time) => provider.handle_block_time(time, now()),
            Happening::Claimed(channel, claimed) => provider.handle_claimed(channel, claimed),
            Happening::Connections(lease, recorded) => {
                provider.handle_connections(lease, recorded);
            }
            Happening::Policy(policy) => {
                let hash = self.io.policies.add(&policy);
                provider.handle_policy(hash, now());
            }
            Happening::Tell(event) => self.io.tell(event),
        }
    }

    async fn read_counters(&mut self) {
        let open: Vec<_> = self.provider.open_leases().collect();
        for lease in open {
            if let Some(usage) = self.io.usage(lease).await {
                self.provider
                    .handle_counters(lease, usage.bytes_up, usage.bytes_down, now());
            }
        }
    }
}

/// Both clocks, read together.
pub(super) fn now() -> Now {
    Now {
        instant: std::time::Instant::now(),
        unix: unix_now(),
    }
}

async fn sleep_until(at: Option<std::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
