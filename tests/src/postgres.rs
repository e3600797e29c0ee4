//! A PostgreSQL server for one test or measurement: made in a temporary folder, reached by a socket in it, stopped when
//! dropped. As root it runs as Debian's user for it, since it refuses to run as root.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Debian's user for it.
const USER: &str = "postgres";
/// The database's own user, who may do everything.
const ROLE: &str = "ipsx";
/// Making a cluster and starting it on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Ends the server when the standard input ends, so also when the program is killed that started this.
const WATCHED: &str = r#""$0" "$@" & server=$!; read -r _; kill -INT "$server"; wait "$server""#;

/// A server that runs.
pub struct Server {
    watcher: Child,
    programs: PathBuf,
    folder: TempDir,
    settings: Vec<String>,
}

impl Server {
    /// Starts one for a test; `None` where `IPSX_WITHOUT_POSTGRES` says that tests are to do without. It does not wait for the
    /// disk, so that what it keeps outlives any program but not the machine.
    ///
    /// # Panics
    ///
    /// If it is missing, or can't be started.
    pub fn for_test() -> Option<Self> {
        if std::env::var_os("IPSX_WITHOUT_POSTGRES").is_some() {
            return None;
        }
        let server = Self::start(&["fsync=off"]);
        Some(server.expect(
            "PostgreSQL is missing: install Debian's postgresql, or set IPSX_WITHOUT_POSTGRES",
        ))
    }

    /// Starts one with these settings, each `name=value`; `None` where PostgreSQL is not installed.
    ///
    /// # Panics
    ///
    /// If it can't be started.
    pub fn start(settings: &[&str]) -> Option<Self> {
        let programs = programs()?;
        let folder = TempDir::new().unwrap();
        if is_root() {
            run(Command::new("chown").arg(USER).arg(folder.path()));
        }
        let data = folder.path().join("data");
        run(unprivileged(&programs.join("initdb"))
            .args(["-A", "trust", "-U", ROLE, "-E", "UTF8", "--locale=C", "-N"])
            .arg("-D")
            .arg(&data));
        let settings = settings.iter().map(|setting| (*setting).to_owned());
        let settings: Vec<_> = settings.collect();
        let watcher = launch(&programs, folder.path(), &settings);
        let mut server = Self {
            watcher,
            programs,
            folder,
            settings,
        };
        server.wait();
        Some(server)
    }

    /// Stops it, which ends all connections, and starts it again.
    pub fn restart(&mut self) {
        self.stop();
        self.watcher = launch(&self.programs, self.folder.path(), &self.settings);
        self.wait();
    }

    /// A URL of a database of this server; `postgres` is there from the beginning.
    pub fn url(&self, database: &str) -> String {
        let folder = self.folder.path().display();
        format!("postgres://{ROLE}@localhost/{database}?host={folder}")
    }

    /// The socket itself.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join(".s.PGSQL.5432")
    }

    /// Makes a database and returns its URL.
    pub fn database(&self, name: &str) -> String {
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        self.url(name)
    }

    /// Runs SQL in a database; returns the rows, columns parted by `|`.
    pub fn sql(&self, database: &str, sql: &str) -> Vec<String> {
        let mut psql = self.psql(database);
        let output = psql.args(["-v", "ON_ERROR_STOP=1", "-c", sql]).output();
        let output = output.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{sql}: {errors}");
        let rows = String::from_utf8_lossy(&output.stdout);
        rows.lines().map(str::to_owned).collect()
    }

    /// A client at this database that prints rows and nothing else.
    pub fn psql(&self, database: &str) -> Command {
        let mut psql = self.program("psql", database);
        psql.arg("-qAtX");
        psql
    }

    /// One of PostgreSQL's own clients at this database.
    pub fn program(&self, name: &str, database: &str) -> Command {
        let mut program = unprivileged(&self.programs.join(name));
        // Not every one has the same options.
        program
            .env("PGUSER", ROLE)
            .env("PGDATABASE", database)
            .env("PGHOST", self.folder.path());
        program
    }

    fn stop(&mut self) {
        // The end of its input is what it waits for.
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answered = self.psql("postgres").args(["-c", "SELECT 1"]).output();
            if answered.is_ok_and(|output| output.status.success()) {
                return;
            }
            if Instant::now() > deadline || self.watcher.try_wait().unwrap().is_some() {
                let mut said = String::new();
                let log = std::fs::File::open(self.folder.path().join("log"));
                log.unwrap().read_to_string(&mut said).unwrap();
                panic!("PostgreSQL does not start:\n{said}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts the server of a folder.
fn launch(programs: &Path, folder: &Path, settings: &[String]) -> Child {
    let mut server = unprivileged(Path::new("/bin/sh"));
    server
        .args(["-c", WATCHED])
        .arg(programs.join("postgres"))
        .arg("-D")
        .arg(folder.join("data"))
        .args(["-c", "listen_addresses=", "-c"])
        .arg(format!("unix_socket_directories={}", folder.display()));
    for setting in settings {
        server.args(["-c", setting]);
    }
    let log = std::fs::File::create(folder.join("log")).unwrap();
    server
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Where Debian puts the newest version's programs.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let newest = versions.filter_map(|entry| {
        let entry = entry.ok()?;
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        let programs = entry.path().join("bin");
        programs
            .join("initdb")
            .exists()
            .then_some((number, programs))
    });
    newest.max().map(|(_, path)| path)
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.starts_with(b"0\n"))
}

fn unprivileged(program: &Path) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        let ids = [format!("--reuid={USER}"), format!("--regid={USER}")];
        command.args(ids).arg("--clear-groups").arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir("/");
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
