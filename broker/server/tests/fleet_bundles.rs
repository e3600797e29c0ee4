//! Several addresses for one request where three brokers share the market: whoever has as many fills it, wherever it is
//! posted and signed, and all of it is bound or nothing, whoever is killed.
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

use std::collections::BTreeSet;
use std::time::Duration;

use asking::{addresses, free, wish};
use futures_util::future::join_all;
use ipsx_market::fleet::ShardId;
use ipsx_market::http::{BoundBundle, ProblemKind, ProposedBundle};
use ipsx_market::messages::EndCause;
use ipsx_market::resting::RequestStatus;
use ipsx_market::status::DealStatus;
use ipsx_settlement::Wallet;
use parties::TestRequester;
use parties::bundle::{BUNDLES, ask, matched, path, rest, sign, signatures};
use parts::{Lender, Parts};
use tokio::time::{Instant, sleep, timeout};
use world::{DEPOSIT, World, alone};

/// Posts it at one of the brokers; all providers sign.
async fn agree(
    world: &World,
    requester: &mut TestRequester,
    lenders: &mut [Lender; 2],
    at: usize,
) -> ProposedBundle {
    let request = wish(requester, &addresses(&*lenders), 2, true);
    requester.url = world.url(at);
    let accepting = join_all(lenders.iter_mut().map(|lender| lender.agent.accept()));
    let (proposed, _) = tokio::join!(ask(requester, request), accepting);
    proposed.unwrap()
}

