use super::*;

#[test]
fn test_nagle() {
    let mut s = socket_established();
    s.remote_mss = 6;

    s.send_slice(b"abcdef").unwrap();
    recv!(
        s,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            payload: &b"abcdef"[..],
            ..RECV_TEMPL
        }]
    );

    // If there's data in flight, full segments get sent.
    s.send_slice(b"foobar").unwrap();
    recv!(
        s,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1 + 6,
            ack_number: Some(REMOTE_SEQ + 1),
            payload: &b"foobar"[..],
            ..RECV_TEMPL
        }]
    );

    s.send_slice(b"aaabbbccc").unwrap();
    // If there's data in flight, not-full segments don't get sent.
    recv!(
        s,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1 + 6 + 6,
            ack_number: Some(REMOTE_SEQ + 1),
            payload: &b"aaabbb"[..],
            ..RECV_TEMPL
        }]
    );

    // Data gets ACKd, so there's no longer data in flight
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1 + 6 + 6 + 6),
            ..SEND_TEMPL
        }
    );

    // Now non-full segment gets sent.
    recv!(
        s,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1 + 6 + 6 + 6,
            ack_number: Some(REMOTE_SEQ + 1),
            payload: &b"ccc"[..],
            ..RECV_TEMPL
        }]
    );
}

#[test]
fn test_final_packet_in_stream_doesnt_wait_for_nagle() {
    let mut s = socket_established();
    s.remote_mss = 6;
    s.send_slice(b"abcdef0").unwrap();
    s.socket.close();

    recv!(s, time 0, Ok(TcpRepr {
        control:    TcpControl::None,
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abcdef"[..],
        ..RECV_TEMPL
    }), exact);
    recv!(s, time 0, Ok(TcpRepr {
        control:    TcpControl::Fin,
        seq_number: LOCAL_SEQ + 1 + 6,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"0"[..],
        ..RECV_TEMPL
    }), exact);
}
