//! A chain that takes blocks back, and a broker that loses its database: nothing is promised on money that may yet
//! vanish, and none twice.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use ipsx_metering::{Address, Amount, NetworkId};
use ipsx_settlement::{
    AccountState, Centralizer, Chain, Passphrase, Signer, Wallet as Key, deploy,
};
use ipsx_tests::market::{Market, SOON, Wallet};
use ipsx_tests::node::Node;
use ipsx_tests::program::Program;
use serde_json::Value;
use tokio::runtime::Runtime;

const TOKEN: u128 = 10_u128.pow(18);
const SECRET: &str = "correct horse battery staple";
/// Blocks on top of one that is final.
const FINALITY: u64 = 6;
/// What the program ends with when there is too little money, when the broker refuses, and when it can't do it now.
const TOO_LITTLE: Option<i32> = Some(7);
const REFUSED: Option<i32> = Some(11);
const NOT_NOW: Option<i32> = Some(4);

/// A network on a node, with a provider that serves and a requester that has tokens, but no deposit.
struct World {
    runtime: Runtime,
    node: Node,
    market: Market,
    contract: Centralizer,
    requester: Wallet,
    provider: Wallet,
    serving: Program,
}

impl World {
    fn start(node: Node) -> Self {
        let runtime = Runtime::new().unwrap();
        let chain: Arc<dyn Chain> = Arc::new(node.chain.clone());
        let founder = Key::random();
        let mut market = Market::on_loopback();
        let operator_file = market.path().join("operator.json");
        let operator = Key::create(&operator_file, &Passphrase::new(SECRET)).unwrap();
        let [provider, requester] = ["provider", "requester"].map(|name| market.wallet(name));
        let owner: Address = requester.address.parse().unwrap();
        let contract = runtime.block_on(async {
            let others = [founder.address(), operator.address(), owner];
            for account in others
                .into_iter()
                .chain([provider.address.parse().unwrap()])
            {
                node.fund(account).await;
            }
            let deployment = deploy(chain.as_ref(), &founder, founder.address())
                .await
                .unwrap();
            let contract = Centralizer::connect(chain.clone(), deployment)
                .await
                .unwrap();
            let tokens = Amount(1_000 * TOKEN);
            contract
                .transfer_tokens(&founder, owner, tokens)
                .await
                .unwrap();
            contract
        });
        let place = contract.deployment().centralizer.to_string();
        market = market
            .on_node(&node.url, &place, &operator_file)
            .final_under(FINALITY);
        market.start_broker();
        let prices = ["--price-per-second", "0.1", "--price-per-gib", "0.5"];
        let serving = market.start_provider(&provider, "127.0.1.1", &prices);
        // So that nothing of this is ever taken back.
        runtime.block_on(node.mine(FINALITY + 1));
        Self {
            runtime,
            node,
            market,
            contract,
            requester,
            provider,
            serving,
        }
    }

    /// Leases for some seconds, for at most this much; what `connect` ended with.
    fn connect(&self, budget: &str) -> (Option<i32>, String) {
        let words = format!("--country FR --duration 5s --budget {budget}");
        let mut command = self.market.connect(&self.requester, &words);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    }

    #[track_caller]
    fn refused_for_the_deposit(&self, budget: &str) {
        let (code, said) = self.connect(budget);
        assert!([TOO_LITTLE, REFUSED].contains(&code), "{code:?} {said}");
        assert!(said.contains("deposit"), "{said}");
    }

    fn network(&self) -> NetworkId {
        let url = format!("http://{}/v1/network", self.market.http());
        let output = Command::new("curl").args(["-sS", &url]).output().unwrap();
        let network: Value = serde_json::from_slice(&output.stdout).unwrap();
        network["network"].as_str().unwrap().parse().unwrap()
    }

    fn account(&self, network: NetworkId) -> AccountState {
        let owner = self.requester.address.parse().unwrap();
        self.runtime
            .block_on(self.contract.account(network, owner))
            .unwrap()
    }

    fn run(&self, wallet: &Wallet, words: &[&str]) -> Value {
        self.market.run(wallet, words)
    }

    fn mine(&self, blocks: u64) {
        self.runtime.block_on(self.node.mine(blocks));
    }

    fn reorganise(&self, blocks: u64) {
        self.runtime.block_on(self.node.reorganise(blocks));
    }
}

fn amount(value: &Value) -> u128 {
    value.as_str().unwrap().parse().unwrap()
}

/// As a person writes it.
fn tokens(amount: u128) -> String {
    format!("{}.{:018}", amount / TOKEN, amount % TOKEN)
}

