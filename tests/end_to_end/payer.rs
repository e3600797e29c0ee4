//! A firm whose wallet is a contract (ERC-1271) pays for its people, on a real node, with the programs as they are.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use alloy_sol_types::{SolCall, SolValue};
use ipsx_metering::{Address, Amount, NetworkId, U256};
use ipsx_settlement::{
    Centralizer, Chain, Passphrase, Signer, Transaction, Wallet as Key, deploy, send,
};
use ipsx_tests::market::{Market, SOON, Wallet};
use ipsx_tests::node::Node;
use ipsx_tests::origin::Origin;
use ipsx_tests::program::Program;
use serde_json::Value;

const TOKEN: u128 = 10_u128.pow(18);
const DAY: u64 = 24 * 3_600;
/// What the program ends with when broker, contract or its own checks refuse.
const REFUSED: Option<i32> = Some(11);

alloy_sol_types::sol! {
    function execute(address to, bytes data) external;
}

/// A contract wallet, and the key whose word it does.
struct Firm {
    chain: Arc<dyn Chain>,
    wallet: Address,
    key: Key,
}

impl Firm {
    async fn create(chain: Arc<dyn Chain>, key: Key) -> Self {
        let artifact = include_str!("../../metering/contracts/artifacts/test/ContractWallet.json");
        let artifact: Value = serde_json::from_str(artifact).unwrap();
        let code = artifact["bytecode"].as_str().unwrap();
        let mut code: Vec<u8> = alloy_sol_types::private::Bytes::from(bytes(code)).to_vec();
        code.extend_from_slice(&key.address().abi_encode());
        let creation = Transaction {
            to: None,
            data: code.into(),
            value: U256::ZERO,
        };
        let receipt = send(chain.as_ref(), &key, creation).await.unwrap();
        Self {
            chain,
            wallet: receipt.contract_address.unwrap(),
            key,
        }
    }

