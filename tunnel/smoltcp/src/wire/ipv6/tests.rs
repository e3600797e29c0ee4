use super::*;

const ALL_NODES: Address = Address::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Address = Address::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

static REPR_PACKET_BYTES: [u8; 52] = [
    0x60, 0x00, 0x00, 0x00, 0x00, 0x0c, 0x11, 0x40, 0xfe, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0xff, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x01, 0x00, 0x02, 0x00, 0x0c, 0x02, 0x4e,
    0xff, 0xff, 0xff, 0xff,
];
static REPR_PAYLOAD_BYTES: [u8; 12] = [
    0x00, 0x01, 0x00, 0x02, 0x00, 0x0c, 0x02, 0x4e, 0xff, 0xff, 0xff, 0xff,
];

const fn packet_repr() -> Repr {
    Repr {
        src_addr: Address::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
        dst_addr: ALL_NODES,
        next_header: Protocol::Udp,
        payload_len: 12,
        hop_limit: 64,
    }
}

#[test]
fn test_packet_deconstruction() {
    let packet = Packet::new_unchecked(&REPR_PACKET_BYTES[..]);
    assert_eq!(packet.check_len(), Ok(()));
    assert_eq!(packet.version(), 6);
    assert_eq!(packet.traffic_class(), 0);
    assert_eq!(packet.flow_label(), 0);
    assert_eq!(packet.total_len(), 0x34);
    assert_eq!(packet.payload_len() as usize, REPR_PAYLOAD_BYTES.len());
    assert_eq!(packet.next_header(), Protocol::Udp);
    assert_eq!(packet.hop_limit(), 0x40);
    assert_eq!(packet.src_addr(), Address::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
    assert_eq!(packet.dst_addr(), ALL_NODES);
    assert_eq!(packet.payload(), &REPR_PAYLOAD_BYTES[..]);
}

#[test]
fn test_packet_construction() {
    let mut bytes = [0xff; 52];
    let mut packet = Packet::new_unchecked(&mut bytes[..]);
    // Version, Traffic Class, and Flow Label are not
    // byte aligned. make sure the setters and getters
    // do not interfere with each other.
    packet.set_version(6);
    assert_eq!(packet.version(), 6);
    packet.set_traffic_class(0x99);
    assert_eq!(packet.version(), 6);
    assert_eq!(packet.traffic_class(), 0x99);
    packet.set_flow_label(0x54321);
    assert_eq!(packet.traffic_class(), 0x99);
    assert_eq!(packet.flow_label(), 0x54321);
    packet.set_payload_len(0xc);
    packet.set_next_header(Protocol::Udp);
    packet.set_hop_limit(0xfe);
    packet.set_src_addr(ALL_ROUTERS);
    packet.set_dst_addr(ALL_NODES);
    packet
        .payload_mut()
        .copy_from_slice(&REPR_PAYLOAD_BYTES[..]);
    let mut expected_bytes = [
        0x69, 0x95, 0x43, 0x21, 0x00, 0x0c, 0x11, 0xfe, 0xff, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0xff, 0x02, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    ];
    let start = expected_bytes.len() - REPR_PAYLOAD_BYTES.len();
    expected_bytes[start..].copy_from_slice(&REPR_PAYLOAD_BYTES[..]);
    assert_eq!(packet.check_len(), Ok(()));
    assert_eq!(&*packet.into_inner(), &expected_bytes[..]);
}

#[test]
fn test_overlong() {
    let mut bytes = vec![];
    bytes.extend(&REPR_PACKET_BYTES[..]);
    bytes.push(0);

    assert_eq!(
        Packet::new_unchecked(&bytes).payload().len(),
        REPR_PAYLOAD_BYTES.len()
    );
    assert_eq!(
        Packet::new_unchecked(&mut bytes).payload_mut().len(),
        REPR_PAYLOAD_BYTES.len()
    );
}

#[test]
fn test_total_len_overflow() {
    let mut bytes = vec![];
    bytes.extend(&REPR_PACKET_BYTES[..]);
    Packet::new_unchecked(&mut bytes).set_payload_len(0x80);

    assert_eq!(Packet::new_checked(&bytes).unwrap_err(), Error);
}

#[test]
fn test_repr_parse_valid() {
    let packet = Packet::new_unchecked(&REPR_PACKET_BYTES[..]);
    let repr = Repr::parse(&packet).unwrap();
    assert_eq!(repr, packet_repr());
}

#[test]
fn test_repr_parse_bad_version() {
    let mut bytes = [0; 40];
    let mut packet = Packet::new_unchecked(&mut bytes[..]);
    packet.set_version(4);
    packet.set_payload_len(0);
    let packet = Packet::new_unchecked(&*packet.into_inner());
    assert_eq!(Repr::parse(&packet), Err(Error));
}

#[test]
fn test_repr_parse_smaller_than_header() {
    let mut bytes = [0; 40];
    let mut packet = Packet::new_unchecked(&mut bytes[..]);
    packet.set_version(6);
    packet.set_payload_len(39);
    let packet = Packet::new_unchecked(&*packet.into_inner());
    assert_eq!(Repr::parse(&packet), Err(Error));
}

#[test]
fn test_repr_parse_smaller_than_payload() {
    let mut bytes = [0; 40];
    let mut packet = Packet::new_unchecked(&mut bytes[..]);
    packet.set_version(6);
    packet.set_payload_len(1);
    let packet = Packet::new_unchecked(&*packet.into_inner());
    assert_eq!(Repr::parse(&packet), Err(Error));
}

#[test]
fn test_basic_repr_emit() {
    let repr = packet_repr();
    let mut bytes = vec![0xff; repr.buffer_len() + REPR_PAYLOAD_BYTES.len()];
    let mut packet = Packet::new_unchecked(&mut bytes);
    repr.emit(&mut packet);
    packet.payload_mut().copy_from_slice(&REPR_PAYLOAD_BYTES);
    assert_eq!(&*packet.into_inner(), &REPR_PACKET_BYTES[..]);
}
