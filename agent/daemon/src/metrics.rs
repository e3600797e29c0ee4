//! What a provider's `/metrics` shows, in Prometheus' text format: money first.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use ipsx_agent_core::provider::ProviderEvent;
use ipsx_metering::{Amount, DealId};
use ipsx_settlement::claims::ClaimReport;
use prometheus::core::Collector;
use prometheus::{
    Counter, Encoder, Gauge, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::provider::ProviderStatus;

/// Connections at once; more wait.
const CONNECTIONS: usize = 8;
/// How long a client may take over a request's headers.
const HEADERS: Duration = Duration::from_secs(10);

/// A provider's counters, in a registry of their own, so that several providers fit in one process.
pub(crate) struct Metrics {
    registry: Registry,
    connected: IntGauge,
    leases: IntGauge,
    leases_free: IntGauge,
    month_bytes: IntGauge,
    unclaimed: Gauge,
    unclaimed_room: Gauge,
    unpaid: Gauge,
    /// What each running lease has used and not paid.
    unpaid_of: Mutex<HashMap<DealId, Amount>>,
    vouchers_refused: IntCounterVec,
    claims: IntCounterVec,
    claimed: Counter,
    fees: Counter,
    gas: IntCounter,
    gas_cost: Counter,
    dropped: IntCounterVec,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        #[cfg(target_os = "linux")]
        registry.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        let add = Add(&registry);
        Ok(Self {
            connected: add.add(IntGauge::new(
                "ipsx_broker_connected",
                "1 while the broker is connected.",
            ))?,
            leases: add.add(IntGauge::new("ipsx_leases", "Leases that hold capacity."))?,
            leases_free: add.add(IntGauge::new(
                "ipsx_leases_free",
                "Leases that could still be taken.",
            ))?,
            month_bytes: add.add(IntGauge::new(
                "ipsx_month_bytes",
                "Bytes carried in this calendar month (UTC), both directions.",
            ))?,
            unclaimed: add.add(Gauge::new(
                "ipsx_unclaimed_tokens",
                "Vouchers that the chain has not paid.",
            ))?,
            unclaimed_room: add.add(Gauge::new(
                "ipsx_unclaimed_room_tokens",
                "How much more may be served unclaimed before leases are turned down (--max-unclaimed).",
            ))?,
            unpaid: add.add(Gauge::new(
                "ipsx_unpaid_tokens",
                "Used by running leases beyond their vouchers on disk: the credit at risk.",
            ))?,
            unpaid_of: Mutex::default(),
            vouchers_refused: add.add(IntCounterVec::new(
                Opts::new("ipsx_vouchers_refused_total", "Vouchers that did not count, by reason."),
                &["reason"],
            ))?,
            claims: add.add(IntCounterVec::new(
                Opts::new("ipsx_claims_total", "Batches of claims, by what came of them."),
                &["outcome"],
            ))?,
            claimed: add.add(Counter::new(
                "ipsx_claimed_tokens_total",
                "Moved by claims, fees included.",
            ))?,
            fees: add.add(Counter::new(
                "ipsx_claim_fees_tokens_total",
                "The network's part of what was claimed.",
            ))?,
            gas: add.add(IntCounter::new("ipsx_claim_gas_total", "Gas used by claims."))?,
            gas_cost: add.add(Counter::new(
                "ipsx_claim_gas_cost_coins_total",
                "What that gas cost, in the chain's own coin.",
            ))?,
            dropped: add.add(IntCounterVec::new(
                Opts::new("ipsx_packets_dropped_total", "Packets that went nowhere, by reason."),
                &["reason"],
            ))?,
            registry,
        })
    }

    /// Takes note of what happened.
    pub(crate) fn observe(&self, event: &ProviderEvent) {
        match event {
            ProviderEvent::LeaseSecond {
                lease, due, paid, ..
            } => self.owes(*lease, due.saturating_sub(*paid)),
            ProviderEvent::LeaseEnded { lease, .. } => self.owes(*lease, Amount::ZERO),
            ProviderEvent::PacketsDropped { reasons } => {
                for (reason, count) in reasons {
                    self.dropped.with_label_values(&[reason]).inc_by(*count);
                }
            }
            ProviderEvent::ClaimFailed { .. } => self.claimed_with("failed"),
            _ => {}
        }
    }

    /// Takes note of where the provider stands. `leases` and `unclaimed` are the most that it accepts.
    pub(crate) fn stands(&self, status: &ProviderStatus, leases: u32, unclaimed: Amount) {
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.connected.set(i64::from(status.connected));
        self.leases.set(count(status.leases as u64));
        let free = u64::from(leases).saturating_sub(status.leases as u64);
        self.leases_free.set(count(free));
        self.month_bytes.set(count(status.month_bytes));
        self.unclaimed.set(tokens(status.unclaimed.0));
        let room = unclaimed.saturating_sub(status.unclaimed);
        self.unclaimed_room.set(tokens(room.0));
    }

    /// Counts a voucher that did not count.
    pub(crate) fn refused(&self, reason: &str) {
        self.vouchers_refused.with_label_values(&[reason]).inc();
    }

    /// Counts a batch of claims that is handed to the chain.
    pub(crate) fn claim_sent(&self) {
        self.claimed_with("sent");
    }

    /// Counts one that is in a block, with what it moved and cost.
    pub(crate) fn claim_confirmed(&self, report: &ClaimReport) {
        self.claimed_with("confirmed");
        self.claimed.inc_by(tokens(report.paid.0));
        self.fees.inc_by(tokens(report.fee.0));
        if let Some(settlement) = &report.settlement {
            let (gas, price) = (
                settlement.receipt.gas_used,
                settlement.receipt.effective_gas_price,
            );
            self.gas.inc_by(gas);
            self.gas_cost
                .inc_by(tokens(u128::from(gas).saturating_mul(price)));
        }
    }

    fn claimed_with(&self, outcome: &str) {
        self.claims.with_label_values(&[outcome]).inc();
    }

    fn owes(&self, lease: DealId, unpaid: Amount) {
        // Nothing panics while it is held, so a poisoned map is whole.
        let mut all = self
            .unpaid_of
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if unpaid == Amount::ZERO {
            all.remove(&lease);
        } else {
            all.insert(lease, unpaid);
        }
        let sum: Amount = all.values().copied().sum();
        self.unpaid.set(tokens(sum.0));
    }

    fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// Answers whoever asks, for as long as this is polled.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = listener.accept().await else {
                // Too many open files, perhaps: that passes.
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            };
            let metrics = self.clone();
            tokio::spawn(async move {
                let _place = place;
                let answer = service_fn(|request| {
                    let response = metrics.answer(&request);
                    async move { Ok::<_, Infallible>(response) }
                });
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADERS)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), answer);
                // Whoever is gone or confused is not served any longer.
                let _ = served.await;
            });
        }
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let (status, body) = match request.uri().path() {
            "/metrics" => match self.text() {
                Ok(text) => (StatusCode::OK, text.into()),
                Err(error) => {
                    tracing::error!(%error, "metrics can't be written");
                    (StatusCode::INTERNAL_SERVER_ERROR, Bytes::new())
                }
            },
            _ => (StatusCode::NOT_FOUND, Bytes::from_static(b"/metrics\n")),
        };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        let text = header::HeaderValue::from_static("text/plain; version=0.0.4");
        response.headers_mut().insert(header::CONTENT_TYPE, text);
        response
    }
}

/// 10^-18 of a token or coin each, as what Prometheus takes. For watching; no money is reckoned with it.
fn tokens(units: u128) -> f64 {
    format!("{units}e-18").parse().unwrap_or(f64::INFINITY)
}

/// Registers collectors.
struct Add<'a>(&'a Registry);

impl Add<'_> {
    fn add<C: Collector + Clone + 'static>(
        &self,
        collector: Result<C, prometheus::Error>,
    ) -> Result<C, prometheus::Error> {
        let collector = collector?;
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }
}
