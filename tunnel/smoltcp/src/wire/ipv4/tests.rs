use super::*;

#[allow(unused)]
pub(crate) const MOCK_IP_ADDR_1: Address = Address::new(192, 168, 1, 1);
#[allow(unused)]
pub(crate) const MOCK_IP_ADDR_2: Address = Address::new(192, 168, 1, 2);
#[allow(unused)]
pub(crate) const MOCK_IP_ADDR_3: Address = Address::new(192, 168, 1, 3);
#[allow(unused)]
pub(crate) const MOCK_IP_ADDR_4: Address = Address::new(192, 168, 1, 4);
#[allow(unused)]
pub(crate) const MOCK_UNSPECIFIED: Address = Address::UNSPECIFIED;

static PACKET_BYTES: [u8; 30] = [
    0x45, 0x00, 0x00, 0x1e, 0x01, 0x02, 0x62, 0x03, 0x1a, 0x01, 0xd5, 0x6e, 0x11, 0x12, 0x13, 0x14,
    0x21, 0x22, 0x23, 0x24, 0xaa, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff,
];

static PAYLOAD_BYTES: [u8; 10] = [0xaa, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff];

#[test]
fn test_deconstruct() {
    let packet = Packet::new_unchecked(&PACKET_BYTES[..]);
    assert_eq!(packet.version(), 4);
    assert_eq!(packet.header_len(), 20);
    assert_eq!(packet.dscp(), 0);
    assert_eq!(packet.ecn(), 0);
    assert_eq!(packet.total_len(), 30);
    assert_eq!(packet.ident(), 0x102);
    assert!(packet.more_frags());
    assert!(packet.dont_frag());
    assert_eq!(packet.frag_offset(), 0x203 * 8);
    assert_eq!(packet.hop_limit(), 0x1a);
    assert_eq!(packet.next_header(), Protocol::Icmp);
    assert_eq!(packet.checksum(), 0xd56e);
    assert_eq!(packet.src_addr(), Address::new(0x11, 0x12, 0x13, 0x14));
    assert_eq!(packet.dst_addr(), Address::new(0x21, 0x22, 0x23, 0x24));
    assert!(packet.verify_checksum());
    assert_eq!(packet.payload(), &PAYLOAD_BYTES[..]);
}

#[test]
fn test_construct() {
    let mut bytes = vec![0xa5; 30];
    let mut packet = Packet::new_unchecked(&mut bytes);
    packet.set_version(4);
    packet.set_header_len(20);
    packet.clear_flags();
    packet.set_dscp(0);
    packet.set_ecn(0);
    packet.set_total_len(30);
    packet.set_ident(0x102);
    packet.set_more_frags(true);
    packet.set_dont_frag(true);
    packet.set_frag_offset(0x203 * 8);
    packet.set_hop_limit(0x1a);
    packet.set_next_header(Protocol::Icmp);
    packet.set_src_addr(Address::new(0x11, 0x12, 0x13, 0x14));
    packet.set_dst_addr(Address::new(0x21, 0x22, 0x23, 0x24));
    packet.fill_checksum();
    packet.payload_mut().copy_from_slice(&PAYLOAD_BYTES[..]);
    assert_eq!(&*packet.into_inner(), &PACKET_BYTES[..]);
}

#[test]
fn test_overlong() {
    let mut bytes = vec![];
    bytes.extend(&PACKET_BYTES[..]);
    bytes.push(0);

    assert_eq!(
        Packet::new_unchecked(&bytes).payload().len(),
        PAYLOAD_BYTES.len()
    );
    assert_eq!(
        Packet::new_unchecked(&mut bytes).payload_mut().len(),
        PAYLOAD_BYTES.len()
    );
}

#[test]
fn test_total_len_overflow() {
    let mut bytes = vec![];
    bytes.extend(&PACKET_BYTES[..]);
    Packet::new_unchecked(&mut bytes).set_total_len(128);

    assert_eq!(Packet::new_checked(&bytes).unwrap_err(), Error);
}

static REPR_PACKET_BYTES: [u8; 24] = [
    0x45, 0x00, 0x00, 0x18, 0x00, 0x00, 0x40, 0x00, 0x40, 0x01, 0xd2, 0x79, 0x11, 0x12, 0x13, 0x14,
    0x21, 0x22, 0x23, 0x24, 0xaa, 0x00, 0x00, 0xff,
];

static REPR_PAYLOAD_BYTES: [u8; 4] = [0xaa, 0x00, 0x00, 0xff];

const fn packet_repr() -> Repr {
    Repr {
        src_addr: Address::new(0x11, 0x12, 0x13, 0x14),
        dst_addr: Address::new(0x21, 0x22, 0x23, 0x24),
        next_header: Protocol::Icmp,
        payload_len: 4,
        hop_limit: 64,
    }
}

#[test]
fn test_parse() {
    let packet = Packet::new_unchecked(&REPR_PACKET_BYTES[..]);
    let repr = Repr::parse(&packet, &ChecksumCapabilities::default()).unwrap();
    assert_eq!(repr, packet_repr());
}

#[test]
fn test_parse_bad_version() {
    let mut bytes = vec![0; 24];
    bytes.copy_from_slice(&REPR_PACKET_BYTES[..]);
    let mut packet = Packet::new_unchecked(&mut bytes);
    packet.set_version(6);
    packet.fill_checksum();
    let packet = Packet::new_unchecked(&*packet.into_inner());
    assert_eq!(
        Repr::parse(&packet, &ChecksumCapabilities::default()),
        Err(Error)
    );
}

#[test]
fn test_parse_total_len_less_than_header_len() {
    let mut bytes = vec![0; 40];
    bytes[0] = 0x09;
    assert_eq!(Packet::new_checked(&mut bytes), Err(Error));
}

#[test]
fn test_parse_small_ihl() {
    let mut bytes = vec![0; 24];
    bytes.copy_from_slice(&REPR_PACKET_BYTES[..]);
    let mut packet = Packet::new_unchecked(&mut bytes);
    packet.set_header_len(16);

    assert_eq!(Packet::new_checked(&mut bytes), Err(Error));
}

#[test]
fn test_emit() {
    let repr = packet_repr();
    let mut bytes = vec![0xa5; repr.buffer_len() + REPR_PAYLOAD_BYTES.len()];
    let mut packet = Packet::new_unchecked(&mut bytes);
    repr.emit(&mut packet, &ChecksumCapabilities::default());
    packet.payload_mut().copy_from_slice(&REPR_PAYLOAD_BYTES);
    assert_eq!(&*packet.into_inner(), &REPR_PACKET_BYTES[..]);
}
