//! This broker as one of several: who has which shard, what is asked of the others, and agents that one broker hears for
//! another.
//!
//! PostgreSQL says who lives and whose each shard is, and refuses whatever a broker writes of a shard that is no longer its
//! own. NATS carries what brokers say to each other, none of which has to survive. A broker that can't reach either is
//! taken for dead by the others, and takes itself for it: it stops, and begins anew as another one.

mod calls;
mod keeper;
mod relay;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Subscriber};
use axum::Router;
use axum::body::Bytes;
use futures_util::StreamExt;
use ipsx_market::fleet::{Epoch, Instance, SHARDS, ShardId};
use ipsx_metering::NetworkId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, timeout};

use crate::config::FleetConfig;
use crate::desk::{Changed, Desk, News};
use crate::error::StartError;
use crate::operator::random;
use crate::store::FleetStore;

pub(crate) use calls::{Asked, Unanswered};
pub(crate) use relay::Elsewhere;

/// How long somebody waits for a shard to have an owner: longer than a takeover takes.
const TAKEOVER: Duration = Duration::from_secs(8);
/// Between two attempts to read what rests.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked whether a bundle waits to be filled: its providers had seconds to answer.
const UNDECIDED: Duration = Duration::from_millis(250);
/// How long the first of several attempts to reach NATS again waits.
const RETRY: Duration = Duration::from_millis(20);
/// Between a message's head and its body.
const NEWLINE: u8 = b'\n';

/// Who has a shard, and since when, as the others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) owner: Instance,
    epoch: Epoch,
}

/// Whose each shard is; nobody's while it is being taken over.
pub(crate) type Homes = Vec<Option<Home>>;

/// Whose some shards are.
pub(crate) type Found = BTreeMap<ShardId, Home>;

/// This broker's place among the others.
pub(crate) struct Fleet {
    me: Instance,
    /// Begins every subject.
    prefix: String,
    client: Client,
    homes: watch::Sender<Homes>,
    relay: Mutex<relay::Relay>,
    /// News that were told.
    told: Mutex<u64>,
    /// Leaves in order.
    post: mpsc::UnboundedSender<(String, Bytes)>,
}

impl Fleet {
    /// Joins the others' NATS, under a name that no broker has had before.
    pub(crate) async fn connect(
        config: &FleetConfig,
        network: NetworkId,
    ) -> Result<(Arc<Self>, JoinHandle<()>), StartError> {
        let me = format!("{}-{}", config.name, hex::encode(random::<4>()));
        let me: Instance = me
            .parse()
            .map_err(|error| StartError::Internal(format!("{error}")))?;
        let servers: Vec<_> = config.nats.expose().split(',').collect();
        let connecting = ConnectOptions::new()
            .name(me.as_str())
            .ping_interval(Duration::from_secs(2))
            .connection_timeout(Duration::from_secs(3))
            // A server that was started again is found before this broker counts as dead.
            .reconnect_delay_callback(|tried| RETRY * u32::try_from(tried.min(10)).unwrap_or(10))
            .subscription_capacity(relay::QUEUE)
            .connect(servers);
        let client = connecting
            .await
            .map_err(|error| StartError::Nats(error.to_string()))?;
        let (post, mail) = mpsc::unbounded_channel();
        let carrying = tokio::spawn(carry(client.clone(), mail));
        let fleet = Self {
            prefix: format!("ipsx.{network}"),
            client,
            homes: watch::channel(vec![None; SHARDS]).0,
            relay: Mutex::new(relay::Relay::new(me.clone())),
            told: Mutex::new(0),
            post,
            me,
        };
        Ok((Arc::new(fleet), carrying))
    }

    /// This broker.
    pub(crate) fn me(&self) -> &Instance {
        &self.me
    }

