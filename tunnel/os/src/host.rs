//! The host's own traffic through a lease: routes, packet filter and resolver, changed and changed back.
//!
//! What was changed is on disk before it is changed, so that it can be undone after any end of the program. The order
//! is: [`HostClaim`] keeps two programs apart and undoes what a killed one left; [`HostClaim::guard`] shuts every way
//! out but the tunnel's own; [`HostTraffic::route`] sends everything into the interface; [`HostTraffic::restore`]
//! undoes all of it. In between, [`HostTraffic::admit`] lets the next lease's tunnel out, and [`HostTraffic::switch`]
//! leads everything into that one instead.

mod error;
mod ip;
mod outside;
mod record;
mod resolver;
mod ruleset;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::linux::net::SocketAddrExt,
    os::unix::net::{SocketAddr as UnixAddr, UnixListener},
    path::{Path, PathBuf},
};

use ipsx_tunnel_core::IpNet;
use serde::{Deserialize, Serialize};

use crate::nft;
pub use error::HostError;
use outside::Outside;
use record::{Namespace, Record};
use resolver::Resolver;

/// Mark of everything that must not go into the tunnel: its own datagrams, and what pays for it. Also the number of the
/// routing table.
pub const MARK: u32 = 0x0069_7073;

/// The packet filter's table. Its name is none that a provider's exit would take for one of its own.
const TABLE: &str = "ipsx-connect";

/// Held, in the abstract namespace of Unix sockets, by the one program that has a network namespace's traffic.
const CLAIM: &[u8] = b"ipsx/connect/tun";

/// Makes interfaces.
const TUN: &str = "/dev/net/tun";

/// Makes the kernel judge an answer by the mark of its connection, where it checks reverse paths.
const VALID_MARK: &str = "/proc/sys/net/ipv4/conf/all/src_valid_mark";

/// What of the host's traffic goes where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPlan {
    /// The interface.
    pub interface: String,
    /// The host's IPv4 address inside the tunnel.
    pub inner_v4: Ipv4Addr,
    /// The host's IPv6 address inside the tunnel, if it has one. Without it, IPv6 is closed.
    pub inner_v6: Option<Ipv6Addr>,
    /// The gateway's address inside the tunnel, which answers names.
    pub gateway: Ipv4Addr,
    /// Where the provider listens, and the next lease's, while that one begins, and what a NAT's mapping is asked of. Port
    /// 0 stands for any, of a relay.
    pub endpoints: Vec<SocketAddr>,
    /// What the program itself has to reach outside the tunnel, by TCP: broker and chain.
    pub control: Vec<SocketAddr>,
    /// What goes through the tunnel; everything, if empty.
    pub routes: Vec<IpNet>,
    /// What stays outside it, such as the local network.
    pub direct: Vec<IpNet>,
    /// Whether what goes through the tunnel goes nowhere else, whatever happens.
    pub kill_switch: bool,
    /// Whether the host's resolver asks the gateway.
    pub resolver: bool,
}

impl HostPlan {
    /// Whether everything goes through the tunnel.
    pub fn takes_everything(&self) -> bool {
        self.routes.is_empty()
    }
}

/// The right to change this network namespace's traffic, and what an earlier program left to undo.
#[derive(Debug)]
pub struct HostClaim {
    file: PathBuf,
    record: Option<Record>,
    _claim: UnixListener,
}

impl HostClaim {
    /// Takes the right, unless a living program has it. `file` keeps what is to be undone; its folder exists.
    pub fn take(file: &Path) -> Result<Self, HostError> {
        let name = UnixAddr::from_abstract_name(CLAIM).map_err(HostError::Claim)?;
        let claim = UnixListener::bind_addr(&name).map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => HostError::Claimed,
            _ => HostError::Claim(error),
        })?;
        let record = Record::read(file)?;
        if let Some(record) = &record {
            record.check_namespace(file)?;
        }
        Ok(Self {
            file: file.to_owned(),
            record,
            _claim: claim,
        })
    }

    /// Whether there is something to undo, as far as the file knows.
    pub fn is_unfinished(&self) -> bool {
        self.record.is_some()
    }

    /// Whether a kill switch holds that an earlier program left.
    pub fn is_shut(&self) -> bool {
        self.record
            .as_ref()
            .is_some_and(|record| record.plan.kill_switch && record.boot == record::boot_id())
    }

    /// The addresses that an earlier program's kill switch lets its successor reach, by name.
    pub fn pinned(&self) -> &[(String, Vec<IpAddr>)] {
        self.record
            .as_ref()
            .map_or(&[], |record| record.pinned.as_slice())
    }

    /// Finds out, without changing anything, whether this program may do what a plan needs and what it would overwrite.
    pub fn check(&self, resolver: bool) -> Result<(), HostError> {
        self.refuse_unknown()?;
        let tun = fs::File::options().read(true).write(true).open(TUN);
        tun.map_err(HostError::Tun)?;
        if resolver {
            Resolver::plan(&Namespace::of_this_process()?)?.check()?;
        }
        Ok(())
    }

    /// Undoes everything that a program left in this namespace, also what the file does not know of. True if there
    /// was anything.
    pub fn restore(&mut self) -> Result<bool, HostError> {
        let mut found = self.undo_routes()?;
        if nft::has_table(TABLE)? {
            nft::delete_table(TABLE)?;
            found = true;
        }
        found |= Record::remove(&self.file)?;
        self.record = None;
        Ok(found)
    }

    /// Undoes what a program left, but for its kill switch, which holds until the next plan's takes its place.
    pub fn restore_behind_kill_switch(&mut self) -> Result<(), HostError> {
        if !self.is_shut() {
            return self.restore().map(drop);
        }
        self.undo_routes()?;
        if let Some(record) = &mut self.record {
            record.resolver = Resolver::Kept;
            record.valid_mark = None;
            record.write(&self.file)?;
        }
        Ok(())
    }

    fn undo_routes(&mut self) -> Result<bool, HostError> {
        let mut found = ip::remove(MARK)?;
        match &self.record {
            Some(record) => {
                record.resolver.restore()?;
                if let Some(before) = &record.valid_mark
                    && read_sysctl().as_ref() != Some(before)
                {
                    write_sysctl(before)?;
                }
            }
            None => found |= resolver::restore_unrecorded()?,
        }
        Ok(found)
    }

    /// Shuts every way out that `plan` leaves open no longer, in one step. `pinned` are the addresses, by name, that
    /// the next program may reach if this one is killed.
    pub fn guard(
        mut self,
        plan: HostPlan,
        pinned: Vec<(String, Vec<IpAddr>)>,
    ) -> Result<HostTraffic, HostError> {
        self.refuse_unknown()?;
        let namespace = Namespace::of_this_process()?;
        let was_shut = self.is_shut();
        let resolver = if plan.resolver {
            Resolver::plan(&namespace)?
        } else {
            Resolver::Kept
        };
        let valid_mark = read_sysctl().filter(|value| value != "1");
        let outside = Outside::new(plan.endpoints.clone());
        let record = Record {
            boot: record::boot_id(),
            namespace,
            valid_mark,
            resolver,
            pinned,
            plan,
        };
        record.write(&self.file)?;
        nft::apply(&ruleset::ruleset(TABLE, MARK, &record.plan))?;
        self.record = Some(record);
        Ok(HostTraffic {
            claim: self,
            outside,
            was_shut,
        })
    }

    /// What nobody has a record of is not overwritten.
    fn refuse_unknown(&self) -> Result<(), HostError> {
        let used = nft::has_table(TABLE)? || ip::is_used(MARK)?;
        if used && self.record.is_none() {
            return Err(HostError::Unrecorded(self.file.clone()));
        }
        Ok(())
    }
}

