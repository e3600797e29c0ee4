//! Two stacks with a path between them that delays, queues and loses, in virtual time.
#![allow(clippy::unwrap_used)]

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use ipsx_tunnel_core::offload::Segments;

use super::{Buffers, Outgoing, Scratch, Stack};

const MS: Duration = Duration::from_millis(1);

/// One way, without queueing.
const DELAY: Duration = Duration::from_millis(10);

/// Bytes per millisecond that the path carries from the sender to the receiver.
const RATE: usize = 5_000;

/// What the path does with the numbered data packet.
type Fate = Box<dyn FnMut(usize) -> Packet>;

/// When, the how-many-th packet, whether it arrives at the receiver, and its bytes.
type Arrival = (Instant, usize, bool, Vec<u8>);

#[derive(Clone, Copy, PartialEq)]
enum Packet {
    Passes,
    Lost,
    /// Arrives this much later than it should.
    Late(Duration),
}

struct Path {
    now: Instant,
    sender: Stack,
    receiver: Stack,
    scratch: Scratch,
    /// By arrival: to the receiver or not, and the packet.
    under_way: BinaryHeap<Reverse<Arrival>>,
    free_at: Instant,
    /// Bytes that may wait for the path; what comes on top is lost.
    queue: usize,
    packets: usize,
    data_packets: usize,
    data_bytes: usize,
    /// Sends without selective acknowledgements.
    plain: bool,
    fate: Fate,
}

impl Path {
    fn new(v6: bool, fate: Fate) -> Self {
        let now = Instant::now();
        let buffers = Buffers {
            receive: 512 << 10,
            send: 512 << 10,
        };
        let (a, b): (SocketAddr, SocketAddr) = if v6 {
            (
                "[fd77::2]:40000".parse().unwrap(),
                "[2001:db8::1]:80".parse().unwrap(),
            )
        } else {
            (
                "10.77.0.2:40000".parse().unwrap(),
                "192.0.2.1:80".parse().unwrap(),
            )
        };
        let mut receiver = Stack::listen(b, buffers, 2, now).unwrap();
        receiver.accept();
        Self {
            now,
            sender: Stack::connect(a, b, buffers, 1, now).unwrap(),
            receiver,
            scratch: Scratch::new(),
            under_way: BinaryHeap::new(),
            free_at: now,
            queue: 10_000_000,
            packets: 0,
            data_packets: 0,
            data_bytes: 0,
            plain: false,
            fate,
        }
    }

    /// Moves `total` bytes; returns how long it took. Fails if it takes more than a minute, or a byte is wrong.
    fn transfer(&mut self, total: usize) -> Duration {
        let started = self.now;
        let (mut written, mut read) = (0, 0);
        while read < total {
            assert!(
                self.now < started + 60_000 * MS,
                "stuck at {read} of {total}"
            );
            let socket = self.sender.socket();
            while written < total && socket.can_send() {
                let count = socket
                    .send(|room| {
                        let count = room.len().min(total - written);
                        for (at, byte) in room[..count].iter_mut().enumerate() {
                            *byte = value(written + at);
                        }
                        (count, count)
                    })
                    .unwrap();
                written += count;
            }
            let socket = self.receiver.socket();
            while socket.can_recv() {
                read += socket
                    .recv(|data| {
                        for (at, &byte) in data.iter().enumerate() {
                            assert_eq!(byte, value(read + at), "at {}", read + at);
                        }
                        (data.len(), data.len())
                    })
                    .unwrap();
            }
            self.step();
        }
        self.now - started
    }

    fn step(&mut self) {
        assert!(self.packets < 1_000_000, "packets without end");
        self.send_all(true);
        self.send_all(false);
        let arrival = self.under_way.peek().map(|Reverse((at, ..))| *at);
        let next = [
            arrival,
            self.sender.deadline(self.now),
            self.receiver.deadline(self.now),
        ]
        .into_iter()
        .flatten()
        .min()
        .expect("somebody waits for something");
        self.now = self.now.max(next);
        while let Some(Reverse((at, ..))) = self.under_way.peek() {
            if *at > self.now {
                break;
            }
            let Reverse((_, _, to_receiver, packet)) = self.under_way.pop().unwrap();
            let mut answers = Vec::new();
            let stack = if to_receiver {
                &mut self.receiver
            } else {
                &mut self.sender
            };
            stack.ingest(&packet, self.now, &mut self.scratch, &mut |answer| {
                cut(answer, &mut answers)
            });
            for answer in answers {
                self.carry(!to_receiver, answer);
            }
        }
    }

