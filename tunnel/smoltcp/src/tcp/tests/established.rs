use super::*;

#[test]
fn test_established_recv() {
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
    assert_eq!(s.rx_buffer.dequeue_many(6), &b"abcdef"[..]);
}

fn setup_rfc2018_cases() -> (TestSocket, Vec<u8>) {
    // This is a utility function used by the tests for RFC 2018 cases. It configures a socket
    // in a particular way suitable for those cases.
    //
    // RFC 2018: Assume the left window edge is 5000 and that the data transmitter sends [...]
    // segments, each containing 500 data bytes.
    let mut s = socket_established_with_buffer_sizes(4000, 4000);
    s.remote_has_sack = true;

    // create a segment that is 500 bytes long
    let mut segment: Vec<u8> = Vec::with_capacity(500);

    // move the last ack to 5000 by sending ten of them
    for _ in 0..50 {
        segment.extend_from_slice(b"abcdefghij")
    }
    for offset in (0..5000).step_by(500) {
        send!(
            s,
            TcpRepr {
                seq_number: REMOTE_SEQ + 1 + offset,
                ack_number: Some(LOCAL_SEQ + 1),
                payload: &segment,
                ..SEND_TEMPL
            }
        );
        recv!(
            s,
            [TcpRepr {
                seq_number: LOCAL_SEQ + 1,
                ack_number: Some(REMOTE_SEQ + 1 + offset + 500),
                window_len: 3500,
                ..RECV_TEMPL
            }]
        );
        s.recv(|data| {
            assert_eq!(data.len(), 500);
            assert_eq!(data, segment.as_slice());
            (500, ())
        })
        .unwrap();
    }
    assert_eq!(s.remote_last_win, 3500);
    (s, segment)
}

#[test]
fn test_established_rfc2018_cases() {
    // This test case verifies the exact scenarios described on pages 8-9 of RFC 2018. Please
    // ensure its behavior does not deviate from those scenarios.

    let (mut s, segment) = setup_rfc2018_cases();
    // RFC 2018:
    //
    // Case 2: The first segment is dropped but the remaining 7 are received.
    //
    // Upon receiving each of the last seven packets, the data receiver will return a TCP ACK
    // segment that acknowledges sequence number 5000 and contains a SACK option specifying one
    // block of queued data:
    //
    //   Triggering   ACK      Left Edge  Right Edge
    //   Segment
    //
    //   5000         (lost)
    //   5500         5000     5500       6000
    //   6000         5000     5500       6500
    //   6500         5000     5500       7000
    //   7000         5000     5500       7500
    //   7500         5000     5500       8000
    //   8000         5000     5500       8500
    //   8500         5000     5500       9000
    //
    for offset in (500..3500).step_by(500) {
        send!(
            s,
            TcpRepr {
                seq_number: REMOTE_SEQ + 1 + offset + 5000,
                ack_number: Some(LOCAL_SEQ + 1),
                payload: &segment,
                ..SEND_TEMPL
            },
            Some(TcpRepr {
                seq_number: LOCAL_SEQ + 1,
                ack_number: Some(REMOTE_SEQ + 1 + 5000),
                window_len: 4000,
                sack_ranges: [
                    Some((
                        REMOTE_SEQ.0 as u32 + 1 + 5500,
                        REMOTE_SEQ.0 as u32 + 1 + 5500 + offset as u32
                    )),
                    None,
                    None
                ],
                ..RECV_TEMPL
            })
        );
    }
}

#[test]
fn test_established_sack_no_overflow_on_near_max_seqnumber() {
    let mut s = socket_established();
    s.remote_has_sack = true;
    s.remote_seq_no = TcpSeqNumber(-4);
    s.remote_last_ack = Some(TcpSeqNumber(-4));

    // Send an out-of-order segment 10 bytes past the expected sequence,
    // creating a 10-byte hole at the front of the assembler.
    send!(
        s,
        TcpRepr {
            seq_number: TcpSeqNumber(-4 + 10),
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"AAAAAAAAAA"[..],
            ..SEND_TEMPL
        },
        Some(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(TcpSeqNumber(-4)),
            window_len: 64,
            sack_ranges: [
                Some(((-4_i32 + 10) as u32, (-4_i32 + 20) as u32,)),
                None,
                None,
            ],
            ..RECV_TEMPL
        })
    );
}

#[test]
fn test_established_sliding_window_recv() {
    let mut s = socket_established();
    // Update our scaling parameters for a TCP with a scaled buffer.
    assert_eq!(s.rx_buffer.len(), 0);
    s.rx_buffer = SocketBuffer::new(vec![0; 262143]);
    s.assembler = Assembler::new();
    s.remote_win_scale = Some(0);
    s.remote_last_win = 65535;
    s.remote_win_shift = 2;

    // Create a TCP segment that will mostly fill an IP frame.
    let mut segment: Vec<u8> = Vec::with_capacity(1400);
    for _ in 0..100 {
        segment.extend_from_slice(b"abcdefghijklmn")
    }
    assert_eq!(segment.len(), 1400);

    // Send the frame
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &segment,
            ..SEND_TEMPL
        }
    );

    // Ensure that the received window size is shifted right by 2.
    recv!(
        s,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1 + 1400),
            window_len: 65185,
            ..RECV_TEMPL
        }]
    );
}

