use super::*;

// Tests for timeouts.

#[test]
fn test_listen_timeout() {
    let mut s = socket_listen();
    s.set_timeout(Some(Duration::from_millis(100)));
    assert_eq!(s.socket.poll_at(&s.cx), PollAt::Ingress);
}

#[test]
fn test_connect_timeout() {
    let mut s = socket();
    s.local_seq_no = LOCAL_SEQ;
    s.socket
        .connect(&mut s.cx, REMOTE_END, LOCAL_END.port)
        .unwrap();
    s.set_timeout(Some(Duration::from_millis(100)));
    recv!(s, time 150, Ok(TcpRepr {
        control:    TcpControl::Syn,
        seq_number: LOCAL_SEQ,
        ack_number: None,
        max_seg_size: Some(BASE_MSS),
        window_scale: Some(0),
        sack_permitted: true,
        ..RECV_TEMPL
    }));
    assert_eq!(s.state, State::SynSent);
    assert_eq!(
        s.socket.poll_at(&s.cx),
        PollAt::Time(Instant::from_millis(250))
    );
    recv!(s, time 250, Ok(TcpRepr {
        control:    TcpControl::Rst,
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(TcpSeqNumber(0)),
        window_scale: None,
        ..RECV_TEMPL
    }));
    assert_eq!(s.state, State::Closed);
}

#[test]
fn test_established_timeout() {
    let mut s = socket_established();
    s.set_timeout(Some(Duration::from_millis(2000)));
    recv_nothing!(s, time 250);
    assert_eq!(
        s.socket.poll_at(&s.cx),
        PollAt::Time(Instant::from_millis(2250))
    );
    s.send_slice(b"abcdef").unwrap();
    assert_eq!(s.socket.poll_at(&s.cx), PollAt::Now);
    recv!(s, time 255, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abcdef"[..],
        ..RECV_TEMPL
    }));
    assert_eq!(
        s.socket.poll_at(&s.cx),
        PollAt::Time(Instant::from_millis(1255))
    );
    recv!(s, time 1255, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abcdef"[..],
        ..RECV_TEMPL
    }));
    assert_eq!(
        s.socket.poll_at(&s.cx),
        PollAt::Time(Instant::from_millis(2255))
    );
    recv!(s, time 2255, Ok(TcpRepr {
        control:    TcpControl::Rst,
        seq_number: LOCAL_SEQ + 1 + 6,
        ack_number: Some(REMOTE_SEQ + 1),
        ..RECV_TEMPL
    }));
    assert_eq!(s.state, State::Closed);
}

#[test]
fn test_fin_wait_1_timeout() {
    let mut s = socket_fin_wait_1();
    s.set_timeout(Some(Duration::from_millis(1000)));
    recv!(s, time 100, Ok(TcpRepr {
        control:    TcpControl::Fin,
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        ..RECV_TEMPL
    }));
    recv!(s, time 1100, Ok(TcpRepr {
        control:    TcpControl::Rst,
        seq_number: LOCAL_SEQ + 1 + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        ..RECV_TEMPL
    }));
    assert_eq!(s.state, State::Closed);
}

#[test]
fn test_last_ack_timeout() {
    let mut s = socket_last_ack();
    s.set_timeout(Some(Duration::from_millis(1000)));
    recv!(s, time 100, Ok(TcpRepr {
        control:    TcpControl::Fin,
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1 + 1),
        ..RECV_TEMPL
    }));
    recv!(s, time 1100, Ok(TcpRepr {
        control:    TcpControl::Rst,
        seq_number: LOCAL_SEQ + 1 + 1,
        ack_number: Some(REMOTE_SEQ + 1 + 1),
        ..RECV_TEMPL
    }));
    assert_eq!(s.state, State::Closed);
}

#[test]
fn test_closed_timeout() {
    let mut s = socket_established();
    s.set_timeout(Some(Duration::from_millis(200)));
    s.remote_last_ts = Some(Instant::from_millis(100));
    s.abort();
    assert_eq!(s.socket.poll_at(&s.cx), PollAt::Now);
    recv!(s, time 100, Ok(TcpRepr {
        control:    TcpControl::Rst,
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        ..RECV_TEMPL
    }));
    assert_eq!(s.socket.poll_at(&s.cx), PollAt::Ingress);
}

// Tests for keep-alive.

#[test]
fn test_responds_to_keep_alive() {
    let mut s = socket_established();
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        },
        Some(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            ..RECV_TEMPL
        })
    );
}
