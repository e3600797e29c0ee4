//! A token sale to test with: its ABI, its people, and what they do.

use alloy_primitives::{Address, U256};
use alloy_sol_types::{SolCall, SolInterface, SolValue};
use ipsx_settlement::{Call, ChainError, Signer, Transaction, TransactionReceipt, Wallet, send};

use crate::tokens::test_code;
use crate::world::{DAY, HOUR, World};

alloy_sol_types::sol! {
    #[derive(Debug)]
    struct SaleTerms {
        uint40 opensAt; uint40 closesAt; address organiser; address beneficiary; address[3] recipients;
    }

    #[derive(Debug, PartialEq, Eq)]
    interface TokenSale {
        enum Phase { Announced, Open, Succeeded, Failed }

        error ZeroAddress();
        error BadPeriod();
        error BadLimits();
        error NotOrganiser();
        error NotBeneficiary();
        error NotNow(Phase phase);
        error NothingSent();
        error NothingDue();
        error PayoutToSelf();
        error ReentrancyGuardReentrantCall();
        /// Not the sale's: what a recipient of ether says, handed on.
        error Refused();

        function token() external view returns (address);
        function raised() external view returns (uint256);
        function converted() external view returns (uint256);
        function collected() external view returns (bool);
        function contributions(address contributor) external view returns (uint256 amount, uint256 excess);
        function allotments(address recipient) external view returns (uint256);
        function phase() external view returns (Phase);
        function setLimits(uint128 goal_, uint128 cap_) external;
        function contribute() external payable;
        function claim(address to) external returns (uint256 tokens);
        function refund(address to) external returns (uint256 amount);
        function collect(address to) external returns (uint256 amount);
    }

    interface Token {
        function totalSupply() external view returns (uint256);
        function balanceOf(address account) external view returns (uint256);
        function transferFrom(address from, address to, uint256 value) external returns (bool);
    }
}

pub(crate) use TokenSale::{Phase, TokenSaleErrors as Error};

pub(crate) const ETH: u128 = 1_000_000_000_000_000_000;
pub(crate) const GOAL: u128 = 100 * ETH;
pub(crate) const CAP: u128 = 1_000 * ETH;
pub(crate) const PERIOD: u64 = 30 * DAY;
/// Half of the supply, for the contributors.
pub(crate) const HALF: u128 = 900_000_000 * ETH;
/// What the recipients get.
pub(crate) const SHARES: [u128; 3] = [495_000_000 * ETH, 45_000_000 * ETH, 360_000_000 * ETH];
pub(crate) const SUPPLY: u128 = 1_800_000_000 * ETH;

/// A sale that opens in an hour, and the people around it.
pub(crate) struct Sale {
    pub(crate) world: World,
    pub(crate) address: Address,
}

impl Sale {
    /// Announced, with its limits set.
    pub(crate) async fn new(world: World) -> Self {
        let sale = Self::without_limits(world).await;
        sale.limits(GOAL, CAP).await.unwrap();
        sale
    }

    /// The same, an hour later: the period has begun.
    pub(crate) async fn open(world: World) -> Self {
        let sale = Self::new(world).await;
        sale.world.advance(HOUR + 60).await;
        sale
    }

    pub(crate) async fn without_limits(world: World) -> Self {
        let terms = terms(&world).await;
        let address = deploy(&world, terms).await.unwrap();
        Self { world, address }
    }

    /// With another beneficiary, and open.
    pub(crate) async fn open_for(world: World, beneficiary: Address) -> Self {
        let terms = SaleTerms {
            beneficiary,
            ..terms(&world).await
        };
        let address = deploy(&world, terms).await.unwrap();
        let sale = Self { world, address };
        sale.limits(GOAL, CAP).await.unwrap();
        sale.world.advance(HOUR + 60).await;
        sale
    }

    /// Without limits yet, and everything for one person, the treasury.
    pub(crate) async fn for_one(world: World) -> Self {
        let one = world.people.treasury.address();
        let terms = SaleTerms {
            beneficiary: one,
            recipients: [one; 3],
            ..terms(&world).await
        };
        let address = deploy(&world, terms).await.unwrap();
        Self { world, address }
    }

    pub(crate) async fn limits(&self, goal: u128, cap: u128) -> Result<(), Error> {
        let call = TokenSale::setLimitsCall {
            goal_: goal,
            cap_: cap,
        };
        self.act(&self.world.people.admin, 0, call).await
    }

    pub(crate) async fn contribute(&self, who: &Wallet, wei: u128) -> Result<(), Error> {
        self.act(who, wei, TokenSale::contributeCall {}).await
    }

