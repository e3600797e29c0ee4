//! The changes of a deal, as the broker tells them: server-sent events (HTML, section 9.2).

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use ipsx_market::http::DealEvent;
use ipsx_metering::DealId;
use tokio::time::timeout;

use super::http::Ask;
use super::{BrokerError, Session};

/// A broker that says nothing for so long is gone: it sends a comment every 15 s.
const SILENCE: Duration = Duration::from_secs(40);
/// The longest line that is read, in bytes.
const MAX_LINE: usize = 64 << 10;

/// Reads the changes of one deal, from its first on, each once: when the stream was lost, the next one goes on behind what
/// was read.
pub struct Changes<'a> {
    session: &'a Session,
    path: String,
    last: Option<u64>,
    stream: Option<Stream>,
}

struct Stream {
    body: Incoming,
    lines: Lines,
}

impl Session {
    /// Follows a deal. The stream is opened when the first change is waited for.
    pub fn follow(&self, deal: DealId) -> Changes<'_> {
        Changes {
            session: self,
            path: format!("/v1/deals/{deal}/events"),
            last: None,
            stream: None,
        }
    }
}

impl Changes<'_> {
    /// Waits for a change that is `wanted`, and skips the others. False when the broker does not tell any more: it is away,
    /// has too many readers, or nothing follows. Then the deal has to be asked after, and followed again after a pause.
    pub async fn until(&mut self, wanted: impl Fn(&DealEvent) -> bool) -> bool {
        loop {
            match self.next().await {
                Ok(Some(event)) if wanted(&event) => return true,
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(error) => {
                    tracing::debug!(%error, "the broker does not tell how the deal stands");
                    return false;
                }
            }
        }
    }

    /// The next change; `None` when the stream is over.
    async fn next(&mut self) -> Result<Option<DealEvent>, BrokerError> {
        if self.stream.is_none() {
            let ask = Ask {
                last_event: self.last,
                ..Ask::get(&self.path)
            };
            let body = self.session.open(ask).await?;
            self.stream = body.map(|body| Stream {
                body,
                lines: Lines::default(),
            });
        }
        while let Some(stream) = &mut self.stream {
            while let Some(event) = stream.lines.next() {
                self.last = event.id.or(self.last);
                if event.name == "deal" {
                    let read = serde_json::from_str(&event.data);
                    return read.map(Some).map_err(|error| BrokerError::Malformed {
                        what: self.path.clone(),
                        reason: error.to_string(),
                    });
                }
            }
            let came = timeout(SILENCE, stream.body.frame()).await;
            let came = came.ok().flatten().and_then(Result::ok);
            let came = came.and_then(|frame| frame.into_data().ok());
            if !came.is_some_and(|bytes| stream.lines.push(&bytes)) {
                self.stream = None;
            }
        }
        Ok(None)
    }
}

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    name: String,
    id: Option<u64>,
    data: String,
}

/// Bytes of a stream, taken apart into events.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    event: Event,
}

impl Lines {
    /// Takes what came; false if no event can be as long.
    fn push(&mut self, bytes: &[u8]) -> bool {
        self.bytes.extend_from_slice(bytes);
        self.bytes.len() <= MAX_LINE
    }

    /// The next event that is complete.
    fn next(&mut self) -> Option<Event> {
        while let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                if !event.data.is_empty() {
                    return Some(event);
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => self.event.name = value.into(),
                "id" => self.event.id = value.parse().ok(),
                "data" => self.event.data.push_str(value),
                // Comments have no field; what else there is, is for others.
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn event(name: &str, id: Option<u64>, data: &str) -> Event {
        Event {
            name: name.into(),
            id,
            data: data.into(),
        }
    }

    #[test]
    fn events_are_read_however_they_are_cut() {
        let text = "retry: 1000\nid: 4\nevent: open\ndata: {\"after\":4}\n\n: nothing new\n\n\
            id: 5\r\nevent: deal\r\ndata: {\"é\":1}\r\n\r\nevent: end\ndata: {}\n\nid: 6\nevent: deal\n";
        let expected = [
            event("open", Some(4), "{\"after\":4}"),
            event("deal", Some(5), "{\"é\":1}"),
            event("end", None, "{}"),
        ];
        for step in 1..text.len() {
            let mut lines = Lines::default();
            let mut read = Vec::new();
            for bytes in text.as_bytes().chunks(step) {
                assert!(lines.push(bytes));
                read.extend(std::iter::from_fn(|| lines.next()));
            }
            assert_eq!(read, expected, "in pieces of {step}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_kept() {
        let mut lines = Lines::default();
        assert!(lines.push(&[b'x'; MAX_LINE]));
        assert_eq!(lines.next(), None);
        assert!(!lines.push(b"x"));
    }
}
