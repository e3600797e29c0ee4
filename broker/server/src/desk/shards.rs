//! The part of the market that this broker does, if it is one of several: which shards, under which epochs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipsx_market::fleet::{Epoch, Instance, ShardId};
use ipsx_market::resting::{RequestRecord, RequestStatus};
use ipsx_metering::{Address, UnixSeconds};
use tokio::sync::MutexGuard;

use super::release::{Step, promises};
use super::{Books, Desk, DeskError, News};
use crate::agents::code;
use crate::clock;
use crate::store::{Entry, FleetStore, PayerTurn};

/// What a broker of a fleet knows of its own part.
pub(super) struct Part {
    me: Instance,
    epochs: BTreeMap<ShardId, Epoch>,
    /// How often each payer's account had been written when it was read, and what this broker has written since.
    versions: HashMap<Address, i64>,
    /// The chain's final time, as it was last seen.
    pub(super) final_time: UnixSeconds,
}

impl Part {
    /// Nothing yet.
    pub(super) fn new(me: Instance) -> Self {
        Self {
            me,
            epochs: BTreeMap::new(),
            versions: HashMap::new(),
            final_time: UnixSeconds::default(),
        }
    }
}

impl Books {
    /// Whether a shard is this broker's; all are of one that is alone.
    pub(super) fn owns(&self, shard: ShardId) -> bool {
        let part = self.part.as_ref();
        part.is_none_or(|part| part.epochs.contains_key(&shard))
    }

    /// Whether a request rests and something here may pass its filter.
    pub(super) fn concerns(&self, record: &RequestRecord) -> bool {
        let mut shards = ShardId::of_filter(&record.request.message.filter).into_iter();
        record.status == RequestStatus::Resting && shards.any(|shard| self.owns(shard))
    }

    /// What became of a request that rests.
    pub(super) fn request_entry(&self, record: Box<RequestRecord>) -> Entry {
        match self.part.is_some() && record.status != RequestStatus::Matched {
            true => Entry::SharedRequest(record),
            false => Entry::Request(record),
        }
    }

    /// Under which epochs entries count. An error if they are of a deal that is another broker's.
    pub(super) fn fences(&self, entries: &[Entry]) -> Result<Vec<Entry>, DeskError> {
        let Some(part) = &self.part else {
            return Ok(Vec::new());
        };
        let shard = |entry: &Entry| match entry {
            Entry::Deal { record, .. } => Some(ShardId::of(record)),
            _ => None,
        };
        let shards: BTreeSet<_> = entries.iter().filter_map(shard).collect();
        let fence = |shard| {
            let epoch = part.epochs.get(&shard).ok_or(DeskError::Moved)?;
            Ok(Entry::Fence(part.me.clone(), shard, *epoch))
        };
        shards.into_iter().map(fence).collect()
    }

    /// What has changed of a payer's account.
    pub(super) fn account_entry(&mut self, payer: Address) -> Entry {
        let update = Box::new(self.ledger.take_update(payer));
        let Some(part) = &mut self.part else {
            return Entry::Account(payer, update);
        };
        let version = part.versions.entry(payer).or_default();
        *version += 1;
        Entry::SharedAccount(payer, update, *version - 1)
    }
}

/// A payer's turn, until it is dropped.
pub(super) struct Turn<'a> {
    _here: MutexGuard<'a, ()>,
    _everywhere: Option<PayerTurn>,
}

impl Desk {
    /// Waits until nobody else looks up this payer or promises on its deposit, here or at another broker.
    ///
    /// An older look must never overwrite a newer one, nor a promise be made on it.
    pub(super) async fn turn(&self, payer: Address) -> Result<Turn<'_>, DeskError> {
        let place = usize::from(payer[19]) % self.turns.len();
        let here = self.turns[place].lock().await;
        let everywhere = match &self.shared {
            None => None,
            Some(shared) => Some(self.shared_turn(shared, payer).await?),
        };
        Ok(Turn {
            _here: here,
            _everywhere: everywhere,
        })
    }

    async fn shared_turn(
        &self,
        shared: &FleetStore,
        payer: Address,
    ) -> Result<PayerTurn, DeskError> {
        let mut turn = shared.payer_turn(payer).await?;
        let mut books = self.books().await?;
        let Books { part, ledger, .. } = &mut *books;
        ledger.replace(payer, turn.account.take());
        if let Some(part) = part {
            part.versions.insert(payer, turn.version);
            ledger.handle_final_time(part.final_time);
        }
        Ok(turn)
    }

    /// Whether a shard is this broker's.
    pub(crate) async fn owns(&self, shard: ShardId) -> bool {
        let books = self.books().await;
        books.is_ok_and(|books| books.owns(shard))
    }

    /// Goes on with shards that are this broker's now, from what is on disk.
    pub(crate) async fn take_over(&self, claimed: &[(ShardId, Epoch)]) -> Result<(), DeskError> {
        let records = self.store.open_deals_in(claimed).await?;
        let proofs = self.store.proofs().await?;
        let step = Step {
            reservations: promises(&records),
            ..Step::default()
        };
        let (mut books, now) = (self.books().await?, clock::now());
        let commands = books.market.adopt(records, now);
        books.market.learn_proofs(proofs, now);
        if let Some(part) = &mut books.part {
            part.epochs.extend(claimed.iter().copied());
        }
        let done = self.begin(&mut books, step, commands, now).await;
        drop(books);
        done.await?;
        if !claimed.is_empty() {
            // Other requests concern it now.
            self.spread(News::LOST);
        }
        Ok(())
    }

    /// Stops selling from shards, and returns once all that was done in them is on disk.
    pub(crate) async fn let_go(&self, shards: &BTreeSet<ShardId>) -> Result<(), DeskError> {
        let settled = {
            let mut books = self.books().await?;
            // First, or its next word would be on a deal that is not known here any more.
            let moved = "another broker has this part of the market now; connect again";
            self.registry
                .hang_up(code::STOPPING, moved, |home| shards.contains(&home));
            let now = clock::now();
            let (tickets, commands) = books.market.forget(shards, now);
            for ticket in tickets {
                books.answers.remove(&ticket);
            }
            if let Some(part) = &mut books.part {
                part.epochs.retain(|shard, _| !shards.contains(shard));
            }
            // Whatever comes of it: once this is done, all before it is.
            drop(self.begin(&mut books, Step::default(), commands, now).await);
            self.line_up(&mut books, Step::default()).await
        };
        settled.await
    }

    /// The shard in which a provider's offers are taken that come from this address: with its leases, if there are any, so
    /// that all that it lets is counted in one place.
    pub(crate) async fn home(
        &self,
        provider: Address,
        observed: std::net::IpAddr,
    ) -> Result<ShardId, DeskError> {
        let leased = self.store.shard_of_provider(provider).await?;
        let placed = || ShardId::new(self.placer.place(observed).country, provider);
        Ok(leased.unwrap_or_else(placed))
    }
}
