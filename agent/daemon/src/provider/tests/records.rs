//! What is on disk.

use ipsx_agent_core::provider::{ConsentRecord, LeaseRecord, MonthTraffic};
use ipsx_market::messages::EndReport;
use ipsx_metering::{Address, B256, ChannelState, NetworkId, UnixSeconds};

use crate::provider::{LastReceipts, ProviderError, Records, records_path};
use ipsx_market::deal::{Binding, Deal, Outcome};
use ipsx_market::messages::EndCause;
use ipsx_market::request::{CounterSource, TunnelKey};
use ipsx_metering::{Amount, Prices, Signature, Signed, Usage};
use std::os::unix::fs::PermissionsExt;

fn lease(number: u8) -> LeaseRecord {
    let address = Address::repeat_byte(number);
    let deal = Deal {
        network: NetworkId(B256::repeat_byte(9)),
        request: B256::repeat_byte(number).into(),
        leg: 0,
        offer: B256::ZERO.into(),
        requester: address,
        provider: address,
        payer: address,
        payer_signer: address,
        payout: address,
        channel_salt: B256::ZERO,
        agent_key: address,
        provider_tunnel_key: TunnelKey(B256::ZERO),
        requester_tunnel_key: TunnelKey(B256::ZERO),
        exit_address: "127.0.1.1".parse().unwrap(),
        policy_hash: B256::ZERO,
        prices: Prices::default(),
        budget: Amount::MAX,
        seconds: 60,
        counter_source: CounterSource::Both,
        sign_by: UnixSeconds(1),
        starts_at: UnixSeconds(1),
        start_by: UnixSeconds(2),
        salt: B256::ZERO,
    };
    let message = Outcome {
        deal_id: deal.id(),
        outcome: Binding::Bound,
    };
    let signature = Signature([7; 65]);
    LeaseRecord {
        deal,
        requester_signature: signature,
        outcome: Signed { message, signature },
    }
}

fn report() -> EndReport {
    EndReport {
        cause: EndCause::Completed,
        usage: Usage {
            secs: 60,
            bytes_up: 1,
            bytes_down: 2,
        },
        amount: Amount(5),
        voucher: None,
    }
}

#[tokio::test]
async fn what_was_written_is_there_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("new/data");
    let wallet = Address::repeat_byte(1);
    let network = lease(1).deal.network;
    let records = Records::open(&data, wallet).await.unwrap();
    records.put_lease(&lease(1), UnixSeconds(10)).await.unwrap();
    records.put_lease(&lease(2), UnixSeconds(20)).await.unwrap();
    records
        .put_end(
            lease(1).deal.id(),
            &report(),
            LastReceipts::default(),
            UnixSeconds(30),
        )
        .await
        .unwrap();
    let later = EndReport {
        cause: EndCause::Restarted,
        ..report()
    };
    records
        .put_end(
            lease(1).deal.id(),
            &later,
            LastReceipts::default(),
            UnixSeconds(40),
        )
        .await
        .unwrap();
    let state = ChannelState {
        next_seq: 4_096,
        ..ChannelState::default()
    };
    let channel = lease(1).deal.channel().id();
    records
        .put_progress(&[(channel, &state)], &[])
        .await
        .unwrap();
    let month = MonthTraffic {
        month: 24_300,
        bytes: u64::MAX,
    };
    records.put_month(network, month).await.unwrap();
    drop(records);

    let records = Records::open(&data, wallet).await.unwrap();
    assert_eq!(records.unfinished(network).await.unwrap(), [lease(2)]);
    assert!(
        records
            .unfinished(NetworkId::default())
            .await
            .unwrap()
            .is_empty()
    );
    let leases = records.leases().await.unwrap();
    assert_eq!(leases.len(), 2);
    assert_eq!(leases[1].report, Some(report()), "the first end stays");
    assert_eq!(leases[1].ended_at, Some(UnixSeconds(30)));
    assert_eq!(records.channels().await.unwrap()[&channel], state);
    assert_eq!(records.month(network).await.unwrap().bytes, i64::MAX as u64);
    assert_eq!(
        records.month(NetworkId::default()).await.unwrap(),
        MonthTraffic::default()
    );
    // Others may look on.
    let reader = Records::read(&data).await.unwrap().unwrap();
    assert_eq!(reader.leases().await.unwrap(), leases);
    assert!(reader.put_month(network, month).await.is_err());
}

#[tokio::test]
async fn consent_is_for_one_text_and_policy() {
    let folder = tempfile::tempdir().unwrap();
    let records = Records::open(folder.path(), Address::ZERO).await.unwrap();
    let given = ConsentRecord {
        version: B256::repeat_byte(1),
        policy_hash: B256::repeat_byte(2),
        accepted_at: UnixSeconds(3),
    };
    assert!(!records.consent(|_| true).await.unwrap());
    records.put_consent(&given, "text").await.unwrap();
    assert!(records.consent(|record| *record == given).await.unwrap());
    assert!(
        !records
            .consent(|record| record.policy_hash.is_zero())
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn the_file_is_private_and_belongs_to_one_wallet() {
    let folder = tempfile::tempdir().unwrap();
    Records::open(folder.path(), Address::repeat_byte(1))
        .await
        .unwrap();
    let mode = records_path(folder.path())
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let other = Records::open(folder.path(), Address::repeat_byte(2)).await;
    assert!(matches!(other, Err(ProviderError::OtherWallet { .. })));
    assert!(
        Records::read(&folder.path().join("none"))
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_damaged_file_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = records_path(folder.path());
    std::fs::write(
        &path,
        "this is no database, but long enough to be read as a page of one ".repeat(99),
    )
    .unwrap();
    let error = Records::open(folder.path(), Address::ZERO)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("provider.db"), "{error}");
}
