use super::*;

#[test]
fn test_fast_retransmit_after_triple_duplicate_ack() {
    let mut s = socket_established();
    s.remote_mss = 3;

    // Normal ACK of previously received segment
    send!(s, time 0, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        ..SEND_TEMPL
    });

    // Send a long string of text divided into several packets
    // because of previously received "window_len"
    s.send_slice(b"aaaBBBcccDDDeeeFFF").unwrap();

    // This packet is lost
    recv!(s, time 1000, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"aaa"[..],
        ..RECV_TEMPL
    }));

    // These packets arrive
    recv!(s, time 1005, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + 3,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"BBB"[..],
        ..RECV_TEMPL
    }));
    recv!(s, time 1010, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + (3 * 2),
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"ccc"[..],
        ..RECV_TEMPL
    }));
    recv!(s, time 1015, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + (3 * 3),
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"DDD"[..],
        ..RECV_TEMPL
    }));

    // Duplicate ACKs trigger fast rentramsit after 3rd successive one
    send!(s, time 1050, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        ..SEND_TEMPL
    });
    send!(s, time 1055, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        ..SEND_TEMPL
    });
    send!(s, time 1060, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        ..SEND_TEMPL
    });

    // Fast retransmit should have triggered
    recv!(s, time 1100, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"aaa"[..],
        ..RECV_TEMPL
    }));

    // Transmission should continue as normal after re-transitting the first segment
    recv!(s, time 1105, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + (3 * 4),
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"eee"[..],
        ..RECV_TEMPL
    }));
    // ... at the pace of what arrives
    recv_nothing!(s, time 1110);

    // ACK all received segments
    send!(s, time 1120, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1 + (3 * 5)),
        ..SEND_TEMPL
    });
}

#[test]
fn test_fast_retransmit_duplicate_detection_with_data() {
    let mut s = socket_established();

    s.send_slice(b"abc").unwrap(); // This is lost
    recv!(s, time 1000, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abc"[..],
        ..RECV_TEMPL
    }));

    // Normal ACK of previously received segment
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        }
    );
    // First duplicate
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        }
    );
    // Second duplicate
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        }
    );

    assert_eq!(s.local_rx_dup_acks, 2, "duplicate ACK counter is not set");

    // This packet has content, hence should not be detected
    // as a duplicate ACK and should reset the duplicate ACK count
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"xxxxxx"[..],
            ..SEND_TEMPL
        }
    );

    recv!(
        s,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1 + 3,
            ack_number: Some(REMOTE_SEQ + 1 + 6),
            window_len: 58,
            ..RECV_TEMPL
        }]
    );

    assert_eq!(
        s.local_rx_dup_acks, 0,
        "duplicate ACK counter is not reset when receiving data"
    );
}

#[test]
fn test_fast_retransmit_duplicate_detection_with_window_update() {
    let mut s = socket_established();

    s.send_slice(b"abc").unwrap(); // This is lost
    recv!(s, time 1000, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abc"[..],
        ..RECV_TEMPL
    }));

    // Normal ACK of previously received segment
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        }
    );
    // First duplicate
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        }
    );
    // Second duplicate
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        }
    );

    assert_eq!(s.local_rx_dup_acks, 2, "duplicate ACK counter is not set");

    // This packet has a window update, hence should not be detected
    // as a duplicate ACK and should reset the duplicate ACK count
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            window_len: 400,
            ..SEND_TEMPL
        }
    );

    assert_eq!(
        s.local_rx_dup_acks, 0,
        "duplicate ACK counter is not reset when receiving a window update"
    );
}

#[test]
fn test_fast_retransmit_duplicate_detection() {
    let mut s = socket_established();
    s.remote_mss = 6;

    // Normal ACK of previously received segment
    send!(s, time 0, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        ..SEND_TEMPL
    });

    // First duplicate, should not be counted as there is nothing to resend
    send!(s, time 0, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        ..SEND_TEMPL
    });

    assert_eq!(
        s.local_rx_dup_acks, 0,
        "duplicate ACK counter is set but wound not transmit data"
    );

    // Send a long string of text divided into several packets
    // because of small remote_mss
    s.send_slice(b"xxxxxxyyyyyywwwwwwzzzzzz").unwrap();

    // This packet is reordered in network
    recv!(s, time 1000, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"xxxxxx"[..],
        ..RECV_TEMPL
    }));
    recv!(s, time 1005, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + 6,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"yyyyyy"[..],
        ..RECV_TEMPL
    }));
    recv!(s, time 1010, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + (6 * 2),
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"wwwwww"[..],
        ..RECV_TEMPL
    }));
    recv!(s, time 1015, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + (6 * 3),
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"zzzzzz"[..],
        ..RECV_TEMPL
    }));

    // First duplicate ACK
    send!(s, time 1050, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        ..SEND_TEMPL
    });
    // Second duplicate ACK
    send!(s, time 1055, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        ..SEND_TEMPL
    });
    // Reordered packet arrives which should reset duplicate ACK count
    send!(s, time 1060, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1 + (6 * 3)),
        ..SEND_TEMPL
    });

    assert_eq!(
        s.local_rx_dup_acks, 0,
        "duplicate ACK counter is not reset when receiving ACK which updates send window"
    );

    // ACK all received segments
    send!(s, time 1120, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1 + (6 * 4)),
        ..SEND_TEMPL
    });
}

#[test]
fn test_fast_retransmit_dup_acks_counter() {
    let mut s = socket_established();

    s.send_slice(b"abc").unwrap(); // This is lost
    recv!(s, time 0, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abc"[..],
        ..RECV_TEMPL
    }));

    send!(s, time 0, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        ..SEND_TEMPL
    });

    // A lot of retransmits happen here
    s.local_rx_dup_acks = u8::MAX - 1;

    // Send 3 more ACKs, which could overflow local_rx_dup_acks,
    // but intended behaviour is that we saturate the bounds
    // of local_rx_dup_acks
    send!(s, time 0, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        ..SEND_TEMPL
    });
    send!(s, time 0, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        ..SEND_TEMPL
    });
    send!(s, time 0, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        ..SEND_TEMPL
    });
    assert_eq!(
        s.local_rx_dup_acks,
        u8::MAX,
        "duplicate ACK count should not overflow but saturate"
    );
}

#[test]
fn test_fast_retransmit_zero_window() {
    let mut s = socket_established();

    send!(s, time 1000, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        ..SEND_TEMPL
    });

    s.send_slice(b"abc").unwrap();

    recv!(s, time 0, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abc"[..],
        ..RECV_TEMPL
    }));

    // 3 dup acks
    send!(s, time 1050, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        ..SEND_TEMPL
    });
    send!(s, time 1050, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        ..SEND_TEMPL
    });
    send!(s, time 1050, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        window_len: 0, // boom
        ..SEND_TEMPL
    });

    // even though we're in "fast retransmit", we shouldn't
    // force-send anything because the remote's window is full.
    recv_nothing!(s);
}
