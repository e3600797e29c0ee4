//! Names, resolved at the provider.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipsx_tunnel_core::{DomainList, DomainSetBuilder, DropReason, ExitPolicy, Tier};
use ipsx_tunnel_os::{ExitLimits, ResolveError};

use crate::setup::{lease, lease_with, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_name_resolves_to_what_a_rule_opens() {
    let lease = lease(Tier::Web, &["127.0.0.1/32:tcp/8080".to_owned()]).await;
    let addresses = within(10, lease.client.resolve("localhost")).await.unwrap();
    assert_eq!(addresses, [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    let usage = within(10, lease.agreed_usage()).await;
    assert!(usage.bytes_up > 0 && usage.bytes_down > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_leads_into_a_refused_range() {
    let lease = lease(Tier::Open, &[]).await;
    let error = within(10, lease.client.resolve("localhost"))
        .await
        .unwrap_err();
    assert_eq!(error, ResolveError::NotFound("localhost".to_owned()));
    let error = within(10, lease.client.resolve("169.254.169.254"))
        .await
        .unwrap_err();
    assert_eq!(error, ResolveError::NotFound("169.254.169.254".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_no_name() {
    let lease = lease(Tier::Open, &[]).await;
    for name in ["", "a..b", &"x".repeat(300)] {
        assert!(
            matches!(
                within(10, lease.client.resolve(name)).await,
                Err(ResolveError::BadName(_))
            ),
            "{name:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_name_is_said_to_be_denied() {
    let mut names = DomainSetBuilder::default();
    names.add_line("denied.example").unwrap();
    let policy = ExitPolicy {
        deny_domains: vec![DomainList {
            category: "test".to_owned(),
            names: Arc::new(names.build()),
        }],
        ..ExitPolicy::new(Tier::Open)
    };
    let lease = lease_with(policy, ExitLimits::default()).await;
    let name = "www.denied.example";
    let error = within(10, lease.client.resolve(name)).await.unwrap_err();
    assert_eq!(error, ResolveError::Denied(name.to_owned()));
    // One question for each family.
    let dropped = lease.provider.dropped().await.unwrap();
    assert_eq!(dropped.get(DropReason::DeniedName), 2);
}
