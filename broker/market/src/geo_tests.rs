#![allow(clippy::unwrap_used, clippy::float_arithmetic)]
use proptest::prelude::*;

use super::*;

fn point(latitude: i32, longitude: i32) -> Point {
    Point {
        latitude,
        longitude,
    }
}

/// Kilometres by the haversine formula in floating point.
fn haversine(a: Point, b: Point) -> f64 {
    let rad = |microdegrees: i32| (f64::from(microdegrees) / 1e6).to_radians();
    let (up, aside) = (
        rad(b.latitude) - rad(a.latitude),
        rad(b.longitude) - rad(a.longitude),
    );
    let h = (up / 2.0).sin().powi(2)
        + rad(a.latitude).cos() * rad(b.latitude).cos() * (aside / 2.0).sin().powi(2);
    2.0 * 6371.009 * h.sqrt().min(1.0).asin()
}

fn anywhere() -> impl Strategy<Value = Point> {
    (-90_000_000i32..=90_000_000, -180_000_000i32..=180_000_000).prop_map(|(a, b)| point(a, b))
}

/// Another point, often a near one.
fn pair() -> impl Strategy<Value = (Point, Point)> {
    let near = (
        anywhere(),
        -2_000_000i32..2_000_000,
        -2_000_000i32..2_000_000,
    )
        .prop_map(|(p, up, aside)| {
            let latitude = (p.latitude + up).clamp(-90_000_000, 90_000_000);
            let longitude = (p.longitude + aside).clamp(-180_000_000, 180_000_000);
            (p, point(latitude, longitude))
        });
    prop_oneof![(anywhere(), anywhere()), near]
}

proptest! {
    #[test]
    fn the_distance_is_right_to_a_metre((a, b) in pair(), km in 1u32..FURTHEST_KM) {
        let exact = haversine(a, b);
        // Near the far side of the earth the formula itself is off by more.
        prop_assume!((exact - f64::from(km)).abs() > 0.001 && exact < 19_900.0);
        let circle = Circle { center: a, km };
        let holds = Reach::from(circle).holds(&b.into());
        prop_assert_eq!(holds, exact < f64::from(km), "{} km", exact);
    }

    #[test]
    fn the_cells_of_a_circle_hold_all_of_it((a, b) in pair(), km in 1u32..1_500) {
        let circle = Circle { center: a, km };
        if Reach::from(circle).holds(&b.into())
            && let Some(cells) = cells(&circle)
        {
            prop_assert!(cells.contains(&b.cell()), "{:?} {:?}", b.cell(), cells);
        }
    }

    #[test]
    fn a_circle_reads_back_what_it_wrote(center in anywhere(), km in 1u32..=FURTHEST_KM) {
        let circle = Circle { center, km };
        prop_assert_eq!(circle.to_string().parse::<Circle>(), Ok(circle));
    }
}

#[test]
fn near_distances_are_told_apart() {
    let paris = point(48_856_600, 2_352_200);
    // A ten-thousandth of a degree of latitude is 11.1 m: one step to each side of a kilometre.
    let reach = Reach::from(Circle {
        center: paris,
        km: 1,
    });
    assert!(reach.holds(&point(48_856_600 + 8_992, 2_352_200).into()));
    assert!(!reach.holds(&point(48_856_600 + 8_994, 2_352_200).into()));
    let all = Reach::from(Circle {
        center: paris,
        km: FURTHEST_KM,
    });
    assert!(all.holds(&point(-48_856_600, -177_647_800).into()));
}

#[test]
fn what_is_no_circle_is_refused() {
    for text in [
        "",
        "1,2",
        "1,2,0",
        "91,0,5",
        "0,181,5",
        "1.1234567,0,5",
        "1.,0,5",
        "1,2,3,4",
        "--1,2,3",
        "1,2,20017",
    ] {
        assert!(text.parse::<Circle>().is_err(), "{text}");
    }
    assert_eq!(
        "-0.5, 2,7".parse::<Circle>().unwrap().to_string(),
        "-0.5,2,7"
    );
}