    fn send_all(&mut self, from_sender: bool) {
        let mut packets = Vec::new();
        let stack = if from_sender {
            &mut self.sender
        } else {
            &mut self.receiver
        };
        while stack.egress(self.now, 8, &mut self.scratch, &mut |packet| {
            cut(packet, &mut packets)
        }) {}
        for packet in packets {
            self.carry(from_sender, packet);
        }
    }

    fn carry(&mut self, from_sender: bool, mut packet: Vec<u8>) {
        self.packets += 1;
        if self.plain {
            forbid_sack(&mut packet);
        }
        let mut arrives = self.now + DELAY;
        if from_sender && packet.len() > 100 {
            self.data_packets += 1;
            self.data_bytes += packet.len();
            let fate = (self.fate)(self.data_packets);
            let start = self.free_at.max(self.now);
            let waiting = (start - self.now).as_micros() as usize * RATE / 1000;
            if fate == Packet::Lost || waiting + packet.len() > self.queue {
                return;
            }
            self.free_at = start + MS * packet.len() as u32 / RATE as u32;
            arrives = self.free_at + DELAY;
            if let Packet::Late(by) = fate {
                arrives += by;
            }
        }
        self.under_way
            .push(Reverse((arrives, self.packets, from_sender, packet)));
    }
}

fn value(at: usize) -> u8 {
    (at % 251) as u8
}

fn cut(outgoing: Outgoing<'_>, packets: &mut Vec<Vec<u8>>) {
    let segments = Segments::of_tcp(outgoing.packet, outgoing.segment_size).unwrap();
    for index in 0..segments.count() {
        let mut packet = vec![0; segments.len_of(index)];
        segments.write(index, &mut packet);
        assert!(packet.len() <= super::INNER_MTU);
        packets.push(packet);
    }
}

/// Turns the option of a SYN that permits selective acknowledgements into padding.
fn forbid_sack(packet: &mut [u8]) {
    const SYN: u8 = 2;
    if packet[0] >> 4 != 4 || packet[33] & SYN == 0 {
        return;
    }
    let mut at = 40;
    while at + 1 < packet.len() {
        match packet[at..] {
            [0, ..] => return,
            [1, ..] => at += 1,
            [4, 2, ..] => {
                packet[at..at + 2].fill(1);
                return;
            }
            [_, len, ..] => at += usize::from(len.max(2)),
            _ => return,
        }
    }
}

fn pseudo_random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// How long the same takes without losses.
fn undisturbed(total: usize) -> Duration {
    Path::new(false, Box::new(|_| Packet::Passes)).transfer(total)
}

#[test]
fn nothing_is_sent_twice_on_a_good_path() {
    for v6 in [false, true] {
        let mut path = Path::new(v6, Box::new(|_| Packet::Passes));
        let took = path.transfer(8 << 20);
        let headers = path.data_packets * if v6 { 60 } else { 40 };
        assert_eq!(path.data_bytes - headers, 8 << 20);
        assert!(
            path.data_packets <= (8 << 20) / 1360 + 20,
            "{} packets",
            path.data_packets
        );
        assert!(
            took < 2_000 * MS,
            "{took:?} for what takes 1.7 s at the path's rate"
        );
    }
}

#[test]
fn a_connection_that_both_have_ended_leaves_no_work() {
    let mut path = Path::new(false, Box::new(|_| Packet::Passes));
    path.transfer(100_000);
    path.sender.socket().close();
    while !path.receiver.at_end() {
        path.step();
    }
    path.receiver.socket().close();
    let ended = path.now;
    while !path.sender.only_lingers(path.now) || !path.receiver.is_over() {
        path.step();
        assert!(path.now < ended + 100 * MS, "{:?}", path.sender.state());
    }
}

