//! Who lives, whose each shard is, and whose turn it is to promise on a payer's deposit: in PostgreSQL, by its clock.

use ipsx_market::fleet::{Epoch, Instance, Seen, ShardId, ShardRow};
use ipsx_market::record::DealRecord;
use ipsx_metering::{Address, PayerAccount, RequestId};

use super::database::Database;
use super::rows::hex;
use super::{Row, Store, StoreError, Tx, Value, resting};
use crate::config::StoreConfig;

/// Connections for beats and claims, which must not wait for anything else.
const BEATS: u32 = 2;
/// Payers on whose deposits this broker promises something at the same time.
const TURNS: u32 = 16;
/// How long a broker that is cut off keeps its turns. What it writes after that counts only if nobody else has written.
const TURN: &str = "5s";

/// Connections of their own: each kind waits for nothing but itself.
#[derive(Clone, Debug)]
pub(crate) struct FleetStore {
    beats: Database,
    turns: Database,
    place: String,
}

/// A payer's turn, until it is dropped: no other broker looks at its account meanwhile.
pub(crate) struct PayerTurn {
    _tx: Tx,
    /// The account as it is stored.
    pub(crate) account: Option<PayerAccount>,
    /// How often it was written.
    pub(crate) version: i64,
}

/// A turn with a request, until it is dropped.
pub(crate) struct RequestTurn {
    _tx: Tx,
    /// Whether it rests.
    pub(crate) rests: bool,
}

