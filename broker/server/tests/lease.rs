//! A lease from the offer to its end, over real sockets, on the embedded chain.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use std::io::ErrorKind;
use std::pin::pin;
use std::time::Duration;

use ipsx_broker::Broker;
use ipsx_broker::config::{ChainConfig, Secret};
use ipsx_market::deal::{Binding, Deal};
use ipsx_market::http::{
    BoundDeal, Connected, DealView, OfferView, PostWithdrawal, Problem, ProblemKind,
    SignedWithdrawal,
};
use ipsx_market::messages::{AgentMessage, BrokerMessage, EndCause};
use ipsx_market::status::{DealStatus, ProviderStatus, RequesterStatus};
use ipsx_metering::{Amount, B256, Close, DealId, Reservation, Signed, TypedData, verify};
use ipsx_settlement::{ClaimRow, Passphrase, Signer, VoucherStore, Wallet};
use parties::{TestAgent, TestBroker, TestRequester};

/// An agent that has many leases must not wait for the disk with each thing that it says.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_heard_while_what_it_said_before_is_on_its_way_to_the_disk() {
    use sqlx::Connection;
    let broker = TestBroker::start().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 2)).await;
    let mut first = TestRequester::with_deposit(&broker, 1_000_000).await;
    let mut second = TestRequester::with_deposit(&broker, 1_000_000).await;
    let requests = (first.request("FR"), second.request("FR"));
    let (mut taken, mut declined) = (pin!(first.ask(requests.0)), pin!(second.ask(requests.1)));
    let one = tokio::select! {
        proposal = agent.proposal() => proposal,
        answer = &mut taken => panic!("{answer:?}"),
    };
    let (two, _) = tokio::select! {
        proposal = agent.proposal() => proposal,
        answer = &mut declined => panic!("{answer:?}"),
    };

    // Nothing gets to the disk while somebody else has the file.
    let file = broker.directory.path().join("data/broker.db");
    let url = format!("sqlite://{}", file.display());
    let mut other = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    let deal = agent.accept_proposal(one.0, &one.1).await;
    let reason = "busy".to_string();
    let decline = AgentMessage::DeclineDeal {
        proposal: two,
        reason,
    };
    agent.say(&decline).await;
    let problem = tokio::select! {
        answer = &mut declined => answer.unwrap_err(),
        answer = &mut taken => panic!("{answer:?} is not on disk"),
    };
    assert_eq!(problem.kind, ProblemKind::Unavailable);
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(taken.await.unwrap().deal, deal);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_goes_from_the_offer_to_its_end() {
    let broker = TestBroker::start().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    let offer = agent.offer(1_000, 1);
    agent.publish(offer).await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;

    let offers: Vec<OfferView> = requester.get("/v1/offers?country=FR").await.unwrap();
    assert_eq!(offers.len(), 1);
    assert_eq!(offers[0].placement.address.to_string(), "127.0.1.1");
    assert_eq!(offers[0].free_leases, 1);

    let request = requester.request("FR");
    let (proposed, deal) = tokio::join!(requester.ask(request), agent.accept());
    let proposed = proposed.unwrap();
    assert_eq!(proposed.deal, deal);
    let id = deal.id();
    verify(
        deal.signing_hash(&requester.info.domain),
        &proposed.provider_signature,
        agent.wallet.address(),
    )
    .unwrap();

    let bound = requester.sign(&proposed).await.unwrap();
    assert_eq!(bound.outcome.message.outcome, Binding::Bound);
    bound
        .outcome
        .verify(&requester.info.domain, requester.info.operator)
        .unwrap();
    let reservation = bound.reservation.clone().unwrap();
    reservation
        .verify(&requester.info.domain, requester.info.operator)
        .unwrap();
    // The average price is 100,000 / 60 s, above the 1,000 asked: a minute at it, at most the budget.
    assert_eq!(reservation.message.capacity, Amount(100_000));
    let (told, released) = agent.bound().await;
    assert_eq!((told, released), (deal.clone(), reservation.clone()));
    // The same signature again gets the same answer.
    assert_eq!(requester.sign(&proposed).await.unwrap(), bound);
    let view = requester.deal(id, "").await.unwrap();
    assert_eq!(view.status, DealStatus::Agreed);
    assert_eq!(
        (view.provider, view.requester),
        (ProviderStatus::Accepted, RequesterStatus::Funded)
    );

    // A long poll ends when the provider is ready; the status stays agreed, so poll the first change.
    agent.ready(id).await;
    let view = until(&requester, id, |view| view.ready.is_some()).await;
    assert_eq!(view.ready.unwrap().control_port, 7);
    let _: DealView = requester
        .post(&format!("/v1/deals/{id}/connected"), &Connected {})
        .await
        .unwrap();
    let serving = AgentMessage::LeaseServing { deal_id: id };
    let waiting = requester.deal(id, "?wait=10&status=agreed");
    let (view, ()) = tokio::join!(waiting, agent.say(&serving));
    assert_eq!(view.unwrap().status, DealStatus::Active);

    // The provider shows a voucher and gets a longer reservation.
    let channel = deal.channel().id();
    let voucher = requester.voucher(channel, 30_000);
    agent
        .say(&AgentMessage::RenewReservation {
            deal_id: id,
            voucher: voucher.clone(),
        })
        .await;
    match agent.hear().await {
        BrokerMessage::ReservationRenewed {
            deal_id,
            reservation,
        } => {
            assert_eq!(deal_id, id);
            assert!(reservation.message.capacity >= Amount(100_000));
        }
        other => panic!("{other:?}"),
    }

    agent
        .end(
            id,
            EndCause::Completed,
            Some(requester.voucher(channel, 60_000)),
        )
        .await;
    let view = until(&requester, id, |view| view.status == DealStatus::Ended).await;
    assert_eq!(view.amount, Some(Amount(78)));
    assert_eq!(view.usage.unwrap().secs, 12);
    assert_eq!(view.cause, Some(EndCause::Completed));
    let offers: Vec<OfferView> = requester.get("/v1/offers").await.unwrap();
    assert_eq!(offers[0].free_leases, 1, "the capacity is free again");
    let outcome: BoundDeal = requester
        .get(&format!("/v1/deals/{id}/outcome"))
        .await
        .unwrap();
    assert_eq!(outcome.outcome, bound.outcome);
    let TestBroker { broker, directory } = broker;
    broker.shutdown().await;
    // The directory is free again, and everything is where it was.
    let again = Broker::start(parties::config(directory.path()))
        .await
        .unwrap();
    requester.url = format!("http://{}", again.http_addr());
    assert_eq!(requester.deal(id, "").await.unwrap(), view);
    again.shutdown().await;
}

