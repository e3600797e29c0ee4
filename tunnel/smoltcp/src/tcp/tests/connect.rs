use super::*;

#[test]
fn test_connect_validation() {
    let mut s = socket();
    assert_eq!(
        s.socket
            .connect(&mut s.cx, REMOTE_END, (Ipv4Address::UNSPECIFIED, 0)),
        Err(ConnectError::Unaddressable)
    );
    assert_eq!(
        s.socket
            .connect(&mut s.cx, REMOTE_END, (Ipv4Address::UNSPECIFIED, 1024)),
        Err(ConnectError::Unaddressable)
    );
    assert_eq!(
        s.socket
            .connect(&mut s.cx, (Ipv4Address::UNSPECIFIED, 0), LOCAL_END),
        Err(ConnectError::Unaddressable)
    );
    s.socket
        .connect(&mut s.cx, REMOTE_END, LOCAL_END)
        .expect("Connect failed with valid parameters");
    assert_eq!(s.tuple, Some(TUPLE));
}

#[test]
fn test_connect() {
    let mut s = socket();
    s.local_seq_no = LOCAL_SEQ;
    s.socket
        .connect(&mut s.cx, REMOTE_END, LOCAL_END.port)
        .unwrap();
    assert_eq!(s.tuple, Some(TUPLE));
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
    assert_eq!(s.tuple, Some(TUPLE));
}

#[test]
fn test_connect_synack_tiny_mss_is_clamped() {
    let mut s = socket();
    s.local_seq_no = LOCAL_SEQ;
    s.socket
        .connect(&mut s.cx, REMOTE_END, LOCAL_END.port)
        .unwrap();
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
            max_seg_size: Some(10),
            window_scale: Some(0),
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::Established);
    assert_eq!(s.remote_mss, MIN_REMOTE_MSS);
}

#[test]
fn test_connect_synack_zero_mss_is_ignored() {
    let mut s = socket();
    s.local_seq_no = LOCAL_SEQ;
    s.socket
        .connect(&mut s.cx, REMOTE_END, LOCAL_END.port)
        .unwrap();
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
            max_seg_size: Some(0),
            window_scale: Some(0),
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::Established);
    assert_eq!(s.remote_mss, DEFAULT_MSS);
}

#[test]
fn test_connect_unspecified_local() {
    let mut s = socket();
    assert_eq!(s.socket.connect(&mut s.cx, REMOTE_END, 80), Ok(()));
}

#[test]
fn test_connect_specified_local() {
    let mut s = socket();
    assert_eq!(
        s.socket.connect(&mut s.cx, REMOTE_END, (REMOTE_ADDR, 80)),
        Ok(())
    );
}

#[test]
fn test_connect_twice() {
    let mut s = socket();
    assert_eq!(s.socket.connect(&mut s.cx, REMOTE_END, 80), Ok(()));
    assert_eq!(
        s.socket.connect(&mut s.cx, REMOTE_END, 80),
        Err(ConnectError::InvalidState)
    );
}
