//! A plain WireGuard interface, as wireguard-go and boringtun-cli make it: a TUN device and a socket by which `wg`
//! configures it.

mod control;
mod error;
mod run;
mod sockets;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tokio::sync::oneshot;

pub use error::BareError;
use run::Loop;

/// A running interface; it goes when this is dropped.
///
/// It has no keys and no peers until `wg setconf` (or `wg set`) gives it some, and no addresses until `ip` does.
pub struct BareDevice {
    waker: Arc<mio::Waker>,
    stop: Arc<AtomicBool>,
    ended: oneshot::Receiver<Result<(), BareError>>,
}

impl BareDevice {
    /// Makes the interface, its control socket `/var/run/wireguard/NAME.sock`, and a thread that moves its packets.
    /// Needs the capability CAP_NET_ADMIN.
    pub fn start(name: &str) -> Result<Self, BareError> {
        let mut run = Loop::new(name)?;
        let (waker, stop) = (run.waker(), run.stop_flag());
        let (report, ended) = oneshot::channel();
        thread::Builder::new()
            .name("ipsx-tunnel".to_owned())
            .spawn(move || {
                let result = run.run();
                // Interface and control socket go before anybody hears of it.
                drop(run);
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
