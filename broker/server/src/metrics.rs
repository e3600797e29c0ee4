//! What `/metrics` shows, in Prometheus' text format.

use ipsx_market::book::NoMatch;
use ipsx_market::market::RequestFailure;
use ipsx_market::status::DealStatus;
use ipsx_metering::{Amount, PayerAccount};
use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

/// The broker's counters, in a registry of their own, so that several brokers fit in one process.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) agents: IntGauge,
    pub(crate) shards: IntGauge,
    pub(crate) offers: IntGauge,
    pub(crate) resting: IntGauge,
    resting_over: IntCounterVec,
    pub(crate) offers_for_sale: IntGauge,
    pub(crate) probes: IntCounterVec,
    pub(crate) leases_held: IntGauge,
    pub(crate) leases_free: IntGauge,
    pub(crate) deals_open: IntGaugeVec,
    pub(crate) deals_over: IntCounterVec,
    pub(crate) requests: IntCounterVec,
    pub(crate) refusals: IntCounterVec,
    pub(crate) reservations: IntCounterVec,
    pub(crate) frames: IntCounterVec,
    pub(crate) relayed_leases: IntGauge,
    pub(crate) relayed_bytes: IntCounter,
    pub(crate) relay_dropped: IntCounterVec,
    pub(crate) vouchers_refused: IntCounterVec,
    pub(crate) deposits: Gauge,
    pub(crate) promised: Gauge,
    pub(crate) held: Gauge,
    pub(crate) bond_exposure: Gauge,
    pub(crate) reserved_channels: IntGauge,
    pub(crate) transitions: IntCounter,
    pub(crate) claimed_for_providers: IntCounter,
    pub(crate) store_commits: IntCounter,
    pub(crate) store_full: IntGauge,
    pub(crate) http: HistogramVec,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        #[cfg(target_os = "linux")]
        registry.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        let add = Add(&registry);
        let deals_open = Opts::new("ipsx_deals_open", "Deals that hold capacity, by status.");
        let http = HistogramOpts::new(
            "ipsx_http_request_seconds",
            "Time to answer, long polls included.",
        );
        Ok(Self {
            agents: add.gauge(
                "ipsx_agents_connected",
                "Agents that have proved their wallet.",
            )?,
            shards: add.gauge(
                "ipsx_shards",
                "Shards of the book that this broker has, of a fleet.",
            )?,
            offers: add.gauge("ipsx_offers", "Offers in the book.")?,
            resting: add.gauge(
                "ipsx_requests_resting",
                "Requests that wait for an offer.",
            )?,
            resting_over: add.counters(
                "ipsx_requests_rested_total",
                "Requests that waited for an offer, by what became of them.",
                "status",
            )?,
            offers_for_sale: add.gauge(
                "ipsx_offers_for_sale",
                "Offers that are not withheld for want of a proof of their address.",
            )?,
            probes: add.counters(
                "ipsx_probes_total",
                "Probes of exits, by what they found out.",
                "outcome",
            )?,
            leases_held: add.gauge("ipsx_leases_held", "Leases that count against capacity.")?,
            leases_free: add.gauge("ipsx_leases_free", "Leases that the book could still take.")?,
            deals_open: add.collector(IntGaugeVec::new(deals_open, &["status"])?)?,
            deals_over: add.counters("ipsx_deals_over_total", "Deals that are over.", "status")?,
            requests: add.counters(
                "ipsx_requests_total",
                "Requests, by what came of them.",
                "outcome",
            )?,
            refusals: add.counters(
                "ipsx_refusals_total",
                "What was refused, and why.",
                "reason",
            )?,
            reservations: add.counters(
                "ipsx_reservations_total",
                "Reservations, by what came of them.",
                "outcome",
            )?,
            frames: add.counters(
                "ipsx_frames_total",
                "Sealed frames, by what became of them.",
                "outcome",
            )?,
            relayed_leases: add.gauge(
                "ipsx_relayed_leases",
                "Leases that have a port of the relay.",
            )?,
            relayed_bytes: add.collector(IntCounter::new(
                "ipsx_relayed_bytes_total",
                "Bytes of the datagrams that the relay passed on, each of which came in once and went out once.",
            )?)?,
            relay_dropped: add.counters(
                "ipsx_relay_dropped_total",
                "Datagrams that the relay passed on to nobody, by reason.",
                "reason",
            )?,
            vouchers_refused: add.counters(
                "ipsx_vouchers_refused_total",
                "Vouchers that were not kept, by reason.",
                "reason",
            )?,
            deposits: add.tokens(
                "ipsx_deposits_tokens",
                "Deposits of the payers that something is promised of, less what they withdraw.",
            )?,
            promised: add.tokens(
                "ipsx_promised_tokens",
                "What reservations and consents to withdraw may still take of those deposits.",
            )?,
            held: add.tokens(
                "ipsx_held_tokens",
                "Set aside on the chain for channels with reservations.",
            )?,
            bond_exposure: add.tokens(
                "ipsx_bond_exposure_tokens",
                "What the bond would pay if everything that was ever reserved were claimed now.",
            )?,
            reserved_channels: add.gauge(
                "ipsx_reserved_channels",
                "Channels with reservations that can still be claimed on.",
            )?,
            transitions: add.collector(IntCounter::new(
                "ipsx_deal_transitions_total",
                "Changes of a deal's side.",
            )?)?,
            claimed_for_providers: add.collector(IntCounter::new(
                "ipsx_claimed_for_providers_total",
                "Channels claimed on because their provider had not, and they were about to lapse.",
            )?)?,
            store_commits: add.collector(IntCounter::new(
                "ipsx_store_commits_total",
                "Transactions of the store, each with one sync; many writes share one when many ask at once.",
            )?)?,
            store_full: add.gauge(
                "ipsx_store_full",
                "1 while the disk has no room for what has to be written, and nothing new is taken.",
            )?,
            http: add.collector(HistogramVec::new(http, &["method", "route", "status"])?)?,
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

    /// Counts what became of a request that rested.
    pub(crate) fn resting_over(&self, status: &str) {
        self.resting_over.with_label_values(&[status]).inc();
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

    /// Sets the gauges of what is promised.
    pub(crate) fn set_money<'a>(&self, accounts: impl Iterator<Item = &'a PayerAccount>) {
        let [mut deposits, mut promised, mut held, mut beyond] = [Amount::ZERO; 4];
        let mut channels = 0;
        for account in accounts {
            let deposit = account.balance.saturating_sub(account.pending);
            let add = |sum: &mut Amount, more: Amount| *sum = sum.saturating_add(more);
            add(&mut deposits, deposit);
            add(&mut promised, account.committed());
            add(&mut beyond, account.owed().saturating_sub(deposit));
            for (_, exposure) in account.channels.iter() {
                add(&mut held, exposure.held);
                channels += 1;
            }
        }
        self.deposits.set(tokens(deposits));
        self.promised.set(tokens(promised));
        self.held.set(tokens(held));
        self.bond_exposure.set(tokens(beyond));
        self.reserved_channels.set(channels);
    }

    /// Everything, as text.
    pub(crate) fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// Whole tokens, as what Prometheus takes. For watching; no money is reckoned with it.
fn tokens(amount: Amount) -> f64 {
    format!("{}e-18", amount.0).parse().unwrap_or(f64::INFINITY)
}

/// Makes collectors and registers them.
struct Add<'a>(&'a Registry);

impl Add<'_> {
    fn collector<C: Collector + Clone + 'static>(
        &self,
        collector: C,
    ) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.collector(IntGauge::new(name, help)?)
    }

    fn tokens(&self, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
        self.collector(Gauge::new(name, help)?)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        label: &str,
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.collector(IntCounterVec::new(Opts::new(name, help), &[label])?)
    }
}

/// The label of a request that got no deal.
pub(crate) fn failure_label(failure: &RequestFailure) -> &'static str {
    match failure {
        RequestFailure::NoMatch(NoMatch::NoFilterMatch { .. }) => "no_match",
        RequestFailure::NoMatch(NoMatch::PriceTooLow { .. }) => "price_too_low",
        RequestFailure::NoMatch(NoMatch::SoldOut { .. }) => "sold_out",
        RequestFailure::TooManyUnstarted(_) => "too_many_unstarted",
        RequestFailure::NoRest(_) => "no_rest",
        RequestFailure::NoneSigned { .. } => "none_signed",
        RequestFailure::Incomplete { .. } => "incomplete",
    }
}
