#![allow(clippy::unwrap_used)]

use ipsx_metering::{Amount, Signature};

use super::world::*;
use super::*;
use crate::deal::Binding;
use crate::messages::{BrokerMessage, EndCause};
use crate::record::Cause;
use crate::request::SignedRequest;
use crate::status::{DealStatus, ProviderStatus, RequesterStatus};

#[test]
fn a_deal_goes_from_the_request_to_its_end() {
    let mut world = World::with_offers(&[(1, 5, 1)]);
    let deal = world.bound_deal(50, 1);
    let (id, provider, requester) = (deal.id(), key(1).address(), key(50).address());
    assert_eq!(world.status(&deal), DealStatus::Agreed);
    assert_eq!(world.free(), 0);
    assert!(matches!(
        world.told.last().unwrap().1,
        BrokerMessage::DealBound { .. }
    ));
    let commands = world
        .market
        .ready(provider, id, ready(), world.now)
        .unwrap();
    world.run(commands);
    let commands = world.market.connected(requester, id, world.now).unwrap();
    world.run(commands);
    let commands = world.market.serving(provider, id, world.now).unwrap();
    world.run(commands);
    assert_eq!(world.status(&deal), DealStatus::Active);
    let commands =
        world
            .market
            .provider_ended(provider, id, report(EndCause::Completed), world.now);
    world.run(commands.unwrap());
    assert_eq!(world.status(&deal), DealStatus::Ended);
    assert_eq!(world.free(), 1);
    assert_eq!(world.stored[&id].view().amount, Some(Amount(5)));
    assert_eq!(
        world.market.poll_timeout(),
        world.market.book().next_expiry().map(|at| at.after(1))
    );
}

#[test]
fn the_next_best_is_asked_when_one_declines_is_silent_or_cheats() {
    let mut world = World::with_offers(&[(1, 3, 1), (2, 4, 1), (3, 5, 1)]);
    let ticket = world.ask(50);
    let (provider, number, _) = world.proposals.remove(0);
    assert_eq!(provider, key(1).address());
    let commands = world
        .market
        .decline(provider, number, "no\nlonger", world.now);
    world.run(commands);
    // The second one signs something else.
    let (provider, number, _) = world.proposals.remove(0);
    assert_eq!(provider, key(2).address());
    let wrong = Signature([1; 65]);
    let commands = world
        .market
        .accept(provider, number, &terms(2), wrong, world.now);
    world.run(commands);
    assert_eq!(world.proposals[0].0, key(3).address());
    assert_eq!(world.free(), 2, "the others are free again");
    world.wait(6);
    let failure = world.answers[&ticket].clone().unwrap_err();
    assert_eq!(
        failure,
        RequestFailure::NoneSigned {
            asked: 3,
            reason: "it did not answer".into()
        }
    );
    assert_eq!(world.free(), 3);
    assert!(world.stored.is_empty());
}

#[test]
fn nobody_else_can_answer_a_proposal() {
    let mut world = World::with_offers(&[(1, 3, 1), (2, 9, 1)]);
    world.ask(50);
    let (_, number, _) = world.proposals[0].clone();
    let stranger = key(2).address();
    assert!(
        world
            .market
            .decline(stranger, number, "x", world.now)
            .is_empty()
    );
    let signature = Signature([1; 65]);
    assert!(
        world
            .market
            .accept(stranger, number, &terms(2), signature, world.now)
            .is_empty()
    );
    assert_eq!(world.market.pending(), 1);
}

#[test]
fn a_requester_that_does_not_sign_frees_the_capacity() {
    let mut world = World::with_offers(&[(1, 3, 1)]);
    world.ask(50);
    let deal = world.accept(1);
    world.wait(20);
    assert_eq!(
        world.status(&deal),
        DealStatus::Proposed,
        "sign_by itself still counts"
    );
    let address = key(50).address();
    let stranger = world
        .market
        .sign(deal.id(), key(51).address(), Signature([1; 65]), world.now);
    assert_eq!(stranger, Err(DealRefusal::NotYours(deal.id())));
    let forged = world
        .market
        .sign(deal.id(), address, Signature([1; 65]), world.now);
    assert!(matches!(forged, Err(DealRefusal::Signature(_))));
    world.wait(1);
    assert_eq!(world.status(&deal), DealStatus::Expired);
    assert_eq!(world.outcomes[&deal.id()], Binding::Aborted);
    assert_eq!(world.free(), 1);
    assert!(
        world
            .market
            .sign(deal.id(), address, Signature([1; 65]), world.now)
            .is_err()
    );
}

