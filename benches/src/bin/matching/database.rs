//! The same offers in SQLite, with the indexes that one would make there.

use std::time::Instant;

use ipsx_market::book::OfferBook;
use ipsx_market::offer::Protocol;
use ipsx_market::request::IpVersion;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row};
use tokio::runtime::Runtime;

use crate::questions::Question;
use crate::spread::{NOW, Spread};

const TABLE: &str = "CREATE TABLE offers (number INTEGER PRIMARY KEY, id BLOB, country TEXT, asn INTEGER, \
    address TEXT, v6 INTEGER, wireguard_only INTEGER, tier INTEGER, mbit_up INTEGER, mbit_down INTEGER, \
    min_seconds INTEGER, max_seconds INTEGER, always INTEGER, per_second INTEGER, per_gib INTEGER, expires INTEGER)";

const INDEXES: [&str; 5] = [
    "CREATE INDEX by_price ON offers (per_second, per_gib, number)",
    "CREATE INDEX by_country ON offers (country, per_second, per_gib, number)",
    "CREATE INDEX by_asn ON offers (asn, per_second, per_gib, number)",
    "CREATE INDEX by_address ON offers (address)",
    "ANALYZE",
];

/// Offers in SQLite, in memory.
pub(crate) struct Database {
    runtime: Runtime,
    connection: std::cell::RefCell<SqliteConnection>,
}

impl Database {
    /// With as many offers as the book, the same ones.
    pub(crate) fn fill(offers: usize) -> Result<Self, Box<dyn std::error::Error>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let options = SqliteConnectOptions::new().in_memory(true);
        let connection = runtime.block_on(async {
            let mut connection = options.connect().await?;
            sqlx::query(TABLE).execute(&mut connection).await?;
            let mut transaction = connection.begin().await?;
            let mut spread = Spread::new(1);
            for number in 0..offers {
                let (offer, placement) = spread.offer();
                let all = ipsx_market::offer::Protocols::all();
                sqlx::query("INSERT INTO offers VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)")
                    .bind(number as i64)
                    .bind(offer.id().0.to_vec())
                    .bind(placement.country.map(|country| country.as_str().to_owned()))
                    .bind(placement.asn.map(i64::from))
                    .bind(sortable(placement.address))
                    .bind(placement.address.is_ipv6())
                    .bind(offer.protocols != all)
                    .bind(offer.tier as i64)
                    .bind(i64::from(offer.capacity.mbit_up))
                    .bind(i64::from(offer.capacity.mbit_down))
                    .bind(i64::from(offer.min_seconds))
                    .bind(i64::from(offer.max_seconds))
                    .bind(offer.weekly_hours == ipsx_market::offer::WeeklyHours::always())
                    .bind(offer.prices.per_second.0.0 as i64)
                    .bind(offer.prices.per_gib.0.0 as i64)
                    .bind(offer.expires_at.0 as i64)
                    .execute(&mut *transaction)
                    .await?;
            }
            transaction.commit().await?;
            for index in INDEXES {
                sqlx::query(index).execute(&mut connection).await?;
            }
            Ok::<_, sqlx::Error>(connection)
        })?;
        Ok(Self {
            runtime,
            connection: std::cell::RefCell::new(connection),
        })
    }

    /// Microseconds for the middle question and for the slowest but one in a hundred. Fails if an answer differs from
    /// the book's where the hours of the week play no part.
    pub(crate) fn times(
        &self,
        book: &OfferBook,
        asked: &[Question],
    ) -> Result<(f64, f64), Box<dyn std::error::Error>> {
        let mut times = Vec::new();
        for question in asked {
            let sql = select(question);
            let connection = &mut *self.connection.borrow_mut();
            let mut run = || {
                let query =
                    sqlx::query(AssertSqlSafe(sql.clone())).fetch_optional(&mut *connection);
                self.runtime.block_on(query)
            };
            // Compiled and in the cache before it counts.
            run()?;
            let started = Instant::now();
            let row = run()?;
            times.push(started.elapsed().as_nanos() as f64 / 1_000.0);
            let theirs = row.map(|row| row.get::<Vec<u8>, _>("id"));
            let ours = book.best(&question.wanted(), NOW, &[]).ok();
            let always = |listing: &ipsx_market::book::Listing| {
                listing.offer.weekly_hours == ipsx_market::offer::WeeklyHours::always()
            };
            if ours.as_ref().is_some_and(always) && theirs != ours.map(|l| l.id.0.to_vec()) {
                return Err(format!("book and database disagree: {sql}").into());
            }
        }
        times.sort_by(f64::total_cmp);
        Ok((times[times.len() / 2], times[times.len() * 99 / 100]))
    }
}

fn select(question: &Question) -> String {
    let f = &question.filter;
    let mut conditions = vec![format!(
        "expires >= {} AND always AND min_seconds <= {s} AND max_seconds >= {s}",
        NOW.0,
        s = question.seconds
    )];
    if !f.countries.is_empty() {
        let codes: Vec<_> = f.countries.iter().map(|code| format!("'{code}'")).collect();
        conditions.push(format!("country IN ({})", codes.join(",")));
    }
    if !f.asns.is_empty() {
        let asns: Vec<_> = f.asns.iter().map(ToString::to_string).collect();
        conditions.push(format!("asn IN ({})", asns.join(",")));
    }
    for prefix in &f.prefixes {
        let (first, last) = (sortable(prefix.network()), sortable(prefix.broadcast()));
        conditions.push(format!("address BETWEEN '{first}' AND '{last}'"));
    }
    if f.ip_version == IpVersion::V6 {
        conditions.push("v6".into());
    }
    if f.protocols
        .contains([Protocol::Socks5].into_iter().collect())
    {
        conditions.push("NOT wireguard_only".into());
    }
    let price = question.max_prices.per_second.0.0;
    if let Ok(price) = i64::try_from(price) {
        conditions.push(format!("per_second <= {price}"));
    }
    conditions.push(format!(
        "tier >= {} AND mbit_up >= {} AND mbit_down >= {}",
        f.tier as i64, f.mbit_up, f.mbit_down
    ));
    format!(
        "SELECT id FROM offers WHERE {} ORDER BY per_second, per_gib, number LIMIT 1",
        conditions.join(" AND ")
    )
}

/// Text that sorts as the addresses do, IPv4 before IPv6.
fn sortable(address: std::net::IpAddr) -> String {
    match address {
        std::net::IpAddr::V4(v4) => format!("4{:08x}", v4.to_bits()),
        std::net::IpAddr::V6(v6) => format!("6{:032x}", v6.to_bits()),
    }
}
