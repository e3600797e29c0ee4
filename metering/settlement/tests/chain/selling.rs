//! The token sale: what contributors, recipients and the beneficiary get, and when.

use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall;
use ipsx_metering::Amount;
use ipsx_settlement::{
    Centralizer, ChainError, Signer, Transaction, Wallet, deploy_centralizer, send,
};

use crate::sale::{
    CAP, ETH, Error, GOAL, HALF, Phase, SHARES, SUPPLY, Sale, SaleTerms, Token, TokenSale, deploy,
    not_now, nothing_due, read, terms,
};
use crate::world::{DAY, HOUR, World, create_network};

pub(crate) async fn a_sale_that_succeeds_pays_in_proportion(world: World) {
    let sale = Sale::open(world).await;
    let people = &sale.world.people;
    let given = [
        (&people.payer, 70 * ETH + 1),
        (&people.provider, 31 * ETH + 7),
        (&people.stranger, 3),
    ];
    for (who, wei) in given {
        sale.contribute(who, wei - 1).await.unwrap();
        sale.contribute(who, 1).await.unwrap();
    }
    assert_eq!(sale.phase().await, Phase::Open);
    sale.close().await;
    assert_eq!(sale.phase().await, Phase::Succeeded);
    let raised: u128 = given.iter().map(|(_, wei)| wei).sum();
    assert_eq!(sale.raised().await, raised);

    // Undistributed tokens are shared: everyone gets its part of the half, not of the cap.
    let mut paid = 0;
    for (who, wei) in given {
        let to = Wallet::random().address();
        sale.claim(who, to).await.unwrap();
        let got = sale.tokens(to).await;
        let exact = U256::from(HALF) * U256::from(wei) / U256::from(raised);
        assert!(got.abs_diff(exact.to::<u128>()) <= 1, "{got} of {exact}");
        paid += got;
        assert_eq!(sale.claim(who, to).await, nothing_due());
    }
    assert_eq!(paid, HALF);
    let nobody = &people.founder;
    assert_eq!(sale.claim(nobody, nobody.address()).await, nothing_due());

    let twice = people.operator.address();
    sale.claim(&people.operator, twice).await.unwrap();
    assert_eq!(sale.tokens(twice).await, SHARES[0] + SHARES[2]);
    let once = people.session.address();
    sale.claim(&people.session, once).await.unwrap();
    assert_eq!(sale.tokens(once).await, SHARES[1]);
    assert_eq!(sale.claim(&people.operator, twice).await, nothing_due());
    assert_eq!(sale.tokens(sale.address).await, 0);

    let till = Wallet::random().address();
    let thief = sale.collect(&people.admin, till).await;
    assert!(matches!(thief, Err(Error::NotBeneficiary(_))));
    sale.collect(&people.treasury, till).await.unwrap();
    assert_eq!(sale.wei(till).await, raised);
    assert_eq!(sale.collect(&people.treasury, till).await, nothing_due());
    assert_eq!(sale.refund(&people.payer, till).await, nothing_due());
    assert_eq!(sale.wei(sale.address).await, 0);
}

pub(crate) async fn a_sale_that_fails_pays_everything_back(world: World) {
    let sale = Sale::open(world).await;
    let people = &sale.world.people;
    let given = [(&people.payer, 60 * ETH), (&people.provider, 40 * ETH - 1)];
    for (who, wei) in given {
        sale.contribute(who, wei).await.unwrap();
        assert_eq!(sale.refund(who, who.address()).await, nothing_due());
    }
    sale.close().await;
    assert_eq!(sale.phase().await, Phase::Failed);
    let late = sale.contribute(&people.payer, ETH).await;
    assert_eq!(late, not_now(Phase::Failed));
    let till = people.treasury.address();
    let collected = sale.collect(&people.treasury, till).await;
    assert_eq!(collected, not_now(Phase::Failed));
    for (who, wei) in given {
        let claimed = sale.claim(who, who.address()).await;
        assert_eq!(claimed, not_now(Phase::Failed));
        let to = Wallet::random().address();
        sale.refund(who, to).await.unwrap();
        assert_eq!(sale.wei(to).await, wei);
        assert_eq!(sale.refund(who, to).await, nothing_due());
    }
    let recipient = sale.claim(&people.operator, till).await;
    assert_eq!(recipient, not_now(Phase::Failed));
    assert_eq!(sale.wei(sale.address).await, 0);
    assert_eq!(sale.tokens(sale.address).await, SUPPLY);
}

