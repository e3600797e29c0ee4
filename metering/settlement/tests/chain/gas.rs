//! What each call costs, compared with the table in `docs/gas.md`. With `IPSX_UPDATE_GAS` in the environment, the table
//! is written instead.

use std::fmt::Write as _;
use std::path::PathBuf;

use alloy_primitives::{Address, B256};
use ipsx_metering::{Amount, Channel, CreditsTransfer, Signed, Withdrawal};
use ipsx_settlement::{ClaimRow, EmbeddedChain, RowOutcome, Signer, Wallet};

use crate::sale::{CAP, ETH, GOAL, PERIOD, Sale};
use crate::world::{DAY, HOUR, People, World, create_network};

/// The most for one of 100 rows whose channels, payout addresses and accounts were used before.
const LATER_ROW: u64 = 40_000;
/// How much dearer than the table a call may get, in percent. Signatures and addresses have more or fewer zero bytes
/// by chance, which makes a difference of far less.
const TOLERANCE: u64 = 2;

/// One line: what was done, its gas, and how many rows it had, if it was a batch.
struct Cost {
    name: String,
    gas: u64,
    rows: Option<u64>,
}

/// Remembers what the newest block's transaction used.
struct Meter {
    chain: EmbeddedChain,
    costs: Vec<Cost>,
}

impl Meter {
    fn note(&mut self, name: &str) {
        let newest = self.chain.block(None).unwrap();
        self.add(name, newest.gas_used, None);
    }

    /// A transaction of the past, by its height.
    fn note_block(&mut self, name: &str, number: u64) {
        let block = self.chain.block(Some(number)).unwrap();
        self.add(name, block.gas_used, None);
    }

    fn note_rows(&mut self, kind: &str, rows: u8) {
        let newest = self.chain.block(None).unwrap();
        let name = format!("settle, {rows} × {kind}");
        self.add(&name, newest.gas_used, Some(rows.into()));
    }

    fn add(&mut self, name: &str, gas: u64, rows: Option<u64>) {
        self.costs.push(Cost {
            name: name.into(),
            gas,
            rows,
        });
    }
}

#[tokio::test]
async fn no_call_is_dearer_than_the_table_says() {
    let people = People::of(&Wallet::from_secret(&[7; 32]).unwrap());
    let (world, chain) = World::embedded_for(people).await;
    let mut meter = Meter {
        chain,
        costs: Vec::new(),
    };
    deployments(&mut meter);
    deposits(&world, &mut meter).await;
    keys_and_bonds(&world, &mut meter).await;
    batches(&world, &mut meter).await;
    single_claims(&world, &mut meter).await;
    exits(&world, &mut meter).await;
    sales(world, &mut meter).await;

    let later = |cost: &&Cost| cost.name == "settle, 100 × later claim";
    let row = meter.costs.iter().find(later).unwrap().gas / 100;
    assert!(row < LATER_ROW, "a later row costs {row}");
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/gas.md");
    if std::env::var_os("IPSX_UPDATE_GAS").is_some() {
        std::fs::write(&file, render(&meter.costs)).unwrap();
    }
    let problems = compare(&meter.costs, &std::fs::read_to_string(&file).unwrap());
    assert!(
        problems.is_empty(),
        "{}\nIf this is meant: IPSX_UPDATE_GAS=1 cargo test -p ipsx-settlement --test chain gas",
        problems.join("\n")
    );
}

/// The world's first blocks.
fn deployments(meter: &mut Meter) {
    meter.note_block("deploy IPSX", 1);
    meter.note_block("deploy Centralizer", 2);
    meter.note_block("createNetwork", 3);
    meter.note_block("IPSX.transfer", 4);
    meter.note_block("IPSX.approve", 5);
    meter.note_block("deposit, first of an account", 6);
    meter.note_block("authorize, new key", 7);
}

