//! The same offers as rows, and the same questions as SQL that SQLite and PostgreSQL both read.

use ipsx_market::offer::{Offer, Placement, Protocol, Protocols, WeeklyHours};
use ipsx_market::ports::has_port;
use ipsx_market::request::IpVersion;

use ipsx_benches::questions::Question;
use ipsx_benches::spread::NOW;

/// One table with everything that is asked for; `standing` is reputation and round trip, the best first.
pub(crate) const TABLE: &str = "CREATE TABLE offers (number BIGINT PRIMARY KEY, id TEXT, country TEXT, region TEXT, \
    city TEXT, x DOUBLE PRECISION, y DOUBLE PRECISION, z DOUBLE PRECISION, latitude DOUBLE PRECISION, asn BIGINT, \
    address TEXT, kind INTEGER, v6 INTEGER, wireguard_only INTEGER, tier INTEGER, submission INTEGER, \
    insurance INTEGER, mbit_up BIGINT, mbit_down BIGINT, latency INTEGER, reputation INTEGER, min_seconds BIGINT, \
    max_seconds BIGINT, always INTEGER, per_second BIGINT, per_gib BIGINT, standing BIGINT, expires BIGINT)";

/// Columns of the table.
pub(crate) const COLUMNS: usize = 28;

/// An index for each attribute that is asked for by itself, in the order in which the best is wanted.
pub(crate) const INDEXES: [&str; 9] = [
    "CREATE INDEX by_price ON offers (per_second, per_gib, standing, number)",
    "CREATE INDEX by_country ON offers (country, per_second, per_gib, standing, number)",
    "CREATE INDEX by_region ON offers (region, per_second, per_gib, standing, number)",
    "CREATE INDEX by_city ON offers (city, per_second, per_gib, standing, number)",
    "CREATE INDEX by_asn ON offers (asn, per_second, per_gib, standing, number)",
    "CREATE INDEX by_address ON offers (address)",
    "CREATE INDEX by_latitude ON offers (latitude)",
    "CREATE INDEX by_service ON offers (insurance, country, per_second, per_gib, standing, number)",
    "CREATE INDEX by_port ON offers (submission, country, per_second, per_gib, standing, number)",
];

/// An offer's columns as literals; what is not known is empty.
pub(crate) fn row(number: usize, offer: &Offer, placement: &Placement) -> [String; COLUMNS] {
    fn text<T: ToString>(value: Option<T>) -> String {
        value.map_or_else(String::new, |value| value.to_string())
    }
    let flag = |set: bool| u8::from(set).to_string();
    let measured = placement.measured;
    let standing = (1_000 - i64::from(measured.reputation.unwrap_or(0))) * 65_536
        + i64::from(measured.latency_ms.unwrap_or(u16::MAX));
    let [x, y, z] = placement.point.map(direction).unwrap_or_default();
    let latitude = placement.point.map(|point| f64::from(point.latitude) / 1e6);
    let insured = offer
        .services
        .iter()
        .any(|name| name.to_string() == "insurance");
    [
        number.to_string(),
        offer.id().to_string(),
        text(placement.country),
        text(placement.region),
        text(placement.city.as_ref()),
        x.to_string(),
        y.to_string(),
        z.to_string(),
        text(latitude),
        text(placement.asn),
        sortable(placement.address),
        text(placement.address_type.map(|kind| kind as u8)),
        flag(placement.address.is_ipv6()),
        flag(offer.protocols != Protocols::all()),
        (offer.tier as u8).to_string(),
        flag(has_port(&offer.ports, 587)),
        flag(insured),
        offer.capacity.mbit_up.to_string(),
        offer.capacity.mbit_down.to_string(),
        text(measured.latency_ms),
        text(measured.reputation),
        offer.min_seconds.to_string(),
        offer.max_seconds.to_string(),
        flag(offer.weekly_hours == WeeklyHours::always()),
        offer.prices.per_second.0.to_string(),
        offer.prices.per_gib.0.to_string(),
        standing.to_string(),
        offer.expires_at.0.to_string(),
    ]
}

