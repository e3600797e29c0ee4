//! Three brokers of one network as processes, over PostgreSQL and NATS: under load each is killed in turn, cut off and
//! paused, and both servers are restarted and slow. Nothing is sold twice, no lease that was bound is lost, and soon
//! everything is for sale again.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

#[path = "fleet/cable.rs"]
#[allow(unreachable_pub, reason = "a part of this test")]
mod cable;
mod parties;
#[path = "fleet/parts.rs"]
#[allow(unreachable_pub, dead_code, reason = "a part of this test")]
mod parts;
#[path = "fleet/people.rs"]
#[allow(unreachable_pub, reason = "a part of this test")]
mod people;
#[path = "fleet/relays.rs"]
mod relays;
#[path = "fleet/world.rs"]
#[allow(unreachable_pub, reason = "a part of this test")]
mod world;

use std::time::{Duration, Instant};

use ipsx_market::http::{ProblemKind, RequesterEndpoint};
use ipsx_market::messages::BrokerMessage;
use ipsx_market::request::Request;
use ipsx_market::resting::RequestStatus;
use ipsx_metering::RequestId;
use parties::TestRequester;
use tokio::sync::MutexGuard;
use tokio::time::{sleep, timeout};
use world::{PATIENCE, World, agent, alone};

/// Service is back within this time.
const BACK: Duration = Duration::from_secs(5);
/// The same with agents and requesters at work.
async fn busy() -> Option<(MutexGuard<'static, ()>, World)> {
    let (alone, mut world) = alone().await?;
    world.populate().await;
    world.settle().await;
    Some((alone, world))
}

/// How long it took until everything was for sale again.
struct Pause {
    what: String,
    back: Duration,
}

impl World {
    /// Waits until everything is for sale again at a broker, and some seconds more. Also says how long there was no new lease
    /// in one of the countries at most.
    async fn recover(&self, what: String, at: usize, since: Instant) -> Pause {
        let back = self.back(at, since, PATIENCE).await;
        sleep(Duration::from_secs(2)).await;
        let longest = self.longest_pause(since);
        println!("{what}: all offers back after {back:?}, longest pause {longest:?}");
        Pause { what, back }
    }

    /// Waits until all three brokers have their share and find everything.
    async fn settle(&self) {
        self.all_owned_by(3).await;
        for at in 0..3 {
            self.back(at, Instant::now(), PATIENCE).await;
        }
        sleep(Duration::from_secs(1)).await;
    }

