//! Asking for several addresses at once.

use std::path::Path;

use ipsx_market::deal::Deal;
use ipsx_market::http::{
    BoundBundle, DealSignature, Problem, ProposedBundle, RequestView, SignBundle,
};
use ipsx_market::request::Request;
use ipsx_market::resting::RequestStatus;
use ipsx_metering::{RequestId, TypedData};
use ipsx_settlement::{Signer, Wallet};

use super::program::Program;
use super::{TestAgent, TestRequester};

pub const BUNDLES: &str = "/v1/bundles";

pub async fn ask(requester: &TestRequester, request: Request) -> Result<ProposedBundle, Problem> {
    requester.post(BUNDLES, &requester.posted(request)).await
}

/// Asks for several, which rest.
pub async fn rest(requester: &TestRequester, mut request: Request) -> Result<RequestView, Problem> {
    request.rest_until = request.expires_at;
    requester.post(BUNDLES, &requester.posted(request)).await
}

/// What came of one that rested.
pub async fn matched(requester: &TestRequester, id: RequestId) -> ProposedBundle {
    let view = requester.resting(id, "?wait=20").await.unwrap();
    assert_eq!(view.status, RequestStatus::Matched, "{view:?}");
    ProposedBundle {
        request: id,
        deals: view.deals,
    }
}

pub fn path(proposed: &ProposedBundle) -> String {
    format!("{BUNDLES}/{}/signatures", proposed.request)
}

/// What binds all of the deals.
pub fn signatures(requester: &TestRequester, proposed: &ProposedBundle) -> SignBundle {
    let sign = |deal: &Deal| DealSignature {
        deal_id: deal.id(),
        signature: requester
            .wallet
            .sign_hash(deal.signing_hash(&requester.info.domain)),
        prepaid: deal.is_prepaid().then(|| {
            let first = deal.terms().first_slice();
            requester.voucher(deal.channel().id(), first.0)
        }),
    };
    SignBundle {
        signatures: proposed.deals.iter().map(|p| sign(&p.deal)).collect(),
        authorization: Some(requester.authorization(0)),
    }
}

pub async fn sign(
    requester: &TestRequester,
    proposed: &ProposedBundle,
) -> Result<BoundBundle, Problem> {
    let body = signatures(requester, proposed);
    requester.post(&path(proposed), &body).await
}

/// A program with so many requesters that have money, and what it was started with.
pub async fn program(
    directory: &Path,
    wallets: &[Wallet],
    store: &[String],
) -> (Program, Vec<String>) {
    let mut options = store.to_vec();
    for wallet in wallets {
        options.extend(["--fund".into(), format!("{}=1000", wallet.address())]);
    }
    (Program::start(directory, &options), options)
}

/// Three providers of one address each.
pub async fn three_at(program: &Program) -> [TestAgent; 3] {
    let mut agents = Vec::new();
    for number in 1..4 {
        agents.push(one_at(program, number).await);
    }
    agents.try_into().ok().unwrap()
}

/// One of them.
pub async fn one_at(program: &Program, number: u8) -> TestAgent {
    let (wallet, from) = (Wallet::random(), format!("127.0.1.{number}"));
    let mut agent = TestAgent::connect_as(wallet, program.agents, &from).await;
    agent.publish(agent.offer(1_000, 1)).await;
    agent
}
