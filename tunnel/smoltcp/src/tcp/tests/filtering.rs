use super::*;

#[test]
fn test_doesnt_accept_wrong_port() {
    let mut s = socket_established();
    s.rx_buffer = SocketBuffer::new(vec![0; 6]);
    s.assembler = Assembler::new();

    let tcp_repr = TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        dst_port: LOCAL_PORT + 1,
        ..SEND_TEMPL
    };
    assert!(!s.socket.accepts(&SEND_IP_TEMPL, &tcp_repr));

    let tcp_repr = TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        src_port: REMOTE_PORT + 1,
        ..SEND_TEMPL
    };
    assert!(!s.socket.accepts(&SEND_IP_TEMPL, &tcp_repr));
}

#[test]
fn test_doesnt_accept_wrong_ip() {
    let s = socket_established();

    let tcp_repr = TcpRepr {
        seq_number: REMOTE_SEQ + 1,
        ack_number: Some(LOCAL_SEQ + 1),
        payload: &b"abcdef"[..],
        ..SEND_TEMPL
    };

    let ip_repr = IpRepr::Ipv4(Ipv4Repr {
        src_addr: REMOTE_ADDR,
        dst_addr: LOCAL_ADDR,
        next_header: IpProtocol::Tcp,
        payload_len: tcp_repr.buffer_len(),
        hop_limit: 64,
    });
    assert!(s.socket.accepts(&ip_repr, &tcp_repr));

    let ip_repr_wrong_src = IpRepr::Ipv4(Ipv4Repr {
        src_addr: OTHER_ADDR,
        dst_addr: LOCAL_ADDR,
        next_header: IpProtocol::Tcp,
        payload_len: tcp_repr.buffer_len(),
        hop_limit: 64,
    });
    assert!(!s.socket.accepts(&ip_repr_wrong_src, &tcp_repr));

    let ip_repr_wrong_dst = IpRepr::Ipv4(Ipv4Repr {
        src_addr: REMOTE_ADDR,
        dst_addr: OTHER_ADDR,
        next_header: IpProtocol::Tcp,
        payload_len: tcp_repr.buffer_len(),
        hop_limit: 64,
    });
    assert!(!s.socket.accepts(&ip_repr_wrong_dst, &tcp_repr));
}