pub(crate) async fn a_sale_ends_at_its_cap(world: World) {
    let sale = Sale::open(world).await;
    let people = &sale.world.people;
    sale.contribute(&people.payer, CAP - 5 * ETH).await.unwrap();
    // Somebody squeezes in one wei before the contribution that would have filled the cap.
    sale.contribute(&people.stranger, 1).await.unwrap();
    sale.contribute(&people.provider, 5 * ETH).await.unwrap();
    assert_eq!(sale.raised().await, CAP);
    assert_eq!(sale.phase().await, Phase::Succeeded);
    let late = sale.contribute(&people.payer, 1).await;
    assert_eq!(late, not_now(Phase::Succeeded));
    // What went above the cap is the contributor's, before and after everything else was paid.
    let till = Wallet::random().address();
    sale.collect(&people.treasury, till).await.unwrap();
    assert_eq!(sale.wei(till).await, CAP);
    let to = Wallet::random().address();
    sale.refund(&people.provider, to).await.unwrap();
    assert_eq!(sale.wei(to).await, 1);
    assert_eq!(sale.refund(&people.provider, to).await, nothing_due());
    for who in [&people.provider, &people.stranger, &people.payer] {
        sale.claim(who, to).await.unwrap();
    }
    assert_eq!(sale.tokens(to).await, HALF);
}

pub(crate) async fn limits_are_set_before_the_period_and_never_in_it(world: World) {
    let sale = Sale::without_limits(world).await;
    let people = &sale.world.people;
    assert_eq!(sale.phase().await, Phase::Announced);
    let early = sale.contribute(&people.payer, ETH).await;
    assert_eq!(early, not_now(Phase::Announced));
    let limits = TokenSale::setLimitsCall {
        goal_: GOAL,
        cap_: CAP,
    };
    let stranger = sale.act(&people.treasury, 0, limits).await;
    assert!(matches!(stranger, Err(Error::NotOrganiser(_))));
    for (goal, cap) in [(0, CAP), (0, 0), (CAP + 1, CAP)] {
        let bad = sale.limits(goal, cap).await;
        assert!(matches!(bad, Err(Error::BadLimits(_))), "{goal} {cap}");
    }
    sale.limits(1, 2).await.unwrap();
    sale.limits(GOAL, CAP).await.unwrap();
    sale.world.advance(HOUR + 60).await;
    assert_eq!(sale.limits(1, 2).await, not_now(Phase::Open));
    let empty = sale.contribute(&people.payer, 0).await;
    assert!(matches!(empty, Err(Error::NothingSent(_))));
    sale.close().await;
    assert_eq!(sale.limits(1, 2).await, not_now(Phase::Failed));
}

pub(crate) async fn a_sale_without_limits_never_opens(world: World) {
    let sale = Sale::without_limits(world).await;
    let people = &sale.world.people;
    sale.world.advance(HOUR + 60).await;
    assert_eq!(sale.phase().await, Phase::Failed);
    let refused = sale.contribute(&people.payer, ETH).await;
    assert_eq!(refused, not_now(Phase::Failed));
    assert_eq!(sale.limits(GOAL, CAP).await, not_now(Phase::Failed));
    assert_eq!(sale.token().await, Address::ZERO);
}