#[test]
fn a_signature_is_written_down_with_what_comes_of_it() {
    let causes = |commands: &[Command]| -> Vec<_> {
        let written = commands.iter().filter_map(|command| match command {
            Command::Store {
                record,
                transitions,
            } => {
                assert!(record.requester_signature.is_some());
                Some(transitions)
            }
            _ => None,
        });
        written.flatten().map(|moved| moved.cause).collect()
    };
    let mut world = World::with_offers(&[(1, 3, 2)]);
    world.ask(50);
    let unfunded = world.accept(1);
    world.sign(50, &unfunded);
    let commands = world.market.give_up(unfunded.id(), world.now);
    assert_eq!(causes(&commands), [Cause::Signed, Cause::Unfunded]);
    world.run(commands);
    assert_eq!(world.status(&unfunded), DealStatus::Aborted);

    // The chain has not answered by the time at which the lease should have begun.
    world.ask(50);
    let late = world.accept(1);
    world.sign(50, &late);
    let commands = world.market.handle_timeout(late.start_by.after(1));
    assert_eq!(causes(&commands), [Cause::Signed, Cause::Deadline]);
}

#[test]
fn a_deal_is_bound_once_and_only_with_both_signatures() {
    let mut world = World::with_offers(&[(1, 3, 1)]);
    world.ask(50);
    let deal = world.accept(1);
    assert!(world.market.may_bind(deal.id(), world.now).is_err());
    world.sign(50, &deal);
    assert!(world.market.may_bind(deal.id(), world.now).is_ok());
    assert!(
        world
            .market
            .may_bind(deal.id(), deal.start_by.after(1))
            .is_err()
    );
    world.bind(&deal);
    assert!(world.market.may_bind(deal.id(), world.now).is_err());
    assert!(
        world.market.give_up(deal.id(), world.now).is_empty(),
        "bound deals are not given up"
    );
}

#[test]
fn a_deal_that_can_not_be_funded_is_aborted() {
    let mut world = World::with_offers(&[(1, 3, 1)]);
    world.ask(50);
    let deal = world.accept(1);
    world.sign(50, &deal);
    let commands = world.market.give_up(deal.id(), world.now);
    world.run(commands);
    assert_eq!(world.status(&deal), DealStatus::Aborted);
    assert_eq!(world.outcomes[&deal.id()], Binding::Aborted);
    assert_eq!(world.free(), 1);
}

#[test]
fn who_does_not_start_in_time_is_to_blame() {
    // The provider is never ready.
    let mut world = World::with_offers(&[(1, 3, 1)]);
    let deal = world.bound_deal(50, 1);
    world.wait(61);
    assert_eq!(world.status(&deal), DealStatus::ProviderFailed);
    assert_eq!(world.free(), 1);
    // The requester never connects.
    let mut world = World::with_offers(&[(1, 3, 1)]);
    let deal = world.bound_deal(50, 1);
    let provider = key(1).address();
    let commands = world
        .market
        .ready(provider, deal.id(), ready(), world.now)
        .unwrap();
    world.run(commands);
    world.wait(61);
    assert_eq!(world.status(&deal), DealStatus::NoShow);
    let end = world.told.last().unwrap();
    assert!(
        matches!(end, (p, BrokerMessage::EndLease { cause: EndCause::NotStarted, .. }) if *p == provider)
    );
    assert_eq!(world.free(), 0, "the peer may still be open");
    let late = world.market.serving(provider, deal.id(), world.now);
    assert!(matches!(late, Err(DealRefusal::State { .. })));
    let commands =
        world
            .market
            .provider_ended(provider, deal.id(), report(EndCause::NotStarted), world.now);
    world.run(commands.unwrap());
    assert_eq!((world.status(&deal), world.free()), (DealStatus::NoShow, 1));
}

#[test]
fn an_agent_that_vanishes_has_a_while_to_come_back() {
    let mut world = World::with_offers(&[(1, 3, 2)]);
    let deal = world.bound_deal(50, 1);
    let (id, provider) = (deal.id(), key(1).address());
    for commands in [
        world
            .market
            .ready(provider, id, ready(), world.now)
            .unwrap(),
        world.market.serving(provider, id, world.now).unwrap(),
    ] {
        world.run(commands);
    }
    assert_eq!(
        world.stored[&id].requester,
        RequesterStatus::Connected,
        "a voucher proves the tunnel"
    );
    let commands = world.market.agent_left(provider, world.now);
    world.run(commands);
    assert!(world.market.book().is_empty(), "its offers leave at once");
    world.wait(20);
    let (unfinished, commands) = world.market.agent_joined(provider);
    world.run(commands);
    assert_eq!(unfinished, [id]);
    world.wait(20);
    assert_eq!(world.status(&deal), DealStatus::Active);
    let commands = world.market.agent_left(provider, world.now);
    world.run(commands);
    world.wait(31);
    assert_eq!(world.status(&deal), DealStatus::ProviderFailed);
    assert_eq!(world.stored[&id].cause, Some(EndCause::NoService));
    assert_eq!(world.market.agent_joined(provider).0, []);
    let mut record = world.stored[&id].clone();
    record.late_report(report(EndCause::Unpaid), world.now);
    assert_eq!(
        (record.status(), record.view().amount),
        (DealStatus::ProviderFailed, Some(Amount(5)))
    );
}

