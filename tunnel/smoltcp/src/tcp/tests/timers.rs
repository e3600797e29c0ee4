use super::*;

#[test]
fn test_timer_retransmit() {
    const RTO: Duration = Duration::from_millis(100);
    let mut r = Timer::new();
    assert!(!r.should_retransmit(Instant::from_secs(1)));
    r.set_for_retransmit(Instant::from_millis(1000), RTO);
    assert!(!r.should_retransmit(Instant::from_millis(1000)));
    assert!(!r.should_retransmit(Instant::from_millis(1050)));
    assert!(r.should_retransmit(Instant::from_millis(1101)));
    r.set_for_retransmit(Instant::from_millis(1101), RTO);
    assert!(!r.should_retransmit(Instant::from_millis(1101)));
    assert!(!r.should_retransmit(Instant::from_millis(1150)));
    assert!(!r.should_retransmit(Instant::from_millis(1200)));
    assert!(r.should_retransmit(Instant::from_millis(1301)));
    r.set_for_idle();
    assert!(!r.should_retransmit(Instant::from_millis(1350)));
}

#[test]
fn test_rtt_estimator() {
    let mut r = RttEstimator::default();

    let rtos = &[
        6000, 5000, 4252, 3692, 3272, 2956, 2720, 2540, 2408, 2308, 2232, 2200, 2200, 2200, 2200,
        2200, 2200, 2200, 2200, 2200, 2200, 2200, 2200, 2200,
    ];

    for &rto in rtos {
        r.sample(2000);
        assert_eq!(r.retransmission_timeout(), Duration::from_millis(rto));
    }
}
