#![allow(clippy::unwrap_used)]

use super::*;

/// An attribute with its header and padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | 0x8000, &parts.concat())
}

fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&[0; 10]);
    bytes.extend_from_slice(body);
    bytes
}

fn tuple(kind: u16, source: &str, destination: &str, protocol: u8) -> Vec<u8> {
    let [source, destination]: [SocketAddr; 2] = [source, destination].map(|a| a.parse().unwrap());
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let first = if source.is_ipv4() { 1 } else { 3 };
    let addresses = nested(
        1,
        &[
            attribute(first, &octets(source.ip())),
            attribute(first + 1, &octets(destination.ip())),
        ],
    );
    let port = |kind, port: u16| attribute(kind, &port.to_be_bytes());
    let mut proto = vec![attribute(1, &[protocol])];
    match protocol {
        1 => proto.extend([
            port(4, source.port()),
            attribute(5, &[8]),
            attribute(6, &[0]),
        ]),
        58 => proto.extend([
            port(7, source.port()),
            attribute(8, &[128]),
            attribute(9, &[0]),
        ]),
        _ => proto.extend([port(2, source.port()), port(3, destination.port())]),
    }
    nested(kind, &[addresses, nested(2, &proto)])
}

/// As the kernel writes a flow: tuples, status and number, timeout, mark, and when it has ended what it counted.
fn flow_message(kind: u16, protocol: u8, ends: [&str; 4], counted: Option<(u64, u64)>) -> Vec<u8> {
    let counters = |kind, bytes: u64| {
        let packets = attribute(1, &7_u64.to_be_bytes());
        nested(kind, &[packets, attribute(2, &bytes.to_be_bytes())])
    };
    let mut body = vec![2, 0, 0, 0];
    body.extend(tuple(1, ends[0], ends[1], protocol));
    body.extend(tuple(2, ends[2], ends[3], protocol));
    body.extend(attribute(12, &0xabcd_u32.to_be_bytes()));
    body.extend(attribute(3, &0x188_u32.to_be_bytes()));
    if let Some((up, down)) = counted {
        body.extend([counters(9, up), counters(10, down)].concat());
    }
    body.extend(attribute(8, &0x6970_0001_u32.to_be_bytes()));
    message(1 << 8 | kind, &body)
}

const TRANSLATED: [&str; 4] = [
    "10.64.0.2:50000",
    "198.51.100.7:443",
    "198.51.100.7:443",
    "203.0.113.9:1024",
];

fn only(bytes: &[u8]) -> Message {
    let all: Vec<_> = messages(bytes).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0]
}

#[test]
fn a_flow_is_read_with_its_outside_port_and_what_it_moved() {
    let Message::New(flow) = only(&flow_message(0, 6, TRANSLATED, None)) else {
        panic!("a new flow");
    };
    assert_eq!(flow.mark, 0x6970_0001);
    assert_eq!(flow.source_port, 1024);
    assert_eq!(flow.destination, "198.51.100.7:443".parse().unwrap());
    assert_eq!(flow.name.protocol, FlowProtocol::Tcp);
    let end = only(&flow_message(2, 6, TRANSLATED, Some((300, 1 << 40))));
    let Message::Destroyed(end) = end else {
        panic!("its end");
    };
    assert_eq!(end.name, flow.name);
    assert_eq!((end.bytes_up, end.bytes_down), (300, 1 << 40));
}

#[test]
fn the_destination_is_where_the_flow_really_went() {
    let ends = [
        "[fd64::2]:50000",
        "[2001:db8::1]:80",
        "[2001:db8::99]:8080",
        "[2001:db8::7]:50000",
    ];
    let Message::New(flow) = only(&flow_message(0, 17, ends, None)) else {
        panic!("a new flow");
    };
    assert_eq!(flow.name.protocol, FlowProtocol::Udp);
    assert_eq!(flow.source_port, 50_000);
    assert_eq!(flow.destination, "[2001:db8::99]:8080".parse().unwrap());
}

#[test]
fn an_echo_has_its_identifier_for_a_port_and_goes_to_none() {
    for (protocol, ends) in [
        (
            1,
            [
                "10.64.0.2:7",
                "198.51.100.7:0",
                "198.51.100.7:9",
                "203.0.113.9:0",
            ],
        ),
        (
            58,
            [
                "[fd64::2]:7",
                "[2001:db8::1]:0",
                "[2001:db8::1]:9",
                "[2001:db8::7]:0",
            ],
        ),
    ] {
        let Message::New(flow) = only(&flow_message(0, protocol, ends, None)) else {
            panic!("a new flow");
        };
        assert_eq!(flow.name.protocol, FlowProtocol::Echo);
        assert_eq!((flow.source_port, flow.destination.port()), (9, 0));
    }
}

#[test]
fn what_is_nobodys_is_left_alone() {
    let mut unmarked = vec![2, 0, 0, 0];
    unmarked.extend(tuple(1, TRANSLATED[0], TRANSLATED[1], 6));
    unmarked.extend(tuple(2, TRANSLATED[2], TRANSLATED[3], 6));
    unmarked.extend(attribute(12, &[0; 4]));
    assert_eq!(only(&message(1 << 8, &unmarked)), Message::Other);
    // GRE; another subsystem; an error, an acknowledgement, the end of a list.
    assert_eq!(only(&flow_message(0, 47, TRANSLATED, None)), Message::Other);
    assert_eq!(only(&message(10 << 8, &[2, 0, 0, 0])), Message::Other);
    assert_eq!(
        only(&message(2, &(-1_i32).to_ne_bytes())),
        Message::Answer(1)
    );
    assert_eq!(only(&message(2, &0_i32.to_ne_bytes())), Message::Answer(0));
    assert_eq!(only(&message(3, &[0; 4])), Message::Done);
}

/// Every prefix of a datagram and every changed byte is read without harm: as fewer messages, or as none.
#[test]
fn broken_messages_are_no_flows() {
    let flow = flow_message(2, 6, TRANSLATED, Some((1, 2)));
    let two = [flow.clone(), flow.clone()].concat();
    assert_eq!(messages(&two).count(), 2);
    for len in 0..two.len() {
        let read: Vec<_> = messages(&two[..len]).collect();
        let whole = len / flow.len();
        assert!(
            read[..whole]
                .iter()
                .all(|m| matches!(m, Message::Destroyed(_))),
            "{len}: {read:?}"
        );
        if len % flow.len() > 0 {
            assert_eq!(read[whole..], [Message::Malformed], "{len}");
        }
    }
    for place in 0..flow.len() {
        for value in [0, 1, 4, 0x7f, 0xff] {
            let mut changed = flow.clone();
            changed[place] = value;
            // It ends, whatever the lengths say.
            assert!(messages(&changed).count() <= flow.len() / 16);
        }
    }
    // An attribute that claims to be empty of its own header does not go round in circles.
    let mut stuck = vec![2, 0, 0, 0];
    stuck.extend([0; 8]);
    assert_eq!(only(&message(1 << 8, &stuck)), Message::Other);
}

#[test]
fn a_question_names_the_mark_and_its_bits() {
    let message = question(Question::List, 0x6970_0000, 0xffff_0000);
    assert_eq!(message.len(), 36);
    assert_eq!(message[..4], 36_u32.to_ne_bytes());
    let attributes = Attributes(&message[20..]);
    assert_eq!(attributes.get(8), Some([0x69, 0x70, 0, 0]));
    assert_eq!(attributes.get(21), Some([0xff, 0xff, 0, 0]));
}
