//! What agents may and may not do, over real QUIC.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipsx_market::http::{Frames, OfferView, ProblemKind};
use ipsx_market::messages::{
    AgentAuthentication, AgentMessage, BrokerMessage, EndCause, PROTOCOL_VERSION,
};
use ipsx_market::offer::Offer;
use ipsx_market::request::CounterSource;
use ipsx_market::status::DealStatus;
use ipsx_metering::{Signed, TypedData};
use ipsx_settlement::{Signer, Wallet};
use parties::agent::{Relay, client_config, dial, exporter, hear, hello, say};
use parties::{TestAgent, TestBroker, TestRequester};
use quinn::Endpoint;

/// The reason of a refusal, if the next thing heard is one.
async fn refusal(recv: &mut quinn::RecvStream) -> Option<String> {
    match hear(recv).await? {
        BrokerMessage::Refused { reason } => Some(reason),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_is_none_is_refused_in_words() {
    let broker = TestBroker::start().await;
    let to = broker.broker.agents_addr();
    // Another version.
    let (_endpoint, connection) = dial("127.0.1.1", to).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let old = AgentMessage::Hello {
        version: PROTOCOL_VERSION + 1,
        software: "x".into(),
    };
    say(&mut send, &old).await;
    assert!(
        refusal(&mut recv)
            .await
            .unwrap()
            .contains("speaks version 1")
    );
    connection.closed().await;
    // Garbage.
    let (_endpoint, connection) = dial("127.0.1.1", to).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(b"\0\0\0\x10GET / HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    assert!(
        refusal(&mut recv)
            .await
            .unwrap()
            .contains("not a message of this protocol")
    );
    // A length that no message has.
    let (_endpoint, connection) = dial("127.0.1.1", to).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[0xff; 8]).await.unwrap();
    assert!(
        refusal(&mut recv)
            .await
            .unwrap()
            .contains("longer than the 65536 allowed")
    );
    // Something else first.
    let (_endpoint, connection) = dial("127.0.1.1", to).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let deal_id = Default::default();
    say(&mut send, &AgentMessage::LeaseServing { deal_id }).await;
    assert!(refusal(&mut recv).await.unwrap().contains("must be Hello"));
    // Another protocol.
    let mut endpoint = Endpoint::client("127.0.1.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(client_config(b"h3"));
    assert!(endpoint.connect(to, "ipsx-broker").unwrap().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_for_another_connection_proves_nothing() {
    let broker = TestBroker::start().await;
    let to = broker.broker.agents_addr();
    let wallet = Wallet::random();
    // Whoever sits between has a connection to each side, and two different TLS sessions.
    let (_there, with_agent) = dial("127.0.1.1", to).await;
    let (_here, with_broker) = dial("127.0.1.2", to).await;
    assert_ne!(exporter(&with_agent), exporter(&with_broker));
    let (mut send, mut recv) = with_broker.open_bi().await.unwrap();
    say(&mut send, &hello()).await;
    let Some(BrokerMessage::Welcome {
        network, domain, ..
    }) = hear(&mut recv).await
    else {
        panic!("no welcome")
    };
    let claim = AgentAuthentication {
        network,
        provider: wallet.address(),
        session: exporter(&with_agent),
    };
    let signature = wallet.sign_hash(claim.signing_hash(&domain));
    say(
        &mut send,
        &AgentMessage::Authenticate {
            provider: wallet.address(),
            signature,
        },
    )
    .await;
    assert!(
        refusal(&mut recv)
            .await
            .unwrap()
            .contains("the wallet is not proved")
    );
    with_broker.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_good_offers_get_into_the_book() {
    let broker = TestBroker::start_with(|config| config.limits.offers_per_provider = 2).await;
    let mut agent = TestAgent::connect(&broker, "127.0.2.1").await;
    let stranger = Wallet::random();
    type Change<'a> = &'a dyn Fn(&mut Offer);
    let cases: [(&str, Change<'_>); 6] = [
        ("provider", &|o| o.provider = stranger.address()),
        ("capacity.leases", &|o| o.capacity.leases = 0),
        ("min_seconds", &|o| o.min_seconds = 4),
        ("it is for network", &|o| o.network = Default::default()),
        ("expires_at", &|o| {
            o.expires_at = ipsx_metering::UnixSeconds(1)
        }),
        ("prefixes", &|o| {
            o.prefixes = vec!["203.0.113.0/24".parse().unwrap()]
        }),
    ];
    for (wanted, change) in cases {
        let mut offer = agent.offer(5, 1);
        change(&mut offer);
        let offer = Signed::sign(offer, &agent.domain, agent.wallet.key());
        agent.say(&AgentMessage::PublishOffer { offer }).await;
        match agent.hear().await {
            BrokerMessage::OfferRefused { reason, .. } => {
                assert!(reason.contains(wanted), "{reason}")
            }
            other => panic!("{wanted}: {other:?}"),
        }
    }
    let offer = Signed::sign(agent.offer(5, 1), &agent.domain, stranger.key());
    agent.say(&AgentMessage::PublishOffer { offer }).await;
    assert!(matches!(
        agent.hear().await,
        BrokerMessage::OfferRefused { .. }
    ));

    let mut good = agent.offer(5, 1);
    good.prefixes = vec!["127.0.2.0/24".parse().unwrap()];
    let id = agent.publish(good).await;
    agent.publish(agent.offer(6, 1)).await;
    let requester = TestRequester::stranger(&broker);
    let offers: Vec<OfferView> = requester.get("/v1/offers?country=DE").await.unwrap();
    assert_eq!((offers.len(), offers[0].offer), (2, id));
    agent.say(&AgentMessage::WithdrawOffer { offer: id }).await;
    agent.publish(agent.offer(7, 1)).await;
    let offers: Vec<OfferView> = requester.get("/v1/offers?country=DE").await.unwrap();
    assert_eq!(offers.len(), 1, "one withdrawn, one replaced");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_connection_takes_over_and_a_closed_one_takes_its_offers_along() {
    let broker = TestBroker::start().await;
    let to = broker.broker.agents_addr();
    let secret = [9; 32];
    let wallet = || Wallet::from_secret(&secret).unwrap();
    let mut old = TestAgent::connect_as(wallet(), to, "127.0.1.1").await;
    old.publish(old.offer(5, 1)).await;
    let requester = TestRequester::stranger(&broker);
    let mut new = TestAgent::connect_as(wallet(), to, "127.0.3.1").await;
    let closed = old.connection.closed().await.to_string();
    assert!(
        closed.contains("a newer connection of this wallet took over"),
        "{closed}"
    );
    let offers: Vec<OfferView> = requester.get("/v1/offers").await.unwrap();
    assert!(offers.is_empty());
    new.publish(new.offer(5, 1)).await;
    let offers: Vec<OfferView> = requester.get("/v1/offers?country=JP").await.unwrap();
    assert_eq!(offers.len(), 1);
    new.connection.close(0u32.into(), b"");
    for _ in 0..50 {
        let offers: Vec<OfferView> = requester.get("/v1/offers").await.unwrap();
        if offers.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the offers stayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_floods_is_dropped() {
    let broker = TestBroker::start_with(|config| config.limits.messages_per_second = 5).await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    for _ in 0..60 {
        agent
            .say(&AgentMessage::WithdrawOffer {
                offer: Default::default(),
            })
            .await;
    }
    assert!(
        refusal(&mut agent.recv)
            .await
            .unwrap()
            .contains("more than 5 messages a second")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_lease_goes_to_one() {
    let broker = TestBroker::start().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 1)).await;
    let mut one = TestRequester::with_deposit(&broker, 1_000_000).await;
    let mut other = TestRequester::with_deposit(&broker, 1_000_000).await;
    let (first, second) = (one.request("FR"), other.request("FR"));
    let (first, second, _) = tokio::join!(one.ask(first), other.ask(second), agent.accept());
    let problem = match (first, second) {
        (Ok(_), Err(problem)) | (Err(problem), Ok(_)) => problem,
        both => panic!("{both:?}"),
    };
    assert_eq!(problem.kind, ProblemKind::SoldOut);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_provider_is_asked_when_one_declines() {
    let broker = TestBroker::start().await;
    let mut cheap = TestAgent::connect(&broker, "127.0.1.1").await;
    let mut dear = TestAgent::connect(&broker, "127.0.1.2").await;
    cheap.publish(cheap.offer(900, 1)).await;
    dear.publish(dear.offer(1_000, 1)).await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    let request = requester.request("FR");
    let declining = async {
        let (proposal, _) = cheap.proposal().await;
        let reason = "busy".to_string();
        cheap
            .say(&AgentMessage::DeclineDeal { proposal, reason })
            .await;
        dear.accept().await
    };
    let (proposed, deal) = tokio::join!(requester.ask(request), declining);
    assert_eq!(proposed.unwrap().deal, deal);
    assert_eq!(deal.provider, dear.wallet.address());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_is_noticed_and_its_lease_is_given_up() {
    let broker = TestBroker::start_with(|config| config.timers.grace = 1).await;
    let relay = Relay::start("127.0.1.7", broker.broker.agents_addr()).await;
    let mut agent = TestAgent::connect_as(Wallet::random(), relay.address, "127.0.0.1").await;
    assert_eq!(agent.observed.to_string(), "127.0.1.7");
    agent.publish(agent.offer(1_000, 1)).await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    let request = requester.request("FR");
    let (proposed, deal) = tokio::join!(requester.ask(request), agent.accept());
    requester.sign(&proposed.unwrap()).await.unwrap();
    agent.bound().await;
    agent.ready(deal.id()).await;
    agent
        .say(&AgentMessage::LeaseServing { deal_id: deal.id() })
        .await;
    let view = requester
        .deal(deal.id(), "?wait=10&status=agreed")
        .await
        .unwrap();
    assert_eq!(view.status, DealStatus::Active);
    let killed = Instant::now();
    relay.stop();
    while !requester
        .get::<Vec<OfferView>>("/v1/offers")
        .await
        .unwrap()
        .is_empty()
    {
        assert!(
            killed.elapsed() < Duration::from_secs(18),
            "the offers stayed"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let view = requester
        .deal(deal.id(), "?wait=10&status=active")
        .await
        .unwrap();
    assert_eq!(view.status, DealStatus::ProviderFailed);
    assert_eq!(view.cause, Some(EndCause::NoService));
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_go_both_ways_in_their_seal() {
    let broker = TestBroker::start().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 1)).await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    let mut request = requester.request("FR");
    request.counter_source = CounterSource::Provider;
    let (proposed, deal) = tokio::join!(requester.ask(request), agent.accept());
    let id = deal.id();
    let path = format!("/v1/deals/{id}/frames");
    let early = requester.get::<Frames>(&path).await.unwrap_err();
    assert_eq!(early.kind, ProblemKind::Conflict);
    requester.sign(&proposed.unwrap()).await.unwrap();
    agent.bound().await;

    let poll = format!("{path}?wait=10");
    let waiting = requester.get::<Frames>(&poll);
    let sealed = vec![7; 100];
    let frame = AgentMessage::Frame {
        deal_id: id,
        sealed: sealed.clone(),
    };
    let sending = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        agent.say(&frame).await;
    };
    let (frames, ()) = tokio::join!(waiting, sending);
    assert_eq!(frames.unwrap().frames, [STANDARD.encode(&sealed)]);
    let none: Frames = requester.get(&path).await.unwrap();
    assert!(none.frames.is_empty());

    let post = |bytes: Vec<u8>| Frames {
        frames: vec![STANDARD.encode(bytes)],
    };
    requester
        .post::<()>(&path, &post(vec![8; 60]))
        .await
        .unwrap();
    assert_eq!(
        agent.hear().await,
        BrokerMessage::Frame {
            deal_id: id,
            sealed: vec![8; 60]
        }
    );
    let large = requester
        .post::<()>(&path, &post(vec![8; 1_241]))
        .await
        .unwrap_err();
    assert_eq!(large.kind, ProblemKind::InvalidRequest);
    let text = Frames {
        frames: vec!["?".into()],
    };
    let garbled = requester.post::<()>(&path, &text).await.unwrap_err();
    assert_eq!(garbled.kind, ProblemKind::InvalidRequest);

    // More than the mailbox holds: the newest stay.
    for n in 0..100u8 {
        agent
            .say(&AgentMessage::Frame {
                deal_id: id,
                sealed: vec![n; 30],
            })
            .await;
    }
    agent.end(id, EndCause::Completed, None).await;
    requester.deal(id, "?wait=10&status=agreed").await.unwrap();
    let last: Frames = requester.get(&path).await.unwrap();
    assert_eq!(last.frames.len(), 64);
    assert_eq!(last.frames[63], STANDARD.encode([99; 30]));
    let over = requester.get::<Frames>(&path).await.unwrap_err();
    assert!(matches!(
        over.kind,
        ProblemKind::Conflict | ProblemKind::NotFound
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_a_deal_that_is_over_is_answered_with_its_end() {
    let broker = TestBroker::start_with(|config| {
        (
            config.timers.propose,
            config.timers.sign,
            config.timers.start,
        ) = (1, 2, 4);
    })
    .await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 2)).await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    // Never signed: aborted by the network's word.
    let request = requester.request("FR");
    let (proposed, deal) = tokio::join!(requester.ask(request), agent.accept());
    match agent.hear().await {
        BrokerMessage::DealAborted { deal_id, .. } => assert_eq!(deal_id, deal.id()),
        other => panic!("{other:?}"),
    }
    let late = requester.sign(&proposed.unwrap()).await.unwrap_err();
    assert!(matches!(
        late.kind,
        ProblemKind::Conflict | ProblemKind::NotFound
    ));
    let view = requester.deal(deal.id(), "").await.unwrap();
    assert_eq!(view.status, DealStatus::Expired);
    // Bound, ready, never connected: a no-show.
    let request = requester.request("FR");
    let (proposed, deal) = tokio::join!(requester.ask(request), agent.accept());
    requester.sign(&proposed.unwrap()).await.unwrap();
    agent.bound().await;
    agent.ready(deal.id()).await;
    let over = BrokerMessage::EndLease {
        deal_id: deal.id(),
        cause: EndCause::NotStarted,
    };
    assert_eq!(agent.hear().await, over);
    agent
        .say(&AgentMessage::LeaseServing { deal_id: deal.id() })
        .await;
    assert_eq!(agent.hear().await, over);
    agent.end(deal.id(), EndCause::NotStarted, None).await;
    agent
        .say(&AgentMessage::LeaseServing { deal_id: deal.id() })
        .await;
    let unknown = BrokerMessage::EndLease {
        deal_id: deal.id(),
        cause: EndCause::Restarted,
    };
    assert_eq!(agent.hear().await, unknown);
    let view = requester.deal(deal.id(), "").await.unwrap();
    assert_eq!(view.status, DealStatus::NoShow);
    // Nobody answers: one line.
    let request = requester.request("FR");
    let problem = requester.ask(request).await.unwrap_err();
    assert_eq!(problem.kind, ProblemKind::Unavailable);
    assert!(
        problem
            .detail
            .contains("none signed (the last one: it did not answer)"),
        "{}",
        problem.detail
    );
}
