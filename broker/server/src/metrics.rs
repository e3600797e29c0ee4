//! What `/metrics` shows, in Prometheus' text format.

use ipsx_market::book::NoMatch;
use ipsx_market::market::RequestFailure;
use ipsx_market::status::DealStatus;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// The broker's counters, in a registry of their own, so that several brokers fit in one process.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) agents: IntGauge,
    pub(crate) offers: IntGauge,
    pub(crate) leases_held: IntGauge,
    pub(crate) leases_free: IntGauge,
    pub(crate) deals_open: IntGaugeVec,
    pub(crate) deals_over: IntCounterVec,
    pub(crate) requests: IntCounterVec,
    pub(crate) refusals: IntCounterVec,
    pub(crate) reservations: IntCounterVec,
    pub(crate) frames: IntCounterVec,
    pub(crate) transitions: IntCounter,
    pub(crate) http: HistogramVec,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        #[cfg(target_os = "linux")]
        registry.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counters = |name: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let deals_open = IntGaugeVec::new(
            Opts::new("ipsx_deals_open", "Deals that hold capacity, by status."),
            &["status"],
        )?;
        registry.register(Box::new(deals_open.clone()))?;
        let transitions =
            IntCounter::new("ipsx_deal_transitions_total", "Changes of a deal's side.")?;
        registry.register(Box::new(transitions.clone()))?;
        let http = HistogramVec::new(
            HistogramOpts::new(
                "ipsx_http_request_seconds",
                "Time to answer, long polls included.",
            ),
            &["method", "route", "status"],
        )?;
        registry.register(Box::new(http.clone()))?;
        Ok(Self {
            agents: gauge(
                "ipsx_agents_connected",
                "Agents that have proved their wallet.",
            )?,
            offers: gauge("ipsx_offers", "Offers in the book.")?,
            leases_held: gauge("ipsx_leases_held", "Leases that count against capacity.")?,
            leases_free: gauge(
                "ipsx_leases_free",
                "Leases that the offers in the book could still take.",
            )?,
            deals_open,
            deals_over: counters(
                "ipsx_deals_over_total",
                "Deals that are over, by status.",
                "status",
            )?,
            requests: counters(
                "ipsx_requests_total",
                "Requests, by what came of them.",
                "outcome",
            )?,
            refusals: counters(
                "ipsx_refusals_total",
                "What agents and requesters were refused, by reason.",
                "reason",
            )?,
            reservations: counters(
                "ipsx_reservations_total",
                "Reservations, by what came of them.",
                "outcome",
            )?,
            frames: counters(
                "ipsx_frames_total",
                "Sealed frames, by what became of them.",
                "outcome",
            )?,
            transitions,
            http,
            registry,
        })
    }

    /// Counts a refusal.
    pub(crate) fn refused(&self, reason: &str) {
        self.refusals.with_label_values(&[reason]).inc();
    }

    /// Counts what came of a request.
    pub(crate) fn requested(&self, outcome: &str) {
        self.requests.with_label_values(&[outcome]).inc();
    }

    /// Sets the gauge of open deals.
    pub(crate) fn set_open(&self, statuses: impl Iterator<Item = DealStatus>) {
        let statuses: Vec<_> = statuses.collect();
        for status in DealStatus::ALL {
            let count = statuses.iter().filter(|s| **s == status).count();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.deals_open
                .with_label_values(&[status.as_str()])
                .set(count);
        }
    }

    /// Everything, as text.
    pub(crate) fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// The label of a request that got no deal.
pub(crate) fn failure_label(failure: &RequestFailure) -> &'static str {
    match failure {
        RequestFailure::NoMatch(NoMatch::NoFilterMatch { .. }) => "no_match",
        RequestFailure::NoMatch(NoMatch::PriceTooLow { .. }) => "price_too_low",
        RequestFailure::NoMatch(NoMatch::SoldOut { .. }) => "sold_out",
        RequestFailure::TooManyUnstarted(_) => "too_many_unstarted",
        RequestFailure::NoneSigned { .. } => "none_signed",
    }
}
