//! Lists of domains.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn set(lines: &[&str]) -> DomainSet {
    let mut builder = DomainSetBuilder::default();
    for line in lines {
        builder.add_line(line).unwrap();
    }
    builder.build()
}

pub(super) fn list(category: &str, lines: &[&str]) -> DomainList {
    DomainList {
        category: category.to_owned(),
        names: Arc::new(set(lines)),
    }
}

#[test]
fn a_domain_covers_itself_and_what_is_below_it() {
    let set = set(&["bet.example", "co.uk"]);
    for name in [
        "bet.example",
        "www.bet.example",
        "a.b.c.bet.example.",
        "WWW.Bet.Example",
        "_dmarc.bet.example",
        "odd\\032label.bet.example",
        "bbc.co.uk",
    ] {
        assert!(set.covers(name), "{name}");
    }
    for name in [
        "example",
        "alphabet.example",
        "bet.example.org",
        "bet-example",
        "bet.examples",
        "uk",
        ".",
        "",
    ] {
        assert!(!set.covers(name), "{name}");
    }
    assert!(!DomainSet::default().covers("bet.example"));
}

#[test]
fn plain_lists_and_hosts_files_are_read() {
    let set = set(&[
        "# a comment",
        "",
        "  ads.example  # why",
        "*.wild.example",
        ".dotted.example",
        "Case.EXAMPLE.",
        "0.0.0.0 one.example two.example",
        "::1 ip6-localhost three.example",
        "127.0.0.1 localhost localhost.localdomain",
        "0.0.0.0 0.0.0.0",
        "bücher.example",
        "xn--nxasmq6b.example\r",
    ]);
    for name in [
        "ads.example",
        "x.wild.example",
        "wild.example",
        "dotted.example",
        "case.example",
        "one.example",
        "two.example",
        "three.example",
        "xn--bcher-kva.example",
        "xn--nxasmq6b.example",
    ] {
        assert!(set.covers(name), "{name}");
    }
    assert_eq!(set.len(), 9);
    assert!(!set.covers("localhost"));
}

#[test]
fn lines_that_name_no_domain_are_refused() {
    let long = format!("{}.example", "x".repeat(64));
    for line in [
        "two words",
        "https://example.org/",
        "a..example",
        "ex ample.org",
        "203.0.113.7 ex!ample.org",
        "||ads.example^",
        "1.2.3",
        "-",
        &long,
        &"a.".repeat(130),
    ] {
        let mut builder = DomainSetBuilder::default();
        let read = builder.add_line(line);
        if line == "-" {
            // Odd, but a label.
            assert_eq!(read, Ok(()));
            continue;
        }
        assert!(matches!(read, Err(DomainError::Name(_))), "{line}");
        assert!(builder.build().is_empty());
    }
}

#[test]
fn digests_are_of_what_is_meant() {
    let one = set(&["b.example", "a.example", "www.a.example", "a.example"]);
    let other = set(&["0.0.0.0 A.example b.example"]);
    assert_eq!(one, other);
    assert_eq!(one.digest(), other.digest());
    assert_eq!(one.len(), 2);
    assert_ne!(one.digest(), set(&["a.example"]).digest());
}

#[test]
fn denied_names_have_their_category_and_exceptions_are_answered() {
    let policy = ExitPolicy {
        allow_domains: vec![list("mine", &["good.bet.example"])],
        deny_domains: vec![
            list("ads", &["ads.example"]),
            list("gambling", &["bet.example"]),
        ],
        ..ExitPolicy::new(Tier::Open)
    };
    let matcher = policy.compile(&[]);
    assert_eq!(matcher.denied_category("x.ads.example"), Some("ads"));
    assert_eq!(matcher.denied_category("bet.example."), Some("gambling"));
    assert_eq!(matcher.denied_category("www.good.bet.example"), None);
    assert_eq!(matcher.denied_category("example.org"), None);
}

#[test]
fn other_resolvers_are_closed_while_names_are_denied() {
    let resolver = |matcher: &Matcher, protocol, port| {
        matcher.check(protocol, SocketAddr::new("9.9.9.9".parse().unwrap(), port))
    };
    let mut policy = ExitPolicy {
        deny_domains: vec![list("ads", &[])],
        ..ExitPolicy::new(Tier::Open)
    };
    let matcher = policy.compile(&[]);
    for protocol in [Tcp, Udp] {
        for port in [53, 853] {
            assert_eq!(
                resolver(&matcher, protocol, port),
                Err(DropReason::OtherResolver)
            );
            assert_eq!(resolver(&open(), protocol, port), Ok(()));
        }
        assert_eq!(resolver(&matcher, protocol, 443), Ok(()));
    }
    policy.allow = rules(&["9.9.9.9:udp/53"]);
    let matcher = policy.compile(&[]);
    assert_eq!(resolver(&matcher, Udp, 53), Ok(()));
    assert_eq!(resolver(&matcher, Tcp, 53), Err(DropReason::OtherResolver));
    // Exceptions alone deny nothing.
    policy.allow = Vec::new();
    policy.allow_domains = std::mem::take(&mut policy.deny_domains);
    assert_eq!(resolver(&policy.compile(&[]), Udp, 53), Ok(()));
}

proptest! {
    /// The same as asking for the name and everything above it, one by one. Few letters and labels make many domains
    /// that are above, below and beside each other.
    #[test]
    fn covers_what_a_plain_set_covers(
        domains in proptest::collection::vec("[ab-]{1,2}(\\.[ab-]{1,2}){0,3}", 0..80),
        names in proptest::collection::vec("[ab-]{1,2}(\\.[ab-]{1,2}){0,4}", 0..80),
    ) {
        let lines: Vec<&str> = domains.iter().map(String::as_str).collect();
        let set = set(&lines);
        let plain: BTreeSet<&str> = lines.into_iter().collect();
        for name in names.iter().chain(&domains) {
            let above = std::iter::successors(Some(name.as_str()), |name| Some(name.split_once('.')?.1));
            prop_assert_eq!(set.covers(name), above.into_iter().any(|name| plain.contains(name)), "{}", name);
        }
    }
}
