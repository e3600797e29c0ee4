//! What a kernel exit changes on the host: the packet filter's table, forwarding, addresses and routes. Everything is
//! recorded before it is done, and undone at the end or by whoever finds the record.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use ipsx_tunnel_core::{ExitPolicy, IpNet, PeerId};
use serde_json::Value;

use super::{
    conntrack::{self, FlowWatch, Listener},
    error::KernelExitError,
    forwarding, links,
    plan::{AGENT_BITS, KernelExitConfig, Plan, Uplink, check_overlap, exists, table_of},
    record::{Changes, Record},
    rules::{self, Rules, Translation},
};
use crate::{
    exit::{Egress, FlowLog},
    nft, sys,
};

/// Names that are tried for the interface, from ipsx0.
const NAMES: usize = 64;

/// A lease as the host knows it.
#[derive(Debug)]
struct Lease {
    translations: Vec<Translation>,
    mark: u32,
}

struct State {
    record: Record,
    changes: Changes,
    leases: HashMap<PeerId, Lease>,
    /// This host's own networks, as the table has them.
    own: Vec<IpNet>,
    /// Leases that leave from an address which was added for them.
    users: HashMap<IpAddr, usize>,
    next_lease: u16,
    /// Follows the leases' flows, if they are to be told.
    watch: Option<FlowWatch>,
    undone: bool,
}

/// The host's part of a kernel exit. Methods block for some milliseconds; dropping it undoes everything.
pub(crate) struct KernelNetwork {
    tun: String,
    table: String,
    uplinks: Vec<Uplink>,
    state: Mutex<State>,
}

/// A name for the interface, and its record.
pub(crate) struct Reserved {
    pub(crate) interface: String,
    record: Record,
}

/// Cleans up after providers that were killed, and finds a free name for an interface.
pub(crate) fn reserve(folder: &Path) -> Result<Reserved, KernelExitError> {
    clean_up(folder)?;
    let tables = nft::tables()?;
    for number in 0..NAMES {
        let interface = format!("ipsx{number}");
        // The table may be left of a provider that was killed and kept its record somewhere else.
        let taken = tables.contains(&table_of(&interface));
        if taken || exists(&interface) {
            continue;
        }
        if let Some(record) = Record::take(folder, &interface)? {
            return Ok(Reserved { interface, record });
        }
    }
    Err(KernelExitError::NoName(NAMES - 1))
}

/// Undoes what providers changed that kept their records in this folder and did not come to undo it themselves.
/// Returns the names of their interfaces.
pub fn clean_up(folder: &Path) -> Result<Vec<String>, KernelExitError> {
    let mut cleaned = Vec::new();
    for interface in Record::interfaces(folder)? {
        let Some(record) = Record::take(folder, &interface)? else {
            // A running provider has it.
            continue;
        };
        if let Some(changes) = record.read()? {
            if changes.of_this_boot()? {
                if !changes.of_this_namespace()? {
                    return Err(KernelExitError::Elsewhere {
                        path: record.path().to_owned(),
                    });
                }
                undo(&changes)?;
            }
            record.remove()?;
            cleaned.push(interface);
        }
    }
    Ok(cleaned)
}

impl KernelNetwork {
    /// Sets everything up for the interface, which exists and is down. `flows_per_peer` is how many flows one inner
    /// address may have open; `log` is told of all that the kernel carries.
    pub(crate) fn set_up(
        reserved: Reserved,
        config: &KernelExitConfig,
        policy: &ExitPolicy,
        masquerade: bool,
        flows_per_peer: usize,
        log: FlowLog,
    ) -> Result<Self, KernelExitError> {
        let Reserved {
            interface: tun,
            record,
        } = reserved;
        let own = sys::own_networks().map_err(KernelExitError::Addresses)?;
        check_overlap(&config.inner, &own)?;
        let listener =
            (log.is_kept().then(Listener::open).transpose()).map_err(KernelExitError::Flows)?;
        let plan = Plan::new(config, &tun, listener.is_some())?;
        record.write(&plan.changes)?;
        let rules = Rules {
            table: &plan.changes.table,
            tun: &tun,
            uplinks: &plan.interfaces(),
            opened: &plan.opened,
            policy,
            own: &own,
            masquerade,
            flows_per_peer,
        };
        let rules = rules.commands();
        let routing = plan.routing();
        let watch = listener.map(|listener| listener.follow(plan.changes.marks, log));
        let watch = watch.transpose().map_err(KernelExitError::Flows)?;
        // From here on, dropping it undoes what has been done.
        let network = Self {
            tun,
            table: plan.changes.table.clone(),
            uplinks: plan.uplinks,
            state: Mutex::new(State {
                record,
                changes: plan.changes,
                leases: HashMap::new(),
                own,
                users: HashMap::new(),
                next_lease: 0,
                watch,
                undone: false,
            }),
        };
        // The table first: nothing is forwarded before it says what.
        nft::apply(&rules)?;
        links::bring_up(&network.tun, &config.inner)?;
        for (routing, interface) in routing {
            links::add_routing(routing, &network.tun, &interface)?;
        }
        for setting in &network.lock().changes.sysctls {
            forwarding::set(setting)?;
        }
        Ok(network)
    }

