//! A requester of a [`TestBroker`].

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ipsx_market::avoid::Distinct;
use ipsx_market::bundle::{Bundle, Leg};
use ipsx_market::http::{NetworkInfo, PostWithdrawal, Problem, ProblemKind, ProposedDeal};
use ipsx_market::request::{Request, TunnelKey};
use ipsx_metering::{Amount, B256, Signed, Withdrawal};
use ipsx_settlement::{Signer, Wallet};
use ipsx_tests::requester::Requester;
use tokio::time::timeout;

use super::TestBroker;

pub struct TestRequester(pub Requester);

impl TestRequester {
    /// Signed in, with `deposit` on the chain.
    pub async fn with_deposit(broker: &TestBroker, deposit: u128) -> Self {
        let mut requester = Self::stranger(broker);
        requester.sign_in().await;
        if deposit > 0 {
            requester.deposit(broker, deposit).await;
        }
        requester
    }

    /// Is given some and deposits it, without asking over HTTP.
    pub async fn deposit(&self, broker: &TestBroker, amount: u128) {
        let (owner, amount) = (self.wallet.address(), Amount(amount));
        broker.broker.grant(owner, amount).await.unwrap();
        let contract = broker.broker.centralizer();
        let paid = contract.deposit(&self.wallet, self.info.network, owner, amount);
        paid.await.unwrap();
    }

    /// Not signed in, without money.
    pub fn stranger(broker: &TestBroker) -> Self {
        let info = broker.broker.network_info().clone();
        Self::at(Wallet::random(), broker.broker.http_addr(), info)
    }

    pub fn at(wallet: Wallet, http: SocketAddr, info: NetworkInfo) -> Self {
        Self(Requester::at(wallet, http, info))
    }

    /// The same, whose connections come from this address.
    pub fn from(self, address: &str) -> Self {
        Self(self.0.from(address))
    }

    /// The operator's consent that so much of the deposit is taken out: all of it, if nothing is promised.
    pub async fn take_out(&self, amount: u128) -> Result<Signed<Withdrawal>, Problem> {
        let ask = PostWithdrawal {
            to: self.wallet.address(),
            amount: Amount(amount),
        };
        self.post("/v1/withdrawals", &ask).await
    }

    /// Signs while nothing gets to the disk: returns once the broker has the signature, and can't answer it.
    pub async fn sign_in_vain(&self, proposed: &ProposedDeal) {
        let mut both = FuturesUnordered::from_iter([self.sign(proposed), self.sign(proposed)]);
        // The second one is told so.
        let refused = both.next().await.unwrap().unwrap_err();
        assert_eq!(refused.kind, ProblemKind::Conflict, "{refused:?}");
        let more = timeout(Duration::from_millis(500), both.next()).await;
        assert!(more.is_err(), "{more:?} is not on disk");
    }

    /// Asks for so many addresses of different providers, all or nothing.
    pub fn several(&mut self, count: u8) -> Request {
        let mut request = self.request("FR");
        let nonce = request.nonce as u8;
        request.channel_salt.0[31] = nonce;
        let leg = |number: u8| {
            let mut channel_salt = B256::repeat_byte(number);
            channel_salt.0[31] = nonce;
            Leg {
                tunnel_key: TunnelKey(B256::repeat_byte(100 + number)),
                channel_salt,
            }
        };
        request.bundle = Bundle {
            legs: (1..count).map(leg).collect(),
            distinct: Distinct::Provider,
            all_or_nothing: true,
        };
        request
    }
}

impl Deref for TestRequester {
    type Target = Requester;

    fn deref(&self) -> &Requester {
        &self.0
    }
}

impl DerefMut for TestRequester {
    fn deref_mut(&mut self) -> &mut Requester {
        &mut self.0
    }
}
