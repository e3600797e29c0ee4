use super::*;

#[test]
fn test_closed_reject() {
    let s = socket();
    assert_eq!(s.state, State::Closed);

    let tcp_repr = TcpRepr {
        control: TcpControl::Syn,
        ..SEND_TEMPL
    };
    assert!(!s.socket.accepts(&SEND_IP_TEMPL, &tcp_repr));
}

#[test]
fn test_closed_reject_after_listen() {
    let mut s = socket();
    s.listen(LOCAL_END).unwrap();
    s.close();

    let tcp_repr = TcpRepr {
        control: TcpControl::Syn,
        ..SEND_TEMPL
    };
    assert!(!s.socket.accepts(&SEND_IP_TEMPL, &tcp_repr));
}

#[test]
fn test_closed_close() {
    let mut s = socket();
    s.close();
    assert_eq!(s.state, State::Closed);
}
