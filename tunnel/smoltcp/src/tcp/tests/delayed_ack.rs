use super::*;

#[test]
fn test_delayed_ack() {
    let mut s = socket_established();
    s.set_ack_delay(Some(ACK_DELAY_DEFAULT));
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"abc"[..],
            ..SEND_TEMPL
        }
    );

    // No ACK is immediately sent.
    recv_nothing!(s);

    // After 10ms, it is sent.
    recv!(s, time 11, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1 + 3),
        window_len: 61,
        ..RECV_TEMPL
    }));
}

#[test]
fn test_delayed_ack_win() {
    let mut s = socket_established();
    s.set_ack_delay(Some(ACK_DELAY_DEFAULT));
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"abc"[..],
            ..SEND_TEMPL
        }
    );

    // Reading the data off the buffer should cause a window update.
    s.recv(|data| {
        assert_eq!(data, b"abc");
        (3, ())
    })
    .unwrap();

    // However, no ACK or window update is immediately sent.
    recv_nothing!(s);

    // After 10ms, it is sent.
    recv!(s, time 11, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1 + 3),
        ..RECV_TEMPL
    }));
}

#[test]
fn test_delayed_ack_reply() {
    let mut s = socket_established();
    s.set_ack_delay(Some(ACK_DELAY_DEFAULT));
    send!(
        s,
        TcpRepr {
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

    s.send_slice(&b"xyz"[..]).unwrap();

    // Writing data to the socket causes ACK to not be delayed,
    // because it is immediately sent with the data.
    recv!(
        s,
        Ok(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1 + 3),
            payload: &b"xyz"[..],
            ..RECV_TEMPL
        })
    );
}

#[test]
fn test_delayed_ack_every_rmss() {
    let mut s = socket_established_with_buffer_sizes(DEFAULT_MSS * 2, DEFAULT_MSS * 2);
    s.set_ack_delay(Some(ACK_DELAY_DEFAULT));
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &[0; DEFAULT_MSS - 1],
            ..SEND_TEMPL
        }
    );

    // No ACK is immediately sent.
    recv_nothing!(s);

    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1 + (DEFAULT_MSS - 1),
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"a"[..],
            ..SEND_TEMPL
        }
    );

    // No ACK is immediately sent.
    recv_nothing!(s);

    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1 + DEFAULT_MSS,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"a"[..],
            ..SEND_TEMPL
        }
    );

    // RMSS+1 bytes of data has been received, so ACK is sent without delay.
    recv!(
        s,
        Ok(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1 + (DEFAULT_MSS + 1)),
            window_len: (DEFAULT_MSS - 1) as u16,
            ..RECV_TEMPL
        })
    );
}

#[test]
fn test_delayed_ack_every_rmss_or_more() {
    let mut s = socket_established_with_buffer_sizes(DEFAULT_MSS * 2, DEFAULT_MSS * 2);
    s.set_ack_delay(Some(ACK_DELAY_DEFAULT));
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &[0; DEFAULT_MSS],
            ..SEND_TEMPL
        }
    );

    // No ACK is immediately sent.
    recv_nothing!(s);

    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1 + DEFAULT_MSS,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"a"[..],
            ..SEND_TEMPL
        }
    );

    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1 + (DEFAULT_MSS + 1),
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"b"[..],
            ..SEND_TEMPL
        }
    );

    // RMSS+2 bytes of data has been received, so ACK is sent without delay.
    recv!(
        s,
        Ok(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1 + (DEFAULT_MSS + 2)),
            window_len: (DEFAULT_MSS - 2) as u16,
            ..RECV_TEMPL
        })
    );
}
