use std::time::Duration;

use super::*;

const RATE: Metric = TABLES[0].1[0];
const COST: Metric = TABLES[1].1[0];

fn entry(pair: &str, key: &str, values: &[f64]) -> Entry {
    let mut entry = Entry::new(&Catalogue::new(&[]), &pair.parse().unwrap());
    for &value in values {
        entry.succeeded(Figures::from([(key.to_owned(), value)]), Vec::new());
    }
    entry
}

fn judged(metric: &Metric, one: &[f64], other: &[f64]) -> String {
    let entries = [
        entry("one", metric.key, one),
        entry("other", metric.key, other),
    ];
    verdict(metric, &entries.iter().collect::<Vec<_>>()).unwrap()
}

#[test]
fn a_winner_has_steady_runs_apart_from_the_next() {
    let steady = judged(&RATE, &[200.0, 201.0, 199.0], &[100.0, 101.0, 99.0]);
    assert_eq!(steady, "**one – one**, 2.00 × better than other – other");
    let cheaper = judged(&COST, &[2.0, 2.0], &[1.0, 1.0]);
    assert_eq!(cheaper, "**other – other**, 2.00 × better than one – one");
}

#[test]
fn scattered_and_overlapping_runs_have_no_winner() {
    let scattered = judged(&RATE, &[200.0, 240.0, 190.0], &[100.0, 101.0]);
    assert!(
        scattered.starts_with("no winner, one – one scatters by 25 %"),
        "{scattered}"
    );
    let scattered = judged(&RATE, &[200.0, 201.0], &[100.0, 120.0]);
    assert!(
        scattered.contains("other – other scatters by 18 %"),
        "{scattered}"
    );
    let overlap = judged(&RATE, &[100.0, 102.0], &[101.0, 103.0]);
    assert_eq!(overlap, "no winner, other – other and one – one overlap");
}

#[test]
fn only_what_can_be_compared_is_ranked() {
    let mut report = Report::new(
        Machine::read(),
        Settings {
            rounds: 1,
            seconds: Duration::from_secs(3),
            udp_seconds: Duration::from_secs(1),
            mtu: 1420,
            offloads: true,
            what: vec![What::Tcp1],
            calm: Duration::ZERO,
            retries: 0,
        },
    );
    for pair in ["none", "ipsx", "wireguard-go", "wireguard-go:ipsx"] {
        report.add(entry(pair, "tcp1_up", &[1.0]));
    }
    report.leave_out(&"boringtun".parse().unwrap(), "not there".to_owned());
    let groups: Vec<_> = report
        .groups()
        .into_iter()
        .map(|(title, members)| (title, members.len()))
        .collect();
    assert_eq!(
        groups,
        [
            ("One implementation at both ends".to_owned(), 2),
            ("Exits behind wireguard-go".to_owned(), 2),
        ]
    );
    let text = report.markdown();
    assert!(text.contains("| no tunnel | 1 (1–1) |"), "{text}");
    assert!(
        text.contains("- boringtun – boringtun: not there"),
        "{text}"
    );
    assert!(
        !text.contains("UDP ↑"),
        "nothing of it was measured: {text}"
    );
    let json = report.json();
    assert_eq!(json["pairs"][1]["figures"]["tcp1_up"]["median"], 1.0);
    assert_eq!(json["left_out"][0]["reason"], "not there");
}
