#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::device::{Device, DeviceConfig};

fn hex(byte: u8) -> String {
    format!("{byte:02x}").repeat(32)
}

fn set(lines: &str) -> Result<InterfaceUpdate, UapiError> {
    match Request::parse(&format!("set=1\n{lines}"))? {
        Request::Set(update) => Ok(update),
        Request::Get => panic!("that was no get"),
    }
}

#[test]
fn reads_what_wg_setconf_sends() {
    let text = format!(
        "private_key={}\nlisten_port=51820\nfwmark=0x10\nreplace_peers=true\npublic_key={}\nupdate_only=true\n\
         preshared_key={}\nendpoint=[2001:db8::1]:1\npersistent_keepalive_interval=25\nreplace_allowed_ips=true\n\
         allowed_ip=10.0.0.7/24\nallowed_ip=-::/0\npublic_key={}\nremove=true\nprotocol_version=1\n\n",
        hex(1),
        hex(2),
        hex(3),
        hex(4)
    );
    let update = set(&text).unwrap();
    let key = update.private_key.unwrap().unwrap();
    assert_eq!(key.expose_bytes(), &[1; 32]);
    assert_eq!(
        (update.listen_port, update.fwmark, update.replace_peers),
        (Some(51820), Some(16), true)
    );
    let [first, second] = &update.peers[..] else {
        panic!("{:?}", update.peers)
    };
    assert_eq!(first.public_key.as_bytes(), &[2; 32]);
    assert!(first.update_only && first.replace_allowed_ips && !first.remove);
    let preshared = first.preshared_key.as_ref().unwrap().as_ref().unwrap();
    assert_eq!(preshared.expose_bytes(), &[3; 32]);
    assert_eq!(first.endpoint, Some("[2001:db8::1]:1".parse().unwrap()));
    assert_eq!(first.keepalive, Some(25));
    assert_eq!(
        first.allowed_ips,
        [
            AllowedIpChange::Allow("10.0.0.7/24".parse().unwrap()),
            AllowedIpChange::Disallow("::/0".parse().unwrap())
        ]
    );
    assert!(second.remove && second.preshared_key.is_none());
}

#[test]
fn keys_of_zeros_take_keys_away() {
    let update = set(&format!(
        "private_key={}\npublic_key={}\npreshared_key={}\n",
        hex(0),
        hex(9),
        hex(0)
    ))
    .unwrap();
    assert!(matches!(update.private_key, Some(None)));
    assert!(matches!(update.peers[0].preshared_key, Some(None)));
}

#[test]
fn refuses_what_it_can_not_read() {
    for text in ["", "\n", "get=2", "set=0", "hello", "private_key=00"] {
        assert_eq!(
            Request::parse(text).unwrap_err(),
            UapiError::NoOperation,
            "{text:?}"
        );
    }
    assert!(matches!(Request::parse("get=1\n\n"), Ok(Request::Get)));
    assert_eq!(
        Request::parse("get=1\nx=1\n").unwrap_err().to_string(),
        "line 2: there is no key \"x\" here"
    );
    assert_eq!(
        set("listen_port").unwrap_err(),
        UapiError::NoValue { line: 2 }
    );
    let peer = format!("public_key={}\n", hex(1));
    let long = format!("private_key={}0", hex(1));
    let not_hex = format!("private_key={}", "+f".repeat(32));
    for line in [
        "listen_port=65536",
        "listen_port=-1",
        "listen_port=+1",
        "listen_port=",
        "fwmark=0x1ffffffff",
        "fwmark=0x+1",
        "fwmark=x",
        "replace_peers=false",
        "private_key=00",
        &long,
        &not_hex,
        "public_key=zz",
    ] {
        let error = set(line).unwrap_err();
        assert!(
            matches!(error, UapiError::BadValue { line: 2, .. }),
            "{line}: {error}"
        );
        assert_eq!(error.errno(), 22);
    }
    for line in [
        "endpoint=example.org:1",
        "endpoint=1.2.3.4",
        "endpoint=1.2.3.4:65536",
        "persistent_keepalive_interval=65536",
        "allowed_ip=10.0.0.0/33",
        "allowed_ip=--10.0.0.0/8",
        "allowed_ip=10.0.0.0",
        "remove=yes",
        "protocol_version=2",
        "preshared_key=1",
    ] {
        let error = set(&format!("{peer}{line}\n")).unwrap_err();
        assert!(
            matches!(error, UapiError::BadValue { line: 3, .. }),
            "{line}: {error}"
        );
    }
    // Keys of the interface after a peer's, and a peer's before any peer.
    for text in [
        format!("{peer}listen_port=1"),
        "allowed_ip=10.0.0.0/8".into(),
    ] {
        assert!(
            matches!(set(&text).unwrap_err(), UapiError::UnknownKey { .. }),
            "{text}"
        );
    }
    let secret = set(&format!("private_key={}x", hex(7))).unwrap_err();
    assert!(!secret.to_string().contains("07"));
}

