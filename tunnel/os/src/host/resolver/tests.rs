#![allow(clippy::unwrap_used)]
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);

/// A folder of the test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("ipsx-resolver-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("resolv.conf")
    }

    fn names(&self) -> usize {
        fs::read_dir(&self.0).unwrap().count()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(file: &Path) -> String {
    fs::read_to_string(file).unwrap()
}

#[test]
fn a_file_comes_back_with_its_mode_and_a_link_as_a_link() {
    let folder = Folder::new("replaced");
    let file = folder.file();
    fs::write(&file, "nameserver 192.0.2.1\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let inode = fs::metadata(&file).unwrap().ino();
    let plan = Resolver::of_file(&file, false).unwrap();
    assert_eq!(plan, Resolver::Replaced { file: file.clone() });
    plan.apply("ipsx0", GATEWAY).unwrap();
    assert!(text(&file).contains("nameserver 10.98.0.1\n"));
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o644
    );
    // A second program after a kill -9 begins by restoring; doing it twice changes nothing.
    for _ in 0..2 {
        plan.restore().unwrap();
        assert_eq!(text(&file), "nameserver 192.0.2.1\n");
        assert_eq!(fs::metadata(&file).unwrap().ino(), inode);
        assert_eq!(folder.names(), 1);
    }

    let target = folder.0.join("stub");
    fs::rename(&file, &target).unwrap();
    symlink("stub", &file).unwrap();
    let plan = Resolver::of_file(&file, false).unwrap();
    plan.apply("ipsx0", GATEWAY).unwrap();
    assert!(fs::symlink_metadata(&file).unwrap().is_file());
    assert_eq!(text(&target), "nameserver 192.0.2.1\n", "left alone");
    plan.restore().unwrap();
    assert_eq!(fs::read_link(&file).unwrap(), Path::new("stub"));
    assert_eq!(folder.names(), 2);
}

#[test]
fn what_somebody_else_wrote_meanwhile_stays() {
    let folder = Folder::new("foreign");
    let file = folder.file();
    fs::write(&file, "before").unwrap();
    for in_place in [false, true] {
        let plan = Resolver::of_file(&file, in_place).unwrap();
        plan.apply("ipsx0", GATEWAY).unwrap();
        fs::write(&file, "by a DHCP client").unwrap();
        plan.restore().unwrap();
        assert_eq!(text(&file), "by a DHCP client");
        assert_eq!(folder.names(), 1);
    }
}

#[test]
fn a_mount_is_written_over_and_a_new_file_taken_away() {
    let folder = Folder::new("mount");
    let file = folder.file();
    fs::write(&file, "search example\n").unwrap();
    let inode = fs::metadata(&file).unwrap().ino();
    let plan = Resolver::of_file(&file, true).unwrap();
    plan.apply("ipsx0", GATEWAY).unwrap();
    assert!(text(&file).contains("nameserver 10.98.0.1\n"));
    plan.restore().unwrap();
    assert_eq!(text(&file), "search example\n");
    assert_eq!(fs::metadata(&file).unwrap().ino(), inode);

    let fresh = folder.0.join("name/resolv.conf");
    let plan = Resolver::of_file(&fresh, false).unwrap();
    plan.apply("ipsx0", GATEWAY).unwrap();
    assert!(text(&fresh).contains("10.98.0.1"));
    plan.restore().unwrap();
    assert!(!folder.0.join("name").exists());
}

#[test]
fn nothing_is_restored_that_was_not_changed() {
    let folder = Folder::new("unchanged");
    let file = folder.file();
    fs::write(&file, "as it was").unwrap();
    for in_place in [false, true] {
        Resolver::of_file(&file, in_place)
            .unwrap()
            .restore()
            .unwrap();
        assert_eq!(text(&file), "as it was");
    }
}

#[test]
fn stubs_are_told_from_servers() {
    assert!(asks_a_stub(b"# x\nnameserver 127.0.0.53\noptions edns0"));
    assert!(!asks_a_stub(
        b"nameserver 192.0.2.1\n# nameserver 127.0.0.53"
    ));
    assert!(!asks_a_stub(b""));
}
