//! Attacks on the token sale: calling back, refusing money, forcing ether on it, and coming at the last second.

use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall;
use ipsx_settlement::{ChainError, Signer, Transaction, Wallet, send};

use crate::sale::{
    CAP, ETH, Error, GOAL, HALF, PERIOD, Phase, Sale, TokenSale, force, not_now, nothing_due, read,
    transact,
};
use crate::tokens::{create, test_code};
use crate::world::{HOUR, World};

alloy_sol_types::sol! {
    function act(address sale, bytes calldata call_) external payable;
    function plan(bytes calldata again, bool refusing) external;
    function tried() external view returns (uint256 attempts, bool reentered);
}

/// A contract that contributes, with a plan for when it is paid.
struct Attacker(Address);

impl Attacker {
    async fn new(world: &World) -> Self {
        let code = test_code(include_str!(
            "../../../contracts/artifacts/test/SaleAttacker.json"
        ));
        Self(create(world, code).await)
    }

    async fn act(&self, sale: &Sale, wei: u128, call: impl SolCall) -> Result<(), Error> {
        let call = actCall {
            sale: sale.address,
            call_: call.abi_encode().into(),
        };
        let who = &sale.world.people.founder;
        let done = transact(&sale.world, who, self.0, wei, call).await;
        done.map(|_| ())
    }

    async fn plan(&self, sale: &Sale, again: Vec<u8>, refusing: bool) {
        let call = planCall {
            again: again.into(),
            refusing,
        };
        let who = &sale.world.people.founder;
        transact(&sale.world, who, self.0, 0, call).await.unwrap();
    }

    /// That it called the sale so often while it was paid, and got nowhere.
    async fn assert_failed(&self, sale: &Sale, attempts: u64) {
        let tried = read(&sale.world, self.0, triedCall {}).await;
        assert_eq!(tried.attempts, U256::from(attempts));
        assert!(!tried.reentered);
    }
}

pub(crate) async fn a_refund_that_calls_back_pays_once(world: World) {
    let sale = Sale::open(world).await;
    let people = &sale.world.people;
    let attacker = Attacker::new(&sale.world).await;
    sale.contribute(&people.payer, 50 * ETH).await.unwrap();
    attacker
        .act(&sale, 10 * ETH, TokenSale::contributeCall {})
        .await
        .unwrap();
    sale.close().await;
    let refund = TokenSale::refundCall { to: attacker.0 };
    let claim = TokenSale::claimCall { to: attacker.0 };
    attacker.plan(&sale, refund.abi_encode(), false).await;
    attacker.act(&sale, 0, refund.clone()).await.unwrap();
    assert_eq!(sale.wei(attacker.0).await, 10 * ETH);
    attacker.assert_failed(&sale, 1).await;
    assert_eq!(attacker.act(&sale, 0, refund).await, nothing_due());
    assert_eq!(attacker.act(&sale, 0, claim).await, not_now(Phase::Failed));
    let payer = Wallet::random().address();
    sale.refund(&people.payer, payer).await.unwrap();
    assert_eq!(sale.wei(payer).await, 50 * ETH);
}

pub(crate) async fn a_beneficiary_that_calls_back_is_paid_once(world: World) {
    let attacker = Attacker::new(&world).await;
    let sale = Sale::open_for(world, attacker.0).await;
    let people = &sale.world.people;
    sale.contribute(&people.payer, CAP - ETH).await.unwrap();
    // The attacker fills the cap, and is owed what it sent above. Whenever it is paid, it asks for something else.
    attacker
        .act(&sale, 3 * ETH, TokenSale::contributeCall {})
        .await
        .unwrap();
    let refund = TokenSale::refundCall { to: attacker.0 };
    let collect = TokenSale::collectCall { to: attacker.0 };
    let claim = TokenSale::claimCall { to: attacker.0 };
    attacker.plan(&sale, collect.abi_encode(), false).await;
    attacker.act(&sale, 0, refund.clone()).await.unwrap();
    assert_eq!(sale.wei(attacker.0).await, 2 * ETH);
    attacker.plan(&sale, claim.abi_encode(), false).await;
    attacker.act(&sale, 0, collect.clone()).await.unwrap();
    attacker.assert_failed(&sale, 2).await;
    assert_eq!(sale.wei(attacker.0).await, CAP + 2 * ETH);
    assert_eq!(sale.tokens(attacker.0).await, 0);
    attacker.act(&sale, 0, claim.clone()).await.unwrap();
    assert_eq!(sale.tokens(attacker.0).await, HALF / 1_000);
    for again in [
        attacker.act(&sale, 0, collect).await,
        attacker.act(&sale, 0, refund).await,
    ] {
        assert_eq!(again, nothing_due());
    }
    assert_eq!(attacker.act(&sale, 0, claim).await, nothing_due());
    assert_eq!(sale.wei(sale.address).await, 0);
}

