#![allow(clippy::unwrap_used)]

use ipsx_metering::{Signature, TypedData};

use super::super::world::*;
use super::super::{Answered, DealRefusal};
use super::*;
use crate::avoid::Distinct;
use crate::deal::Deal;

impl World {
    /// Three leases of three providers, which they have signed.
    fn three(&mut self) -> [Deal; 3] {
        self.ask_for(50, 3, Distinct::Provider, true);
        [1, 2, 3].map(|provider| self.accept(provider))
    }

    /// The same, bound.
    fn three_bound(&mut self) -> [Deal; 3] {
        let deals = self.three();
        self.sign_all(50, &deals).unwrap();
        deals.iter().for_each(|deal| self.bind(deal));
        deals
    }

    /// The requester signs all of them.
    pub(crate) fn sign_all(&mut self, requester: u8, deals: &[Deal]) -> Result<(), DealRefusal> {
        let signatures: Vec<_> = deals.iter().map(|deal| signed(requester, deal)).collect();
        let (request, own) = (deals[0].request, key(requester).address());
        let (market, now) = (&mut self.market, self.now);
        market.sign_bundle(request, own, &signatures, now)
    }

    pub(crate) fn ready(&mut self, deal: &Deal) {
        let (market, now) = (&mut self.market, self.now);
        let commands = market.ready(deal.provider, deal.id(), ready(), now);
        self.run(commands.unwrap());
    }

    pub(crate) fn connect(&mut self, deal: &Deal) {
        let (market, now) = (&mut self.market, self.now);
        let commands = market.connected(deal.requester, deal.id(), now);
        self.run(commands.unwrap());
    }

    pub(crate) fn serve(&mut self, deal: &Deal) {
        let (market, now) = (&mut self.market, self.now);
        let commands = market.serving(deal.provider, deal.id(), now);
        self.run(commands.unwrap());
    }

    fn statuses(&self, deals: &[Deal; 3]) -> [DealStatus; 3] {
        [0, 1, 2].map(|leg| self.status(&deals[leg]))
    }

    /// Until nothing of these deals can start any more.
    fn wait_for_start(&mut self, deals: &[Deal; 3]) {
        let left = deals[0].start_by.since(self.now);
        self.wait(left + 1);
    }
}

fn signed(requester: u8, deal: &Deal) -> (DealId, Signature) {
    let hash = deal.signing_hash(&config().domain);
    (deal.id(), key(requester).sign_hash(hash))
}

fn world() -> World {
    World::with_offers(&[(1, 1, 1), (2, 2, 1), (3, 3, 1)])
}

#[test]
fn all_are_signed_at_once_or_none() {
    let mut world = world();
    let deals = world.three();
    let stored = world.stored.clone();
    let together = |deal: &Deal| DealRefusal::Together(deal.id(), 3);
    assert_eq!(world.sign_all(50, &deals[..2]), Err(together(&deals[0])));
    let (id, signature) = signed(50, &deals[1]);
    let own = key(50).address();
    let alone = world.market.sign(id, own, signature, world.now);
    assert_eq!(alone, Err(together(&deals[1])));
    let twice = [0, 1, 1].map(|leg| deals[leg].clone());
    let refused = world.sign_all(50, &twice);
    assert!(matches!(refused, Err(DealRefusal::OtherRequest(..))));
    let refused = world.sign_all(51, &deals);
    assert_eq!(refused, Err(DealRefusal::NotYours(deals[0].id())));
    // One signature of them is another one's.
    let mut signatures = [0, 1, 2].map(|leg| signed(50, &deals[leg]));
    signatures[2].1 = signatures[1].1;
    let (request, now) = (deals[0].request, world.now);
    let refused = world.market.sign_bundle(request, own, &signatures, now);
    assert!(matches!(refused, Err(DealRefusal::Signature(_))));
    assert_eq!(world.stored, stored, "what was refused has changed nothing");
    world.sign_all(50, &deals).unwrap();
    let again = world.sign_all(50, &deals);
    assert!(matches!(again, Err(DealRefusal::State { .. })));
}

#[test]
fn leases_of_other_requests_are_not_signed_with_them() {
    let mut world = world();
    let other = {
        world.ask(50);
        world.accept(1)
    };
    let commands = world.market.give_up(other.id(), world.now);
    world.run(commands);
    world.ask_for(50, 2, Distinct::Provider, false);
    let mut deals = [1, 2].map(|provider| world.accept(provider)).to_vec();
    let request = deals[0].request;
    world.ask(50);
    let foreign = world.accept(3);
    deals.push(foreign.clone());
    let refused = world.sign_all(50, &deals);
    assert_eq!(
        refused,
        Err(DealRefusal::OtherRequest(foreign.id(), request))
    );
    // Those that stand alone are signed one by one as well.
    world.sign(50, &deals[0]);
    world.sign_all(50, &deals[1..2]).unwrap();
}