/// The host's traffic, as long as it goes through a lease. Dropping it changes nothing: what holds goes on holding, as
/// after a kill -9.
#[derive(Debug)]
pub struct HostTraffic {
    claim: HostClaim,
    /// Whom the tunnels reach.
    outside: Outside,
    /// Whether an earlier program's kill switch was in force before.
    was_shut: bool,
}

impl HostTraffic {
    /// Sends the traffic into the interface, which must exist by now, and the resolver's questions to the gateway.
    pub fn route(&self) -> Result<(), HostError> {
        let Some(record) = &self.claim.record else {
            return Ok(());
        };
        let plan = &record.plan;
        if record.valid_mark.is_some()
            && let Err(error) = write_sysctl("1")
        {
            tracing::warn!(%error, "answers are lost if this host checks reverse paths strictly");
        }
        ip::apply(MARK, plan)?;
        record.resolver.apply(&plan.interface, plan.gateway)
    }

    /// The interface that everything goes into.
    pub fn interface(&self) -> Option<&str> {
        let record = self.claim.record.as_ref()?;
        Some(&record.plan.interface)
    }

    /// Lets a further tunnel reach its provider, beside the one that is in use.
    pub fn admit(
        &mut self,
        endpoints: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<(), HostError> {
        self.outside.begin_beside(endpoints);
        self.let_out()
    }

    /// Lets a tunnel reach a relay that became known after it was let out.
    pub fn admit_relay(&mut self, relay: IpAddr) -> Result<(), HostError> {
        match self.outside.relay(relay) {
            true => self.let_out(),
            false => Ok(()),
        }
    }

    fn let_out(&mut self) -> Result<(), HostError> {
        let Some(record) = &mut self.claim.record else {
            return Ok(());
        };
        record.plan.endpoints = self.outside.all().collect();
        record.write(&self.claim.file)?;
        Ok(nft::apply(&ruleset::ruleset(TABLE, MARK, &record.plan))?)
    }

    /// Leads everything into the interface of another plan, which must exist by now and else say the same. Whatever is on
    /// its way in between is lost; nothing takes the old way. Connections from before end, as their address is another
    /// one's.
    pub fn switch(&mut self, mut plan: HostPlan) -> Result<(), HostError> {
        let Some(record) = &mut self.claim.record else {
            return Ok(());
        };
        self.outside.take_over(plan.endpoints);
        plan.endpoints = self.outside.all().collect();
        let before = std::mem::replace(&mut record.plan, plan);
        record.write(&self.claim.file)?;
        let plan = &record.plan;
        nft::apply(&ruleset::ruleset(TABLE, MARK, plan))?;
        ip::switch(MARK, &before, plan)?;
        record.resolver.follow(&plan.interface, plan.gateway)
    }

    /// Changes everything back.
    pub fn restore(&mut self) -> Result<(), HostError> {
        self.claim.restore().map(drop)
    }

    /// After a lease that did not begin: changes everything back to what it was when this program started, which may
    /// have been a kill switch that held.
    pub fn withdraw(&mut self) -> Result<(), HostError> {
        if self.was_shut {
            self.claim.restore_behind_kill_switch()
        } else {
            self.claim.restore().map(drop)
        }
    }
}

/// None where the kernel has no such knob.
fn read_sysctl() -> Option<String> {
    let text = fs::read_to_string(VALID_MARK).ok()?;
    Some(text.trim().to_owned())
}

fn write_sysctl(value: &str) -> Result<(), HostError> {
    let path = Path::new(VALID_MARK);
    fs::write(path, value).map_err(|source| HostError::file("write", path, source))
}
