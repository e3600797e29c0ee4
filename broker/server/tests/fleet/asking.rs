//! Asking a fleet for several addresses that a test has chosen, and what is left after it.

use ipsx_market::http::{OfferView, PostWithdrawal, Problem};
use ipsx_market::request::Request;
use ipsx_metering::{Amount, Signed, Withdrawal};
use ipsx_settlement::Signer;

use crate::parties::TestRequester;
use crate::parts::Lender;

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

/// Leases that are for sale at these addresses.
pub async fn free(requester: &TestRequester, addresses: &[String]) -> u32 {
    let offers: Vec<OfferView> = requester.get("/v1/offers").await.unwrap();
    let here = |offer: &&OfferView| addresses.contains(&offer.placement.address.to_string());
    let here = offers.iter().filter(here);
    here.map(|offer| offer.free_leases).sum()
}

/// The operator's consent that so much of the deposit is taken out: all of it, if nothing is promised.
pub async fn take_out(
    requester: &TestRequester,
    amount: u128,
) -> Result<Signed<Withdrawal>, Problem> {
    let ask = PostWithdrawal {
        to: requester.wallet.address(),
        amount: Amount(amount),
    };
    requester.post("/v1/withdrawals", &ask).await
}
