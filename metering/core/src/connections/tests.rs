#![allow(clippy::unwrap_used)]

use super::*;

fn leaf(number: u64) -> B256 {
    keccak256(number.to_be_bytes())
}

fn connection(end: bool, destination: &str) -> Connection {
    Connection {
        deal_id: DealId(B256::repeat_byte(7)),
        transport: if end { Transport::Tcp } else { Transport::Udp },
        source_port: 40_123,
        destination: destination.parse().unwrap(),
        opened_at: UnixSeconds(1_795_195_800),
        end: end.then_some(ConnectionEnd {
            at: UnixSeconds(1_795_195_900),
            bytes_up: u64::MAX,
            bytes_down: 3,
        }),
    }
}

#[test]
fn records_come_back_and_differ_in_every_field() {
    let records = [
        connection(true, "203.0.113.9:443"),
        connection(false, "203.0.113.9:443"),
        connection(true, "[2001:db8::1]:443"),
        connection(true, "[::ffff:203.0.113.9]:443"),
        Connection {
            transport: Transport::Icmp,
            ..connection(true, "203.0.113.9:0")
        },
        Connection {
            transport: Transport::Udp,
            ..connection(true, "203.0.113.9:0")
        },
    ];
    for record in records {
        assert_eq!(Connection::decode(&record.encode()), Some(record));
    }
    let mut encoded: Vec<_> = records.iter().map(Connection::encode).collect();
    encoded.sort();
    encoded.dedup();
    assert_eq!(encoded.len(), records.len());
    let mut bad = records[0].encode();
    bad[32] = 2;
    assert_eq!(Connection::decode(&bad), None, "no such protocol");
}

/// The incremental tree, the paths and the plain definition agree at every size.
#[test]
fn every_leaf_of_every_size_is_proven_to_the_root() {
    let mut tree = ConnectionTree::default();
    let mut leaves = Vec::new();
    assert_eq!(connection_path(&leaves, 0), None);
    for size in 1..=70 {
        let leaf = leaf(size);
        assert_eq!(tree.push(leaf), Some(size - 1));
        leaves.push(leaf);
        for index in 0..size {
            let path = connection_path(&leaves, index).unwrap();
            let root = connection_root(leaves[index as usize], index, &path);
            assert_eq!(root, Some(tree.root()), "leaf {index} of {size}");
        }
        assert_eq!(connection_path(&leaves, size), None);
    }
}

#[test]
fn another_leaf_place_or_path_leads_to_another_root() {
    let leaves: Vec<_> = (0..9).map(leaf).collect();
    let path = connection_path(&leaves, 4).unwrap();
    let root = connection_root(leaves[4], 4, &path).unwrap();
    assert_ne!(connection_root(leaves[5], 4, &path), Some(root));
    assert_ne!(connection_root(leaves[4], 5, &path), Some(root));
    assert_eq!(connection_root(leaves[4], 4, &path[1..]), None);
    assert_eq!(connection_root(leaves[4], 4 + (1 << 32), &path), None);
    for place in 0..path.len() {
        let mut changed = path.clone();
        changed[place].0[0] ^= 1;
        assert_ne!(connection_root(leaves[4], 4, &changed), Some(root));
    }
}

/// Who knows every record but not the key cannot tell which leaf is whose.
#[test]
fn leaves_depend_on_the_key_and_the_index() {
    let record = connection(true, "203.0.113.9:443");
    let leaf = |key: u8, index| connection_leaf(blinding(&[key; 32], index), &record);
    assert_ne!(leaf(1, 0), leaf(1, 1));
    assert_ne!(leaf(1, 0), leaf(2, 0));
    assert_eq!(leaf(1, 0), leaf(1, 0));
}

/// Frozen: receipts that were signed stay provable.
#[test]
fn hashes_are_what_they_were() {
    let record = connection(true, "203.0.113.9:443");
    let leaf = connection_leaf(blinding(&[1; 32], 5), &record);
    let mut tree = ConnectionTree::default();
    tree.push(leaf);
    let frozen = [leaf, tree.root(), ConnectionTree::default().root()];
    assert_eq!(
        frozen.map(|hash| format!("{hash:x}")),
        [
            "5d29c50cc6ae979c2e5c64156df8229263aadbac9320a0f79ca3fd65fcb6be96",
            "a2c87d47f1af317937cb83b19c54df367ae82559573a439921df09a7943ec2c6",
            "7c1d0e8a93ea9c09cc13b91ead8f72de66a33cb695c30934dc2d75bffac1248e",
        ]
    );
}