#[test]
fn test_established_send() {
    let mut s = socket_established();
    // First roundtrip after establishing.
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
    assert_eq!(s.tx_buffer.len(), 6);
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1 + 6),
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.tx_buffer.len(), 0);
    // Second roundtrip.
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
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1 + 6 + 6),
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.tx_buffer.len(), 0);
}

#[test]
fn test_established_send_no_ack_send() {
    let mut s = socket_established();
    s.set_nagle_enabled(false);
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
}

#[test]
fn test_established_send_buf_gt_win() {
    let mut data = [0; 32];
    for (i, elem) in data.iter_mut().enumerate() {
        *elem = i as u8
    }

    let mut s = socket_established();
    s.remote_win_len = 16;
    s.send_slice(&data[..]).unwrap();
    recv!(
        s,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            payload: &data[0..16],
            ..RECV_TEMPL
        }]
    );
}

#[test]
fn test_established_send_window_shrink() {
    let mut s = socket_established();

    // 6 octets fit on the remote side's window, so we send them.
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
    assert_eq!(s.tx_buffer.len(), 6);

    // - Peer doesn't ack them yet
    // - Sends data so we need to reply with an ACK
    // - ...AND and sends a window announcement that SHRINKS the window, so data we've
    //   previously sent is now outside the window. Yes, this is allowed by TCP.
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            window_len: 3,
            payload: &b"xyzxyz"[..],
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.tx_buffer.len(), 6);

    // More data should not get sent since it doesn't fit in the window
    s.send_slice(b"foobar").unwrap();
    recv!(
        s,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1 + 6,
            ack_number: Some(REMOTE_SEQ + 1 + 6),
            window_len: 64 - 6,
            ..RECV_TEMPL
        }]
    );
}

#[test]
fn test_established_receive_partially_outside_window() {
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

    s.recv(|data| {
        assert_eq!(data, b"abc");
        (3, ())
    })
    .unwrap();

    // Peer decides to retransmit (perhaps because the ACK was lost)
    // and also pushed data.
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"abcdef"[..],
            ..SEND_TEMPL
        }
    );

    s.recv(|data| {
        assert_eq!(data, b"def");
        (3, ())
    })
    .unwrap();
}

#[test]
fn test_established_receive_partially_outside_window_fin() {
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

    s.recv(|data| {
        assert_eq!(data, b"abc");
        (3, ())
    })
    .unwrap();

    // Peer decides to retransmit (perhaps because the ACK was lost)
    // and also pushed data, and sent a FIN.
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            control: TcpControl::Fin,
            payload: &b"abcdef"[..],
            ..SEND_TEMPL
        }
    );

    s.recv(|data| {
        assert_eq!(data, b"def");
        (3, ())
    })
    .unwrap();

    // We should accept the FIN, because even though the last packet was partially
    // outside the receive window, there is no hole after adding its data to the assembler.
    assert_eq!(s.state, State::CloseWait);
}

#[test]
fn test_established_send_wrap() {
    let mut s = socket_established();
    let local_seq_start = TcpSeqNumber(i32::MAX - 1);
    s.local_seq_no = local_seq_start + 1;
    s.remote_last_seq = local_seq_start + 1;
    s.send_slice(b"abc").unwrap();
    recv!(s, time 1000, Ok(TcpRepr {
        seq_number: local_seq_start + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abc"[..],
        ..RECV_TEMPL
    }));
}

#[test]
fn test_established_no_ack() {
    let mut s = socket_established();
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: None,
            ..SEND_TEMPL
        }
    );
}

#[test]
fn test_established_bad_ack() {
    let mut s = socket_established();
    // Already acknowledged data.
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(TcpSeqNumber(LOCAL_SEQ.0 - 1)),
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.local_seq_no, LOCAL_SEQ + 1);
    // Data not yet transmitted.
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 10),
            ..SEND_TEMPL
        },
        Some(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            ..RECV_TEMPL
        })
    );
    assert_eq!(s.local_seq_no, LOCAL_SEQ + 1);
}

#[test]
fn test_established_bad_seq() {
    let mut s = socket_established();
    // Data outside of receive window.
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1 + 256,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        },
        Some(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            ..RECV_TEMPL
        })
    );
    assert_eq!(s.remote_seq_no, REMOTE_SEQ + 1);

    // Challenge ACKs are rate-limited, we don't get a second one immediately.
    send!(
        s,
        time 100,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1 + 256,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        }
    );

    // If we wait a bit, we do get a new one.
    send!(
        s,
        time 2000,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1 + 256,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        },
        Some(TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            ..RECV_TEMPL
        })
    );
    assert_eq!(s.remote_seq_no, REMOTE_SEQ + 1);
}
