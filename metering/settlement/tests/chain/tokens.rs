//! Tokens that misbehave: one that takes a fee, one that calls back, one that blocks an address.

use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::{SolCall, SolValue};
use ipsx_metering::{Amount, Authorization, NetworkId, Signed};
use ipsx_settlement::{
    Call, Centralizer, ContractError, Signer, Transaction, deploy_centralizer, send,
};
use serde::Deserialize;

use crate::world::{DAY, HOUR, World, create_network, fee, paid};

alloy_sol_types::sol! {
    function setFee(uint256 feeBps) external;
    function setBlocked(address who) external;
    function setCallback(address callee, bytes calldata call_) external;
    function callSucceeded() external view returns (bool);
    function deposit(bytes32 network, address owner, uint256 amount) external;
}

/// Deployment code from one of the test artifacts.
pub(crate) fn test_code(artifact: &str) -> Vec<u8> {
    #[derive(Deserialize)]
    struct Artifact {
        bytecode: Bytes,
    }
    let artifact: Artifact = serde_json::from_str(artifact).unwrap();
    artifact.bytecode.to_vec()
}

pub(crate) async fn create(world: &World, code: Vec<u8>) -> Address {
    let transaction = Transaction {
        to: None,
        data: code.into(),
        value: U256::ZERO,
    };
    let receipt = send(world.chain.as_ref(), &world.people.founder, transaction)
        .await
        .unwrap();
    receipt.contract_address.unwrap()
}

/// A contract for a hostile token, with the same network and a payer who has tokens.
struct Hostile {
    world: World,
    client: Centralizer,
    network: NetworkId,
    token: Address,
}

impl Hostile {
    async fn new(world: World) -> Self {
        let people = &world.people;
        let mut code = test_code(include_str!(
            "../../../contracts/artifacts/test/HostileToken.json"
        ));
        code.extend_from_slice(&people.payer.address().abi_encode());
        let token = create(&world, code).await;
        let deployment = deploy_centralizer(world.chain.as_ref(), &people.founder, token)
            .await
            .unwrap();
        let client = Centralizer::connect(world.chain.clone(), deployment)
            .await
            .unwrap();
        let network = create_network(&client, people, 0).await;
        Self {
            world,
            client,
            network,
            token,
        }
    }

    async fn tell(&self, call: impl SolCall) {
        let transaction = Transaction {
            to: Some(self.token),
            data: call.abi_encode().into(),
            value: U256::ZERO,
        };
        let people = &self.world.people;
        send(self.world.chain.as_ref(), &people.founder, transaction)
            .await
            .unwrap();
    }

    async fn deposit(&self, amount: u128) -> u128 {
        let people = &self.world.people;
        let payer = people.payer.address();
        self.client
            .deposit(&people.payer, self.network, payer, Amount(amount))
            .await
            .unwrap();
        self.balance().await
    }

    async fn balance(&self) -> u128 {
        let payer = self.world.people.payer.address();
        let account = self.client.account(self.network, payer).await.unwrap();
        account.balance.0
    }

    async fn check_books(&self) {
        let totals = self.client.totals().await.unwrap();
        assert!(totals.conserved(), "{totals:?}");
    }
}

pub(crate) async fn a_token_that_takes_a_fee_is_measured(world: World) {
    let hostile = Hostile::new(world).await;
    hostile
        .tell(setFeeCall {
            feeBps: U256::from(1_000),
        })
        .await;
    assert_eq!(hostile.deposit(10_000).await, 9_000);
    hostile.check_books().await;
    hostile
        .tell(setFeeCall {
            feeBps: U256::from(10_000),
        })
        .await;
    let people = &hostile.world.people;
    let nothing = hostile
        .client
        .deposit(
            &people.payer,
            hostile.network,
            people.payer.address(),
            Amount(10_000),
        )
        .await;
    assert!(matches!(nothing, Err(ContractError::Refused { .. })));
    assert_eq!(hostile.balance().await, 9_000);
}

pub(crate) async fn a_token_that_calls_back_gets_nothing(world: World) {
    let hostile = Hostile::new(world).await;
    assert_eq!(hostile.deposit(1_000).await, 1_000);
    // During the transfer, the token deposits for the payer again: what arrives would be counted twice.
    let again = depositCall {
        network: hostile.network.0,
        owner: hostile.world.people.payer.address(),
        amount: U256::from(1),
    };
    let callback = setCallbackCall {
        callee: hostile.client.deployment().centralizer,
        call_: again.abi_encode().into(),
    };
    hostile.tell(callback).await;
    assert_eq!(hostile.deposit(1_000).await, 2_000);
    let question = Call::read(hostile.token, callSucceededCall {}.abi_encode());
    let answer = hostile.world.chain.call(&question).await.unwrap();
    assert!(!callSucceededCall::abi_decode_returns(&answer).unwrap());
    hostile.check_books().await;
}

pub(crate) async fn a_blocked_address_is_paid_elsewhere(world: World) {
    let hostile = Hostile::new(world).await;
    let (client, people) = (&hostile.client, &hostile.world.people);
    hostile.deposit(50_000).await;
    let authorization = Authorization {
        network: hostile.network,
        payer: people.payer.address(),
        signer: people.session.address(),
        valid_to: hostile.world.now().await.after(10 * DAY),
        nonce: 0,
    };
    let signed = Signed::sign(authorization, &client.domain(), people.payer.key());
    client.authorize(&people.stranger, &signed).await.unwrap();
    // The provider can't be paid by the token, and the claim goes through all the same.
    let provider = people.provider.address();
    hostile.tell(setBlockedCall { who: provider }).await;
    let until = hostile.world.now().await.after(HOUR);
    let mut row = hostile.world.row(&hostile.world.channel(1), 10_000, until);
    row.channel.network = hostile.network;
    row.reservation.message.channel_id = row.channel.id();
    row.voucher.message.channel_id = row.channel.id();
    let domain = client.domain();
    row.reservation = Signed::sign(row.reservation.message, &domain, people.operator.key());
    row.voucher = Signed::sign(row.voucher.message, &domain, people.session.key());
    let settled = client.settle(&people.stranger, &[row]).await.unwrap();
    assert_eq!(paid(&settled.outcomes[0]), 10_000);
    let earned = Amount(10_000 - fee(10_000));
    let blocked = client
        .withdraw_credits(&people.provider, provider, earned)
        .await;
    assert!(matches!(blocked, Err(ContractError::Refused { .. })));
    let elsewhere = people.stranger.address();
    client
        .withdraw_credits(&people.provider, elsewhere, earned)
        .await
        .unwrap();
    let got = client.token_balance(elsewhere).await.unwrap();
    assert_eq!(got, earned);
    hostile.check_books().await;
}
