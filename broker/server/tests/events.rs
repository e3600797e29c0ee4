//! The state of deals as a stream: every change once, in order, also when the reader or the broker was away.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use std::collections::HashMap;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use ipsx_market::http::{Connected, DealEvent, DealView, RequestEvent, StreamEnd, StreamEndReason};
use ipsx_market::messages::{AgentMessage, EndCause};
use ipsx_market::resting::RequestStatus;
use ipsx_market::status::{DealStatus, ProviderStatus, RequesterStatus};
use ipsx_metering::DealId;
use ipsx_settlement::{Signer, Wallet};
use parties::bundle::rest;
use parties::program::Program;
use parties::{TestAgent, TestBroker, TestRequester};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

/// One event: name, id and data.
#[derive(Clone, Debug, PartialEq)]
struct Event {
    name: String,
    id: Option<u64>,
    data: String,
}

impl Event {
    fn deal(&self) -> DealEvent {
        assert_eq!(self.name, "deal", "{self:?}");
        serde_json::from_str(&self.data).unwrap()
    }

    fn request(&self) -> RequestEvent {
        assert_eq!(self.name, "request", "{self:?}");
        serde_json::from_str(&self.data).unwrap()
    }

    fn reason(&self) -> StreamEndReason {
        assert_eq!((self.name.as_str(), self.id), ("end", None), "{self:?}");
        serde_json::from_str::<StreamEnd>(&self.data)
            .unwrap()
            .reason
    }
}

struct Events {
    body: Incoming,
    text: String,
}

impl Events {
    /// Status, and the stream if there is one.
    async fn open(requester: &TestRequester, path: &str, last: Option<u64>) -> (u16, Option<Self>) {
        let answer = ask(requester, path, last.map(|id| id.to_string()).as_deref()).await;
        let status = answer.status().as_u16();
        if status != 200 {
            return (status, None);
        }
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let (body, text) = (answer.into_body(), String::new());
        (status, Some(Self { body, text }))
    }

    async fn of(requester: &TestRequester, path: &str, last: Option<u64>) -> Self {
        let (status, events) = Self::open(requester, path, last).await;
        events.unwrap_or_else(|| panic!("{path}: {status}"))
    }

    /// The next event; `None` at the end or when the connection is lost.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let fields: HashMap<_, _> = block
                    .lines()
                    .filter_map(|line| line.split_once(": "))
                    .map(|(name, value)| (name.to_string(), value.to_string()))
                    .collect();
                self.text = rest.to_string();
                let Some(name) = fields.get("event") else {
                    continue;
                };
                return Some(Event {
                    name: name.clone(),
                    id: fields.get("id").map(|id| id.parse().unwrap()),
                    data: fields["data"].clone(),
                });
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.unwrap()?;
            let data = frame.ok()?.into_data().unwrap();
            self.text += std::str::from_utf8(&data).unwrap();
        }
    }

    async fn rest(mut self) -> Vec<Event> {
        let mut all = Vec::new();
        while let Some(event) = self.next().await {
            all.push(event);
        }
        all
    }
}

async fn ask(requester: &TestRequester, path: &str, last: Option<&str>) -> Response<Incoming> {
    let token = requester.token.as_ref().unwrap();
    let mut request = Request::builder()
        .method(Method::GET)
        .uri(format!("{}{path}", requester.url))
        .header("authorization", format!("Bearer {token}"));
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let request = request.body(Full::new(Bytes::new())).unwrap();
    requester.client.request(request).await.unwrap()
}

/// A bound deal, at the agent as well.
async fn bound(requester: &mut TestRequester, agent: &mut TestAgent) -> DealId {
    let request = requester.request("FR");
    let (proposed, deal) = tokio::join!(requester.ask(request), agent.accept());
    requester.sign(&proposed.unwrap()).await.unwrap();
    agent.bound().await;
    deal.id()
}