/// The best offer for a question. Hours of the week are left out: only offers that are always for sale count.
pub(crate) fn select(question: &Question) -> String {
    let f = &question.filter;
    let mut conditions = vec![format!(
        "expires >= {} AND always = 1 AND min_seconds <= {s} AND max_seconds >= {s}",
        NOW.0,
        s = question.seconds
    )];
    let quoted = |values: Vec<String>| format!("('{}')", values.join("','"));
    let texts = [
        (
            "country",
            f.countries
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
        ),
        (
            "region",
            f.regions.iter().map(ToString::to_string).collect(),
        ),
        ("city", f.cities.iter().map(ToString::to_string).collect()),
    ];
    for (column, values) in texts.into_iter().filter(|(_, values)| !values.is_empty()) {
        conditions.push(format!("{column} IN {}", quoted(values)));
    }
    for asn in &f.asns {
        conditions.push(format!("asn = {asn}"));
    }
    for kind in &f.address_types {
        conditions.push(format!("kind = {}", *kind as u8));
    }
    for circle in &f.circles {
        let [x, y, z] = direction(circle.center);
        let angle = f64::from(circle.km) / 6_371.009;
        let (degrees, line) = (angle.to_degrees(), 2.0 * (angle / 2.0).sin());
        let latitude = f64::from(circle.center.latitude) / 1e6;
        conditions.push(format!(
            "latitude BETWEEN {} AND {} AND (x-({x}))*(x-({x}))+(y-({y}))*(y-({y}))+(z-({z}))*(z-({z})) <= {}",
            latitude - degrees,
            latitude + degrees,
            line * line
        ));
    }
    for prefix in &f.prefixes {
        let (first, last) = (sortable(prefix.network()), sortable(prefix.broadcast()));
        conditions.push(format!("address BETWEEN '{first}' AND '{last}'"));
    }
    for prefix in &f.avoid.prefixes {
        let (first, last) = (sortable(prefix.network()), sortable(prefix.broadcast()));
        conditions.push(format!("address NOT BETWEEN '{first}' AND '{last}'"));
    }
    if !f.avoid.asns.is_empty() {
        let asns: Vec<_> = f.avoid.asns.iter().map(ToString::to_string).collect();
        conditions.push(format!("asn NOT IN ({})", asns.join(",")));
    }
    if f.ip_version == IpVersion::V6 {
        conditions.push("v6 = 1".into());
    }
    if f.protocols
        .contains([Protocol::Socks5].into_iter().collect())
    {
        conditions.push("wireguard_only = 0".into());
    }
    if f.ports.contains(&587) {
        conditions.push("submission = 1".into());
    }
    if !f.services.is_empty() {
        conditions.push("insurance = 1".into());
    }
    if f.max_latency_ms > 0 {
        conditions.push(format!("latency <= {}", f.max_latency_ms));
    }
    if f.min_reputation > 0 {
        conditions.push(format!("reputation >= {}", f.min_reputation));
    }
    if let Ok(price) = i64::try_from(question.max_prices.per_second.0.0) {
        conditions.push(format!("per_second <= {price}"));
    }
    conditions.push(format!(
        "tier >= {} AND mbit_up >= {} AND mbit_down >= {}",
        f.tier as i64, f.mbit_up, f.mbit_down
    ));
    let cost = match question.gib {
        0 => String::new(),
        gib => format!("per_second * {} + per_gib * {gib}, ", question.seconds),
    };
    format!(
        "SELECT id FROM offers WHERE {} ORDER BY {cost}per_second, per_gib, standing, number LIMIT 1",
        conditions.join(" AND ")
    )
}

fn direction(point: ipsx_market::geo::Point) -> [f64; 3] {
    let radians = |microdegrees: i32| (f64::from(microdegrees) / 1e6).to_radians();
    let (latitude, longitude) = (radians(point.latitude), radians(point.longitude));
    [
        latitude.cos() * longitude.cos(),
        latitude.cos() * longitude.sin(),
        latitude.sin(),
    ]
}

/// Text that sorts as the addresses do, IPv4 before IPv6.
fn sortable(address: std::net::IpAddr) -> String {
    match address {
        std::net::IpAddr::V4(v4) => format!("4{:08x}", v4.to_bits()),
        std::net::IpAddr::V6(v6) => format!("6{:032x}", v6.to_bits()),
    }
}