/// The record of a deal is what counts of what was promised in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_promise_that_the_vouchers_lack_is_kept_again_at_the_next_start() {
    let broker = TestBroker::start().await;
    let domain = broker.broker.network_info().domain;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 1)).await;
    let mut requester = TestRequester::with_deposit(&broker, 250_000).await;
    let (deal, reservation) = bound_deal(&mut requester, &mut agent, 0).await.unwrap();
    let TestBroker { broker, directory } = broker;
    broker.shutdown().await;
    let config = parties::config(directory.path());
    let vouchers = config.data_dir.join("vouchers.db");
    for end in ["", "-wal", "-shm"] {
        let path = config.data_dir.join(format!("vouchers.db{end}"));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }
    let again = Broker::start(config).await.unwrap();
    let known = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let store = VoucherStore::join(&vouchers, domain).await.unwrap();
            let found = store.channel(deal.channel().id()).await.unwrap();
            store.close().await;
            match found.and_then(|found| found.latest_reservation().cloned()) {
                Some(known) => return known,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    });
    assert_eq!(known.await.unwrap(), reservation);
    again.shutdown().await;
}

/// A bound deal between the two.
async fn bound_deal(
    requester: &mut TestRequester,
    agent: &mut TestAgent,
    salt: u8,
) -> Result<(Deal, Signed<Reservation>), Problem> {
    let mut request = requester.request("FR");
    request.channel_salt = B256::repeat_byte(salt);
    let (proposed, deal) = tokio::join!(requester.ask(request), agent.accept());
    let bound = requester.sign(&proposed?).await;
    // The agent is told either way.
    let told = agent.hear().await;
    let bound = bound?;
    assert!(matches!(told, BrokerMessage::DealBound { .. }));
    Ok((deal, bound.reservation.unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_on_a_node_works_the_same() {
    // The first broker's JSON-RPC is the second one's node.
    let node = TestBroker::start().await;
    let broker = TestBroker::start_with(|config| {
        let secret = "correct horse";
        let path = config.data_dir.with_file_name("operator.json");
        Wallet::create(&path, &Passphrase::new(secret)).unwrap();
        config.wallet = Some(path);
        config.passphrase = Some(Secret::new(secret));
        config.fee_bps = 250;
        config.chain = ChainConfig::Rpc {
            url: format!("{}/rpc", node.url()),
            public_url: None,
            finality: 0,
            centralizer: node.broker.network_info().domain.contract,
            network: None,
        };
    })
    .await;
    let info = broker.broker.network_info().clone();
    assert_ne!(info.network, node.broker.network_info().network);
    assert_eq!(
        (info.fee_bps, info.domain),
        (250, node.broker.network_info().domain)
    );
    assert_eq!(info.chain_rpc, format!("{}/rpc", node.url()));
    let operator = broker.broker.operator().address();
    node.broker
        .grant(operator, Amount(1_000_000))
        .await
        .unwrap();
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 1)).await;
    let mut requester = TestRequester::with_deposit(&broker, 250_000).await;
    let (deal, reservation) = bound_deal(&mut requester, &mut agent, 0).await.unwrap();
    let row = ClaimRow {
        channel: deal.channel(),
        voucher: requester.voucher(deal.channel().id(), 60_000),
        reservation,
    };
    let contract = broker.broker.centralizer();
    contract.settle(&agent.wallet, &[row]).await.unwrap();
    let earned = contract.credits(deal.payout).await.unwrap().amount;
    assert_eq!(earned, Amount(58_500));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_claimed_counts_once() {
    let broker = TestBroker::start().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 1)).await;
    let mut requester = TestRequester::with_deposit(&broker, 250_000).await;
    let (deal, reservation) = bound_deal(&mut requester, &mut agent, 0).await.unwrap();
    let row = ClaimRow {
        channel: deal.channel(),
        voucher: requester.voucher(deal.channel().id(), 60_000),
        reservation,
    };
    let contract = broker.broker.centralizer();
    contract.settle(&agent.wallet, &[row]).await.unwrap();
    // 250,000 less 60,000 claimed less 40,000 that may still be.
    let to = requester.wallet.address();
    let ask = |amount| PostWithdrawal {
        to,
        amount: Amount(amount),
    };
    let refused = requester
        .post::<SignedWithdrawal>("/v1/withdrawals", &ask(150_001))
        .await;
    assert_eq!(refused.unwrap_err().kind, ProblemKind::InsufficientDeposit);
    requester
        .post::<SignedWithdrawal>("/v1/withdrawals", &ask(150_000))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_channel_frees_the_deposit_within_the_credit_line() {
    let broker = TestBroker::start_with(|config| config.credit_line = Amount(95_000)).await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 2)).await;
    let mut requester = TestRequester::with_deposit(&broker, 150_000).await;
    let (deal, _) = bound_deal(&mut requester, &mut agent, 0).await.unwrap();
    let close = |cumulative| {
        let close = Close {
            channel_id: deal.channel().id(),
            cumulative: Amount(cumulative),
        };
        let close = Signed::sign(close, &agent.domain, agent.wallet.derive(b"payout").key());
        AgentMessage::CloseChannel {
            deal_id: deal.id(),
            close,
        }
    };
    let (early, all, most) = (close(0), close(0), close(10_000));
    // While the lease runs, nothing is freed.
    agent.say(&early).await;
    agent.end(deal.id(), EndCause::ProviderEnded, None).await;
    until(&requester, deal.id(), |view| {
        view.status == DealStatus::ProviderFailed
    })
    .await;
    // More than the operator can afford to rely on.
    agent.say(&all).await;
    let problem = bound_deal(&mut requester, &mut agent, 1).await.unwrap_err();
    assert_eq!(problem.kind, ProblemKind::InsufficientDeposit);
    agent.say(&most).await;
    bound_deal(&mut requester, &mut agent, 2).await.unwrap();
}

async fn until(
    requester: &TestRequester,
    id: DealId,
    done: impl Fn(&DealView) -> bool,
) -> DealView {
    for _ in 0..100 {
        let view = requester.deal(id, "").await.unwrap();
        if done(&view) {
            return view;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("deal {id} did not get there");
}
