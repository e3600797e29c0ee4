//! Points of the earth and the distance between them, in integers.
//!
//! The earth is taken for a sphere of 6,371,009 m (the mean radius), which is within 0.6 % of the distance on the
//! ellipsoid of WGS 84. What the integers add to that is below 1 m: points are vectors of length 2^30, and two points are
//! compared by the straight line between them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Mean radius of the earth in metres.
const EARTH_METRES: i128 = 6_371_009;
/// Half of the earth's circumference, in km and rounded up: no two points are further apart.
pub const FURTHEST_KM: u32 = 20_016;
/// 180 degrees in microdegrees.
const HALF_TURN: i128 = 180_000_000;
/// 2^60 times pi.
const PI: i128 = 3_622_009_729_038_561_421;
const ONE: i128 = 1 << 60;

/// A point of the earth, in millionths of a degree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Point {
    /// North is positive; from -90,000,000 to 90,000,000.
    #[cfg_attr(feature = "openapi", schema(minimum = -90000000, maximum = 90000000))]
    pub latitude: i32,
    /// East is positive; from -180,000,000 to 180,000,000.
    #[cfg_attr(feature = "openapi", schema(minimum = -180000000, maximum = 180000000))]
    pub longitude: i32,
}

impl Point {
    /// Whether there is such a point.
    pub fn is_valid(&self) -> bool {
        self.latitude.unsigned_abs() <= 90_000_000 && self.longitude.unsigned_abs() <= 180_000_000
    }

    /// A point from decimal degrees, such as `48.8566` and `2.3522`, with six places at most.
    pub fn from_degrees(latitude: &str, longitude: &str) -> Option<Self> {
        let point = Self {
            latitude: microdegrees(latitude)?,
            longitude: microdegrees(longitude)?,
        };
        point.is_valid().then_some(point)
    }

    /// The degrees of latitude and longitude that the point lies in, as whole numbers.
    pub(crate) fn cell(&self) -> (i16, i16) {
        let degree = |microdegrees: i32| microdegrees.div_euclid(1_000_000) as i16;
        (degree(self.latitude), degree(self.longitude))
    }
}

/// A point as a vector of length 2^30 from the middle of the earth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Direction([i32; 3]);

impl From<Point> for Direction {
    fn from(point: Point) -> Self {
        let (north, out) = sine_and_cosine(angle(point.latitude));
        let (y, x) = sine_and_cosine(angle(point.longitude));
        // 2^30 itself does not occur with its sign lost: i32 holds it.
        let scaled = |value: i128| (value >> 30) as i32;
        Self([
            scaled((x * out) >> 60),
            scaled((y * out) >> 60),
            scaled(north),
        ])
    }
}

impl Direction {
    /// The square of the straight line to another one, in units of 2^-60.
    fn gap(&self, other: &Self) -> i64 {
        let squares = self.0.iter().zip(other.0).map(|(a, b)| {
            let difference = i64::from(*a) - i64::from(b);
            difference * difference
        });
        squares.sum()
    }
}

/// Everything within a distance of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Circle {
    /// The middle.
    pub center: Point,
    /// The distance, in kilometres.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 20016))]
    pub km: u32,
}

/// The text is no circle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no circle; write latitude, longitude and kilometres, such as 48.8566,2.3522,50")]
pub struct NoCircle(String);

impl FromStr for Circle {
    type Err = NoCircle;

    fn from_str(text: &str) -> Result<Self, NoCircle> {
        let parsed = || {
            let mut parts = text.split(',').map(str::trim);
            let center = Point::from_degrees(parts.next()?, parts.next()?)?;
            let km = parts.next()?.parse().ok()?;
            let fits = parts.next().is_none() && (1..=FURTHEST_KM).contains(&km);
            fits.then_some(Self { center, km })
        };
        parsed().ok_or_else(|| NoCircle(text.chars().take(60).collect()))
    }
}

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (latitude, longitude) = (self.center.latitude, self.center.longitude);
        write!(
            f,
            "{},{},{}",
            degrees(latitude),
            degrees(longitude),
            self.km
        )
    }
}

