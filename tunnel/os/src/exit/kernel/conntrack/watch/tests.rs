#![allow(clippy::unwrap_used)]

use std::{
    collections::HashSet,
    net::{Ipv4Addr, UdpSocket},
    process::Command,
};

use ipsx_tunnel_core::{Device, DeviceConfig, PeerConfig, PrivateKey, Side};
use tokio::sync::mpsc;

use super::*;
use crate::exit::{FlowProtocol, kernel::conntrack::forget};

const MARKS: u32 = 0x6970_0000;
const MARK: u32 = MARKS | 1;
const FLOWS: usize = 3_000;
/// A busy machine takes its time, and the kernel's next try too.
const LONG: Duration = Duration::from_secs(60);

fn peer() -> PeerId {
    let key = || PrivateKey::generate(&mut rand::rngs::OsRng);
    let device = DeviceConfig {
        private_key: key(),
        side: Side::Provider,
        gateway_v4: Ipv4Addr::new(10, 77, 0, 1),
        control_port: 1,
    };
    let peer = PeerConfig {
        public_key: key().public_key(),
        preshared_key: None,
        endpoint: None,
        allowed_ips: vec!["10.77.0.2/32".parse().unwrap()],
        keepalive: None,
    };
    let mut device = Device::new(device, [7; 32], Instant::now());
    device.add_peer(peer, Instant::now()).unwrap()
}

/// Set where this test runs itself again, in a network namespace of its own.
const INSIDE: &str = "IPSX_TEST_INSIDE_NAMESPACE";

#[test]
#[allow(clippy::print_stderr)]
fn an_overrun_loses_no_flow() {
    if std::env::var_os(INSIDE).is_some() {
        return flows_outrun_their_reader();
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "exit::kernel::conntrack::watch::tests::an_overrun_loses_no_flow",
            "--exact",
            "--nocapture",
        ])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("unshare failed") || said.contains("uid_map") {
        eprintln!("not tested: this user may make no network namespaces here");
        return;
    }
    let ran = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    assert!(output.status.success() && ran, "{output:?}");
}

fn flows_outrun_their_reader() {
    let run = |words: &[&str]| {
        let status = Command::new(words[0]).args(&words[1..]).status().unwrap();
        assert!(status.success(), "{words:?}");
    };
    run(&["ip", "link", "set", "lo", "up"]);
    let marked = format!(
        "table ip t {{ chain c {{ type filter hook output priority -10; ct mark set {MARK}; }}; }}"
    );
    run(&["nft", &marked]);

    let listener = Listener::open().unwrap();
    listener.0.set_recv_buffer_size(16 << 10).unwrap();
    let (sender, mut told) = mpsc::channel(64);
    let watch = listener.follow(MARKS, FlowLog::to(sender)).unwrap();
    let peer = peer();
    watch.begin(MARK, peer);
    let mut next = || {
        let deadline = Instant::now() + LONG;
        loop {
            match told.try_recv() {
                Ok(event) => return event,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    };

    // Nobody reads while they come.
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let destination = server.local_addr().unwrap();
    let stalled = watch.shared.lock();
    let ports: HashSet<u16> = (0..FLOWS)
        .map(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(b"hello", destination).unwrap();
            socket.local_addr().unwrap().port()
        })
        .collect();
    drop(stalled);
    let (mut overruns, mut open) = (0, HashSet::new());
    let mut seen = HashSet::new();
    while seen != ports {
        match next() {
            FlowEvent::Overrun => overruns += 1,
            FlowEvent::Opened {
                peer: of,
                flow,
                protocol,
                source_port,
                destination: to,
            } => {
                assert_eq!((of, protocol, to), (peer, FlowProtocol::Udp, destination));
                assert!(open.insert(flow));
                seen.insert(source_port);
            }
            FlowEvent::Closed { .. } => panic!("none has ended"),
        }
    }
    assert!(overruns > 0, "the buffer was large enough");

    // The same for their ends.
    let stalled = watch.shared.lock();
    forget(MARK, u32::MAX).unwrap();
    drop(stalled);
    while !open.is_empty() {
        match next() {
            FlowEvent::Closed { flow, .. } => assert!(open.remove(&flow)),
            FlowEvent::Overrun => {}
            opened => panic!("{opened:?}"),
        }
    }
}

/// What was lost at the beginning is told at the end, what is told already is not told again, and what is nobody's
/// not at all.
#[test]
fn a_flow_is_told_once_from_its_beginning_to_its_end() {
    let (sender, mut told) = mpsc::channel(64);
    let peer = peer();
    let mut state = State {
        socket: socket().unwrap(),
        datagram: Vec::new(),
        marks: MARKS,
        log: FlowLog::to(sender),
        leases: HashMap::from([(MARK, peer)]),
        open: HashMap::new(),
        untold: VecDeque::new(),
    };
    let flow = |id, mark| Flow {
        name: FlowName {
            id,
            protocol: FlowProtocol::Tcp,
            source: "10.77.0.2:50000".parse().unwrap(),
            destination: "198.51.100.7:443".parse().unwrap(),
        },
        mark,
        source_port: 1_024,
        destination: "198.51.100.7:443".parse().unwrap(),
        bytes_up: 0,
        bytes_down: 0,
    };
    for message in [
        Message::New(flow(1, MARK)),
        Message::New(flow(1, MARK)),
        Message::New(flow(2, MARK + 1)),
        Message::Destroyed(flow(2, MARK + 1)),
        Message::Destroyed(flow(3, MARK)),
        Message::Destroyed(flow(1, MARK)),
    ] {
        state.take(message);
    }
    assert!(state.hand_on());
    let numbers: Vec<_> = std::iter::from_fn(|| told.try_recv().ok())
        .map(|event| match event {
            FlowEvent::Opened { flow, .. } => ("opened", flow),
            FlowEvent::Closed { flow, .. } => ("closed", flow),
            FlowEvent::Overrun => ("overrun", 0),
        })
        .collect();
    assert_eq!(
        numbers,
        [("opened", 0), ("opened", 1), ("closed", 1), ("closed", 0)]
    );
    assert!(state.open.is_empty());
}