fn open(data: &Path) -> Key {
    Key::open(&data.join("wallet.json"), &Passphrase::new(SECRET)).unwrap()
}

#[test]
fn nothing_is_promised_on_what_a_reorganisation_takes_back() {
    let Some(node) = Node::start() else { return };
    let world = World::start(node);

    // A deposit that is not final yet, and then is not there any more.
    world.run(&world.requester, &["deposit", "20"]);
    world.refused_for_the_deposit("2");
    world.reorganise(FINALITY - 1);
    world.refused_for_the_deposit("2");
    world.mine(FINALITY + 1);
    world.refused_for_the_deposit("2");

    // It counts once it is final, and a request to withdraw it at sight, as long as the request is there.
    let paid_in = world.run(&world.requester, &["deposit", "20"]);
    assert_eq!(amount(&paid_in["deposit"]), 20 * TOKEN, "{paid_in}");
    world.mine(FINALITY + 1);
    let key = open(&world.requester.data);
    let network = world.network();
    world
        .runtime
        .block_on(
            world
                .contract
                .request_withdraw(&key, network, Amount(20 * TOKEN)),
        )
        .unwrap();
    world.refused_for_the_deposit("2");
    world.reorganise(1);
    assert_eq!(world.account(network).pending, Amount::ZERO);
    let (code, said) = world.connect("2");
    assert_eq!(code, Some(0), "{said}");

    // A claim that the broker sees, and that is taken back: its money is not free for anybody else meanwhile.
    world.mine(FINALITY + 1);
    let claims = world.run(&world.provider, &["settle", "--yes"]);
    let paid = amount(&claims["paid"]);
    assert!(paid > 0, "{claims}");
    world.refused_for_the_deposit("19.99");
    world.reorganise(1);
    assert_eq!(world.account(network).balance, Amount(20 * TOKEN));
    let leases = world.run(&world.requester, &["leases", "--all"]);
    let id = leases["leases"][0]["deal_id"].as_str().unwrap();
    let statement = world.run(&world.requester, &["statement", id]);
    let reservation = &statement["entries"][0]["evidence"]["reservation"];
    let capacity = amount(&reservation["message"]["capacity"]);
    assert!(capacity > paid, "{statement}");
    let free = 20 * TOKEN - capacity;
    let too_much = tokens(free + 1);
    let mut command = world
        .market
        .ipsx(&world.requester.data, &["withdraw", "deposit", &too_much]);
    let refused = command.output().unwrap();
    assert!(!refused.status.success(), "{refused:?}");
    let back = ["withdraw", "deposit", &tokens(free)];
    let back = world.run(&world.requester, &back);
    assert_eq!(amount(&back["amount"]), free, "{back}");
    assert_eq!(world.account(network).balance, Amount(capacity));
    let again = world.run(&world.provider, &["settle", "--yes"]);
    assert_eq!(amount(&again["paid"]), paid, "{again}");
    assert_eq!(world.account(network).balance, Amount(capacity - paid));
}

#[test]
fn a_broker_that_forgot_its_promises_makes_none_until_they_have_lapsed() {
    let Some(node) = Node::start() else { return };
    let mut world = World::start(node);
    world.run(&world.requester, &["deposit", "20"]);
    world.mine(FINALITY + 1);
    let (code, said) = world.connect("2");
    assert_eq!(code, Some(0), "{said}");

    let network = world.network().to_string();
    world.market.forget_broker(&network);
    world.market.start_broker();
    world.serving.wait_for("offer placed", SOON);
    let (code, said) = world.connect("2");
    assert_eq!(code, NOT_NOW, "{said}");
    assert!(said.contains("no record of what was promised"), "{said}");
    let back = ["withdraw", "deposit"];
    let mut command = world.market.ipsx(&world.requester.data, &back);
    let said = String::from_utf8(command.output().unwrap().stderr).unwrap();
    assert!(said.contains("no record of what was promised"), "{said}");

    // What was promised before is paid as ever.
    let claims = world.run(&world.provider, &["settle", "--yes"]);
    assert!(amount(&claims["paid"]) > 0, "{claims}");
    // 23 h of a reservation and the 24 h in which it can be claimed on.
    let advance = |seconds| world.runtime.block_on(world.node.advance(seconds));
    advance(46 * 3_600);
    assert_eq!(world.connect("2").0, NOT_NOW);
    advance(3_700);
    world.mine(FINALITY + 1);
    let (code, said) = world.connect("2");
    assert_eq!(code, Some(0), "{said}");
}
