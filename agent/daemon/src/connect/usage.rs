//! The ways to use a lease.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipsx_settlement::Connector;
use ipsx_tunnel_os::ProxyError;

use super::exit_check::ExitPage;
#[cfg(target_os = "linux")]
use super::tun;
use crate::cli::ConnectArgs;
use crate::config::Settings;
use crate::exit_code::{ExitCode, Failure};
use crate::output::Output;

#[cfg(not(target_os = "linux"))]
pub(super) const ONLY_ON_LINUX: &str =
    "--tun and --restore work on Linux only; leave them out: the proxy works everywhere";

/// How a lease is to be used.
pub enum Use {
    /// This program runs the tunnel and offers it as a proxy.
    Proxy {
        /// Where the proxy listens.
        listen: SocketAddr,
        /// Source address of the tunnel.
        bind: Option<IpAddr>,
        /// Page that tells the exit's address.
        exit_page: Option<ExitPage>,
    },
    /// This program runs the tunnel and leads the host's own traffic into it.
    #[cfg(target_os = "linux")]
    Host {
        /// What of it, and the right to it.
        mode: Box<tun::TunMode>,
        /// Source address of the tunnel.
        bind: Option<IpAddr>,
        /// Page that tells the exit's address.
        exit_page: Option<ExitPage>,
    },
    /// Another client runs the tunnel.
    Export {
        /// Where its configuration is written.
        file: PathBuf,
    },
}

impl Use {
    /// What the arguments ask for.
    pub(super) fn from_args(
        args: &ConnectArgs,
        settings: &Settings,
        output: &Output,
    ) -> Result<Self, Failure> {
        let (bind, page) = (args.bind, args.exit_check.as_deref());
        let exit_page = page.map(ExitPage::parse).transpose()?;
        if let Some(interface) = &args.host.tun {
            return Self::host(interface, args, exit_page, settings, output);
        }
        match args.export.as_deref() {
            None => Ok(Self::Proxy {
                listen: args.proxy,
                bind,
                exit_page,
            }),
            Some([format, file]) if format == "wg" => Ok(Self::Export { file: file.into() }),
            Some(other) => Err(Failure::usage(format!(
                "--export {} is not known; write --export wg FILE",
                other.first().map_or("", String::as_str)
            ))),
        }
    }

    #[cfg(target_os = "linux")]
    fn host(
        interface: &str,
        args: &ConnectArgs,
        exit_page: Option<ExitPage>,
        settings: &Settings,
        output: &Output,
    ) -> Result<Self, Failure> {
        let mode = tun::TunMode::prepare(interface, &args.host, settings, output)?;
        Ok(Self::Host {
            mode: Box::new(mode),
            bind: args.bind,
            exit_page,
        })
    }

    #[cfg(not(target_os = "linux"))]
    fn host(
        _: &str,
        _: &ConnectArgs,
        _: Option<ExitPage>,
        _: &Settings,
        _: &Output,
    ) -> Result<Self, Failure> {
        Err(Failure::usage(ONLY_ON_LINUX))
    }

    /// How broker and chain are reached.
    pub(super) fn connector(&self) -> Connector {
        match self {
            #[cfg(target_os = "linux")]
            Self::Host { mode, .. } => mode.connector(),
            _ => Connector::default(),
        }
    }

    /// The page that tells the exit's address, if there is one.
    pub(super) fn exit_page(&self) -> Option<&ExitPage> {
        match self {
            Self::Proxy { exit_page, .. } => exit_page.as_ref(),
            #[cfg(target_os = "linux")]
            Self::Host { exit_page, .. } => exit_page.as_ref(),
            Self::Export { .. } => None,
        }
    }

    /// Whether it can work on this machine, with one lease or with one after the other, before anything is signed.
    pub(super) fn check(&self, rotates: bool) -> Result<(), Failure> {
        match self {
            Self::Proxy { listen, .. } => {
                if !listen.ip().is_loopback() {
                    return Err(Failure::usage(format!(
                        "the proxy has no password, so it does not listen on {listen}, which others can reach; name an address of this machine's loopback, such as 127.0.0.1:1080"
                    )));
                }
                let free = std::net::TcpListener::bind(listen);
                free.map(drop).map_err(|source| {
                    port_in_use(ProxyError::Listen {
                        address: *listen,
                        source,
                    })
                })
            }
            // Its own preparation has looked at the rest.
            #[cfg(target_os = "linux")]
            Self::Host { mode, .. } if rotates => mode.check_beside(),
            #[cfg(target_os = "linux")]
            Self::Host { .. } => Ok(()),
            Self::Export { file } => check_writable(file),
        }
    }
}

pub(super) fn port_in_use(error: ProxyError) -> Failure {
    let code = match &error {
        ProxyError::Listen { .. } => ExitCode::PortInUse,
        _ => ExitCode::Usage,
    };
    Failure::new(code, error.to_string())
}

fn check_writable(file: &Path) -> Result<(), Failure> {
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if folder.is_dir() && !file.is_dir() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "--export wg {} cannot be written; name a file in a folder that exists",
        file.display()
    )))
}
