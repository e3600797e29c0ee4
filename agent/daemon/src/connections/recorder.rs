//! Turns what the exit tells of its flows into records, writes them, and says which root each lease has come to.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ipsx_agent_core::provider::RecordedConnections;
use ipsx_metering::{
    B256, Connection, ConnectionEnd, ConnectionTree, DealId, Transport, UnixSeconds, blinding,
};
use ipsx_tunnel_core::PeerId;
use ipsx_tunnel_os::{FlowEvent, FlowProtocol};
use rand::RngCore;
use rand::rngs::OsRng;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use zeroize::Zeroizing;

use super::files::{Entry, Writer};
use super::seal::RecordKey;
use crate::clock::unix_now;

/// Between two looks: a receipt's root is at most this much older than the receipt.
const PAUSE: Duration = Duration::from_millis(500);
/// While so many records wait for a disk that does not take them, no more flows are let through.
const MOST_WAITING: usize = 16_384;
/// Events that wait for the recorder; a flow takes two.
const EVENTS: usize = 32_768;

/// Which lease each peer belongs to. Shared with who opens and closes peers.
#[derive(Clone, Debug, Default)]
pub struct Owners(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    leases: HashMap<PeerId, DealId>,
    gone: Vec<PeerId>,
}

impl Owners {
    /// A peer is about to be let through for this lease.
    pub fn insert(&self, peer: PeerId, lease: DealId) {
        self.lock().leases.insert(peer, lease);
    }

    /// A peer is gone, and the exit has told of the end of all its flows.
    pub fn remove(&self, peer: PeerId) {
        self.lock().gone.push(peer);
    }

    fn get(&self, peer: PeerId) -> Option<DealId> {
        self.lock().leases.get(&peer).copied()
    }

    /// The peers that are gone; what they did is in the queue of events by now.
    fn take_gone(&self) -> Vec<PeerId> {
        std::mem::take(&mut self.lock().gone)
    }

    fn forget(&self, peer: PeerId) -> Option<DealId> {
        self.lock().leases.remove(&peer)
    }

    /// Nothing panics while it is held, so a poisoned map is whole.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the record of one provider.
pub struct Recorder {
    writer: Writer,
    owners: Owners,
    flows: mpsc::Receiver<FlowEvent>,
    leases: HashMap<DealId, LeaseLog>,
    open: HashMap<u64, Connection>,
    waiting: Vec<Entry>,
    /// When flows may have been missed, as far as that is not on disk.
    gaps: Vec<UnixSeconds>,
}

/// The tree of one lease, and the key that hides its leaves: drawn anew and never written, each record's blinding is.
struct LeaseLog {
    tree: ConnectionTree,
    key: Zeroizing<[u8; 32]>,
}

impl Default for LeaseLog {
    fn default() -> Self {
        let mut key = Zeroizing::new([0; 32]);
        OsRng.fill_bytes(key.as_mut_slice());
        Self {
            tree: ConnectionTree::default(),
            key,
        }
    }
}

impl Recorder {
    /// Records into `data`, sealed to `key`, each record kept for `retention` seconds. The exit tells the sender.
    pub fn new(
        data: &Path,
        key: RecordKey,
        retention: u64,
        owners: Owners,
    ) -> (Self, mpsc::Sender<FlowEvent>) {
        let (sender, flows) = mpsc::channel(EVENTS);
        let recorder = Self {
            writer: Writer::new(data, key, retention),
            owners,
            flows,
            leases: HashMap::new(),
            open: HashMap::new(),
            waiting: Vec::new(),
            gaps: Vec::new(),
        };
        (recorder, sender)
    }

    /// Works on a thread of its own until the exit is gone, and tells what each lease has come to: all of it is on disk
    /// then.
    pub fn spawn(
        mut self,
        tell: impl Fn(DealId, RecordedConnections) + Send + 'static,
    ) -> JoinHandle<()> {
        std::thread::spawn(move || while self.turn(&tell) {})
    }