impl FleetStore {
    /// Connects to the database of a fleet, whose tables are there.
    pub(crate) async fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        let place = config.place();
        let StoreConfig::Postgres(url) = config else {
            return Err(StoreError::Closed(place));
        };
        let beats = Database::connect_postgres(url.expose(), &place, BEATS, None).await?;
        let turns = Database::connect_postgres(url.expose(), &place, TURNS, Some(TURN)).await?;
        Ok(Self {
            beats,
            turns,
            place,
        })
    }

    /// Shows that a broker lives, for so many milliseconds more, and sees who else does.
    pub(crate) async fn beat(&self, me: &Instance, lease: u64) -> Result<Seen, StoreError> {
        let lease = i64::try_from(lease).unwrap_or(i64::MAX);
        let sql = "INSERT INTO brokers (instance, expires_at)
             VALUES ($1, clock_timestamp() + $2 * interval '1 millisecond')
             ON CONFLICT (instance) DO UPDATE SET expires_at = excluded.expires_at RETURNING instance";
        self.rows(sql, [me.as_str().into(), lease.into()]).await?;
        let sql = "SELECT instance FROM brokers WHERE expires_at > clock_timestamp()";
        let live = self.rows(sql, []).await?;
        let live = live.iter().map(|row| self.instance(&row.text(0)));
        let sql = "SELECT shard, owner, epoch FROM shards";
        let shards = self.rows(sql, []).await?;
        let shards = shards.iter().map(|row| {
            let owner = row.maybe_text(1).map_err(|e| self.damaged("shard", e))?;
            Ok(ShardRow {
                shard: self.shard(row, 0)?,
                owner: owner.map(|text| self.instance(&Ok(text))).transpose()?,
                epoch: self.epoch(row, 2)?,
            })
        });
        Ok(Seen {
            live: live.collect::<Result<_, StoreError>>()?,
            shards: shards.collect::<Result<_, StoreError>>()?,
        })
    }

    /// Takes shards whose latest epoch is this one and whose owner is dead; returns those that are this broker's now. A
    /// shard that somebody is still writing under is left for the next time.
    pub(crate) async fn claim(
        &self,
        me: &Instance,
        wanted: &[(ShardId, Epoch)],
    ) -> Result<Vec<(ShardId, Epoch)>, StoreError> {
        let sql = "WITH wanted AS (
                 SELECT * FROM unnest(string_to_array($1, ',')::bigint[], string_to_array($2, ',')::bigint[]) AS w (shard, epoch)
             ), free AS (
                 SELECT s.shard FROM shards s JOIN wanted w ON s.shard = w.shard AND s.epoch = w.epoch
                 WHERE s.owner IS NULL OR s.owner = $3 OR NOT EXISTS (
                     SELECT 1 FROM brokers b WHERE b.instance = s.owner AND b.expires_at > clock_timestamp()
                 )
                 FOR UPDATE OF s SKIP LOCKED
             )
             UPDATE shards SET owner = $3, epoch = shards.epoch + 1 FROM free
             WHERE shards.shard = free.shard RETURNING shards.shard, shards.epoch";
        let (shards, epochs) = lists(wanted);
        let values = [shards.into(), epochs.into(), me.as_str().into()];
        let taken = self.rows(sql, values).await?;
        let taken = taken
            .iter()
            .map(|row| Ok((self.shard(row, 0)?, self.epoch(row, 1)?)));
        taken.collect()
    }

    /// Gives shards up for others to claim.
    pub(crate) async fn release(
        &self,
        me: &Instance,
        owned: &[(ShardId, Epoch)],
    ) -> Result<(), StoreError> {
        let sql = "UPDATE shards SET owner = NULL
             FROM unnest(string_to_array($1, ',')::bigint[], string_to_array($2, ',')::bigint[]) AS o (shard, epoch)
             WHERE shards.shard = o.shard AND shards.epoch = o.epoch AND shards.owner = $3 RETURNING shards.shard";
        let (shards, epochs) = lists(owned);
        let values = [shards.into(), epochs.into(), me.as_str().into()];
        self.rows(sql, values).await.map(drop)
    }

    /// Says that a broker lives no more, and forgets those that have been dead for an hour.
    pub(crate) async fn depart(&self, me: &Instance) -> Result<(), StoreError> {
        let sql = "DELETE FROM brokers
             WHERE instance = $1 OR expires_at < clock_timestamp() - interval '1 hour' RETURNING instance";
        self.rows(sql, [me.as_str().into()]).await.map(drop)
    }

    /// Waits until no other broker promises on a payer's deposit, and reads its account.
    pub(crate) async fn payer_turn(&self, payer: Address) -> Result<PayerTurn, StoreError> {
        let mut tx = self.turns.begin(&self.place).await?;
        let mut number = [0; 8];
        number.copy_from_slice(&payer[..8]);
        // Other than the number by which writers take turns, who write while this is held.
        let number = !i64::from_be_bytes(number);
        tx.row("SELECT pg_advisory_xact_lock($1)", [number.into()])
            .await?;
        let sql = "SELECT deposit, version, (SELECT json_object_agg(channel, exposure::json)::text
             FROM exposures WHERE exposures.payer = accounts.payer) FROM accounts WHERE payer = $1";
        let row = tx.row(sql, [hex(payer).into()]).await?;
        let (account, version) = match row {
            None => (None, 0),
            Some(row) => {
                let text = row.text(0).map_err(|e| self.damaged("account", e))?;
                let mut account: PayerAccount =
                    serde_json::from_str(&text).map_err(|e| self.damaged("account", e))?;
                let channels = row.maybe_text(2).map_err(|e| self.damaged("exposure", e))?;
                if let Some(channels) = channels {
                    let channels = serde_json::from_str(&channels);
                    account.channels = channels.map_err(|e| self.damaged("exposure", e))?;
                }
                let version = row.number(1).map_err(|e| self.damaged("account", e))?;
                (Some(account), version)
            }
        };
        Ok(PayerTurn {
            _tx: tx,
            account,
            version,
        })
    }

    /// Waits until no other broker decides on a request.
    pub(crate) async fn request_turn(&self, id: RequestId) -> Result<RequestTurn, StoreError> {
        let mut tx = self.turns.begin(&self.place).await?;
        let lock = resting::turn_of(id);
        tx.row("SELECT pg_advisory_xact_lock($1)", [lock.into()])
            .await?;
        let sql = "SELECT 1 FROM requests WHERE request = $1 AND status = 'resting'";
        let rests = tx.row(sql, [id.to_string().into()]).await?.is_some();
        Ok(RequestTurn { _tx: tx, rests })
    }

    async fn rows(
        &self,
        sql: &'static str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<Row>, StoreError> {
        let rows = self.beats.rows(sql, values).await;
        rows.map_err(|error| StoreError::database(&self.place, &error))
    }

    fn damaged(&self, what: &'static str, reason: impl ToString) -> StoreError {
        StoreError::damaged(&self.place, what, reason)
    }

    fn instance(&self, text: &Result<String, sqlx::Error>) -> Result<Instance, StoreError> {
        let text = text.as_ref().map_err(|e| self.damaged("broker", e))?;
        text.parse().map_err(|e| self.damaged("broker", e))
    }

    fn shard(&self, row: &Row, column: usize) -> Result<ShardId, StoreError> {
        let number = row.number(column).map_err(|e| self.damaged("shard", e))?;
        let number = u8::try_from(number).map_err(|e| self.damaged("shard", e))?;
        Ok(ShardId::from(number))
    }

    fn epoch(&self, row: &Row, column: usize) -> Result<Epoch, StoreError> {
        let number = row.number(column).map_err(|e| self.damaged("shard", e))?;
        let number = u64::try_from(number).map_err(|e| self.damaged("shard", e))?;
        Ok(Epoch(number))
    }
}