async fn deposits(world: &World, meter: &mut Meter) {
    let (client, people, network) = (&world.centralizer, &world.people, world.network);
    let payer = people.payer.address();
    client
        .deposit(&people.payer, network, payer, Amount(500_000))
        .await
        .unwrap();
    meter.note("deposit");
    let deadline = world.now().await.after(HOUR);
    let permit = client
        .sign_permit(&people.payer, Amount(500_000), deadline)
        .await
        .unwrap();
    client
        .deposit_with_permit(&people.payer, network, payer, &permit)
        .await
        .unwrap();
    meter.note("depositWithPermit");
}

async fn keys_and_bonds(world: &World, meter: &mut Meter) {
    let (client, people, network) = (&world.centralizer, &world.people, world.network);
    world.authorize(70 * DAY).await;
    meter.note("authorize, longer");
    client
        .revoke(&people.payer, network, people.session.address())
        .await
        .unwrap();
    meter.note("revoke");
    let until = world.now().await.after(90 * DAY);
    client
        .grant(&people.payer, network, people.stranger.address(), until)
        .await
        .unwrap();
    meter.note("grant, new key");
    world.authorize(70 * DAY).await;
    client
        .add_bond(&people.founder, network, Amount(100_000))
        .await
        .unwrap();
    meter.note("addBond, first");
    client
        .request_bond(&people.admin, network, Amount(50_000))
        .await
        .unwrap();
    meter.note("requestBond");
    world.advance(7 * DAY + 1).await;
    let to = people.admin.address();
    client
        .withdraw_bond(&people.admin, network, to)
        .await
        .unwrap();
    meter.note("withdrawBond");
    // Another network, because everything else here is signed by the first one's operator.
    let other = create_network(client, people, 9).await;
    client
        .rotate_operator(&people.admin, other, people.stranger.address())
        .await
        .unwrap();
    meter.note("rotateOperator");
}

/// Channels that nothing else uses, each with a payout address of its own.
fn fresh_channels(world: &World, set: u8, count: u8) -> Vec<Channel> {
    let root = Wallet::from_secret(&[9; 32]).unwrap();
    let channel = |number: u8| {
        let mut salt = B256::repeat_byte(set);
        salt.0[31] = number;
        Channel {
            provider: root.derive(&[set, number]).address(),
            salt,
            ..world.channel(0)
        }
    };
    (0..count).map(channel).collect()
}

async fn batches(world: &World, meter: &mut Meter) {
    let until = world.now().await.after(HOUR);
    // The treasury has earned before, as every network's has after its first claim.
    claim(world, &[world.row(&world.channel(1), 10_000, until)]).await;
    for (set, count) in (1u8..).zip([1, 10, 100]) {
        let channels = fresh_channels(world, set, count);
        for (kind, cumulative) in [("first claim", 1_234), ("later claim", 5_678)] {
            let rows: Vec<_> = channels
                .iter()
                .map(|c| world.row(c, cumulative, until))
                .collect();
            let outcomes = claim(world, &rows).await;
            let whole =
                |o: &RowOutcome| matches!(o, RowOutcome::Settled { unpaid, .. } if unpaid.0 == 0);
            assert!(outcomes.iter().all(whole), "{outcomes:?}");
            meter.note_rows(kind, count);
        }
        let rows: Vec<_> = channels
            .iter()
            .map(|c| world.row(c, 5_678, until))
            .collect();
        let outcomes = claim(world, &rows).await;
        assert!(outcomes.iter().all(|o| matches!(o, RowOutcome::Skipped(_))));
        meter.note_rows("claim made before (skipped)", count);
    }
}

async fn claim(world: &World, rows: &[ClaimRow]) -> Vec<RowOutcome> {
    let stranger = &world.people.stranger;
    let settled = world.centralizer.settle(stranger, rows).await.unwrap();
    settled.outcomes
}

