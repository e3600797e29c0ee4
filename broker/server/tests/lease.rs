//! A lease from the offer to its end, over real sockets, on the embedded chain.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use ipsx_market::deal::Binding;
use ipsx_market::http::*;
use ipsx_market::messages::{AgentMessage, BrokerMessage, EndCause};
use ipsx_market::status::{DealStatus, ProviderStatus, RequesterStatus};
use ipsx_metering::{Amount, DealId, TypedData, verify};
use ipsx_settlement::Signer;
use parties::{TestAgent, TestBroker, TestRequester};

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
    broker.broker.shutdown().await;
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
