//! A plain WireGuard interface, as wireguard-go and boringtun-cli make it: a TUN device and a socket by which `wg`
//! configures it.

mod control;
mod error;
mod handover;
mod manage;
mod sockets;
mod worker;

use std::{
    num::NonZeroU8,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use ipsx_tunnel_core::Shard;
use tokio::sync::oneshot;

pub use error::BareError;
use handover::Inbox;
use manage::{CONTROL, Hand, Manager};
use worker::{Place, Worker, new_poll};

use crate::{sys, tun::Tun};

/// The threads that move an interface's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers {
    /// How many; each has its share of the peers.
    pub count: NonZeroU8,
    /// Whether they run ahead of all ordinary threads of the machine (`SCHED_RR` of sched(7)), which needs the capability
    /// CAP_SYS_NICE. Linux keeps a twentieth of each second for the others.
    pub realtime: bool,
}

/// A running interface; it goes when this is dropped.
///
/// It has no keys and no peers until `wg setconf` (or `wg set`) gives it some, and no addresses until `ip` does.
pub struct BareDevice {
    waker: Arc<mio::Waker>,
    stop: Arc<AtomicBool>,
    ended: oneshot::Receiver<Result<(), BareError>>,
}

impl BareDevice {
    /// Makes the interface, its control socket `/var/run/wireguard/NAME.sock`, and the threads that move its packets.
    /// Needs the capability CAP_NET_ADMIN.
    pub fn start(name: &str, workers: Workers) -> Result<Self, BareError> {
        let queues = Tun::open_shares(name, workers.count)?;
        let count = u8::try_from(queues.len()).unwrap_or(u8::MAX);
        let (poll, waker) = new_poll().map_err(BareError::Start)?;
        let control = control::Control::open(name, poll.registry(), CONTROL)?;
        let group = sockets::open_group(0, 0, count)?;
        let port = group.first().map_or(0, |first| first.port());
        let stop = Arc::new(AtomicBool::new(false));
        let polls: Vec<_> = queues
            .iter()
            .map(|_| new_poll())
            .collect::<Result<_, _>>()
            .map_err(BareError::Start)?;
        let inboxes: Arc<[Inbox]> = polls
            .iter()
            .map(|(_, waker)| Inbox::new(Arc::clone(waker)))
            .collect();
        let mut ready = Vec::new();
        let parts = queues.into_iter().zip(group).zip(polls).zip(0..count);
        for (((tun, sockets), (poll, waker)), index) in parts {
            let (orders, received) = mpsc::channel();
            let place = Place {
                poll,
                shard: Shard::new(index, count).unwrap_or(Shard::WHOLE),
                inboxes: Arc::clone(&inboxes),
                orders: received,
                stop: Arc::clone(&stop),
            };
            let worker = Worker::new(tun, sockets, place)?;
            ready.push((worker, orders, waker));
        }
        let mut manager = Manager::new(poll, control, port, Arc::clone(&stop));
        for (worker, orders, worker_waker) in ready {
            let (thread, failed) = match spawn(worker, Arc::clone(&stop), Arc::clone(&waker)) {
                Ok(thread) if workers.realtime => {
                    let failed = sys::run_ahead(&thread).err();
                    (Some(thread), failed.map(BareError::Realtime))
                }
                Ok(thread) => (Some(thread), None),
                Err(error) => (None, Some(BareError::Start(error))),
            };
            manager.employ(Hand {
                orders,
                waker: worker_waker,
                thread,
            });
            if let Some(error) = failed {
                stop.store(true, Ordering::Release);
                manager.run()?;
                return Err(error);
            }
        }
        let (report, ended) = oneshot::channel();
        thread::Builder::new()
            .name("ipsx-manager".to_owned())
            .spawn(move || {
                let result = manager.run();
                // Interface and control socket go before anybody hears of it.
                drop(manager);
                drop(report.send(result));
            })
            .map_err(BareError::Start)?;
        Ok(Self { waker, stop, ended })
    }

    /// Waits until the interface has gone: because somebody deleted it, which is an error, or after
    /// [`stop`](Self::stop).
    pub async fn ended(&mut self) -> Result<(), BareError> {
        match (&mut self.ended).await {
            Ok(result) => result,
            // Told before, or the thread panicked, which has been printed.
            Err(_) => Ok(()),
        }
    }

    /// Asks the interface to go; [`ended`](Self::ended) tells when it has.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // Without the wake-up it is seen within a second.
        let _ = self.waker.wake();
    }
}

impl Drop for BareDevice {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a worker on a thread of its own. When it ends, the others do.
fn spawn(
    mut worker: Worker,
    stop: Arc<AtomicBool>,
    manager: Arc<mio::Waker>,
) -> std::io::Result<thread::JoinHandle<Result<(), BareError>>> {
    thread::Builder::new()
        .name("ipsx-tunnel".to_owned())
        .spawn(move || {
            let result = worker.run();
            drop(worker);
            stop.store(true, Ordering::Release);
            let _ = manager.wake();
            result
        })
}
