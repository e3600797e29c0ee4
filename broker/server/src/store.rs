//! Everything that must survive, in SQLite or PostgreSQL: the only place with queries.
//!
//! Whatever is written is a [`Write`], and passes one task that commits many together; see [`writer`]. Reads see what is
//! committed, and wait for nothing.

mod answers;
mod changes;
mod database;
mod deals;
mod entries;
mod error;
mod fleet;
mod inspect;
mod money;
mod proofs;
mod resting;
mod room;
mod row;
mod rows;
mod sessions;
mod settings;
mod sqlite;
mod transaction;
mod writer;

use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::config::StoreConfig;

pub(crate) use answers::{KeepAnswer, KeyState, NonceState, TakeKey, UseNonce};
pub(crate) use changes::{Change, Event};
pub(crate) use entries::{Entries, Entry};
pub(crate) use error::StoreError;
pub(crate) use fleet::{FleetStore, PayerTurn, RequestTurn};
pub(crate) use room::Room;
pub(crate) use sessions::OpenSession;
pub(crate) use writer::{AGAIN, Asked, Write};

use database::Database;
use row::{Row, Value};
use transaction::Tx;
use writer::Writer;

/// The broker's database.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    database: Database,
    writer: Writer,
    room: Room,
    sessions: Arc<sessions::Known>,
    /// Ends once everything that was asked for is written.
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
    /// For whoever reads an error: the file, or the server without user and password.
    place: String,
}

impl Store {
    /// Opens the database, making or migrating its tables; SQLite's file is `broker.db` in the data directory.
    pub(crate) async fn open(config: &StoreConfig, data_dir: &Path) -> Result<Self, StoreError> {
        Self::open_shared(config, data_dir, None).await
    }

    /// The same for one of several brokers: PostgreSQL takes a transaction back in which nothing is asked for `left_alone`.
    pub(crate) async fn open_shared(
        config: &StoreConfig,
        data_dir: &Path,
        left_alone: Option<&str>,
    ) -> Result<Self, StoreError> {
        let (database, place) = match config {
            StoreConfig::Sqlite => {
                let path = data_dir.join("broker.db");
                let database = Database::open_sqlite(&path).await?;
                (database, path.display().to_string())
            }
            StoreConfig::Postgres(url) => {
                let place = config.place();
                let database = Database::open_postgres(url.expose(), &place, left_alone).await?;
                (database, place)
            }
        };
        let room = Room::new();
        let (writer, task) = Writer::start(database.clone(), place.clone(), room.clone());
        Ok(Self {
            database,
            writer,
            room,
            sessions: Arc::default(),
            task: Arc::new(Mutex::new(Some(task))),
            place,
        })
    }

    /// Writes what was asked for, takes no more, and closes the database.
    pub(crate) async fn close(&self) {
        self.writer.stop();
        if let Some(task) = self.task.lock().await.take() {
            // It fails only if it panicked, and then there is nothing left to write.
            let _ = task.await;
        }
        self.database.close().await;
    }

    /// Whether the database answers.
    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        self.row("SELECT 1", []).await.map(drop)
    }

    /// Whether there is room for what has to be written.
    pub(crate) fn room(&self) -> &Room {
        &self.room
    }

    /// How often it has committed since it was opened, each time with one sync.
    pub(crate) fn commits(&self) -> u64 {
        self.writer.commits()
    }

    async fn row(
        &self,
        sql: &'static str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Option<Row>, StoreError> {
        let row = self.database.row(sql, values).await;
        row.map_err(|error| StoreError::database(&self.place, &error))
    }

    async fn rows(
        &self,
        sql: &'static str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<Row>, StoreError> {
        let rows = self.database.rows(sql, values).await;
        rows.map_err(|error| StoreError::database(&self.place, &error))
    }

    /// What the JSON in a row's column says.
    fn json<T: DeserializeOwned>(
        &self,
        what: &'static str,
        row: &Row,
        column: usize,
    ) -> Result<T, StoreError> {
        let text = self.text(what, row, column)?;
        serde_json::from_str(&text).map_err(|e| self.damaged(what, e))
    }

    fn text(&self, what: &'static str, row: &Row, column: usize) -> Result<String, StoreError> {
        row.text(column).map_err(|e| self.damaged(what, e))
    }

    fn damaged(&self, what: &'static str, reason: impl ToString) -> StoreError {
        StoreError::damaged(&self.place, what, reason)
    }
}

#[cfg(test)]
mod tests;
