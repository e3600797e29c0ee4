#![allow(clippy::unwrap_used)]
use super::*;
use ipsx_metering::SecretKey;

const NOW: UnixSeconds = UnixSeconds(1_795_183_200);

fn nonce() -> SessionNonce {
    SessionNonce {
        nonce: "kEWepMt9knR6lWJ6A".into(),
        domain: "127.0.0.1:8480".into(),
        uri: "http://127.0.0.1:8480".into(),
    }
}

fn expected() -> Expected<'static> {
    Expected {
        domain: "127.0.0.1:8480",
        uri: "http://127.0.0.1:8480",
        chain_id: 31_337,
        now: NOW,
    }
}

fn key() -> SecretKey {
    SecretKey::from_bytes(&[7; 32]).unwrap()
}

fn signed(text: String) -> SignIn {
    sign(text, |hash| key().sign_hash(hash))
}

fn good_text() -> String {
    message(key().address(), &nonce(), 31_337, NOW).unwrap()
}

#[test]
fn a_message_made_here_is_accepted_here() {
    let found = check(&signed(good_text()), &expected()).unwrap();
    assert_eq!(found.wallet, key().address());
    assert_eq!(found.nonce, nonce().nonce);
}

#[test]
fn the_hash_is_that_of_personal_sign() {
    // EIP-191 over "hello", as any wallet computes it.
    assert_eq!(
        personal_hash("hello").to_string(),
        "0x50b2c43fd39106bafbba0da34fc430e1f91e3c96ea2acee2bc34119f92b37750"
    );
}

#[test]
fn a_foreign_domain_uri_or_chain_is_refused() {
    for (field, from, to) in [
        ("domain", "127.0.0.1:8480 wants", "evil.example:8480 wants"),
        (
            "URI",
            "URI: http://127.0.0.1:8480",
            "URI: http://evil.example",
        ),
        ("chain id", "Chain ID: 31337", "Chain ID: 1"),
    ] {
        let text = good_text().replace(from, to);
        match check(&signed(text), &expected()) {
            Err(SignInError::Field { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{field}: {other:?}"),
        }
    }
}

#[test]
fn another_wallet_can_not_sign() {
    let stranger = SecretKey::from_bytes(&[8; 32]).unwrap();
    let sign_in = sign(good_text(), |hash| stranger.sign_hash(hash));
    assert!(matches!(
        check(&sign_in, &expected()),
        Err(SignInError::Signature(_))
    ));
}

#[test]
fn times_are_checked_against_the_argument() {
    let at = |now| check(&signed(good_text()), &Expected { now, ..expected() });
    assert!(at(NOW.after(MAX_VALIDITY - 1)).is_ok());
    assert!(matches!(
        at(NOW.after(MAX_VALIDITY)),
        Err(SignInError::Time { .. })
    ));
    assert!(at(UnixSeconds(NOW.0 - CLOCK_SKEW)).is_ok());
    let early = UnixSeconds(NOW.0 - CLOCK_SKEW - 1);
    assert!(matches!(at(early), Err(SignInError::Time { .. })));
}

#[test]
fn a_message_without_an_end_or_with_a_late_one_is_refused() {
    let text = good_text();
    let (start, end) = text.split_once("\nExpiration Time: ").unwrap();
    let endless = signed(start.into());
    assert!(matches!(
        check(&endless, &expected()),
        Err(SignInError::Time { .. })
    ));
    let later = end.replace("2026", "2027");
    let long = signed(format!("{start}\nExpiration Time: {later}"));
    assert!(matches!(
        check(&long, &expected()),
        Err(SignInError::Time { .. })
    ));
    let future = format!("{}\nNot Before: 2026-11-20T14:00:01Z", good_text());
    assert!(matches!(
        check(&signed(future), &expected()),
        Err(SignInError::Time { .. })
    ));
}

#[test]
fn garbage_is_refused_without_a_panic() {
    let texts = [
        String::new(),
        "x".repeat(MAX_MESSAGE + 1),
        "\n".repeat(40),
        good_text().replace("Version: 1", "Version: 2"),
        good_text().replace('\n', "\r\n"),
        good_text() + "\n",
        good_text().replace("kEWepMt9knR6lWJ6A", "short"),
        good_text().replace("kEWepMt9knR6lWJ6A", "with space 12345"),
    ];
    for text in texts {
        let found = check(&signed(text.clone()), &expected());
        assert!(
            matches!(found, Err(SignInError::Malformed(_))),
            "{text:?}: {found:?}"
        );
    }
}
