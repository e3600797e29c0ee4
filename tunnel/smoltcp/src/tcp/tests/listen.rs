use super::*;

#[test]
fn test_listen_sack_option() {
    let mut s = socket_listen();
    send!(
        s,
        TcpRepr {
            control: TcpControl::Syn,
            seq_number: REMOTE_SEQ,
            ack_number: None,
            sack_permitted: false,
            ..SEND_TEMPL
        }
    );
    assert!(!s.remote_has_sack);
    recv!(
        s,
        [TcpRepr {
            control: TcpControl::Syn,
            seq_number: LOCAL_SEQ,
            ack_number: Some(REMOTE_SEQ + 1),
            max_seg_size: Some(BASE_MSS),
            ..RECV_TEMPL
        }]
    );

    let mut s = socket_listen();
    send!(
        s,
        TcpRepr {
            control: TcpControl::Syn,
            seq_number: REMOTE_SEQ,
            ack_number: None,
            sack_permitted: true,
            ..SEND_TEMPL
        }
    );
    assert!(s.remote_has_sack);
    recv!(
        s,
        [TcpRepr {
            control: TcpControl::Syn,
            seq_number: LOCAL_SEQ,
            ack_number: Some(REMOTE_SEQ + 1),
            max_seg_size: Some(BASE_MSS),
            sack_permitted: true,
            ..RECV_TEMPL
        }]
    );
}

#[test]
fn test_listen_syn_win_scale_buffers() {
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
        s.state = State::Listen;
        s.listen_endpoint = LISTEN_END;
        assert_eq!(s.remote_win_shift, *shift_amt);
        send!(
            s,
            TcpRepr {
                control: TcpControl::Syn,
                seq_number: REMOTE_SEQ,
                ack_number: None,
                window_scale: Some(0),
                ..SEND_TEMPL
            }
        );
        assert_eq!(s.remote_win_shift, *shift_amt);
        recv!(
            s,
            [TcpRepr {
                control: TcpControl::Syn,
                seq_number: LOCAL_SEQ,
                ack_number: Some(REMOTE_SEQ + 1),
                max_seg_size: Some(BASE_MSS),
                window_scale: Some(*shift_amt),
                window_len: u16::try_from(*buffer_size).unwrap_or(u16::MAX),
                ..RECV_TEMPL
            }]
        );
    }
}

#[test]
fn test_listen_syn_tiny_mss_is_clamped() {
    let mut s = socket_listen();
    send!(
        s,
        TcpRepr {
            control: TcpControl::Syn,
            seq_number: REMOTE_SEQ,
            ack_number: None,
            max_seg_size: Some(10),
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::SynReceived);
    assert_eq!(s.remote_mss, MIN_REMOTE_MSS);
}

#[test]
fn test_listen_syn_zero_mss_is_ignored() {
    let mut s = socket_listen();
    send!(
        s,
        TcpRepr {
            control: TcpControl::Syn,
            seq_number: REMOTE_SEQ,
            ack_number: None,
            max_seg_size: Some(0),
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::SynReceived);
    assert_eq!(s.remote_mss, DEFAULT_MSS);
}

#[test]
fn test_listen_sanity() {
    let mut s = socket();
    s.listen(LOCAL_PORT).unwrap();
    sanity!(s, socket_listen());
}

#[test]
fn test_listen_validation() {
    let mut s = socket();
    assert_eq!(s.listen(0), Err(ListenError::Unaddressable));
}

#[test]
fn test_listen_twice() {
    let mut s = socket();
    assert_eq!(s.listen(80), Ok(()));
    // multiple calls to listen are okay if its the same local endpoint and the state is still in listening
    assert_eq!(s.listen(80), Ok(()));
    s.set_state(State::SynReceived); // state change, simulate incoming connection
    assert_eq!(s.listen(80), Err(ListenError::InvalidState));
}

#[test]
fn test_listen_syn() {
    let mut s = socket_listen();
    send!(
        s,
        TcpRepr {
            control: TcpControl::Syn,
            seq_number: REMOTE_SEQ,
            ack_number: None,
            ..SEND_TEMPL
        }
    );
    sanity!(s, socket_syn_received());
}

#[test]
fn test_listen_syn_reject_ack() {
    let s = socket_listen();

    let tcp_repr = TcpRepr {
        control: TcpControl::Syn,
        seq_number: REMOTE_SEQ,
        ack_number: Some(LOCAL_SEQ),
        ..SEND_TEMPL
    };
    assert!(!s.socket.accepts(&SEND_IP_TEMPL, &tcp_repr));

    assert_eq!(s.state, State::Listen);
}

#[test]
fn test_listen_rst() {
    let s = socket_listen();
    let tcp_repr = TcpRepr {
        control: TcpControl::Rst,
        seq_number: REMOTE_SEQ,
        ack_number: None,
        ..SEND_TEMPL
    };
    assert!(!s.socket.accepts(&SEND_IP_TEMPL, &tcp_repr));
    assert_eq!(s.state, State::Listen);
}

#[test]
fn test_listen_close() {
    let mut s = socket_listen();
    s.close();
    assert_eq!(s.state, State::Closed);
}