    /// Takes part: beats, takes over shards, and answers the others. `router` answers what they ask.
    pub(crate) async fn join(
        self: &Arc<Self>,
        desk: &Arc<Desk>,
        store: FleetStore,
        router: Router,
    ) -> Result<Vec<JoinHandle<()>>, StartError> {
        let nats = |error: async_nats::SubscribeError| StartError::Nats(error.to_string());
        let news = self.client.subscribe(self.subject("news", None));
        let frames = self.client.subscribe(self.subject("frame", Some(&self.me)));
        let calls = self.client.subscribe(self.subject("call", Some(&self.me)));
        let (news, frames, calls) = (
            news.await.map_err(nats)?,
            frames.await.map_err(nats)?,
            calls.await.map_err(nats)?,
        );
        let (fleet, at) = (|| Arc::clone(self), || Arc::clone(desk));
        let (seen, seeing) = watch::channel(None);
        Ok(vec![
            tokio::spawn(hear_news(fleet(), at(), news)),
            tokio::spawn(follow_requests(at())),
            tokio::spawn(follow_relayed(at())),
            tokio::spawn(fill_undecided(at())),
            tokio::spawn(relay::hear(fleet(), at(), frames)),
            tokio::spawn(calls::answer(fleet(), at(), router, calls)),
            tokio::spawn(keeper::beat(fleet(), at(), store.clone(), seen)),
            tokio::spawn(keeper::keep(fleet(), at(), store, seeing)),
        ])
    }

    /// Whose a shard is, once it is somebody's.
    pub(crate) async fn home(&self, shard: ShardId) -> Option<Home> {
        let mut homes = self.homes.subscribe();
        let number = usize::from(shard.number());
        let known = homes.wait_for(|homes| homes[number].is_some());
        let known = timeout(TAKEOVER, known).await.ok()?.ok()?;
        known[number].clone()
    }

    /// The same of several.
    pub(crate) async fn found(&self, shards: &BTreeSet<ShardId>) -> Option<Found> {
        let mut found = Found::new();
        for shard in shards {
            found.insert(*shard, self.home(*shard).await?);
        }
        Some(found)
    }

    /// Waits until all of these have an owner, or for as long as a takeover may take.
    pub(crate) async fn settled(&self, shards: &BTreeSet<ShardId>) {
        let mut homes = self.homes.subscribe();
        let owned = |homes: &Homes, shard: &ShardId| homes[usize::from(shard.number())].is_some();
        let all = homes.wait_for(|homes| shards.iter().all(|shard| owned(homes, shard)));
        // Whoever waited in vain goes on with what there is.
        let _ = timeout(TAKEOVER, all).await;
    }

    /// Who has these shards, as far as it is known.
    pub(crate) fn owners(&self, shards: &BTreeSet<ShardId>) -> BTreeSet<Instance> {
        let homes = self.homes.borrow();
        let homes = shards
            .iter()
            .filter_map(|shard| homes[usize::from(shard.number())].as_ref());
        homes.map(|home| home.owner.clone()).collect()
    }

    /// Whether a shard is somebody else's by now, or nobody's.
    pub(crate) fn has_moved(&self, shard: ShardId, home: &Home) -> bool {
        is_elsewhere(&self.homes.borrow(), shard, home)
    }

    /// The same of any of several.
    pub(crate) fn have_moved(&self, found: &Found) -> bool {
        are_elsewhere(&self.homes.borrow(), found)
    }

    /// Returns once one of them has.
    pub(crate) async fn moved(&self, found: &Found) {
        let mut homes = self.homes.subscribe();
        // It ends only with the broker.
        let _ = homes.wait_for(|homes| are_elsewhere(homes, found)).await;
    }

    /// Returns once a broker has no shard any more.
    pub(crate) async fn left(&self, owner: &Instance) {
        let mut homes = self.homes.subscribe();
        let owns = |home: &Home| home.owner == *owner;
        // As above.
        let _ = homes
            .wait_for(|homes| !homes.iter().flatten().any(owns))
            .await;
    }

    /// Tells all other brokers.
    pub(crate) fn tell(&self, news: News) {
        self.tell_all(Some(news));
    }

    /// Numbers what it tells, even if there is nothing new, so that nobody takes what is lost for silence.
    fn tell_all(&self, news: Option<News>) {
        // A count is whole after any panic.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        *told += 1;
        // Within the lock, so that numbers leave in order.
        self.send(
            self.subject("news", None),
            pack(&(&self.me, *told, news), &[]),
        );
    }

    fn subject(&self, kind: &str, to: Option<&Instance>) -> String {
        match to {
            None => format!("{}.{kind}", self.prefix),
            Some(to) => format!("{}.{kind}.{to}", self.prefix),
        }
    }

    fn send(&self, subject: String, message: Bytes) {
        // Nobody takes the post of a broker that stops.
        let _ = self.post.send((subject, message));
    }
}