    /// Takes what has come, writes it, and rests. False when nothing will come any more.
    fn turn(&mut self, tell: &impl Fn(DealId, RecordedConnections)) -> bool {
        let gone = self.owners.take_gone();
        let mut more = true;
        while self.waiting.len() < MOST_WAITING {
            match self.flows.try_recv() {
                Ok(event) => self.take(event, unix_now()),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    more = false;
                    break;
                }
            }
        }
        self.write(tell, unix_now());
        for peer in gone {
            if let Some(lease) = self.owners.forget(peer) {
                self.leases.remove(&lease);
            }
        }
        if more {
            std::thread::sleep(PAUSE);
        }
        more
    }

    /// Makes a record of an event.
    pub(super) fn take(&mut self, event: FlowEvent, now: UnixSeconds) {
        match event {
            FlowEvent::Opened {
                peer,
                flow,
                protocol,
                source_port,
                destination,
            } => {
                let Some(deal_id) = self.owners.get(peer) else {
                    return tracing::error!(%peer, "a flow of a peer without a lease is not recorded");
                };
                let record = Connection {
                    deal_id,
                    transport: match protocol {
                        FlowProtocol::Tcp => Transport::Tcp,
                        FlowProtocol::Udp => Transport::Udp,
                        FlowProtocol::Echo => Transport::Icmp,
                    },
                    source_port,
                    destination,
                    opened_at: now,
                    end: None,
                };
                self.open.insert(flow, record);
                self.append(record);
            }
            FlowEvent::Closed {
                flow,
                bytes_up,
                bytes_down,
                ..
            } => {
                if let Some(mut record) = self.open.remove(&flow) {
                    record.end = Some(ConnectionEnd {
                        at: now,
                        bytes_up,
                        bytes_down,
                    });
                    self.append(record);
                }
            }
            FlowEvent::Overrun => {
                tracing::warn!(
                    "more flows came and went than could be followed: the connection record may lack some of them"
                );
                self.gaps.push(now);
            }
        }
    }

    /// Adds a record to its lease's tree. The end of a flow that comes after the lease is left out.
    fn append(&mut self, record: Connection) {
        if record.end.is_none() {
            self.leases.entry(record.deal_id).or_default();
        }
        let Some(log) = self.leases.get_mut(&record.deal_id) else {
            return;
        };
        let entry = Entry {
            index: log.tree.len(),
            blinding: blinding(&log.key, log.tree.len()),
            record,
        };
        // No lease lives long enough to fill its tree.
        if log.tree.push(entry.leaf()).is_some() {
            self.waiting.push(entry);
        }
    }

    /// Writes what waits, and tells of it.
    pub(super) fn write(&mut self, tell: &impl Fn(DealId, RecordedConnections), now: UnixSeconds) {
        if !self.gaps.is_empty() {
            match self.writer.note_gaps(&self.gaps) {
                Ok(()) => self.gaps.clear(),
                Err(error) => {
                    tracing::warn!(%error, "a gap of the connection record cannot be written")
                }
            }
        }
        if self.waiting.is_empty() {
            return;
        }
        if let Err(error) = self.writer.append(&self.waiting, now) {
            tracing::warn!(%error, "the connection record cannot be written; new connections wait for it");
            return;
        }
        let mut written: BTreeMap<DealId, Vec<Entry>> = BTreeMap::new();
        for entry in self.waiting.drain(..) {
            let of_lease = written.entry(entry.record.deal_id).or_default();
            of_lease.push(entry);
        }
        for (deal, entries) in written {
            if let (Some(log), Some(first)) = (self.leases.get(&deal), entries.first()) {
                let recorded = RecordedConnections {
                    root: log.tree.root(),
                    log_key: B256::new(*log.key),
                    first: first.index,
                    records: entries.iter().map(|entry| entry.record).collect(),
                };
                tell(deal, recorded);
            }
        }
    }
}
