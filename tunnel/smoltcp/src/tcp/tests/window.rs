use super::*;

#[test]
fn test_maximum_segment_size() {
    let mut s = socket_listen();
    s.tx_buffer = SocketBuffer::new(vec![0; 32767]);
    send!(
        s,
        TcpRepr {
            control: TcpControl::Syn,
            seq_number: REMOTE_SEQ,
            ack_number: None,
            max_seg_size: Some(1000),
            ..SEND_TEMPL
        }
    );
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
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            window_len: 32767,
            ..SEND_TEMPL
        }
    );
    s.send_slice(&[0; 1200][..]).unwrap();
    recv!(
        s,
        Ok(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            payload: &[0; 1000][..],
            ..RECV_TEMPL
        })
    );
}

#[test]
fn test_segmentation_offload() {
    use crate::wire;

    // Longer than the length field of an IP header can say.
    const MAX_SEGMENTABLE_SIZE: usize = wire::IPV6_HEADER_LEN + (u16::MAX as usize) + 1;

    let mut s = TestSocket {
        cx: context(NonZeroUsize::new(MAX_SEGMENTABLE_SIZE)),
        ..socket_listen()
    };
    s.tx_buffer = SocketBuffer::new(vec![0; 2 * MAX_SEGMENTABLE_SIZE]);

    send!(
        s,
        TcpRepr {
            control: TcpControl::Syn,
            seq_number: REMOTE_SEQ,
            ack_number: None,
            window_scale: Some(2),
            ..SEND_TEMPL
        }
    );
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
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            window_len: u16::MAX,
            ..SEND_TEMPL
        }
    );

    s.send_slice(&[0; 2 * MAX_SEGMENTABLE_SIZE][..]).unwrap();

    s.congestion_controller.open(2 * MAX_SEGMENTABLE_SIZE);
    let mss = DEFAULT_MSS;
    // As many whole segments as fit: the device cuts them.
    let most = MAX_SEGMENTABLE_SIZE - wire::IPV4_HEADER_LEN - TCP_HEADER_LEN;
    let len = most - most % mss;
    assert!(len > mss);
    for at in [0, len] {
        let mut sent = None;
        let TestSocket { socket, cx } = &mut s;
        socket.dispatch(cx, |segment_size, ip, tcp| {
            sent = Some((
                segment_size,
                ip.payload_len(),
                tcp.seq_number,
                tcp.payload.len(),
            ));
        });
        assert_eq!(
            sent,
            Some((
                NonZeroU16::new(mss as u16),
                TCP_HEADER_LEN + len,
                LOCAL_SEQ + 1 + at,
                len
            ))
        );
    }
}

#[test]
fn test_recv_out_of_recv_win() {
    let mut s = socket_established();
    s.set_ack_delay(Some(ACK_DELAY_DEFAULT));
    s.remote_mss = 32;

    // No ACKs are sent due to the ACK delay.
    send!(
        s,
        TcpRepr {
            control: TcpControl::Psh,
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &[0; 32],
            ..SEND_TEMPL
        }
    );
    recv_nothing!(s);

    // RMSS+1 bytes of data has been received, so ACK is sent without delay.
    send!(
        s,
        TcpRepr {
            control: TcpControl::Psh,
            seq_number: REMOTE_SEQ + 33,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &[0; 1],
            ..SEND_TEMPL
        }
    );
    recv!(
        s,
        Ok(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 34),
            window_len: 31,
            ..RECV_TEMPL
        })
    );

    // This frees up a byte in the receive buffer. However, the remote shouldn't be aware of
    // this since no ACKs are sent.
    s.recv_slice(&mut [0; 1]).unwrap();
    recv_nothing!(s);

    // Now, if the remote wants to send one byte outside of the receive window that we
    // previously advertised, it should not succeed.
    send!(
        s,
        TcpRepr {
            control: TcpControl::Psh,
            seq_number: REMOTE_SEQ + 34,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &[0; 32],
            ..SEND_TEMPL
        }
    );
    recv!(
        s,
        Ok(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 65),
            window_len: 1, // The last byte isn't accepted.
            ..RECV_TEMPL
        })
    );
}

#[test]
fn test_close_wait_no_window_update() {
    let mut s = socket_established();
    send!(
        s,
        TcpRepr {
            control: TcpControl::Fin,
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &[1, 2, 3, 4],
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::CloseWait);

    // we ack the FIN, with the reduced window size.
    recv!(
        s,
        Ok(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 6),
            window_len: 60,
            ..RECV_TEMPL
        })
    );

    let rx_buf = &mut [0; 32];
    assert_eq!(s.recv_slice(rx_buf), Ok(4));

    // check that we do NOT send a window update even if it has changed.
    recv_nothing!(s);
}

#[test]
fn test_time_wait_no_window_update() {
    let mut s = socket_fin_wait_2();
    send!(
        s,
        TcpRepr {
            control: TcpControl::Fin,
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 2),
            payload: &[1, 2, 3, 4],
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state, State::TimeWait);

    // we ack the FIN, with the reduced window size.
    recv!(
        s,
        Ok(TcpRepr {
            seq_number: LOCAL_SEQ + 2,
            ack_number: Some(REMOTE_SEQ + 6),
            window_len: 60,
            ..RECV_TEMPL
        })
    );

    let rx_buf = &mut [0; 32];
    assert_eq!(s.recv_slice(rx_buf), Ok(4));

    // check that we do NOT send a window update even if it has changed.
    recv_nothing!(s);
}