    /// Lets a peer's inner networks out, each from the egress address of its family.
    pub(crate) fn open_lease(
        self: &Arc<Self>,
        inner: &[IpNet],
        egress: Egress,
    ) -> Result<OpenLease, KernelExitError> {
        let mut state = self.lock();
        let addresses = [egress.v4.map(IpAddr::V4), egress.v6.map(IpAddr::V6)];
        for address in addresses.into_iter().flatten() {
            self.hold_address(&mut state, address)?;
        }
        let mark = state.changes.marks | u32::from(state.next_lease);
        state.next_lease = state.next_lease.wrapping_add(1);
        let translations: Vec<_> = inner
            .iter()
            .map(|&inner| {
                let egress = match inner {
                    IpNet::V4(_) => addresses[0],
                    IpNet::V6(_) => addresses[1],
                };
                Translation {
                    inner,
                    egress,
                    uplink: egress.and_then(|address| self.uplink(address)?.mark),
                    lease: mark,
                }
            })
            .collect();
        let lease = Lease { translations, mark };
        if let Err(error) = self.apply_lease(&mut state, &lease) {
            self.release_addresses(&mut state, &lease);
            self.follow(&mut state);
            return Err(error);
        }
        Ok(OpenLease {
            network: Arc::clone(self),
            lease: Some(lease),
        })
    }

    /// Adds a lease to the table, and what has changed of this host's own networks.
    fn apply_lease(&self, state: &mut State, lease: &Lease) -> Result<(), KernelExitError> {
        self.apply(state, commands(lease, "add", &self.table))
    }

    /// A thread that gives the table this host's own networks, each time it is told that they have changed. It ends
    /// with what tells it.
    pub(crate) fn follow_own_networks(self: &Arc<Self>) -> std::io::Result<mpsc::Sender<()>> {
        let (changed, changes) = mpsc::channel();
        let network = Arc::downgrade(self);
        std::thread::Builder::new()
            .name("ipsx-addresses".to_owned())
            .spawn(move || {
                for () in changes {
                    let Some(network) = network.upgrade() else {
                        return;
                    };
                    let mut state = network.lock();
                    if !state.undone {
                        network.follow(&mut state);
                    }
                }
            })?;
        Ok(changed)
    }

    fn follow(&self, state: &mut State) {
        if let Err(error) = self.apply(state, Vec::new()) {
            tracing::warn!(%error, "the packet filter does not know this host's addresses; the next change tries again");
        }
    }

    /// Carries out commands together with what has changed of this host's own networks.
    fn apply(&self, state: &mut State, mut commands: Vec<Value>) -> Result<(), KernelExitError> {
        let own = sys::own_networks().map_err(KernelExitError::Addresses)?;
        if own != state.own {
            commands.extend(rules::own_networks(&self.table, &own));
        }
        if !commands.is_empty() {
            nft::apply(&commands)?;
        }
        state.own = own;
        Ok(())
    }

    /// Takes a peer's way out, and forgets its flows.
    pub(crate) fn close_lease(&self, peer: PeerId) {
        let mut state = self.lock();
        if let Some(lease) = state.leases.remove(&peer) {
            self.close(&mut state, &lease);
        }
    }