fn microdegrees(text: &str) -> Option<i32> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse::<i32>().ok()).flatten()
    };
    if part.len() > 6 || (part.is_empty() && digits.contains('.')) {
        return None;
    }
    let whole = number(whole)?.checked_mul(1_000_000)?;
    Some(sign * whole.checked_add(number(&format!("{part:0<6}"))?)?)
}

fn degrees(microdegrees: i32) -> String {
    let sign = if microdegrees < 0 { "-" } else { "" };
    let size = microdegrees.unsigned_abs();
    let text = format!("{sign}{}.{:06}", size / 1_000_000, size % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').into()
}

/// A circle, prepared for many points.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    center: Direction,
    widest_gap: i64,
}

impl From<Circle> for Reach {
    fn from(circle: Circle) -> Self {
        let center = circle.center.into();
        // Half the angle at the middle of the earth.
        let half = i128::from(circle.km) * 1_000 * ONE / (2 * EARTH_METRES);
        if half >= PI / 2 {
            let widest_gap = i64::MAX;
            return Self { center, widest_gap };
        }
        let (sine, _) = sine_and_cosine(half);
        let line = sine >> 29;
        let widest_gap = (line * line) as i64;
        Self { center, widest_gap }
    }
}

impl Reach {
    pub(crate) fn holds(&self, point: &Direction) -> bool {
        self.center.gap(point) <= self.widest_gap
    }
}

/// The widest area, in degrees, that [`cells`] names.
const MOST_CELLS: i32 = 512;

/// Every cell of one degree that a circle may touch, some others with them; nothing for a circle with very many.
pub(crate) fn cells(circle: &Circle) -> Option<Vec<(i16, i16)>> {
    // A degree of latitude is 111.19 km.
    let up = i32::try_from(circle.km / 111).ok()? + 1;
    let (latitude, longitude) = circle.center.cell();
    let (south, north) = (i32::from(latitude) - up, i32::from(latitude) + up);
    let furthest = south.unsigned_abs().max(north.unsigned_abs() + 1);
    if furthest >= 89 {
        return None;
    }
    let (_, narrow) = sine_and_cosine(angle(furthest as i32 * 1_000_000));
    let aside = i32::try_from((i128::from(up) * ONE) / narrow).ok()? + 1;
    if aside >= 180 || (2 * up + 1) * (2 * aside + 1) > MOST_CELLS {
        return None;
    }
    let around = |degree: i32| (degree + 180).rem_euclid(360) - 180;
    let mut found = Vec::new();
    for latitude in south..=north {
        for offset in -aside..=aside {
            let longitude = around(i32::from(longitude) + offset);
            found.push((latitude as i16, longitude as i16));
            if longitude == -180 {
                // The same line, as the database may write it.
                found.push((latitude as i16, 180));
            }
        }
    }
    Some(found)
}

/// Microdegrees as an angle in units of 2^-60.
fn angle(microdegrees: i32) -> i128 {
    i128::from(microdegrees) * PI / HALF_TURN
}

/// Sine and cosine of an angle between -pi and pi, all in units of 2^-60, by Taylor's series.
fn sine_and_cosine(angle: i128) -> (i128, i128) {
    // Beyond a quarter turn the series would need more terms: mirrored there, and back.
    let mirrored = angle.abs() > PI / 2;
    let x = match (mirrored, angle >= 0) {
        (false, _) => angle,
        (true, true) => PI - angle,
        (true, false) => -PI - angle,
    };
    let square = (x * x) >> 60;
    let (mut sine, mut cosine) = (0, 0);
    let (mut odd, mut even) = (x, ONE);
    // The term after the last is below 2^-60.
    for n in 0..12 {
        sine += odd;
        cosine += even;
        even = -((even * square) >> 60) / ((2 * n + 1) * (2 * n + 2));
        odd = -((odd * square) >> 60) / ((2 * n + 2) * (2 * n + 3));
    }
    (sine, if mirrored { -cosine } else { cosine })
}

#[cfg(test)]
#[path = "geo_tests.rs"]
mod tests;