/// From bound to its end.
async fn use_up(requester: &TestRequester, agent: &mut TestAgent, id: DealId) {
    agent.ready(id).await;
    agent.say(&AgentMessage::LeaseServing { deal_id: id }).await;
    let active = format!("/v1/deals/{id}?wait=10&status=agreed");
    let view: DealView = requester.get(&active).await.unwrap();
    assert_eq!(view.status, DealStatus::Active);
    let path = format!("/v1/deals/{id}/connected");
    let _: DealView = requester.post(&path, &Connected {}).await.unwrap();
    agent.end(id, EndCause::Completed, None).await;
    let ended = format!("/v1/deals/{id}?wait=10&status=active");
    let view: DealView = requester.get(&ended).await.unwrap();
    assert!(view.status.is_over(), "{view:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deal_is_followed_from_its_beginning_to_its_end() {
    let broker = TestBroker::start().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 2)).await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    let mut all = Events::of(&requester, "/v1/events", None).await;
    let open = all.next().await.unwrap();
    assert_eq!((open.name.as_str(), open.id), ("open", Some(0)));

    let id = bound(&mut requester, &mut agent).await;
    let path = format!("/v1/deals/{id}/events");
    let following = Events::of(&requester, &path, None).await.rest();
    let (events, ()) = tokio::join!(following, use_up(&requester, &mut agent, id));
    assert_eq!(events[0].name, "open");
    assert_eq!(events.last().unwrap().reason(), StreamEndReason::DealOver);
    let told = &events[1..events.len() - 1];
    let statuses: Vec<_> = told.iter().map(|event| event.deal().status).collect();
    assert_eq!(statuses.first(), Some(&DealStatus::Proposed));
    assert!(statuses.contains(&DealStatus::Agreed) && statuses.contains(&DealStatus::Active));
    assert_eq!(statuses.last(), Some(&DealStatus::Ended));
    let last = told.last().unwrap().deal();
    assert_eq!(
        (last.provider, last.requester, last.cause.as_str()),
        (
            ProviderStatus::Ended,
            RequesterStatus::Connected,
            "reported Completed"
        )
    );
    assert!(told.is_sorted_by(|a, b| a.id < b.id));

    // From behind any event the rest follows, and behind the last one nothing, so that nobody comes again.
    for (seen, event) in told.iter().enumerate() {
        let (status, events) = Events::open(&requester, &path, event.id).await;
        if seen + 1 == told.len() {
            assert_eq!(status, 204);
        } else {
            let again = events.unwrap().rest().await;
            assert_eq!(again[1..again.len() - 1], told[seen + 1..]);
        }
    }
    // The stream of all deals had the same events.
    for event in told {
        assert_eq!(all.next().await.unwrap(), *event);
    }
    broker.broker.shutdown().await;
    assert_eq!(
        all.next().await.unwrap().reason(),
        StreamEndReason::BrokerStops
    );
    assert_eq!(all.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_for_those_whose_deals_they_tell() {
    let broker = TestBroker::start().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 2)).await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    let stranger = TestRequester::with_deposit(&broker, 0).await;
    let mut strangers = Events::of(&stranger, "/v1/events", None).await;
    assert_eq!(strangers.next().await.unwrap().name, "open");
    let id = bound(&mut requester, &mut agent).await;
    let path = format!("/v1/deals/{id}/events");
    assert_eq!(Events::open(&stranger, &path, None).await.0, 403);
    let unknown = format!("/v1/deals/0x{}/events", "3".repeat(64));
    assert_eq!(Events::open(&stranger, &unknown, None).await.0, 404);
    assert_eq!(
        ask(&requester, "/v1/events?after=3", None).await.status(),
        400
    );
    for bad in ["", "x", "-1", "1e3", "9223372036854775808", "1, 2"] {
        assert_eq!(
            ask(&requester, &path, Some(bad)).await.status(),
            400,
            "{bad}"
        );
    }
    let heard = timeout(Duration::from_millis(300), strangers.next()).await;
    assert!(heard.is_err(), "{heard:?}");
    // So many streams, and no more until one is closed.
    let mut open = Vec::new();
    while let (200, Some(events)) = Events::open(&requester, &path, None).await {
        open.push(events);
        assert!(open.len() <= 16);
    }
    assert_eq!(open.len(), 16);
    assert_eq!(Events::open(&requester, "/v1/events", None).await.0, 429);
    open.pop();
    let again = async {
        while Events::open(&requester, &path, None).await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, again).await.unwrap();
}