    /// Everything that was promised holds, and nothing took longer than it may.
    async fn finish(&self, pauses: &[Pause]) {
        self.wait_until("of every lease its provider hears", PATIENCE, |world| {
            world.unheard() == 0
        })
        .await;
        self.check();
        for pause in pauses {
            let Pause { what, back } = pause;
            assert!(*back < BACK, "{what}: {back:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_brokers_outlive_each_of_them_and_a_cut() {
    let Some((_alone, mut world)) = busy().await else {
        return;
    };
    let mut pauses = Vec::new();
    for victim in 0..3 {
        let killed = Instant::now();
        world.members[victim].kill();
        let what = format!("b{} killed", victim + 1);
        pauses.push(world.recover(what, (victim + 1) % 3, killed).await);
        world.members[victim].start();
        world.settle().await;
    }
    // One that is cut off from everything, then one that only the others can't reach.
    for (victim, postgres) in [(0, true), (1, false)] {
        let cut = Instant::now();
        world.members[victim].to_nats.cut();
        if postgres {
            world.members[victim].to_postgres.cut();
        }
        let what = format!("b{} cut off", victim + 1);
        pauses.push(world.recover(what, (victim + 1) % 3, cut).await);
        world.members[victim].to_nats.mend();
        world.members[victim].to_postgres.mend();
        world.settle().await;
    }
    world.finish(&pauses).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pause_and_servers_that_restart_or_are_slow_cost_no_lease() {
    let Some((_alone, mut world)) = busy().await else {
        return;
    };
    let mut pauses = Vec::new();
    // It wakes up with the belief that its shards are its own.
    let paused = Instant::now();
    world.members[2].signal("STOP");
    pauses.push(world.recover("b3 paused".into(), 0, paused).await);
    world.members[2].signal("CONT");
    world.settle().await;

    world.nats.kill();
    sleep(Duration::from_secs(3)).await;
    world.nats.restart();
    let what = "NATS back after 3 s".into();
    pauses.push(world.recover(what, 0, Instant::now()).await);
    world.settle().await;

    world.postgres.restart();
    let what = "PostgreSQL back".into();
    pauses.push(world.recover(what, 1, Instant::now()).await);
    world.settle().await;

    let (before, slow) = (world.leases(), Instant::now());
    for member in &world.members {
        member.to_nats.delay(Duration::from_millis(100));
    }
    sleep(Duration::from_secs(8)).await;
    let leases = world.leases() - before;
    let longest = world.longest_pause(slow);
    println!("NATS 200 ms away: {leases} leases in 8 s, longest pause {longest:?}");
    assert!(leases > 5 && longest < BACK, "{leases} leases, {longest:?}");
    for member in &world.members {
        member.to_nats.delay(Duration::ZERO);
    }
    world.settle().await;
    world.finish(&pauses).await;
}

/// A request for one of these addresses that rests for so many seconds.
fn resting(requester: &mut TestRequester, addresses: &[&str], seconds: u64) -> Request {
    let mut request = requester.request("FR");
    request.filter.countries.clear();
    request.filter.prefixes = addresses
        .iter()
        .map(|address| format!("{address}/32").parse().unwrap())
        .collect();
    request.channel_salt = ipsx_metering::B256::left_padding_from(&request.nonce.to_be_bytes());
    request.rest_until = ipsx_tests::requester::now().after(seconds);
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whichever_broker_hears_where_a_requester_is_its_provider_is_told() {
    let Some((_alone, world)) = alone().await else {
        return;
    };
    let mut lender = agent(&world, "127.0.1.203", 0).await;
    lender.publish(lender.offer(1_000, 1)).await;
    let mut requester = world.requester(0).await;
    let request = requester.request("FR");
    let (proposed, deal) = tokio::join!(requester.ask(request), lender.accept());
    requester.sign(&proposed.unwrap()).await.unwrap();
    lender.bound().await;
    let path = format!("/v1/deals/{}/endpoint", deal.id());
    let tell = |endpoint: &str| RequesterEndpoint {
        endpoint: endpoint.parse().unwrap(),
    };
    for at in 0..3 {
        requester.url = world.url(at);
        let elsewhere = tell("127.0.0.2:4000");
        let refused = requester.post::<()>(&path, &elsewhere).await.unwrap_err();
        assert_eq!(refused.kind, ProblemKind::InvalidRequest, "{refused:?}");
        let own = tell(&format!("127.0.0.1:400{at}"));
        requester.post::<()>(&path, &own).await.unwrap();
        let punch = BrokerMessage::Punch {
            deal_id: deal.id(),
            endpoint: own.endpoint,
        };
        assert_eq!(lender.hear().await, punch);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_rests_at_all_brokers_and_is_matched_once() {
    let Some((_alone, mut world)) = alone().await else {
        return;
    };
    let mut requester = world.requester(0).await;
    let deals = |world: &World, id: RequestId| {
        let sql = format!("SELECT count(*) FROM deals WHERE request = '{id}'");
        world.sql(&sql)
    };

    // The broker that took it is gone when the agent comes.
    let request = resting(&mut requester, &["127.0.1.201"], 60);
    let kept = requester.rest_as(request).await.unwrap();
    world.members[0].kill();
    requester.url = world.url(1);
    world.all_owned_by(2).await;
    let mut lender = agent(&world, "127.0.1.201", 2).await;
    lender.publish(lender.offer(1_000, 1)).await;
    let waiting = requester.resting(kept.request, "?wait=20");
    let (view, deal) = tokio::join!(waiting, lender.accept());
    let view = view.unwrap();
    assert_eq!(view.status, RequestStatus::Matched);
    let [proposed] = view.deals.try_into().unwrap();
    assert_eq!(proposed.deal_id, deal.id());
    requester.sign(&proposed).await.unwrap();
    world.members[0].start();
    world.all_owned_by(3).await;

    // Three brokers have an agent for the same request at the same moment.
    for round in 0..4 {
        let addresses = [1, 2, 3].map(|net| format!("127.0.{net}.{}", 210 + round));
        let addresses = addresses.each_ref().map(String::as_str);
        let request = resting(&mut requester, &addresses, 60);
        let kept = requester.rest_as(request).await.unwrap();
        let mut lenders = Vec::new();
        for (at, from) in addresses.into_iter().enumerate() {
            lenders.push(agent(&world, from, at).await);
        }
        let accepting = lenders.iter_mut().map(|lender| async {
            lender.publish(lender.offer(1_000, 1)).await;
            // Some are never asked.
            timeout(Duration::from_secs(3), lender.accept())
                .await
                .is_ok()
        });
        let asked = futures_util::future::join_all(accepting).await;
        let view = requester.resting(kept.request, "?wait=10").await.unwrap();
        assert_eq!(view.status, RequestStatus::Matched, "{asked:?}");
        assert_eq!(deals(&world, kept.request), "1", "{asked:?}");
        println!("round {round}: asked {asked:?}");
    }

    // Taken back at another broker than the one it was posted to, and one whose time is up.
    let request = resting(&mut requester, &["127.0.1.202"], 60);
    let cancelled = requester.rest_as(request).await.unwrap().request;
    requester.url = world.url(2);
    let view = requester.cancel(cancelled).await.unwrap();
    assert_eq!(view.status, RequestStatus::Cancelled);
    let request = resting(&mut requester, &["127.0.1.202"], 2);
    let expired = requester.rest_as(request).await.unwrap().request;
    let view = requester.resting(expired, "?wait=10").await.unwrap();
    assert_eq!(view.status, RequestStatus::Expired);
    let mut late = agent(&world, "127.0.1.202", 0).await;
    late.publish(late.offer(1_000, 1)).await;
    assert!(timeout(Duration::from_secs(1), late.hear()).await.is_err());
    for id in [cancelled, expired] {
        assert_eq!(deals(&world, id), "0");
        let sql = format!("SELECT count(*) FROM transitions WHERE request = '{id}'");
        assert_eq!(world.sql(&sql), "2", "at rest, and over once");
    }
}
