//! Rounds in turns: every pair once, then every pair again, so that what else the machine does falls on all alike.

use std::time::{Duration, Instant};

use super::accounting::Machine;
use super::catalogue::{Catalogue, Pair};
use super::report::{Entry, Report};
use super::round::{self, Hints, What};
use super::{Failure, interrupt};

/// A pair that fails this often in a row is left out from then on.
const GIVE_UP: usize = 2;

/// How the series is measured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How often each pair is measured.
    pub rounds: usize,
    /// How long each TCP measurement takes.
    pub seconds: Duration,
    /// How long each UDP rate is tried.
    pub udp_seconds: Duration,
    /// MTU of the tunnels.
    pub mtu: u16,
    /// Whether the veth pairs have their offloads on.
    pub offloads: bool,
    /// What is measured.
    pub what: Vec<What>,
    /// How long to wait before each measurement for other programs to become quiet.
    pub calm: Duration,
    /// How often a disturbed measurement is made again.
    pub retries: usize,
}

impl Settings {
    pub(super) fn measures(&self, what: What) -> bool {
        self.what.contains(&what)
    }
}

/// Measures the pairs that are installed and says how it goes on. The second part is why it ended early, if it did;
/// the report holds what was measured until then.
pub fn measure(
    catalogue: &Catalogue,
    pairs: &[Pair],
    settings: &Settings,
    mut say: impl FnMut(&str),
) -> (Report, Option<Failure>) {
    let mut report = Report::new(Machine::read(), settings.clone());
    for pair in pairs {
        match catalogue.missing(pair) {
            None => report.add(Entry::new(catalogue, pair)),
            Some(reason) => {
                say(&format!("{pair} is left out: {reason}"));
                report.leave_out(pair, reason);
            }
        }
    }
    let mut hints = vec![Hints::default(); report.entries().len()];
    let begin = Instant::now();
    let all = settings.rounds * report.entries().len();
    let mut done = 0;
    for number in 0..settings.rounds {
        for step in 0..report.entries().len() {
            // Nobody is always first, or always after the same neighbour's end.
            let index = (step + number) % report.entries().len();
            if let Err(failure) = interrupt::check() {
                return (report, Some(failure));
            }
            let entry = &mut report.entries_mut()[index];
            if entry.gave_up(GIVE_UP) {
                done += 1;
                continue;
            }
            let left = begin
                .elapsed()
                .checked_div(done as u32)
                .map_or_else(String::new, |each| {
                    let left = each * (all - done) as u32;
                    format!(", about {} min left", left.as_secs().div_ceil(60))
                });
            say(&format!(
                "round {} of {}: {}{left}",
                number + 1,
                settings.rounds,
                entry.pair
            ));
            match round::run(catalogue, &entry.pair, settings, &mut hints[index]) {
                Ok((figures, failures)) => {
                    say(&entry.progress(&figures));
                    for failure in &failures {
                        say(&format!("  not measured: {failure}"));
                    }
                    entry.succeeded(figures, failures);
                }
                Err(Failure::Interrupted) => return (report, Some(Failure::Interrupted)),
                Err(failure) => {
                    say(&format!("  failed: {failure}"));
                    entry.failed(failure.to_string());
                }
            }
            done += 1;
        }
    }
    (report, None)
}
