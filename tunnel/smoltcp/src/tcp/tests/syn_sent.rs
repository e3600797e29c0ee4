use super::*;

#[test]
fn test_syn_sent_sanity() {
    let mut s = socket();
    s.local_seq_no = LOCAL_SEQ;
    s.socket.connect(&mut s.cx, REMOTE_END, LOCAL_END).unwrap();
    sanity!(s, socket_syn_sent());
}

#[test]
fn test_syn_sent_syn_ack() {
    let mut s = socket_syn_sent();
    recv!(
        s,
        [TcpRepr {
            control: TcpControl::Syn,
            seq_number: LOCAL_SEQ,
            ack_number: None,
            max_seg_size: Some(BASE_MSS),
            window_scale: Some(0),
            sack_permitted: true,
            ..RECV_TEMPL
        }]
    );
    send!(
        s,
        TcpRepr {
            control: TcpControl::Syn,
            seq_number: REMOTE_SEQ,
            ack_number: Some(LOCAL_SEQ + 1),
            max_seg_size: Some(BASE_MSS - 80),
            window_scale: Some(0),
            ..SEND_TEMPL
        }
    );
    recv!(
        s,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            ..RECV_TEMPL
        }]
    );
    recv_nothing!(s, time 1000);
    assert_eq!(s.state, State::Established);
    sanity!(s, socket_established());
}

