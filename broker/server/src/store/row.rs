//! What goes into statements and comes out of them, of whichever database.

use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Postgres, Row as _, Sqlite, Type};

/// What is bound to a place of a statement.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// A text, or none.
    Text(Option<String>),
    /// A number.
    Number(i64),
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Some(text))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.into()))
    }
}

impl From<Option<&str>> for Value {
    fn from(text: Option<&str>) -> Self {
        Self::Text(text.map(str::to_owned))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

/// A row of an answer; columns are counted from 0.
pub(crate) enum Row {
    /// Of a reader's.
    Sqlite(SqliteRow),
    /// Of the writer's.
    Written(Vec<Value>),
    Postgres(PgRow),
}

impl Row {
    /// A column with a text.
    pub(crate) fn text(&self, column: usize) -> Result<String, sqlx::Error> {
        self.get(column)
    }

    /// A column with a text or NULL.
    pub(crate) fn maybe_text(&self, column: usize) -> Result<Option<String>, sqlx::Error> {
        self.get(column)
    }

    /// A column with a number.
    pub(crate) fn number(&self, column: usize) -> Result<i64, sqlx::Error> {
        self.get(column)
    }

    /// A column with a number or NULL.
    pub(crate) fn maybe_number(&self, column: usize) -> Result<Option<i64>, sqlx::Error> {
        self.get(column)
    }

    fn get<T: Column>(&self, column: usize) -> Result<T, sqlx::Error> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
            Self::Written(values) => {
                let value = values.get(column);
                value.and_then(T::of).ok_or_else(|| {
                    sqlx::Error::Decode(format!("column {column} is {value:?}").into())
                })
            }
        }
    }
}

/// What a column of either database may hold.
trait Column:
    for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>
{
    fn of(value: &Value) -> Option<Self>;
}

impl Column for String {
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => text.clone(),
            Value::Number(_) => None,
        }
    }
}

impl Column for i64 {
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Number(number) => Some(*number),
            Value::Text(_) => None,
        }
    }
}

impl<T: Column> Column for Option<T>
where
    Self: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>,
{
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Text(None) => Some(None),
            value => T::of(value).map(Some),
        }
    }
}
