//! iperf3 through the tunnel, and what it says.

use std::time::Duration;

use serde_json::Value;

use super::Failure;
use super::network::{Network, WEB};
use super::process::Process;

/// Payload of the UDP test's datagrams, bytes.
const DATAGRAM: f64 = 1200.0;

/// How long iperf3 may take beyond its time: it waits for its far end.
const PATIENCE: Duration = Duration::from_secs(12);

/// Which way the data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the requester to the web.
    Up,
    /// From the web to the requester.
    Down,
}

impl Direction {
    pub(super) const BOTH: [Self; 2] = [Self::Up, Self::Down];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// What arrived.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Moved {
    /// Mbit/s.
    pub(super) rate: f64,
    /// Bytes.
    pub(super) bytes: f64,
    /// Part of the datagrams that was lost; 0 for TCP.
    pub(super) loss: f64,
}

/// Starts TCP connections that move data for this time.
pub(super) fn start_tcp(
    network: &Network,
    flows: u32,
    direction: Direction,
    time: Duration,
) -> Result<Process, Failure> {
    let [flows, time] = [flows.to_string(), time.as_secs().to_string()];
    let mut words = vec![
        "iperf3",
        "--json",
        "--client",
        WEB,
        "--time",
        &time,
        "--parallel",
        &flows,
    ];
    if direction == Direction::Down {
        words.push("--reverse");
    }
    network.at_requester("tcp", &words)
}

/// Waits for what [`start_tcp`] started.
pub(super) fn finish_tcp(process: Process, time: Duration) -> Result<Moved, Failure> {
    let (_, text) = process.finish(time + PATIENCE)?;
    parse_tcp(&text)
}

/// Sends datagrams at a rate in Mbit/s.
pub(super) fn udp(
    network: &Network,
    rate: f64,
    direction: Direction,
    time: Duration,
) -> Result<Moved, Failure> {
    let [rate, seconds] = [format!("{rate:.0}M"), time.as_secs().to_string()];
    let length = DATAGRAM.to_string();
    let mut words = vec![
        "iperf3", "--json", "--udp", "--client", WEB, "--time", &seconds,
    ];
    words.extend(["--length", &length, "--bitrate", &rate, "--window", "2M"]);
    if direction == Direction::Down {
        words.push("--reverse");
    }
    let process = network.at_requester("udp", &words)?;
    let (_, text) = process.finish(time + PATIENCE)?;
    parse_udp(&text)
}

fn parse(text: &str) -> Result<Value, Failure> {
    let report: Value = serde_json::from_str(text)
        .map_err(|e| Failure::Said(format!("iperf3 printed no report: {e}")))?;
    match report["error"].as_str() {
        Some(error) => Err(Failure::Said(format!("iperf3: {error}"))),
        None => Ok(report),
    }
}

fn number(value: &Value, name: &str) -> Result<f64, Failure> {
    value[name]
        .as_f64()
        .ok_or_else(|| Failure::Said(format!("iperf3's report has no {name}")))
}

fn parse_tcp(text: &str) -> Result<Moved, Failure> {
    let report = parse(text)?;
    let received = &report["end"]["sum_received"];
    Ok(Moved {
        rate: number(received, "bits_per_second")? / 1e6,
        bytes: number(received, "bytes")?,
        loss: 0.0,
    })
}

fn parse_udp(text: &str) -> Result<Moved, Failure> {
    let report = parse(text)?;
    let sum = &report["end"]["sum"];
    let (sent, lost) = (number(sum, "packets")?, number(sum, "lost_packets")?);
    let seconds = number(sum, "seconds")?;
    if sent <= 0.0 || seconds <= 0.0 {
        return Err(Failure::Said("iperf3 saw no datagram".to_owned()));
    }
    let bytes = (sent - lost) * DATAGRAM;
    Ok(Moved {
        rate: bytes * 8.0 / seconds / 1e6,
        bytes,
        loss: lost / sent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read() {
        let tcp = r#"{"end": {"sum_received": {"bits_per_second": 8000000.0, "bytes": 3000000}}}"#;
        let moved = parse_tcp(tcp).unwrap();
        assert_eq!((moved.rate, moved.bytes), (8.0, 3e6));
        let udp = r#"{"end": {"sum": {"packets": 1000, "lost_packets": 5, "seconds": 2.0}}}"#;
        let moved = parse_udp(udp).unwrap();
        assert_eq!(moved.loss, 0.005);
        assert!((moved.rate - 4.776).abs() < 1e-9, "{moved:?}");
    }

    #[test]
    fn complaints_are_passed_on() {
        let refused = parse_tcp(r#"{"error": "the server is busy"}"#).unwrap_err();
        assert_eq!(refused.to_string(), "iperf3: the server is busy");
        assert!(parse_tcp("").is_err());
        assert!(parse_udp(r#"{"end": {}}"#).is_err());
    }
}
