//! The host's own traffic through a lease.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipsx_settlement::Connector;
use ipsx_tunnel_os::{
    ClientConfig, ClientEvent, HostClaim, HostError, HostPlan, HostTraffic, HostTunnel, MARK,
    ToolError, TunError, TunnelError,
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

/// What `--tun` and its options ask for, with the right to do it.
pub struct TunMode {
    interface: String,
    args: TunArgs,
    claim: HostClaim,
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
        Ok(Self {
            interface: interface.to_owned(),
            args: args.clone(),
            claim,
            dialer,
        })
    }

    /// How broker and chain are reached meanwhile.
    pub(super) fn connector(&self) -> Connector {
        Connector::Own(self.dialer.clone())
    }

    /// Shuts the host, brings the tunnel up, and leads the traffic into it.
    pub(super) async fn begin(
        self,
        config: ClientConfig,
    ) -> Result<(HostPlace, mpsc::Receiver<ClientEvent>), Failure> {
        let plan = self.plan(&config);
        let (claim, names) = (self.claim, self.dialer.names());
        let traffic = blocking(move || claim.guard(plan, names)).await?;
        let (tunnel, events) = match HostTunnel::connect(config, &self.interface, MARK).await {
            Ok(connected) => connected,
            Err(error) => {
                blocking(move || traffic.withdraw()).await?;
                return Err(not_connected(error));
            }
        };
        let (traffic, routed) = blocking(move || {
            let routed = traffic.route();
            Ok((traffic, routed))
        })
        .await?;
        if let Err(error) = routed {
            tunnel.shutdown().await;
            blocking(move || traffic.withdraw()).await?;
            return Err(failure(error));
        }
        let place = HostPlace {
            tunnel,
            traffic,
            is_shut: !self.args.no_kill_switch,
        };
        Ok((place, events))
    }

    fn plan(&self, config: &ClientConfig) -> HostPlan {
        HostPlan {
            interface: self.interface.clone(),
            inner_v4: config.inner_v4,
            inner_v6: config.inner_v6,
            gateway: config.gateway_v4,
            endpoint: config.endpoint,
            control: self.dialer.reached(),
            routes: self.args.route.clone(),
            direct: self.args.direct.clone(),
            kill_switch: !self.args.no_kill_switch,
            resolver: resolves(&self.args),
        }
    }
}

/// The host's traffic in a lease, as long as this is kept; dropped, everything holds as it is.
pub struct HostPlace {
    tunnel: HostTunnel,
    traffic: HostTraffic,
    is_shut: bool,
}

impl HostPlace {
    /// The tunnel.
    pub fn tunnel(&self) -> &HostTunnel {
        &self.tunnel
    }

    /// Ends the tunnel and changes everything back.
    pub(super) async fn close(self) -> Result<(), Failure> {
        // The routes first: nothing should be sent into an interface that is going.
        blocking(move || self.traffic.restore()).await?;
        self.tunnel.shutdown().await;
        Ok(())
    }

    /// Ends the tunnel of a lease that ended otherwise than its user meant it. With a kill switch everything stays
    /// shut: who relied on the lease does not notice that it is gone.
    pub(super) async fn fail(self, output: &Output) -> Result<(), Failure> {
        if !self.is_shut {
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