fn lists(shards: &[(ShardId, Epoch)]) -> (String, String) {
    let numbers: Vec<_> = shards.iter().map(|(shard, _)| shard.to_string()).collect();
    let epochs: Vec<_> = shards
        .iter()
        .map(|(_, epoch)| epoch.0.to_string())
        .collect();
    (numbers.join(","), epochs.join(","))
}

/// Goes on only while a broker owns a shard under this epoch; nobody takes it before the transaction has ended.
pub(super) async fn fence(
    tx: &mut Tx,
    owner: &Instance,
    shard: ShardId,
    epoch: Epoch,
) -> Result<(), StoreError> {
    let number = i64::try_from(epoch.0).unwrap_or(i64::MAX);
    let values = [
        i64::from(shard.number()).into(),
        owner.as_str().into(),
        number.into(),
    ];
    let sql = "SELECT 1 FROM shards WHERE shard = $1 AND owner = $2 AND epoch = $3 FOR SHARE";
    match tx.row(sql, values).await? {
        Some(_) => Ok(()),
        None => Err(StoreError::Fenced(shard)),
    }
}

impl Store {
    /// Deals of some shards that are not closed, of a database that a fleet shares.
    pub(crate) async fn open_deals_in(
        &self,
        shards: &[(ShardId, Epoch)],
    ) -> Result<Vec<DealRecord>, StoreError> {
        let sql = "SELECT record FROM deals WHERE closed = 0
             AND shard = ANY (string_to_array($1, ',')::bigint[]) ORDER BY deal_id";
        let rows = self.rows(sql, [lists(shards).0.into()]).await?;
        rows.iter().map(|row| self.json("deal", row, 0)).collect()
    }

    /// The shard in which a provider's leases are, if it has any.
    pub(crate) async fn shard_of_provider(
        &self,
        provider: Address,
    ) -> Result<Option<ShardId>, StoreError> {
        let sql = "SELECT record FROM deals WHERE closed = 0 AND provider = $1 LIMIT 1";
        let row = self.row(sql, [hex(provider).into()]).await?;
        let record: Option<DealRecord> = row.map(|row| self.json("deal", &row, 0)).transpose()?;
        Ok(record.as_ref().map(ShardId::of))
    }

    /// Names the shard of each open deal of before there were shards.
    pub(crate) async fn name_shards(&self) -> Result<(), StoreError> {
        let sql = "SELECT record FROM deals WHERE closed = 0 AND shard IS NULL";
        for row in self.rows(sql, []).await? {
            let record: DealRecord = self.json("deal", &row, 0)?;
            let entry = super::Entry::Deal {
                record: Box::new(record),
                transitions: Vec::new(),
            };
            self.write(super::Entries(vec![entry])).await?;
        }
        Ok(())
    }
}
