//! A search as the query of `GET /v1/offers`.

use ipsx_market::search::OfferQuery;

/// The query, with its question mark; empty when nothing is asked for.
pub(super) fn encode(query: &OfferQuery) -> String {
    let pairs = query.pairs();
    let parts: Vec<_> = pairs
        .iter()
        .map(|(name, value)| format!("{name}={}", escape(value)))
        .collect();
    if parts.is_empty() {
        String::new()
    } else {
        format!("?{}", parts.join("&"))
    }
}

/// Percent-encodes what is not unreserved (RFC 3986 §2.3), the comma apart.
fn escape(value: &str) -> String {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~,".contains(&byte);
    let mut escaped = String::new();
    for byte in value.bytes() {
        if unreserved(byte) {
            escaped.push(char::from(byte))
        } else {
            escaped.push_str(&format!("%{byte:02X}"))
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ipsx_market::request::Filter;

    #[test]
    fn only_what_is_asked_for_is_sent() {
        assert_eq!(encode(&OfferQuery::default()), "");
        let filter = Filter {
            countries: vec!["FR".parse().unwrap(), "DE".parse().unwrap()],
            prefixes: vec!["2001:db8::/32".parse().unwrap()],
            tier: "web+udp".parse().unwrap(),
            ..Filter::default()
        };
        let query = OfferQuery {
            filter,
            ..OfferQuery::default()
        };
        assert_eq!(
            encode(&query),
            "?country=FR,DE&prefix=2001%3Adb8%3A%3A%2F32&tier=web%2Budp"
        );
    }
}
