//! The same offers in SQLite, in this process and in memory.

use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row};
use tokio::runtime::Runtime;

use crate::sql::{COLUMNS, INDEXES, TABLE, row, select};
use crate::{Answer, Asked, MOST_MILLIS};
use ipsx_benches::questions::Question;
use ipsx_benches::spread::{SEED, Spread};

/// Steps of its machine after which it looks at the clock.
const OPERATIONS: i32 = 100_000;

/// A column that is a number in the database is kept as one.
fn insert() -> String {
    let places: Vec<_> = (0..COLUMNS)
        .map(|at| match at {
            1..=4 | 10 => "NULLIF(?, '')",
            5..=8 => "CAST(NULLIF(?, '') AS REAL)",
            _ => "CAST(NULLIF(?, '') AS INTEGER)",
        })
        .collect();
    format!("INSERT INTO offers VALUES ({})", places.join(","))
}

/// Offers in SQLite.
pub(crate) struct Sqlite {
    runtime: Runtime,
    connection: SqliteConnection,
}

impl Sqlite {
    /// With as many offers as the book, the same ones.
    pub(crate) fn fill(offers: usize) -> Result<Self, Box<dyn std::error::Error>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let options = SqliteConnectOptions::new().in_memory(true);
        let insert = insert();
        let connection = runtime.block_on(async {
            let mut connection = options.connect().await?;
            sqlx::query(TABLE).execute(&mut connection).await?;
            let mut transaction = connection.begin().await?;
            let mut spread = Spread::new(SEED);
            for number in 0..offers {
                let (offer, placement) = spread.offer();
                let mut query = sqlx::query(AssertSqlSafe(insert.clone()));
                for value in row(number, &offer, &placement) {
                    query = query.bind(value);
                }
                query.execute(&mut *transaction).await?;
            }
            transaction.commit().await?;
            for index in INDEXES.into_iter().chain(["ANALYZE"]) {
                sqlx::query(index).execute(&mut connection).await?;
            }
            Ok::<_, sqlx::Error>(connection)
        })?;
        Ok(Self {
            runtime,
            connection,
        })
    }
}

impl Asked for Sqlite {
    fn ask(&mut self, question: &Question) -> Result<Answer, Box<dyn std::error::Error>> {
        let sql = select(question);
        // Compiled and in the cache before it counts.
        let (mut took, mut found) = self.answer(&sql)?;
        if found.is_some() {
            (took, found) = self.answer(&sql)?;
        }
        Ok(Answer {
            micros: took.as_nanos() as f64 / 1_000.0,
            found,
        })
    }
}

impl Sqlite {
    /// How long it took, and the id that comes back; nothing when it was stopped.
    fn answer(&mut self, sql: &str) -> Result<(Duration, Option<Option<String>>), sqlx::Error> {
        let query = sqlx::query(AssertSqlSafe(sql.to_owned()));
        let connection = &mut self.connection;
        let started = Instant::now();
        let answer = self.runtime.block_on(async {
            let too_long = move || started.elapsed() < Duration::from_millis(MOST_MILLIS.into());
            let mut handle = connection.lock_handle().await?;
            handle.set_progress_handler(OPERATIONS, too_long);
            drop(handle);
            query.fetch_optional(connection).await
        });
        match answer {
            Ok(row) => Ok((
                started.elapsed(),
                Some(row.map(|row| row.get::<String, _>("id"))),
            )),
            Err(sqlx::Error::Database(error)) if error.message().contains("interrupted") => {
                Ok((started.elapsed(), None))
            }
            Err(error) => Err(error),
        }
    }
}
