//! The table of a series, who is ahead where that can be said, and everything as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use super::accounting::Machine;
use super::catalogue::{Catalogue, Pair};
use super::metrics::{FOREIGN, Metric, TABLES};
use super::round::{Figures, What};
use super::series::Settings;
use crate::{SCATTER_LIMIT, Samples};

/// With fewer rounds nobody is ahead: too few to see how they scatter.
const LEAST_ROUNDS: usize = 5;

/// One pair's rounds.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) pair: Pair,
    versions: Vec<String>,
    rounds: Vec<Figures>,
    failures: Vec<String>,
    failed_last: usize,
}

impl Entry {
    pub(super) fn new(catalogue: &Catalogue, pair: &Pair) -> Self {
        let mut names = vec![&pair.client, &pair.exit];
        names.dedup();
        let versions = names
            .into_iter()
            .filter_map(|name| Some(format!("{name}: {}", catalogue.version(name)?)))
            .collect();
        Self {
            pair: pair.clone(),
            versions,
            rounds: Vec::new(),
            failures: Vec::new(),
            failed_last: 0,
        }
    }

    pub(super) fn succeeded(&mut self, figures: Figures, failures: Vec<String>) {
        self.rounds.push(figures);
        self.failures.extend(failures);
        self.failed_last = 0;
    }

    pub(super) fn failed(&mut self, why: String) {
        self.failures.push(why);
        self.failed_last += 1;
    }

    pub(super) fn gave_up(&self, limit: usize) -> bool {
        self.failed_last >= limit
    }

    /// A short line of one round.
    pub(super) fn progress(&self, figures: &Figures) -> String {
        let mut line = " ".to_owned();
        for metric in TABLES[0].1 {
            if let Some(value) = figures.get(metric.key) {
                let _ = write!(line, " {} {value:.0}", metric.title);
            }
        }
        if let Some(p99) = figures.get("rtt_idle_p99") {
            let _ = write!(line, " idle p99 {p99:.2} ms");
        }
        let foreign = figures.get(FOREIGN).copied().unwrap_or_default();
        let _ = write!(line, "; others used {:.0} %", foreign * 100.0);
        line
    }

    fn samples(&self, key: &str) -> Option<Samples> {
        Samples::new(
            self.rounds
                .iter()
                .filter_map(|figures| figures.get(key).copied())
                .collect(),
        )
    }
}

/// A whole series.
#[derive(Debug, Clone)]
pub struct Report {
    machine: Machine,
    settings: Settings,
    entries: Vec<Entry>,
    left_out: Vec<(Pair, String)>,
}

