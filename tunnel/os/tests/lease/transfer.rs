//! Bytes through the tunnel, both ways.

use std::time::Duration;

use ipsx_tunnel_core::Tier;
use ipsx_tunnel_os::ExitLimits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::{sleep, timeout},
};

use crate::setup::{
    EGRESS, bad_path, lease, lease_over, listener, mirror, pattern, policy, tcp, within,
};

const MEGABYTE: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn the_server_sees_the_providers_address() {
    let server = mirror().await;
    let lease = lease(Tier::Web, &[tcp(server)]).await;
    assert!(lease.client.round_trip() > Duration::ZERO);
    let mut stream = within(5, lease.client.tcp_connect(server)).await.unwrap();
    let mut seen = String::new();
    within(5, stream.read_to_string(&mut seen)).await.unwrap();
    assert_eq!(seen, EGRESS.to_string());
    drop(stream);
    let usage = within(10, lease.agreed_usage()).await;
    assert!(usage.bytes_up > 100 && usage.bytes_down > 100, "{usage:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_megabytes_down_arrive_whole_and_both_ends_count_them() {
    let (server, address) = listener().await;
    let data = pattern(1, 50 * MEGABYTE);
    let sent = data.clone();
    tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        stream.write_all(&sent).await.unwrap();
    });
    let lease = lease(Tier::Web, &[tcp(address)]).await;
    let mut stream = within(5, lease.client.tcp_connect(address)).await.unwrap();
    let mut received = Vec::with_capacity(data.len());
    within(60, stream.read_to_end(&mut received)).await.unwrap();
    assert!(
        received == data,
        "{} of {} bytes",
        received.len(),
        data.len()
    );
    drop(stream);
    let usage = within(10, lease.agreed_usage()).await;
    assert!(usage.bytes_down > data.len() as u64, "{usage:?}");
    assert!(
        usage.bytes_down < data.len() as u64 * 104 / 100,
        "{usage:?}"
    );
    assert!(usage.bytes_up < data.len() as u64 / 10, "{usage:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_megabytes_up_arrive_whole_and_both_ends_count_them() {
    let (server, address) = listener().await;
    let data = pattern(2, 50 * MEGABYTE);
    let receiving = tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        stream.write_all(b"thanks").await.unwrap();
        received
    });
    let lease = lease(Tier::Web, &[tcp(address)]).await;
    let mut stream = within(5, lease.client.tcp_connect(address)).await.unwrap();
    within(60, stream.write_all(&data)).await.unwrap();
    stream.shutdown().await.unwrap();
    // The other direction is still open after the end of ours.
    let mut answer = String::new();
    within(60, stream.read_to_string(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer, "thanks");
    let received = within(5, receiving).await.unwrap();
    assert!(
        received == data,
        "{} of {} bytes",
        received.len(),
        data.len()
    );
    drop(stream);
    let usage = within(10, lease.agreed_usage()).await;
    assert!(usage.bytes_up > data.len() as u64, "{usage:?}");
    assert!(usage.bytes_up < data.len() as u64 * 104 / 100, "{usage:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_may_end_its_direction_first() {
    let (server, address) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        // The server ends first, and still reads everything.
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"late words");
        let (mut stream, _) = server.accept().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
    });
    let lease = lease(Tier::Web, &[tcp(address)]).await;
    let mut stream = within(5, lease.client.tcp_connect(address)).await.unwrap();
    let mut hello = String::new();
    within(5, stream.read_to_string(&mut hello)).await.unwrap();
    assert_eq!(hello, "hello");
    sleep(Duration::from_millis(50)).await;
    stream.write_all(b"late words").await.unwrap();
    stream.shutdown().await.unwrap();
    drop(stream);
    let mut stream = within(5, lease.client.tcp_connect(address)).await.unwrap();
    stream.write_all(b"echo me").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echo = String::new();
    within(5, stream.read_to_string(&mut echo)).await.unwrap();
    assert_eq!(echo, "echo me");
    drop(stream);
    within(10, lease.agreed_usage()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_before_an_end_outlive_the_connection_that_brought_them() {
    let (server, address) = listener().await;
    let data = pattern(6, 2 * MEGABYTE);
    let receiving = tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        stream.shutdown().await.unwrap();
        // Both sides have ended and the tunnel's connection is closed long before this one has taken everything.
        let mut received = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            sleep(Duration::from_millis(20)).await;
            match stream.read(&mut buffer).await.unwrap() {
                0 => return received,
                count => received.extend_from_slice(&buffer[..count]),
            }
        }
    });
    let lease = lease(Tier::Web, &[tcp(address)]).await;
    let mut stream = within(5, lease.client.tcp_connect(address)).await.unwrap();
    assert_eq!(within(5, stream.read(&mut [0; 1])).await.unwrap(), 0);
    within(10, stream.write_all(&data)).await.unwrap();
    drop(stream);
    let received = within(20, receiving).await.unwrap();
    assert!(
        received == data,
        "{} of {} bytes",
        received.len(),
        data.len()
    );
    within(10, lease.agreed_usage()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_loses_and_reorders_datagrams_changes_no_byte() {
    let (server, address) = listener().await;
    let data = pattern(7, MEGABYTE);
    let sent = data.clone();
    tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        let mut up = vec![0; sent.len()];
        stream.read_exact(&mut up).await.unwrap();
        assert!(up == sent);
        stream.write_all(&sent).await.unwrap();
    });
    let policy = policy(Tier::Web, &[tcp(address)]);
    let lease = lease_over(policy, ExitLimits::default(), async |provider| {
        bad_path(provider, 199).await
    })
    .await;
    let mut stream = within(5, lease.client.tcp_connect(address)).await.unwrap();
    within(30, stream.write_all(&data)).await.unwrap();
    let mut received = Vec::new();
    within(30, stream.read_to_end(&mut received)).await.unwrap();
    assert!(
        received == data,
        "{} of {} bytes",
        received.len(),
        data.len()
    );
    // What was lost was sent, but not received: nobody counts more than the other has sent.
    let ours = lease.client.usage().await.unwrap();
    let theirs = lease.provider.usage(lease.peer).await.unwrap().unwrap();
    assert!(
        theirs.bytes_up < ours.bytes_up && ours.bytes_down < theirs.bytes_down,
        "{ours:?} {theirs:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_stops_the_sender_within_bounded_memory() {
    let (server, address) = listener().await;
    let total = 24 * MEGABYTE;
    let (progress, mut written) = tokio::sync::watch::channel(0usize);
    tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        let chunk = pattern(3, 64 << 10);
        for sent in (0..total).step_by(chunk.len()) {
            stream.write_all(&chunk).await.unwrap();
            progress.send_replace(sent + chunk.len());
        }
    });
    let lease = lease(Tier::Web, &[tcp(address)]).await;
    let mut stream = within(5, lease.client.tcp_connect(address)).await.unwrap();
    // Nobody reads: the server must come to a halt. Tunnel buffers hold less than 3 MB; the rest is the kernel's.
    sleep(Duration::from_secs(2)).await;
    let halted = *written.borrow_and_update();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(halted, *written.borrow(), "the sender never stopped");
    assert!(halted < 12 * MEGABYTE, "{halted} bytes went somewhere");
    let mut received = 0;
    let mut buffer = vec![0; 64 << 10];
    while received < total {
        received += within(20, stream.read(&mut buffer)).await.unwrap();
    }
    assert_eq!(within(5, stream.read(&mut buffer)).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_at_once_keep_their_bytes_apart() {
    let (server, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = server.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                write.shutdown().await.unwrap();
            });
        }
    });
    let lease = lease(Tier::Web, &[tcp(address)]).await;
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 0..64 {
        let client = lease.client.clone();
        tasks.spawn(async move {
            let data = pattern(seed, 100_000 + seed as usize);
            let stream = client.tcp_connect(address).await.unwrap();
            let (mut read, mut write) = tokio::io::split(stream);
            let sent = data.clone();
            let writing = tokio::spawn(async move {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            });
            let mut echo = Vec::new();
            read.read_to_end(&mut echo).await.unwrap();
            writing.await.unwrap();
            assert!(
                echo == data,
                "connection {seed}: {} of {} bytes",
                echo.len(),
                data.len()
            );
        });
    }
    within(30, async {
        while let Some(result) = tasks.join_next().await {
            result.unwrap();
        }
    })
    .await;
    within(10, lease.agreed_usage()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_destination_stops_the_program_within_bounded_memory() {
    let (server, address) = listener().await;
    let lease = lease(Tier::Web, &[tcp(address)]).await;
    let mut stream = within(5, lease.client.tcp_connect(address)).await.unwrap();
    let (mut outside, _) = within(5, server.accept()).await.unwrap();
    let chunk = pattern(8, 64 << 10);
    let mut written = 0;
    while let Ok(sent) = timeout(Duration::from_millis(500), stream.write(&chunk)).await {
        written += sent.unwrap();
        assert!(written < 24 * MEGABYTE, "nothing stopped the program");
    }
    stream.shutdown().await.unwrap();
    let mut received = Vec::new();
    within(20, outside.read_to_end(&mut received))
        .await
        .unwrap();
    assert_eq!(received.len(), written);
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_over_ipv6_passes_too() {
    let server = TcpListener::bind("[::1]:0").await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let lease = lease(Tier::Web, &[tcp(address)]).await;
    let mut stream = within(5, lease.client.tcp_connect(address)).await.unwrap();
    let data = pattern(9, 200_000);
    stream.write_all(&data).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echo = Vec::new();
    within(10, stream.read_to_end(&mut echo)).await.unwrap();
    assert!(echo == data);
    drop(stream);
    within(10, lease.agreed_usage()).await;
}
