use super::*;

#[test]
fn test_duplicate_seq_ack() {
    let mut s = socket_recved();
    // remote retransmission
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
}

#[test]
fn test_data_retransmit() {
    let mut s = socket_established();
    s.send_slice(b"abcdef").unwrap();
    recv!(s, time 1000, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abcdef"[..],
        ..RECV_TEMPL
    }));
    recv_nothing!(s, time 1050);
    recv!(s, time 2000, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abcdef"[..],
        ..RECV_TEMPL
    }));
}

#[test]
fn test_data_retransmit_bursts() {
    let mut s = socket_established();
    s.remote_mss = 6;
    s.send_slice(b"abcdef012345").unwrap();

    recv!(s, time 0, Ok(TcpRepr {
        control:    TcpControl::None,
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abcdef"[..],
        ..RECV_TEMPL
    }), exact);
    recv!(s, time 0, Ok(TcpRepr {
        control:    TcpControl::Psh,
        seq_number: LOCAL_SEQ + 1 + 6,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"012345"[..],
        ..RECV_TEMPL
    }), exact);
    recv_nothing!(s, time 0);

    recv_nothing!(s, time 50);

    recv!(s, time 1000, Ok(TcpRepr {
        control:    TcpControl::None,
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abcdef"[..],
        ..RECV_TEMPL
    }), exact);
    recv!(s, time 1500, Ok(TcpRepr {
        control:    TcpControl::Psh,
        seq_number: LOCAL_SEQ + 1 + 6,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"012345"[..],
        ..RECV_TEMPL
    }), exact);
    recv_nothing!(s, time 1550);
}

#[test]
fn test_data_retransmit_bursts_half_ack() {
    let mut s = socket_established();
    s.remote_mss = 6;
    s.send_slice(b"abcdef012345").unwrap();

    recv!(s, time 0, Ok(TcpRepr {
        control:    TcpControl::None,
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abcdef"[..],
        ..RECV_TEMPL
    }), exact);
    recv!(s, time 0, Ok(TcpRepr {
        control:    TcpControl::Psh,
        seq_number: LOCAL_SEQ + 1 + 6,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"012345"[..],
        ..RECV_TEMPL
    }), exact);
    // Acknowledge the first packet
    send!(s, time 5, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1 + 6),
        window_len: 6,
        ..SEND_TEMPL
    });
    // The second packet should be re-sent.
    recv!(s, time 1500, Ok(TcpRepr {
        control:    TcpControl::Psh,
        seq_number: LOCAL_SEQ + 1 + 6,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"012345"[..],
        ..RECV_TEMPL
    }), exact);

    recv_nothing!(s, time 1550);
}

#[test]
fn test_retransmit_timer_restart_on_partial_ack() {
    let mut s = socket_established();
    s.remote_mss = 6;
    s.send_slice(b"abcdef012345").unwrap();

    recv!(s, time 0, Ok(TcpRepr {
        control:    TcpControl::None,
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abcdef"[..],
        ..RECV_TEMPL
    }), exact);
    recv!(s, time 0, Ok(TcpRepr {
        control:    TcpControl::Psh,
        seq_number: LOCAL_SEQ + 1 + 6,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"012345"[..],
        ..RECV_TEMPL
    }), exact);
    // Acknowledge the first packet
    send!(s, time 600, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1 + 6),
        window_len: 6,
        ..SEND_TEMPL
    });
    // The ACK of the first packet should restart the retransmit timer and delay a retransmission.
    recv_nothing!(s, time 2399);
    // The second packet should be re-sent.
    recv!(s, time 2400, Ok(TcpRepr {
        control:    TcpControl::Psh,
        seq_number: LOCAL_SEQ + 1 + 6,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"012345"[..],
        ..RECV_TEMPL
    }), exact);
}

#[test]
fn test_data_retransmit_bursts_half_ack_close() {
    let mut s = socket_established();
    s.remote_mss = 6;
    s.send_slice(b"abcdef012345").unwrap();
    s.close();

    recv!(s, time 0, Ok(TcpRepr {
        control:    TcpControl::None,
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abcdef"[..],
        ..RECV_TEMPL
    }), exact);
    recv!(s, time 0, Ok(TcpRepr {
        control:    TcpControl::Fin,
        seq_number: LOCAL_SEQ + 1 + 6,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"012345"[..],
        ..RECV_TEMPL
    }), exact);
    // Acknowledge the first packet
    send!(s, time 5, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1 + 6),
        window_len: 6,
        ..SEND_TEMPL
    });
    // The second packet should be re-sent.
    recv!(s, time 1500, Ok(TcpRepr {
        control:    TcpControl::Fin,
        seq_number: LOCAL_SEQ + 1 + 6,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"012345"[..],
        ..RECV_TEMPL
    }), exact);

    recv_nothing!(s, time 1550);
}