#[test]
fn bursts_of_losses_cost_a_few_round_trips() {
    let good = undisturbed(4 << 20);
    for (name, lost) in [
        ("one", 1000..1001),
        ("ten in a row", 1000..1010),
        ("a hundred in a row", 1000..1100),
    ] {
        let mut path = Path::new(
            false,
            Box::new(move |number| {
                if lost.contains(&number) {
                    Packet::Lost
                } else {
                    Packet::Passes
                }
            }),
        );
        let took = path.transfer(4 << 20);
        assert!(took < good + 150 * MS, "{name}: {took:?} against {good:?}");
    }
    let mut path = Path::new(
        false,
        Box::new(|number| {
            if (1000..1060).contains(&number) && number % 2 == 0 {
                Packet::Lost
            } else {
                Packet::Passes
            }
        }),
    );
    let took = path.transfer(4 << 20);
    assert!(
        took < good + 150 * MS,
        "every second of sixty: {took:?} against {good:?}"
    );
}

#[test]
fn a_repair_that_is_lost_is_repaired_again() {
    let good = undisturbed(4 << 20);
    // Whatever is sent right after the first loss was found is the repair, and what follows.
    for width in [1, 5] {
        let mut path = Path::new(
            false,
            Box::new(move |number| {
                let first = (1000..1003).contains(&number);
                let again = (1000..1400).contains(&number) && number % (40 / width) == 0;
                if first || again {
                    Packet::Lost
                } else {
                    Packet::Passes
                }
            }),
        );
        let took = path.transfer(4 << 20);
        assert!(took < good + 400 * MS, "{took:?} against {good:?}");
    }
}

#[test]
fn one_percent_of_loss_leaves_most_of_what_cubic_may_use() {
    for seed in 1..=3 {
        let mut random = pseudo_random(seed);
        let mut path = Path::new(
            false,
            Box::new(move |_| {
                if random().is_multiple_of(100) {
                    Packet::Lost
                } else {
                    Packet::Passes
                }
            }),
        );
        let took = path.transfer(4 << 20);
        // The window that fits this loss is about 14 segments: one megabyte per second at this round trip.
        assert!(took < 7_000 * MS, "{took:?}");
    }
}

#[test]
fn a_lost_end_is_found_before_the_timeout() {
    let total = 1380 * 100;
    let good = undisturbed(total);
    for lost in [1, 2, 5] {
        let mut path = Path::new(
            false,
            Box::new(move |number| {
                if number > 100 - lost && number <= 100 {
                    Packet::Lost
                } else {
                    Packet::Passes
                }
            }),
        );
        let took = path.transfer(total);
        assert!(
            took < good + 180 * MS,
            "{lost} lost: {took:?} against {good:?}"
        );
    }
}

#[test]
fn an_overflowing_queue_does_not_stop_the_flow() {
    let mut path = Path::new(false, Box::new(|_| Packet::Passes));
    path.queue = 60_000;
    let took = path.transfer(8 << 20);
    assert!(
        took < 2_600 * MS,
        "{took:?} for what takes 1.7 s at the path's rate"
    );
}

#[test]
fn packets_that_overtake_each_other_are_not_lost() {
    let mut path = Path::new(
        false,
        Box::new(|number| {
            if number % 50 == 0 {
                Packet::Late(Duration::from_micros(500))
            } else {
                Packet::Passes
            }
        }),
    );
    path.transfer(2 << 20);
    let twice = path.data_bytes - path.data_packets * 40 - (2 << 20);
    assert_eq!(twice, 0, "bytes that were sent twice");
}

#[test]
fn receivers_without_selective_acknowledgements_get_one_repair_per_round_trip() {
    let good = undisturbed(4 << 20);
    let mut path = Path::new(
        false,
        Box::new(|number| {
            if (1000..1005).contains(&number) {
                Packet::Lost
            } else {
                Packet::Passes
            }
        }),
    );
    path.plain = true;
    let took = path.transfer(4 << 20);
    assert!(took < good + 600 * MS, "{took:?} against {good:?}");
}
