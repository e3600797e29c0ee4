//! One round: everything that is measured of one pair, once.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::accounting::{Snapshot, Spent, wait_for_calm};
use super::catalogue::{Catalogue, Pair};
use super::ladder::{self, Verdict};
use super::metrics::FOREIGN;
use super::network::{Network, Shape};
use super::series::Settings;
use super::traffic::{self, Direction, Moved};
use super::{Failure, interrupt};
use crate::Samples;

/// Figures by their names.
pub(super) type Figures = BTreeMap<String, f64>;

/// Largest part of the machine that others may use during a measurement before it is made again.
const FOREIGN_LIMIT: f64 = 0.05;
/// Largest part of the datagrams that may be lost at a UDP rate that counts.
const LOSS_LIMIT: f64 = 0.005;
/// Probes of one round trip measurement, and the time between them.
const PROBES: usize = 400;
const PROBE_EVERY_MS: usize = 5;
/// How long traffic runs before and after the probes under load.
const LEAD: Duration = Duration::from_secs(1);
const GB: f64 = 1e9;

/// One group of figures that can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// One TCP connection, each way.
    Tcp1,
    /// Eight TCP connections, each way.
    Tcp8,
    /// The highest rate of 1,200-byte datagrams, each way.
    Udp,
    /// Round trips while nothing else moves.
    Idle,
    /// Round trips beside one TCP connection, each way.
    Load,
}

impl What {
    /// All groups.
    pub const ALL: [Self; 5] = [Self::Tcp1, Self::Tcp8, Self::Udp, Self::Idle, Self::Load];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp1 => "tcp1",
            Self::Tcp8 => "tcp8",
            Self::Udp => "udp",
            Self::Idle => "idle",
            Self::Load => "load",
        }
    }
}

impl FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|what| what.name() == text)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                format!("'{text}' cannot be measured; choose from {names}")
            })
    }
}

/// Where the search for the UDP rate starts, by direction: where the last round's ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hints([usize; 2]);

impl Default for Hints {
    fn default() -> Self {
        Self([ladder::RUNGS / 3; 2])
    }
}

struct Round<'a> {
    network: Network,
    settings: &'a Settings,
    figures: Figures,
    failures: Vec<String>,
    foreign: f64,
}

/// Measures a pair once: the figures, and what could not be measured and why.
pub(super) fn run(
    catalogue: &Catalogue,
    pair: &Pair,
    settings: &Settings,
    hints: &mut Hints,
) -> Result<(Figures, Vec<String>), Failure> {
    wait_for_calm(settings.calm)?;
    let shape = Shape {
        mtu: settings.mtu,
        offloads: settings.offloads,
    };
    let mut round = Round {
        network: Network::start(catalogue, pair, shape)?,
        settings,
        figures: Figures::new(),
        failures: Vec::new(),
        foreign: 0.0,
    };
    interrupt::sleep(Duration::from_millis(300))?;
    round.memory("rss_idle", "VmRSS")?;
    if settings.measures(What::Idle) {
        let probed = round.idle();
        round.note(probed)?;
    }
    for (what, flows) in [(What::Tcp1, 1), (What::Tcp8, 8)] {
        if settings.measures(what) {
            for direction in Direction::BOTH {
                let moved = round.tcp(flows, direction);
                round.note(moved)?;
            }
        }
    }
    for direction in Direction::BOTH {
        if settings.measures(What::Load) {
            let probed = round.load(direction);
            round.note(probed)?;
        }
    }
    for (direction, hint) in Direction::BOTH.into_iter().zip(&mut hints.0) {
        if settings.measures(What::Udp) {
            let moved = round.udp(direction, hint);
            round.note(moved)?;
        }
    }
    round.memory("rss_peak", "VmHWM")?;
    round.figures.insert(FOREIGN.to_owned(), round.foreign);
    Ok((round.figures, round.failures))
}

fn loaded(network: &Network, direction: Direction) -> Result<Vec<f64>, Failure> {
    let probing = Duration::from_millis((PROBES * PROBE_EVERY_MS) as u64);
    let time = LEAD + probing + LEAD;
    let load = traffic::start_tcp(network, 1, direction, time)?;
    interrupt::sleep(LEAD)?;
    let times = network.probe("probe", PROBES, PROBE_EVERY_MS)?;
    // Without its traffic this was no measurement under load.
    traffic::finish_tcp(load, time)?;
    Ok(times)
}