    /// Executes what a command printed, as its members would through their own interface.
    async fn execute(&self, printed: &Value) {
        let transactions = printed["transactions"].as_array().unwrap();
        assert!(!transactions.is_empty(), "{printed}");
        for transaction in transactions {
            assert_eq!(transaction["value"], "0");
            let call = executeCall {
                to: transaction["to"].as_str().unwrap().parse().unwrap(),
                data: bytes(transaction["data"].as_str().unwrap()).into(),
            };
            let transaction = Transaction {
                to: Some(self.wallet),
                data: call.abi_encode().into(),
                value: U256::ZERO,
            };
            let receipt = send(self.chain.as_ref(), &self.key, transaction).await;
            assert!(receipt.unwrap().success);
        }
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.trim_start_matches("0x");
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn amount(value: &Value) -> u128 {
    value.as_str().unwrap().parse().unwrap()
}

const LEASE: &str = "--country FR --duration 8s --budget 2";

/// Tries to lease from the firm's deposit; nothing may come of it.
fn refused(market: &Market, who: &Wallet, firm: Address) -> String {
    let payer = firm.to_string();
    let mut command = market.connect(who, LEASE);
    let output: Output = command.args(["--payer", &payer]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), REFUSED, "{said}");
    said
}

#[test]
fn a_firms_contract_wallet_pays_for_its_people() {
    let Some(node) = Node::start() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let chain: Arc<dyn Chain> = Arc::new(node.chain.clone());
    let founder = Key::random();
    let firm_key = Key::random();
    let mut market = Market::on_loopback();
    let operator_file = market.path().join("operator.json");
    let secret = Passphrase::new("correct horse battery staple");
    let operator = Key::create(&operator_file, &secret).unwrap();
    let [provider, employee, colleague] =
        ["provider", "employee", "colleague"].map(|name| market.wallet(name));
    let deployment = runtime.block_on(async {
        let wallets = [&provider, &employee].map(|wallet| wallet.address.parse().unwrap());
        let keys = [&founder, &firm_key, &operator].map(Signer::address);
        for account in wallets.into_iter().chain(keys) {
            node.fund(account).await;
        }
        deploy(chain.as_ref(), &founder, founder.address())
            .await
            .unwrap()
    });
    market = market.on_node(
        &node.url,
        &deployment.centralizer.to_string(),
        &operator_file,
    );
    market.start_broker();
    let origin = Origin::start("127.0.0.1:0");
    let rule = origin.rule();
    let words = [
        "--price-per-second",
        "0.01",
        "--price-per-gib",
        "0.5",
        "--allow",
        &rule,
    ];
    let _provider = market.start_provider(&provider, "127.0.1.1", &words);

    // The firm's wallet, and a deposit that one of its people pays in for it.
    let contract = runtime
        .block_on(Centralizer::connect(chain.clone(), deployment))
        .unwrap();
    let firm = runtime.block_on(Firm::create(chain.clone(), firm_key));
    let payer = firm.wallet.to_string();
    let tokens = Amount(20 * TOKEN);
    let to = employee.address.parse().unwrap();
    runtime
        .block_on(contract.transfer_tokens(&founder, to, tokens))
        .unwrap();
    let paid_in = market.run(&employee, &["deposit", "20", "--payer", &payer]);
    assert_eq!(amount(&paid_in["deposit"]), tokens.0, "{paid_in}");

    let said = refused(&market, &employee, firm.wallet);
    assert!(said.contains("has not authorised"), "{said}");
    assert!(said.contains("ipsx wallet authorize --payer"), "{said}");

    let printed = market.run(&employee, &["wallet", "authorize", "--payer", &payer]);
    runtime.block_on(firm.execute(&printed));
    // A colleague's key is another one.
    let said = refused(&market, &colleague, firm.wallet);
    assert!(said.contains("has not authorised"), "{said}");

    let mut connect = market.connect(&employee, LEASE);
    let mut lease = Program::start("connect", connect.args(["--payer", &payer]));
    assert_eq!(origin.sees(&lease.proxy(SOON)), "127.0.1.1");
    let finished = lease.finish(Duration::from_secs(60));
    assert_eq!(finished.code, Some(0), "{finished:#?}");

    // Claimed from the firm's deposit, and proven to whoever asks.
    let claims = market.run(&provider, &["settle", "--yes"]);
    assert!(amount(&claims["paid"]) > 0, "{claims}");
    let leases = market.run(&employee, &["leases", "--all"]);
    let id = leases["leases"][0]["deal_id"].as_str().unwrap();
    let statement = market.run(&employee, &["statement", id]);
    let network: NetworkId = statement["network"].as_str().unwrap().parse().unwrap();
    let account = runtime
        .block_on(contract.account(network, firm.wallet))
        .unwrap();
    assert_eq!(account.balance.0 + amount(&claims["paid"]), tokens.0);
    let earned = market.run(&provider, &["withdraw", "credits"]);
    assert_eq!(
        amount(&earned["amount"]),
        amount(&claims["paid"]) - amount(&claims["fee"])
    );
    let deal = &statement["entries"][0]["evidence"]["deal"];
    let address = |name: &str| deal[name].as_str().unwrap().parse::<Address>().unwrap();
    assert_eq!(address("payer"), firm.wallet);
    assert_eq!(
        address("requester"),
        employee.address.parse::<Address>().unwrap()
    );
    let file = market.path().join("statement.json");
    std::fs::write(&file, statement.to_string()).unwrap();
    let verified = market.run(&colleague, &["verify", file.to_str().unwrap()]);
    let checked = verified["checked"].as_array().unwrap();
    assert!(
        checked.iter().all(|check| check["holds"] == true),
        "{verified}"
    );

    // One transaction ends it, at once.
    let printed = market.run(&employee, &["wallet", "revoke", "--payer", &payer]);
    runtime.block_on(firm.execute(&printed));
    let said = refused(&market, &employee, firm.wallet);
    assert!(said.contains("revoked"), "{said}");

    // The rest of the deposit is the firm's to take, whoever else refuses.
    let take = ["withdraw", "deposit", "--payer", &payer];
    let printed = market.run(&employee, &take);
    runtime.block_on(firm.execute(&printed));
    runtime.block_on(node.advance(2 * DAY + 60));
    let printed = market.run(&employee, &take);
    runtime.block_on(firm.execute(&printed));
    let rest = tokens.0 - amount(&claims["paid"]);
    let taken = runtime
        .block_on(contract.token_balance(firm.wallet))
        .unwrap();
    assert_eq!(taken.0, rest);
    runtime
        .block_on(contract.deposit(&founder, network, firm.wallet, tokens))
        .unwrap();

    // By the chain's clock, not by anybody's own.
    let again = ["wallet", "authorize", "--payer", &payer, "--for", "2d"];
    let printed = market.run(&employee, &again);
    runtime.block_on(firm.execute(&printed));
    runtime.block_on(node.advance(DAY + 3_600));
    let said = refused(&market, &employee, firm.wallet);
    assert!(said.contains("has to authorise it for longer"), "{said}");
}
