//! `ipsx tunnel`: a plain WireGuard interface, configured by `wg`.

use std::num::{NonZeroU8, NonZeroUsize};
use std::thread;

use clap::Args;
use ipsx_tunnel_os::{BareDevice, BareError, Workers};
use tokio::signal::unix::{SignalKind, signal};

use crate::exit_code::{ExitCode, Failure};
use crate::output::Output;

/// `ipsx tunnel …`
#[derive(Debug, Args)]
pub struct TunnelArgs {
    /// Name of the interface to make, such as wg0
    #[arg(value_name = "IFNAME")]
    pub interface: String,
    /// Threads that move packets, each those of its share of the peers; one for each processor if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub workers: Option<u8>,
    /// Have them run ahead of everything else on the machine: less delay under load, a tenth more processor time
    #[arg(long)]
    pub realtime: bool,
}

/// Runs an interface until it is deleted, or until SIGINT or SIGTERM.
pub async fn run(args: &TunnelArgs, output: &Output) -> Result<(), Failure> {
    let listen = |kind| signal(kind).map_err(Failure::internal);
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut device = BareDevice::start(&args.interface, workers(args)).map_err(failure)?;
    let name = &args.interface;
    output.line(format!(
        "interface {name} ready for `wg setconf {name} FILE`"
    ));
    ipsx_tunnel_os::forget_start();
    let ended = tokio::select! {
        ended = device.ended() => ended,
        _ = interrupt.recv() => stop(&mut device).await,
        _ = terminate.recv() => stop(&mut device).await,
    };
    match ended {
        // Deleting the interface is how wg-quick ends it.
        Err(gone @ BareError::Gone(_)) => {
            output.line(gone.to_string());
            Ok(())
        }
        other => other.map_err(failure),
    }
}

fn workers(args: &TunnelArgs) -> Workers {
    let processors = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let count = args
        .workers
        .unwrap_or_else(|| u8::try_from(processors().min(64)).unwrap_or(64));
    Workers {
        count: NonZeroU8::new(count).unwrap_or(NonZeroU8::MIN),
        realtime: args.realtime,
    }
}

async fn stop(device: &mut BareDevice) -> Result<(), BareError> {
    device.stop();
    device.ended().await
}

fn failure(error: BareError) -> Failure {
    let code = match error {
        BareError::Tun(_) | BareError::Realtime(_) => ExitCode::Usage,
        BareError::Control(_) | BareError::Udp(_) => ExitCode::PortInUse,
        BareError::Random(_) | BareError::Start(_) | BareError::Gone(_) => ExitCode::Internal,
    };
    Failure::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_linux_would_not_take_are_usage_errors() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "sixteen-letters-",
            "wg 0",
            "wg\n0",
            "ü",
        ] {
            let workers = Workers {
                count: NonZeroU8::MIN,
                realtime: false,
            };
            let Err(error) = BareDevice::start(name, workers) else {
                panic!("{name:?} was taken");
            };
            let failure = failure(error);
            assert_eq!(failure.code, ExitCode::Usage, "{name:?}");
            assert!(
                failure.message.contains("is no interface name"),
                "{failure}"
            );
        }
    }
}
