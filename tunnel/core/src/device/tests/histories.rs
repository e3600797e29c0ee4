//! Random histories.

use proptest::prelude::*;

use super::*;

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Up(usize),
    Down(usize),
    ControlUp(usize),
    ControlDown(usize),
    Gate(u8),
    Carry,
    Roam(u8),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..1392).prop_map(Step::Up),
        4 => (0usize..1392).prop_map(Step::Down),
        1 => (0usize..1300).prop_map(Step::ControlUp),
        1 => (0usize..1300).prop_map(Step::ControlDown),
        1 => (0u8..3).prop_map(Step::Gate),
        4 => Just(Step::Carry),
        1 => (2u8..9).prop_map(Step::Roam),
        1 => (0u16..2000).prop_map(Step::Wait),
    ]
}

/// A link that loses, repeats and reorders as told.
fn mistreat(datagrams: Vec<(SocketAddr, Vec<u8>)>, fate: &mut VecDeque<u8>) -> Vec<Vec<u8>> {
    let mut out: Vec<Vec<u8>> = Vec::new();
    for (_, datagram) in datagrams {
        match fate.pop_front().unwrap_or(9) {
            0 | 1 => {}
            2 => out.extend([datagram.clone(), datagram]),
            3 => out.insert(0, datagram),
            _ => out.push(datagram),
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the link does: nothing is delivered twice or changed, control passes beside the gate, usage never
    /// holds control bytes, and neither end counts more received than the other has sent.
    #[test]
    fn no_link_makes_the_ends_disagree(
        steps in proptest::collection::vec(step(), 1..80),
        fate in proptest::collection::vec(0u8..12, 0..200),
    ) {
        let mut pair = Pair::open();
        let mut fate = VecDeque::from(fate);
        let (mut sent_up, mut sent_down) = (Vec::new(), Vec::new());
        for (n, step) in steps.into_iter().enumerate() {
            let tag = (n as u32).to_be_bytes();
            let fill = |len: usize| { let mut bytes = vec![0; len.max(4)]; bytes[..4].copy_from_slice(&tag); bytes };
            match step {
                Step::Up(len) => {
                    let packet = request(&fill(len));
                    if pair.up(&packet).is_ok() { sent_up.push(packet); }
                }
                Step::Down(len) => {
                    let packet = response(&fill(len));
                    if pair.down(&packet).is_ok() { sent_down.push(packet); }
                }
                Step::ControlUp(len) => { let _ = pair.client.send_control(pair.gateway, &fill(len), pair.now); }
                Step::ControlDown(len) => { let _ = pair.provider.send_control(pair.peer, &fill(len), pair.now); }
                Step::Gate(which) => {
                    let gate = [Gate::Closed, Gate::Open, Gate::throttled(10_000)][usize::from(which)];
                    pair.provider.set_gate(pair.peer, gate, pair.now);
                }
                Step::Carry => {
                    for datagram in mistreat(datagrams(&mut pair.client), &mut fate) { pair.carry_up(&datagram); }
                    for datagram in mistreat(datagrams(&mut pair.provider), &mut fate) { pair.carry_down(&datagram); }
                }
                Step::Roam(to) => pair.client_at = outer(to),
                Step::Wait(millis) => pair.now += Duration::from_millis(millis.into()),
            }
        }
        pair.settle();
        for (sent, delivered) in [(&sent_up, &pair.at_provider.packets), (&sent_down, &pair.at_client.packets)] {
            let mut rest = sent.clone();
            for packet in delivered {
                let at = rest.iter().position(|other| other == packet);
                prop_assert!(at.is_some(), "a packet was changed, forged or delivered twice");
                rest.remove(at.unwrap());
            }
        }
        let total = |packets: &[Vec<u8>]| packets.iter().map(|packet| packet.len() as u64).sum::<u64>();
        let (theirs, ours) = pair.usages();
        prop_assert_eq!(ours.bytes_up, total(&sent_up));
        prop_assert_eq!(theirs.bytes_down, total(&sent_down));
        prop_assert_eq!(theirs.bytes_up, total(&pair.at_provider.packets));
        prop_assert_eq!(ours.bytes_down, total(&pair.at_client.packets));
        prop_assert!(theirs.bytes_up <= ours.bytes_up && ours.bytes_down <= theirs.bytes_down);
    }

    /// On a link that loses nothing, with an open gate, both ends count the same to the byte.
    #[test]
    fn on_a_whole_path_both_ends_count_the_same(
        packets in proptest::collection::vec((any::<bool>(), 0usize..1392), 0..100),
    ) {
        let mut pair = Pair::open();
        for (up, len) in packets {
            if up { pair.up(&request(&vec![0; len])).unwrap(); } else { pair.down(&response(&vec![0; len])).unwrap(); }
        }
        pair.settle();
        let (theirs, ours) = pair.usages();
        prop_assert_eq!(theirs, ours);
    }

    #[test]
    fn no_datagram_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0u8..6) {
        let mut pair = Pair::open();
        let mut bytes = bytes;
        if bytes.len() >= 4 {
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        }
        pair.carry_up(&bytes);
        let mut short = [0; 16];
        let _ = pair.provider.handle_datagram(outer(2), &bytes, pair.now, &mut short);
        let _ = pair.up(&bytes);
    }
}