fn is_elsewhere(homes: &Homes, shard: ShardId, home: &Home) -> bool {
    homes[usize::from(shard.number())].as_ref() != Some(home)
}

fn are_elsewhere(homes: &Homes, found: &Found) -> bool {
    let mut found = found.iter();
    found.any(|(shard, home)| is_elsewhere(homes, *shard, home))
}

/// Brings messages to NATS in the order in which they were posted.
async fn carry(client: Client, mut mail: mpsc::UnboundedReceiver<(String, Bytes)>) {
    while let Some((subject, message)) = mail.recv().await {
        if let Err(error) = client.publish(subject, message).await {
            // Whoever misses it notices by its number.
            tracing::warn!(%error, "a message to another broker is lost");
        }
    }
}

/// Spreads what other brokers tell. What they tell is on disk, so whoever waits only has to look when something is lost.
async fn hear_news(fleet: Arc<Fleet>, desk: Arc<Desk>, mut news: Subscriber) {
    let mut heard = HashMap::<Instance, u64>::new();
    while let Some(message) = news.next().await {
        let told = unpack::<(Instance, u64, Option<News>)>(&message.payload);
        let Some(((from, number, news), _)) = told.filter(|((from, ..), _)| *from != fleet.me)
        else {
            continue;
        };
        let before = heard.insert(from, number);
        if before.is_none_or(|before| before + 1 != number) {
            desk.spread(News::LOST);
        } else if let Some(news) = news {
            desk.spread(news);
        }
    }
}

/// Keeps the requests that rest everywhere as they stand on disk.
async fn follow_requests(desk: Arc<Desk>) {
    let mut news = desk.news();
    loop {
        let followed = match news.recv().await {
            Ok(News {
                of: Changed::Request(id),
                ..
            }) => desk.follow_request(id).await,
            Ok(News {
                of: Changed::Deal(_),
                ..
            }) => continue,
            Ok(News {
                of: Changed::Anything,
                ..
            })
            | Err(RecvError::Lagged(_)) => desk.follow_requests().await,
            Err(RecvError::Closed) => return,
        };
        if let Err(error) = followed {
            tracing::warn!(%error, "requests that rest are looked up again");
            tokio::time::sleep(AGAIN).await;
            desk.spread(News::LOST);
        }
    }
}

/// Fills bundles for which another broker may have been asked as well.
async fn fill_undecided(desk: Arc<Desk>) {
    let mut look = tokio::time::interval(UNDECIDED);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !desk.has_stopped() {
        look.tick().await;
        if let Err(error) = desk.fill_undecided().await {
            tracing::warn!(%error, "bundles that are signed in part are looked at again");
        }
    }
}

/// Gives up the ports of leases that another broker has gone on with, as soon as they are over: until then both sides go on by
/// them, unless they ask that one for others.
async fn follow_relayed(desk: Arc<Desk>) {
    let Some(relay) = desk.relay.clone() else {
        return;
    };
    let mut news = desk.news();
    loop {
        let changed = match news.recv().await {
            Ok(News {
                of: Changed::Deal(id),
                ..
            }) if relay.has(id) => vec![id],
            Ok(News {
                of: Changed::Anything,
                ..
            })
            | Err(RecvError::Lagged(_)) => relay.deals(),
            Ok(_) => continue,
            Err(RecvError::Closed) => return,
        };
        for id in changed {
            match desk.store.deal(id).await {
                Ok(Some(record)) if record.status().is_over() => relay.close(id),
                Ok(_) => {}
                // At the latest it is given up once nothing comes by it.
                Err(error) => tracing::warn!(%error, deal = %id, "is it over?"),
            }
        }
    }
}

/// A line of JSON, then bytes as they are.
fn pack(head: &impl Serialize, body: &[u8]) -> Bytes {
    // Heads are structs of ours, which JSON can write; an empty line is read by nobody.
    let mut message = serde_json::to_vec(head).unwrap_or_default();
    message.push(NEWLINE);
    message.extend_from_slice(body);
    message.into()
}

fn unpack<T: DeserializeOwned>(message: &[u8]) -> Option<(T, &[u8])> {
    let end = message.iter().position(|byte| *byte == NEWLINE)?;
    let head = serde_json::from_slice(&message[..end]).ok()?;
    Some((head, &message[end + 1..]))
}
