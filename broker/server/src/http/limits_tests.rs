#![allow(clippy::unwrap_used)]
use std::net::Ipv4Addr;

use super::*;

fn take(limiter: &Limiter<u32>, key: u32, now: Instant) -> Verdict {
    limiter.take(key, now).unwrap()
}

#[test]
fn a_burst_passes_and_then_the_rate() {
    let limiter = Limiter::new("wallet", 5);
    let now = Instant::now();
    for n in 1..=50 {
        let verdict = take(&limiter, 1, now);
        assert_eq!((verdict.wait, verdict.remaining), (None, 50 - n));
    }
    let refused = take(&limiter, 1, now);
    assert_eq!(refused.wait, Some(Duration::from_millis(200)));
    assert_eq!(refused.full_in, Duration::from_secs(10));
    // Refusals cost nothing, and others have buckets of their own.
    assert_eq!(take(&limiter, 1, now), refused);
    assert_eq!(take(&limiter, 2, now).remaining, 49);
    let later = now + Duration::from_millis(1_000);
    let passed = (0..10).filter(|_| take(&limiter, 1, later).wait.is_none());
    assert_eq!(passed.count(), 5);
    assert!(Limiter::new("wallet", 0).take(1, now).is_none());
}

#[test]
fn buckets_are_bounded_and_come_back() {
    let limiter = Limiter::new("address", 1);
    let now = Instant::now();
    let many = u32::try_from(MAX_BUCKETS).unwrap();
    for key in 0..many {
        take(&limiter, key, now);
    }
    // Newcomers share one bucket; whoever has one keeps it.
    let shared = (many..many + 20).filter(|key| take(&limiter, *key, now).wait.is_none());
    assert_eq!(shared.count(), 10);
    assert_eq!(take(&limiter, 0, now).remaining, 8);
    assert!(limiter.buckets.lock().unwrap().full_at.len() <= MAX_BUCKETS + 1);
    let later = now + Duration::from_secs(20);
    assert_eq!(take(&limiter, many + 50, later).remaining, 9);
    assert_eq!(limiter.buckets.lock().unwrap().full_at.len(), 1);
}

#[test]
fn only_a_trusted_proxy_names_its_client() {
    let limits = |trusted_proxies| Limits {
        addresses: Limiter::new("address", 1),
        wallets: Limiter::new("wallet", 1),
        trusted_proxies,
    };
    let v4 = |last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
    let mut headers = HeaderMap::new();
    let forwarded = "198.51.100.66, 192.0.2.7, 192.0.2.2";
    headers.insert("x-forwarded-for", HeaderValue::from_static(forwarded));
    assert_eq!(limits(vec![]).client(v4(1), &headers), v4(1));
    assert_eq!(limits(vec![v4(1)]).client(v4(1), &headers), v4(2));
    assert_eq!(limits(vec![v4(1), v4(2)]).client(v4(1), &headers), v4(7));
    let own = "2001:db8:1:2:3:4:5:6".parse().unwrap();
    let network: IpAddr = "2001:db8:1:2::".parse().unwrap();
    assert_eq!(limits(vec![]).client(own, &HeaderMap::new()), network);
}

#[test]
fn the_headers_say_who_may_ask_how_often() {
    let limiter = Limiter::new("address", 1);
    let now = Instant::now();
    let first = take(&limiter, 1, now);
    let mut headers = HeaderMap::new();
    tell(
        &mut headers,
        &[
            first,
            Verdict {
                name: "wallet",
                ..first
            },
        ],
    );
    let policy = "\"address\";q=10;w=10, \"wallet\";q=10;w=10";
    assert_eq!(headers["ratelimit-policy"], policy);
    let limit = "\"address\";r=9;t=1, \"wallet\";r=9;t=1";
    assert_eq!(headers["ratelimit"], limit);
    assert!(!headers.contains_key("retry-after"));
    let refused = (0..10).map(|_| take(&limiter, 1, now)).last().unwrap();
    tell(&mut headers, &[refused]);
    assert_eq!(headers["retry-after"], "1");
}
