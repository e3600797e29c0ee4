//! The same offers in PostgreSQL, started for this run on a socket in a temporary folder, as an unprivileged user.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use tempfile::TempDir;

use crate::questions::Question;
use crate::spread::{SEED, Spread};
use crate::sql::{INDEXES, TABLE, row, select};
use crate::{Answer, Asked, MOST_MILLIS};

/// Debian's user for it.
const USER: &str = "postgres";
const END: &str = "-- end --";

type Failed = Box<dyn std::error::Error>;

/// A server with the offers, and a client that asks it.
pub(crate) struct Postgres {
    client: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    programs: PathBuf,
    folder: TempDir,
}

impl Postgres {
    /// Starts a server, and fills it with as many offers as the book; nothing where PostgreSQL is not installed.
    pub(crate) fn fill(offers: usize) -> Result<Option<Self>, Failed> {
        let Some(programs) = programs() else {
            return Ok(None);
        };
        let folder = TempDir::new()?;
        let data = folder.path().join("data");
        run(Command::new("chown").arg(USER).arg(folder.path()))?;
        run(unprivileged(&programs.join("initdb"))
            .args(["-A", "trust", "-E", "UTF8", "--locale=C", "-D"])
            .arg(&data))?;
        let settings = format!(
            "-c listen_addresses= -c unix_socket_directories={} -c shared_buffers=2GB -c work_mem=64MB -c fsync=off -c jit=off",
            folder.path().display()
        );
        run(unprivileged(&programs.join("pg_ctl"))
            .args(["-w", "-D"])
            .arg(&data)
            .args(["-l"])
            .arg(folder.path().join("log"))
            .args(["-o", &settings, "start"])
            .stdout(Stdio::null()))?;
        let mut client = unprivileged(&programs.join("psql"))
            .args(["-qAtX", "-v", "ON_ERROR_STOP=0", "-h"])
            .arg(folder.path())
            .args(["-d", "postgres"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let piped = client.stdin.take().zip(client.stdout.take());
        let (input, output) = piped.ok_or("psql has no pipes")?;
        let mut postgres = Self {
            client,
            input,
            output: BufReader::new(output),
            programs,
            folder,
        };
        postgres.load(offers)?;
        Ok(Some(postgres))
    }

    fn load(&mut self, offers: usize) -> Result<(), Failed> {
        self.say(&format!("{TABLE};"))?;
        let mut copy = BufWriter::new(&mut self.input);
        writeln!(copy, "COPY offers FROM STDIN WITH (FORMAT csv);")?;
        let mut spread = Spread::new(SEED);
        for number in 0..offers {
            let (offer, placement) = spread.offer();
            writeln!(copy, "{}", row(number, &offer, &placement).join(","))?;
        }
        writeln!(copy, "\\.")?;
        copy.flush()?;
        drop(copy);
        for index in INDEXES {
            self.say(&format!("{index};"))?;
        }
        self.say("VACUUM ANALYZE offers;")?;
        self.say(&format!("SET statement_timeout = {MOST_MILLIS};"))?;
        self.say("\\timing on")?;
        Ok(())
    }

    /// Microseconds, and the id that comes back.
    fn answer(&mut self, sql: &str) -> Result<(f64, Option<String>), Failed> {
        let heard = self.say(sql)?;
        let time = heard.iter().find_map(|line| line.strip_prefix("Time: "));
        let time = time
            .and_then(|line| line.split(' ').next())
            .ok_or("psql tells no time")?;
        let micros = time.parse::<f64>()? * 1_000.0;
        let found = heard.into_iter().find(|line| line.starts_with("0x"));
        Ok((micros, found))
    }

    /// Sends a line, and waits for everything that comes back.
    fn say(&mut self, line: &str) -> Result<Vec<String>, Failed> {
        writeln!(self.input, "{line}\n\\echo {END}")?;
        self.input.flush()?;
        let mut heard = Vec::new();
        loop {
            let mut text = String::new();
            if self.output.read_line(&mut text)? == 0 {
                return Err(format!("psql ended at {line}").into());
            }
            match text.trim_end() {
                END => return Ok(heard),
                other => heard.push(other.to_owned()),
            }
        }
    }
}

impl Asked for Postgres {
    fn ask(&mut self, question: &Question) -> Result<Answer, Failed> {
        let sql = format!("{};", select(question));
        // In the cache before it counts.
        let (mut micros, mut found) = self.answer(&sql)?;
        let too_long = f64::from(MOST_MILLIS) * 1_000.0;
        if micros < too_long {
            (micros, found) = self.answer(&sql)?;
        }
        let stopped = found.is_none() && micros >= too_long;
        Ok(Answer {
            micros,
            found: (!stopped).then_some(found),
        })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = writeln!(self.input, "\\q");
        let _ = self.client.wait();
        let mut stop = unprivileged(&self.programs.join("pg_ctl"));
        stop.args(["-m", "immediate", "-D"])
            .arg(self.folder.path().join("data"));
        let _ = stop.arg("stop").stdout(Stdio::null()).status();
    }
}

/// Where Debian puts the newest version's programs.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let newest = versions.filter_map(|entry| {
        let entry = entry.ok()?;
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((number, entry.path().join("bin")))
    });
    newest.max().map(|(_, path)| path)
}

fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    let ids = [format!("--reuid={USER}"), format!("--regid={USER}")];
    command
        .args(ids)
        .arg("--clear-groups")
        .arg(program)
        .current_dir("/");
    command
}

fn run(command: &mut Command) -> Result<(), Failed> {
    let status = command.stdout(Stdio::null()).status()?;
    if status.success() {
        return Ok(());
    }
    Err(
        format!("{command:?} failed ({status}); PostgreSQL is started as {USER}, which needs root")
            .into(),
    )
}
