//! What the userspace exit carries, for one TCP connection and for a thousand at once, in turns.
//!
//! `cargo run --release -p ipsx-benches --bin userspace_exit [rounds] [megabytes] [flows]`
//!
//! Requester, provider and server are threads of this program and share the machine, so the throughput is what all of
//! them together reach. The exit's own cost is the processor time of its thread.

use std::{
    cell::RefCell,
    error::Error,
    fmt,
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    task::{Poll, ready},
    time::{Duration, Instant},
};

use ipsx_benches::{Samples, cpu_time, thread_time_of};
use ipsx_tunnel_core::{ExitPolicy, Gate, PeerConfig, PrivateKey, Tier};
use ipsx_tunnel_os::{ClientConfig, ClientTunnel, ExitLimits, Provider, ProviderConfig};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

type Failure = Box<dyn Error + Send + Sync>;

/// The name of the exit's thread.
const EXIT: &str = "ipsx-provider";

/// Bytes of one read or write of the programs at both ends.
const CHUNK: usize = 64 << 10;

/// What is sent.
static CONTENT: [u8; CHUNK] = [7; CHUNK];

/// Idle memory that a provider may take.
const IDLE_LIMIT: usize = 12 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// How the bytes get to the server.
#[derive(Clone, Copy)]
enum Way<'a> {
    Tunnel(&'a ClientTunnel),
    /// Past the tunnel: what the kernel and the programs at both ends make of so many connections by themselves.
    Direct,
}

impl fmt::Display for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tunnel(_) => "tunnel",
            Self::Direct => "direct",
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// One measurement.
struct Run {
    megabits: f64,
    /// Processor time of the exit's thread.
    exit_per_gigabyte: f64,
    /// Processor time of exit, requester and server.
    all_per_gigabyte: f64,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: usize| {
        arguments
            .next()
            .map_or(Ok(default), |text| text.parse::<usize>())
    };
    let (rounds, megabytes, flows) = (next(5)?, next(400)?, next(1000)?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let server = listener.local_addr()?;
    let provider = provider(server)?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    if let Some(bytes) = resident() {
        println!(
            "idle: {:.1} MiB resident (limit {} MiB), this program's own runtime included",
            bytes as f64 / f64::from(1 << 20),
            IDLE_LIMIT >> 20
        );
    }
    tokio::spawn(serve(listener));
    let client = lease(&provider).await?;
    let mut cases = Vec::new();
    for way in [Way::Tunnel(&client), Way::Direct] {
        for direction in [Direction::Up, Direction::Down] {
            cases.extend([(way, 1, direction), (way, flows, direction)]);
        }
    }
    let mut results: Vec<Vec<Run>> = cases.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (&(way, count, direction), runs) in cases.iter().zip(&mut results) {
            runs.push(measure(way, server, count, direction, megabytes << 20).await?);
        }
    }
    let mut medians = Vec::new();
    for (&(way, count, direction), runs) in cases.iter().zip(&results) {
        let megabits = samples(runs, |run| run.megabits)?;
        let exit = samples(runs, |run| run.exit_per_gigabyte)?;
        let all = samples(runs, |run| run.all_per_gigabyte)?;
        println!(
            "{way} {count:>5} {direction:?}: {:.0} Mbit/s ({:.0}-{:.0}), CPU s/GB: exit {:.2} ({:.2}-{:.2}), all {:.2}",
            megabits.median(),
            megabits.least(),
            megabits.most(),
            exit.median(),
            exit.least(),
            exit.most(),
            all.median()
        );
        medians.push((megabits.median(), exit.median(), all.median()));
    }
    for (pair, case) in medians.chunks(2).zip(cases.chunks(2)) {
        if let ([one, many], [(way, _, direction), _]) = (pair, case) {
            println!(
                "{way} {flows} connections {direction:?}: {:.2} of the throughput of one, processor time: exit {:.2}, all {:.2}",
                many.0 / one.0,
                many.1 / one.1,
                many.2 / one.2
            );
        }
    }
    for (reason, count) in provider.dropped().await?.iter().filter(|drop| drop.1 > 0) {
        println!("dropped {reason}: {count}");
    }
    Ok(())
}

fn samples(runs: &[Run], value: impl Fn(&Run) -> f64) -> Result<Samples, Failure> {
    Samples::new(runs.iter().map(value).collect()).ok_or_else(|| "no rounds".into())
}