/// Where all deals of a requester stand once they stand at the same, at one of these. At no time some are bound and others
/// are not.
async fn all_are(requester: &TestRequester, wanted: &[DealStatus]) -> DealStatus {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let deals = requester.deals().await;
        let statuses: BTreeSet<_> = deals.iter().map(|deal| deal.status).collect();
        let bound = |status: &DealStatus| [DealStatus::Agreed, DealStatus::Ended].contains(status);
        let bound = statuses.iter().filter(|status| bound(status)).count();
        assert!([0, statuses.len()].contains(&bound), "{statuses:?}");
        if let [status] = Vec::from_iter(statuses)[..]
            && wanted.contains(&status)
        {
            return status;
        }
        assert!(Instant::now() < until, "{deals:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Two shards of one broker, by whether both would be another one's after it.
fn pair(parts: &Parts, victim: usize, together: bool) -> Option<[ShardId; 2]> {
    let shards = parts.of(victim);
    let (first, others) = shards.split_first()?;
    let same = |other: &ShardId| parts.heir(*first) == parts.heir(*other);
    match together {
        true => Some([*first, *first]),
        false => Some([*first, others.iter().copied().find(|other| !same(other))?]),
    }
}

/// A broker whose shards would go to both others.
fn victim(parts: &Parts) -> usize {
    let mut members = 0..3;
    let victim = members.find(|member| pair(parts, *member, false).is_some());
    victim.expect("of twelve shards one broker has two with different heirs")
}

async fn lend(world: &World, parts: &Parts, shards: [ShardId; 2], number: u8) -> [Lender; 2] {
    let others = |shard| (parts.owner(shard) + 1) % 3;
    let [a, b] = shards;
    let first = world.lender(parts, a, number, others(a)).await;
    let second = world.lender(parts, b, number + 1, parts.owner(b)).await;
    [first, second]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bundle_is_filled_and_bound_wherever_it_is_posted_and_signed() {
    let Some((_alone, world)) = alone().await else {
        return;
    };
    let parts = world.parts().await;
    let owner = victim(&parts);
    let mut lenders = lend(&world, &parts, pair(&parts, owner, false).unwrap(), 10).await;
    let mut requester = world.requester(0).await;
    let [one, other] = [(owner + 1) % 3, (owner + 2) % 3];

    // Neither posted to the broker that fills it, nor repeated there.
    let lent = addresses(&lenders);
    let request = wish(&mut requester, &lent, 2, true);
    let body = requester.posted(request);
    requester.url = world.url(one);
    // While its providers think, it is said again at another broker.
    let same = Wallet::from_secret(&requester.wallet.secret()).unwrap();
    let http = world.members[other].http;
    let mut elsewhere = TestRequester::at(same, http, requester.info.clone());
    elsewhere.token = requester.token.clone();
    let accepting = async {
        let asked = lenders.iter_mut().map(|lender| lender.agent.proposal());
        let asked = join_all(asked).await;
        let (status, _, early) = elsewhere.post_once(BUNDLES, "k", &body).await.unwrap();
        assert_eq!(status, 409, "{early:?}");
        for (lender, (number, terms)) in lenders.iter_mut().zip(asked) {
            lender.agent.accept_proposal(number, &terms).await;
        }
    };
    let posting = requester.post_once(BUNDLES, "k", &body);
    let (answer, ()) = tokio::join!(posting, accepting);
    let (status, replayed, answer) = answer.unwrap();
    assert_eq!((status, replayed), (200, false), "{answer:?}");
    let proposed: ProposedBundle = serde_json::from_slice(&answer).unwrap();
    assert_eq!(proposed.deals.len(), 2);
    for at in [owner, one, other] {
        requester.url = world.url(at);
        let again = requester.post_once(BUNDLES, "k", &body).await.unwrap();
        assert_eq!(again, (200, true, answer.clone()));
        let view = requester.resting(proposed.request, "").await.unwrap();
        assert_eq!(view.deals, proposed.deals);
        assert_eq!(free(&requester, &lent).await, 0);
    }

    // Some of the signatures are as good as none, at any broker.
    let body = signatures(&requester, &proposed);
    let mut part = body.clone();
    part.signatures.truncate(1);
    let to = path(&proposed);
    for at in 0..3 {
        requester.url = world.url(at);
        let refused = requester.post::<BoundBundle>(&to, &part).await.unwrap_err();
        assert_eq!(refused.kind, ProblemKind::Conflict, "{refused:?}");
        assert!(refused.detail.contains("leased together"), "{refused:?}");
    }
    requester.url = world.url(other);
    let first = requester.post_once(&to, "s", &body).await.unwrap();
    assert_eq!((first.0, first.1), (200, false), "{first:?}");
    let bound: BoundBundle = serde_json::from_slice(&first.2).unwrap();
    assert_eq!(bound.deals.len(), 2);
    for lender in &mut lenders {
        let (deal, _) = lender.agent.bound().await;
        assert_eq!(deal.request, proposed.request);
    }
    for at in 0..3 {
        requester.url = world.url(at);
        let again = requester.post_once(&to, "s", &body).await.unwrap();
        assert_eq!(again, (200, true, first.2.clone()));
        // Without the key it is told once more.
        assert_eq!(sign(&requester, &proposed).await.unwrap(), bound);
    }
    assert_eq!(
        all_are(&requester, &[DealStatus::Agreed]).await,
        DealStatus::Agreed
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_broker_that_has_most_fills_a_bundle_and_one_that_none_can_fill_says_so() {
    let Some((_alone, world)) = alone().await else {
        return;
    };
    let parts = world.parts().await;
    let rich = victim(&parts);
    let poor = (0..3).find(|at| *at != rich && !parts.of(*at).is_empty());
    let poor = poor.expect("another broker has a shard as well");
    let (shard, rich_shard) = (parts.of(poor)[0], parts.of(rich)[0]);
    let [mut a, mut b] = lend(&world, &parts, [rich_shard; 2], 20).await;
    let mut c = world.lender(&parts, shard, 30, rich).await;
    let lent = addresses([&a, &b, &c]);
    let mut requester = world.requester(0).await;

    // Each has too few, and nobody is asked.
    for at in 0..3 {
        requester.url = world.url(at);
        let request = wish(&mut requester, &lent, 3, true);
        let refused = ask(&requester, request).await.unwrap_err();
        assert_eq!((refused.kind, refused.status), (ProblemKind::NoMatch, 404));
        for words in ["2 of 3", "several brokers share this market", "`avoid`"] {
            assert!(refused.detail.contains(words), "{refused:?}");
        }
        assert_eq!(free(&requester, &lent).await, 3);
    }
    for table in ["requests", "deals", "transitions", "outcomes"] {
        let sql = format!("SELECT count(*) FROM {table}");
        assert_eq!(world.sql(&sql), "0", "{table}");
    }

    // One that takes fewer gets two, wherever it is posted, and each may be signed alone.
    requester.url = world.url(poor);
    let request = wish(&mut requester, &lent, 3, false);
    let asked = ask(&requester, request);
    let (fewer, ..) = tokio::join!(asked, a.agent.accept(), b.agent.accept());
    let fewer = fewer.unwrap();
    assert_eq!(fewer.deals.len(), 2);
    requester.sign(&fewer.deals[0]).await.unwrap();
    requester.sign(&fewer.deals[1]).await.unwrap();

    // At rest, until one of them has enough. It is matched once, and signed anywhere.
    let addresses = [(shard, 30), (rich_shard, 22), (shard, 31)];
    let addresses = addresses.map(|(shard, number)| parts.address(shard, number));
    let request = wish(&mut requester, &addresses, 2, true);
    let _d = world.lender(&parts, rich_shard, 22, poor).await;
    let resting = rest(&requester, request).await.unwrap();
    assert_eq!(resting.status, RequestStatus::Resting);
    assert!(
        timeout(Duration::from_secs(1), c.agent.hear())
            .await
            .is_err()
    );
    requester.url = world.url(rich);
    let mut e = world.lender(&parts, shard, 31, rich).await;
    let waiting = matched(&requester, resting.request);
    let (proposed, ..) = tokio::join!(waiting, c.agent.accept(), e.agent.accept());
    assert_eq!(proposed.deals.len(), 2);
    sign(&requester, &proposed).await.unwrap();
    let sql = format!(
        "SELECT count(*) FROM deals WHERE request = '{}'",
        resting.request
    );
    assert_eq!(world.sql(&sql), "2");

    // Taken back at another broker.
    let request = wish(&mut requester, &addresses, 2, true);
    let resting = rest(&requester, request).await.unwrap();
    requester.url = world.url(poor);
    let view = requester.cancel(resting.request).await.unwrap();
    assert_eq!(view.status, RequestStatus::Cancelled);
}

/// Two requesters that have what two providers each have signed: of one all would go to one other broker if their owner
/// were gone, of the other not.
struct Proposed {
    whole: (TestRequester, ProposedBundle, [Lender; 2]),
    torn: (TestRequester, ProposedBundle, [Lender; 2]),
}

async fn proposed(world: &World, parts: &Parts, victim: usize, number: u8) -> Proposed {
    let mut both = Vec::new();
    for (at, together) in [(0, true), (2, false)] {
        let shards = pair(parts, victim, together).unwrap();
        let mut lenders = lend(world, parts, shards, number + at).await;
        let mut requester = world.requester(victim).await;
        let proposed = agree(world, &mut requester, &mut lenders, victim).await;
        requester.url = world.url((victim + 1) % 3);
        both.push((requester, proposed, lenders));
    }
    let [whole, torn] = both.try_into().ok().unwrap();
    Proposed { whole, torn }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bundle_whose_broker_is_killed_is_bound_as_a_whole_or_over() {
    let Some((_alone, mut world)) = alone().await else {
        return;
    };
    // Before its requester signs, and while it does.
    for (round, millis) in [None, Some(5), Some(30), Some(100)].into_iter().enumerate() {
        let parts = world.parts().await;
        let victim = victim(&parts);
        let Proposed { whole, torn } =
            proposed(&world, &parts, victim, 100 + 10 * round as u8).await;
        let (heirs, parted) = ((whole.0, whole.1), (torn.0, torn.1));
        if let Some(millis) = millis {
            let killing = async {
                sleep(Duration::from_millis(millis)).await;
                world.members[victim].kill();
            };
            let first = sign(&heirs.0, &heirs.1);
            let second = sign(&parted.0, &parted.1);
            // Whatever they are told, if anything.
            let (..) = tokio::join!(first, second, killing);
        } else {
            world.members[victim].kill();
        }
        world.all_owned_by(2).await;

        // One broker has all of it: it is bound.
        let bound = sign(&heirs.0, &heirs.1).await.unwrap();
        assert_eq!(bound.deals.len(), 2);
        assert_eq!(
            all_are(&heirs.0, &[DealStatus::Agreed]).await,
            DealStatus::Agreed
        );
        // Two have a part of it each: it is over, and nothing of the deposit is kept, unless all of it was bound before.
        let over = [DealStatus::Aborted, DealStatus::Ended];
        let over = all_are(&parted.0, &over).await;
        println!("round {round}, killed after {millis:?} ms: {over:?}");
        let again = sign(&parted.0, &parted.1).await;
        if over == DealStatus::Aborted {
            let refused = again.unwrap_err();
            let kinds = [ProblemKind::NotFound, ProblemKind::Conflict];
            assert!(kinds.contains(&refused.kind), "{refused:?}");
            parted.0.take_out(DEPOSIT).await.unwrap();
        } else {
            assert_eq!(again.unwrap().deals.len(), 2);
        }
        let refused = heirs.0.take_out(DEPOSIT).await.unwrap_err();
        assert_eq!(refused.kind, ProblemKind::InsufficientDeposit);

        // What is leased is not for sale, and what is over is.
        let survivor = (victim + 1) % 3;
        let (mut leased, mut given_back) = (whole.2, torn.2);
        for lender in leased.iter_mut().chain(&mut given_back) {
            world.come_again(lender, survivor).await;
        }
        if over == DealStatus::Ended {
            for lender in &mut given_back {
                let unfinished = lender.agent.unfinished.clone();
                for id in unfinished {
                    lender.agent.end(id, EndCause::NotStarted, None).await;
                }
            }
        }
        assert_eq!(free(&heirs.0, &addresses(&leased)).await, 0);
        let mut other = world.requester(survivor).await;
        let request = wish(&mut other, &addresses(&given_back), 1, true);
        let [a, b] = &mut given_back;
        let accepting = async {
            tokio::select! { deal = a.agent.accept() => deal, deal = b.agent.accept() => deal }
        };
        let (proposed, _) = tokio::join!(ask(&other, request), accepting);
        sign(&other, &proposed.unwrap()).await.unwrap();

        world.members[victim].start();
        world.all_owned_by(3).await;
    }
}