#[test]
fn test_syn_sent_syn_received_ack() {
    let mut s = socket_syn_sent();
    recv!(
        s,
        [TcpRepr {
            control: TcpControl::Syn,
            seq_number: LOCAL_SEQ,
            ack_number: None,
            max_seg_size: Some(BASE_MSS),
            window_scale: Some(0),
            sack_permitted: true,
            ..RECV_TEMPL
        }]
    );

    // A SYN packet changes the SYN-SENT state to SYN-RECEIVED.
    send!(
        s,
        TcpRepr {
            control: TcpControl::Syn,
            seq_number: REMOTE_SEQ,
            ack_number: None,
            max_seg_size: Some(BASE_MSS - 80),
            window_scale: Some(0),
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::SynReceived);

    // The socket will then send a SYN|ACK packet.
    recv!(
        s,
        [TcpRepr {
            control: TcpControl::Syn,
            seq_number: LOCAL_SEQ,
            ack_number: Some(REMOTE_SEQ + 1),
            max_seg_size: Some(BASE_MSS),
            window_scale: Some(0),
            ..RECV_TEMPL
        }]
    );
    recv_nothing!(s);

    // The socket may retransmit the SYN|ACK packet.
    recv!(
        s,
        time 1001,
        Ok(TcpRepr {
            control: TcpControl::Syn,
            seq_number: LOCAL_SEQ,
            ack_number: Some(REMOTE_SEQ + 1),
            max_seg_size: Some(BASE_MSS),
            window_scale: Some(0),
            ..RECV_TEMPL
        })
    );

    // An ACK packet changes the SYN-RECEIVED state to ESTABLISHED.
    send!(
        s,
        TcpRepr {
            control: TcpControl::None,
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::Established);
    sanity!(s, socket_established());
}

#[test]
fn test_syn_sent_syn_ack_not_incremented() {
    let mut s = socket_syn_sent();
    recv!(
        s,
        [TcpRepr {
            control: TcpControl::Syn,
            seq_number: LOCAL_SEQ,
            ack_number: None,
            max_seg_size: Some(BASE_MSS),
            window_scale: Some(0),
            sack_permitted: true,
            ..RECV_TEMPL
        }]
    );
    send!(
        s,
        TcpRepr {
            control: TcpControl::Syn,
            seq_number: REMOTE_SEQ,
            ack_number: Some(LOCAL_SEQ), // WRONG
            max_seg_size: Some(BASE_MSS - 80),
            window_scale: Some(0),
            ..SEND_TEMPL
        },
        Some(TcpRepr {
            control: TcpControl::Rst,
            seq_number: LOCAL_SEQ,
            ack_number: None,
            window_len: 0,
            ..RECV_TEMPL
        })
    );
    assert_eq!(s.state, State::SynSent);
}

#[test]
fn test_syn_sent_syn_received_rst() {
    let mut s = socket_syn_sent();
    recv!(
        s,
        [TcpRepr {
            control: TcpControl::Syn,
            seq_number: LOCAL_SEQ,
            ack_number: None,
            max_seg_size: Some(BASE_MSS),
            window_scale: Some(0),
            sack_permitted: true,
            ..RECV_TEMPL
        }]
    );

    // A SYN packet changes the SYN-SENT state to SYN-RECEIVED.
    send!(
        s,
        TcpRepr {
            control: TcpControl::Syn,
            seq_number: REMOTE_SEQ,
            ack_number: None,
            max_seg_size: Some(BASE_MSS - 80),
            window_scale: Some(0),
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::SynReceived);

    // A RST packet changes the SYN-RECEIVED state to CLOSED.
    send!(
        s,
        TcpRepr {
            control: TcpControl::Rst,
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ),
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::Closed);
}

#[test]
fn test_syn_sent_rst() {
    let mut s = socket_syn_sent();
    send!(
        s,
        TcpRepr {
            control: TcpControl::Rst,
            seq_number: REMOTE_SEQ,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::Closed);
}

#[test]
fn test_syn_sent_rst_no_ack() {
    let mut s = socket_syn_sent();
    send!(
        s,
        TcpRepr {
            control: TcpControl::Rst,
            seq_number: REMOTE_SEQ,
            ack_number: None,
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::SynSent);
}

#[test]
fn test_syn_sent_rst_bad_ack() {
    let mut s = socket_syn_sent();
    send!(
        s,
        TcpRepr {
            control: TcpControl::Rst,
            seq_number: REMOTE_SEQ,
            ack_number: Some(TcpSeqNumber(1234)),
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::SynSent);
}

#[test]
fn test_syn_sent_bad_ack() {
    let mut s = socket_syn_sent();
    recv!(
        s,
        [TcpRepr {
            control: TcpControl::Syn,
            seq_number: LOCAL_SEQ,
            ack_number: None,
            max_seg_size: Some(BASE_MSS),
            window_scale: Some(0),
            sack_permitted: true,
            ..RECV_TEMPL
        }]
    );
    send!(
        s,
        TcpRepr {
            control: TcpControl::None, // Unexpected
            seq_number: REMOTE_SEQ,
            ack_number: Some(LOCAL_SEQ + 1), // Correct
            ..SEND_TEMPL
        }
    );

    // It should trigger no response and change no state
    recv!(s, []);
    assert_eq!(s.state, State::SynSent);
}

#[test]
fn test_syn_sent_bad_ack_seq_1() {
    let mut s = socket_syn_sent();
    recv!(
        s,
        [TcpRepr {
            control: TcpControl::Syn,
            seq_number: LOCAL_SEQ,
            ack_number: None,
            max_seg_size: Some(BASE_MSS),
            window_scale: Some(0),
            sack_permitted: true,
            ..RECV_TEMPL
        }]
    );
    send!(
        s,
        TcpRepr {
            control: TcpControl::None,
            seq_number: REMOTE_SEQ,
            ack_number: Some(LOCAL_SEQ), // WRONG
            ..SEND_TEMPL
        },
        Some(TcpRepr {
            control: TcpControl::Rst,
            seq_number: LOCAL_SEQ, // matching the ack_number of the unexpected ack
            ack_number: None,
            window_len: 0,
            ..RECV_TEMPL
        })
    );

    // It should trigger a RST, and change no state
    assert_eq!(s.state, State::SynSent);
}

#[test]
fn test_syn_sent_bad_ack_seq_2() {
    let mut s = socket_syn_sent();
    recv!(
        s,
        [TcpRepr {
            control: TcpControl::Syn,
            seq_number: LOCAL_SEQ,
            ack_number: None,
            max_seg_size: Some(BASE_MSS),
            window_scale: Some(0),
            sack_permitted: true,
            ..RECV_TEMPL
        }]
    );
    send!(
        s,
        TcpRepr {
            control: TcpControl::None,
            seq_number: REMOTE_SEQ,
            ack_number: Some(LOCAL_SEQ + 123456), // WRONG
            ..SEND_TEMPL
        },
        Some(TcpRepr {
            control: TcpControl::Rst,
            seq_number: LOCAL_SEQ + 123456, // matching the ack_number of the unexpected ack
            ack_number: None,
            window_len: 0,
            ..RECV_TEMPL
        })
    );

    // It should trigger a RST, and change no state
    assert_eq!(s.state, State::SynSent);
}

#[test]
fn test_syn_sent_close() {
    let mut s = socket();
    s.close();
    assert_eq!(s.state, State::Closed);
}

#[test]
fn test_syn_sent_sack_option() {
    let mut s = socket_syn_sent();
    recv!(
        s,
        [TcpRepr {
            control: TcpControl::Syn,
            seq_number: LOCAL_SEQ,
            ack_number: None,
            max_seg_size: Some(BASE_MSS),
            window_scale: Some(0),
            sack_permitted: true,
            ..RECV_TEMPL
        }]
    );
    send!(
        s,
        TcpRepr {
            control: TcpControl::Syn,
            seq_number: REMOTE_SEQ,
            ack_number: Some(LOCAL_SEQ + 1),
            max_seg_size: Some(BASE_MSS - 80),
            window_scale: Some(0),
            sack_permitted: true,
            ..SEND_TEMPL
        }
    );
    assert!(s.remote_has_sack);

    let mut s = socket_syn_sent();
    recv!(
        s,
        [TcpRepr {
            control: TcpControl::Syn,
            seq_number: LOCAL_SEQ,
            ack_number: None,
            max_seg_size: Some(BASE_MSS),
            window_scale: Some(0),
            sack_permitted: true,
            ..RECV_TEMPL
        }]
    );
    send!(
        s,
        TcpRepr {
            control: TcpControl::Syn,
            seq_number: REMOTE_SEQ,
            ack_number: Some(LOCAL_SEQ + 1),
            max_seg_size: Some(BASE_MSS - 80),
            window_scale: Some(0),
            sack_permitted: false,
            ..SEND_TEMPL
        }
    );
    assert!(!s.remote_has_sack);
}

#[test]
fn test_syn_sent_win_scale_buffers() {
    for (buffer_size, shift_amt) in &[
        (64, 0),
        (128, 0),
        (1024, 0),
        (65535, 0),
        (65536, 1),
        (65537, 1),
        (131071, 1),
        (131072, 2),
        (524287, 3),
        (524288, 4),
        (655350, 4),
        (1048576, 5),
    ] {
        let mut s = socket_with_buffer_sizes(64, *buffer_size);
        s.local_seq_no = LOCAL_SEQ;
        assert_eq!(s.remote_win_shift, *shift_amt);
        s.socket.connect(&mut s.cx, REMOTE_END, LOCAL_END).unwrap();
        recv!(
            s,
            [TcpRepr {
                control: TcpControl::Syn,
                seq_number: LOCAL_SEQ,
                ack_number: None,
                max_seg_size: Some(BASE_MSS),
                window_scale: Some(*shift_amt),
                window_len: u16::try_from(*buffer_size).unwrap_or(u16::MAX),
                sack_permitted: true,
                ..RECV_TEMPL
            }]
        );
    }
}

#[test]
fn test_syn_sent_syn_ack_no_window_scaling() {
    let mut s = socket_syn_sent_with_buffer_sizes(1048576, 1048576);
    recv!(
        s,
        [TcpRepr {
            control: TcpControl::Syn,
            seq_number: LOCAL_SEQ,
            ack_number: None,
            max_seg_size: Some(BASE_MSS),
            // scaling does NOT apply to the window value in SYN packets
            window_len: 65535,
            window_scale: Some(5),
            sack_permitted: true,
            ..RECV_TEMPL
        }]
    );
    assert_eq!(s.remote_win_shift, 5);
    send!(
        s,
        TcpRepr {
            control: TcpControl::Syn,
            seq_number: REMOTE_SEQ,
            ack_number: Some(LOCAL_SEQ + 1),
            max_seg_size: Some(BASE_MSS - 80),
            window_scale: None,
            window_len: 42,
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::Established);
    assert_eq!(s.remote_win_shift, 0);
    assert_eq!(s.remote_win_scale, None);
    assert_eq!(s.remote_win_len, 42);
}

#[test]
fn test_syn_sent_syn_ack_window_scaling() {
    let mut s = socket_syn_sent();
    recv!(
        s,
        [TcpRepr {
            control: TcpControl::Syn,
            seq_number: LOCAL_SEQ,
            ack_number: None,
            max_seg_size: Some(BASE_MSS),
            window_scale: Some(0),
            sack_permitted: true,
            ..RECV_TEMPL
        }]
    );
    send!(
        s,
        TcpRepr {
            control: TcpControl::Syn,
            seq_number: REMOTE_SEQ,
            ack_number: Some(LOCAL_SEQ + 1),
            max_seg_size: Some(BASE_MSS - 80),
            window_scale: Some(7),
            window_len: 42,
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::Established);
    assert_eq!(s.remote_win_scale, Some(7));
    // scaling does NOT apply to the window value in SYN packets
    assert_eq!(s.remote_win_len, 42);
}
