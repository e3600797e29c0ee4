//! A disk that fills up under the broker: nothing new is sold, nothing that was said is lost, what is read is answered,
//! and once there is room again everything goes on by itself.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test acts and fails by panicking"
)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use ipsx_market::http::{DealView, OfferView};
use ipsx_tests::market::Market;
use ipsx_tests::program::built;
use ipsx_tests::rush::{Rush, Size, wait_until};

/// What the broker has; its databases' logs alone take some of it.
const DISK: &str = "32m";

/// A small file system that only processes of its own mount namespace see, for as long as this lives.
struct SmallDisk {
    /// Keeps the namespace; ends with its input.
    keeper: Child,
    at: PathBuf,
}

impl SmallDisk {
    fn mount(at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        let script = r#"mount -t tmpfs -o "size=$1" tmpfs "$0" && echo mounted && read -r _"#;
        let mut keeper = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .arg(at)
            .arg(DISK)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(keeper.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n", "mounting needs root");
        Self {
            keeper,
            at: at.to_owned(),
        }
    }

    /// A file in it, as processes outside of it see that.
    fn file(&self, name: &str) -> PathBuf {
        let root = format!("/proc/{}/root", self.keeper.id());
        let inside = self.at.strip_prefix("/").unwrap();
        Path::new(&root).join(inside).join(name)
    }

    /// Takes all room there is, also what is given back meanwhile, until it is told to stop.
    fn fill(&self) -> Filling {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, path) = (Arc::clone(&stop), self.file("filling"));
        let task = std::thread::spawn(move || {
            let mut file = File::create(&path).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                while file.write_all(&[7; 4096]).is_ok() {}
                std::thread::sleep(Duration::from_millis(20));
            }
            fs::remove_file(&path).unwrap();
        });
        Filling { stop, task }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

struct Filling {
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Filling {
    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.join().unwrap();
    }
}

#[test]
fn a_full_disk_stops_the_sale_and_nothing_else() {
    let keeper = Arc::new(OnceLock::<String>::new());
    let namespace = Arc::clone(&keeper);
    let program = move |name: &str| {
        let program = built(name);
        let Some(keeper) = namespace.get() else {
            return program;
        };
        let mut command = Command::new("nsenter");
        command
            .args(["--target", keeper.as_str(), "--mount"])
            .arg(program.get_program())
            .env("IPSX_BROKER_LOG", "error");
        command
    };
    let market = Market::new("127.0.0.1", &[("127.0.0.0/8", "FR")], Box::new(program));
    let disk = SmallDisk::mount(&market.path().join("broker"));
    keeper.set(disk.keeper.id().to_string()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _within = runtime.enter();
    let size = Size {
        agents: 5,
        leases: 200,
        customers: 12,
    };
    let mut rush = Rush::begin(&runtime, market, size);
    let leases = |rush: &Rush| rush.customers.leases();
    wait_until("there is load", &rush.crowd, || leases(&rush) > 20);
    assert_eq!(rush.market.metric("ipsx_store_full"), 0.0);
    for round in 1..=2 {
        let filling = disk.fill();
        wait_until("nothing more is sold", &rush.crowd, || {
            let before = leases(&rush);
            std::thread::sleep(Duration::from_secs(2));
            leases(&rush) == before && rush.customers.unavailable() > 0
        });
        assert_eq!(rush.market.metric("ipsx_store_full"), 1.0);
        // What is asked is answered, and what is wanted is refused with what to do.
        let request = rush.onlooker.request("FR");
        let (offers, deals, refused) = runtime.block_on(async {
            let offers: Vec<OfferView> = rush.onlooker.get("/v1/offers").await.unwrap();
            let deals: Vec<DealView> = rush.onlooker.get("/v1/deals").await.unwrap();
            (offers, deals, rush.onlooker.ask(request).await.unwrap_err())
        });
        assert_eq!((offers.len(), deals.len()), (size.agents, 0));
        assert_eq!(refused.status, 503, "{refused:?}");
        assert!(refused.detail.contains("no room"), "{refused:?}");
        assert_eq!(rush.crowd.placed(), size.agents, "they stay");
        let sold = leases(&rush);
        filling.stop();
        wait_until("leases are sold again", &rush.crowd, || {
            leases(&rush) > sold + 20
        });
        assert_eq!(rush.market.metric("ipsx_store_full"), 0.0);
        println!(
            "round {round}: {sold} leases before, {} after",
            leases(&rush)
        );
    }
    // Full at its death as well: it comes back when there is room.
    let filling = disk.fill();
    wait_until("it is full again", &rush.crowd, || {
        rush.market.metric("ipsx_store_full") == 1.0
    });
    rush.market.broker.as_mut().unwrap().kill();
    filling.stop();
    rush.kill_broker();
    let mut aftermath = rush.end(&runtime);
    let held = aftermath.check(&runtime);
    println!("{held:?}; refused: {:#?}", aftermath.problems);
    aftermath.kill_broker();
    aftermath.check(&runtime);
}
