//! Repeated measurements of one figure.

use std::fmt;

/// Largest scatter, as a part of the median, at which two figures can still be ranked.
pub const SCATTER_LIMIT: f64 = 0.15;

/// What one figure was each time it was measured. Never empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Takes measurements in any order; `None` if there are none, or one is not a number.
    pub fn new(mut values: Vec<f64>) -> Option<Self> {
        if values.is_empty() || values.iter().any(|value| value.is_nan()) {
            return None;
        }
        values.sort_by(f64::total_cmp);
        Some(Self(values))
    }

    /// The one in the middle, or the mean of the two there.
    pub fn median(&self) -> f64 {
        let half = self.0.len() / 2;
        if self.0.len().is_multiple_of(2) {
            (self.0[half - 1] + self.0[half]) / 2.0
        } else {
            self.0[half]
        }
    }

    /// The least.
    pub fn least(&self) -> f64 {
        self.0[0]
    }

    /// The most.
    pub fn most(&self) -> f64 {
        self.0[self.0.len() - 1]
    }

    /// The value that this part of all, from 0 to 1, does not exceed.
    pub fn at(&self, part: f64) -> f64 {
        let rank = (self.0.len() as f64 * part).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }

    /// How far the least and the most lie apart, as a part of the median.
    pub fn scatter(&self) -> f64 {
        (self.most() - self.least()) / self.median()
    }

    /// Whether a winner can be named by these measurements.
    pub fn is_steady(&self) -> bool {
        self.scatter() <= SCATTER_LIMIT
    }
}

/// `median (least–most)`, with as many digits as asked for.
impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(0);
        write!(
            f,
            "{:.digits$} ({:.digits$}–{:.digits$})",
            self.median(),
            self.least(),
            self.most()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_ends() {
        let odd = Samples::new(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.least(), odd.median(), odd.most()), (1.0, 2.0, 3.0));
        assert_eq!(
            Samples::new(vec![4.0, 1.0, 2.0, 3.0]).unwrap().median(),
            2.5
        );
        assert_eq!(format!("{odd:.1}"), "2.0 (1.0–3.0)");
    }

    #[test]
    fn parts_of_all() {
        let hundred = Samples::new((1..=100).map(f64::from).collect()).unwrap();
        assert_eq!((hundred.at(0.5), hundred.at(0.99)), (50.0, 99.0));
        assert_eq!((hundred.at(0.0), hundred.at(1.0)), (1.0, 100.0));
        assert_eq!(Samples::new(vec![7.0]).unwrap().at(0.99), 7.0);
    }

    #[test]
    fn only_close_figures_are_ranked() {
        assert!(Samples::new(vec![100.0, 107.0, 93.0]).unwrap().is_steady());
        assert!(!Samples::new(vec![100.0, 108.0, 92.0]).unwrap().is_steady());
    }

    #[test]
    fn nothing_is_no_measurement() {
        assert_eq!(Samples::new(Vec::new()), None);
        assert_eq!(Samples::new(vec![f64::NAN]), None);
    }
}
