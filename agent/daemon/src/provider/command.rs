//! `ipsx provide`: consent, start, a line for each event, a clean end.

use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use ipsx_agent_core::provider::{ConsentText, ProviderEvent};
use ipsx_settlement::Signer;
#[cfg(target_os = "linux")]
use ipsx_tunnel_os::TunnelError;
use serde::Serialize;

use super::args::ProvideArgs;
use super::config::ProviderConfig;
use super::error::ProviderError;
use super::lines::line;
use super::running::{accept_consent, consent_given, consent_text, start};
use crate::broker::Broker;
use crate::clock::unix_now;
use crate::config::Settings;
use crate::exit_code::{ExitCode, Failure};
use crate::network::Network;
use crate::output::Output;
use crate::wallet;

/// After this long a start is over: the wallet is open, the offer placed.
const STARTING: Duration = Duration::from_secs(5);

/// Runs `ipsx provide` until SIGINT or SIGTERM.
pub async fn run(args: ProvideArgs, settings: &Settings, output: &Output) -> Result<(), Failure> {
    if args.clean_up {
        return clean_up(settings, output);
    }
    let wallet = wallet::open(settings).await?;
    let broker = Broker::new(&settings.broker);
    let mut network = Network::join(settings, &broker).await?;
    network.agents = broker.agents(&network.info).await;
    let config = args.config(network, settings.data.clone())?;
    ask_consent(&config, args.accept_consent, wallet.address(), output).await?;
    let mut provider = start(config, wallet).await?;
    output.line(format!(
        "WireGuard endpoint on {}, key {}",
        provider.listen(),
        provider.tunnel_key()
    ));
    if let Some(address) = provider.metrics() {
        output.line(format!("metrics at http://{address}/metrics"));
    }
    let mut asked_to_stop = std::pin::pin!(asked_to_stop());
    let mut started = std::pin::pin!(tokio::time::sleep(STARTING));
    let mut starting = true;
    loop {
        tokio::select! {
            () = &mut started, if starting => {
                starting = false;
                ipsx_tunnel_os::forget_start();
            }
            event = provider.event() => match event {
                Some(event) => show(&event, output),
                None => return Err(Failure::new(ExitCode::Internal, "the tunnel has ended by itself")),
            },
            () = &mut asked_to_stop => break,
        }
    }
    output.line("stopping: leases end, the market is told");
    for event in provider.shutdown().await {
        show(&event, output);
    }
    Ok(())
}

/// Undoes what kernel exits left.
#[cfg(target_os = "linux")]
fn clean_up(settings: &Settings, output: &Output) -> Result<(), Failure> {
    let cleaned = ipsx_tunnel_os::clean_up(&settings.data)
        .map_err(|error| ProviderError::from(TunnelError::from(error)))?;
    if cleaned.is_empty() {
        output.line("nothing to clean up");
    }
    for interface in &cleaned {
        output.line(format!("cleaned up after {interface}"));
    }
    output.json(&serde_json::json!({ "cleaned_up": cleaned }));
    Ok(())
}

/// Userspace exits leave nothing behind.
#[cfg(not(target_os = "linux"))]
fn clean_up(_: &Settings, output: &Output) -> Result<(), Failure> {
    output.line("nothing to clean up");
    output.json(&serde_json::json!({ "cleaned_up": [] }));
    Ok(())
}

async fn ask_consent(
    config: &ProviderConfig,
    accepted: bool,
    wallet: ipsx_metering::Address,
    output: &Output,
) -> Result<(), Failure> {
    if consent_given(config, wallet).await? {
        return Ok(());
    }
    let text = consent_text(config);
    if !accepted {
        if output.is_json() || !std::io::stdin().is_terminal() {
            return Err(ProviderError::ConsentMissing.into());
        }
        if !asked(&text).await? {
            return Err(Failure::usage("not accepted: nothing was started"));
        }
    }
    accept_consent(config, wallet).await?;
    output.line("consent recorded");
    Ok(())
}

/// Shows the text and waits for a person's answer.
async fn asked(text: &ConsentText) -> Result<bool, Failure> {
    let shown = format!("{}\nType yes to accept: ", text.text());
    let answer = tokio::task::spawn_blocking(move || -> std::io::Result<String> {
        let mut terminal = std::io::stderr().lock();
        terminal.write_all(shown.as_bytes())?;
        terminal.flush()?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        Ok(answer)
    });
    let answer = answer.await.map_err(Failure::internal)?;
    let answer = answer.map_err(|error| {
        Failure::usage(format!(
            "no answer can be read: {error}; pass --accept-consent"
        ))
    })?;
    Ok(answer.trim().eq_ignore_ascii_case("yes"))
}

/// An event as a program reads it.
#[derive(Serialize)]
struct Line<'a> {
    at: ipsx_metering::UnixSeconds,
    #[serde(flatten)]
    event: &'a ProviderEvent,
}

fn show(event: &ProviderEvent, output: &Output) {
    output.line(line(event));
    output.json(&Line {
        at: unix_now(),
        event,
    });
}

/// Waits for SIGINT or SIGTERM.
async fn asked_to_stop() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    if let Ok(mut terminate) =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
    {
        tokio::select! {
            _ = interrupt => {}
            _ = terminate.recv() => {}
        }
        return;
    }
    let _ = interrupt.await;
}