async fn single_claims(world: &World, meter: &mut Meter) {
    let (client, people) = (&world.centralizer, &world.people);
    let until = world.now().await.after(HOUR);
    let row = |cumulative: u128| world.row(&world.channel(1), cumulative, until);
    client.hold(&people.provider, &row(30_000)).await.unwrap();
    meter.note("hold");
    claim(world, &[row(20_000)]).await;
    meter.note_rows("later claim from a hold", 1);
    client
        .release_hold(&people.provider, &world.channel(1))
        .await
        .unwrap();
    meter.note("releaseHold");
    let rest = world.account().await.balance.0;
    let outcomes = claim(world, &[row(20_000 + rest + 1_000)]).await;
    let RowOutcome::Settled { from_bond, .. } = outcomes[0] else {
        panic!("{outcomes:?}");
    };
    assert_eq!(from_bond.0, 1_000);
    meter.note_rows("later claim from balance and bond", 1);
    client
        .deposit(
            &people.payer,
            world.network,
            people.payer.address(),
            Amount(600_000),
        )
        .await
        .unwrap();
    meter.note("deposit that repays a debt");
}

async fn exits(world: &World, meter: &mut Meter) {
    let (client, people, network) = (&world.centralizer, &world.people, world.network);
    let (payer, to) = (people.payer.address(), people.stranger.address());
    let deadline = world.now().await.after(HOUR);
    let withdrawal = Withdrawal {
        network,
        owner: payer,
        to: payer,
        amount: Amount(1_000),
        nonce: 0,
        deadline,
    };
    let consent = Signed::sign(withdrawal, &world.domain(), people.operator.key());
    client
        .withdraw_with_operator(&people.payer, &consent)
        .await
        .unwrap();
    meter.note("withdrawWithOperator");
    client
        .request_withdraw(&people.payer, network, Amount(1_000))
        .await
        .unwrap();
    meter.note("requestWithdraw");
    let order = CreditsTransfer {
        owner: people.provider.address(),
        to,
        amount: Amount(1_000),
        nonce: 0,
        deadline,
    };
    let order = Signed::sign(order, &world.domain(), people.provider.key());
    client
        .transfer_credits(&people.stranger, &order)
        .await
        .unwrap();
    meter.note("transferCredits, first to an address");
    client
        .withdraw_credits(&people.provider, to, Amount(1_000))
        .await
        .unwrap();
    meter.note("withdrawCredits");
    world.advance(2 * DAY + 1).await;
    client
        .withdraw(&people.payer, network, payer)
        .await
        .unwrap();
    meter.note("withdraw");
}

async fn sales(world: World, meter: &mut Meter) {
    let sale = Sale::without_limits(world).await;
    meter.note("deploy TokenSale");
    sale.limits(GOAL, CAP).await.unwrap();
    meter.note("TokenSale.setLimits");
    sale.world.advance(HOUR).await;
    let people = &sale.world.people;
    sale.contribute(&people.payer, ETH).await.unwrap();
    meter.note("TokenSale.contribute, first of the sale: creates the token");
    sale.contribute(&people.provider, ETH).await.unwrap();
    meter.note("TokenSale.contribute, first of a contributor");
    sale.contribute(&people.provider, ETH).await.unwrap();
    meter.note("TokenSale.contribute");
    sale.contribute(&people.stranger, CAP).await.unwrap();
    meter.note("TokenSale.contribute, above the cap");
    let fresh = Wallet::from_secret(&[8; 32]).unwrap();
    let to = |label: &[u8]| fresh.derive(label).address();
    sale.refund(&people.stranger, to(b"refund")).await.unwrap();
    meter.note("TokenSale.refund, to a new address");
    sale.claim(&people.payer, to(b"first")).await.unwrap();
    meter.note("TokenSale.claim, first of the sale");
    sale.claim(&people.provider, to(b"claim")).await.unwrap();
    meter.note("TokenSale.claim, of a contributor");
    sale.claim(&people.operator, to(b"share")).await.unwrap();
    meter.note("TokenSale.claim, of a recipient");
    sale.collect(&people.treasury, to(b"till")).await.unwrap();
    meter.note("TokenSale.collect, to a new address");
    assert_eq!(sale.wei(to(b"till")).await, CAP);
    let failed = Sale::open(sale.world).await;
    let payer = &failed.world.people.payer;
    failed.contribute(payer, ETH).await.unwrap();
    failed.world.advance(PERIOD).await;
    failed
        .refund(payer, Address::repeat_byte(0x55))
        .await
        .unwrap();
    meter.note("TokenSale.refund, of a sale that failed, to a new address");
}

