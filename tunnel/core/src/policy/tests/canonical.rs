//! What a policy's hash is made of.

use super::*;

#[test]
fn canonical_bytes_are_frozen() {
    let policy = ExitPolicy {
        tier: Tier::Web,
        allow: rules(&["1.2.3.4:tcp/80"]),
        ..ExitPolicy::default()
    };
    let mut expected = vec![1, 0, 3];
    expected.extend(b"web");
    expected.extend([0, 0, 0, 1, 0, 17]);
    expected.extend(b"1.2.3.4/32:tcp/80");
    expected.extend([0, 0, 0, 0]);
    assert_eq!(policy.canonical_bytes(), expected);
}

#[test]
fn canonical_bytes_ignore_order_and_repetition_alone() {
    let with = |allow: &[&str], deny: &[&str]| ExitPolicy {
        tier: Tier::Open,
        allow: rules(allow),
        deny: rules(deny),
        ..ExitPolicy::default()
    };
    let (a, b) = ("1.2.3.4:tcp/80", "5.6.7.8:udp/*");
    assert_eq!(
        with(&[a, b], &[]).canonical_bytes(),
        with(&[b, a, b], &[]).canonical_bytes()
    );
    let distinct = [
        with(&[], &[]),
        with(&[a], &[]),
        with(&[], &[a]),
        with(&[a, b], &[]),
        with(&[a], &[b]),
        ExitPolicy::new(Tier::Web),
        ExitPolicy::new(Tier::WebUdp),
    ];
    for (i, one) in distinct.iter().enumerate() {
        for other in &distinct[i + 1..] {
            assert_ne!(one.canonical_bytes(), other.canonical_bytes());
        }
    }
}

#[test]
fn domain_lists_add_their_category_and_digest() {
    let list = |category: &str, lines: &[&str]| super::domains::list(category, lines);
    let policy = ExitPolicy {
        deny_domains: vec![list("ads", &["b.example", "a.example"])],
        ..ExitPolicy::default()
    };
    let mut expected = vec![2, 0, 3];
    expected.extend(b"web");
    expected.extend([0; 12]);
    expected.extend([0, 0, 0, 1, 0, 3]);
    expected.extend(b"ads");
    // sha256sum of "a.example\nb.example\n"
    let digest = "8fb9a6ebbf9e0b506b9478b431e6e9dcd34fc2153daea407fc818280551cfed5";
    expected.extend((0..32).map(|at| u8::from_str_radix(&digest[2 * at..][..2], 16).unwrap()));
    assert_eq!(policy.canonical_bytes(), expected);

    let with = |allow: &[&DomainList], deny: &[&DomainList]| ExitPolicy {
        allow_domains: allow.iter().map(|&list| list.clone()).collect(),
        deny_domains: deny.iter().map(|&list| list.clone()).collect(),
        ..ExitPolicy::default()
    };
    let (a, b) = (list("a", &["x.org"]), list("b", &["x.org"]));
    let other = list("a", &["y.org"]);
    assert_eq!(
        with(&[], &[&a, &b]).canonical_bytes(),
        with(&[], &[&b, &a, &b]).canonical_bytes()
    );
    let distinct = [
        with(&[], &[]),
        with(&[&a], &[]),
        with(&[], &[&a]),
        with(&[], &[&b]),
        with(&[], &[&other]),
    ];
    for (i, one) in distinct.iter().enumerate() {
        for later in &distinct[i + 1..] {
            assert_ne!(one.canonical_bytes(), later.canonical_bytes());
        }
    }
    let any = |list: &DomainList| with(&[], &[list]).with_any_domains();
    assert_eq!(any(&a), any(&other));
}
