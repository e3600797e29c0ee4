use super::*;

#[test]
fn test_out_of_order() {
    let mut s = socket_established();
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1 + 3,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"def"[..],
            ..SEND_TEMPL
        },
        Some(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            ..RECV_TEMPL
        })
    );
    s.recv(|buffer| {
        assert_eq!(buffer, b"");
        (buffer.len(), ())
    })
    .unwrap();
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
            ack_number: Some(REMOTE_SEQ + 1 + 6),
            window_len: 58,
            ..RECV_TEMPL
        })
    );
    s.recv(|buffer| {
        assert_eq!(buffer, b"abcdef");
        (buffer.len(), ())
    })
    .unwrap();
}

#[test]
fn test_buffer_wraparound_rx() {
    let mut s = socket_established();
    s.rx_buffer = SocketBuffer::new(vec![0; 6]);
    s.assembler = Assembler::new();
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"abc"[..],
            ..SEND_TEMPL
        }
    );
    s.recv(|buffer| {
        assert_eq!(buffer, b"abc");
        (buffer.len(), ())
    })
    .unwrap();
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1 + 3,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"defghi"[..],
            ..SEND_TEMPL
        }
    );
    let mut data = [0; 6];
    assert_eq!(s.recv_slice(&mut data[..]), Ok(6));
    assert_eq!(data, &b"defghi"[..]);
}

#[test]
fn test_buffer_wraparound_tx() {
    let mut s = socket_established();
    s.set_nagle_enabled(false);

    s.tx_buffer = SocketBuffer::new(vec![b'.'; 9]);
    assert_eq!(s.send_slice(b"xxxyyy"), Ok(6));
    assert_eq!(s.tx_buffer.dequeue_many(3), &b"xxx"[..]);
    assert_eq!(s.tx_buffer.len(), 3);

    // "abcdef" not contiguous in tx buffer
    assert_eq!(s.send_slice(b"abcdef"), Ok(6));
    recv!(
        s,
        Ok(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            payload: &b"yyyabc"[..],
            ..RECV_TEMPL
        })
    );
    recv!(
        s,
        Ok(TcpRepr {
            seq_number: LOCAL_SEQ + 1 + 6,
            ack_number: Some(REMOTE_SEQ + 1),
            payload: &b"def"[..],
            ..RECV_TEMPL
        })
    );
}
