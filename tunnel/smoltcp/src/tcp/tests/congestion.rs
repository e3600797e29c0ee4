use super::*;

#[test]
fn test_congestion_window_limits_data_in_flight() {
    let mut s = socket_established_with_buffer_sizes(8192, 64);
    s.remote_win_len = 65535;
    s.remote_mss = 1024;

    let data = [b'x'; 8192];
    s.send_slice(&data[..]).unwrap();

    // The initial congestion window is 2048 bytes: only two
    // 1024-byte segments may be in flight, the rest must wait for ACKs.
    recv!(s, time 0, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload: &data[..1024],
        ..RECV_TEMPL
    }));
    recv!(s, time 0, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + 1024,
        ack_number: Some(REMOTE_SEQ + 1),
        payload: &data[..1024],
        ..RECV_TEMPL
    }));
    recv_nothing!(s, time 0);

    // ACKing one segment frees congestion window space and grows
    // cwnd (slow start), allowing further segments out.
    send!(s, time 10, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1 + 1024),
        window_len: 65535,
        ..SEND_TEMPL
    });
    recv!(s, time 10, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + 2048,
        ack_number: Some(REMOTE_SEQ + 1),
        payload: &data[..1024],
        ..RECV_TEMPL
    }));
}

#[test]
fn test_congestion_window_doesnt_limit_fast_retransmit() {
    let mut s = socket_established_with_buffer_sizes(8192, 64);
    s.remote_win_len = 65535;
    s.remote_mss = 1024;

    // Normal ACK of previously received segment
    send!(s, time 0, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        window_len: 65535,
        ..SEND_TEMPL
    });

    let data = [b'x'; 8192];
    s.send_slice(&data[..]).unwrap();

    // The initial congestion window is 2048 bytes, allowing 2 segments
    recv!(s, time 0, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload: &data[..1024],
        ..RECV_TEMPL
    }));

    recv!(s, time 0, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + 1024,
        ack_number: Some(REMOTE_SEQ + 1),
        payload: &data[..1024],
        ..RECV_TEMPL
    }));
    recv_nothing!(s, time 0);

    // Send three duplicate ACKS, treating the first segment as lost
    send!(s, time 10, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        window_len: 65535,
        ..SEND_TEMPL
    });
    send!(s, time 10, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        window_len: 65535,
        ..SEND_TEMPL
    });
    send!(s, time 10, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        window_len: 65535,
        ..SEND_TEMPL
    });

    // A fast retransmit should be sent and not be blocked by congestion control
    recv!(s, time 20, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload: &data[..1024],
        ..RECV_TEMPL
    }));
}

#[test]
fn test_zero_window_probe_not_capped_by_cwnd() {
    let mut s = socket_established_with_buffer_sizes(8192, 64);
    s.remote_win_len = 65535;
    s.remote_mss = 1024;

    let data = [b'x'; 4096];
    s.send_slice(&data[..]).unwrap();

    // The initial cwnd is 2048: two segments fill the congestion window
    // exactly, leaving cwnd_remaining() == 0.
    recv!(s, time 0, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload: &data[..1024],
        ..RECV_TEMPL
    }));
    recv!(s, time 0, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + 1024,
        ack_number: Some(REMOTE_SEQ + 1),
        payload: &data[..1024],
        ..RECV_TEMPL
    }));
    recv_nothing!(s, time 0);

    // The remote closes its window without acknowledging anything new, so
    // no congestion window space is freed either.
    send!(s, time 10, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        window_len: 0,
        ..SEND_TEMPL
    });

    // Arm the probe timer. (Set directly because the ACK above carries no
    // new data; in real traffic this state is reached e.g. when the
    // controller shrinks cwnd below the flight size while probing.)
    s.timer
        .set_for_zero_window_probe(Instant::from_millis(10), Duration::from_millis(100));

    // The probe must carry 1 byte of data past the window edge even though
    // the congestion window is exhausted: an empty probe occupies no
    // sequence space and elicits no reply, so the connection would stall
    // if the remote's window update got lost.
    recv!(s, time 110, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + 2048,
        ack_number: Some(REMOTE_SEQ + 1),
        payload: &data[..1],
        ..RECV_TEMPL
    }));
}
