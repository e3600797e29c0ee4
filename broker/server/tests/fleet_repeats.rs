//! What is posted or signed again in a fleet while somebody is killed: whichever broker hears of it again, a bundle is filled once, and
//! a deal is bound once or not at all.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

#[path = "fleet/asking.rs"]
#[allow(unreachable_pub, reason = "a part of this test")]
mod asking;
#[path = "fleet/cable.rs"]
#[allow(unreachable_pub, dead_code, reason = "a part of this test")]
mod cable;
mod parties;
#[path = "fleet/parts.rs"]
#[allow(unreachable_pub, dead_code, reason = "a part of this test")]
mod parts;
#[path = "fleet/people.rs"]
#[allow(unreachable_pub, dead_code, reason = "a part of this test")]
mod people;
#[path = "fleet/world.rs"]
#[allow(unreachable_pub, dead_code, reason = "a part of this test")]
mod world;

use std::time::Duration;

use asking::{addresses, free, wish};
use futures_util::future::join_all;
use ipsx_market::bundle::Bundle;
use ipsx_market::deal::Proposal;
use ipsx_market::http::{BoundBundle, PostRequest, ProblemKind, ProposedBundle, ProposedDeal};
use ipsx_market::messages::AgentMessage;
use ipsx_market::status::DealStatus;
use ipsx_metering::RequestId;
use ipsx_tests::requester::now;
use parties::TestRequester;
use parties::bundle::{BUNDLES, sign};
use parts::{Lender, Parts};
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep, timeout};
use world::{DEPOSIT, PATIENCE, World, alone};

/// Two brokers with a part of the countries, and one that has neither's.
struct Roles {
    first: usize,
    second: usize,
    third: usize,
}

fn roles(parts: &Parts) -> Roles {
    let mut members = [0, 1, 2];
    members.sort_by_key(|member| parts.of(*member).len());
    let [third, second, first] = members;
    Roles {
        first,
        second,
        third,
    }
}

/// So many lenders of one of a broker's shards, who speak with that broker.
async fn lenders(
    world: &World,
    parts: &Parts,
    at: usize,
    numbers: std::ops::Range<u8>,
) -> Vec<Lender> {
    let shard = parts.of(at)[0];
    let mut lenders = Vec::new();
    for number in numbers {
        lenders.push(world.lender(parts, shard, number, at).await);
    }
    lenders
}

async fn asked(lenders: &mut [Lender]) -> Vec<(u64, Proposal)> {
    join_all(lenders.iter_mut().map(|lender| lender.agent.proposal())).await
}

async fn accept(lender: &mut Lender, (number, terms): &(u64, Proposal)) {
    lender.agent.accept_proposal(*number, terms).await;
}

async fn refuse(lender: &mut Lender, (proposal, _): &(u64, Proposal)) {
    let (proposal, reason) = (*proposal, "not today".into());
    let decline = AgentMessage::DeclineDeal { proposal, reason };
    lender.agent.say(&decline).await;
}

/// Deals of a request that were not turned down.
fn deals(world: &World, id: RequestId) -> String {
    world.sql(&format!(
        "SELECT count(*) FROM deals WHERE request = '{id}' AND status <> 'aborted'"
    ))
}

