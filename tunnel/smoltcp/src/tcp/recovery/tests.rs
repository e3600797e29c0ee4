use super::*;

const MSS: usize = 100;

fn seq(n: i32) -> TcpSeqNumber {
    // Across the wrap of the numbers.
    TcpSeqNumber(i32::MAX.wrapping_sub(500).wrapping_add(n))
}

fn block(from: i32, to: i32) -> Option<(u32, u32)> {
    Some((seq(from).0 as u32, seq(to).0 as u32))
}

fn acked(before: i32, una: i32, next: i32) -> Acked {
    Acked {
        before: seq(before),
        una: seq(una),
        next: seq(next),
        mss: MSS,
        sack: true,
        duplicates: u8::from(before == una),
    }
}

#[test]
fn ranges_join_and_are_forgotten() {
    let mut recovery = Recovery::new();
    for (from, to) in [(300, 400), (600, 700), (400, 500), (650, 800), (900, 950)] {
        recovery.sacked.insert(seq(from), seq(to));
    }
    assert_eq!(
        recovery.sacked.ranges(),
        [
            (seq(300), seq(500)),
            (seq(600), seq(800)),
            (seq(900), seq(950))
        ]
    );
    recovery.sacked.forget_below(seq(700));
    assert_eq!(
        recovery.sacked.ranges(),
        [(seq(700), seq(800)), (seq(900), seq(950))]
    );
    assert_eq!(recovery.sacked.bytes(), 150);
}

#[test]
fn two_segments_behind_a_hole_are_reordering_three_are_loss() {
    let mut recovery = Recovery::new();
    assert!(!recovery.on_ack(acked(0, 0, 1000), &[block(100, 200), None, None]));
    assert!(!recovery.on_ack(acked(0, 0, 1000), &[block(100, 300), None, None]));
    assert!(recovery.on_ack(acked(0, 0, 1000), &[block(100, 400), None, None]));
}

#[test]
fn every_hole_is_repaired_once_and_a_lost_repair_again() {
    let mut recovery = Recovery::new();
    let now = acked(0, 0, 2000);
    assert!(recovery.on_ack(now, &[block(1000, 1500), block(300, 600), None]));
    recovery.start_fast(now, 1400);
    assert!(!recovery.on_ack(now, &[None; 3]));
    assert_eq!(recovery.hole(seq(0)), Some((seq(0), seq(300))));
    recovery.on_send(seq(0), seq(300), seq(2000));
    assert_eq!(recovery.hole(seq(0)), Some((seq(600), seq(1000))));
    recovery.on_send(seq(600), seq(1000), seq(2000));
    assert_eq!(recovery.hole(seq(0)), None);
    // The second repair arrives, then what was sent after both, but not the first repair.
    recovery.on_send(seq(2000), seq(2500), seq(2000));
    assert!(!recovery.on_ack(acked(0, 0, 2500), &[block(300, 2200), None, None]));
    assert_eq!(recovery.hole(seq(0)), None, "may still come");
    let again = acked(0, 0, 2500);
    assert!(recovery.on_ack(again, &[block(300, 2300), None, None]));
    recovery.start_fast(again, 1000);
    assert_eq!(recovery.hole(seq(0)), Some((seq(0), seq(300))));
    assert!(!recovery.on_ack(acked(0, 2500, 2500), &[None; 3]));
    assert_eq!(recovery.hole(seq(2500)), None);
    assert!(!recovery.is_fast());
}