/// Killed in the middle, over and over: whoever goes on behind the last event it has seen sees every change, once.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_broker_is_killed() {
    let wallet = Wallet::from_secret(&[0x66; 32]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let fund = ["--fund".to_string(), format!("{}=1000", wallet.address())];
    let mut program = Program::start(directory.path(), &fund);
    let mut requester = program.funded(wallet, 100_000_000).await;
    let mut told = Vec::<Event>::new();
    let mut events = Events::of(&requester, "/v1/events", Some(0)).await;
    let mut deals = Vec::new();
    for round in 0..3u8 {
        let wallet = Wallet::from_secret(&[0x50 + round; 32]).unwrap();
        let mut agent = TestAgent::connect_as(wallet, program.agents, "127.0.1.1").await;
        agent.publish(agent.offer(1_000, 1)).await;
        deals.push(bound(&mut requester, &mut agent).await);
        // Read some of what there is, at least as far as each round goes.
        for _ in 0..=round {
            told.extend(events.next().await);
        }
        program.kill();
        while let Some(event) = events.next().await {
            told.push(event);
        }
        program = Program::start(directory.path(), &fund);
        requester.url = format!("http://{}", program.http);
        let last = told.iter().filter_map(|event| event.id).max();
        events = Events::of(&requester, "/v1/events", last).await;
    }
    let path = |id| format!("/v1/deals/{id}/events");
    let mut kept = Vec::new();
    for id in deals {
        let mut of_deal = Events::of(&requester, &path(id), None).await;
        assert_eq!(of_deal.next().await.unwrap().name, "open");
        // Signed by the provider and the requester, and funded, before the kill.
        for _ in 0..3 {
            kept.push(of_deal.next().await.unwrap());
        }
    }
    told.retain(|event| event.name == "deal");
    let ids: Vec<_> = told.iter().map(|event| event.id).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    while told.iter().filter(|event| kept.contains(event)).count() < kept.len() {
        told.extend(events.next().await);
    }
}

/// Requests that rest are in the same order as the deals that come of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_is_told_what_becomes_of_its_requests() {
    let broker = TestBroker::start().await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    let mut events = Events::of(&requester, "/v1/events", None).await;
    assert_eq!(events.next().await.unwrap().name, "open");
    let taken_back = requester.rest("FR", 60).await.unwrap().request;
    requester.cancel(taken_back).await.unwrap();
    let id = requester.rest("FR", 60).await.unwrap().request;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 1)).await;
    let deal = agent.accept().await;
    let expected = [
        (taken_back, RequestStatus::Resting),
        (taken_back, RequestStatus::Cancelled),
        (id, RequestStatus::Resting),
    ];
    for (request, status) in expected {
        let event = events.next().await.unwrap().request();
        assert_eq!((event.request, event.status), (request, status));
    }
    let proposed = events.next().await.unwrap();
    assert_eq!(proposed.deal().deal_id, deal.id());
    let matched = events.next().await.unwrap();
    assert_eq!(matched.request().status, RequestStatus::Matched);
    // Whoever was away is told the rest.
    let mut again = Events::of(&requester, "/v1/events", proposed.id).await;
    assert_eq!(again.next().await.unwrap().name, "open");
    assert_eq!(again.next().await.unwrap(), matched);
    // A request for several is told of in the same way.
    let mut another = TestAgent::connect(&broker, "127.0.1.2").await;
    another.publish(another.offer(1_000, 1)).await;
    let several = requester.several(2);
    let id = rest(&requester, several).await.unwrap().request;
    let event = again.next().await.unwrap().request();
    assert_eq!((event.request, event.status), (id, RequestStatus::Resting));
    agent.publish(agent.offer(1_000, 2)).await;
    let deals = [agent.accept().await, another.accept().await].map(|deal| deal.id());
    for _ in 0..2 {
        let proposed = again.next().await.unwrap();
        assert!(deals.contains(&proposed.deal().deal_id));
    }
    let event = again.next().await.unwrap().request();
    assert_eq!(event.status, RequestStatus::Matched);
}
