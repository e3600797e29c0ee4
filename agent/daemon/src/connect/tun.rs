//! The host's own traffic through a lease.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ipsx_settlement::Connector;
use ipsx_tunnel_os::{
    ClientConfig, ClientEvent, HostClaim, HostError, HostPlan, HostTraffic, HostTunnel,
    LONGEST_INTERFACE_NAME, MARK, ToolError, TunError, TunnelError,
};
use tokio::sync::mpsc;

use super::bring_up::tunnel_failure;
use super::dialer::MarkedDialer;
use crate::cli::TunArgs;
use crate::config::Settings;
use crate::exit_code::{ExitCode, Failure};
use crate::output::Output;
use crate::store::make_folder;

/// How to undo everything, for messages.
const UNDO: &str = "`ipsx connect --restore` opens it";

/// What ends the name of an interface beside another one.
const BESIDE: &str = "b";

/// What `--tun` and its options ask for, with the right to do it.
pub struct TunMode {
    asked: Asked,
    claim: HostClaim,
}

/// What is asked for, whichever lease it is done with.
struct Asked {
    interface: String,
    args: TunArgs,
    dialer: Arc<MarkedDialer>,
}

impl TunMode {
    /// Takes the right to this host's traffic, and undoes what a killed program left of it, but for its kill switch:
    /// that one holds until this lease's takes its place. Finds out what else is missing, too.
    pub(super) fn prepare(
        interface: &str,
        args: &TunArgs,
        settings: &Settings,
        output: &Output,
    ) -> Result<Self, Failure> {
        check_prefixes(args)?;
        let mut claim = HostClaim::take(&record(&settings.data)?).map_err(failure)?;
        claim.check(resolves(args)).map_err(failure)?;
        if claim.is_unfinished() {
            if args.no_kill_switch {
                claim.restore().map_err(failure)?;
            } else {
                claim.restore_behind_kill_switch().map_err(failure)?;
            }
            output.note("undid what an earlier lease had left of its routes and its resolver");
        }
        if claim.is_shut() {
            output.note(format!(
                "the kill switch of an earlier lease holds until this one's takes its place; {UNDO}"
            ));
        }
        let dialer = Arc::new(MarkedDialer::new(MARK, claim.pinned()));
        let asked = Asked {
            interface: interface.to_owned(),
            args: args.clone(),
            dialer,
        };
        Ok(Self { asked, claim })
    }

    /// Whether another lease's interface could stand beside this one's.
    pub(super) fn check_beside(&self) -> Result<(), Failure> {
        let (name, most) = (&self.asked.interface, LONGEST_INTERFACE_NAME - BESIDE.len());
        if name.len() <= most {
            return Ok(());
        }
        Err(Failure::usage(format!(
            "--tun {name} is too long a name for --rotate, which needs two; write at most {most} characters"
        )))
    }

    /// How broker and chain are reached meanwhile.
    pub(super) fn connector(&self) -> Connector {
        Connector::Own(self.asked.dialer.clone())
    }

    /// Shuts the host, brings the tunnel up, and leads the traffic into it.
    pub(super) async fn begin(
        self,
        config: ClientConfig,
    ) -> Result<(HostPlace, mpsc::Receiver<ClientEvent>), Failure> {
        let Self { asked, claim } = self;
        let interface = asked.interface.clone();
        let plan = asked.plan(&config, &interface);
        let names = asked.dialer.names();
        let traffic = blocking(move || claim.guard(plan, names)).await?;
        let shared = Arc::new(Shared {
            asked,
            traffic: Mutex::new(traffic),
        });
        shared.admit_relays_of(&config);
        let (tunnel, events) = match HostTunnel::connect(config, &interface, MARK).await {
            Ok(connected) => connected,
            Err(error) => {
                shared.change(HostTraffic::withdraw).await?;
                return Err(not_connected(error));
            }
        };
        if let Err(failure) = shared.change(|traffic| traffic.route()).await {
            tunnel.shutdown().await;
            shared.change(HostTraffic::withdraw).await?;
            return Err(failure);
        }
        Ok((HostPlace { tunnel, shared }, events))
    }
}