    /// Undoes everything. What can't be undone stays recorded.
    pub(crate) fn undo(&self) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.undone, true) {
            return;
        }
        // Nothing may pass from the interface without the table: it goes to rest first, if it still exists.
        let rested = links::take_down(&self.tun).map_err(KernelExitError::from);
        let undone = rested
            .and_then(|()| undo(&state.changes))
            .and_then(|()| state.record.remove());
        if let Err(error) = undone {
            tracing::error!(%error, "the kernel exit could not be undone; the next start will try again");
        }
        // The flows have been forgotten, and their ends are told.
        state.watch = None;
    }

    fn close(&self, state: &mut State, lease: &Lease) {
        if let Err(error) = nft::apply(&commands(lease, "delete", &self.table)) {
            tracing::warn!(%error, "a lease's translation could not be removed");
        }
        if let Err(error) = conntrack::forget(lease.mark, u32::MAX) {
            tracing::warn!(%error, "a lease's flows could not be forgotten");
        }
        if let Some(watch) = &state.watch {
            watch.end(lease.mark);
        }
        self.release_addresses(state, lease);
        self.follow(state);
    }

    /// Sees that this host has an address.
    fn hold_address(&self, state: &mut State, address: IpAddr) -> Result<(), KernelExitError> {
        if let Some(users) = state.users.get_mut(&address) {
            *users += 1;
            return Ok(());
        }
        let Some(uplink) = self.uplink(address).filter(|_| !is_local(address)) else {
            return Ok(());
        };
        let host = IpNet::from(address);
        state
            .changes
            .addresses
            .push((uplink.interface.clone(), host));
        state.record.write(&state.changes)?;
        links::add_address(&uplink.interface, host)?;
        state.users.insert(address, 1);
        Ok(())
    }

    fn release_addresses(&self, state: &mut State, lease: &Lease) {
        let mut addresses: Vec<_> = lease.translations.iter().filter_map(|t| t.egress).collect();
        addresses.dedup();
        for address in addresses {
            let Some(users) = state.users.get_mut(&address) else {
                continue;
            };
            *users -= 1;
            if *users > 0 {
                continue;
            }
            state.users.remove(&address);
            let held = |(_, host): &(String, IpNet)| host.addr() == address;
            let Some(at) = state.changes.addresses.iter().position(held) else {
                continue;
            };
            let (interface, host) = state.changes.addresses[at].clone();
            let removed = links::remove_address(&interface, host)
                .map_err(KernelExitError::from)
                .and_then(|()| {
                    state.changes.addresses.remove(at);
                    state.record.write(&state.changes)
                });
            if let Err(error) = removed {
                tracing::warn!(%error, %address, "an egress address could not be removed");
            }
        }
    }

    fn uplink(&self, address: IpAddr) -> Option<&Uplink> {
        self.uplinks
            .iter()
            .find(|way| way.ranges.iter().any(|range| range.contains(&address)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Whoever panicked had recorded what it was about to do.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for KernelNetwork {
    fn drop(&mut self) {
        self.undo();
    }
}

/// A way out that belongs to no peer yet; dropping it closes it.
pub(crate) struct OpenLease {
    network: Arc<KernelNetwork>,
    lease: Option<Lease>,
}

impl OpenLease {
    /// Gives the way out to a peer.
    pub(crate) fn keep_for(mut self, peer: PeerId) {
        if let Some(lease) = self.lease.take() {
            let mut state = self.network.lock();
            if let Some(watch) = &state.watch {
                watch.begin(lease.mark, peer);
            }
            state.leases.insert(peer, lease);
        }
    }
}

impl Drop for OpenLease {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.network.close(&mut self.network.lock(), &lease);
        }
    }
}

fn commands(lease: &Lease, verb: &str, table: &str) -> Vec<Value> {
    let each = |translation: &Translation| translation.commands(verb, table);
    lease.translations.iter().flat_map(each).collect()
}

fn undo(changes: &Changes) -> Result<(), KernelExitError> {
    // Forwarding ends before the table that limits it goes.
    let others = nft::tables()?.iter().any(|name| *name != changes.table);
    if others {
        tracing::info!("another provider of this host may need forwarding: it stays on");
    } else {
        for setting in changes.sysctls.iter().rev() {
            forwarding::restore(setting)?;
        }
    }
    for routing in &changes.routing {
        links::remove_routing(*routing)?;
    }
    nft::delete_table(&changes.table)?;
    for (interface, address) in &changes.addresses {
        links::remove_address(interface, *address)?;
    }
    if let Err(error) = conntrack::forget(changes.marks, AGENT_BITS) {
        tracing::warn!(%error, "the flows of earlier leases could not be forgotten");
    }
    Ok(())
}

/// Whether packets to the address end at this host.
fn is_local(address: IpAddr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
}