#[test]
fn an_agent_that_vanishes_before_the_signature_costs_nobody_a_reservation() {
    let mut world = World::with_offers(&[(1, 3, 1), (2, 4, 1)]);
    world.ask(50);
    let deal = world.accept(1);
    let ticket = world.ask(51);
    let commands = world.market.agent_left(key(1).address(), world.now);
    world.run(commands);
    assert_eq!(world.status(&deal), DealStatus::Expired);
    // Another request that waits for a vanished agent goes on to the next offer.
    let commands = world.market.agent_left(key(2).address(), world.now);
    world.run(commands);
    assert!(world.answers[&ticket].is_err());
}

#[test]
fn the_requester_ends_and_the_provider_confirms_or_not() {
    for confirms in [true, false] {
        let mut world = World::with_offers(&[(1, 3, 1)]);
        let deal = world.bound_deal(50, 1);
        let (id, provider, requester) = (deal.id(), key(1).address(), key(50).address());
        let commands = world
            .market
            .ready(provider, id, ready(), world.now)
            .unwrap();
        world.run(commands);
        let commands = world.market.requester_ended(
            requester,
            id,
            report(EndCause::RequesterEnded),
            world.now,
        );
        world.run(commands.unwrap());
        assert_eq!(world.status(&deal), DealStatus::Ended);
        assert!(matches!(
            world.told.last().unwrap().1,
            BrokerMessage::EndLease { .. }
        ));
        assert_eq!(world.free(), 0);
        if confirms {
            // Even a failure does not change how it came out.
            let commands =
                world
                    .market
                    .provider_ended(provider, id, report(EndCause::Restarted), world.now);
            world.run(commands.unwrap());
            assert_eq!(world.stored[&id].provider, ProviderStatus::Ended);
        } else {
            world.wait(61);
            assert_eq!(world.stored[&id].provider, ProviderStatus::Silent);
        }
        assert_eq!((world.status(&deal), world.free()), (DealStatus::Ended, 1));
    }
}

#[test]
fn one_channel_serves_one_lease_at_a_time() {
    let mut world = World::with_offers(&[(1, 3, 5)]);
    let mut posted = request(50, 1).message;
    let commands = [1, 2].map(|nonce| {
        posted.nonce = nonce;
        SignedRequest::sign(posted.clone(), &config().domain, &key(50), &key(50))
    });
    for (number, request) in commands.into_iter().enumerate() {
        let ticket = Ticket(number as u64 + 1);
        let commands =
            world
                .market
                .request(ticket, request, B256::repeat_byte(number as u8), world.now);
        world.run(commands);
    }
    world.accept(1);
    world.accept(1);
    let refused: Vec<_> = world.answers.values().filter(|a| a.is_err()).collect();
    assert_eq!((world.answers.len(), refused.len()), (2, 1));
    assert!(
        refused[0]
            .clone()
            .unwrap_err()
            .to_string()
            .contains("channel_salt")
    );
}

#[test]
fn unstarted_deals_are_limited() {
    let mut world = World::with_offers(&[(1, 3, 9)]);
    for _ in 0..3 {
        world.ask(50);
    }
    let ticket = world.ask(50);
    assert_eq!(
        world.answers[&ticket],
        Err(RequestFailure::TooManyUnstarted(3))
    );
    let other = world.ask(51);
    assert!(
        !world.answers.contains_key(&other),
        "others are asked for as ever"
    );
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let mut world = World::with_offers(&[(1, 3, 2)]);
    let bound = world.bound_deal(50, 1);
    world.ask(51);
    let unsigned = world.accept(1);
    world.restart();
    let provider = key(1).address();
    let (unfinished, commands) = world.market.agent_joined(provider);
    world.run(commands);
    assert_eq!(unfinished, [bound.id()]);
    assert!(
        matches!(&world.told.last().unwrap().1, BrokerMessage::DealBound { deal, .. } if **deal == bound)
    );
    world
        .market
        .place(offer(1, 3, 2), placement(1), NOW)
        .unwrap();
    assert_eq!(world.free(), 0, "held capacity is remembered");
    world.sign(51, &unsigned);
    world.bind(&unsigned);
    world.wait(61);
    assert_eq!(world.status(&bound), DealStatus::ProviderFailed);
    assert_eq!(world.status(&unsigned), DealStatus::ProviderFailed);
    assert_eq!(world.free(), 2);
}
