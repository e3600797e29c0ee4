//! Asking a fleet for several addresses that a test has chosen, and what is left after it.

use std::time::Duration;

use ipsx_market::http::{OfferView, ProblemKind};
use ipsx_market::request::Request;
use tokio::time::{Instant, sleep};

use crate::parties::TestRequester;
use crate::parts::Lender;
use crate::world::PATIENCE;

/// So many of these addresses.
pub fn wish(
    requester: &mut TestRequester,
    addresses: &[String],
    count: u8,
    all_or_nothing: bool,
) -> Request {
    let mut request = requester.several(count);
    let prefix = |address: &String| format!("{address}/32").parse().unwrap();
    request.filter.countries.clear();
    request.filter.prefixes = addresses.iter().map(prefix).collect();
    request.bundle.all_or_nothing = all_or_nothing;
    request
}

pub fn addresses<'a>(lenders: impl IntoIterator<Item = &'a Lender>) -> Vec<String> {
    let lenders = lenders.into_iter();
    lenders.map(|lender| lender.address.clone()).collect()
}

/// Leases that are for sale at these addresses, once a broker can say so: a part of the market may be on its way to another one.
pub async fn free(requester: &TestRequester, addresses: &[String]) -> u32 {
    let until = Instant::now() + PATIENCE;
    let offers = loop {
        match requester.get::<Vec<OfferView>>("/v1/offers").await {
            Ok(offers) => break offers,
            Err(problem) => assert_eq!(problem.kind, ProblemKind::Unavailable, "{problem:?}"),
        }
        assert!(Instant::now() < until);
        sleep(Duration::from_millis(100)).await;
    };
    let here = |offer: &&OfferView| addresses.contains(&offer.placement.address.to_string());
    let here = offers.iter().filter(here);
    here.map(|offer| offer.free_leases).sum()
}