fn render(costs: &[Cost]) -> String {
    let mut page = String::from(INTRODUCTION);
    page.push_str("\n## Batches\n\n| batch | gas | a row |\n|---|---:|---:|\n");
    for cost in costs {
        if let Some(rows) = cost.rows {
            let (gas, row) = (thousands(cost.gas), thousands(cost.gas / rows));
            writeln!(page, "| {} | {gas} | {row} |", cost.name).unwrap();
        }
    }
    page.push_str("\n## Calls\n\n| call | gas |\n|---|---:|\n");
    for cost in costs.iter().filter(|c| c.rows.is_none()) {
        writeln!(page, "| {} | {} |", cost.name, thousands(cost.gas)).unwrap();
    }
    page
}

const INTRODUCTION: &str = "# What calls cost

Gas that transactions use on the embedded EVM (rules of Prague), with everything that a transaction pays: its base price and
its data. Written by a test, and compared by it in each run: a call that becomes more than 2 % dearer fails it, and so does
a later claim of 40,000 or more in a batch of 100.

    IPSX_UPDATE_GAS=1 cargo test -p ipsx-settlement --test chain gas

A *first* claim is of a new channel with a new payout address, as the first lease between two parties has it; a *later*
one is of the same channel. Figures differ by about a tenth of a percent from run to run, because signatures do.
";

/// What is wrong with the table, or with what was measured.
fn compare(costs: &[Cost], page: &str) -> Vec<String> {
    let mut listed: Vec<(&str, u64)> = page.lines().filter_map(line).collect();
    let mut problems = Vec::new();
    for cost in costs {
        let place = listed.iter().position(|(name, _)| *name == cost.name);
        let Some((_, gas)) = place.map(|place| listed.swap_remove(place)) else {
            problems.push(format!("{}: not in the table", cost.name));
            continue;
        };
        if cost.gas * 100 > gas * (100 + TOLERANCE) {
            problems.push(format!("{}: {} instead of {gas}", cost.name, cost.gas));
        }
    }
    let stale = |(name, _): &(&str, u64)| format!("{name}: in the table, but not measured");
    problems.extend(listed.iter().map(stale));
    problems
}

/// The name and gas of a line of a table.
fn line(line: &str) -> Option<(&str, u64)> {
    let mut cells = line.strip_prefix("| ")?.split(" | ");
    let name = cells.next()?;
    let gas = cells.next()?.trim_end_matches([' ', '|']).replace(',', "");
    Some((name, gas.parse().ok()?))
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place != 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[test]
fn a_dearer_call_is_told_from_a_cheaper_one() {
    let cost = |name: &str, gas: u64| Cost {
        name: name.into(),
        gas,
        rows: None,
    };
    let table = render(&[cost("one", 100_000), cost("two", 1_234_567)]);
    let told = |costs: &[Cost]| compare(costs, &table);
    assert!(told(&[cost("one", 102_000), cost("two", 1_000_000)]).is_empty());
    assert_eq!(told(&[cost("one", 102_001), cost("two", 1)]).len(), 1);
    assert_eq!(told(&[cost("one", 1)]).len(), 1);
    assert_eq!(
        told(&[cost("one", 1), cost("two", 1), cost("three", 1)]).len(),
        1
    );
}
