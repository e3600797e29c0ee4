//! How often one address and one wallet may ask, and the headers that tell them
//! (draft-ietf-httpapi-ratelimit-headers).

use std::collections::HashMap;
use std::fmt::Write;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ipsx_market::http::ProblemKind;
use ipsx_metering::Address;
use tokio::time::Instant;

use super::App;
use super::problem::{self, ProblemResponse};
use super::server::Peer;

/// Seconds' worth of requests that may come at once.
const BURST: u32 = 10;
/// Buckets of one limiter; a full one takes as much memory as a few thousand connections.
const MAX_BUCKETS: usize = 65_536;
/// How often a limiter without room looks for buckets that are full again.
const SWEEP: Duration = Duration::from_secs(1);

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Token buckets, one for each key, as times: a bucket is full again at its time.
pub(crate) struct Limiter<K> {
    name: &'static str,
    per_second: u32,
    buckets: Mutex<Buckets<K>>,
}

struct Buckets<K> {
    /// `None` is the bucket that newcomers share when there is no room for their own.
    full_at: HashMap<Option<K>, Instant>,
    swept: Instant,
}

/// What a bucket said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    name: &'static str,
    quota: u32,
    /// Requests that could come at once now.
    remaining: u32,
    /// Until the bucket is full again.
    full_in: Duration,
    /// For a refusal: until the next one is let through.
    wait: Option<Duration>,
}

impl<K: Eq + Hash + Copy> Limiter<K> {
    /// Lets `per_second` through on average, ten seconds' worth at once; 0 limits nothing.
    pub(crate) fn new(name: &'static str, per_second: u32) -> Self {
        let buckets = Buckets {
            full_at: HashMap::new(),
            swept: Instant::now(),
        };
        Self {
            name,
            per_second,
            buckets: Mutex::new(buckets),
        }
    }

    /// Takes one from a bucket, if it has one; `None` without limits.
    pub(crate) fn take(&self, key: K, now: Instant) -> Option<Verdict> {
        let quota = self.per_second.checked_mul(BURST).filter(|q| *q > 0)?;
        let each = Duration::from_secs(1) / self.per_second;
        let whole = each * quota;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let key = buckets.room_for(key, now);
        let full_at = buckets.full_at.get(&key).copied().unwrap_or(now).max(now);
        let after = full_at + each;
        let used = after.duration_since(now);
        let fits = used <= whole;
        if fits {
            buckets.full_at.insert(key, after);
        }
        let full_in = if fits {
            used
        } else {
            full_at.duration_since(now)
        };
        let left = whole.saturating_sub(full_in).as_nanos() / each.as_nanos().max(1);
        Some(Verdict {
            name: self.name,
            quota,
            remaining: u32::try_from(left).unwrap_or(quota).min(quota),
            full_in,
            wait: (!fits).then(|| used.saturating_sub(whole)),
        })
    }
}

impl<K: Eq + Hash + Copy> Buckets<K> {
    fn room_for(&mut self, key: K, now: Instant) -> Option<K> {
        let key = Some(key);
        if self.full_at.contains_key(&key) || self.full_at.len() < MAX_BUCKETS {
            return key;
        }
        if now.duration_since(self.swept) >= SWEEP {
            self.swept = now;
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        key.filter(|_| self.full_at.len() < MAX_BUCKETS)
    }
}

impl Verdict {
    /// For a refusal: until the next one is let through.
    pub(crate) fn wait(&self) -> Option<Duration> {
        self.wait
    }

    /// The refusal, if it is one.
    pub(super) fn refusal(&self) -> Option<ProblemResponse> {
        self.wait?;
        Some(ProblemResponse::new(
            StatusCode::TOO_MANY_REQUESTS,
            ProblemKind::TooManyRequests,
            format!(
                "more than {} requests from this {} within {BURST} s; Retry-After says when the next one is taken",
                self.quota, self.name
            ),
        ))
    }
}

/// Tells a client where it stands.
pub(super) fn tell(headers: &mut HeaderMap, verdicts: &[Verdict]) {
    let (mut policy, mut limit) = (String::new(), String::new());
    for v in verdicts {
        let comma = if policy.is_empty() { "" } else { ", " };
        let (name, quota, left, full) = (v.name, v.quota, v.remaining, whole_seconds(v.full_in));
        // Writing to a string does not fail.
        let _ = write!(policy, "{comma}\"{name}\";q={quota};w={BURST}");
        let _ = write!(limit, "{comma}\"{name}\";r={left};t={full}");
    }
    for (name, value) in [(POLICY, policy), (LIMIT, limit)] {
        if let Some(value) = HeaderValue::from_str(&value).ok().filter(|v| !v.is_empty()) {
            headers.insert(name, value);
        }
    }
    if let Some(wait) = verdicts.iter().filter_map(|v| v.wait).max() {
        headers.insert(header::RETRY_AFTER, whole_seconds(wait).into());
    }
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Left on a request, so that the wallet's verdict reaches the answer's headers.
#[derive(Clone, Default)]
pub(super) struct WalletVerdict(pub(super) Arc<OnceLock<Verdict>>);

/// What both limits say of who may ask.
pub(crate) struct Limits {
    pub(crate) addresses: Limiter<IpAddr>,
    pub(crate) wallets: Limiter<Address>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub(crate) trusted_proxies: Vec<IpAddr>,
}

impl Limits {
    /// Who asks: the peer, or whom a proxy that is believed saw.
    pub(super) fn seen(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let mut named: Vec<IpAddr> = headers
            .get_all("x-forwarded-for")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|text| text.trim().parse().ok())
            .collect();
        // The last one is whom the proxy saw; what stands before it, anybody may have written.
        while self.trusted_proxies.contains(&client)
            && let Some(before) = named.pop()
        {
            client = before.to_canonical();
        }
        client
    }

    /// Whom a request counts for: an IPv4 address, or an IPv6 network of 64 bits, which is what one client has.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        match self.seen(peer, headers) {
            client @ IpAddr::V4(_) => client,
            IpAddr::V6(v6) => {
                let network = v6.to_bits() & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
        }
    }
}

/// Counts a request for its address, before anything of it is looked at.
pub(super) async fn limited(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let limits = &app.limits;
    let peer = request.extensions().get::<Peer>().map(|Peer(peer)| *peer);
    let client = peer.map(|peer| limits.client(peer.ip(), request.headers()));
    let address = client.and_then(|client| limits.addresses.take(client, Instant::now()));
    let wallet = WalletVerdict::default();
    let mut response = match address.and_then(|verdict| verdict.refusal()) {
        Some(problem) => {
            app.desk.metrics.refused(problem.label());
            problem::complete(problem.into_response())
        }
        None => {
            request.extensions_mut().insert(wallet.clone());
            next.run(request).await
        }
    };
    let verdicts: Vec<_> = address.into_iter().chain(wallet.0.get().copied()).collect();
    tell(response.headers_mut(), &verdicts);
    response
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