impl Asked {
    fn plan(&self, config: &ClientConfig, interface: &str) -> HostPlan {
        HostPlan {
            interface: interface.to_owned(),
            inner_v4: config.inner_v4,
            inner_v6: config.inner_v6,
            gateway: config.gateway_v4,
            endpoints: outside(config).collect(),
            control: self.dialer.reached(),
            routes: self.args.route.clone(),
            direct: self.args.direct.clone(),
            kill_switch: !self.args.no_kill_switch,
            resolver: resolves(&self.args),
        }
    }
}

/// What the tunnel sends to beside whatever goes through it.
fn outside(config: &ClientConfig) -> impl Iterator<Item = SocketAddr> {
    let punch = config.punch.as_ref();
    let reflector = punch.map(|punch| punch.reflector);
    let relay = punch.and_then(|punch| punch.relay.as_ref());
    let relay = relay.map(|relay| SocketAddr::new(relay.address, 0));
    [config.endpoint].into_iter().chain(reflector).chain(relay)
}

/// The host's traffic in a lease, as long as this is kept; dropped, everything holds as it is.
pub struct HostPlace {
    tunnel: HostTunnel,
    shared: Arc<Shared>,
}

/// What further leases need to take over.
struct Shared {
    asked: Asked,
    traffic: Mutex<HostTraffic>,
}

impl Shared {
    /// Changes the host's traffic, on a thread that may wait.
    async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut HostTraffic) -> Result<T, HostError> + Send + 'static,
    ) -> Result<T, Failure> {
        let shared = Arc::clone(self);
        // A change that panicked left a record by which everything is undone.
        let traffic = move || {
            change(
                &mut shared
                    .traffic
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner),
            )
        };
        blocking(traffic).await
    }

    /// Lets a tunnel reach the relays that it is given, as long as it is there: in a fleet, each broker has its own.
    fn admit_relays_of(self: &Arc<Self>, config: &ClientConfig) {
        let punch = config.punch.as_ref();
        let Some(source) = punch.and_then(|punch| punch.relay.as_ref()) else {
            return;
        };
        let (mut given, shared) = (source.given.clone(), Arc::downgrade(self));
        tokio::spawn(async move {
            while given.changed().await.is_ok() {
                let relay = match &*given.borrow_and_update() {
                    Some(Ok(relay)) => relay.address.ip(),
                    _ => continue,
                };
                let Some(shared) = shared.upgrade() else {
                    return;
                };
                let admitted = shared.change(move |traffic| traffic.admit_relay(relay));
                if let Err(failure) = admitted.await {
                    tracing::warn!(%relay, %failure, "the kill switch does not let the tunnel reach its relay");
                }
            }
        });
    }
}

/// Makes tunnels of further leases, beside the one that the host's traffic is in.
#[derive(Clone)]
pub(super) struct HostBeside(Arc<Shared>);

/// The tunnel of a further lease, and how the host's traffic is led into it.
pub(super) struct HostNext {
    tunnel: HostTunnel,
    plan: HostPlan,
}

impl HostBeside {
    /// Brings a tunnel up, by an interface of its own that nothing goes into yet.
    pub(super) async fn connect(
        &self,
        config: ClientConfig,
    ) -> Result<(HostNext, mpsc::Receiver<ClientEvent>), Failure> {
        let (shared, endpoints) = (&self.0, outside(&config).collect::<Vec<_>>());
        let base = shared.asked.interface.clone();
        shared.admit_relays_of(&config);
        let interface = shared
            .change(move |traffic| {
                traffic.admit(endpoints)?;
                let beside = format!("{base}{BESIDE}");
                let is_used = traffic.interface() == Some(base.as_str());
                Ok(if is_used { beside } else { base })
            })
            .await?;
        let plan = shared.asked.plan(&config, &interface);
        let connected = HostTunnel::connect(config, &interface, MARK).await;
        let (tunnel, events) = connected.map_err(not_connected)?;
        Ok((HostNext { tunnel, plan }, events))
    }
}

impl HostNext {
    /// The tunnel.
    pub(super) fn tunnel(&self) -> &HostTunnel {
        &self.tunnel
    }
}

