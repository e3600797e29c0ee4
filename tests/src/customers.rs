//! Requesters that take one lease after the other, and ask again until they are answered: after every loss under the same
//! key, as a careful client does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ipsx_market::http::{Problem, ProblemKind};
use ipsx_metering::B256;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::requester::Requester;
use crate::told::Told;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Customers until they are stopped.
pub struct Customers {
    news: Arc<News>,
    tasks: JoinSet<(Requester, Problems)>,
}

/// What was refused, and how often, by status and title.
pub type Problems = BTreeMap<String, usize>;

#[derive(Default)]
struct News {
    stop: AtomicBool,
    leases: AtomicUsize,
    /// Answers that said that the broker can't do it now.
    unavailable: AtomicUsize,
}

impl Customers {
    /// Starts them. Call it within a runtime.
    pub fn come(requesters: Vec<Requester>, told: &Told) -> Self {
        let news = Arc::new(News::default());
        let mut tasks = JoinSet::new();
        for requester in requesters {
            let customer = Customer {
                requester,
                told: told.clone(),
                news: Arc::clone(&news),
                problems: Problems::new(),
            };
            tasks.spawn(customer.live());
        }
        Self { news, tasks }
    }

    /// Leases that are bound so far.
    pub fn leases(&self) -> usize {
        self.news.leases.load(Ordering::Relaxed)
    }

    /// How often they heard that the broker is not available.
    pub fn unavailable(&self) -> usize {
        self.news.unavailable.load(Ordering::Relaxed)
    }

    /// Lets each finish what it is at; returns them and what was refused to them.
    pub async fn leave(mut self) -> (Vec<Requester>, Problems) {
        self.news.stop.store(true, Ordering::Relaxed);
        let (mut requesters, mut problems) = (Vec::new(), Problems::new());
        while let Some(left) = self.tasks.join_next().await {
            let (requester, its) = left.unwrap();
            requesters.push(requester);
            for (problem, times) in its {
                *problems.entry(problem).or_default() += times;
            }
        }
        (requesters, problems)
    }
}

struct Customer {
    requester: Requester,
    told: Told,
    news: Arc<News>,
    problems: Problems,
}

impl Customer {
    async fn live(mut self) -> (Requester, Problems) {
        while !self.news.stop.load(Ordering::Relaxed) {
            if self.lease().await.is_none() {
                sleep(PAUSE).await;
            }
        }
        (self.requester, self.problems)
    }

    async fn lease(&mut self) -> Option<()> {
        let mut request = self.requester.request("FR");
        let nonce = request.nonce;
        // Leases at the same time pay through channels of their own.
        request.channel_salt = B256::left_padding_from(&nonce.to_be_bytes());
        let body = self.requester.posted(request);
        let key = format!("request-{nonce}");
        let proposed = self.insist("/v1/requests", &key, &body).await?;
        self.told.proposed(&proposed);
        let path = format!("/v1/deals/{}/signature", proposed.deal_id);
        let body = self.requester.signature(&proposed);
        let key = format!("signature-{nonce}");
        let bound = self.insist(&path, &key, &body).await?;
        self.told.bound(bound);
        self.news.leases.fetch_add(1, Ordering::Relaxed);
        Some(())
    }

    /// Until there is an answer that stays; nothing for a refusal.
    async fn insist<T: DeserializeOwned>(
        &mut self,
        path: &str,
        key: &str,
        body: &impl Serialize,
    ) -> Option<T> {
        loop {
            if let Some((status, _, answer)) = self.requester.post_once(path, key, body).await {
                if status == 200 {
                    return Some(serde_json::from_slice(&answer).unwrap());
                }
                let problem: Problem = serde_json::from_slice(&answer).unwrap();
                let reason = format!("{status} {}: {}", problem.title, problem.detail);
                *self.problems.entry(reason).or_default() += 1;
                if problem.kind != ProblemKind::Unavailable {
                    return None;
                }
                self.news.unavailable.fetch_add(1, Ordering::Relaxed);
            }
            if self.news.stop.load(Ordering::Relaxed) {
                return None;
            }
            sleep(PAUSE).await;
        }
    }
}
