//! Against the real broker, providers, tunnels and chain of the demo's market, on loopback.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use ipsx_agent_core::requester::{Blame, Wishes};
use ipsx_market::messages::EndCause;
use ipsx_market::request::CounterSource;
use ipsx_market::search::OfferQuery;
use ipsx_metering::{Amount, CheckResult, DealId, PricePerSecond};
use ipsx_settlement::Signer;
use ipsx_tunnel_core::PrivateKey;
use ipsx_tunnel_os::{ClientConfig, ClientTunnel, Proxy, ProxyConfig};

use super::*;
use crate::cli::{
    LeasesArgs, RevokeArgs, SettleArgs, WithdrawCommand, WithdrawCreditsArgs, WithdrawDepositArgs,
};
use crate::config::Settings;
use crate::demo::fetch::{Way, fetch};
use crate::demo::wishes;
use crate::demo::world::World;
use crate::exit_code::ExitCode;
use crate::output::Output;
use crate::statement::Statement;
use crate::store::{LeaseRecord, Slot, Stage};

const QUIET: Output = Output::silent();

fn french(seconds: u32) -> Wishes {
    wishes("FR".parse().unwrap(), seconds)
}

fn data(world: &World) -> PathBuf {
    world.folder.join("requester")
}

fn settings(world: &World, who: &str) -> Settings {
    Settings {
        data: world.folder.join(who),
        broker: world.url(),
        rpc: None,
        operator: None,
        passphrase_file: Some(world.folder.join("passphrase")),
        json: false,
    }
}

async fn agree(world: &World, wishes: &Wishes) -> Result<Agreed, Failure> {
    world
        .requester
        .agree(Slot::take(&data(world)).unwrap(), wishes, None)
        .await
}

async fn free_leases(world: &World) -> u32 {
    let query = OfferQuery {
        filter: french(5).filter,
        ..OfferQuery::default()
    };
    world
        .requester
        .session
        .broker()
        .offers(&query)
        .await
        .unwrap()[0]
        .free_leases
}

