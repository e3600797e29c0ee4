use super::*;

#[test]
fn test_zero_window_probe_enter_on_win_update() {
    let mut s = socket_established();

    assert!(!s.timer.is_zero_window_probe());

    s.send_slice(b"abcdef123456!@#$%^").unwrap();

    assert!(!s.timer.is_zero_window_probe());

    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            window_len: 0,
            ..SEND_TEMPL
        }
    );

    assert!(s.timer.is_zero_window_probe());
}

#[test]
fn test_zero_window_probe_enter_on_send() {
    let mut s = socket_established();

    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            window_len: 0,
            ..SEND_TEMPL
        }
    );

    assert!(!s.timer.is_zero_window_probe());

    s.send_slice(b"abcdef123456!@#$%^").unwrap();

    assert!(s.timer.is_zero_window_probe());
}

#[test]
fn test_zero_window_probe_exit() {
    let mut s = socket_established();

    s.send_slice(b"abcdef123456!@#$%^").unwrap();

    assert!(!s.timer.is_zero_window_probe());

    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            window_len: 0,
            ..SEND_TEMPL
        }
    );

    assert!(s.timer.is_zero_window_probe());

    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            window_len: 6,
            ..SEND_TEMPL
        }
    );

    assert!(!s.timer.is_zero_window_probe());
}

#[test]
fn test_zero_window_probe_exit_ack() {
    let mut s = socket_established();

    s.send_slice(b"abcdef123456!@#$%^").unwrap();
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            window_len: 0,
            ..SEND_TEMPL
        }
    );

    recv!(
        s,
        time 1000,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            payload: &b"a"[..],
            ..RECV_TEMPL
        }]
    );

    send!(
        s,
        time 1010,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 2),
            window_len: 6,
            ..SEND_TEMPL
        }
    );

    recv!(
        s,
        time 1010,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 2,
            ack_number: Some(REMOTE_SEQ + 1),
            payload: &b"bcdef1"[..],
            ..RECV_TEMPL
        }]
    );
}

#[test]
fn test_zero_window_probe_backoff_nack_reply() {
    let mut s = socket_established();
    s.send_slice(b"abcdef123456!@#$%^").unwrap();
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            window_len: 0,
            ..SEND_TEMPL
        }
    );

    recv_nothing!(s, time 999);
    recv!(
        s,
        time 1000,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            payload: &b"a"[..],
            ..RECV_TEMPL
        }]
    );
    send!(
        s,
        time 1100,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            window_len: 0,
            ..SEND_TEMPL
        }
    );

    recv_nothing!(s, time 2999);
    recv!(
        s,
        time 3000,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            payload: &b"a"[..],
            ..RECV_TEMPL
        }]
    );
    send!(
        s,
        time 3100,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            window_len: 0,
            ..SEND_TEMPL
        }
    );

    recv_nothing!(s, time 6999);
    recv!(
        s,
        time 7000,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            payload: &b"a"[..],
            ..RECV_TEMPL
        }]
    );
}

#[test]
fn test_zero_window_probe_backoff_no_reply() {
    let mut s = socket_established();
    s.send_slice(b"abcdef123456!@#$%^").unwrap();
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            window_len: 0,
            ..SEND_TEMPL
        }
    );

    recv_nothing!(s, time 999);
    recv!(
        s,
        time 1000,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            payload: &b"a"[..],
            ..RECV_TEMPL
        }]
    );

    recv_nothing!(s, time 2999);
    recv!(
        s,
        time 3000,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            payload: &b"a"[..],
            ..RECV_TEMPL
        }]
    );
}

#[test]
fn test_zero_window_probe_shift() {
    let mut s = socket_established();

    s.send_slice(b"abcdef123456!@#$%^").unwrap();
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            window_len: 0,
            ..SEND_TEMPL
        }
    );

    recv_nothing!(s, time 999);
    recv!(
        s,
        time 1000,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            payload: &b"a"[..],
            ..RECV_TEMPL
        }]
    );

    recv_nothing!(s, time 2999);
    recv!(
        s,
        time 3000,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            payload: &b"a"[..],
            ..RECV_TEMPL
        }]
    );

    // ack the ZWP byte, but still advertise zero window.
    // this should restart the ZWP timer.
    send!(
        s,
        time 3100,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 2),
            window_len: 0,
            ..SEND_TEMPL
        }
    );

    // ZWP should be sent at 3100+1000 = 4100
    recv_nothing!(s, time 4099);
    recv!(
        s,
        time 4100,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 2,
            ack_number: Some(REMOTE_SEQ + 1),
            payload: &b"b"[..],
            ..RECV_TEMPL
        }]
    );
}
