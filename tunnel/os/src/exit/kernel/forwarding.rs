//! Which interfaces forward packets, and whether flows are counted: settings below `/proc/sys/net`, and their old values.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{error::KernelExitError, record::Sysctl};

/// The settings that have to change so that `uplinks` and `tun` forward to each other. `loose` are uplinks that
/// answers arrive by although the main table knows another way to where they come from.
pub(super) fn wanted(
    tun: &str,
    uplinks: &[String],
    loose: &[String],
    v6: bool,
) -> Result<Vec<Sysctl>, KernelExitError> {
    let mut settings = Vec::new();
    let interfaces = || uplinks.iter().map(String::as_str).chain([tun]);
    for interface in interfaces() {
        want(&mut settings, v4(interface, "forwarding"), "1")?;
    }
    for interface in loose {
        // Loose (2) wins over strict (1), which the setting for all interfaces may ask for.
        want(&mut settings, v4(interface, "rp_filter"), "2")?;
    }
    if v6 {
        want_v6(&mut settings, interfaces())?;
    }
    Ok(settings)
}

fn want_v6<'a>(
    settings: &mut Vec<Sysctl>,
    interfaces: impl Iterator<Item = &'a str>,
) -> Result<(), KernelExitError> {
    let all = v6("all", "forwarding");
    if read(&all)? != "0" {
        return Ok(());
    }
    if v6("all", "force_forwarding").exists() {
        // Since Linux 6.17 single interfaces can forward.
        for interface in interfaces {
            want(settings, v6(interface, "force_forwarding"), "1")?;
        }
        return Ok(());
    }
    // Before, all of them do or none; and those that forward no longer listen to routers unless told to (2), so that
    // the host would lose its own way out.
    for name in interface_names()? {
        let path = v6(&name, "accept_ra");
        if path.exists() && read(&path)? == "1" {
            want(settings, path, "2")?;
        }
    }
    want(settings, all, "1")
}

/// The settings that have to change so that the kernel tells of each flow, and how many bytes it moved.
pub(super) fn counting() -> Result<Vec<Sysctl>, KernelExitError> {
    let path = |name| Path::new("/proc/sys/net/netfilter").join(name);
    let mut settings = Vec::new();
    want(&mut settings, path("nf_conntrack_acct"), "1")?;
    // 1 is always, 2 while somebody listens.
    let events = path("nf_conntrack_events");
    if read(&events)? == "0" {
        want(&mut settings, events, "1")?;
    }
    Ok(settings)
}

/// Makes a change.
pub(super) fn set(setting: &Sysctl) -> Result<(), KernelExitError> {
    write(&setting.path, &setting.set)
}

/// Takes a change back, unless somebody else has changed the setting since, or its interface has gone.
pub(super) fn restore(setting: &Sysctl) -> Result<(), KernelExitError> {
    match fs::read_to_string(&setting.path) {
        Ok(now) if now.trim() == setting.set => write(&setting.path, &setting.was),
        _ => Ok(()),
    }
}

/// Whether an interface forwards IPv4 already.
pub(super) fn forwards(interface: &str) -> Result<bool, KernelExitError> {
    Ok(read(&v4(interface, "forwarding"))? != "0")
}

fn want(settings: &mut Vec<Sysctl>, path: PathBuf, value: &str) -> Result<(), KernelExitError> {
    let was = read(&path)?;
    if was != value {
        settings.push(Sysctl {
            path,
            was,
            set: value.to_owned(),
        });
    }
    Ok(())
}

fn v4(interface: &str, name: &str) -> PathBuf {
    conf("ipv4", interface, name)
}

fn v6(interface: &str, name: &str) -> PathBuf {
    conf("ipv6", interface, name)
}

fn conf(family: &str, interface: &str, name: &str) -> PathBuf {
    Path::new("/proc/sys/net")
        .join(family)
        .join("conf")
        .join(interface)
        .join(name)
}

fn interface_names() -> Result<Vec<String>, KernelExitError> {
    let path = Path::new("/proc/sys/net/ipv6/conf");
    let failed = |source| KernelExitError::File {
        path: path.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        names.extend(name.into_string().ok().filter(|name| name != "all"));
    }
    Ok(names)
}

fn read(path: &Path) -> Result<String, KernelExitError> {
    let text = fs::read_to_string(path).map_err(|source| KernelExitError::File {
        path: path.to_owned(),
        source,
    })?;
    Ok(text.trim().to_owned())
}

fn write(path: &Path, value: &str) -> Result<(), KernelExitError> {
    fs::write(path, value).map_err(|source: io::Error| KernelExitError::Sysctl {
        path: path.to_owned(),
        source,
    })
}
