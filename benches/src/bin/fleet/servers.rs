//! What PostgreSQL and NATS do in a second on this machine.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ipsx_benches::time_of_process;
use ipsx_tests::nats::Nats;
use ipsx_tests::postgres::Server;

/// Bytes of a message between brokers: the median of what a lease needs.
const MESSAGE: usize = 1_000;
/// The tables as a broker makes them.
const TABLES: [&str; 3] = [
    include_str!("../../../../broker/server/migrations/postgres/0004_initial.sql"),
    include_str!("../../../../broker/server/migrations/postgres/0005_resting_requests.sql"),
    include_str!("../../../../broker/server/migrations/postgres/0008_shards.sql"),
];
/// One step of a lease as a broker of a fleet writes it: the shard's row is read under a lock, the deal changes, its
/// transitions are added and its payer's account is written.
const STEP: &str = "\\set shard random(0, 255)
\\set deal random(1, 1000000000)
BEGIN;
SELECT pg_advisory_xact_lock(:deal);
SELECT 1 FROM shards WHERE shard = :shard FOR SHARE;
INSERT INTO deals VALUES (:deal::text, 'p', 'r' || :shard, 'c', 's', 1, 0, repeat('x', 3000), 'q' || :deal, :shard)
ON CONFLICT (deal_id) DO UPDATE SET record = excluded.record;
INSERT INTO transitions (deal_id, at, side, provider, requester, status, cause, wallet)
VALUES (:deal::text, 1, 'p', 'p', 'r', 's', 'c', 'r' || :shard), (:deal::text, 1, 'p', 'p', 'r', 's', 'c', 'r' || :shard);
INSERT INTO accounts VALUES ('p' || :deal % 1000, repeat('x', 500), 1)
ON CONFLICT (payer) DO UPDATE SET account = excluded.account, version = accounts.version + 1;
COMMIT;
";

pub(crate) fn measure(seconds: u64) {
    println!("\n| server | at once | a second | its processor, µs each |");
    println!("|---|---:|---:|---:|");
    match Server::start(&[]) {
        None => println!("PostgreSQL is not installed"),
        Some(server) => postgres(&server, seconds),
    }
    match Nats::start() {
        None => println!("nats-server is not installed"),
        Some(nats) => {
            for receivers in [1, 2, 9] {
                pass_on(&nats, receivers, Duration::from_secs(seconds));
            }
        }
    }
}

/// Each client waits for its commit; a broker commits many steps together.
fn postgres(server: &Server, seconds: u64) {
    server.database("market");
    for sql in TABLES {
        server.sql("market", sql);
    }
    let mut script = tempfile::NamedTempFile::new().unwrap();
    script.write_all(STEP.as_bytes()).unwrap();
    // The server's own user reads it.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    script.as_file().set_permissions(open).unwrap();
    for clients in [1, 8, 32] {
        let mut pgbench = server.program("pgbench", "market");
        let (clients, time) = (clients.to_string(), seconds.to_string());
        pgbench.args(["-n", "-c", &clients, "-j", "2", "-T", &time, "-f"]);
        let output = pgbench.arg(script.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let rate = said.lines().find_map(|line| line.strip_prefix("tps = "));
        let rate = rate.and_then(|rest| rest.split_whitespace().next());
        let rate =
            rate.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)));
        let rate: f64 = rate.parse().unwrap();
        println!("| PostgreSQL, a lease's step and a sync | {clients} | {rate:.0} | |");
    }
}

/// One sends as fast as the server takes it, and each of the others hears all of it.
fn pass_on(nats: &Nats, receivers: usize, time: Duration) {
    let hear: Vec<_> = (0..receivers).map(|_| connect(nats)).collect();
    let mut threads = Vec::new();
    for mut stream in hear {
        stream.write_all(b"SUB to 1\r\nPING\r\n").unwrap();
        wait_for_pong(&mut stream);
        threads.push(std::thread::spawn(move || count(stream)));
    }
    let mut sender = connect(nats);
    let mut message = format!("PUB to {MESSAGE}\r\n").into_bytes();
    message.extend([b'x'; MESSAGE]);
    message.extend(b"\r\n");
    let batch = message.repeat(64);
    let (began, before) = (Instant::now(), time_of_process(nats.id()));
    let mut sent = 0_u64;
    while began.elapsed() < time {
        sender.write_all(&batch).unwrap();
        sent += 64;
        // What is on its way stays bounded, as between brokers that wait for answers.
        if sent.is_multiple_of(4_096) {
            sender.write_all(b"PING\r\n").unwrap();
            wait_for_pong(&mut sender);
        }
    }
    sender.write_all(b"PUB to 3\r\nend\r\n").unwrap();
    let heard: u64 = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .sum();
    let rate = heard as f64 / MESSAGE as f64 / began.elapsed().as_secs_f64();
    let used = time_of_process(nats.id()) - before;
    println!(
        "| NATS, {MESSAGE} bytes | 1 to {receivers} | {rate:.0} | {:.1} |",
        used.as_secs_f64() * 1e6 / (heard as f64 / MESSAGE as f64)
    );
}

fn connect(nats: &Nats) -> TcpStream {
    let mut stream = TcpStream::connect(nats.address).unwrap();
    stream
        .write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n")
        .unwrap();
    wait_for_pong(&mut stream);
    stream
}

/// Reads up to the answer to a ping.
fn wait_for_pong(stream: &mut TcpStream) {
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !said.ends_with(b"PONG\r\n") {
        stream.read_exact(&mut byte).unwrap();
        said.push(byte[0]);
    }
}

/// Bytes of messages until the last one.
fn count(mut stream: TcpStream) -> u64 {
    let head = format!("MSG to 1 {MESSAGE}\r\n\r\n").len() as u64;
    let whole = head + MESSAGE as u64;
    let (mut bytes, mut buffer, mut tail) = (0, vec![0; 1 << 20], Vec::new());
    loop {
        let length = stream.read(&mut buffer).unwrap();
        bytes += length as u64;
        tail.extend_from_slice(&buffer[length.saturating_sub(8)..length]);
        tail.drain(..tail.len().saturating_sub(8));
        if length == 0 || tail.ends_with(b"end\r\n") {
            return bytes / whole * MESSAGE as u64;
        }
    }
}