#[test]
fn what_cannot_be_funded_is_aborted_with_all_others() {
    let mut world = world();
    let deals = world.three();
    world.sign_all(50, &deals).unwrap();
    let commands = world.market.give_up(deals[1].id(), world.now);
    world.run(commands);
    assert_eq!(world.statuses(&deals), [DealStatus::Aborted; 3]);
    assert_eq!((world.free(), world.market.deals().count()), (3, 0));
}

#[test]
fn a_requester_that_refuses_one_refuses_all() {
    let mut world = world();
    let deals = world.three();
    let own = key(50).address();
    let (market, now) = (&mut world.market, world.now);
    let commands = market.requester_ended(own, deals[2].id(), report(EndCause::NotStarted), now);
    world.run(commands.unwrap());
    assert_eq!(world.statuses(&deals), [DealStatus::Aborted; 3]);
}

#[test]
fn whoever_signs_none_lets_all_expire() {
    let mut world = world();
    let deals = world.three();
    world.wait(deals[0].sign_by.since(world.now) + 1);
    assert_eq!(world.statuses(&deals), [DealStatus::Expired; 3]);
}

#[test]
fn one_provider_that_is_not_ready_is_to_blame_and_nobody_else() {
    // Whatever order the ids have.
    for late in 0..3 {
        let mut world = world();
        let deals = world.three_bound();
        for leg in (0..3).filter(|leg| *leg != late) {
            world.ready(&deals[leg]);
        }
        world.wait_for_start(&deals);
        let mut expected = [DealStatus::Ended; 3];
        expected[late] = DealStatus::ProviderFailed;
        assert_eq!(world.statuses(&deals), expected);
        let told = |deal: &Deal| {
            let end = BrokerMessage::EndLease {
                deal_id: deal.id(),
                cause: EndCause::NotStarted,
            };
            world.told.contains(&(deal.provider, end))
        };
        assert!(deals.iter().all(told));
    }
}

#[test]
fn each_provider_that_is_not_ready_is_to_blame_for_itself() {
    let mut world = world();
    let deals = world.three_bound();
    world.ready(&deals[1]);
    world.wait_for_start(&deals);
    let failed = DealStatus::ProviderFailed;
    assert_eq!(world.statuses(&deals), [failed, DealStatus::Ended, failed]);
}

#[test]
fn a_requester_that_does_not_come_is_to_blame_for_all() {
    let mut world = world();
    let deals = world.three_bound();
    deals.iter().for_each(|deal| world.ready(deal));
    world.connect(&deals[1]);
    world.wait_for_start(&deals);
    let no_show = DealStatus::NoShow;
    // It came to that one; nobody is to blame that it is over.
    assert_eq!(
        world.statuses(&deals),
        [no_show, DealStatus::Ended, no_show]
    );
}

#[test]
fn what_has_begun_goes_on_and_once_all_have_each_is_for_itself() {
    let mut world = world();
    let deals = world.three_bound();
    world.ready(&deals[0]);
    world.serve(&deals[0]);
    let (market, now) = (&mut world.market, world.now);
    let commands = market.provider_ended(deals[1].provider, deals[1].id(), ended_early(), now);
    world.run(commands.unwrap());
    let (active, failed) = (DealStatus::Active, DealStatus::ProviderFailed);
    assert_eq!(world.statuses(&deals), [active, failed, DealStatus::Ended]);

    let mut world = self::world();
    let deals = world.three_bound();
    for deal in &deals {
        world.ready(deal);
        world.serve(deal);
    }
    let (market, now) = (&mut world.market, world.now);
    let commands = market.provider_ended(deals[1].provider, deals[1].id(), ended_early(), now);
    world.run(commands.unwrap());
    assert_eq!(world.statuses(&deals), [active, failed, active]);
}

fn ended_early() -> crate::messages::EndReport {
    report(EndCause::ProviderEnded)
}

#[test]
fn a_restart_keeps_them_together() {
    let mut world = world();
    let deals = world.three();
    world.restart();
    // Nobody is asked twice, and all of them can still be signed.
    assert_eq!(world.market.deals().count(), 3);
    world.sign_all(50, &deals).unwrap();
    world.restart();
    // What nobody was told of is sent again.
    world.sign_all(50, &deals).unwrap();
    deals.iter().for_each(|deal| world.bind(deal));
    world.restart();
    let (_, commands) = world.market.agent_joined(deals[0].provider);
    world.run(commands);
    world.ready(&deals[0]);
    world.wait_for_start(&deals);
    let failed = DealStatus::ProviderFailed;
    assert_eq!(world.statuses(&deals), [DealStatus::Ended, failed, failed]);
    assert!(matches!(
        world.answers.values().next(),
        Some(Ok(Answered::Bundle(_)))
    ));
}