impl HostPlace {
    /// The tunnel.
    pub fn tunnel(&self) -> &HostTunnel {
        &self.tunnel
    }

    /// For the leases that come after this one.
    pub(super) fn beside(&self) -> HostBeside {
        HostBeside(Arc::clone(&self.shared))
    }

    /// Leads the host's traffic into the tunnel of another lease, and returns the one before.
    pub(super) async fn switch(&mut self, next: HostNext) -> Result<HostTunnel, Failure> {
        let HostNext { tunnel, plan } = next;
        self.shared.change(|traffic| traffic.switch(plan)).await?;
        Ok(std::mem::replace(&mut self.tunnel, tunnel))
    }

    /// Ends the tunnel and changes everything back.
    pub(super) async fn close(self) -> Result<(), Failure> {
        // The routes first: nothing should be sent into an interface that is going.
        self.shared.change(HostTraffic::restore).await?;
        self.tunnel.shutdown().await;
        Ok(())
    }

    /// Ends the tunnel of a lease that ended otherwise than its user meant it. With a kill switch everything stays
    /// shut: who relied on the lease does not notice that it is gone.
    pub(super) async fn fail(self, output: &Output) -> Result<(), Failure> {
        if self.shared.asked.args.no_kill_switch {
            return self.close().await;
        }
        self.tunnel.shutdown().await;
        output.json(&serde_json::json!({ "event": "kill_switch_holds" }));
        output.note(format!(
            "the kill switch holds: nothing leaves this host by its old way; {UNDO}, and the next `ipsx connect --tun` takes over from it"
        ));
        Ok(())
    }
}

/// Runs `ipsx connect --restore`.
pub(super) async fn restore(settings: &Settings, output: &Output) -> Result<(), Failure> {
    let file = record(&settings.data)?;
    let found = blocking(move || HostClaim::take(&file)?.restore()).await?;
    output.json(&serde_json::json!({ "restored": found }));
    output.line(if found {
        "kill switch, routes and resolver are what they were before"
    } else {
        "there was nothing to undo"
    });
    Ok(())
}

fn record(data: &Path) -> Result<PathBuf, Failure> {
    make_folder(data)?;
    Ok(data.join("host.json"))
}

/// Whether names are asked for inside the tunnel: with some prefixes only, other names belong elsewhere.
fn resolves(args: &TunArgs) -> bool {
    !args.keep_dns && args.route.is_empty()
}

fn check_prefixes(args: &TunArgs) -> Result<(), Failure> {
    let whole = |net: &&ipsx_market::IpNet| net.prefix_len() == 0;
    if let Some(net) = args.route.iter().chain(&args.direct).find(whole) {
        return Err(Failure::usage(format!(
            "{net} is everything: leave out --route to lead all traffic through the lease, and --tun to lead none"
        )));
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(failure),
        Err(error) => Err(Failure::internal(format!(
            "changing the host's network failed: {error}; `ipsx connect --restore` undoes what was done"
        ))),
    }
}

fn failure(error: HostError) -> Failure {
    match &error {
        HostError::Tun(_)
        | HostError::Tool(ToolError::Privilege { .. } | ToolError::Missing { .. }) => {
            without_tun(error)
        }
        HostError::Tool(_) | HostError::Claim(_) => Failure::internal(error),
        HostError::Claimed | HostError::Unrecorded(_) | HostError::OtherNamespace { .. } => {
            Failure::usage(error)
        }
        HostError::Resolver { .. } | HostError::ForeignResolver(_) => Failure::usage(error),
        HostError::File { .. } | HostError::Record { .. } => {
            Failure::new(ExitCode::Storage, error.to_string())
        }
    }
}

fn not_connected(error: TunnelError) -> Failure {
    match error {
        TunnelError::Interface(TunError::Privilege { .. }) | TunnelError::Mark(_) => {
            without_tun(error)
        }
        TunnelError::Interface(_) => Failure::usage(error),
        other => tunnel_failure(other),
    }
}

/// What always works.
fn without_tun(error: impl std::fmt::Display) -> Failure {
    Failure::usage(format!(
        "{error}; or leave out --tun: the proxy on 127.0.0.1:1080 needs no privilege"
    ))
}
