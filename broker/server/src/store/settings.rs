//! What the broker keeps about itself, by name.

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Store, StoreError, Tx, Write};

struct Setting {
    key: &'static str,
    value: String,
    /// Leaves what there is.
    first: bool,
}

#[async_trait]
impl Write for Setting {
    type Done = ();

    async fn write(&self, tx: &mut Tx) -> Result<(), StoreError> {
        let sql = if self.first {
            "INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING"
        } else {
            "INSERT INTO meta (key, value) VALUES ($1, $2)
             ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        };
        let values = [self.key.into(), self.value.clone().into()];
        tx.execute(sql, values).await.map(drop)
    }
}

impl Store {
    /// A value kept under a name.
    pub(crate) async fn meta<T: DeserializeOwned>(
        &self,
        key: &'static str,
    ) -> Result<Option<T>, StoreError> {
        let row = self.row("SELECT value FROM meta WHERE key = $1", [key.into()]);
        let row = row.await?;
        row.map(|row| self.json("setting", &row, 0)).transpose()
    }

    /// Keeps a value under a name.
    pub(crate) async fn set_meta<T: Serialize>(
        &self,
        key: &'static str,
        value: &T,
    ) -> Result<(), StoreError> {
        self.keep(key, value, false).await
    }

    /// Keeps a value under a name that has none, and returns what is kept there: another broker may have been first.
    pub(crate) async fn first_meta<T: Serialize + DeserializeOwned>(
        &self,
        key: &'static str,
        value: T,
    ) -> Result<T, StoreError> {
        self.keep(key, &value, true).await?;
        Ok(self.meta(key).await?.unwrap_or(value))
    }

    async fn keep<T: Serialize>(
        &self,
        key: &'static str,
        value: &T,
        first: bool,
    ) -> Result<(), StoreError> {
        let value = serde_json::to_string(value).map_err(|e| self.damaged("setting", e))?;
        self.write(Setting { key, value, first }).await
    }
}
