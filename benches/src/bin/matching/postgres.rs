//! The same offers in PostgreSQL, started for this run on a socket in a temporary folder, as an unprivileged user.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use ipsx_tests::postgres::Server;

use crate::sql::{INDEXES, TABLE, row, select};
use crate::{Answer, Asked, MOST_MILLIS};
use ipsx_benches::questions::Question;
use ipsx_benches::spread::{SEED, Spread};

const END: &str = "-- end --";
/// It is asked, not kept.
const SETTINGS: [&str; 4] = [
    "shared_buffers=2GB",
    "work_mem=64MB",
    "fsync=off",
    "jit=off",
];

type Failed = Box<dyn std::error::Error>;

/// A server with the offers, and a client that asks it.
pub(crate) struct Postgres {
    client: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Stopped after the client.
    _server: Server,
}

impl Postgres {
    /// Starts a server, and fills it with as many offers as the book; nothing where PostgreSQL is not installed.
    pub(crate) fn fill(offers: usize) -> Result<Option<Self>, Failed> {
        let Some(server) = Server::start(&SETTINGS) else {
            return Ok(None);
        };
        let mut client = server
            .psql("postgres")
            .args(["-v", "ON_ERROR_STOP=0"])
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
            _server: server,
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
    }
}