impl Report {
    pub(super) fn new(machine: Machine, settings: Settings) -> Self {
        Self {
            machine,
            settings,
            entries: Vec::new(),
            left_out: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    pub(super) fn leave_out(&mut self, pair: &Pair, reason: String) {
        self.left_out.push((pair.clone(), reason));
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn entries_mut(&mut self) -> &mut [Entry] {
        &mut self.entries
    }

    /// Whether any pair was measured at least once.
    pub fn is_empty(&self) -> bool {
        self.entries.iter().all(|entry| entry.rounds.is_empty())
    }

    /// Whether a pair failed in any round.
    pub fn has_failures(&self) -> bool {
        self.entries.iter().any(|entry| !entry.failures.is_empty())
    }

    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = self.heading();
        for (title, metrics) in TABLES {
            let used: Vec<&Metric> = metrics
                .iter()
                .filter(|metric| self.entries.iter().any(|e| e.samples(metric.key).is_some()))
                .collect();
            if !used.is_empty() {
                self.table(&mut text, title, &used);
            }
        }
        text.push_str("\n## Who is ahead\n");
        for (title, members) in self.groups() {
            let _ = writeln!(text, "\n{title}:\n");
            if members
                .iter()
                .any(|entry| entry.rounds.len() < LEAST_ROUNDS)
            {
                let _ = writeln!(text, "- nobody: {LEAST_ROUNDS} rounds are needed to tell");
                continue;
            }
            for metric in TABLES.iter().flat_map(|(_, metrics)| *metrics) {
                let table = TABLES
                    .iter()
                    .find(|(_, all)| all.contains(metric))
                    .map_or("", |(name, _)| *name);
                if let Some(verdict) = verdict(metric, &members) {
                    let _ = writeln!(text, "- {table}, {}: {verdict}", metric.title);
                }
            }
        }
        self.troubles(&mut text);
        text
    }

    fn heading(&self) -> String {
        let (machine, settings) = (&self.machine, &self.settings);
        let names: Vec<_> = settings.what.iter().copied().map(What::name).collect();
        let foreign = self
            .entries
            .iter()
            .filter_map(|entry| entry.samples(FOREIGN))
            .map(|share| share.most())
            .fold(0.0, f64::max);
        let mut text = format!(
            "# WireGuard implementations side by side\n\n\
             Machine: {}{} × {}, {} MiB, Linux {}; load average {} at the start. Other programs used up to {:.0} % of \
             it during a measurement.\n\
             Rounds: up to {}, in turns; {} s per TCP direction, {} s per UDP rate; tunnel MTU {}; veth offloads {}; \
             measured: {}.\n\
             Figures: median (least–most). UDP: 1,200-byte datagrams, the highest rate that loses less than half a \
             percent.\n",
            if machine.is_virtual { "virtual, " } else { "" },
            machine.processors,
            machine.processor,
            machine.memory_mib,
            machine.kernel,
            machine.load,
            foreign * 100.0,
            settings.rounds,
            settings.seconds.as_secs(),
            settings.udp_seconds.as_secs(),
            settings.mtu,
            if settings.offloads { "on" } else { "off" },
            names.join(", "),
        );
        let mut versions: Vec<_> = self.entries.iter().flat_map(|e| &e.versions).collect();
        versions.sort();
        versions.dedup();
        for version in versions {
            let _ = writeln!(text, "- {version}");
        }
        text
    }

    fn table(&self, text: &mut String, title: &str, metrics: &[&Metric]) {
        let _ = write!(text, "\n## {title}\n\n| requester – exit |");
        for metric in metrics {
            let _ = write!(text, " {} |", metric.title);
        }
        let _ = writeln!(text, "\n|---|{}", "---:|".repeat(metrics.len()));
        for entry in self.entries.iter().filter(|entry| !entry.rounds.is_empty()) {
            let _ = write!(text, "| {} |", entry.pair);
            for metric in metrics {
                match entry.samples(metric.key) {
                    Some(samples) => {
                        let _ = write!(text, " {samples:.*} |", metric.digits);
                    }
                    None => text.push_str(" – |"),
                }
            }
            text.push('\n');
        }
    }

    /// Pairs that can be compared: one implementation at both ends, and exits behind the same requester's end.
    fn groups(&self) -> Vec<(String, Vec<&Entry>)> {
        let tunnels = || self.entries.iter().filter(|entry| !entry.pair.is_bare());
        let mut groups = vec![(
            "One implementation at both ends".to_owned(),
            tunnels()
                .filter(|entry| entry.pair.client == entry.pair.exit)
                .collect::<Vec<_>>(),
        )];
        let mut clients: Vec<_> = tunnels().map(|entry| &entry.pair.client).collect();
        clients.sort();
        clients.dedup();
        for client in clients {
            groups.push((
                format!("Exits behind {client}"),
                tunnels()
                    .filter(|entry| &entry.pair.client == client)
                    .collect(),
            ));
        }
        for (_, members) in &mut groups {
            members.retain(|entry| !entry.rounds.is_empty());
        }
        groups.retain(|(_, members)| members.len() > 1);
        groups
    }

    fn troubles(&self, text: &mut String) {
        let failed: Vec<_> = self
            .entries
            .iter()
            .flat_map(|entry| entry.failures.iter().map(move |why| (&entry.pair, why)))
            .collect();
        if failed.is_empty() && self.left_out.is_empty() {
            return;
        }
        text.push_str("\n## Not measured\n\n");
        for (pair, why) in &self.left_out {
            let _ = writeln!(text, "- {pair}: {why}");
        }
        for (pair, why) in failed {
            let _ = writeln!(text, "- {pair}, one round: {why}");
        }
    }

    /// Every figure of every round.
    pub fn json(&self) -> Value {
        let (machine, settings) = (&self.machine, &self.settings);
        let pairs: Vec<_> = self.entries.iter().map(|entry| {
            let medians: serde_json::Map<_, _> = entry
                .rounds
                .iter()
                .flat_map(|figures| figures.keys())
                .filter_map(|key| {
                    let samples = entry.samples(key)?;
                    let figure = json!({
                        "median": samples.median(), "least": samples.least(), "most": samples.most(),
                        "steady": samples.is_steady(),
                    });
                    Some((key.clone(), figure))
                })
                .collect();
            json!({
                "client": entry.pair.client, "exit": entry.pair.exit, "versions": entry.versions,
                "figures": medians, "rounds": entry.rounds, "failures": entry.failures,
            })
        }).collect();
        json!({
            "machine": {
                "processor": machine.processor, "processors": machine.processors, "memory_mib": machine.memory_mib,
                "kernel": machine.kernel, "virtual": machine.is_virtual, "load_at_start": machine.load,
            },
            "settings": {
                "rounds": settings.rounds, "tcp_seconds": settings.seconds.as_secs(),
                "udp_seconds": settings.udp_seconds.as_secs(), "mtu": settings.mtu, "offloads": settings.offloads,
                "measured": settings.what.iter().map(|what| what.name()).collect::<Vec<_>>(),
            },
            "pairs": pairs,
            "left_out": self.left_out.iter()
                .map(|(pair, why)| json!({"client": pair.client, "exit": pair.exit, "reason": why}))
                .collect::<Vec<_>>(),
        })
    }
}

/// Who is ahead in one figure, or why that cannot be said; none with fewer than two to compare.
fn verdict(metric: &Metric, members: &[&Entry]) -> Option<String> {
    let mut ranked: Vec<(String, Samples)> = members
        .iter()
        .filter_map(|entry| Some((entry.pair.to_string(), entry.samples(metric.key)?)))
        .collect();
    ranked.sort_by(|(_, a), (_, b)| {
        let order = a.median().total_cmp(&b.median());
        if metric.more_is_better {
            order.reverse()
        } else {
            order
        }
    });
    let [(first, best), (second, next), ..] = ranked.as_slice() else {
        return None;
    };
    let unsteady: Vec<_> = [(first, best), (second, next)]
        .into_iter()
        .filter(|(_, samples)| !samples.is_steady())
        .map(|(name, samples)| format!("{name} scatters by {:.0} %", samples.scatter() * 100.0))
        .collect();
    if !unsteady.is_empty() {
        let limit = SCATTER_LIMIT * 100.0;
        return Some(format!(
            "no winner, {} (more than {limit:.0} %)",
            unsteady.join(" and ")
        ));
    }
    if best.least() <= next.most() && next.least() <= best.most() {
        return Some(format!("no winner, {first} and {second} overlap"));
    }
    let times = if metric.more_is_better {
        best.median() / next.median()
    } else {
        next.median() / best.median()
    };
    Some(format!("**{first}**, {times:.2} × better than {second}"))
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