impl Round<'_> {
    /// Goes on after one figure that could not be taken, unless the pair or the runner is at its end.
    fn note(&mut self, outcome: Result<(), Failure>) -> Result<(), Failure> {
        match outcome {
            Err(Failure::Interrupted) => Err(Failure::Interrupted),
            Err(failure) => {
                self.failures.push(failure.to_string());
                self.network.check_running()
            }
            Ok(()) => Ok(()),
        }
    }

    fn idle(&mut self) -> Result<(), Failure> {
        let (times, _) = self.calmly(|network| network.probe("probe", PROBES, PROBE_EVERY_MS))?;
        self.round_trips("idle", &times);
        Ok(())
    }

    fn load(&mut self, direction: Direction) -> Result<(), Failure> {
        let (times, _) = self.calmly(|network| loaded(network, direction))?;
        self.round_trips(direction.name(), &times);
        Ok(())
    }

    /// Measures, again if others disturbed it, and keeps the last try.
    fn calmly<T>(
        &mut self,
        measure: impl Fn(&Network) -> Result<T, Failure>,
    ) -> Result<(T, Spent), Failure> {
        let mut retries = self.settings.retries;
        loop {
            let before = Snapshot::take()?;
            let begin = Instant::now();
            let measured = measure(&self.network)?;
            let took = begin.elapsed();
            let (client, exit) = (self.network.client_id(), self.network.exit_id());
            let spent = Snapshot::take()?.since(&before, client, exit, took);
            if spent.foreign <= FOREIGN_LIMIT || retries == 0 {
                self.foreign = self.foreign.max(spent.foreign);
                return Ok((measured, spent));
            }
            retries -= 1;
            wait_for_calm(self.settings.calm)?;
        }
    }

    fn tcp(&mut self, flows: u32, direction: Direction) -> Result<(), Failure> {
        let time = self.settings.seconds;
        let (moved, spent) = self.calmly(|network| {
            let process = traffic::start_tcp(network, flows, direction, time)?;
            traffic::finish_tcp(process, time)
        })?;
        let name = format!("tcp{flows}_{}", direction.name());
        self.cpu(&name, moved, spent);
        self.figures.insert(name, moved.rate);
        Ok(())
    }

    fn udp(&mut self, direction: Direction, hint: &mut usize) -> Result<(), Failure> {
        let time = self.settings.udp_seconds;
        let mut best: Option<(Moved, Spent)> = None;
        let found = ladder::highest(*hint, |rung| {
            let rate = ladder::rate(rung);
            // A single burst of loss on a shared machine does not end the search.
            for _ in 0..2 {
                let (moved, spent) =
                    self.calmly(|network| traffic::udp(network, rate, direction, time))?;
                if moved.loss > LOSS_LIMIT {
                    continue;
                }
                if best.is_none_or(|(best, _)| moved.rate > best.rate) {
                    best = Some((moved, spent));
                }
                let reached = moved.rate > rate * 0.9;
                return Ok(if reached {
                    Verdict::Passes
                } else {
                    Verdict::SenderLimited
                });
            }
            Ok(Verdict::Fails)
        })?;
        *hint = found.unwrap_or(0);
        let name = format!("udp_{}", direction.name());
        if let Some((moved, spent)) = best {
            self.cpu(&name, moved, spent);
        }
        let rate = best.map_or(0.0, |(moved, _)| moved.rate);
        self.figures.insert(name, rate);
        Ok(())
    }

    fn cpu(&mut self, name: &str, moved: Moved, spent: Spent) {
        // Too little was moved for a clock that counts hundredths of a second.
        if moved.bytes < 1e7 {
            return;
        }
        let per_gb = |seconds: f64| seconds / (moved.bytes / GB);
        for (who, seconds) in [
            ("exit", spent.exit),
            ("client", spent.requester),
            ("machine", Some(spent.machine)),
        ] {
            if let Some(seconds) = seconds {
                self.figures
                    .insert(format!("{who}_cpu_{name}"), per_gb(seconds));
            }
        }
    }

    fn round_trips(&mut self, name: &str, seconds: &[f64]) {
        if let Some(times) = Samples::new(seconds.iter().map(|time| time * 1e3).collect()) {
            self.figures
                .insert(format!("rtt_{name}_p50"), times.at(0.5));
            self.figures
                .insert(format!("rtt_{name}_p99"), times.at(0.99));
        }
        let lost = PROBES.saturating_sub(seconds.len());
        self.figures.insert(format!("rtt_{name}_lost"), lost as f64);
    }

    fn memory(&mut self, name: &str, line: &str) -> Result<(), Failure> {
        if let Some(exit) = self.network.exit_id() {
            let mib = Snapshot::take()?.memory(exit, line);
            self.figures.insert(name.to_owned(), mib);
        }
        Ok(())
    }
}
