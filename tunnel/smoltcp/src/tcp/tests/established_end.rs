use super::*;

#[test]
fn test_old_data_ack_not_rate_limited() {
    let mut s = socket_established();
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"abcdef"[..],
            ..SEND_TEMPL
        }
    );
    recv!(
        s,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1 + 6),
            window_len: 58,
            ..RECV_TEMPL
        }]
    );
    s.recv(|data| {
        assert_eq!(data, b"abcdef");
        (6, ())
    })
    .unwrap();
    // The remote retransmits data we already acknowledged, e.g. because
    // the ACK above was lost. Each retransmission must elicit a duplicate
    // ACK, even within the challenge ACK rate limit window: withholding it
    // strands the remote in retransmission backoff.
    send!(
        s,
        time 100,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"abcdef"[..],
            ..SEND_TEMPL
        },
        Some(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1 + 6),
            ..RECV_TEMPL
        })
    );
    send!(
        s,
        time 200,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"abcdef"[..],
            ..SEND_TEMPL
        },
        Some(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1 + 6),
            ..RECV_TEMPL
        })
    );
}

#[test]
fn test_bad_seq_rst_dropped_silently() {
    let mut s = socket_established();
    // Out-of-window RSTs are silently dropped, per RFC 9293 (3.10.7.4)
    // and RFC 5961 (3.2): no challenge ACK, no state change.
    send!(
        s,
        TcpRepr {
            control: TcpControl::Rst,
            seq_number: REMOTE_SEQ + 1 + 256,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::Established);

    // A payload doesn't make it eligible for the data segment exemption
    // from challenge ACK rate limiting either: still no reply.
    send!(
        s,
        time 100,
        TcpRepr {
            control: TcpControl::Rst,
            seq_number: REMOTE_SEQ + 1 + 256,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"abcdef"[..],
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::Established);
}

#[test]
fn test_bad_seq_syn_with_data_rate_limited() {
    let mut s = socket_established();
    // An out-of-window SYN carrying data must not be exempt from challenge
    // ACK rate limiting: RFC 5961 (4.2) says challenge ACKs sent in
    // response to SYNs should be throttled.
    send!(
        s,
        TcpRepr {
            control: TcpControl::Syn,
            seq_number: REMOTE_SEQ + 1 + 256,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"abcdef"[..],
            ..SEND_TEMPL
        },
        Some(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            ..RECV_TEMPL
        })
    );

    // The second one within the rate limit window gets no reply.
    send!(
        s,
        time 100,
        TcpRepr {
            control: TcpControl::Syn,
            seq_number: REMOTE_SEQ + 1 + 256,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"abcdef"[..],
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::Established);
}

#[test]
fn test_established_fin() {
    let mut s = socket_established();
    send!(
        s,
        TcpRepr {
            control: TcpControl::Fin,
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        }
    );
    recv!(
        s,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1 + 1),
            ..RECV_TEMPL
        }]
    );
    assert_eq!(s.state, State::CloseWait);
    sanity!(s, socket_close_wait());
}

#[test]
fn test_established_fin_after_missing() {
    let mut s = socket_established();
    send!(
        s,
        TcpRepr {
            control: TcpControl::Fin,
            seq_number: REMOTE_SEQ + 1 + 6,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"123456"[..],
            ..SEND_TEMPL
        },
        Some(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            ..RECV_TEMPL
        })
    );
    assert_eq!(s.state, State::Established);
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"abcdef"[..],
            ..SEND_TEMPL
        },
        Some(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1 + 6 + 6),
            window_len: 52,
            ..RECV_TEMPL
        })
    );
    assert_eq!(s.state, State::Established);
}

#[test]
fn test_established_send_fin() {
    let mut s = socket_established();
    s.send_slice(b"abcdef").unwrap();
    send!(
        s,
        TcpRepr {
            control: TcpControl::Fin,
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::CloseWait);
    recv!(
        s,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1 + 1),
            payload: &b"abcdef"[..],
            ..RECV_TEMPL
        }]
    );
}

#[test]
fn test_established_rst() {
    let mut s = socket_established();
    send!(
        s,
        TcpRepr {
            control: TcpControl::Rst,
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::Closed);
}

#[test]
fn test_established_rst_no_ack() {
    let mut s = socket_established();
    send!(
        s,
        TcpRepr {
            control: TcpControl::Rst,
            seq_number: REMOTE_SEQ + 1,
            ack_number: None,
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::Closed);
}

#[test]
fn test_established_close() {
    let mut s = socket_established();
    s.close();
    assert_eq!(s.state, State::FinWait1);
    sanity!(s, socket_fin_wait_1());
}

#[test]
fn test_established_abort() {
    let mut s = socket_established();
    s.abort();
    assert_eq!(s.state, State::Closed);
    recv!(
        s,
        [TcpRepr {
            control: TcpControl::Rst,
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            ..RECV_TEMPL
        }]
    );
}

#[test]
fn test_established_rst_bad_seq() {
    let mut s = socket_established();
    // Out-of-window RSTs are dropped silently, per RFC 9293 (3.10.7.4)
    // and RFC 5961 (3.2).
    send!(
        s,
        TcpRepr {
            control: TcpControl::Rst,
            seq_number: REMOTE_SEQ, // Wrong seq
            ack_number: None,
            ..SEND_TEMPL
        }
    );

    assert_eq!(s.state, State::Established);

    // An in-window RST still resets the connection.
    send!(
        s,
        time 2000,
        TcpRepr {
            control: TcpControl::Rst,
            seq_number: REMOTE_SEQ + 1, // Correct seq
            ack_number: None,
            ..SEND_TEMPL
        }
    );

    assert_eq!(s.state, State::Closed);
}

#[test]
fn test_established_bad_seq_challenge_ack_updated() {
    let mut s = socket_established();
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ, // Wrong seq
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        },
        Some(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            ..RECV_TEMPL
        })
    );

    assert_eq!(s.state, State::Established);

    // Send something to advance seq by 1
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1, // correct seq
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"a"[..],
            ..SEND_TEMPL
        }
    );

    // Send the wrong seq again, check that the challenge ack is correctly updated
    // The ack number must be updated even if we don't call dispatch on the socket
    // See https://github.com/smoltcp-rs/smoltcp/issues/338
    send!(
        s,
        time 2000,
        TcpRepr {
            seq_number: REMOTE_SEQ, // Wrong seq
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        },
        Some(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 2), // this has changed
            window_len: 63,
            ..RECV_TEMPL
        })
    );
}