pub(crate) async fn who_refuses_its_refund_stops_nobody(world: World) {
    let sale = Sale::open(world).await;
    let people = &sale.world.people;
    let attacker = Attacker::new(&sale.world).await;
    attacker
        .act(&sale, ETH, TokenSale::contributeCall {})
        .await
        .unwrap();
    sale.contribute(&people.payer, ETH).await.unwrap();
    sale.close().await;
    attacker.plan(&sale, Vec::new(), true).await;
    let refund = |to| TokenSale::refundCall { to };
    let refused = attacker.act(&sale, 0, refund(attacker.0)).await;
    assert!(matches!(refused, Err(Error::Refused(_))));
    let to = Wallet::random().address();
    sale.refund(&people.payer, to).await.unwrap();
    // And nothing of its own is lost: it names somebody else.
    attacker.act(&sale, 0, refund(to)).await.unwrap();
    assert_eq!(sale.wei(to).await, 2 * ETH);
}

pub(crate) async fn forced_ether_changes_nothing(world: World) {
    let sale = Sale::open(world).await;
    let people = &sale.world.people;
    // Sent like to a wallet, it comes back.
    let plain = Transaction {
        to: Some(sale.address),
        data: Default::default(),
        value: U256::from(ETH),
    };
    let refused = send(sale.world.chain.as_ref(), &people.payer, plain).await;
    assert!(matches!(refused, Err(ChainError::Reverted { .. })));
    sale.contribute(&people.payer, GOAL - 1).await.unwrap();
    force(&sale, 2 * CAP).await;
    assert_eq!(sale.wei(sale.address).await, GOAL - 1 + 2 * CAP);
    // Neither the cap nor the goal is nearer, and nobody can take it.
    assert_eq!(sale.raised().await, GOAL - 1);
    assert_eq!(sale.phase().await, Phase::Open);
    sale.close().await;
    assert_eq!(sale.phase().await, Phase::Failed);
    let to = Wallet::random().address();
    sale.refund(&people.payer, to).await.unwrap();
    assert_eq!(sale.wei(to).await, GOAL - 1);
    assert_eq!(sale.refund(&people.stranger, to).await, nothing_due());
}

/// On the backend whose clock stands still: the edges of the period, and of goal and cap, to the second and wei.
#[tokio::test]
async fn the_period_and_the_goal_are_exact() {
    for (wei, outcome) in [(GOAL - 1, Phase::Failed), (GOAL, Phase::Succeeded)] {
        let sale = Sale::new(World::embedded().await).await;
        let people = &sale.world.people;
        sale.world.advance(HOUR - 1).await;
        let early = sale.contribute(&people.payer, ETH).await;
        assert_eq!(early, not_now(Phase::Announced));
        sale.limits(GOAL, CAP).await.unwrap();
        sale.world.advance(1).await;
        assert_eq!(sale.limits(GOAL, CAP).await, not_now(Phase::Open));
        sale.contribute(&people.payer, wei - 1).await.unwrap();
        sale.world.advance(PERIOD - 1).await;
        sale.contribute(&people.payer, 1).await.unwrap();
        assert_eq!(sale.phase().await, Phase::Open);
        sale.world.advance(1).await;
        assert_eq!(sale.phase().await, outcome);
        let late = sale.contribute(&people.payer, 1).await;
        assert_eq!(late, not_now(outcome));
    }
}

#[tokio::test]
async fn the_last_wei_below_the_cap_ends_the_sale() {
    let sale = Sale::open(World::embedded().await).await;
    let people = &sale.world.people;
    sale.contribute(&people.payer, CAP - 1).await.unwrap();
    assert_eq!(sale.phase().await, Phase::Open);
    sale.contribute(&people.provider, 1).await.unwrap();
    assert_eq!(sale.phase().await, Phase::Succeeded);
    let nothing = sale
        .refund(&people.provider, people.provider.address())
        .await;
    assert_eq!(nothing, nothing_due());
}
