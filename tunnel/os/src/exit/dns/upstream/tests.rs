#![allow(clippy::unwrap_used)]

use std::thread;

use hickory_proto::rr::{Record, rdata::CNAME};

use super::*;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn cname(owner: &str, target: &str, ttl: u32) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
}

fn a(owner: &str, address: [u8; 4], ttl: u32) -> Record {
    let address = Ipv4Addr::from(address);
    Record::from_rdata(name(owner), ttl, RData::A(address.into()))
}

fn answer(records: Vec<Record>) -> Message {
    let mut answer = Message::response(7, hickory_proto::op::OpCode::Query);
    answer.add_answers(records);
    answer
}

#[test]
fn every_name_on_the_way_is_told() {
    let found = follow(
        &answer(vec![
            a("c.example.", [9, 9, 9, 9], 300),
            cname("A.example.", "b.example.", 60),
            cname("b.example.", "c.example.", 20),
            a("elsewhere.example.", [8, 8, 8, 8], 1),
        ]),
        &name("a.example."),
    );
    assert_eq!(found.names, [name("b.example."), name("c.example.")]);
    assert_eq!(found.addresses, [IpAddr::from([9, 9, 9, 9])]);
    assert_eq!(found.ttl, 20);
}

#[test]
fn a_circle_of_names_ends() {
    let found = follow(
        &answer(vec![
            cname("a.example.", "b.example.", 60),
            cname("b.example.", "a.example.", 60),
        ]),
        &name("a.example."),
    );
    assert!(found.addresses.is_empty());
    assert_eq!(found.names.len(), 2);
}

#[test]
fn a_chain_that_is_too_long_tells_no_address() {
    let end = |links: usize| {
        let mut records: Vec<_> = (0..links)
            .map(|link| {
                cname(
                    &format!("n{link}.example."),
                    &format!("n{}.example.", link + 1),
                    60,
                )
            })
            .collect();
        records.push(a(&format!("n{links}.example."), [9, 9, 9, 9], 60));
        follow(&answer(records), &name("n0.example."))
            .addresses
            .len()
    };
    assert_eq!(end(LONGEST_CHAIN), 1);
    assert_eq!(end(LONGEST_CHAIN + 1), 0);
}

#[test]
fn resolvers_are_read_as_the_system_reads_them() {
    let file = "# nameserver 1.1.1.1\nsearch lan\nnameserver 192.168.1.1\nnameserver\t::1 # local\n\
                nameserver nonsense\nnameserver fe80::1%3\nnameserver 9.9.9.9\n";
    let found: Vec<String> = servers(file).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["192.168.1.1:53", "[::1]:53", "[fe80::1%3]:53"]);
    assert_eq!(servers("")[0].to_string(), "127.0.0.1:53");
}

#[test]
fn hosts_and_addresses_are_not_asked_for() {
    let localhost = known(&name("www.LocalHost."), RecordType::A).unwrap();
    assert_eq!(localhost.addresses, [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    let address = known(&name("169.254.169.254."), RecordType::A).unwrap();
    assert_eq!(address.code, ResponseCode::NXDomain);
    assert_eq!(known(&name("example.org."), RecordType::A), None);
}

#[test]
fn another_s_answers_are_not_taken() {
    let resolver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = resolver.local_addr().unwrap();
    let replies = thread::spawn(move || {
        let mut buffer = [0; 512];
        let (len, from) = resolver.recv_from(&mut buffer).unwrap();
        let question = Message::from_vec(&buffer[..len]).unwrap();
        let reply = |id: u16, asked: &str| {
            let mut reply = answer(vec![a(asked, [id as u8; 4], 60)]);
            reply.metadata.id = id;
            reply.add_query(Query::query(name(asked), RecordType::A));
            resolver.send_to(&reply.to_vec().unwrap(), from).unwrap();
        };
        resolver.send_to(b"nonsense", from).unwrap();
        reply(question.metadata.id ^ 1, "a.example.");
        reply(question.metadata.id, "b.example.");
        reply(question.metadata.id, "a.example.");
        question.metadata.id
    });
    let query = Query::query(name("a.example."), RecordType::A);
    let message = ask(server, &query, Duration::from_secs(30)).unwrap();
    let id = replies.join().unwrap();
    let found = follow(&message, &name("a.example."));
    assert_eq!(found.addresses, [IpAddr::from([id as u8; 4])]);
}