#[test]
fn test_send_data_after_syn_ack_retransmit() {
    let mut s = socket_syn_received();
    recv!(s, time 50, Ok(TcpRepr {
        control:    TcpControl::Syn,
        seq_number: LOCAL_SEQ,
        ack_number: Some(REMOTE_SEQ + 1),
        max_seg_size: Some(BASE_MSS),
        ..RECV_TEMPL
    }));
    recv!(s, time 1050, Ok(TcpRepr { // retransmit
        control:    TcpControl::Syn,
        seq_number: LOCAL_SEQ,
        ack_number: Some(REMOTE_SEQ + 1),
        max_seg_size: Some(BASE_MSS),
        ..RECV_TEMPL
    }));
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        }
    );
    assert_eq!(s.state(), State::Established);
    s.send_slice(b"abcdef").unwrap();
    recv!(
        s,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            payload: &b"abcdef"[..],
            ..RECV_TEMPL
        }]
    )
}

#[test]
fn test_established_retransmit_for_dup_ack() {
    let mut s = socket_established();
    // Duplicate ACKs do not replace the retransmission timer
    s.send_slice(b"abc").unwrap();
    recv!(s, time 1000, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abc"[..],
        ..RECV_TEMPL
    }));
    // Retransmit timer is on because all data was sent
    assert_eq!(s.tx_buffer.len(), 3);
    // ACK nothing new
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        }
    );
    // Retransmit
    recv!(s, time 4000, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abc"[..],
        ..RECV_TEMPL
    }));
}

#[test]
fn test_established_retransmit_reset_after_ack() {
    let mut s = socket_established();
    s.remote_win_len = 6;
    s.send_slice(b"abcdef").unwrap();
    s.send_slice(b"123456").unwrap();
    s.send_slice(b"ABCDEF").unwrap();
    recv!(s, time 1000, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abcdef"[..],
        ..RECV_TEMPL
    }));
    send!(s, time 1005, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1 + 6),
        window_len: 6,
        ..SEND_TEMPL
    });
    recv!(s, time 1010, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + 6,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"123456"[..],
        ..RECV_TEMPL
    }));
    send!(s, time 1015, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1 + 6 + 6),
        window_len: 6,
        ..SEND_TEMPL
    });
    recv!(s, time 1020, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + 6 + 6,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"ABCDEF"[..],
        ..RECV_TEMPL
    }));
}

#[test]
fn test_established_queue_during_retransmission() {
    let mut s = socket_established();
    s.remote_mss = 6;
    s.send_slice(b"abcdef123456ABCDEF").unwrap();
    recv!(s, time 1000, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abcdef"[..],
        ..RECV_TEMPL
    })); // this one is dropped
    recv!(s, time 1005, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + 6,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"123456"[..],
        ..RECV_TEMPL
    })); // this one is received
    recv!(s, time 1010, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + 6 + 6,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"ABCDEF"[..],
        ..RECV_TEMPL
    })); // also dropped
    recv!(s, time 3000, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abcdef"[..],
        ..RECV_TEMPL
    })); // retransmission
    send!(s, time 3005, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1 + 6 + 6),
        ..SEND_TEMPL
    }); // acknowledgement of both segments
    recv!(s, time 3010, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + 6 + 6,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"ABCDEF"[..],
        ..RECV_TEMPL
    })); // retransmission of only unacknowledged data
}

#[test]
fn test_close_wait_retransmit_reset_after_ack() {
    let mut s = socket_close_wait();
    s.remote_win_len = 6;
    s.send_slice(b"abcdef").unwrap();
    s.send_slice(b"123456").unwrap();
    s.send_slice(b"ABCDEF").unwrap();
    recv!(s, time 1000, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1 + 1),
        payload:    &b"abcdef"[..],
        ..RECV_TEMPL
    }));
    send!(s, time 1005, TcpRepr {
        seq_number: REMOTE_SEQ + 1 + 1,
        ack_number: Some(LOCAL_SEQ + 1 + 6),
        window_len: 6,
        ..SEND_TEMPL
    });
    recv!(s, time 1010, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + 6,
        ack_number: Some(REMOTE_SEQ + 1 + 1),
        payload:    &b"123456"[..],
        ..RECV_TEMPL
    }));
    send!(s, time 1015, TcpRepr {
        seq_number: REMOTE_SEQ + 1 + 1,
        ack_number: Some(LOCAL_SEQ + 1 + 6 + 6),
        window_len: 6,
        ..SEND_TEMPL
    });
    recv!(s, time 1020, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + 6 + 6,
        ack_number: Some(REMOTE_SEQ + 1 + 1),
        payload:    &b"ABCDEF"[..],
        ..RECV_TEMPL
    }));
}