/// Moves about `bytes` over `count` connections that are open before the clock starts.
async fn measure(
    way: Way<'_>,
    server: SocketAddr,
    count: usize,
    direction: Direction,
    bytes: usize,
) -> Result<Run, Failure> {
    let each = (bytes / count).next_multiple_of(CHUNK);
    let mut streams: Vec<Box<dyn Stream>> = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream: Box<dyn Stream> = match way {
            Way::Tunnel(client) => Box::new(client.tcp_connect(server).await?),
            Way::Direct => Box::new(TcpStream::connect(server).await?),
        };
        // The server has taken the connection when it answers.
        stream.write_all(b"?").await?;
        stream.read_u8().await?;
        streams.push(stream);
    }
    let busy = thread_time_of(EXIT).ok_or("the exit's thread has no processor time here")?;
    let all = cpu_time().ok_or("no processor times here")?;
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for stream in streams {
        tasks.spawn(transfer(stream, direction, each));
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let elapsed = started.elapsed();
    let busy = thread_time_of(EXIT).ok_or("the exit's thread is gone")? - busy;
    let all = cpu_time()
        .ok_or("no processor times here")?
        .saturating_sub(all);
    let moved = (each * count) as f64;
    // Endings are not part of the next measurement.
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(Run {
        megabits: moved * 8.0 / 1e6 / elapsed.as_secs_f64(),
        exit_per_gigabyte: busy.as_secs_f64() / (moved / 1e9),
        all_per_gigabyte: all.as_secs_f64() / (moved / 1e9),
    })
}

async fn transfer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    direction: Direction,
    bytes: usize,
) -> Result<(), Failure> {
    match direction {
        Direction::Down => {
            stream.write_all(b"d").await?;
            stream.write_u64(bytes as u64).await?;
            let arrived = discard(&mut stream).await?;
            if arrived != bytes as u64 {
                return Err(format!("{arrived} of {bytes} bytes arrived").into());
            }
        }
        Direction::Up => {
            stream.write_all(b"u").await?;
            for _ in 0..bytes / CHUNK {
                stream.write_all(&CONTENT).await?;
            }
            stream.shutdown().await?;
            let arrived = stream.read_u64().await?;
            if arrived != bytes as u64 {
                return Err(format!("{arrived} of {bytes} bytes arrived").into());
            }
        }
    }
    Ok(())
}

async fn serve(listener: TcpListener) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(answer(stream));
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.read_u8().await?;
    stream.write_all(b"!").await?;
    if stream.read_u8().await? == b'd' {
        let bytes = stream.read_u64().await?;
        for _ in 0..bytes / CHUNK as u64 {
            stream.write_all(&CONTENT).await?;
        }
        return stream.shutdown().await;
    }
    let arrived = discard(&mut stream).await?;
    stream.write_u64(arrived).await
}

/// Reads to the end, and tells how many bytes came. All connections of a thread share one buffer: with one each, a
/// thousand would measure how fast this program's memory is.
async fn discard(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<u64> {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
    }
    let mut arrived = 0;
    loop {
        let count = poll_fn(|cx| {
            BUFFER.with_borrow_mut(|buffer| {
                let mut room = ReadBuf::new(buffer);
                ready!(Pin::new(&mut *stream).poll_read(cx, &mut room))?;
                Poll::Ready(std::io::Result::Ok(room.filled().len()))
            })
        })
        .await?;
        if count == 0 {
            return Ok(arrived);
        }
        arrived += count as u64;
    }
}

fn provider(server: SocketAddr) -> Result<Provider, Failure> {
    let rule = format!("{}:tcp/{}", server.ip(), server.port()).parse()?;
    let (provider, _events) = Provider::start(ProviderConfig {
        private_key: PrivateKey::generate(&mut rand::rngs::OsRng),
        listen: "127.0.0.1:0".parse()?,
        egress_v4: Some("127.0.1.7".parse()?),
        egress_v6: None,
        gateway_v4: "10.77.0.1".parse()?,
        gateway_v6: None,
        control_port: 4411,
        policy: ExitPolicy {
            allow: vec![rule],
            ..ExitPolicy::new(Tier::Web)
        },
        limits: ExitLimits {
            tcp_per_peer: 4096,
            ..ExitLimits::default()
        },
    })?;
    Ok(provider)
}

async fn lease(provider: &Provider) -> Result<ClientTunnel, Failure> {
    let private_key = PrivateKey::generate(&mut rand::rngs::OsRng);
    let peer = provider
        .add_peer(PeerConfig {
            public_key: private_key.public_key(),
            preshared_key: None,
            endpoint: None,
            allowed_ips: vec!["10.77.0.2/32".parse()?],
            keepalive: None,
        })
        .await?;
    provider.set_gate(peer, Gate::Open)?;
    let (client, _events) = ClientTunnel::connect(ClientConfig {
        private_key,
        peer_public_key: provider.public_key(),
        preshared_key: None,
        endpoint: provider.local_addr(),
        bind: "127.0.0.1:0".parse()?,
        inner_v4: "10.77.0.2".parse()?,
        inner_v6: None,
        gateway_v4: "10.77.0.1".parse()?,
        control_port: 4411,
        keepalive: None,
        handshake_timeout: Duration::from_secs(5),
        punch: None,
    })
    .await?;
    Ok(client)
}

/// Resident memory of this program, in bytes (Linux).
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kibibytes: usize = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes << 10)
}
