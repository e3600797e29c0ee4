//! The search for the highest rate that still passes.

use super::Failure;

/// Slowest rate that is tried, Mbit/s.
const LOWEST: f64 = 50.0;
/// One rate to the next: the resolution of what is found.
const FACTOR: f64 = 1.05;
/// Number of rates; the highest is about 6,200 Mbit/s.
pub(super) const RUNGS: usize = 100;

/// A rate by its number, Mbit/s.
pub(super) fn rate(rung: usize) -> f64 {
    LOWEST * FACTOR.powi(rung.min(RUNGS) as i32)
}

/// What a try at one rate showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Passes,
    Fails,
    /// It passed, but the sender itself went no faster: higher rates say nothing more.
    SenderLimited,
}

/// The highest rung that passes, or none, starting the search at `start`: longer and longer steps until one rung that
/// passes and one that fails are known, then by halves.
pub(super) fn highest(
    start: usize,
    mut attempt: impl FnMut(usize) -> Result<Verdict, Failure>,
) -> Result<Option<usize>, Failure> {
    let (mut passes, mut fails) = (None, RUNGS);
    let (mut next, mut step) = (start.min(RUNGS - 1), 2);
    loop {
        match attempt(next)? {
            Verdict::SenderLimited => return Ok(Some(next)),
            Verdict::Passes => passes = Some(next),
            Verdict::Fails => fails = next,
        }
        let bottom = passes.map_or(0, |rung| rung + 1);
        if bottom >= fails {
            return Ok(passes);
        }
        next = match (passes, fails) {
            (Some(rung), RUNGS) => (rung + step).min(RUNGS - 1),
            (None, rung) => rung.saturating_sub(step),
            (Some(_), rung) => (bottom + rung) / 2,
        };
        step *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_rung_from_every_start_in_few_attempts() {
        for limit in 0..=RUNGS {
            for start in 0..RUNGS {
                let mut attempts = 0;
                let found = highest(start, |rung| {
                    attempts += 1;
                    Ok(if rung < limit {
                        Verdict::Passes
                    } else {
                        Verdict::Fails
                    })
                });
                assert_eq!(found.unwrap(), limit.checked_sub(1), "from {start}");
                assert!(
                    attempts <= 14,
                    "{attempts} attempts from {start} to {limit}"
                );
            }
        }
    }

    #[test]
    fn a_sender_at_its_limit_ends_the_search() {
        let found = highest(10, |rung| {
            Ok(if rung < 20 {
                Verdict::Passes
            } else {
                Verdict::SenderLimited
            })
        });
        assert!(found.unwrap().unwrap() >= 20);
    }

    #[test]
    fn the_rates_span_what_machines_do() {
        assert!(rate(0) <= 50.0);
        assert!(rate(RUNGS - 1) > 6000.0);
    }
}