#[test]
fn test_fin_wait_1_retransmit_reset_after_ack() {
    let mut s = socket_established();
    s.remote_win_len = 6;
    s.send_slice(b"abcdef").unwrap();
    s.send_slice(b"123456").unwrap();
    s.send_slice(b"ABCDEF").unwrap();
    s.close();
    recv!(s, time 1000, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abcdef"[..],
        ..RECV_TEMPL
    }));
    send!(s, time 1005, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1 + 6),
        window_len: 6,
        ..SEND_TEMPL
    });
    recv!(s, time 1010, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + 6,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"123456"[..],
        ..RECV_TEMPL
    }));
    send!(s, time 1015, TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1 + 6 + 6),
        window_len: 6,
        ..SEND_TEMPL
    });
    recv!(s, time 1020, Ok(TcpRepr {
        control:    TcpControl::Fin,
        seq_number: LOCAL_SEQ + 1 + 6 + 6,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"ABCDEF"[..],
        ..RECV_TEMPL
    }));
}

#[test]
fn test_retransmit_exponential_backoff() {
    let mut s = socket_established();
    s.send_slice(b"abcdef").unwrap();
    recv!(s, time 0, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abcdef"[..],
        ..RECV_TEMPL
    }));

    let expected_retransmission_instant = s.rtte.retransmission_timeout().as_millis() as i64;
    recv_nothing!(s, time expected_retransmission_instant - 1);
    recv!(s, time expected_retransmission_instant, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abcdef"[..],
        ..RECV_TEMPL
    }));

    // "current time" is expected_retransmission_instant, and we want to wait 2 * retransmission timeout
    let expected_retransmission_instant = 3 * expected_retransmission_instant;

    recv_nothing!(s, time expected_retransmission_instant - 1);
    recv!(s, time expected_retransmission_instant, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"abcdef"[..],
        ..RECV_TEMPL
    }));
}

#[test]
fn test_data_retransmit_ack_more_than_expected() {
    let mut s = socket_established();
    s.remote_mss = 6;
    s.send_slice(b"aaaaaabbbbbbcccccc").unwrap();

    recv!(s, time 0, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"aaaaaa"[..],
        ..RECV_TEMPL
    }));
    recv!(s, time 0, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + 6,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"bbbbbb"[..],
        ..RECV_TEMPL
    }));
    recv!(s, time 0, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + 12,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"cccccc"[..],
        ..RECV_TEMPL
    }));
    recv_nothing!(s, time 0);

    recv_nothing!(s, time 50);

    // retransmit timer expires, we want to retransmit all 3 packets
    // but we only manage to retransmit 2 (due to e.g. lack of device buffer space)
    assert!(s.timer.is_retransmit());
    recv!(s, time 1000, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"aaaaaa"[..],
        ..RECV_TEMPL
    }));
    recv!(s, time 1000, Ok(TcpRepr {
        seq_number: LOCAL_SEQ + 1 + 6,
        ack_number: Some(REMOTE_SEQ + 1),
        payload:    &b"bbbbbb"[..],
        ..RECV_TEMPL
    }));

    // ack first packet.
    send!(
        s,
        time 3000,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1 + 6),
            ..SEND_TEMPL
        }
    );

    // this should keep retransmit timer on, because there's
    // still unacked data.
    assert!(s.timer.is_retransmit());

    // ack all three packets.
    // This might confuse the TCP stack because after the retransmit
    // it "thinks" the 3rd packet hasn't been transmitted yet, but it is getting acked.
    send!(
        s,
        time 3000,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1 + 18),
            ..SEND_TEMPL
        }
    );

    // this should exit retransmit mode.
    assert!(!s.timer.is_retransmit());
    // and consider all data ACKed.
    assert!(s.tx_buffer.is_empty());
    recv_nothing!(s, time 5000);
}

#[test]
fn test_retransmit_fin() {
    let mut s = socket_established();
    s.close();
    recv!(s, time 0, Ok(TcpRepr {
        control: TcpControl::Fin,
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        ..RECV_TEMPL
    }));

    recv_nothing!(s, time 999);
    recv!(s, time 1000, Ok(TcpRepr {
        control: TcpControl::Fin,
        seq_number: LOCAL_SEQ + 1,
        ack_number: Some(REMOTE_SEQ + 1),
        ..RECV_TEMPL
    }));
}

#[test]
fn test_retransmit_fin_wait() {
    let mut s = socket_fin_wait_1();
    // we send FIN
    recv!(
        s,
        [TcpRepr {
            control: TcpControl::Fin,
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1),
            ..RECV_TEMPL
        }]
    );
    // remote also sends FIN, does NOT ack ours.
    send!(
        s,
        TcpRepr {
            control: TcpControl::Fin,
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            ..SEND_TEMPL
        }
    );
    // we ack it
    recv!(
        s,
        [TcpRepr {
            control: TcpControl::None,
            seq_number: LOCAL_SEQ + 2,
            ack_number: Some(REMOTE_SEQ + 2),
            ..RECV_TEMPL
        }]
    );

    // we haven't got an ACK for our FIN, we should retransmit.
    recv_nothing!(s, time 999);
    recv!(
        s,
        time 1000,
        [TcpRepr {
            control: TcpControl::Fin,
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 2),
            ..RECV_TEMPL
        }]
    );
    recv_nothing!(s, time 2999);
    recv!(
        s,
        time 3000,
        [TcpRepr {
            control: TcpControl::Fin,
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 2),
            ..RECV_TEMPL
        }]
    );
}