pub(crate) async fn tokens_are_created_in_the_period_and_move_after_success(world: World) {
    let sale = Sale::open(world).await;
    let people = &sale.world.people;
    assert_eq!(sale.token().await, Address::ZERO);
    sale.contribute(&people.payer, GOAL).await.unwrap();
    let token = sale.token().await;
    let supply = read(&sale.world, token, Token::totalSupplyCall {}).await;
    assert_eq!(supply, U256::from(SUPPLY));
    sale.contribute(&people.payer, GOAL).await.unwrap();
    assert_eq!(sale.token().await, token);
    // The goal is reached, the period goes on: every unit is still the sale's.
    assert_eq!(sale.tokens(sale.address).await, SUPPLY);
    let payer = people.payer.address();
    for who in [&people.payer, &people.operator] {
        let early = sale.claim(who, payer).await;
        assert_eq!(early, not_now(Phase::Open));
    }
    let collected = sale.collect(&people.treasury, payer).await;
    assert_eq!(collected, not_now(Phase::Open));
    let steal = Token::transferFromCall {
        from: sale.address,
        to: payer,
        value: U256::from(1),
    };
    let transaction = Transaction {
        to: Some(token),
        data: steal.abi_encode().into(),
        value: U256::ZERO,
    };
    let stolen = send(sale.world.chain.as_ref(), &people.payer, transaction).await;
    assert!(matches!(stolen, Err(ChainError::Reverted { .. })));

    sale.close().await;
    let to_itself = sale.claim(&people.payer, sale.address).await;
    assert!(matches!(to_itself, Err(Error::PayoutToSelf(_))));
    sale.claim(&people.payer, payer).await.unwrap();
    assert_eq!(sale.tokens(payer).await, HALF);
}

pub(crate) async fn leases_can_be_paid_in_the_sales_token(world: World) {
    let sale = Sale::open(world).await;
    let people = &sale.world.people;
    let payer = people.payer.address();
    sale.contribute(&people.payer, CAP).await.unwrap();
    sale.claim(&people.payer, payer).await.unwrap();
    let token = sale.token().await;
    let deployment = deploy_centralizer(sale.world.chain.as_ref(), &people.founder, token)
        .await
        .unwrap();
    let client = Centralizer::connect(sale.world.chain.clone(), deployment)
        .await
        .unwrap();
    let network = create_network(&client, people, 1).await;
    client
        .deposit(&people.payer, network, payer, Amount(HALF))
        .await
        .unwrap();
    let account = client.account(network, payer).await.unwrap();
    assert_eq!(account.balance.0, HALF);
}

pub(crate) async fn terms_that_make_no_sale_are_refused(world: World) {
    let good = terms(&world).await;
    let zero = Address::ZERO;
    let [first, second, third] = good.recipients;
    let nobody = [
        SaleTerms {
            organiser: zero,
            ..good.clone()
        },
        SaleTerms {
            beneficiary: zero,
            ..good.clone()
        },
        SaleTerms {
            recipients: [zero, second, third],
            ..good.clone()
        },
        SaleTerms {
            recipients: [first, second, zero],
            ..good.clone()
        },
    ];
    for terms in nobody {
        let refused = deploy(&world, terms.clone()).await;
        assert!(matches!(refused, Err(Error::ZeroAddress(_))), "{terms:?}");
    }
    let (opens, day) = (good.opensAt.to::<u64>(), DAY);
    for (opens_at, closes_at) in [
        (opens - 2 * HOUR, opens + day),
        (opens, opens),
        (opens, opens - 1),
        (opens, opens + 90 * day + 1),
    ] {
        let terms = SaleTerms {
            opensAt: opens_at.try_into().unwrap(),
            closesAt: closes_at.try_into().unwrap(),
            ..good.clone()
        };
        let refused = deploy(&world, terms).await;
        assert!(matches!(refused, Err(Error::BadPeriod(_))), "{opens_at}");
    }
}