    pub(crate) async fn claim(&self, who: &Wallet, to: Address) -> Result<(), Error> {
        self.act(who, 0, TokenSale::claimCall { to }).await
    }

    pub(crate) async fn refund(&self, who: &Wallet, to: Address) -> Result<(), Error> {
        self.act(who, 0, TokenSale::refundCall { to }).await
    }

    pub(crate) async fn collect(&self, who: &Wallet, to: Address) -> Result<(), Error> {
        self.act(who, 0, TokenSale::collectCall { to }).await
    }

    pub(crate) async fn act(
        &self,
        who: &Wallet,
        wei: u128,
        call: impl SolCall,
    ) -> Result<(), Error> {
        let done = transact(&self.world, who, self.address, wei, call).await;
        done.map(|_| ())
    }

    pub(crate) async fn read<C: SolCall>(&self, call: C) -> C::Return {
        read(&self.world, self.address, call).await
    }

    pub(crate) async fn phase(&self) -> Phase {
        self.read(TokenSale::phaseCall {}).await
    }

    pub(crate) async fn raised(&self) -> u128 {
        self.read(TokenSale::raisedCall {}).await.to()
    }

    pub(crate) async fn token(&self) -> Address {
        self.read(TokenSale::tokenCall {}).await
    }

    /// Tokens of the sale's own making.
    pub(crate) async fn tokens(&self, account: Address) -> u128 {
        let token = self.token().await;
        if token.is_zero() {
            return 0;
        }
        let balance = read(&self.world, token, Token::balanceOfCall { account }).await;
        balance.to()
    }

    pub(crate) async fn wei(&self, account: Address) -> u128 {
        self.world.chain.balance(account).await.unwrap().to()
    }

    pub(crate) async fn close(&self) {
        self.world.advance(PERIOD).await;
    }
}

pub(crate) async fn terms(world: &World) -> SaleTerms {
    let people = &world.people;
    let opens_at = world.now().await.after(HOUR).0;
    let (first, second) = (people.operator.address(), people.session.address());
    SaleTerms {
        organiser: people.admin.address(),
        beneficiary: people.treasury.address(),
        // The first and the third are one person, whose shares add up.
        recipients: [first, second, first],
        opensAt: opens_at.try_into().unwrap(),
        closesAt: (opens_at + PERIOD).try_into().unwrap(),
    }
}

pub(crate) async fn deploy(world: &World, terms: SaleTerms) -> Result<Address, Error> {
    let mut code = test_code(include_str!("../../../contracts/artifacts/TokenSale.json"));
    code.extend_from_slice(&terms.abi_encode());
    let receipt = perform(world, &world.people.founder, None, 0, code).await?;
    Ok(receipt.contract_address.unwrap())
}

pub(crate) async fn transact(
    world: &World,
    who: &Wallet,
    to: Address,
    wei: u128,
    call: impl SolCall,
) -> Result<TransactionReceipt, Error> {
    perform(world, who, Some(to), wei, call.abi_encode()).await
}

/// Any other failure than the sale's own refusal is a failure of the test.
async fn perform(
    world: &World,
    who: &Wallet,
    to: Option<Address>,
    wei: u128,
    data: Vec<u8>,
) -> Result<TransactionReceipt, Error> {
    let transaction = Transaction {
        to,
        data: data.into(),
        value: U256::from(wei),
    };
    match send(world.chain.as_ref(), who, transaction).await {
        Ok(receipt) => {
            assert!(receipt.success, "{receipt:?}");
            Ok(receipt)
        }
        Err(ChainError::Reverted { data }) => Err(Error::abi_decode(&data).unwrap()),
        Err(other) => panic!("{other}"),
    }
}

pub(crate) async fn read<C: SolCall>(world: &World, from: Address, call: C) -> C::Return {
    let question = Call::read(from, call.abi_encode());
    let answer = world.chain.call(&question).await.unwrap();
    C::abi_decode_returns(&answer).unwrap()
}

/// Sends ether in a way that no contract can refuse: a contract is created whose construction is to destroy itself in
/// favour of the sale (PUSH20 sale, SELFDESTRUCT).
pub(crate) async fn force(sale: &Sale, wei: u128) {
    let mut bomb = vec![0x73];
    bomb.extend_from_slice(sale.address.as_slice());
    bomb.push(0xff);
    let founder = &sale.world.people.founder;
    perform(&sale.world, founder, None, wei, bomb)
        .await
        .unwrap();
}

pub(crate) fn not_now(phase: Phase) -> Result<(), Error> {
    Err(Error::NotNow(TokenSale::NotNow { phase }))
}

pub(crate) fn nothing_due() -> Result<(), Error> {
    Err(Error::NothingDue(TokenSale::NothingDue {}))
}
