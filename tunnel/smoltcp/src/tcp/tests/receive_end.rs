use super::*;

#[test]
fn test_rx_close_fin() {
    let mut s = socket_established();
    send!(
        s,
        TcpRepr {
            control: TcpControl::Fin,
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"abc"[..],
            ..SEND_TEMPL
        }
    );
    s.recv(|data| {
        assert_eq!(data, b"abc");
        (3, ())
    })
    .unwrap();
    assert_eq!(s.recv(|_| (0, ())), Err(RecvError::Finished));
}

#[test]
fn test_rx_close_fin_in_fin_wait_1() {
    let mut s = socket_fin_wait_1();
    send!(
        s,
        TcpRepr {
            control: TcpControl::Fin,
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"abc"[..],
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::Closing);
    s.recv(|data| {
        assert_eq!(data, b"abc");
        (3, ())
    })
    .unwrap();
    assert_eq!(s.recv(|_| (0, ())), Err(RecvError::Finished));
}

#[test]
fn test_rx_close_fin_in_fin_wait_2() {
    let mut s = socket_fin_wait_2();
    send!(
        s,
        TcpRepr {
            control: TcpControl::Fin,
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1 + 1),
            payload: &b"abc"[..],
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::TimeWait);
    s.recv(|data| {
        assert_eq!(data, b"abc");
        (3, ())
    })
    .unwrap();
    assert_eq!(s.recv(|_| (0, ())), Err(RecvError::Finished));
}

#[test]
fn test_rx_close_fin_with_hole() {
    let mut s = socket_established();
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"abc"[..],
            ..SEND_TEMPL
        }
    );
    send!(
        s,
        TcpRepr {
            control: TcpControl::Fin,
            seq_number: REMOTE_SEQ + 1 + 6,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"ghi"[..],
            ..SEND_TEMPL
        },
        Some(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1 + 3),
            window_len: 61,
            ..RECV_TEMPL
        })
    );
    s.recv(|data| {
        assert_eq!(data, b"abc");
        (3, ())
    })
    .unwrap();
    s.recv(|data| {
        assert_eq!(data, b"");
        (0, ())
    })
    .unwrap();
    send!(
        s,
        TcpRepr {
            control: TcpControl::Rst,
            seq_number: REMOTE_SEQ + 1 + 9,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        }
    );
    // Error must be `Illegal` even if we've received a FIN,
    // because we are missing data.
    assert_eq!(s.recv(|_| (0, ())), Err(RecvError::InvalidState));
}

#[test]
fn test_rx_close_rst() {
    let mut s = socket_established();
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"abc"[..],
            ..SEND_TEMPL
        }
    );
    send!(
        s,
        TcpRepr {
            control: TcpControl::Rst,
            seq_number: REMOTE_SEQ + 1 + 3,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        }
    );
    s.recv(|data| {
        assert_eq!(data, b"abc");
        (3, ())
    })
    .unwrap();
    assert_eq!(s.recv(|_| (0, ())), Err(RecvError::InvalidState));
}

#[test]
fn test_rx_close_rst_with_hole() {
    let mut s = socket_established();
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"abc"[..],
            ..SEND_TEMPL
        }
    );
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1 + 6,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"ghi"[..],
            ..SEND_TEMPL
        },
        Some(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1 + 3),
            window_len: 61,
            ..RECV_TEMPL
        })
    );
    send!(
        s,
        TcpRepr {
            control: TcpControl::Rst,
            seq_number: REMOTE_SEQ + 1 + 9,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        }
    );
    s.recv(|data| {
        assert_eq!(data, b"abc");
        (3, ())
    })
    .unwrap();
    assert_eq!(s.recv(|_| (0, ())), Err(RecvError::InvalidState));
}
