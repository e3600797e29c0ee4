//! `ipsx demo --keep`: a longer lease to play with, and what to type.

use super::{Stage, begin, wishes};
use crate::cli::DemoArgs;
use crate::connect::{News, Place, interrupted};
use crate::exit_code::Failure;

use super::world::World;

/// How long the lease to play with lasts, in seconds.
const PLAY_SECS: u32 = 3_600;

/// Leases once more, says what can be tried, and waits for Ctrl-C or the lease's end.
pub(super) async fn going(world: World, args: &DemoArgs, stage: &Stage<'_>) -> Result<(), Failure> {
    stage.output.line("");
    let (mut lease, place) = begin(&world, &wishes(args.country, PLAY_SECS), stage).await?;
    while let Some(news) = lease.news.recv().await {
        if matches!(news, News::ExitProven(_)) {
            break;
        }
    }
    tell(&world, &place, stage);
    let mut interrupted = std::pin::pin!(interrupted());
    loop {
        tokio::select! {
            news = lease.news.recv() => if news.is_none() { break },
            () = &mut interrupted => {
                lease.stop();
                break;
            }
        }
    }
    let finished = lease.finished().await?;
    stage.line("ended", finished.ending.reason.to_string());
    place.close().await?;
    world.stop().await;
    Ok(())
}

fn tell(world: &World, place: &Place, stage: &Stage<'_>) {
    let Place::Proxy { proxy, .. } = place else {
        return;
    };
    let (proxy, web, broker) = (proxy.local_addr(), world.web.address(), world.url());
    let folder = world.folder.display();
    let program =
        std::env::current_exe().map_or_else(|_| "ipsx".into(), |path| path.display().to_string());
    let ipsx = |who: &str| {
        format!(
            "{program} --data {folder}/{who} --broker {broker} --passphrase-file {folder}/passphrase"
        )
    };
    let output = stage.output;
    output.json(&serde_json::json!({
        "proxy": proxy,
        "web": format!("http://{web}/"),
        "broker": broker,
        "data": world.folder,
    }));
    output.line("");
    output.line("Everything keeps running, with one more lease of an hour. Ctrl-C ends it. Try:");
    for command in [
        format!("curl -x socks5h://{proxy} http://{web}/"),
        format!("curl -x http://{proxy} http://{web}/bytes/10000000 -o /dev/null"),
        format!("curl {broker}/v1/network"),
        format!("curl {}/metrics", world.admin_url()),
        format!("{} search", ipsx("requester")),
        format!("{} leases", ipsx("requester")),
        format!("{} settle --yes", ipsx("provider-fr")),
        format!("{} wallet show", ipsx("requester")),
    ] {
        output.line(format!("  {command}"));
    }
}