#[test]
fn requests_end_with_an_empty_line() {
    assert_eq!(Request::complete(b"get=1\n"), None);
    assert_eq!(Request::complete(b"get=1\n\n"), Some(7));
    assert_eq!(Request::complete(b"get=1\n\nget=1\n\n"), Some(7));
    assert_eq!(Request::complete(b"\nx"), Some(1));
    assert_eq!(Request::complete(b""), None);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(set=1\n)?([a-z_]{0,20}=?[-0-9a-fx./:]{0,70}\n){0,6}") {
        let _ = Request::parse(&text);
        let _ = Request::complete(text.as_bytes());
    }
}

#[test]
fn a_device_is_configured_and_says_so() {
    let now = Instant::now();
    let key = crate::PrivateKey::from_bytes([5; 32]);
    let mut device = Device::new(DeviceConfig::bare(key.clone()), [1; 32], now);
    let apply = |device: &mut Device, lines: &str| {
        for peer in set(lines).unwrap().peers {
            device.configure_peer(&peer, now).unwrap();
        }
    };
    let (first, second) = (
        format!("public_key={}\n", hex(1)),
        format!("public_key={}\n", hex(2)),
    );
    apply(
        &mut device,
        &format!(
            "{first}endpoint=192.0.2.1:7\npreshared_key={}\nallowed_ip=10.0.0.1/8\nallowed_ip=fd00::/64\n\
             {second}persistent_keepalive_interval=25\nallowed_ip=10.0.0.0/8\n\
             public_key={}\nupdate_only=true\n",
            hex(3),
            hex(4)
        ),
    );
    let interface = InterfaceSettings {
        private_key: Some(key.clone()),
        listen_port: 51820,
        fwmark: 0,
    };
    let get = |device: &Device| {
        let peers = describe_peers(device, |_| Duration::from_secs(1));
        respond_get(&interface, [peers.as_str()]).to_string()
    };
    let tail = "last_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\n";
    let expected = format!(
        "private_key={}\nlisten_port=51820\n{first}preshared_key={}\nprotocol_version=1\nendpoint=192.0.2.1:7\n{tail}\
         persistent_keepalive_interval=0\nallowed_ip=fd00::/64\n{second}protocol_version=1\n{tail}\
         persistent_keepalive_interval=25\nallowed_ip=10.0.0.0/8\nerrno=0\n\n",
        hex(5),
        hex(3)
    );
    assert_eq!(get(&device), expected);
    let watched = respond_watch(51820, &device, |_| Duration::from_secs(1));
    let secrets = [
        format!("private_key={}\n", hex(5)),
        format!("preshared_key={}\n", hex(3)),
    ];
    let without = secrets
        .iter()
        .fold(expected, |text, secret| text.replace(secret, ""));
    assert_eq!(watched.as_str(), without);

    apply(
        &mut device,
        &format!(
            "{first}replace_allowed_ips=true\nallowed_ip=10.1.0.0/16\n{second}allowed_ip=-10.0.0.0/8\n"
        ),
    );
    let text = get(&device);
    assert!(
        text.contains("allowed_ip=10.1.0.0/16")
            && !text.contains("fd00")
            && !text.contains("10.0.0.0/8")
    );
    apply(
        &mut device,
        &format!("{first}remove=true\n{second}remove=true\n"),
    );
    assert!(!get(&device).contains("public_key"));
    // Its own key is not a peer; that is no error, because one list of peers may serve several machines.
    let own = device.public_key();
    device.configure_peer(&PeerUpdate::new(own), now).unwrap();
    assert_eq!(device.peers().count(), 0);
}