/// Signs all that came of it: so much of the deposit is promised, and no more.
async fn bind_all(requester: &TestRequester, proposed: &ProposedBundle) {
    let bound: BoundBundle = sign(requester, proposed).await.unwrap();
    let promised = bound.deals.iter().map(|deal| {
        let reservation = deal.reservation.as_ref().unwrap();
        reservation.message.capacity.0
    });
    let rest = DEPOSIT - promised.sum::<u128>();
    requester.take_out(rest + 1).await.unwrap_err();
    requester.take_out(rest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bundle_whose_first_broker_is_killed_is_not_filled_again_by_another() {
    let Some((_alone, mut world)) = alone().await else {
        return;
    };
    let parts = world.parts().await;
    let Roles {
        first,
        second,
        third,
    } = roles(&parts);
    let mut owners = lenders(&world, &parts, first, 10..13).await;
    let mut others = lenders(&world, &parts, second, 20..22).await;
    let lent = addresses(owners.iter().chain(&others));
    let mut requester = world.requester(third).await;
    let request = wish(&mut requester, &lent, 3, false);
    let id = request.id();
    let body = requester.posted(request);

    // The first owner has asked its providers when the broker is killed that waits for it.
    let killing = async {
        let asked = asked(&mut owners).await;
        world.members[third].kill();
        asked
    };
    let posting = requester.post_once(BUNDLES, "k", &body);
    let (answer, asked) = tokio::join!(posting, killing);
    assert!(answer.is_none(), "{answer:?}");
    requester.url = world.url(second);
    let (status, _, early) = requester.post_once(BUNDLES, "k", &body).await.unwrap();
    assert_eq!(status, 409, "{early:?}");

    accept(&mut owners[0], &asked[0]).await;
    accept(&mut owners[1], &asked[1]).await;
    refuse(&mut owners[2], &asked[2]).await;
    let until = Instant::now() + PATIENCE;
    let answer = loop {
        let (status, _, answer) = requester.post_once(BUNDLES, "k", &body).await.unwrap();
        if status != 409 {
            assert_eq!(status, 200, "{answer:?}");
            break answer;
        }
        assert!(Instant::now() < until, "{answer:?}");
        sleep(Duration::from_millis(100)).await;
    };
    let proposed: ProposedBundle = serde_json::from_slice(&answer).unwrap();
    assert_eq!(proposed.deals.len(), 2);
    bind_all(&requester, &proposed).await;
    for other in &mut others {
        let heard = timeout(Duration::from_millis(200), other.agent.hear()).await;
        assert!(heard.is_err(), "{heard:?}");
    }
    assert_eq!(deals(&world, id), "2");
    world.all_owned_by(2).await;
    assert_eq!(free(&requester, &addresses(&others)).await, 2);
    for at in [first, second] {
        requester.url = world.url(at);
        let again = requester.post_once(BUNDLES, "k", &body).await.unwrap();
        assert_eq!(again, (200, true, answer.clone()));
    }
}

/// What a broker that is gone by now had asked another one to place, once that arrives.
async fn place(world: &World, parts: &Parts, at: usize, body: &PostRequest) -> Option<usize> {
    let client = async_nats::connect(format!("nats://{}", world.nats.address));
    let client = client.await.unwrap();
    let network = body.request.message.network;
    let subject = format!("ipsx.{network}.call.{}", parts.name(at));
    let asked = serde_json::json!({
        "method": "POST",
        "path": "/fleet/place",
        "wallet": body.request.message.requester,
    });
    let message = format!("{asked}\n{}", serde_json::to_string(body).unwrap());
    let request = async_nats::Request::new()
        .payload(message.into())
        .timeout(Some(PATIENCE));
    let answer = client.send_request(subject, request).await.unwrap().payload;
    let text = String::from_utf8(answer.to_vec()).unwrap();
    let (_, answer) = text.split_once('\n').unwrap();
    let deals = serde_json::from_str::<serde_json::Value>(answer).unwrap();
    deals.as_array().map(Vec::len)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_brokers_that_fill_the_same_bundle_the_first_one_has() {
    let Some((_alone, world)) = alone().await else {
        return;
    };
    let parts = world.parts().await;
    let Roles { first, second, .. } = roles(&parts);
    for (round, late_first) in [(0, true), (1, false)] {
        // The one that has more is asked by whoever hears of the request again.
        let number = 10 + 20 * round;
        let mut few = lenders(&world, &parts, second, number..number + 2).await;
        let mut more = lenders(&world, &parts, first, number + 10..number + 13).await;
        let lent = addresses(few.iter().chain(&more));
        let mut requester = world.requester(first).await;
        let request = wish(&mut requester, &lent, 3, false);
        let id = request.id();
        let body = requester.posted(request);
        let late = place(&world, &parts, second, &body);
        let posting = requester.post_once(BUNDLES, "k", &body);
        let signing = async {
            let (fews, mores) = tokio::join!(asked(&mut few), asked(&mut more));
            accept(&mut few[0], &fews[0]).await;
            if late_first {
                // All that it gets, as the second one refuses.
                refuse(&mut few[1], &fews[1]).await;
                sleep(Duration::from_secs(1)).await;
            }
            for (lender, asked) in more.iter_mut().zip(&mores) {
                accept(lender, asked).await;
            }
            if !late_first {
                sleep(Duration::from_secs(1)).await;
                refuse(&mut few[1], &fews[1]).await;
            }
        };
        let (late, answer, ()) = tokio::join!(late, posting, signing);
        let (status, _, answer) = answer.unwrap();
        assert_eq!(status, 200, "{answer:?}");
        let proposed: ProposedBundle = serde_json::from_slice(&answer).unwrap();
        let (filled, left) = match late_first {
            true => (1, [1, 3]),
            false => (3, [2, 0]),
        };
        assert_eq!(late, late_first.then_some(1));
        assert_eq!(proposed.deals.len(), filled);
        assert_eq!(deals(&world, id), filled.to_string());
        bind_all(&requester, &proposed).await;
        assert_eq!(free(&requester, &addresses(&few)).await, left[0]);
        assert_eq!(free(&requester, &addresses(&more)).await, left[1]);
    }
}

/// A broker is killed that has heard a requester's signature, before what binds by it is on disk.
async fn kill_a_signed_deal(
    world: &mut World,
    victim: usize,
    requester: &mut TestRequester,
    proposed: &ProposedDeal,
) {
    let mut lock = PgConnection::connect(&world.postgres.url("market"))
        .await
        .unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE outcomes IN SHARE ROW EXCLUSIVE MODE")
        .execute(&mut lock)
        .await
        .unwrap();
    requester.url = world.url(victim);
    requester.sign_in_vain(proposed).await;
    world.members[victim].kill();
    lock.close().await.unwrap();
    world.all_owned_by(2).await;
    requester.url = world.url((victim + 1) % 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_signature_that_a_killed_broker_had_heard_counts_if_it_is_sent_again_in_time() {
    let Some((_alone, mut world)) = alone().await else {
        return;
    };
    for (round, in_time) in [(0, true), (1, false)] {
        let parts = world.parts().await;
        let victim = roles(&parts).first;
        let mut lenders = lenders(&world, &parts, victim, 10 + round..11 + round).await;
        let lent = addresses(&lenders);
        let mut requester = world.requester(victim).await;
        let mut request = wish(&mut requester, &lent, 1, false);
        request.bundle = Bundle::default();
        let id = request.id();
        let body = requester.posted(request.clone());
        let asking = requester.ask(request);
        let (proposed, deal) = tokio::join!(asking, lenders[0].agent.accept());
        let proposed = proposed.unwrap();
        kill_a_signed_deal(&mut world, victim, &mut requester, &proposed).await;
        let outcomes = format!(
            "SELECT outcome FROM outcomes WHERE deal_id = '{}'",
            deal.id()
        );
        assert_eq!(world.sql(&outcomes), "");
        if in_time {
            let bound = requester.sign(&proposed).await.unwrap();
            assert_eq!(requester.sign(&proposed).await.unwrap(), bound);
            assert_eq!(world.sql(&outcomes), "bound");
            world.come_again(&mut lenders[0], (victim + 1) % 3).await;
            assert_eq!(lenders[0].agent.unfinished, [deal.id()]);
            assert_eq!(free(&requester, &lent).await, 0);
        } else {
            sleep(Duration::from_secs(deal.sign_by.since(now()) + 1)).await;
            let late = requester.sign(&proposed).await.unwrap_err();
            let over = [ProblemKind::Conflict, ProblemKind::NotFound];
            assert!(over.contains(&late.kind), "{late:?}");
            world
                .wait_until("its provider is let go", PATIENCE, |world| {
                    world.sql(&outcomes) == "aborted"
                })
                .await;
            let view = requester.deal(deal.id(), "").await.unwrap();
            assert_eq!(view.status, DealStatus::Expired);
            world.come_again(&mut lenders[0], (victim + 1) % 3).await;
            assert!(lenders[0].agent.unfinished.is_empty());
            assert_eq!(free(&requester, &lent).await, 1);
        }
        // The request leads to nothing else.
        let used = requester.post::<ProposedDeal>("/v1/requests", &body).await;
        assert_eq!(used.unwrap_err().kind, ProblemKind::Conflict);
        let sql = format!("SELECT count(*) FROM deals WHERE request = '{id}'");
        assert_eq!(world.sql(&sql), "1");
        // All of the deposit is free, unless it pays for the lease.
        let taken = requester.take_out(DEPOSIT).await;
        assert_eq!(taken.is_err(), in_time, "{taken:?}");
        world.members[victim].start();
        world.all_owned_by(3).await;
    }
}