/// The tunnel that a stock client would make of the file.
async fn stock_client(file: &std::path::Path, control_port: u16) -> ClientTunnel {
    let text = std::fs::read_to_string(file).unwrap();
    let value = |key: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
        line.unwrap_or_else(|| panic!("no {key} in {text}"))
            .to_string()
    };
    let inner = value("Address").split('/').next().unwrap().parse().unwrap();
    let config = ClientConfig {
        private_key: value("PrivateKey").parse::<PrivateKey>().unwrap(),
        peer_public_key: value("PublicKey").parse().unwrap(),
        preshared_key: None,
        endpoint: value("Endpoint").parse().unwrap(),
        bind: ([0, 0, 0, 0], 0).into(),
        inner_v4: inner,
        inner_v6: None,
        gateway_v4: value("DNS").parse().unwrap(),
        control_port,
        keepalive: Some(25),
        handshake_timeout: Duration::from_secs(10),
        punch: None,
    };
    ClientTunnel::connect(config).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exported_lease_is_used_by_another_client_and_paid_through_the_broker() {
    let world = World::start(None).await.unwrap();
    let mut asked = french(60);
    asked.counter_source = CounterSource::Provider;
    let agreed = agree(&world, &asked).await.unwrap();
    let (sold, control_port) = (agreed.record.deal.exit_address, agreed.ready.control_port);
    let file = world.folder.join("lease.conf");
    let usage = Use::Export { file: file.clone() };
    let (mut lease, place) = begin(world.requester.clone(), agreed, usage).await.unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    while lease.news.recv().await.unwrap() != News::Serving {}

    let tunnel = stock_client(&file, control_port).await;
    let proxy = Proxy::start(ProxyConfig::new(([127, 0, 0, 1], 0).into()), tunnel)
        .await
        .unwrap();
    let server = world.web.address();
    let page = fetch(proxy.local_addr(), Way::Socks5, server, "/")
        .await
        .unwrap();
    assert_eq!(page.seen, Some(sold));
    let size = 4_000_000;
    let path = format!("/bytes/{size}");
    assert_eq!(
        fetch(proxy.local_addr(), Way::Http, server, &path)
            .await
            .unwrap()
            .size,
        size
    );
    // The provider's next receipt has the bytes in it.
    for _ in 0..3 {
        while !matches!(lease.news.recv().await.unwrap(), News::Second(_)) {}
    }
    lease.stop();
    let finished = lease.finished().await.unwrap();
    place.close().await.unwrap();
    assert_eq!(
        finished.ending.reason.blame(),
        Blame::Nobody,
        "{:?}",
        finished.ending.reason
    );
    assert_eq!(finished.record.connections, None, "another client's flows");
    let statement = Statement::compute(&finished.record, None);
    assert!(statement.adds_up, "{:?}", statement.checks);
    assert!(
        (size..size * 108 / 100).contains(&statement.bytes_down),
        "{}",
        statement.bytes_down
    );
    assert!(statement.vouchers >= 2 && statement.amount > Amount::ZERO);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_cannot_be_filled_costs_nothing_and_says_what_would_do() {
    let world = World::start(None).await.unwrap();
    let code = async |wishes: Wishes| agree(&world, &wishes).await.map(|_| ()).unwrap_err();

    let nowhere = code(wishes("BR".parse().unwrap(), 10)).await;
    assert_eq!(nowhere.code, ExitCode::NoMatch);
    assert!(nowhere.message.contains("BR"), "{nowhere}");

    let mut cheap = french(10);
    cheap.max_prices.per_second = PricePerSecond(Amount(1));
    let cheap = code(cheap).await;
    assert_eq!(cheap.code, ExitCode::PriceTooLow);
    assert!(cheap.message.contains("0.0018 IPSX a second"), "{cheap}");

    let rich = world
        .requester
        .check_deposit(Amount(11 * 10u128.pow(18)))
        .await
        .unwrap_err();
    assert_eq!(rich.code, ExitCode::Balance);
    assert!(rich.message.contains("`ipsx deposit 1`"), "{rich}");

    assert!(world.requester.store.leases().unwrap().is_empty());
    assert_eq!(free_leases(&world).await, 4);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_open_is_ended_by_the_next_command() {
    let world = World::start(None).await.unwrap();
    let agreed = agree(&world, &french(600)).await.unwrap();
    let deal = agreed.record.deal.id();
    assert_eq!(free_leases(&world).await, 3);
    // Another process of the same user must leave it alone while its own is alive.
    end_unfinished(&world.requester, &data(&world), &QUIET)
        .await
        .unwrap();
    assert_eq!(
        world.requester.store.lease(deal).unwrap().unwrap().stage,
        Stage::Bound
    );
    drop(agreed);
    end_unfinished(&world.requester, &data(&world), &QUIET)
        .await
        .unwrap();
    let record = world.requester.store.lease(deal).unwrap().unwrap();
    assert_eq!(record.stage, Stage::Closed);
    assert_eq!(record.ended.unwrap().cause, EndCause::Restarted);
    assert!(is_over(
        world.requester.session.deal(deal).await.unwrap().status
    ));
    for _ in 0..100 {
        if free_leases(&world).await == 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(free_leases(&world).await, 4);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_leases_at_once_have_channels_of_their_own() {
    let world = World::start(None).await.unwrap();
    let (one, other) = (
        agree(&world, &french(60)).await.unwrap(),
        agree(&world, &french(60)).await.unwrap(),
    );
    assert_ne!(
        one.record.deal.channel().id(),
        other.record.deal.channel().id()
    );
    assert_eq!(one.record.deal.payout, other.record.deal.payout);
    world.stop().await;
}

/// A whole lease through a proxy, to its agreed end.
async fn whole_lease(world: &World) -> Finished {
    let agreed = agree(world, &french(5)).await.unwrap();
    let page = format!("http://{}/", world.web.address());
    let usage = Use::Proxy {
        listen: ([127, 0, 0, 1], 0).into(),
        bind: None,
        exit_page: Some(ExitPage::parse(&page).unwrap()),
    };
    let (mut lease, place) = begin(world.requester.clone(), agreed, usage).await.unwrap();
    while lease.news.recv().await.is_some() {}
    let finished = lease.finished().await.unwrap();
    place.close().await.unwrap();
    finished
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_lease_its_money_is_listed_claimed_and_withdrawn() {
    let world = World::start(None).await.unwrap();
    let finished = whole_lease(&world).await;
    let deal = &finished.record.deal;
    assert_eq!(finished.ending.report.cause, EndCause::Completed);
    assert_eq!(finished.record.stage, Stage::Closed);
    assert_eq!(finished.record.exit_seen, Some(deal.exit_address));
    // The look at the exit's address was a connection of its own, which the record has.
    let checked = finished.record.connections.unwrap();
    assert_eq!(checked.result, CheckResult::Checked, "{checked:?}");
    assert!(checked.records > 0 && checked.own > 0, "{checked:?}");
    let answered = finished.record.answered.as_ref().unwrap();
    assert!(!answered.message.connections_root.is_zero());
    every_change_is_noticed(&finished.record);

    let (requester, provider) = (
        settings(&world, "requester"),
        settings(&world, "provider-fr"),
    );
    crate::leases::run(LeasesArgs { all: true }, &requester, &QUIET)
        .await
        .unwrap();
    crate::settle::run(
        SettleArgs {
            yes: true,
            dry_run: false,
        },
        &provider,
        &QUIET,
    )
    .await
    .unwrap();
    let contract = &world.network.contract;
    let claimed = contract.claimed(deal.channel().id()).await.unwrap();
    assert_eq!(claimed, finished.record.paid());
    both_sides_state_the_same(deal.id(), &requester, &provider).await;
    one_connection_is_proven(deal.id(), &provider).await;

    let credits = WithdrawCommand::Credits(WithdrawCreditsArgs { to: None });
    crate::withdraw::run(credits, &provider, &QUIET)
        .await
        .unwrap();
    let earned = contract.token_balance(deal.provider).await.unwrap();
    let fee = claimed.basis_points(world.network.info.fee_bps);
    assert_eq!(earned, claimed.saturating_sub(fee));
    the_explorer_shows_the_claim(&world, claimed).await;
    session_keys_are_revoked(&world, &requester, deal.payer_signer).await;
    withdraw_both_ways(&world, &requester).await;
    assert!(contract.totals().await.unwrap().conserved());
    world.stop().await;
}

/// Each side's statement holds, with and without a month, and they agree on every amount.
async fn both_sides_state_the_same(lease: DealId, requester: &Settings, provider: &Settings) {
    use crate::statement::{Asked, Month, document};
    let stated = async |asked, lent, settings: &Settings| {
        let document = document(asked, lent, settings, &QUIET).await.unwrap();
        let found = crate::verify::check(&serde_json::to_string(&document).unwrap()).unwrap();
        assert_eq!(found.failed(), 0, "{:?}", found.checked);
        let tied = "the voucher answers a receipt of this lease";
        assert!(found.checked.iter().any(|check| check.what == tied));
        assert!(!found.unproven.contains_key("that what was paid was used"));
        document
    };
    let paid = stated(Asked::Lease(lease), false, requester).await;
    let earned = stated(Asked::Lease(lease), true, provider).await;
    assert_eq!(paid.entries[0].account, earned.entries[0].account);
    assert_eq!(paid.totals, earned.totals);
    assert_eq!(paid.totals.claimed, Some(paid.totals.promised));
    assert!(paid.totals.promised > Amount::ZERO);
    let month = Asked::Month(Month::of(paid.entries[0].account.at));
    assert_eq!(stated(month, false, requester).await.totals, paid.totals);
    // Without its broker a requester still has everything but the claims.
    let alone = Settings {
        broker: "http://127.0.0.1:9".into(),
        ..requester.clone()
    };
    let known = stated(Asked::Lease(lease), false, &alone).await;
    assert_eq!(known.totals.promised, paid.totals.promised);
    assert_eq!(known.totals.claimed, None);
}

/// The provider proves the one connection that is asked for; a change anywhere is noticed.
async fn one_connection_is_proven(lease: DealId, provider: &Settings) {
    use crate::connections::disclose::{Asked, disclose};
    let wallet = crate::wallet::open(provider).await.unwrap();
    let secret = crate::connections::RecordSecret::of_wallet(&wallet);
    let recorded = crate::connections::tests::recorded(&provider.data, &secret);
    let of_lease: Vec<_> = recorded
        .iter()
        .filter(|record| record.deal_id == lease)
        .collect();
    let asked = Asked {
        time: of_lease[0].opened_at,
        tolerance: 1,
        source_port: of_lease[0].source_port,
        transport: None,
        destination: None,
        address: Some(std::net::Ipv4Addr::new(127, 0, 1, 1).into()),
    };
    let disclosure = disclose(&asked, &provider.data, &wallet, &secret)
        .await
        .unwrap();
    assert_eq!(disclosure.record.destination, of_lease[0].destination);
    let text = serde_json::to_string(&disclosure).unwrap();
    let found = crate::verify::check(&text).unwrap();
    assert_eq!(found.failed(), 0, "{:?}", found.checked);
    crate::verify::tests::every_change_is_caught(&serde_json::from_str(&text).unwrap());
    let elsewhere = Asked {
        source_port: 1,
        ..asked
    };
    let nothing = disclose(&elsewhere, &provider.data, &wallet, &secret)
        .await
        .unwrap_err();
    assert!(
        nothing.message.contains("no connection from port 1"),
        "{nothing}"
    );
}

/// The broker's page and its JSON say what the chain says.
async fn the_explorer_shows_the_claim(world: &World, claimed: Amount) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let get = async |path: &str| {
        let url = world.url();
        let address = url.strip_prefix("http://").unwrap();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    };
    // An overview may be two seconds old.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let answer = get("/v1/overview").await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let (first, last) = (body.find('{').unwrap(), body.rfind('}').unwrap());
    let overview: serde_json::Value = serde_json::from_str(&body[first..=last]).unwrap();
    assert_eq!(overview["claimed"], claimed.to_string());
    let fee = claimed.basis_points(world.network.info.fee_bps);
    assert_eq!(overview["fees"], fee.to_string());
    assert_eq!(overview["claims"].as_array().unwrap().len(), 1);
    let page = get("/explorer").await;
    let contract = world.network.info.domain.contract.to_string();
    assert!(
        page.contains(&contract) && page.contains("adds up"),
        "{page}"
    );
    assert!(
        !page.contains("<script") && !page.contains("src="),
        "{page}"
    );
    let requester = Signer::address(world.requester.wallet.as_ref()).to_string();
    assert!(!page.contains(&requester), "nobody is named");
}

async fn session_keys_are_revoked(world: &World, settings: &Settings, key: ipsx_metering::Address) {
    use crate::cli::WalletCommand;
    let payer = Signer::address(world.requester.wallet.as_ref());
    let (network, contract) = (world.network.info.network, &world.network.contract);
    let lasts = async || {
        let now = contract.chain().head().await.unwrap().timestamp;
        let until = contract.signer_valid_to(network, payer, key).await.unwrap();
        until.since(now)
    };
    assert!(lasts().await > 2 * 86_400);
    for _ in 0..2 {
        // The second finds nothing left to do.
        crate::wallet::run(
            WalletCommand::Revoke(RevokeArgs::default()),
            settings,
            &QUIET,
        )
        .await
        .unwrap();
        assert!(lasts().await <= 86_400);
    }
}

/// Another chain, contract, token or operator than the broker names is refused before anything is signed, and both
/// values are shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_where_the_broker_says_is_refused_with_both_values() {
    let world = World::start(None).await.unwrap();
    let info = &world.network.info;
    let chain = world.network.contract.chain().clone();
    let other = ipsx_metering::Address::repeat_byte(0xee);
    let refused =
        async |change: fn(&mut ipsx_market::http::NetworkInfo, ipsx_metering::Address),
               shown: [String; 2]| {
            let mut changed = info.clone();
            change(&mut changed, other);
            let failure = crate::network::Network::on(changed, chain.clone())
                .await
                .err()
                .unwrap();
            for value in shown {
                assert!(
                    failure.message.contains(&value),
                    "{value} is not in: {failure}"
                );
            }
        };
    let id = info.domain.chain_id;
    refused(
        |info, _| info.domain.chain_id += 1,
        [id.to_string(), (id + 1).to_string()],
    )
    .await;
    refused(
        |info, other| info.token = other,
        [info.token.to_string(), other.to_string()],
    )
    .await;
    refused(
        |info, other| info.operator = other,
        [info.operator.to_string(), other.to_string()],
    )
    .await;
    refused(
        |info, other| info.treasury = other,
        [info.treasury.to_string(), other.to_string()],
    )
    .await;
    refused(
        |info, _| info.fee_bps += 1,
        [info.fee_bps.to_string(), (info.fee_bps + 1).to_string()],
    )
    .await;
    let nothing = "there is no contract at that address".to_string();
    refused(
        |info, other| info.domain.contract = other,
        [other.to_string(), nothing],
    )
    .await;
    // A contract that is there, but another: the token itself.
    let token = info.token.to_string();
    refused(
        |info, _| info.domain.contract = info.token,
        [token.clone(), token],
    )
    .await;
    world.stop().await;
}

/// At once what is free, by the operator's consent; the rest by waiting, against anybody.
async fn withdraw_both_ways(world: &World, settings: &Settings) {
    let deposit = |without_operator| {
        WithdrawCommand::Deposit(WithdrawDepositArgs {
            amount: None,
            to: None,
            without_operator,
            payer: None,
        })
    };
    let owner = Signer::address(world.requester.wallet.as_ref());
    let account = async || {
        world
            .network
            .contract
            .account(world.network.info.network, owner)
            .await
            .unwrap()
    };
    crate::withdraw::run(deposit(false), settings, &QUIET)
        .await
        .unwrap();
    let left = account().await;
    assert!(left.balance < Amount(10u128.pow(17)), "{left:?}");
    if left.balance > Amount::ZERO {
        crate::withdraw::run(deposit(true), settings, &QUIET)
            .await
            .unwrap();
        assert_eq!(account().await.pending, left.balance);
        // Asking again changes nothing: the 48 hours run.
        crate::withdraw::run(deposit(true), settings, &QUIET)
            .await
            .unwrap();
        assert_eq!(account().await.pending, left.balance);
    }
}

fn every_change_is_noticed(record: &LeaseRecord) {
    assert!(Statement::compute(record, None).adds_up);
    let changes: [fn(&mut LeaseRecord); 9] = [
        |r| r.deal.budget.0 += 1,
        |r| r.deal.prices.per_second.0.0 -= 1,
        |r| r.operator = r.deal.payout,
        |r| r.voucher.as_mut().unwrap().message.cumulative.0 += 1,
        |r| r.receipt.as_mut().unwrap().message.usage.bytes_up += 1,
        |r| r.receipt.as_mut().unwrap().message.deal_amount.0 -= 1,
        |r| r.reservation.as_mut().unwrap().message.capacity.0 += 1,
        |r| r.ended.as_mut().unwrap().usage.secs = 0,
        |r| r.exit_seen = Some(IpAddr::from([203, 0, 113, 9])),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut changed = record.clone();
        change(&mut changed);
        let statement = Statement::compute(&changed, None);
        assert!(!statement.adds_up, "change {number} is not noticed");
        assert_eq!(statement.verdict().unwrap_err().code, ExitCode::Statement);
    }
}

#[tokio::test]
async fn a_port_in_use_is_found_out_before_anything_is_signed() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let usage = Use::Proxy {
        listen,
        bind: None,
        exit_page: None,
    };
    let failure = usage.check(false).unwrap_err();
    assert_eq!(failure.code, ExitCode::PortInUse);
    assert!(failure.message.contains(&listen.to_string()), "{failure}");
    let open = Use::Proxy {
        listen: ([0, 0, 0, 0], 0).into(),
        bind: None,
        exit_page: None,
    };
    assert_eq!(open.check(false).unwrap_err().code, ExitCode::Usage);
    let nowhere = Use::Export {
        file: "/nonexistent/lease.conf".into(),
    };
    assert_eq!(nowhere.check(false).unwrap_err().code, ExitCode::Usage);
}
